"""An attack on one server, while two witnesses chat in another topic and a bystander listens where it happens."""

import asyncio
import os
import re
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from tests.support.server import PATIENCE, Client, Server, Visit
from tests.support.websocket.wire import RawClient
from tests.tools.hostile.cases import COMPRESSED, Case

COMMANDS = {
    "uvicorn": ("uvicorn", "tests.tools.hostile.app:app", "--port", "0", "--ws", "websockets-sansio"),
    "python -m chat_actors": ("tests.tools.hostile.app",),
}
SETTINGS = {"CHAT_STALL_TIMEOUT": "1"}  # so that who does not read is soon out
AT_ONCE = 16  # connections
POLL = 0.02  # seconds
MIB = 1 << 20
# Only what is no handshake may be worth a warning, of uvicorn's.
TROUBLE = re.compile(r"Traceback|\b(ERROR|CRITICAL)\b|\bWARNING\b(?! +(Invalid HTTP request|Unsupported upgrade))")


class Witnesses:
    """Two members of a topic of their own. Each message and each ack must come once and in order."""

    def __init__(self, sender: Client, reader: Client) -> None:
        self.said = self.lost = self.doubled = self.reordered = 0
        self._sender = sender
        self._reading = [
            asyncio.create_task(self._read(sender, "ack")),
            asyncio.create_task(self._read(reader, "message")),
        ]
        self._last = Counter(ack=0, message=0)  # ids
        self._news = asyncio.Event()

    async def say(self) -> None:
        self.said += 1
        await self._sender.send({"message": f"{self.said}"})

    async def heard(self) -> None:
        """Wait until all that was said has arrived. What does not is lost."""
        while not all(last == self.said for last in self._last.values()):
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), PATIENCE)
            except asyncio.TimeoutError:
                self.lost += sum(self.said - last for last in self._last.values())
                break

    async def stop(self) -> None:
        for task in self._reading:
            task.cancel()
        await asyncio.wait(self._reading)

    async def _read(self, client: Client, kind: str) -> None:
        while True:
            frame = await client.recv()
            id, last = frame["id"], self._last[kind]
            if frame["type"] != kind or frame.get("message", str(id)) != str(id):
                self.reordered += 1
            self.doubled += id == last
            self.reordered += id < last
            self.lost += max(0, id - last - 1)
            self._last[kind] = max(id, last)
            self._news.set()


class Process(NamedTuple):
    """Resources of the server's process."""

    descriptors: int
    tasks: int
    mib: float  # resident

    @classmethod
    async def of(cls, server: Server) -> "Process":
        tasks = await _get(server.port, "/tasks")
        return cls(len(os.listdir(f"/proc/{server.pid}/fd")), int(tasks), memory(server.pid))


def memory(pid: int, kind: str = "VmRSS") -> float:
    """MiB of the process: resident, or with VmHWM the most there ever was."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status[kind].split()[0]) * 1024 / MIB


async def _get(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return answer.rpartition("\r\n\r\n")[2].strip("\r\n")


class Attack:
    """Attack on a server: after the ``async with`` block the server must be as it was before.

    ``wrong`` says at the end what does not hold.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.wrong: list[str] = []
        self.before: Process
        self.after: Process
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Attack":
        visit = await self._stack.enter_async_context(Visit(self.server))
        carol, dave = await visit.join("carol", "witness"), await visit.join("dave", "witness")
        self._bystander = await visit.join("bystander", "hostile")
        self.witnesses = Witnesses(carol, dave)
        await self.witnesses.say()  # so that an expiry waits, now as in the end
        await self.witnesses.heard()
        self.before = await self._settled()
        return self

    async def times(self, count: int, case: Case, joined: bool) -> "Counter[str]":
        """Play a case so often, a few at a time; returns how often it ended in which way."""
        numbers = iter(range(count))
        endings: Counter[str] = Counter()

        async def some() -> None:
            for number in numbers:
                endings[await self._once(case, joined, number)] += 1

        await asyncio.gather(*[some() for _ in range(min(count, AT_ONCE))])
        return endings

    async def _once(self, case: Case, joined: bool, number: int) -> str:
        await self.witnesses.say()
        try:
            async with RawClient(self.server.port) as client:
                if case.handshake:
                    await client.upgrade(case.handshake)
                    if client.compresses:
                        return COMPRESSED
                if joined:
                    await client.join("eve", "hostile")
                return await asyncio.wait_for(case.run(client, number), 2 * PATIENCE)
        except (OSError, asyncio.TimeoutError) as failure:
            return repr(failure)

    async def __aexit__(self, *failure: object) -> None:
        if failure[0] is None:
            await self.witnesses.heard()
            self.after = await self._calm()
            await self._look()
        await self.witnesses.stop()
        await self._stack.__aexit__(*failure)  # type: ignore[arg-type]

    async def _settled(self) -> Process:
        """Look until two looks are the same: a process that has just started opens some things for a moment."""
        before = await Process.of(self.server)
        while (now := await Process.of(self.server))[:2] != before[:2]:
            before = now
        return now

    async def _calm(self) -> Process:
        """Wait until the process has no more than before, or for a while."""
        turns = int(PATIENCE / POLL)
        for _ in range(turns):
            now = await Process.of(self.server)
            if now[:2] == self.before[:2]:
                break
            await asyncio.sleep(POLL)
        return now

    async def _look(self) -> None:
        seen = self.witnesses
        if seen.lost or seen.doubled or seen.reordered:
            self.wrong.append(
                f"the witnesses: {seen.lost} lost, {seen.doubled} doubled, {seen.reordered} out of order of {seen.said}"
            )
        if self.after[:2] != self.before[:2]:
            self.wrong.append(f"not as before: {self.before}, then {self.after}")
        answer = await self._bystander.ask("/list")
        if answer.get("topics") != [{"topic": "witness", "users": 2}, {"topic": "hostile", "users": 1}]:
            self.wrong.append(f"the bystander heard {answer}")
        if trouble := [line for line in self.server.lines() if TROUBLE.search(line)]:
            self.wrong.append(f"{len(trouble)} times trouble in the log, first: {trouble[0]}")
