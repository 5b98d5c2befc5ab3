"""The link between two workers: a Unix socket that carries messages and descriptors, in order, both ways.

asyncio's transports cannot send descriptors (``SCM_RIGHTS``), so a link reads and writes its socket itself. It never
waits, and it ends when the other process does.
"""

import array
import asyncio
import errno
import os
import socket
import struct
from collections import deque
from typing import Callable

from loguru import logger

_HEADER = struct.Struct("!IH")  # of a message: its length in bytes, and how many descriptors go with it
_MOST_BYTES = 1 << 26  # of a message
_MOST_DESCRIPTORS = 32  # of a message
_READ_BYTES = 1 << 16
_ANCILLARY_BYTES = socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS)
_TRUNCATED = int(socket.MSG_CTRUNC)  # its own type makes each test of a flag a call
READS = 16  # in one turn of the loop


class Link:
    """Link to another worker. All calls are made in the event loop.

    ``received``: called with each message and its descriptors, which belong to the caller then: fewer than were sent
    if this process has none left. ``drained``: called when all is sent. ``ended``: called once, at the end.
    ``discard``: closes a descriptor that is needed no more.
    """

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[bytes, list[int]], None],
        drained: Callable[[], None],
        ended: Callable[[], None],
        discard: Callable[[int], None],
    ) -> None:
        self._sock = sock
        self._received = received
        self._drained = drained
        self._ended = ended
        self._discard = discard
        self._loop = asyncio.get_running_loop()
        self._out: deque[tuple[memoryview, list[int]]] = deque()  # descriptors: copies of our own
        self._in = bytearray()
        self._descriptors: deque[list[int]] = deque()  # that have come, by message
        self._open = True
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._read)

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._out

    def send(self, message: bytes, descriptors: "tuple[int, ...]" = ()) -> None:
        """Send a message. No-op after the end. The descriptors may be closed as soon as this returns."""
        if not self._open:
            return
        data = memoryview(_HEADER.pack(len(message), len(descriptors)) + message)
        if not self._out:
            sent = self._write(data, descriptors)
            if sent == len(data):
                return
            if sent:
                data, descriptors = data[sent:], ()
            self._loop.add_writer(self._sock.fileno(), self._flush)
        try:
            copies = [os.dup(one) for one in descriptors]
        except OSError:  # this process has none left
            data, copies = _without_descriptors(data), []
        self._out.append((data, copies))

    def close(self) -> None:
        """End the link. No-op after the end."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for waiting in (*(copies for _, copies in self._out), *self._descriptors):
            self._discard_all(waiting)
        self._out.clear()
        self._descriptors.clear()
        self._ended()

    def _write(self, data: memoryview, descriptors: "tuple[int, ...]") -> int:
        """Send what the socket takes; return how many bytes that was. Descriptors go with the first of them."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            return self._sock.sendmsg([data], ancillary)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as failed:
            if failed.errno != errno.ETOOMANYREFS:
                logger.bind(error=repr(failed)).debug("link to another worker failed")
                self._loop.call_soon(self.close)  # not now: the caller is about other things
                return len(data)
        # Too many descriptors of this user are on their way. The message goes without: the other side says so.
        return self._write(_without_descriptors(data), ())

    def _flush(self) -> None:
        while self._out:
            data, descriptors = self._out[0]
            sent = self._write(data, tuple(descriptors))
            if not sent:
                return
            self._discard_all(descriptors)
            if sent < len(data):
                self._out[0] = data[sent:], []
                return
            self._out.popleft()
        self._loop.remove_writer(self._sock.fileno())
        self._drained()

    def _read(self) -> None:
        for _ in range(READS):
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(_READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, ancillary, flags = b"", [], 0
            # One message's descriptors at most: the kernel ends a read behind them.
            with_descriptors = ancillary or flags & _TRUNCATED
            if with_descriptors:
                self._descriptors.append(_descriptors(ancillary))
            if not data:
                self.close()
                return
            self._in += data
            self._deliver()
            if not self._open or not (with_descriptors or len(data) == _READ_BYTES):  # a short read has taken all
                return

    def _deliver(self) -> None:
        """Hand over each message that is whole."""
        start, messages = 0, []
        while len(self._in) - start >= _HEADER.size:
            length, count = _HEADER.unpack_from(self._in, start)
            if length > _MOST_BYTES:
                self.close()
                return
            end = start + _HEADER.size + length
            if len(self._in) < end:
                break
            messages.append((bytes(self._in[start + _HEADER.size : end]), count))
            start = end
        del self._in[:start]
        for message, count in messages:
            if not self._open:
                break
            descriptors = self._descriptors.popleft() if count and self._descriptors else []
            try:
                self._received(message, descriptors)
            except Exception as exception:  # a bug: what its message was about ends with the link
                logger.opt(exception=exception).error("message of another worker failed")
                self.close()

    def _discard_all(self, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            self._discard(descriptor)


def _without_descriptors(data: memoryview) -> memoryview:
    """Return a whole message as one that has no descriptors."""
    length, _ = _HEADER.unpack_from(data)
    return memoryview(_HEADER.pack(length, 0) + data[_HEADER.size :])


def _descriptors(ancillary: "list[tuple[int, int, bytes]]") -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()
