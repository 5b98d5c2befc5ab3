"""The stage of every fault: a server of its own, a witness pair in another topic, and what the process has."""

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

from tests.support.server import PATIENCE, TROUBLE, Server
from tests.tools.faults.talk import Group, Ledger

STEADY = 0.05  # the share that memory may grow where the same is done again
WITNESS_EVERY = 0.1  # seconds
GRACE = 10.0  # seconds that a shutdown may take (the default of CHAT_SHUTDOWN_TIMEOUT)
MIB = 1 << 20
NOTHING = re.compile(r"(?!)")  # matches nowhere: the scene looks itself, and shows less


class Alive(NamedTuple):
    """Tasks and descriptors of the server's process, which must not grow."""

    tasks: int
    sessions: int
    outboxes: int
    topics: int
    descriptors: int


class Memory(NamedTuple):
    """Memory of the server's process, in MiB."""

    resident: float
    peak: float  # since ``reset_peak``


def memory(pid: int) -> Memory:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Memory(*(int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")))


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class Scene:
    """Server of one fault: after the ``async with`` block it must be as it was before.

    At the end the witnesses have lost nothing, all tasks and descriptors of the block are gone, and the server has
    ended without a warning in its log (``trouble``: what must not stand there); or ``wrong`` says what is not so.
    """

    def __init__(
        self,
        trouble: "re.Pattern[str]" = TROUBLE,
        most_mib: Optional[float] = None,
        patience: float = PATIENCE,
        **settings: str,
    ) -> None:
        self._trouble = trouble
        self._most_mib = most_mib  # that the process may need more than before, at its peak
        self._patience = patience  # seconds for the process to have what it had before
        self._settings = settings
        self.witnessed = Ledger()
        self.wrong: list[str] = []  # what did not hold
        self.server: Server
        self.before: Alive
        self.after: Alive
        self.memory_before: Memory
        self.memory_after = Memory(float("nan"), float("nan"))

    async def __aenter__(self) -> "Scene":
        environment = {"CHAT_PORT": "0", "CHAT_RATE_LIMIT": "20", **self._settings}
        self.server = await asyncio.to_thread(lambda: Server("tests.tools.faults.served", **environment))
        try:
            self.witness = Group(self.port, "witness", 2, WITNESS_EVERY, self.witnessed)
            await self.witness.ready()
            await asyncio.wait_for(self.witness.talkers[0].wait_for_id(2), PATIENCE)
            self.before = await self.settled()
            self.memory_before = memory(self.server.pid)
            reset_peak(self.server.pid)
        except BaseException:
            self.server.kill()
            raise
        self.began = time.monotonic()
        return self

    @property
    def port(self) -> int:
        return self.server.port

    async def alive(self) -> Alive:
        """Ask the process itself."""
        told = len(self.server.lines(" alive "))
        os.kill(self.server.pid, signal.SIGUSR1)
        line = (await self.server.logged(" alive ", count=told + 1))[told]
        counts = dict(re.findall(r"(\w+)=(\d+)", line))
        descriptors = len(os.listdir(f"/proc/{self.server.pid}/fd"))
        return Alive(**{name: int(counts[name]) for name in Alive._fields[:-1]}, descriptors=descriptors)

    async def settled(self) -> Alive:
        """Ask until two answers are the same: a process that has just started opens some things for a moment."""
        before = await self.alive()
        while (now := await self.alive()) != before:
            before = now
        return now

    def end(self) -> None:
        """SIGTERM, and wait for the end of the process."""
        self.server.terminate(within=GRACE + 1, trouble=NOTHING)

    async def calm(self) -> Alive:
        """Wait until the process has what it had before, or for a while."""
        deadline = time.monotonic() + self._patience
        while (now := await self.alive()) != self.before and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return now

    async def __aexit__(self, kind: Optional[type], *_: object) -> None:
        try:
            self.took = time.monotonic() - self.began
            if kind is None and self.server.running:
                self.after = await self.calm()
                self.memory_after = memory(self.server.pid)
                await self.witness.settle()
                await self.witness.close()
                await asyncio.to_thread(lambda: self.server.terminate(trouble=NOTHING))
                self.wrong += self._what_is_wrong()
            else:  # ended in the block, or failed
                await self.witness.close()
                if kind is None:
                    self.wrong += self._what_is_wrong_at_the_end()
        finally:
            await asyncio.to_thread(self.server.kill)

    @property
    def complaints(self) -> "list[str]":
        """The lines of the log that should not be there."""
        return [line for line in self.server.lines() if self._trouble.search(line)]

    def _what_is_wrong(self) -> Iterator[str]:
        witnessed, complaints = self.witnessed, self.complaints
        if witnessed.harm:
            seen = witnessed.lost, witnessed.doubled, witnessed.reordered
            yield f"the witnesses: lost, doubled, out of order: {seen}"
        if self.after != self.before:
            yield f"not as before: {self.before}, then {self.after}"
        if self._most_mib is not None and self.grown > self._most_mib:
            yield f"{self.grown:.1f} MiB more than before, not {self._most_mib:.0f}"
        if complaints:
            yield f"{len(complaints)} complaints in the log, first: {complaints[0]}"

    def _what_is_wrong_at_the_end(self) -> Iterator[str]:
        first, second = self.witness.talkers
        if self.witnessed.harm or first.last_id != second.last_id:
            yield f"the witnesses: {self.witnessed.harm} harmed, last ids {first.last_id} and {second.last_id}"
        if self.complaints:
            yield f"{len(self.complaints)} complaints in the log, first: {self.complaints[0]}"

    @property
    def grown(self) -> float:
        """MiB that the process needed more than before, at its peak."""
        return self.memory_after.peak - self.memory_before.resident

    async def wait_for_leaves(self, count: int) -> None:
        """Until so many members have left. Looks now and then: the log may be long by then."""
        deadline = time.monotonic() + 2 * PATIENCE
        while len(self.server.lines(" left ")) < count:
            assert time.monotonic() < deadline, f"{len(self.server.lines(' left '))} of {count} left"
            await asyncio.sleep(0.05)

    def leaves(self) -> "Counter[str]":
        """How often each name has left, by the log."""
        found = (re.search(r"username='([^']*)'", line) for line in self.server.lines(" left "))
        return Counter(match[1] for match in found if match)

    def see_one_leave_each(self, names: "list[str]") -> None:
        """Note whoever has not left exactly once."""
        leaves = self.leaves()
        wrong = {name: leaves[name] for name in names if leaves[name] != 1}
        if wrong:
            self.wrong.append(f"{len(wrong)} did not leave exactly once: {dict(list(wrong.items())[:5])}")


class Outcome(NamedTuple):
    """Row of the table."""

    fault: str
    times: int
    heard: int  # messages by the witnesses
    lost: int  # or doubled, or out of order
    millis: "tuple[float, float]"  # the witnesses' p99 and worst latency
    mib: "tuple[float, float, float]"  # resident before, at the peak, and after
    figures: str
    wrong: "list[str]"

    @classmethod
    def of(cls, scene: Scene, fault: str, times: int, figures: str) -> "Outcome":
        witnessed = scene.witnessed
        before, after = scene.memory_before, scene.memory_after
        return cls(
            fault,
            times,
            witnessed.received,
            witnessed.harm,
            (witnessed.millis(0.99), witnessed.millis(1)),
            (before.resident, after.peak, after.resident),
            figures,
            scene.wrong,
        )


def merged(outcomes: "list[Outcome]") -> Outcome:
    """One row for several scenes of the same fault: sums, and the worst of each."""
    return outcomes[-1]._replace(
        heard=sum(one.heard for one in outcomes),
        lost=sum(one.lost for one in outcomes),
        millis=(max(one.millis[0] for one in outcomes), max(one.millis[1] for one in outcomes)),
        mib=max(one.mib for one in outcomes),
        wrong=[sentence for one in outcomes for sentence in one.wrong],
    )
