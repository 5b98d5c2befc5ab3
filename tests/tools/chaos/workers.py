"""Chaos among the workers of one server: they are killed and stopped while clients chat, and connections break besides.

A topic dies with its worker, and begins again with ids from 1: an epoch. Every client must be told so. Within an epoch
nothing is lost but what a gap told, nothing doubled, out of order or renamed. A message comes again in a later epoch
only if it was never acknowledged before.
"""

import asyncio
import json
import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

from websockets.asyncio.client import connect

from chat_actors.client import Chat, Gap, Tuning
from chat_actors.protocol.frames import Ack, Joined, Message, Topics
from tests.support.proxy import Proxy
from tests.support.server import APP, PATIENCE, Server, Workers

KINDS = {"kill one": 6, "kill all but one": 1, "stop": 2}  # how often, relative to each other
STOP_SECONDS = 0.1, 3.0  # within which a connection on its way is refused, and is not
BREAK_SECONDS = 0.0, 1.0  # between two broken connections
PAUSE_SECONDS = 0.0, 0.2  # between two messages of a client
TROUBLE = re.compile(r"Traceback|\b(ERROR|CRITICAL)\b")


class Report(NamedTuple):
    """What was done, and the result. ``wrong`` is empty if all held."""

    faults: "Counter[str]"
    broken: int  # connections
    messages: int  # acknowledged
    heard: int
    epochs: int
    gaps: int
    slowest: float  # seconds from a message's first sending to its ack, at most
    wrong: list[str]


class Epoch:
    """What one client knows of one epoch of its topic."""

    def __init__(self, name: str, entry: int) -> None:
        self.name = name
        self.heard: list[Message] = []
        self.acked: dict[int, str] = {}
        self.lost: set[int] = set()  # that a gap told
        self.entry = entry  # the last id before it came
        self.told: Optional[int] = None  # all ids from this one on are lost, for the next epoch has begun

    def known(self) -> set[int]:
        return {message.id for message in self.heard} | {*self.acked} | self.lost


class _Recorded(Chat):
    """A client that notes the epochs and the acks, which ``Chat`` does not tell."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.epochs: list[Epoch] = []

    def _welcome(self, joined: Joined) -> None:
        super()._welcome(joined)
        if not self.epochs or self.epochs[-1].name != joined.epoch:
            self.epochs.append(Epoch(str(joined.epoch), 0 if self.epochs else self._seen))

    def _take_answer(self, frame: Union[Ack, Topics]) -> None:
        if isinstance(frame, Ack) and self._request is not None and self._request.ref == frame.ref:
            self.epochs[-1].acked[frame.id] = self._request.text
        super()._take_answer(frame)


class Client:
    """Member that talks, and records what it hears."""

    def __init__(self, url: str, name: str, topic: str) -> None:
        self.name = name
        self.chat = _Recorded(url, name, topic, Tuning(backoff=(0.02, 0.3), most_unread=1_000_000))
        self.acks = 0
        self.slowest = 0.0
        self.strange = ""  # what it was told and cannot be

    async def enter(self) -> None:
        await self.chat.__aenter__()
        self._listening = asyncio.ensure_future(self._listen())

    async def leave(self) -> None:
        await self.chat.__aexit__()
        await asyncio.wait({self._listening})

    async def _listen(self) -> None:
        epochs, at = self.chat.epochs, 0
        async for event in self.chat:
            if isinstance(event, Message):
                epochs[at].heard.append(event)
            elif isinstance(event, Gap) and event.last is not None:
                epochs[at].lost.update(range(event.first, event.last + 1))
            elif isinstance(event, Gap):
                epochs[at].told = event.first
                at += 1
                if at == len(epochs):
                    self.strange = f"{self.name} was told of an epoch that has not begun"
                    return

    async def talk(self, rng: random.Random, goes_on: Callable[[], bool]) -> None:
        number = 0
        while goes_on():
            number += 1
            began = time.monotonic()
            await self.chat.send(f"{self.name} says {number}")
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.acks += 1
            await asyncio.sleep(rng.uniform(*PAUSE_SECONDS))


class Chaos:
    """``clients`` clients in ``topics`` topics of a server with so many ``workers``."""

    def __init__(self, seed: int, workers: int, clients: int, topics: int) -> None:
        self.faults: Counter[str] = Counter()
        self._rng = random.Random(seed)  # of the faults alone: who talks does so when the machine lets it
        self._clients_rng = random.Random(seed)
        self._workers = workers
        self._counts = clients, topics
        self._topics: dict[str, list[Client]] = {}
        self._clients: list[Client] = []

    async def run(self, faults: int, every: float, progress: Callable[[int], None] = lambda done: None) -> Report:
        """``faults`` faults, about ``every`` seconds apart. Each is over before the next."""
        server = await asyncio.to_thread(lambda: Workers(*APP, count=self._workers))
        try:
            at_rest, wrong = await self._at_rest(server), list[str]()
            async with Proxy(server.port, self._rng.randrange(1 << 30)) as proxy:
                await self._enter(server, proxy)
                going_on = True
                talks = [asyncio.ensure_future(one.talk(self._clients_rng, lambda: going_on)) for one in self._clients]
                breaking = asyncio.ensure_future(self._break_connections(proxy))
                for done in range(faults):
                    await asyncio.sleep(every * self._rng.uniform(0.5, 1.5))
                    await self._break(server)
                    progress(done + 1)
                breaking.cancel()
                await asyncio.wait({breaking})
                proxy.stop_breaking()
                going_on = False
                await asyncio.wait_for(asyncio.gather(*talks), PATIENCE)
                try:
                    await asyncio.wait_for(self._all_know_all(), PATIENCE)
                except asyncio.TimeoutError:
                    wrong.append("members of one topic are not in one epoch, or have not heard all of it")
                wrong += await self._judge(server)
                await asyncio.gather(*(one.leave() for one in self._clients))
            wrong += await self._judge_the_end(server, at_rest)
            return self._report(sum(proxy.faults.values()), wrong)
        finally:
            await asyncio.to_thread(server.kill)

    async def _enter(self, server: Server, proxy: Proxy) -> None:
        clients, topics = self._counts
        for number in range(clients):
            topic = f"topic {number % topics}"
            url = proxy.url if number // topics % 2 else server.url
            client = Client(url, f"client {number}", topic)
            await client.enter()
            self._clients.append(client)
            self._topics.setdefault(topic, []).append(client)

    # The faults

    async def _break_connections(self, proxy: Proxy) -> None:
        while True:
            await asyncio.sleep(self._clients_rng.uniform(*BREAK_SECONDS))
            proxy.break_one()

    async def _break(self, server: Server) -> None:
        """Do something to the workers, and wait until each client has been answered after it."""
        kind = self._rng.choices(list(KINDS), list(KINDS.values()))[0]
        victims = self._rng.sample(workers_of(server), self._workers - 1 if kind == "kill all but one" else 1)
        self.faults[kind] += 1
        ready = len(server.lines("worker ready"))
        if kind == "stop":
            os.kill(victims[0], signal.SIGSTOP)
            await asyncio.sleep(self._rng.uniform(*STOP_SECONDS))
            os.kill(victims[0], signal.SIGCONT)
        else:
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
        acks = [one.acks for one in self._clients]
        if kind != "stop":
            await server.logged("worker ready", count=ready + len(victims))
        deadline = time.monotonic() + PATIENCE
        for one, before in zip(self._clients, acks):
            while one.acks == before:
                assert time.monotonic() < deadline, f"{one.name} is not answered after {kind!r}"
                await asyncio.sleep(0.01)

    # What must hold

    async def _all_know_all(self) -> None:
        for clients in self._topics.values():
            while len({one.chat.epochs[-1].name for one in clients}) > 1:
                await asyncio.sleep(0.01)
            last = max(max(one.chat.epochs[-1].acked, default=0) for one in clients)
            while min(max(one.chat.epochs[-1].known(), default=0) for one in clients) < last:
                await asyncio.sleep(0.01)

    async def _judge(self, server: Server) -> list[str]:
        wrong = [sentence for clients in self._topics.values() for sentence in disagreements(clients)]
        expected = {topic: len(clients) for topic, clients in self._topics.items()}
        for _ in range(self._workers):
            listed = await _list(server)
            if listed != expected:
                wrong.append(f"/list says {listed}, and there are {expected}")
        return wrong

    async def _judge_the_end(self, server: Server, at_rest: int) -> list[str]:
        deadline, wrong = time.monotonic() + PATIENCE, []
        while listed := await _list(server):
            if time.monotonic() > deadline:
                wrong.append(f"/list says {listed}, and nobody is there")
                break
            await asyncio.sleep(0.1)
        while (left := await self._at_rest(server)) > at_rest:
            if time.monotonic() > deadline:
                wrong.append(f"a worker has {left} descriptors at the end, not {at_rest}")
                break
            await asyncio.sleep(0.1)
        await asyncio.to_thread(server.terminate, trouble=TROUBLE)
        return wrong

    async def _at_rest(self, server: Server) -> int:
        """Return how many descriptors a worker has, at most."""
        return max(len(os.listdir(f"/proc/{worker}/fd")) for worker in workers_of(server))

    def _report(self, broken: int, wrong: list[str]) -> Report:
        epochs = [epoch for one in self._clients for epoch in one.chat.epochs]
        return Report(
            self.faults,
            broken,
            sum(one.acks for one in self._clients),
            sum(len(epoch.heard) for epoch in epochs),
            len({epoch.name for epoch in epochs}),
            sum(bool(epoch.lost) + (epoch.told is not None) for epoch in epochs),
            max(one.slowest for one in self._clients),
            wrong,
        )


def workers_of(server: Server) -> list[int]:
    """Return the processes of the workers that are there."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def disagreements(clients: list[Client]) -> list[str]:
    """What was lost, doubled, out of order or renamed in one topic, in sentences."""
    wrong = [one.strange for one in clients if one.strange]
    truth: dict[str, dict[int, str]] = {}  # by epoch and id
    for one in clients:
        if one.chat.username != one.name:
            wrong.append(f"{one.name} has become {one.chat.username}")
        for epoch in one.chat.epochs:
            said = truth.setdefault(epoch.name, {})
            for number, text in [*((message.id, message.message) for message in epoch.heard), *epoch.acked.items()]:
                if said.setdefault(number, text) != text:
                    wrong.append(f"{number} is {said[number]!r} to others, and {text!r} to {one.name}")
    for said in truth.values():
        twice = [text for text, count in Counter(said.values()).items() if count > 1]
        wrong += [f"{text!r} was accepted twice within an epoch" for text in twice]
    for one in clients:
        wrong += _lost_or_doubled(one, truth)
    return wrong


def _lost_or_doubled(one: Client, truth: dict[str, dict[int, str]]) -> list[str]:
    wrong, acked = [], set[str]()
    for place, epoch in enumerate(one.chat.epochs):
        said = truth[epoch.name]
        ids = [message.id for message in epoch.heard]
        if ids != sorted({*ids}):
            wrong.append(f"{one.name} heard something twice or out of order")
        for message in epoch.heard:
            if not message.message.startswith(f"{message.username} says "):
                wrong.append(f"{message.message!r} was heard of {message.username}")
        again = acked & {*said.values()}
        if again:
            wrong.append(f"{one.name} was answered, and these came in a later epoch too: {sorted(again)[:5]}")
        acked |= {*epoch.acked.values()}
        is_last = place == len(one.chat.epochs) - 1
        if is_last is not (epoch.told is None):
            wrong.append(f"{one.name} was not told of a new epoch")
        end = max(said, default=0) if epoch.told is None else epoch.told - 1
        missed = {*range(epoch.entry + 1, end + 1)} - epoch.known()
        if missed:
            wrong.append(f"{one.name} missed {sorted(missed)[:5]} of {end}")
    return wrong


async def _list(server: Server) -> dict[str, int]:
    async with connect(server.url, compression=None) as connection:
        await connection.send("/list")
        answer = json.loads(await connection.recv())
        return {one["topic"]: one["users"] for one in answer["topics"]}
