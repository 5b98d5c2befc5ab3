"""One member's way in: from the socket's bytes to whole messages, in order.

Any message can come from the server as an ASGI event. Under uvicorn most need not: a text frame that is whole and
uncompressed is unmasked as it is read, and the session takes it at once, with no task and no queue between. All else
a peer may send (fragments, control frames, compressed, broken or huge frames) goes on to uvicorn byte for byte, so
that its WebSocket implementation stays the judge of it.
"""

import asyncio
from typing import Callable, Optional

from chat_actors.lane import Message, Receive, UvicornProtocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover  # as the package itself chooses, where it came without its C extension
    from websockets.utils import apply_mask

_WHOLE_TEXT = 0x81  # first byte of a text frame: final, not compressed (RFC 6455, section 5.2)
_CLOSE = 0x88  # of the frame that ends the conversation
_FINAL, _CONTROL = 0x80, 0x08  # in the first byte
_MASKED = 0x80  # in the second

Take = Callable[[str], bool]
Brake = Callable[[], "Optional[asyncio.Future[None]]"]


class Inbox:
    """The way in under any ASGI server: one event at a time."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive

    def take_at_once(self, take: Take) -> None:
        """Give ``take`` messages as soon as they are read, where that can be done, until it returns False."""

    def hold(self, until: "asyncio.Future[None]") -> None:
        """Read nothing more from the peer until then (called by ``take`` alone)."""

    def brake_others(self, brake: Brake) -> None:
        """Ask ``brake`` what to wait for after each frame that nobody receives: a control frame, a fragment."""


class DirectInbox(Inbox, asyncio.Protocol):
    """Stands between the transport and uvicorn's protocol; frames longer than ``longest`` are uvicorn's."""

    def __init__(self, receive: Receive, protocol: UvicornProtocol, longest: int) -> None:
        super().__init__(self._receive_next)
        self._asgi_receive = receive
        self._protocol = protocol
        self._longest = longest
        self._take: Optional[Take] = None
        self._brake: Brake = lambda: None
        self._held: Optional[asyncio.Future[None]] = None  # until then nothing is read
        self._full = False  # as much waits for the peer as the transport takes without complaint
        self._drained: Optional[asyncio.Future[None]] = None  # done when that is over
        self._ahead = 0  # messages that uvicorn has and the session has not received
        self._open = False  # uvicorn has the beginning of a message
        self._unread = b""  # the beginning of a frame; while held, all that follows as well
        protocol.transport.set_protocol(self)

    def take_at_once(self, take: Take) -> None:
        self._take = take

    def hold(self, until: "asyncio.Future[None]") -> None:
        self._held = until
        self._protocol.transport.pause_reading()
        until.add_done_callback(self._go_on)

    def brake_others(self, brake: Brake) -> None:
        self._brake = brake

    def _go_on(self, _: "asyncio.Future[None]") -> None:
        self._held = None
        if not self._protocol.transport.is_closing():
            if not self._ahead:  # otherwise uvicorn reads on once the session has received them
                self._protocol.transport.resume_reading()
            self.data_received(b"")

    async def _receive_next(self) -> Message:
        event = await self._asgi_receive()
        self._ahead -= 1
        return event

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._unread:
            data = self._unread + data
        if self._held is not None:  # uvicorn has resumed reading in the meantime
            self._protocol.transport.pause_reading()
        at, size = 0, len(data)
        while size - at >= 6 and self._held is None:  # no frame of a client is shorter
            first, length, payload = data[at], data[at + 1] - _MASKED, at + 6
            if length == 126:
                length, payload = int.from_bytes(data[at + 2 : at + 4], "big"), at + 8
                sound = 126 <= length <= self._longest
            else:
                sound = 0 <= length < 126
            if not sound:  # not masked, a length that has a shorter form, or 64 KiB and more
                self._give_up(data[at:])
                return
            end = payload + length
            if end > size:
                break
            if first != _WHOLE_TEXT or not self._taken(data[payload - 4 : payload], data[payload:end]):
                self._pass_on(first, data[at:end])
            at = end
        self._unread = data[at:]

    def _taken(self, mask: bytes, masked: bytes) -> bool:
        """Whether the session took the message itself."""
        if self._take is None or self._ahead or self._open:
            return False
        try:
            text = apply_mask(masked, mask).decode()
        except UnicodeDecodeError:
            return False
        if not self._take(text):
            self._take = None
        return True

    def _pass_on(self, first: int, frame: bytes) -> None:
        received = False  # by the session, as an event
        if not first & _CONTROL:
            self._open = not first & _FINAL
            received = not self._open
            self._ahead += received
        elif first == _CLOSE:
            self._take = None  # whatever comes behind it is nothing
        self._protocol.data_received(frame)
        if not received and not self._protocol.transport.is_closing():
            brake = self._brake()
            if brake is None and self._full:  # who does not read its pongs is not read either
                brake = self._drained = asyncio.get_running_loop().create_future()
            if brake is not None:
                self.hold(brake)

    def _give_up(self, data: bytes) -> None:
        """Give the connection back to uvicorn for good: this frame is broken, or too big to wait for."""
        self._take = None
        self._unread = b""
        self._protocol.transport.set_protocol(self._protocol)  # type: ignore[arg-type]
        self._protocol.data_received(data)

    def eof_received(self) -> Optional[bool]:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._take = None
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._full = True
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._full = False
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None
        self._protocol.resume_writing()


def open_inbox(protocol: Optional[UvicornProtocol], receive: Receive, longest: int) -> Inbox:
    """The inbox of a connection whose handshake is over, on the fastest lane its server offers."""
    return Inbox(receive) if protocol is None else DirectInbox(receive, protocol, longest)
