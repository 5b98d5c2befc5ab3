"""Nodes of a cluster that are killed, frozen and restarted under clients that chat; and what must hold all the same.

A client's time on one connection is a stint. Those count whose node was neither killed nor frozen meanwhile: for them
every message that was acknowledged arrives exactly once, in one order, at every member who was there throughout.
"""

import asyncio
import json
import random
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from os import kill
from typing import Callable, NamedTuple, Optional

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.support.server import APP, PATIENCE, Frame, Server, free_ports

LEASE_SECONDS = 3.0  # after which a node that says nothing is dead to the others
TROUBLE = re.compile(r"Traceback|\b(ERROR|CRITICAL)\b")  # that views were merged is a warning, and is meant
FAULTS = {"kill": 4, "freeze": 3, "hiccup": 2, "restart": 2}  # how often, relative to each other


class Report(NamedTuple):
    """What was done and what came of it; ``wrong`` is empty where all held."""

    faults: "Counter[str]"
    acked: int
    heard: int
    stints: int
    slowest: float  # seconds after a kill until a survivor's message was acknowledged again, at most
    wrong: list[str]


class Stint:
    """One connection of a client to a node, from its ``joined`` to its end."""

    def __init__(self, place: "Place", topic: str, connection: ClientConnection, joined: Frame) -> None:
        self.place = place
        self.topic = topic
        self.name = str(joined["username"])
        self.began = time.monotonic()
        self.ended: Optional[float] = None
        self.tainted = False
        self.heard: list[str] = []  # texts, one's own where they were acknowledged
        self.sent: dict[str, float] = {}  # when, by text
        self.acked: dict[str, float] = {}
        self._connection = connection
        self._waiting: list[str] = []  # for their acks
        self._ids: list[int] = []
        self.trouble = ""

    async def say(self, text: str) -> None:
        self.sent[text] = time.monotonic()
        self._waiting.append(text)
        await self._connection.send(json.dumps({"message": text}))

    async def listen(self) -> None:
        """Until the connection ends."""
        with suppress(ConnectionClosed):
            async for data in self._connection:
                frame = json.loads(data)
                if frame["type"] == "message":
                    self._note(frame["id"], frame["message"])
                elif frame["type"] == "ack":
                    text = self._waiting.pop(0)
                    self.acked[text] = time.monotonic()
                    self._note(frame["id"], text)
                elif frame["type"] == "renamed" and frame["username"] == self.name:
                    self.name = frame["renamed"]
        self.ended = time.monotonic()

    def _note(self, number: int, text: str) -> None:
        if self._ids and number <= self._ids[-1] and not self.trouble:
            self.trouble = f"{number} came behind {self._ids[-1]}"
        self._ids.append(number)
        self.heard.append(text)

    async def close(self) -> None:
        await self._connection.close()


class Place:
    """One node's place in the cluster: a server, and the next one after its end."""

    def __init__(self, endpoints: str) -> None:
        self._environment = {"CHAT_CLUSTER": endpoints}
        self.server: Server
        self.up = False
        self.stints: list[Stint] = []

    async def start(self) -> None:
        self.server = await asyncio.to_thread(Server, *APP, **self._environment)
        self.up = True

    def taint(self) -> None:
        for stint in self.stints:
            stint.tainted = True


class Chaos:
    """``nodes`` nodes, ``clients`` clients in ``topics`` topics."""

    def __init__(self, seed: int, nodes: int, clients: int, topics: int, progress: Callable[[str], None]) -> None:
        self._rng = random.Random(seed)
        endpoints = ",".join(f"tcp/127.0.0.1:{port}" for port in free_ports(nodes))
        self.places = [Place(endpoints) for _ in range(nodes)]
        self._clients = clients
        self._topics = [f"topic {number}" for number in range(topics)]
        self._progress = progress
        self.stints: list[Stint] = []
        self._going_on = True
        self._talking = True
        self.faults: Counter[str] = Counter()
        self.slowest = 0.0
        self.wrong: list[str] = []

    async def run(self, faults: int) -> Report:
        """Break something so many times, and judge."""
        try:
            await asyncio.gather(*(place.start() for place in self.places))
            for place in self.places:
                await place.server.logged("node found", count=len(self.places) - 1)
            clients = [asyncio.ensure_future(self._live(number)) for number in range(self._clients)]
            while len([stint for stint in self.stints if stint.ended is None]) < self._clients:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            for number in range(faults):
                await self._break(number)
            self._talking = False
            await self._quiet()
            await self._judge()
            self._going_on = False
            for stint in self._alive():
                await stint.close()
            await asyncio.wait_for(asyncio.gather(*clients), PATIENCE)
            await self._judge_the_end()
        finally:
            for place in self.places:
                if hasattr(place, "server"):
                    place.server.kill()
        return Report(
            self.faults,
            sum(len(stint.acked) for stint in self.stints),
            sum(len(stint.heard) for stint in self.stints),
            len(self.stints),
            self.slowest,
            self.wrong,
        )

    # The clients.

    async def _live(self, number: int) -> None:
        rng = random.Random(self._rng.random())
        topic = self._topics[number % len(self._topics)]
        said = 0
        while self._going_on:
            place = rng.choice([place for place in self.places if place.up] or self.places)
            stint = await self._enter(place, topic, f"client {number % 7}")  # so that names are taken
            if stint is None:
                await asyncio.sleep(rng.uniform(0.02, 0.2))
                continue
            listening = asyncio.ensure_future(stint.listen())
            with suppress(ConnectionClosed):
                while not listening.done():
                    await asyncio.wait({listening}, timeout=rng.uniform(0.1, 0.8))
                    if self._talking and not listening.done():
                        said += 1
                        await stint.say(f"{number}.{said}")
            await listening
            place.stints.remove(stint)

    async def _enter(self, place: Place, topic: str, name: str) -> Optional[Stint]:
        try:
            connection = await connect(place.server.url, compression=None, open_timeout=2, ping_interval=None)
        except (OSError, asyncio.TimeoutError, InvalidHandshake):
            return None
        try:
            await connection.send(json.dumps({"username": name, "topic": topic, "events": True}))
            joined = json.loads(await asyncio.wait_for(connection.recv(), 10))
        except (ConnectionClosed, asyncio.TimeoutError):
            await connection.close()
            return None
        assert joined["type"] == "joined", joined
        stint = Stint(place, topic, connection, joined)
        place.stints.append(stint)
        self.stints.append(stint)
        return stint

    def _alive(self) -> list[Stint]:
        return [stint for stint in self.stints if stint.ended is None]

    # The faults.

    async def _break(self, number: int) -> None:
        kind = self._rng.choices(list(FAULTS), list(FAULTS.values()))[0]
        place = self._rng.choice(self.places)
        self.faults[kind] += 1
        self._progress(f"{number + 1}: {kind}")
        if kind == "hiccup":
            kill(place.server.pid, signal.SIGSTOP)
            await asyncio.sleep(self._rng.uniform(0.1, LEASE_SECONDS / 3))
            kill(place.server.pid, signal.SIGCONT)
        elif kind == "freeze":
            place.up = False
            place.taint()
            others = [one.server for one in self.places if one is not place]
            lost = [len(other.lines("node lost")) for other in others]
            kill(place.server.pid, signal.SIGSTOP)
            for other, count in zip(others, lost):
                await other.logged("node lost", count=count + 1)
            await asyncio.sleep(self._rng.uniform(0.1, 0.5))
            kill(place.server.pid, signal.SIGCONT)
            place.up = True
        else:
            place.up = False
            place.taint()
            at = time.monotonic()
            if kind == "kill":
                place.server.kill()
                await self._see_survivors(place, at)
            else:
                await asyncio.to_thread(place.server.terminate, trouble=TROUBLE)
            await place.start()
        await self._see_all()
        await asyncio.sleep(self._rng.uniform(0.2, 1.0))

    async def _see_all(self) -> None:
        """Wait until each node has seen all others for a while."""
        deadline, calm = time.monotonic() + PATIENCE, 0
        while calm < 10:
            seen = [
                len(one.server.lines("node found node=")) - len(one.server.lines("node lost node="))
                for one in self.places
            ]
            calm = calm + 1 if seen == [len(self.places) - 1] * len(self.places) else 0
            assert time.monotonic() < deadline, f"the nodes see {seen} others"
            await asyncio.sleep(0.05)

    async def _see_survivors(self, place: Place, at: float) -> None:
        """Wait until each topic's survivors have had something acknowledged that was sent after the fault."""
        topics = {stint.topic for stint in self._alive() if not stint.tainted and stint.place is not place}
        missing = set(topics)
        while missing and time.monotonic() < at + PATIENCE:
            for stint in self._alive():
                if stint.topic in missing and stint.acked:
                    text, acked = next(reversed(stint.acked.items()))
                    if stint.sent[text] > at:
                        missing.discard(stint.topic)
                        self.slowest = max(self.slowest, acked - stint.sent[text])
            await asyncio.sleep(0.02)

    async def _quiet(self) -> None:
        """Wait until all that was said is acknowledged and nothing comes any more."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            alive = self._alive()
            if len(alive) == self._clients and not any(stint._waiting for stint in alive):
                break
            await asyncio.sleep(0.1)
        heard = -1
        while heard != (heard := sum(len(stint.heard) for stint in self.stints)):
            await asyncio.sleep(1)

    # What must hold.

    async def _judge(self) -> None:
        alive = self._alive()
        if len(alive) != self._clients:
            self.wrong.append(f"{len(alive)} clients are in, not {self._clients}")
        for stint in alive:
            if stint._waiting and not stint.tainted:
                self.wrong.append(f"{len(stint._waiting)} messages of {stint.topic} were never acknowledged")
        for topic in self._topics:
            self._judge_topic([stint for stint in self.stints if stint.topic == topic])
        names = Counter((stint.topic, stint.name) for stint in alive)
        self.wrong += [f"{count} are called {name} in {topic}" for (topic, name), count in names.items() if count > 1]
        expected = Counter(stint.topic for stint in alive)
        for place in self.places:
            listed = {one["topic"]: one["users"] for one in (await _list(place.server))["topics"]}
            if listed != expected:
                self.wrong.append(f"/list says {sorted(listed.items())}, and there are {sorted(expected.items())}")

    def _judge_topic(self, stints: list[Stint]) -> None:
        sound = [stint for stint in stints if not stint.tainted]
        for stint in sound:
            twice = [text for text, count in Counter(stint.heard).items() if count > 1]
            if twice:
                own = len([text for text in twice if text in stint.sent])
                self.wrong.append(
                    f"{stint.topic}: {stint.name} heard {len(twice)} twice, such as {twice[0]}; {own} own"
                )
            if stint.trouble:
                self.wrong.append(f"{stint.topic}: {stint.name} heard them out of order: {stint.trouble}")
        for receiver in sound:
            if receiver.ended is not None:
                continue
            heard = set(receiver.heard)
            lost = [
                text
                for sender in sound
                for text in sender.acked
                if sender.sent[text] > receiver.began and text not in heard
            ]
            if lost:
                self.wrong.append(f"{receiver.topic}: {receiver.name} missed {len(lost)}, such as {lost[0]}")
        for one, other in zip(sound, sound[1:]):
            common = set(one.heard) & set(other.heard)
            if [text for text in one.heard if text in common] != [text for text in other.heard if text in common]:
                self.wrong.append(f"{one.topic}: {one.name} and {other.name} heard them in different orders")

    async def _judge_the_end(self) -> None:
        deadline = time.monotonic() + PATIENCE
        for place in self.places:
            while (answer := await _list(place.server))["topics"]:
                if time.monotonic() > deadline:
                    self.wrong.append(f"/list says {answer['topics']}, and nobody is there")
                    break
                await asyncio.sleep(0.1)
        for place in self.places:
            lines = [line for line in place.server.lines() if "Traceback" in line or " ERROR " in line]
            self.wrong += lines[:3]
            await asyncio.to_thread(place.server.terminate, trouble=TROUBLE)


async def _list(server: Server) -> Frame:
    async with connect(server.url, compression=None) as connection:
        await connection.send("/list")
        answer: Frame = json.loads(await connection.recv())
        return answer
