"""The server side of one WebSocket after its handshake (RFC 6455): bytes in, messages and verdicts out, in one order.

A whole text frame takes a short path. Every other byte goes to one judge, ``websockets.protocol.Protocol``, frame by
frame: it answers pings and refuses what is broken. A judge is made when one is needed and kept no longer. Finished
frames are written straight to the transport; all members of a fan-out share the bytes.
"""

import asyncio
import os
import socket
from collections.abc import MutableSet
from contextlib import suppress
from typing import Any, Callable, Optional, cast

from websockets.exceptions import ProtocolError
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Protocol, Side
from websockets.protocol import State as JudgeState

from chat_actors.connection.base import CLOSING, MOVING, OPEN, OVER, Connection, Sweep
from chat_actors.protocol.codes import CloseCode

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover  # the package does the same if its C extension is missing
    from websockets.utils import apply_mask

# Unsent bytes that the kernel may buffer for one connection. By default it buffers megabytes: then a slow but steady
# reader would seem to make no progress for longer than the stall timeout, and messages would outlive their window.
UNSENT_BYTES = 64 * 1024
_NOTSENT_LOWAT: Optional[int] = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # on Linux and macOS

MAX_SKIPPED = 10_000  # pieces of frames that are looked at after the server's close: then the peer will not close

_WHOLE_TEXT = 0x81  # first byte of a text frame: final, no extension (RFC 6455, section 5.2)
_MASKED = 0x80  # in the second byte
_OPCODE = 0x0F  # in the first byte
_FINAL, _CONTROL = 0x80, 0x08  # in the first byte
_MOST_HEADER = 10  # bytes until the length of a frame is known, at most
_LONGEST_CONTROL = 125  # bytes of its payload
_OUT_OF_ORDER = "expected a continuation frame", "unexpected continuation frame"  # as the judge says it
_PING = Frame(Opcode.PING, b"").serialize(mask=False)

# Why nothing is read: reasons that do not end each other.
_HELD = 1  # the session waits
_CHOKED = 2  # the peer does not read the answers to its pings
_YIELDED = 4  # the judge has had enough frames in this turn of the loop
MAX_JUDGED = 500  # pieces of frames, of one peer in one turn of the loop


class WebSocket(Connection, asyncio.Protocol):
    """Connection whose transport is the server's own."""

    __slots__ = (
        "_at",
        "_brakes",
        "_full",
        "_head",
        "_host",
        "_judge",
        "_measure_at",
        "_message",
        "_missing",
        "_on_room",
        "_paused",
        "_shared",
        "_skipped",
        "_text",
        "_transport",
        "_unread",
    )

    def __init__(
        self, transport: asyncio.Transport, host: "MutableSet[Any]", sweep: Sweep, closed: Callable[[], None]
    ) -> None:
        """``host``: the connections that the host counts, and calls ``shutdown`` of when it ends."""
        super().__init__(sweep, closed)
        self._transport = transport
        self._host = host
        self._shared = False  # another process may have a copy of the descriptor
        self._measure_at = 0  # measure the transport's buffer again once ``_written`` is above this
        # Flow control.
        self._brakes = 0  # why nothing is read: _HELD, _CHOKED, _YIELDED
        self._paused = False  # the transport
        self._full = False  # the transport's write buffer is above its high-water mark
        self._on_room: Optional[Callable[[], None]] = None  # to be called when that is empty
        self._unread = b""  # what was read and not looked at, from the place ``_at``
        self._at = 0
        # The frame that is being read.
        self._head = b""  # its first bytes; empty between two frames, and only there
        self._missing = 0  # bytes that have not come yet; 0 also while its length is unknown
        self._skipped = 0  # frames, or pieces of them, after the server's close
        # The judge, and the message that it has in part.
        self._judge: Optional[Protocol] = None
        self._message: Optional[bytearray] = None
        self._text = False  # whether that message is a text
        sock = transport.get_extra_info("socket")
        if sock is not None and _NOTSENT_LOWAT is not None:
            with suppress(OSError):  # not a TCP socket, or the peer is gone
                sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT_BYTES)
        host.add(self)
        transport.set_protocol(self)

    # The sending side

    def write(self, frames: bytes) -> None:
        transport = self._transport
        if self._state is not OPEN or transport.is_closing():
            return
        if self._written > self._measure_at:
            free = self._max_bytes - self.buffered()
            if free < 0:
                self.drop_slow("outbox full")
                return
            self._measure_at = self._written + free
        self._written += len(frames)
        try:  # noqa: SIM105  # contextlib.suppress costs a tenth of the write, for each member
            transport.write(frames)
        except RuntimeError:  # uvloop raises it if the transport was closed since the check above
            pass

    def buffered(self) -> int:
        try:
            return self._transport.get_write_buffer_size()
        except AttributeError:  # asyncio raises it for a TLS transport whose peer is gone
            return 0

    def when_room(self, call: Callable[[], None]) -> None:
        if self.has_room():
            call()
        elif self._state is OPEN and not self._transport.is_closing():
            self._on_room = call
            self._transport.set_write_buffer_limits(high=0)  # then ``resume_writing`` means that it is empty

    def _send_close(self, code: CloseCode) -> None:
        self._push(Frame(Opcode.CLOSE, Close(int(code), code.reason).serialize()).serialize(mask=False))
        self._brakes = 0
        self._read_on()  # to see the peer's close frame

    def _push(self, data: bytes) -> None:
        """Write what is no member's frame: a control frame."""
        if data and not self._transport.is_closing():
            self._written += len(data)
            self._transport.write(data)

    def _cut(self) -> None:
        if self._shared:
            self._shut_down()
        self._transport.abort()

    def _shut_down(self) -> None:
        """End the TCP connection itself: a copy of the descriptor may be on its way to another process."""
        sock = self._transport.get_extra_info("socket")
        with suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)
        self._shared = False  # the descriptor is somebody else's soon

    def _let_go(self) -> None:
        """End the TCP connection after what was written. Nothing that the peer says matters any more.

        Only the sending half is closed where that can be: a socket that is closed with bytes unread is reset, and the
        peer might lose the close frame.
        """
        self._enter(OVER)
        self._unread = self._head = b""
        self._judge = self._message = None
        if not self._transport.is_closing():
            if self._transport.can_write_eof():
                with suppress(OSError):  # the peer is gone
                    self._transport.write_eof()
            else:
                self._transport.close()
        self._tell_end()
        self._brakes = 0
        self._read_on()  # to see the peer's end

    def _check_silence(self, silent: int) -> None:
        if silent >= 2 * self._sweep.ping_ticks and not self._brakes:
            self.abort("silent: no answer to a ping")
        elif silent and not silent % self._sweep.ping_ticks:
            self._push(_PING)  # also while nothing is read: a write shows whether the socket is gone

    # Flow control

    def hold(self) -> None:
        if self._state is OPEN:
            self._brake(_HELD)

    def release(self) -> None:
        self._unbrake(_HELD)

    def _brake(self, why: int) -> None:
        self._brakes |= why
        if not self._paused:
            self._paused = True
            with suppress(AttributeError):  # asyncio raises it for a TLS transport whose peer is gone
                self._transport.pause_reading()

    def _unbrake(self, why: int) -> None:
        self._brakes &= ~why
        self._read_on()

    def _read_on(self) -> None:
        """Look at what was read before, then read from the transport, unless there is a reason not to."""
        if not self._brakes and self._paused:
            data, self._unread = self._unread, b""
            if data:
                self._read(data, self._at)
            if not self._brakes and self._paused:
                self._paused = False
                self._silent = 0  # while nothing is read nothing can be heard
                with suppress(AttributeError):
                    self._transport.resume_reading()

    # The way to another process

    def give(self) -> Optional[tuple[int, bytes]]:
        transport = self._transport
        sock = transport.get_extra_info("socket")
        if self._state is not OPEN or transport.is_closing() or sock is None or transport.get_extra_info("ssl_object"):
            return None
        self._state, self._shared = MOVING, True
        self.clear_deadline()
        return sock.fileno(), self._unread[self._at :]

    def take_back(self) -> None:
        if self._state is MOVING:
            self._state = OPEN

    def forget(self) -> Callable[[], None]:
        self._shared = False
        return super().forget()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._unread:
            data = self._unread[self._at :] + data
        if self._brakes:  # it was on its way
            self._unread, self._at = data, 0
        else:
            self._read(data, 0)

    def eof_received(self) -> Optional[bool]:
        self._enter(OVER)
        self._tell_end()
        return None  # the transport closes itself after what was written

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._shared = False
        self._host.discard(self)
        self._unread = self._head = b""
        self._judge = self._message = None
        self._brakes, self._paused = 0, False
        self._finish()
        self._transport.close()  # else asyncio warns of a TLS transport that is not closed

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._unbrake(_CHOKED)
        call, self._on_room = self._on_room, None
        if call is not None:
            if not self._transport.is_closing():
                self._transport.set_write_buffer_limits()
            call()

    def shutdown(self) -> None:
        """End all connections of the server: called by uvicorn at its end, for each of its connections."""
        self._sweep.shutdown()

    # Reading

    def _read(self, data: bytes, at: int) -> None:
        """Take the frames of ``data`` from the place ``at`` in their order, until one of them is a reason to wait."""
        size, max_message, judged = len(data), self._sweep.max_message, 0
        while at < size and not self._brakes and self._state is OPEN:
            if data[at] == _WHOLE_TEXT and size - at >= 8 and not self._head and self._message is None:
                length, payload = data[at + 1] - _MASKED, at + 6
                if length == 126:
                    length, payload = int.from_bytes(data[at + 2 : at + 4], "big"), at + 8
                elif length == 127:  # 64 KiB and more
                    length = -1
                end = payload + length
                if 2 <= length <= max_message and end <= size:
                    try:
                        text = apply_mask(data[payload:end], data[payload - 4 : payload]).decode()
                    except UnicodeDecodeError:
                        pass
                    else:
                        at = end
                        self.receiver.receive(text)
                        continue
            end = self._end_of_piece(data, at)
            self._judge_piece(data[at:end])
            at = end
            judged += 1
            if judged == MAX_JUDGED and self._state is OPEN:
                self._brake(_YIELDED)
                asyncio.get_running_loop().call_soon(self._unbrake, _YIELDED)
        if self._state is CLOSING:
            self._seek_close(data, at)
        elif self._brakes:
            self._unread, self._at = (data, at) if at < size else (b"", 0)
        elif not self._head and self._message is None:
            self._judge = None

    def _end_of_piece(self, data: bytes, at: int) -> int:
        """Return the place in ``data`` where the current frame ends, or where ``data`` ends if that comes first."""
        if not self._missing:
            read = len(self._head)
            self._head += data[at : at + _MOST_HEADER - read]
            size = _frame_size(self._head)
            if size is None:
                return len(data)
            self._missing = size - read
        end = min(at + self._missing, len(data))
        self._missing -= end - at
        if not self._missing:
            self._head = b""
        return end

    def _judge_piece(self, piece: bytes) -> None:
        """Give the judge a frame or a part of one, and act on its verdict."""
        judge = self._judge
        if judge is None:
            judge = self._judge = Protocol(Side.SERVER, max_size=self._sweep.max_message + _LONGEST_CONTROL)
        judge.receive_data(piece)
        for frame in cast("list[Frame]", judge.events_received()):  # one, or none
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._take_data(judge, frame)
            elif frame.opcode is not Opcode.CLOSE:
                self._push(b"".join(judge.data_to_send()))
                if self._full and frame.opcode is Opcode.PING:
                    self._brake(_CHOKED)
                self.receiver.count_frame()
        if self._missing and judge.state is JudgeState.OPEN:
            self._judge_header(judge)
        if judge.state is not JudgeState.OPEN and self._state is OPEN:
            self._obey(judge)

    def _judge_header(self, judge: Protocol) -> None:
        """Refuse a frame whose header cannot be right. The judge itself would wait for the payload."""
        first, length = self._head[0], self._head[1] & ~_MASKED
        if length >= 126:  # a short length may be written in a long form
            length = int.from_bytes(self._head[2 : 4 if length == 126 else 10], "big")
        opcode, rsv = Opcode(first & _OPCODE), [bool(first & bit) for bit in (0x40, 0x20, 0x10)]
        try:
            Frame(opcode, bytes(min(length, 126)), bool(first & _FINAL), *rsv).check()
            if not opcode & _CONTROL and (opcode is Opcode.CONT) == (self._message is None):
                raise ProtocolError(_OUT_OF_ORDER[opcode is Opcode.CONT])
        except ProtocolError as wrong:
            judge.fail(1002, str(wrong))
        else:
            if not opcode & _CONTROL and self._is_too_big(length):
                self.receiver.refuse_big()

    def _is_too_big(self, length: int) -> bool:
        """Return whether a message is too big with so many bytes more.

        The judge's own limit is higher by the longest ping: it would refuse one in between for the message's size.
        """
        return length + len(self._message or b"") > self._sweep.max_message

    def _take_data(self, judge: Protocol, frame: Frame) -> None:
        """Add the payload of a data frame to its message; deliver the message if it is whole."""
        if self._is_too_big(len(frame.data)):
            self.receiver.refuse_big()
            return
        if self._message is None:
            self._message, self._text = bytearray(), frame.opcode is Opcode.TEXT
        self._message += frame.data
        if not frame.fin:
            self.receiver.count_frame()
            return
        message, self._message = bytes(self._message), None
        if not self._text:
            self.receiver.receive(message)
            return
        try:
            text = message.decode()
        except UnicodeDecodeError as wrong:
            judge.fail(1007, f"{wrong.reason} at position {wrong.start}")
        else:
            self.receiver.receive(text)

    def _obey(self, judge: Protocol) -> None:
        """End the connection as the judge says: after the peer's close, or a frame that is broken or too big."""
        close = judge.close_sent
        if close is not None and close is not judge.close_rcvd:  # it is no answer to the peer's
            if close.code == CloseCode.FRAME_TOO_BIG:
                self.receiver.refuse_big()
                return
            self.reason = f"broken frame: {close.reason}"
            self._sweep.counters.closed[close.code] += 1
        self._push(b"".join(judge.data_to_send()))
        self._let_go()

    def _seek_close(self, data: bytes, at: int) -> None:
        """Skip what the peer had under way when the server closed, up to the peer's close frame."""
        while at < len(data):
            opcode = (self._head[0] if self._head else data[at]) & _OPCODE
            if opcode == Opcode.CLOSE or self._skipped == MAX_SKIPPED:
                self._let_go()
                return
            at = self._end_of_piece(data, at)
            self._skipped += 1


def _frame_size(head: bytes) -> Optional[int]:
    """Return the bytes of a frame, its header included; None if more of the header is needed to know."""
    if len(head) < 2:
        return None
    length, size = head[1] & ~_MASKED, 6 if head[1] & _MASKED else 2
    if length < 126:
        return size + length
    width = 2 if length == 126 else 8
    return size + width + int.from_bytes(head[2 : 2 + width], "big") if len(head) >= 2 + width else None
