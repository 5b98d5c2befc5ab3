"""One schedule: the world and the program of a seed, run to the end and checked. The same seed is the same schedule."""

import gc
import random
import weakref
from collections import Counter
from functools import cache
from typing import Optional

from chat_actors.connection.session import Session
from chat_actors.settings import Settings
from tests.tools.simulation import check
from tests.tools.simulation.check import Broken
from tests.tools.simulation.loop import ShuffledLoop, Stuck
from tests.tools.simulation.prepared import LOG, SECRETS, prepared
from tests.tools.simulation.program import FEW, MANY, Program
from tests.tools.simulation.world import Observed, World

PACE = 10  # frames a second
BATCH = 500  # schedules that a process runs at a time


class Failure(Exception):
    """Error for a schedule that broke a rule; the seed repeats it."""

    def __init__(self, seed: int, why: str, actions: list[str]) -> None:
        super().__init__(seed, why, actions)
        self.seed = seed
        self.why = why
        self.actions = actions

    def __str__(self) -> str:
        return "\n  ".join([f"seed {self.seed}: {self.why}", "what was done until then:", *self.actions])


@cache
def _chosen(**values: float) -> Settings:
    """Settings that a schedule has drawn; a few combinations serve all schedules."""
    return Settings.model_validate({"rate_burst": 2, "idle_timeout": 0, **values})


def simulate(
    seed: int,
    supervisor: type[Observed] = Observed,
    session: type[Session] = Session,
    trace: Optional[list[str]] = None,
) -> "Counter[str]":
    """Run the schedule of a seed, inside ``prepared()``; returns what it was made of. Raises Failure.

    ``trace`` is given a line for each callback that ran, for each thing that was done, and for each client at the
    end with what it was sent.
    """
    rng = random.Random(seed)
    loop = ShuffledLoop(rng)  # type: ignore[abstract]  # what is missing is I/O
    loop.trace = trace
    actions: list[str] = []
    counts: Counter[str] = Counter(schedules=1)
    worlds: list[weakref.ref[World]] = []
    LOG.clear()
    SECRETS.clear()

    async def main() -> None:
        settings = _chosen(
            history_messages=rng.choice((MANY, MANY, FEW)),
            topics=rng.choice((MANY, MANY, MANY, 1)),
            topic_members=rng.choice((0, 0, 0, 2)),
            rate_limit=PACE if rng.random() < 0.25 else 0,
        )
        world = World(loop, settings, supervisor, session)
        worlds.append(weakref.ref(world))
        await Program(world, rng, actions, counts).run()
        check.count(world, counts)
        if trace is not None:
            trace.extend(f"client {client.number}: {check.items(client)}" for client in world.clients)

    try:
        loop.run(main())
        gc.collect()  # what was never retrieved is told when it is freed
        check.unseen(loop)
        if worlds[0]() is not None:
            raise Broken("something still refers to what was shut down")
    except Exception as why:
        loop.abandon()
        raise Failure(seed, str(why) if isinstance(why, (Broken, Stuck)) else repr(why), actions) from why
    return counts


def run_batch(last: int, first: int) -> "Counter[str]":
    """Run the schedules of some seeds, ``last`` being that of them all. Raises Failure."""
    counts: Counter[str] = Counter()
    with prepared():
        for seed in range(first, min(first + BATCH, last + 1)):
            counts.update(simulate(seed))
    return counts
