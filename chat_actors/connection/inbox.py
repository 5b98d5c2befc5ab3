"""The inbox of a connection: from the socket's bytes to whole messages, in order.

On the plain lane every message is an ASGI event. On the fast lane, under uvicorn, a whole and uncompressed text frame
is unmasked as it is read and delivered to the session at once, without a task or a queue. All other frames (fragments,
control frames, compressed and broken frames) pass to uvicorn byte for byte, so that its WebSocket implementation
judges them. Only a message that is too big is dropped here, as its bytes arrive; none of it is kept.
"""

import asyncio
from typing import Callable, Optional

from chat_actors.connection.asgi import AsgiEvent, Receive, UvicornProtocol, limit_inflation

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover  # the package does the same if its C extension is missing
    from websockets.utils import apply_mask

MAX_AHEAD = 32  # messages that may wait in uvicorn for the session before reading stops

_WHOLE_TEXT = 0x81  # first byte of a text frame: final, not compressed (RFC 6455, section 5.2)
_PING, _PONG = 0x89, 0x8A
_FINAL, _CONTROL = 0x80, 0x08  # in the first byte
_MASKED = 0x80  # in the second

Take = Callable[[str], bool]
Backpressure = Callable[[], "Optional[asyncio.Future[None]]"]  # the future to wait for before the next read, or None


class Inbox:
    """Inbox on the plain lane, under any ASGI server: every message is an ASGI event from ``receive``.

    This lane needs none of the callbacks below: the session applies backpressure before it receives the next event.
    """

    def __init__(self, receive: Receive) -> None:
        self.receive = receive

    def deliver_to(self, take: Take) -> None:
        """Deliver each message to ``take`` as it is read, until ``take`` returns False. No-op on the plain lane."""

    def hold(self, until: "asyncio.Future[None]") -> None:
        """Stop reading from the peer until the future ``until`` is done. Only ``take`` may call this."""

    def guard(self, backpressure: Backpressure, too_big: Callable[[], None]) -> None:
        """Set the callbacks for frames that do not reach the session.

        ``backpressure`` is called after each control frame and each fragment; reading stops until its future is done.
        ``too_big`` is called once a message is known to exceed the limit; the rest of that message is dropped.
        """


class DirectInbox(Inbox, asyncio.Protocol):
    """Inbox on the fast lane: an ``asyncio.Protocol`` between the transport and uvicorn's protocol.

    ``max_bytes``: limit of one message. A message over it calls ``too_big``.
    """

    def __init__(self, receive: Receive, protocol: UvicornProtocol, max_bytes: int) -> None:
        super().__init__(self._receive_next)
        self._asgi_receive = receive
        self._protocol = protocol
        self._max_bytes = max_bytes
        # Callbacks of the session.
        self._take: Optional[Take] = None
        self._backpressure: Backpressure = lambda: None
        self._too_big: Optional[Callable[[], None]] = None
        # Flow control.
        self._held: Optional[asyncio.Future[None]] = None  # nothing is read until it is done
        self._paused = False  # by this inbox, which must resume: uvicorn resumes only after its own pause
        self._full = False  # the transport's write buffer is above its high-water mark
        self._drained: Optional[asyncio.Future[None]] = None  # done when the write buffer is below it again
        self._ahead = 0  # messages passed to uvicorn that the session has not received
        # The parser: a message in fragments, then the frame that is being read.
        self._open = False  # uvicorn has the first fragments of a message, but not its last
        self._size = 0  # bytes of these fragments
        self._skip = 0  # bytes still to drop of a message that is too big
        self._unread = b""  # the start of a frame; while held, all bytes after it as well
        limit_inflation(protocol, 2 * max_bytes)  # the session refuses a message that is only a little too big
        protocol.transport.set_protocol(self)

    def deliver_to(self, take: Take) -> None:
        self._take = take

    def hold(self, until: "asyncio.Future[None]") -> None:
        self._held = until
        self._pause()
        until.add_done_callback(self._go_on)

    def guard(self, backpressure: Backpressure, too_big: Callable[[], None]) -> None:
        self._backpressure = backpressure
        self._too_big = too_big

    def _go_on(self, _: "asyncio.Future[None]") -> None:
        self._held = None
        self._read_on()

    def _pause(self) -> None:
        self._paused = True
        self._protocol.transport.pause_reading()

    def _read_on(self) -> None:
        """Resume reading, unless the inbox is held, messages wait in uvicorn or the transport is closing."""
        if self._paused and self._held is None and not self._ahead and not self._protocol.transport.is_closing():
            self._paused = False
            self._protocol.transport.resume_reading()
            self.data_received(b"")

    async def _receive_next(self) -> AsgiEvent:
        self._read_on()  # the session has handled the event before this one
        event = await self._asgi_receive()
        if self._ahead:  # 0 for a message that came before this inbox was installed
            self._ahead -= 1
        return event

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._unread:
            data = self._unread + data
        if self._paused:  # uvicorn has resumed reading since
            self._protocol.transport.pause_reading()
        at, size = min(self._skip, len(data)), len(data)
        self._skip -= at
        while size - at >= 6 and not self._paused:  # the shortest frame of a client
            first, length, payload = data[at], data[at + 1] - _MASKED, at + 6
            sound = 0 <= length < 126
            if not sound and length > 0 and not first & _CONTROL:
                width = 2 if length == 126 else 8
                if size - at < 6 + width:
                    break
                length, payload = int.from_bytes(data[at + 2 : at + 2 + width], "big"), payload + width
                sound = (126 if width == 2 else 1 << 16) <= length < 1 << 63
            if not sound:  # not masked, length not in its shortest form or out of range, or a long control frame
                self._give_up(data[at:])
                return
            end = payload + length
            if length + self._size > self._max_bytes and not first & _CONTROL:
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
        """Deliver a whole text message; return False if uvicorn must get it instead.

        uvicorn must get it while earlier messages are there or unfinished, and if it is not UTF-8.
        """
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
        received = False  # the session will receive it as an event
        if not first & _CONTROL:
            self._open = not first & _FINAL
            self._size = self._size + length + 1 if self._open else 0  # + 1: empty fragments count, too
            received = not self._open
            self._ahead += received
        elif first not in (_PING, _PONG):  # a close or a broken frame: frames after it do not count
            self._take = None
        self._protocol.data_received(frame)
        if self._protocol.transport.is_closing():
            return
        if self._ahead >= MAX_AHEAD:
            self._pause()
        elif not received:
            until = self._backpressure()
            if until is None and self._full:  # a peer that does not read its pongs must not send more pings
                until = self._drained = asyncio.get_running_loop().create_future()
            if until is not None:
                self.hold(until)

    def _give_up(self, data: bytes) -> None:
        """Give the connection back to uvicorn for good: it refuses this frame, which is broken or too big."""
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


def open_inbox(protocol: Optional[UvicornProtocol], receive: Receive, max_bytes: int) -> Inbox:
    """Return the inbox of an accepted connection: on the fast lane under uvicorn, else on the plain lane."""
    return Inbox(receive) if protocol is None else DirectInbox(receive, protocol, max_bytes)
