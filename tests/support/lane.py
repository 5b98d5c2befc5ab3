"""The connections of both lanes with the same controls, for the rules that are the same on both."""

import asyncio
from abc import ABC, abstractmethod
from typing import Any, Optional, TypeVar

import pytest

from chat_actors.connection.base import Connection, Sweep
from chat_actors.connection.plain import PlainConnection
from chat_actors.connection.websocket import WebSocket
from chat_actors.counters import Counters
from chat_actors.protocol.frames import Message, finished
from chat_actors.settings import Settings
from tests.support.fakes import FakeClock, FakeReceiver, FakeServer, FakeTransport, log_lines, settle
from tests.support.websocket.stage import close_codes
from tests.support.websocket.wire import CLOSE, FIN, TEXT, frames_in
from tests.support.websocket.wire import frame as frame_of_peer

AnyLane = TypeVar("AnyLane", bound="Lane")


def frame(text: str) -> bytes:
    return finished(Message(1, "alice", text, 0))


class Lane(ABC):
    """Connection, its peer, its receiver, and the sweep over it."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.counters = Counters()
        self.closed = 0  # descriptors
        self.sweep = Sweep(Settings.model_validate(settings), self.clock, self.counters, lambda: None)
        self.sweeping = asyncio.create_task(self.sweep.run())
        self.connection = self.open()
        self.receiver = FakeReceiver(self.connection)

    @classmethod
    async def stalled(cls: type[AnyLane], *unread: str, **settings: Any) -> AnyLane:
        """A lane whose peer stopped reading before these messages were written."""
        lane = cls(**settings)
        lane.stall()
        lane.write(*unread)
        await settle()
        return lane

    def count_closed(self) -> None:
        self.closed += 1

    def write(self, *texts: str) -> None:
        """Write a message for each text, one by one."""
        for text in texts:
            self.connection.write(frame(text))

    async def seconds(self, count: float) -> None:
        """So many seconds pass, in sweeps. Fails if the sweep finds a bug."""
        with log_lines() as lines:
            await self.clock.elapse(count)
        assert not [line for line in lines if "connection check failed" in line], lines

    def forget(self) -> None:
        """Drop every reference to the connection that the test has."""
        del self.connection, self.receiver

    @property
    def slow(self) -> bool:
        """Whether the peer was aborted because it did not read."""
        return (self.connection.reason or "").startswith("slow: ")

    # What differs.

    @abstractmethod
    def open(self) -> Connection: ...

    @abstractmethod
    def stall(self) -> None:
        """The peer stops reading."""

    @abstractmethod
    async def read_one(self, text: str) -> None:
        """The peer reads this frame, the oldest, and nothing else."""

    @abstractmethod
    async def read_on(self) -> None:
        """The peer reads again, and all that waits."""

    @abstractmethod
    async def says(self, *texts: str) -> None:
        """The peer sends messages."""

    @abstractmethod
    async def answers(self) -> None:
        """The peer answers the close."""

    @abstractmethod
    async def goes(self) -> None:
        """The peer loses its connection."""

    @property
    @abstractmethod
    def texts(self) -> list[str]:
        """The JSON texts that were sent."""

    @property
    @abstractmethod
    def close_codes(self) -> list[int]: ...


class PlainLane(Lane):
    """Connection on the plain lane, on a fake ASGI server."""

    def __init__(self, server: Optional[FakeServer] = None, host_pings: bool = True, **settings: Any) -> None:
        self.server = server or FakeServer(peer_answers=False)
        self._host_pings = host_pings
        super().__init__(**settings)

    def open(self) -> Connection:
        server = self.server
        connection = PlainConnection(server.receive, server.send, self._host_pings, self.sweep, self.count_closed)
        self.serving = asyncio.create_task(connection.serve())
        return connection

    def forget(self) -> None:
        super().forget()
        del self.serving

    def stall(self) -> None:
        self.server.peer_reads = False

    async def read_one(self, text: str) -> None:
        self.server.let_pass.release()
        await settle()

    async def read_on(self) -> None:
        self.server.read_on()
        await settle()

    async def says(self, *texts: str) -> None:
        for text in texts:
            self.server.events.put_nowait({"type": "websocket.receive", "text": text})
        await settle()

    async def answers(self) -> None:
        await self.goes()

    async def goes(self) -> None:
        self.server.events.put_nowait({"type": "websocket.disconnect"})
        await settle()

    @property
    def texts(self) -> list[str]:
        return self.server.texts

    @property
    def close_codes(self) -> list[int]:
        return self.server.closes


class LoopTransport(FakeTransport):
    """FakeTransport that loses its connection in the next turn of the loop after it was aborted."""

    def abort(self) -> None:
        if not self.aborted and not self.lost:
            asyncio.get_running_loop().call_soon(self.lose)
        super().abort()


class FastLane(Lane):
    """Connection on the fast lane, on a fake transport."""

    def open(self) -> Connection:
        self.transport = LoopTransport()
        return WebSocket(self.transport, set(), self.sweep, self.count_closed)

    def forget(self) -> None:
        super().forget()
        del self.transport

    def stall(self) -> None:
        self.transport.peer_reads = False

    async def read_one(self, text: str) -> None:
        self.transport.read(len(frame(text)))

    async def read_on(self) -> None:
        self.transport.peer_reads = True
        self.transport.read(self.transport.unread)

    async def says(self, *texts: str) -> None:
        self.transport.protocol.data_received(b"".join(frame_of_peer(FIN | TEXT, text.encode()) for text in texts))

    async def answers(self) -> None:
        self.transport.protocol.data_received(frame_of_peer(FIN | CLOSE))
        assert self.transport.half_closed
        await self.goes()

    async def goes(self) -> None:
        self.transport.lose()

    @property
    def texts(self) -> list[str]:
        return [payload.decode() for first, payload in frames_in(self.transport.written) if first == FIN | TEXT]

    @property
    def close_codes(self) -> list[int]:
        return close_codes(self.transport.written)


both_lanes = pytest.mark.parametrize("kind", [PlainLane, FastLane])
