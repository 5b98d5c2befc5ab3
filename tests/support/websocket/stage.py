"""A ``WebSocket`` between a fake transport and a fake receiver. No event loop."""

from typing import Any, Optional

from chat_actors.connection.base import SWEEP_SECONDS, Sweep, ticks
from chat_actors.connection.websocket import WebSocket
from chat_actors.counters import Counters
from chat_actors.settings import Settings
from tests.support.fakes import FakeClock, FakeReceiver, FakeTransport
from tests.support.websocket.wire import CLOSE, FIN, frames_in

LONGEST = 1024  # bytes of a message: the lowest limit that there is


def close_codes(written: bytes) -> list[int]:
    """The codes of the close frames among those that a server has sent: one at most, or something is wrong."""
    return [int.from_bytes(payload[:2], "big") for first, payload in frames_in(written) if first == FIN | CLOSE]


class Stage:
    """Connection on the fast lane, and its surroundings."""

    def __init__(self, transport: Optional[FakeTransport] = None, **settings: Any) -> None:
        self.clock = FakeClock()
        self.counters = Counters()
        self.host: set[Any] = set()
        self.shutdowns = 0  # that the host has told
        self.closed = 0  # descriptors
        self.transport = transport or FakeTransport()
        limits = Settings.model_validate({"frame_bytes": LONGEST, **settings})
        self.sweep = Sweep(limits, self.clock, self.counters, self._shut_down)
        self.connection = WebSocket(self.transport, self.host, self.sweep, self._closed)
        self.receiver = FakeReceiver(self.connection)

    def _shut_down(self) -> None:
        self.shutdowns += 1

    def _closed(self) -> None:
        self.closed += 1

    def read(self, *pieces: bytes) -> None:
        """Pieces read from the socket, each in one read."""
        for piece in pieces:
            self.transport.protocol.data_received(piece)

    def read_in_pieces(self, size: int, data: bytes) -> None:
        """The same, in pieces of so many bytes."""
        self.read(*(data[at : at + size] for at in range(0, len(data), size)))

    def seconds_pass(self, seconds: float) -> None:
        """At least so many seconds pass, in sweeps."""
        for _ in range(ticks(seconds)):
            self.tick()

    def tick(self) -> None:
        self.clock.now += SWEEP_SECONDS
        self.sweep.tick += 1
        self.connection.check(self.clock.now)

    @property
    def heard(self) -> list[Any]:
        return self.receiver.heard

    @property
    def sent(self) -> list[tuple[int, bytes]]:
        """The frames that were sent: the first byte and the payload of each."""
        return list(frames_in(self.transport.written))

    @property
    def close_codes(self) -> list[int]:
        return close_codes(self.transport.written)
