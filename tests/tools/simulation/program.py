"""Random programs: the actions in a world, their order, and the time between them."""

import asyncio
import gc
import random
from collections import Counter
from typing import Any, Optional

import msgspec
from msgspec import UNSET

from chat_actors.actors.base import MAX_CRASHES
from chat_actors.actors.supervisor import ListTopics
from chat_actors.actors.topic import EXPIRY_GRAIN
from chat_actors.connection.base import CLOSE_SECONDS, SWEEP_SECONDS
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import payloads
from tests.tools.simulation import check
from tests.tools.simulation.check import rooms
from tests.tools.simulation.peer import Peer, decode
from tests.tools.simulation.world import BOOM, Client, Crash, Rooms, World

TOPICS = ("sports", "movies")
USERNAMES = ("ann",) * 4 + ("bob",) * 3 + ("Ann", BOOM)
LENGTH = (2, 22)  # of a program, in actions
MOST_CLIENTS = 6  # at a time
MANY, FEW = 10_000, 2  # messages that a topic may keep
PACE_SECONDS = 10.0  # in which the fastest sender has been read to the end
REFS = ("r1", "r2")
SECONDS = (0.05, 0.5, 3.0, 29.0, 31.0)
ACTIONS = {  # how often each is chosen, relative to the others
    "join": 8.0,
    "come_back": 3.0,
    "connect": 2.0,
    "say": 9.0,
    "hang_up": 3.0,
    "cancel": 6.0,
    "list": 3.0,
    "time_passes": 1.5,
    "look": 1.0,
    "crash": 1.0,
    "late": 0.5,
    "nonsense": 0.5,
    "crash_for_good": 0.4,
    "stop": 0.3,
    "collect": 0.1,
}

_encode = msgspec.json.Encoder().encode
NAMES, WEIGHTS = list(ACTIONS), list(ACTIONS.values())


class Asker:
    """Outbox that requests the list without a connection."""

    def __init__(self) -> None:
        self.answers: list[Rooms] = []

    def write_answer(self, frames: bytes) -> None:
        self.answers += [rooms(decode(payload)) for payload in payloads(frames)]


class Program:
    """Random program and its execution."""

    def __init__(self, world: World, rng: random.Random, actions: list[str], counts: "Counter[str]") -> None:
        self.world = world
        self._actions = actions  # is given what is done, in words
        self._counts = counts
        self._rng = rng
        self._texts = 0  # messages said

    async def run(self) -> None:
        rng, loop = self._rng, self.world.loop
        for name in rng.choices(NAMES, WEIGHTS, k=rng.randrange(*LENGTH)):
            pending = getattr(self, "_" + name)()
            if pending is not None:
                await pending
            pace = rng.random()
            if pace > 0.9:
                await loop.idle()
            elif pace > 0.4:
                await asyncio.sleep(0)
        if rng.random() < 0.6:
            await self._look()
        if rng.random() < 0.5:  # as uvicorn does; other hosts may stop first
            self._everybody_hangs_up()
        await self._end()

    async def _end(self) -> None:
        world = self.world
        self._stop()
        await asyncio.wait({world.supervisor.task})
        for connection in list(world.sweep.connections):
            connection.close(CloseCode.RESTARTING)
        await world.loop.idle()
        self._everybody_hangs_up()
        await world.loop.idle()
        await asyncio.sleep(2 * (CLOSE_SECONDS + SWEEP_SECONDS))
        world.sweeping.cancel()
        await asyncio.wait({world.sweeping})
        check.end(world)

    # What may happen.

    def _connect(self) -> None:
        self._open()

    def _open(self) -> Optional[Client]:
        rng = self._rng
        if len(self._connected()) >= MOST_CLIENTS:
            return None
        direct = rng.random() < 0.6
        client = self.world.connect(Peer(self.world.loop, rng, direct), direct)
        self._note(f"connect {client.number}")
        return client

    def _join(self, client: Optional[Client] = None) -> None:
        client = client or self._open()
        if client is not None:
            rng = self._rng
            keys: dict[str, Any] = {}
            if rng.random() < 0.2:
                keys["resume"] = "unknown"
            if rng.random() < 0.3:
                keys["events"] = True
            if rng.random() < 0.3:
                keys["since"] = rng.randrange(5)
                if rng.random() < 0.2:
                    keys["epoch"] = "another"
            self._say_join(client, rng.choice(USERNAMES), rng.choice(TOPICS), keys)

    def _come_back(self) -> None:
        """Resume a member, who may still be there, on another connection."""
        rng = self._rng
        frames = [client.joined() for client in self.world.clients]
        known = [frame for frame in frames if frame is not None and "resume" in frame]
        client = self._open() if known else None
        if client is not None:
            frame = known[-1] if rng.random() < 0.5 else rng.choice(known)
            keys = {"resume": frame["resume"], "events": rng.random() < 0.3}
            if rng.random() < 0.6:
                keys["since"], keys["epoch"] = rng.randrange(5), frame["epoch"]
            self._say_join(client, rng.choice(USERNAMES), frame["topic"], keys)

    def _say_join(self, client: Client, username: str, topic: str, keys: dict[str, Any]) -> None:
        client.username, client.topic = username, topic
        frame = {"username": username, "topic": topic, **keys}
        client.peer.say(_encode(frame))
        self._note(f"{client.number} says {frame}")

    def _say(self) -> None:
        client = self._someone("say")
        if client is None:
            return
        if not client.topic:
            self._join(client)
        for _ in range(self._rng.randrange(1, 5)):
            self._texts += 1
            frame = {"message": f"m{self._texts}"}
            if self.world.settings.history_messages == MANY and self._rng.random() < 0.4:
                frame["ref"] = self._rng.choice(REFS)
            client.said.append((frame["message"], frame.get("ref", UNSET)))
            client.peer.say(_encode(frame))

    def _list(self) -> None:
        client = self._someone("list")
        if client is not None:
            for _ in range(self._rng.randrange(1, 5)):
                client.peer.say(b"/list")

    def _nonsense(self) -> None:
        client = self._someone("nonsense")
        if client is not None:
            client.peer.say(b"{")

    def _hang_up(self) -> None:
        client = self._someone("hang up")
        if client is not None:
            client.peer.hang_up()

    def _cancel(self) -> None:
        client = self._someone("cancel")
        if client is not None and client.task is not None and client.began:
            client.cancelled = True
            self._cancel_handler(client, self._rng.choice((1, 1, 5)))

    def _cancel_handler(self, client: Client, times: int) -> None:
        """Cancel a handler; some hosts do so again and again until it has ended."""
        if times and client.task is not None and not client.task.done():
            self._counts["handlers cancelled"] += 1
            self._counts.update(f"cancelled at plain.py:{line}" for line in client.lines())
            client.task.cancel()
            self.world.loop.call_soon(self._cancel_handler, client, times - 1)

    def _crash(self, times: int = 1) -> None:
        epochs = [epoch for epoch in self.world.supervisor.epochs if epoch.topic.running]
        if epochs:
            topic = self._rng.choice(epochs).topic
            self._note(f"{times} crashes in {topic.name}")
            for _ in range(times):
                topic.mailbox.put_nowait(Crash())  # type: ignore[arg-type]

    def _crash_for_good(self) -> None:
        self._crash(MAX_CRASHES + 1)

    def _stop(self) -> None:
        self._note("stop")
        self.world.stopped = True
        self.world.supervisor.stop()

    def _late(self) -> None:
        seconds = self._rng.choice(SECONDS)
        self._note(f"late by {seconds}")
        self.world.loop.pass_time(seconds)

    def _collect(self) -> None:
        gc.collect()

    async def _time_passes(self) -> None:
        seconds = self._rng.choice(SECONDS)
        self._note(f"wait {seconds}")
        await asyncio.sleep(seconds)

    async def _look(self) -> None:
        """Compare the views of who is in, once all has happened that can happen."""
        self._note("look")
        world = self.world
        await asyncio.sleep(PACE_SECONDS if world.settings.rate_limit else 2 * EXPIRY_GRAIN)
        await world.loop.idle()
        if not world.stopped:
            asker = Asker()
            world.supervisor.mailbox.put_nowait(ListTopics(asker))  # type: ignore[arg-type]
            await world.loop.idle()
            (answer,) = asker.answers
            check.quiet(world, answer)

    # Whom it happens to.

    def _connected(self) -> list[Client]:
        return [
            client
            for client in self.world.clients
            if not client.peer.gone and (client.task is None or not client.task.done())
        ]

    def _someone(self, what: str) -> Optional[Client]:
        clients = self._connected()
        if not clients:
            return None
        client = clients[-1] if self._rng.random() < 0.5 else self._rng.choice(clients)
        self._note(f"{what} {client.number}")
        return client

    def _everybody_hangs_up(self) -> None:
        self._note("all hang up")
        for client in self.world.clients:
            client.peer.hang_up()

    def _note(self, name: str) -> None:
        self._actions.append(name)
        if self.world.loop.trace is not None:
            self.world.loop.trace.append(name)
