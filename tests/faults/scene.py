"""The stage of every fault: a server of its own, a witness pair in another topic, and what the process has."""

import asyncio
import os
import re
import signal
import time
from pathlib import Path
from typing import NamedTuple, Optional

from tests.faults.talk import PATIENCE, Group, Ledger
from tests.server import TROUBLE, Server

WITNESS_EVERY = 0.1  # seconds
MIB = 1 << 20
NOTHING = re.compile(r"(?!)")  # matches nowhere: the scene looks itself, and shows less


class Alive(NamedTuple):
    """What the server's process has that must not grow."""

    tasks: int
    sessions: int
    outboxes: int
    topics: int
    descriptors: int


class Memory(NamedTuple):
    """Of the server's process, in MiB."""

    resident: float
    peak: float  # since ``reset_peak``


def memory(pid: int) -> Memory:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Memory(*(int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")))


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class Scene:
    """``async with Scene() as scene``: what is done to the server in the block must leave it as it was before.

    At the end the witnesses have lost nothing, all tasks and descriptors of the block are gone, and the server ends
    without a warning in its log (``trouble``: what must not stand there).
    """

    def __init__(self, trouble: "re.Pattern[str]" = TROUBLE, most_mib: Optional[float] = None, **settings: str) -> None:
        self._trouble = trouble
        self._most_mib = most_mib  # that the process may need more than before, at its peak
        self._settings = settings
        self.witnessed = Ledger()
        self.server: Server
        self.before: Alive
        self.after: Alive
        self.memory_before: Memory
        self.memory_after: Memory

    async def __aenter__(self) -> "Scene":
        environment = {"CHAT_PORT": "0", "CHAT_RATE_LIMIT": "20", **self._settings}
        self.server = await asyncio.to_thread(lambda: Server("tests.faults.served", **environment))
        try:
            self.witness = Group(self.port, "witness", 2, WITNESS_EVERY, self.witnessed)
            await self.witness.ready()
            await asyncio.wait_for(self.witness.talkers[0].wait_for_id(2), PATIENCE)
            self.before = await self.alive()
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
        return Alive(*(int(counts[name]) for name in Alive._fields[:-1]), descriptors)

    async def calm(self) -> Alive:
        """Wait until the process has what it had before, or for a while."""
        deadline = time.monotonic() + PATIENCE
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
                self.check()
            else:
                await self.witness.close()
        finally:
            await asyncio.to_thread(self.server.kill)

    @property
    def complaints(self) -> "list[str]":
        """The lines of the log that should not be there."""
        return [line for line in self.server.lines() if self._trouble.search(line)]

    def check(self) -> None:
        assert not self.complaints, "\n".join(self.complaints[:10])
        assert self.witnessed.harm == 0, vars(self.witnessed)
        assert self.after == self.before, (self.before, self.after)
        if self._most_mib is not None:
            assert self.grown <= self._most_mib, f"{self.grown:.1f} MiB more than before"

    @property
    def grown(self) -> float:
        """MiB that the process needed more than before, at its peak."""
        return self.memory_after.peak - self.memory_before.resident
