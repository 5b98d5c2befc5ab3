"""The outbox of a connection: everything the server sends to a peer goes through it, without waiting.

Here live the rules of every outbox: its limit in bytes, the checks of its progress, and its close. A peer that does
not read is aborted. Code that moves bytes out of the process must not live here, but in ``lanes``.
"""

from abc import abstractmethod
from collections import deque
from typing import Optional

from loguru import logger

from chat_actors.actors.outbox import Outbox
from chat_actors.clock import Clock
from chat_actors.connection.asgi import Receive, Send
from chat_actors.counters import Counters
from chat_actors.protocol.codes import CloseCode

SWEEP_SECONDS = 1.0  # between two checks of every outbox


class ConnectionOutbox(Outbox):
    """Outbox of one connection, apart from its lane: the byte limit, the checks of progress and the close."""

    # Slots: there are many outboxes, and a fan-out then finds the fields of each in one place in memory.
    __slots__ = (
        "__weakref__",
        "_marks",
        "_max_bytes",
        "_progress_at",
        "_send",
        "_sent",
        "_watch",
        "_written",
        "reason",
        "receive",
    )

    def __init__(self, watch: "StallWatch", receive: Receive, send: Send) -> None:
        self.receive = receive  # the connection's ASGI events; the last one is always websocket.disconnect
        self.reason: Optional[str] = None  # why the server ended the connection; None if it has not
        self._watch = watch
        self._max_bytes = watch.max_bytes
        self._send = send
        self._written = 0  # bytes since the connection was opened
        self._sent = 0  # of these, bytes that have left the process
        self._progress_at = watch.clock.monotonic()  # when _sent last grew, or nothing waited
        self._marks: deque[tuple[int, float]] = deque()  # (_written, time) of the checks whose bytes still wait
        watch.outboxes.add(self)

    def write_answer(self, frames: bytes) -> None:
        self._max_bytes = max(self._max_bytes, self._watch.max_bytes + len(frames))
        self.write(frames)

    def close(self, code: CloseCode) -> None:
        if self.reason is None:
            self.reason = code.name.lower()
            self._watch.counters.closed[int(code)] += 1
            self._begin_close(code)

    async def finish(self) -> None:
        """Wait until a close that has begun is sent or given up (at most CLOSE_SECONDS), then release the peer."""
        self._watch.outboxes.discard(self)
        self._watch.counters.bytes_out += self._written

    def is_open(self) -> bool:
        """Return True until the session has finished and, on the fast lane, the peer has read everything."""
        return self in self._watch.outboxes

    def drop_slow(self, detail: str) -> None:
        """Abort a peer that does not read. Its session then ends, and gives ``reason`` in its leave."""
        if self.reason is None:
            self.reason = f"slow: {detail}, {self.buffered()} bytes unsent"
            self._watch.counters.slow += 1
            self.abort()

    def check(self, now: float) -> None:
        """Abort the peer if it has made no progress for too long, or if a byte has waited longer than the window.

        ``now``: monotonic seconds.
        """
        buffered = self.buffered()
        sent = self._written - buffered
        if sent > self._sent or not buffered:
            self._sent, self._progress_at = sent, now
        marks = self._marks
        while marks and sent >= marks[0][0]:
            marks.popleft()
        if buffered:
            marks.append((self._written, now))
        if now - self._progress_at >= self._watch.stall_seconds:
            self.drop_slow("no progress")
        elif marks and now - marks[0][1] >= self._watch.window_seconds:
            self.drop_slow("frame older than the window")

    @property
    def written(self) -> int:
        """Bytes written since the connection was opened."""
        return self._written

    @abstractmethod
    def buffered(self) -> int:
        """Return the bytes that wait for the peer."""

    @abstractmethod
    def _begin_close(self, code: CloseCode) -> None:
        """Start to send a close frame after the frames already written. Does not wait."""

    @abstractmethod
    def abort(self) -> None:
        """End the connection at once and discard unsent frames."""


class StallWatch:
    """Watch over all open outboxes: one task that checks each every SWEEP_SECONDS and aborts stalled peers."""

    def __init__(
        self, clock: Clock, counters: Counters, max_bytes: int, stall_seconds: float, window_seconds: float
    ) -> None:
        self.outboxes: set[ConnectionOutbox] = set()
        self.counters = counters
        self.max_bytes = max_bytes  # that may wait for one peer
        self.stall_seconds = stall_seconds  # that a peer may make no progress while bytes wait
        self.window_seconds = window_seconds  # that any byte may wait
        self.clock = clock

    async def run(self) -> None:
        """Check until cancelled. Also measures the lag of the event loop."""
        while True:
            due = self.clock.monotonic() + SWEEP_SECONDS
            await self.clock.sleep(SWEEP_SECONDS)
            now = self.clock.monotonic()
            self.counters.lag.add(max(0.0, now - due))
            for outbox in list(self.outboxes):
                try:
                    outbox.check(now)
                except Exception as exception:  # a bug with one outbox must not stop the checks of all
                    logger.opt(exception=exception).error("stall check failed")
