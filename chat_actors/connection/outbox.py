"""One member's way out: everything the server sends to a connection goes through its outbox, without waiting.

Here is what every way out has: the bound in bytes, and the stall clock that watches it, so that whoever does not read
is aborted and leaves. How the bytes get out is for ``lanes``.
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

SWEEP_SECONDS = 1.0  # how often the stall clock looks


class ConnectionOutbox(Outbox):
    """What both lanes share: the bound, the stall clock and the end."""

    # Slots: there are many outboxes, and a fan-out finds all it needs of each in one place of the memory.
    __slots__ = (
        "__weakref__",
        "_gone",
        "_marks",
        "_most_bytes",
        "_progress_at",
        "_send",
        "_watch",
        "_written",
        "reason",
        "receive",
    )

    def __init__(self, watch: "StallWatch", receive: Receive, send: Send) -> None:
        self.receive = receive  # the connection's ASGI events; ends with websocket.disconnect, always
        self.reason: Optional[str] = None  # why the server ended the connection; None while it has not
        self._watch = watch
        self._most_bytes = watch.most_bytes
        self._send = send
        self._written = 0  # bytes, since the connection was opened
        self._gone = 0  # of them, those that have left the process
        self._progress_at = watch.clock.monotonic()  # when _gone last grew, or nothing waited
        self._marks: deque[tuple[int, float]] = deque()  # so many bytes had been written at that moment, and wait
        watch.outboxes.add(self)

    def write_answer(self, frames: bytes) -> None:
        self._most_bytes = max(self._most_bytes, self._watch.most_bytes + len(frames))
        self.write(frames)

    def close(self, code: CloseCode) -> None:
        if self.reason is None:
            self.reason = code.name.lower()
            self._watch.counters.closed[int(code)] += 1
            self._begin_close(code)

    async def finish(self) -> None:
        """Wait until a close that has begun is sent or given up (at most CLOSE_SECONDS); then let go of the peer."""
        self._watch.outboxes.discard(self)
        self._watch.counters.bytes_out += self._written

    def is_open(self) -> bool:
        """Whether the conversation goes on, or the peer has not read the end of it."""
        return self in self._watch.outboxes

    def drop_slow(self, detail: str) -> None:
        """Abort a peer that does not read; its session ends, leaves and says why in its one log line."""
        if self.reason is None:
            self.reason = f"slow: {detail}, {self.buffered()} bytes wait"
            self._watch.counters.slow += 1
            self.abort()

    def check(self, now: float) -> None:
        """The stall clock's look at one peer (``now``: monotonic seconds)."""
        buffered = self.buffered()
        gone = self._written - buffered
        if gone > self._gone or not buffered:
            self._gone, self._progress_at = gone, now
        marks = self._marks
        while marks and gone >= marks[0][0]:
            marks.popleft()
        if buffered:
            marks.append((self._written, now))
        if now - self._progress_at >= self._watch.stall_seconds:
            self.drop_slow("no progress")
        elif marks and now - marks[0][1] >= self._watch.window_seconds:
            self.drop_slow("a frame waited longer than a message lives")

    @property
    def written(self) -> int:
        """Bytes, since the connection was opened."""
        return self._written

    @abstractmethod
    def buffered(self) -> int:
        """Bytes that wait for the peer."""

    @abstractmethod
    def _begin_close(self, code: CloseCode) -> None:
        """Have a close frame sent behind what is written."""

    @abstractmethod
    def abort(self) -> None:
        """End the connection, whatever waits."""


class StallWatch:
    """The stall clock of all outboxes: one task that looks at each of them every second."""

    def __init__(
        self, clock: Clock, counters: Counters, most_bytes: int, stall_seconds: float, window_seconds: float
    ) -> None:
        self.outboxes: set[ConnectionOutbox] = set()
        self.counters = counters
        self.most_bytes = most_bytes  # that may wait for one peer
        self.stall_seconds = stall_seconds  # without progress while something waits
        self.window_seconds = window_seconds  # that a byte may wait at all
        self.clock = clock

    async def run(self) -> None:
        while True:
            due = self.clock.monotonic() + SWEEP_SECONDS
            await self.clock.sleep(SWEEP_SECONDS)
            now = self.clock.monotonic()
            self.counters.lag.add(max(0.0, now - due))
            for outbox in list(self.outboxes):
                try:
                    outbox.check(now)
                except Exception as exception:  # a bug in the look at one peer must not stop the clock of all
                    logger.opt(exception=exception).error("stall check failed")
