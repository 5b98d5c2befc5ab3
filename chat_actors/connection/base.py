"""The rules of every connection, whatever carries its bytes: its limits, its deadlines, and the order of its end.

A connection is open, then closing (the server has sent a close frame), then over. Nothing that the peer says after
the end is delivered. Code that moves bytes must not live here, but in ``websocket`` and ``plain``.
"""

import asyncio
import enum
import math
from abc import abstractmethod
from collections import deque
from typing import Callable, Optional

from loguru import logger

from chat_actors.actors.outbox import Outbox
from chat_actors.clock import Clock
from chat_actors.counters import Counters
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.decoding import Data
from chat_actors.settings import Settings

SWEEP_SECONDS = 0.5  # between two sweeps: the length of a tick
STRIDE = 256  # connections that a sweep checks before other tasks run
CLOSE_SECONDS = 2.0  # that a peer gets to read the last frames and to answer the close frame before it is aborted

_NEVER = 1 << 62  # a tick


class State(enum.IntEnum):
    """State of a connection."""

    OPEN = 0
    MOVING = 1  # another process may have the socket: nothing is read or written here
    CLOSING = 2  # the server has sent a close frame, and waits for the peer's
    OVER = 3  # nothing more is read or written; the peer has yet to let go of the socket


# Globals: ``write`` compares them for each member.
OPEN, MOVING, CLOSING, OVER = State.OPEN, State.MOVING, State.CLOSING, State.OVER


class Receiver:
    """Receiving side of a connection: what a session hears of its peer. No method waits, and none raises.

    This base does nothing: it stands for the session before it begins, and after its end.
    """

    __slots__ = ()

    def receive(self, data: Data) -> None:
        """Take one whole message."""

    def count_frame(self) -> None:
        """Count a frame that is no message: a control frame, or a fragment but the last."""

    def refuse_big(self) -> None:
        """Close the connection: a message is bigger than the limit."""

    def overdue(self) -> None:
        """Act on the deadline that ``set_deadline`` has set."""

    def end(self, reason: str) -> None:
        """Take leave: called once, as soon as the connection is not open any more. ``reason`` is for the log."""


_NOBODY = Receiver()


def _forgotten() -> None:
    """Stands for what is called at the end of a connection that goes on in another process."""


class Connection(Outbox):
    """Connection of one peer, apart from the way of its bytes."""

    # Slots: there are many connections, and a fan-out then finds the fields of each in one place in memory.
    __slots__ = (
        "_closed",
        "_deadline",
        "_heard",
        "_marks",
        "_max_bytes",
        "_progress",
        "_sent",
        "_silent",
        "_state",
        "_sweep",
        "_watched",
        "_written",
        "reason",
        "receiver",
    )

    def __init__(self, sweep: "Sweep", closed: Callable[[], None]) -> None:
        self.receiver: Receiver = _NOBODY  # a session, until the end
        self.reason: Optional[str] = None  # why the server ended the connection; None if it has not
        self._closed = closed  # called once the descriptor is closed
        self._sweep = sweep
        self._state = OPEN
        self._deadline = _NEVER  # tick: of the receiver while open, then of the peer
        # What came in.
        self._heard = True  # since the last tick
        self._silent = 0  # ticks
        # What went out.
        self._max_bytes = sweep.max_bytes
        self._written = 0  # bytes since the connection was opened
        self._sent = 0  # of these, bytes that have left the process
        self._progress = sweep.tick  # tick in which ``_sent`` last grew, or nothing waited
        # Bytes that still wait: (_written after them, monotonic seconds until which they must have left), both growing.
        self._marks: Optional[deque[tuple[int, float]]] = None
        self._watched = math.inf  # monotonic seconds for which a timer is set, to look at the marks
        sweep.connections.add(self)

    # The sending side

    def write_answer(self, frames: bytes) -> None:
        self._max_bytes = max(self._max_bytes, self._sweep.max_bytes + len(frames))
        self.write(frames)

    def write_until(self, frames: bytes, deadline: float) -> None:
        self.write_answer(frames)
        if not self.has_room():
            self._mark(deadline)

    def has_room(self) -> bool:
        return not self.buffered()

    def close(self, code: CloseCode) -> None:
        if self._state is OPEN:
            self.reason = self.reason or code.name.lower()
            self._sweep.counters.closed[int(code)] += 1
            self._enter(CLOSING)
            self._send_close(code)
            self._tell_end()

    def abort(self, reason: str) -> None:
        """End the connection at once and discard unsent frames. ``reason``: for the log, if it was open."""
        if self._state < CLOSING:
            self.reason = reason
        self._enter(OVER)
        self._cut()
        self._tell_end()

    def drop_slow(self, detail: str) -> None:
        """Abort a peer that does not read."""
        if self._state is not OVER:
            self._sweep.counters.slow += 1
        self.abort(f"slow: {detail}, {self.buffered()} bytes unsent")

    @property
    def written(self) -> int:
        """Bytes written since the connection was opened."""
        return self._written

    @abstractmethod
    def buffered(self) -> int:
        """Return the bytes that wait for the peer."""

    # The receiving side

    @abstractmethod
    def hold(self) -> None:
        """Stop reading from the peer until ``release``. No-op if the connection is not open."""

    @abstractmethod
    def release(self) -> None:
        """Read on after ``hold``. No-op if the connection is not held."""

    def set_deadline(self, seconds: float) -> None:
        """Call the receiver's ``overdue`` after so many seconds. Replaces the deadline before."""
        self._deadline = self._sweep.tick + ticks(seconds)

    def clear_deadline(self) -> None:
        """Cancel the deadline."""
        self._deadline = _NEVER

    # The way to another process

    def give(self) -> Optional[tuple[int, bytes]]:
        """Return the descriptor, and what was read and not delivered; stop writing.

        Only while the connection is held and all is sent. None if it has ended, or cannot be given away: no change.
        From now on another process may have the socket too, until ``take_back`` or ``forget``.
        """
        return None

    def take_back(self) -> None:
        """Go on after ``give``, held: this process alone speaks to the peer. No-op if the connection has ended."""

    def forget(self) -> Callable[[], None]:
        """End this side of a connection that another process has taken, and tell nobody.

        Return what is to be called once that has closed it.
        """
        self.receiver = _NOBODY
        closed, self._closed = self._closed, _forgotten
        self.abort("")
        return closed

    # The end

    def _enter(self, state: State) -> None:
        """Enter CLOSING or OVER: from now on the peer has CLOSE_SECONDS."""
        self._state = state
        self._deadline = self._sweep.tick + ticks(CLOSE_SECONDS)

    def _tell_end(self) -> None:
        """Let the receiver take leave, once."""
        receiver, self.receiver = self.receiver, _NOBODY
        receiver.end(self.reason or "closed by peer")

    def _finish(self) -> None:
        """Forget the connection: its descriptor is closed."""
        self._state = OVER
        self._tell_end()
        self._sweep.connections.discard(self)
        self._sweep.counters.bytes_out += self._written
        closed, self._closed = self._closed, _forgotten
        closed()

    @abstractmethod
    def _send_close(self, code: CloseCode) -> None:
        """Send a close frame after the frames already written. Does not wait."""

    @abstractmethod
    def _cut(self) -> None:
        """Close the descriptor now, with whatever waits."""

    # The sweep

    def check(self, now: float) -> None:
        """Act on what is overdue in this tick. ``now``: monotonic seconds."""
        tick = self._sweep.tick
        if tick >= self._deadline:
            self._deadline = _NEVER
            if self._state is OPEN:
                self.receiver.overdue()
            else:  # the peer does not let go
                self.abort("")
        elif self._state is OPEN:
            self._silent = 0 if self._heard else self._silent + 1
            self._heard = False
            self._check_silence(self._silent)
            if self._state is OPEN:
                self._check_progress(tick)
        self._check_age(now)

    @abstractmethod
    def _check_silence(self, silent: int) -> None:
        """Act on a peer of which nothing was heard for so many ticks."""

    def _check_progress(self, tick: int) -> None:
        """Abort the peer if it has made no progress for too long."""
        buffered = self.buffered()
        sent = self._written - buffered
        if sent > self._sent or not buffered:
            self._sent, self._progress = sent, tick
        elif tick - self._progress >= self._sweep.stall_ticks:
            self.drop_slow("no progress")

    def _check_age(self, now: float) -> None:
        """See that what was written since the last sweep leaves in time: no byte may wait longer than the window."""
        if not self.buffered():
            self._marks = None
            return
        # It was written since the last sweep; how long ago is not known. After a long halt that would be too harsh.
        window = self._sweep.window_seconds
        self._mark(max(self._sweep.checked_at, now - window / 2) + window)
        self.check_marks(now)

    def _mark(self, deadline: float) -> None:
        """Note that all that is written must have left by ``deadline`` (monotonic seconds)."""
        if self._marks is None:
            self._marks = deque()
        while self._marks and self._marks[-1][1] >= deadline:
            self._marks.pop()
        if not self._marks or self._marks[-1][0] != self._written:
            self._marks.append((self._written, deadline))
            self._watch(self._marks[0][1])

    def check_marks(self, now: float) -> None:
        """Abort the peer if anything that waits has reached its deadline. ``now``: monotonic seconds."""
        marks, sent = self._marks, self._written - self.buffered()
        while marks and sent >= marks[0][0]:
            marks.popleft()
        if marks:
            if marks[0][1] <= now:
                marks.clear()
                self.drop_slow("frame older than the window")
            else:
                self._watch(marks[0][1])

    def _watch(self, deadline: float) -> None:
        """See what still waits at ``deadline`` (monotonic seconds), if no sweep comes before: by one timer."""
        if deadline < self._watched and self._sweep.call_at(deadline, self._ring):
            self._watched = deadline

    def _ring(self, deadline: float) -> None:
        if deadline == self._watched:  # else another timer was set after this one, for an earlier time
            self._watched = math.inf
        self.check_marks(deadline)


class Sweep:
    """Sweep over all connections, with what they share: limits, counters, and the way to end them all.

    One task serves the deadlines, the keepalive and the stall clock. They count ticks, not seconds: while the process
    is stopped or the loop is blocked no tick passes, so nobody is punished for what the server could not read. Only
    the window is in seconds, for nothing may leave after it.
    """

    def __init__(self, settings: Settings, clock: Clock, counters: Counters, shutdown: Callable[[], None]) -> None:
        """``shutdown``: called when the host begins to end."""
        self.connections: set[Connection] = set()  # until the descriptor of each is closed
        self.counters = counters
        self.shutdown = shutdown
        self.tick = 0
        self.max_bytes = settings.outbox_bytes  # that may wait for one peer
        self.max_message = settings.frame_bytes  # of one message of a peer
        self.window_seconds = settings.message_ttl  # that any byte may wait
        self.stall_ticks = ticks(settings.stall_timeout)  # that a peer may make no progress while bytes wait
        self.ping_ticks = ticks(settings.ping_interval)  # of silence before a ping, and then before the end
        self.idle_ticks = ticks(settings.idle_timeout) if settings.idle_timeout else _NEVER  # of silence without pings
        self.checked_at = clock.monotonic()  # when the last sweep began
        self._clock = clock

    def call_at(self, deadline: float, call: Callable[[float], None]) -> bool:
        """Call ``call(deadline)`` then (monotonic seconds); return False, and do not, if a sweep comes before."""
        seconds = deadline - self._clock.monotonic()
        soon = seconds < SWEEP_SECONDS
        if soon:
            self._clock.call_later(max(0.0, seconds), call, deadline)
        return soon

    async def run(self) -> None:
        """Check until cancelled. Also measures the lag of the event loop."""
        while True:
            due = self._clock.monotonic() + SWEEP_SECONDS
            await self._clock.sleep(SWEEP_SECONDS)
            self.counters.lag.add(max(0.0, self._clock.monotonic() - due))
            for _ in range(2):  # first the sockets: what they bring may be what a deadline waits for
                await asyncio.sleep(0)
            self.tick += 1
            now = self._clock.monotonic()
            for place, connection in enumerate(list(self.connections), 1):
                try:
                    connection.check(now)
                except Exception as exception:  # a bug with one connection must not stop the checks of all
                    logger.opt(exception=exception).error("connection check failed")
                if not place % STRIDE:
                    await asyncio.sleep(0)
            self.checked_at = now


def ticks(seconds: float) -> int:
    """Return the ticks after which at least so many seconds have passed."""
    return math.ceil(seconds / SWEEP_SECONDS) + 1
