"""Random programs: a seed decides what happens to a world, in which order, and how fast one thing follows another.

``simulate`` runs the one schedule of a seed and checks it; the same seed is the same schedule.
"""

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

import msgspec
from msgspec import UNSET

from chat_actors.actor import MOST_CRASHES
from chat_actors.history import Limits
from chat_actors.outbox import CLOSE_SECONDS
from chat_actors.protocol import payloads
from chat_actors.session import Session
from chat_actors.supervisor import ListTopics
from tests.simulation import check
from tests.simulation.check import Broken, rooms
from tests.simulation.loop import ShuffledLoop, Stuck
from tests.simulation.peer import Peer, decode
from tests.simulation.world import BOOM, Client, Crash, Observed, Rooms, World, small_bounds

TOPICS = ("sports", "movies")
USERNAMES = ("ann", "ann", "Ann", "bob", BOOM)
MOST_CLIENTS = 6  # at a time
MANY, FEW = 10_000, 2  # messages that a topic may keep
REFS = ("r1", "r2")
SECONDS = (0.05, 0.5, 3.0, 29.0, 31.0)
ACTIONS = {  # how often each is chosen, relative to the others
    "connect": 9.0,
    "say": 8.0,
    "hang_up": 5.0,
    "cancel": 4.0,
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
    """Someone who asks for the list and is no client: all of an outbox that the supervisor needs for it."""

    def __init__(self) -> None:
        self.answers: list[Rooms] = []

    def write(self, frames: bytes) -> None:
        self.answers += [rooms(decode(payload)) for payload in payloads(frames)]


class Failure(Exception):
    """A schedule that broke something; the seed repeats it."""

    def __init__(self, seed: int, why: str, actions: list[str]) -> None:
        super().__init__(seed, why, actions)
        self.seed = seed
        self.why = why
        self.actions = actions

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.why}\nafter: {', '.join(self.actions)}"


class Program:
    """One random program and its execution."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.actions: list[str] = []  # what it has done, in words
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._texts = 0  # messages said

    async def run(self) -> None:
        rng, loop = self._rng, self.world.loop
        for name in rng.choices(NAMES, WEIGHTS, k=rng.randrange(3, 30)):
            self.counts[name] += 1
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
        await world.loop.idle()
        self._everybody_hangs_up()
        await world.loop.idle()
        await asyncio.sleep(2 * CLOSE_SECONDS)
        check.end(world)

    # What may happen.

    def _connect(self) -> None:
        rng = self._rng
        if len(self._connected()) < MOST_CLIENTS:
            direct = rng.random() < 0.6
            client = self.world.connect(Peer(self.world.loop, rng, direct), direct)
            self._note(f"connect {client.number}")
            if rng.random() < 0.9:
                self._say_join(client)

    def _say_join(self, client: Client) -> None:
        rng = self._rng
        client.topic = rng.choice(TOPICS)
        client.username = rng.choice(USERNAMES)
        frame: dict[str, Any] = {"username": client.username, "topic": client.topic}
        if rng.random() < 0.5:
            frame.update(self._window(client.topic))
        client.peer.say(_encode(frame))
        self._note(f"{client.number} says {frame}")

    def _window(self, topic: str) -> dict[str, Any]:
        """Keys that a join may have, with what earlier clients of the topic were given."""
        rng = self._rng
        known = [frame for frame in (client.joined() for client in self.world.clients) if frame is not None]
        known = [frame for frame in known if frame["topic"] == topic and "resume" in frame]
        keys: dict[str, Any] = {}
        if rng.random() < 0.5:
            keys["events"] = True
        if rng.random() < 0.6:
            keys["since"] = rng.randrange(5)
            if rng.random() < 0.6:
                keys["epoch"] = known[-1]["epoch"] if known and rng.random() < 0.8 else "another"
        if rng.random() < 0.6:
            keys["resume"] = rng.choice(known)["resume"] if known else "unknown"
        return keys

    def _say(self) -> None:
        client = self._someone("say")
        if client is None:
            return
        if not client.topic:
            self._say_join(client)
        for _ in range(self._rng.randrange(1, 5)):
            self._texts += 1
            frame = {"message": f"m{self._texts}"}
            if self.world.limits.history_messages == MANY and self._rng.random() < 0.4:
                frame["ref"] = self._rng.choice(REFS)
            client.said.append((frame["message"], frame.get("ref", UNSET)))
            client.peer.say(_encode(frame))

    def _list(self) -> None:
        client = self._someone("list")
        if client is not None:
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
        if client is not None:
            client.task.cancel()

    def _crash(self, times: int = 1) -> None:
        lives = [life for life in self.world.supervisor.lives if life.topic.running]
        if lives:
            topic = self._rng.choice(lives).topic
            self._note(f"{times} crashes in {topic.name}")
            for _ in range(times):
                topic.mailbox.put_nowait(Crash())  # type: ignore[arg-type]

    def _crash_for_good(self) -> None:
        self._crash(MOST_CRASHES + 1)

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
        await world.loop.idle()
        if not world.stopped:
            asker = Asker()
            world.supervisor.mailbox.put_nowait(ListTopics(asker))  # type: ignore[arg-type]
            await world.loop.idle()
            (answer,) = asker.answers
            check.quiet(world, answer)

    # Whom it happens to.

    def _connected(self) -> list[Client]:
        return [client for client in self.world.clients if not client.peer.gone and not client.task.done()]

    def _someone(self, what: str) -> Optional[Client]:
        clients = self._connected()
        if not clients:
            return None
        client = self._rng.choice(clients)
        self._note(f"{what} {client.number}")
        return client

    def _everybody_hangs_up(self) -> None:
        self._note("all hang up")
        for client in self.world.clients:
            client.peer.hang_up()

    def _note(self, name: str) -> None:
        self.actions.append(name)
        if self.world.loop.trace is not None:
            self.world.loop.trace.append(name)


def simulate(
    seed: int,
    supervisor: type[Observed] = Observed,
    session: type[Session] = Session,
    trace: Optional[list[str]] = None,
) -> Counter[str]:
    """Run the schedule of one seed, between ``prepared()``, and return what it was made of. Raises Failure."""
    rng = random.Random(seed)
    loop = ShuffledLoop(rng)
    loop.trace = trace
    actions: list[str] = []
    counts: Counter[str] = Counter()

    async def main() -> None:
        world = World(loop, Limits(history_messages=rng.choice((MANY, MANY, FEW))), supervisor, session)
        program = Program(world, rng)
        program.actions, program.counts = actions, counts
        await program.run()
        if trace is not None:
            trace.extend(str(check.items(client)) for client in world.clients)

    try:
        loop.run(main())
        gc.collect()  # what was never retrieved is told when it is freed
        check.unseen(loop)
    except Exception as why:
        loop.abandon()
        raise Failure(seed, str(why) if isinstance(why, (Broken, Stuck)) else repr(why), actions) from why
    counts["steps"] = loop.steps
    return counts


@contextmanager
def prepared() -> Iterator[None]:
    """What ``simulate`` needs around it: small bounds, and a garbage collector that collects when it is told to."""
    with small_bounds():
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            yield
        finally:
            gc.enable()
            gc.unfreeze()
