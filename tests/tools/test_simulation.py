"""The simulation: it finds rules that are broken on purpose, and nothing in the package as it is.

Each broken actor below has one rule broken on purpose. It must be found, or the silence about the others means nothing.
"""

import ast
import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, cast

import pytest

import chat_actors.connection.plain
from chat_actors.actors.events import Join
from chat_actors.actors.fanout import FanOut
from chat_actors.actors.outbox import Carrier, Outbox
from chat_actors.actors.supervisor import SupervisorEvent, _Active
from chat_actors.actors.topic import Topic
from chat_actors.connection.session import Session
from chat_actors.protocol.frames import JoinFrame
from chat_actors.room.members import Member
from tests.tools.simulation.loop import ShuffledLoop, Stuck
from tests.tools.simulation.prepared import prepared
from tests.tools.simulation.schedule import Failure, simulate
from tests.tools.simulation.world import Observed

COMMAND = (sys.executable, "-m", "tests.tools.simulation")
ROOT = Path(__file__).parent.parent.parent


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.fixture
def ready() -> Iterator[None]:
    with prepared():
        yield


# The package as it is.


def test_no_schedule_breaks_anything() -> None:
    outcome = command("--schedules", "4000", "--jobs", "1", "--seed", "0")  # the command alone: 100,000
    print(outcome.stdout)
    assert outcome.returncode == 0, outcome.stderr
    assert "Nothing broke" in outcome.stdout


def test_a_handler_is_cancelled_at_every_await_of_the_plain_lane(ready: None) -> None:
    module = ast.walk(ast.parse(Path(chat_actors.connection.plain.__file__).read_text()))
    handlers = [one for one in module if isinstance(one, ast.AsyncFunctionDef) and "_send" not in one.name]
    nodes = [node for handler in handlers for node in ast.walk(handler)]
    awaits = {f"cancelled at plain.py:{node.lineno}" for node in nodes if isinstance(node, ast.Await)}
    counts: Counter[str] = Counter()
    for seed in range(10_000):
        counts.update(simulate(seed))
        if awaits <= set(counts):
            break
    assert awaits - set(counts) == set()


# The retire rule.


class CountsMembersOnly(Observed):
    """Supervisor that ends a topic when the last member it knows of leaves, whatever joins are on their way to it."""

    def _count_out(self, outbox: Outbox) -> None:
        active = self._active_of[outbox]
        super()._count_out(outbox)
        if active.users and len(cast(Topic, active.topic)._members.present) <= 1:
            active.users = 0
            self._retire(active)


class GoesOnForwarding(Observed):
    """Supervisor that forwards a join to a topic that is about to end, and does not place it again."""

    def __init__(self, *arguments: Any) -> None:
        self._leaving: dict[str, _Active] = {}
        super().__init__(*arguments)

    def _retire(self, active: _Active) -> None:
        super()._retire(active)
        self._leaving[active.topic.name] = active

    def _join(self, event: Join) -> None:
        if event.topic in self._leaving:
            self._topics[event.topic] = self._leaving[event.topic]
        super()._join(event)

    def _topic_ended(self, active: _Active) -> None:
        if self._leaving.get(active.topic.name) is active:
            del self._leaving[active.topic.name]
            active.topic.stranded.clear()
        super()._topic_ended(active)


class ForgetsStranded(Observed):
    """Supervisor that loses the joins that came after the end of a topic."""

    def _topic_ended(self, active: _Active) -> None:
        active.topic.stranded.clear()
        super()._topic_ended(active)


# The leave rule.


class LeavesOnceAnswered(Session):
    """Session that posts no leave if its connection ends before the reply to its join."""

    def end(self, reason: str) -> None:
        if self._topic is None:
            self._join = None
        super().end(reason)


class LeavesTwice(Session):
    """Session that goes on after its end, and takes leave again."""

    def end(self, reason: str) -> None:
        super().end(reason)
        self._connection.receiver = self


class ReadsOn(Session):
    """Session that does not wait for the answer to its join."""

    def _ask_to_join(self, frame: JoinFrame) -> None:
        super()._ask_to_join(frame)
        self._connection.release()


# What nobody sees.


class LeavesATask(Observed):
    """Supervisor that starts a task and does not end it."""

    def handle(self, event: SupervisorEvent) -> None:
        super().handle(event)
        self._tasks.add(asyncio.create_task(asyncio.Event().wait()))  # type: ignore[arg-type]


class HidesAnError(Observed):
    """Supervisor with an exception that is never retrieved."""

    def handle(self, event: SupervisorEvent) -> None:
        super().handle(event)
        asyncio.get_running_loop().create_future().set_exception(ValueError("unseen"))


def find(most: int, supervisor: type[Observed] = Observed, session: type[Session] = Session) -> Failure:
    """The first failure of a broken actor, which must show within so many schedules."""
    for seed in range(most):
        try:
            simulate(seed, supervisor, session)
        except Failure as failure:
            return failure
    pytest.fail(f"not found in {most} schedules")


@pytest.mark.parametrize(
    ("broken", "most"),
    [
        (CountsMembersOnly, 200),
        (GoesOnForwarding, 500),
        (ForgetsStranded, 5_000),
        (LeavesOnceAnswered, 1_000),
        (LeavesTwice, 1_000),
        (ReadsOn, 1_000),
        (LeavesATask, 10),
        (HidesAnError, 10),
    ],
)
def test_a_broken_rule_is_found(ready: None, broken: type[Any], most: int) -> None:
    failure = find(most, broken) if issubclass(broken, Observed) else find(most, session=broken)
    print(failure)
    # The break itself must be at work, not an error in it.
    assert "AttributeError" not in failure.why and "TypeError" not in failure.why


@pytest.mark.parametrize("times", [0, 2])
def test_a_lost_or_doubled_frame_is_found(ready: None, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    write = FanOut.write

    async def write_wrong(self: FanOut, members: dict[Outbox, Member], carrier: Optional[Carrier] = None) -> None:
        """The newest member gets nothing, or all twice."""
        everybody = list(members.items())
        await write(self, dict(everybody[:-1]))
        for _ in range(times):
            await write(self, dict(everybody[-1:]))

    monkeypatch.setattr(FanOut, "write", write_wrong)
    assert "frames" in find(100).why


# The same seed is the same schedule.


def test_a_seed_is_the_same_schedule_in_every_process() -> None:
    one, same = (command("--seed", "11", "--trace", PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert one.returncode == 0, one.stderr
    assert len(one.stdout.splitlines()) > 50
    assert one.stdout == same.stdout
    assert one.stdout != command("--seed", "12", "--trace").stdout


def test_a_failure_names_its_seed_and_the_seed_repeats_it(ready: None) -> None:
    first = find(500, GoesOnForwarding)
    with pytest.raises(Failure) as again:
        simulate(first.seed, GoesOnForwarding)
    assert str(again.value) == str(first)
    assert f"seed {first.seed}: " in str(first)


# The loop.


def loop(seed: int) -> ShuffledLoop:
    return ShuffledLoop(random.Random(seed))  # type: ignore[abstract]


def test_what_is_ready_runs_in_any_order() -> None:
    async def main(order: list[int]) -> None:
        for number in range(3):
            asyncio.get_running_loop().call_soon(order.append, number)
        await asyncio.sleep(1)

    orders = set()
    for seed in range(200):
        order: list[int] = []
        loop(seed).run(main(order))
        orders.add(tuple(order))
    assert len(orders) == 6


def test_time_passes_when_nothing_is_ready_and_when_it_is_told_to() -> None:
    shuffled = loop(0)
    seen: list[tuple[str, float]] = []

    async def main() -> None:
        shuffled.call_later(3600.0, lambda: seen.append(("second", shuffled.time())))
        shuffled.call_later(60.0, lambda: seen.append(("first", shuffled.time())))
        shuffled.call_later(1.0, lambda: seen.append(("cancelled", shuffled.time()))).cancel()
        await shuffled.idle()
        assert not seen
        shuffled.pass_time(100.0)
        await asyncio.sleep(5000.0)

    shuffled.run(main())
    assert seen == [("first", 100.0), ("second", 3600.0)]
    assert shuffled.time() == 5100.0


def test_a_schedule_without_an_end_is_stuck() -> None:
    async def waits() -> None:
        await asyncio.get_running_loop().create_future()

    async def circles() -> None:
        while True:
            await asyncio.sleep(0)

    for main, why in ((waits, "nothing more"), (circles, "in circles")):
        stuck = loop(0)
        with pytest.raises(Stuck, match=why):
            stuck.run(main())
        stuck.abandon()
