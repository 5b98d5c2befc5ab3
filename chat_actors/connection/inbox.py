"""One member's way in: from the socket's bytes to whole messages, in order.

Any message can come from the server as an ASGI event. Under uvicorn most need not: a text frame that is whole and
uncompressed is unmasked as it is read, and the session takes it at once, with no task and no queue between. All else
a peer may send (fragments, control frames, compressed or broken frames) goes on to uvicorn byte for byte, so that its
WebSocket implementation stays the judge of it; only what is too big is dropped here as it comes, and kept nowhere.
"""

import asyncio
from typing import Callable, Optional

from chat_actors.connection.asgi import AsgiEvent, Receive, UvicornProtocol, limit_inflation

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover  # as the package itself chooses, where it came without its C extension
    from websockets.utils import apply_mask

MOST_AHEAD = 32  # messages that wait in uvicorn for the session; as bytes they take much less

_WHOLE_TEXT = 0x81  # first byte of a text frame: final, not compressed (RFC 6455, section 5.2)
_PING, _PONG = 0x89, 0x8A
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

    def guard(self, brake: Brake, too_big: Callable[[], None]) -> None:
        """What an inbox cannot decide where it sees frames that nobody receives.

        ``brake`` is asked what to wait for after each control frame and fragment. ``too_big`` is called where a message
        is longer than may be, as soon as that is known; the rest of it is dropped.
        """


class DirectInbox(Inbox, asyncio.Protocol):
    """Stands between the transport and uvicorn's protocol. No message may have more than ``longest`` bytes."""

    def __init__(self, receive: Receive, protocol: UvicornProtocol, longest: int) -> None:
        super().__init__(self._receive_next)
        self._asgi_receive = receive
        self._protocol = protocol
        self._longest = longest
        self._take: Optional[Take] = None
        self._brake: Brake = lambda: None
        self._too_big: Optional[Callable[[], None]] = None
        self._held: Optional[asyncio.Future[None]] = None  # until then nothing is read
        self._paused = False  # by us, who have to read on: uvicorn resumes only what it paused
        self._full = False  # as much waits for the peer as the transport takes without complaint
        self._drained: Optional[asyncio.Future[None]] = None  # done when that is over
        self._ahead = 0  # messages that uvicorn has and the session has not received
        self._open = False  # uvicorn has the beginning of a message
        self._size = 0  # of what there is of that message
        self._skip = 0  # bytes to come of a message that is too big
        self._unread = b""  # the beginning of a frame; while held, all that follows as well
        limit_inflation(protocol, 2 * longest)  # what is only a little too big is the session's to refuse
        protocol.transport.set_protocol(self)

    def take_at_once(self, take: Take) -> None:
        self._take = take

    def hold(self, until: "asyncio.Future[None]") -> None:
        self._held = until
        self._pause()
        until.add_done_callback(self._go_on)

    def guard(self, brake: Brake, too_big: Callable[[], None]) -> None:
        self._brake = brake
        self._too_big = too_big

    def _go_on(self, _: "asyncio.Future[None]") -> None:
        self._held = None
        self._read_on()

    def _pause(self) -> None:
        self._paused = True
        self._protocol.transport.pause_reading()

    def _read_on(self) -> None:
        """Read on, unless there is still something to wait for."""
        if self._paused and self._held is None and not self._ahead and not self._protocol.transport.is_closing():
            self._paused = False
            self._protocol.transport.resume_reading()
            self.data_received(b"")

    async def _receive_next(self) -> AsgiEvent:
        self._read_on()  # now, when the session has dealt with what it received before
        event = await self._asgi_receive()
        if self._ahead:  # it may have come before the handshake was over, and was not counted
            self._ahead -= 1
        return event

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._unread:
            data = self._unread + data
        if self._paused:  # uvicorn has resumed reading in the meantime
            self._protocol.transport.pause_reading()
        at, size = min(self._skip, len(data)), len(data)
        self._skip -= at
        while size - at >= 6 and not self._paused:  # no frame of a client is shorter
            first, length, payload = data[at], data[at + 1] - _MASKED, at + 6
            sound = 0 <= length < 126
            if not sound and length > 0 and not first & _CONTROL:
                width = 2 if length == 126 else 8
                if size - at < 6 + width:
                    break
                length, payload = int.from_bytes(data[at + 2 : at + 2 + width], "big"), payload + width
                sound = (126 if width == 2 else 1 << 16) <= length < 1 << 63
            if not sound:  # not masked, a length that has a shorter form or is none, or a long control frame
                self._give_up(data[at:])
                return
            end = payload + length
            if length + self._size > self._longest and not first & _CONTROL:
                if self._too_big is None:
                    self._give_up(data[at:])
                    return
                self._skip = max(0, end - size)
                at = min(end, size)
                self._take = None
                self._too_big()
                continue
            if end > size:
                break
            if first != _WHOLE_TEXT or not self._taken(data[payload - 4 : payload], data[payload:end]):
                self._pass_on(first, length, data[at:end])
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

    def _pass_on(self, first: int, length: int, frame: bytes) -> None:
        received = False  # by the session, as an event
        if not first & _CONTROL:
            self._open = not first & _FINAL
            self._size = self._size + length + 1 if self._open else 0  # an empty fragment is not for nothing
            received = not self._open
            self._ahead += received
        elif first not in (_PING, _PONG):  # a close, or broken: whatever comes behind it is nothing
            self._take = None
        self._protocol.data_received(frame)
        if self._protocol.transport.is_closing():
            return
        if self._ahead >= MOST_AHEAD:
            self._pause()
        elif not received:
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
