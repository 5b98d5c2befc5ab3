"""The stage of every case: a server on a core of its own, the witness pair, and the server's CPU time and memory."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple, Optional

from tests.tools.benchmark.servers import Process, Server, allow_open_files, cores, on_core, running
from tests.tools.faults.scene import memory, reset_peak
from tests.tools.overload.crowd import Crowd
from tests.tools.overload.witness import Seen, Witness

P99_MS = 50.0  # of the witnesses, at most
CALM_SECONDS = 0.25  # of looking at the server's CPU time
CALM_SHARE = 0.1  # of the time that the server runs while nothing is asked of it, at most
SETTLE_SECONDS = 120.0  # for the server to do what it was asked to
COMMAND = sys.executable, "-m", "uvicorn", "chat_actors.app:app", "--port", "{port}"
INTO_PIPE = "sh", "-c", 'exec "$@" >"$0" 2>&1'  # the path of a pipe follows, and the command


class Outcome(NamedTuple):
    """Row of the table. ``wrong`` says which goals were not reached."""

    case: str
    seconds: float
    cpu_seconds: float
    waited: float  # seconds that the server was ready to run and other programs had its core
    mib: "tuple[float, float, float]"  # resident before, at the peak, and after
    seen: Seen
    figures: str
    wrong: "list[str]"


class Stage:
    """Server of a case. ``begin`` starts the witness and the measurement, ``end`` ends them."""

    def __init__(self, case: str, process: Process) -> None:
        self.case = case
        self.port = process.port
        self.pid = process.pid
        self.crowd = Crowd(process.port)
        self.wrong: list[str] = []  # goals that were not reached
        self._witness: Optional[Witness] = None

    async def begin(self) -> None:
        self._witness = await asyncio.to_thread(Witness, self.port)
        self.before = self.resident
        reset_peak(self.pid)
        self._began, self._cpu_before, self._waited_before = time.monotonic(), self.cpu_seconds, self.waited

    async def end(self, figures: str) -> Outcome:
        assert self._witness is not None
        seconds, cpu_seconds = time.monotonic() - self._began, self.cpu_seconds - self._cpu_before
        waited = self.waited - self._waited_before
        mib = self.before, self.peak, self.resident
        seen = await asyncio.to_thread(self._witness.finish)
        self.see(not seen.lost and not seen.harmed, f"the witness lost {seen.lost}, {seen.harmed} harmed")
        self.see(not seen.cut, f"the witness was cut off {seen.cut} times")
        self.see(seen.p99 < P99_MS, f"the witness's p99 is {seen.p99:,.0f} ms, not below {P99_MS:.0f}")
        return Outcome(self.case, seconds, cpu_seconds, waited, mib, seen, figures, self.wrong)

    def see(self, reached: bool, wrong: str) -> None:
        """Note what is wrong where a goal is not reached."""
        if not reached:
            self.wrong.append(wrong)

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the server. The process's own clock: ``/proc`` counts in hundredths of a second."""
        return time.clock_gettime(~self.pid << 3 | 2)

    @property
    def waited(self) -> float:
        """Seconds that the server's loop was ready to run and had no core."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    @property
    def resident(self) -> float:
        return memory(self.pid).resident

    @property
    def peak(self) -> float:
        """Most MiB resident since ``begin``."""
        return memory(self.pid).peak

    async def settled(self) -> float:
        """Wait until the server has done what it was asked to; return its CPU time by then.

        It has where it sleeps for nearly all of the time in which it could run.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            began, spent, waited = time.monotonic(), self.cpu_seconds, self.waited
            await asyncio.sleep(CALM_SECONDS)
            free = time.monotonic() - began - (self.waited - waited)
            if self.cpu_seconds - spent < CALM_SHARE * free or time.monotonic() > deadline:
                return self.cpu_seconds

    def close(self) -> None:
        self.crowd.leave()
        if self._witness is not None:
            self._witness.kill()


@contextmanager
def full_pipe() -> Iterator[str]:
    """Yield the path of a pipe that nobody reads, and that holds as much as a pipe does."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "log"))
        os.mkfifo(path)
        ours = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        try:
            yield path
        finally:
            os.close(ours)


@asynccontextmanager
async def stage(case: str, connections: int, log: str = "", **settings: str) -> AsyncIterator[Stage]:
    """Start a server that takes so many connections besides the witnesses'. ``log``: the pipe it writes its log to."""
    allow_open_files(connections)
    command = (*INTO_PIPE, log, *COMMAND) if log else COMMAND
    environ = {"CHAT_CONNECTIONS": str(max(10_000, connections + 10)), **settings}
    where = cores()
    with running(Server(case, case, command, environ), where.server) as process, on_core(where.load):
        scene = Stage(case, process)
        try:
            yield scene
        finally:
            scene.close()
            await asyncio.sleep(0)  # for the sockets to be closed
