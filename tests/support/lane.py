"""The outboxes of both lanes, on a fake transport and a fake ASGI server."""

import asyncio
from types import SimpleNamespace
from typing import TypeVar, cast

import pytest

from chat_actors.connection.asgi import UvicornProtocol
from chat_actors.connection.lanes import open_outbox
from chat_actors.connection.outbox import ConnectionOutbox, StallWatch
from chat_actors.counters import Counters
from chat_actors.protocol.frames import Message, finished, payloads
from tests.support.fakes import FakeClock, FakeServer, FakeTransport, settle

AnyLane = TypeVar("AnyLane", bound="Lane")


def frame(text: str) -> bytes:
    return finished(Message(1, "alice", text, 0))


class Lane:
    """Outbox on the plain lane, the fake server behind it, and the stall clock that watches it."""

    def __init__(self, max_bytes: int = 1000, window: float = 30.0) -> None:
        self.server = FakeServer()
        self.clock = FakeClock()
        self.counters = Counters()
        self.watch = StallWatch(self.clock, self.counters, max_bytes, 10.0, window)
        self.watching = asyncio.create_task(self.watch.run())
        self.outbox = self.open()

    @classmethod
    def stalled(cls: type[AnyLane], *unread: str, max_bytes: int = 1000, window: float = 30.0) -> AnyLane:
        """A lane whose peer stopped reading before these messages were written."""
        lane = cls(max_bytes, window)
        lane.stall()
        lane.write(*unread)
        return lane

    def open(self) -> ConnectionOutbox:
        return open_outbox(self.watch, None, self.server.receive, self.server.send)

    def write(self, *texts: str) -> None:
        """Write a message for each text, one by one."""
        for text in texts:
            self.outbox.write(frame(text))

    def stall(self) -> None:
        """The peer stops reading."""
        self.server.peer_reads = False

    async def read_one(self, text: str) -> None:
        """The peer reads this frame and nothing else."""
        self.server.let_pass.release()
        await settle()

    @property
    def texts(self) -> list[str]:
        """The JSON texts that were given to the server."""
        return [event["text"] for event in self.server.sent if event["type"] == "websocket.send"]

    async def seconds(self, count: int) -> None:
        await settle()
        for _ in range(count):
            await self.clock.advance(1)


class FastLane(Lane):
    def open(self) -> ConnectionOutbox:
        self.transport = FakeTransport()
        protocol = cast(UvicornProtocol, SimpleNamespace(transport=self.transport))
        return open_outbox(self.watch, protocol, self.server.receive, self.server.send)

    def stall(self) -> None:
        super().stall()
        self.transport.peer_reads = False

    async def read_one(self, text: str) -> None:
        self.transport.unread -= len(frame(text))

    @property
    def texts(self) -> list[str]:
        return [payload.decode() for payload in payloads(self.transport.written)]


both_lanes = pytest.mark.parametrize("kind", [Lane, FastLane])


def slow(lane: Lane) -> bool:
    return (lane.outbox.reason or "").startswith("slow: ")
