"""Clock, outboxes and memory for tests of actors, and both sides of a connection for tests of connections.

No sockets and no sleep: the order of events decides.
"""

import asyncio
import functools
import gc
import json
import socket
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from itertools import filterfalse
from typing import Any, Callable, Optional, Union

from loguru import logger
from msgspec import Struct

from chat_actors.actors.base import Mailbox
from chat_actors.actors.events import TopicEvent
from chat_actors.actors.outbox import Outbox
from chat_actors.clock import Clock
from chat_actors.connection.asgi import AsgiEvent
from chat_actors.connection.base import SWEEP_SECONDS, Connection, Receiver
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.decoding import Data
from chat_actors.protocol.frames import payloads

Frame = dict[str, Any]

POISON = "\ud800"  # cannot be encoded, so that it fails in a topic: no session lets it through


def in_clean_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an ``async`` test in a plain asyncio loop of its own. What goes wrong there unseen fails the test."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        complaints: list[dict[str, Any]] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            await test(*args, **kwargs)

        asyncio.run(main())
        gc.collect()  # what was never retrieved is told when it is freed
        gc.freeze()  # what is left is older than the next test, whose collection need not go through it
        assert not complaints

    return run


async def settle(turns: int = 200) -> None:
    """Let all go on that can go on. Bounded; far more turns of the loop than any event here needs."""
    ready = getattr(asyncio.get_running_loop(), "_ready", True)  # callbacks that wait, in asyncio's own loop
    for _ in range(turns):
        await asyncio.sleep(0)
        if not ready:
            break


def tasks() -> set[Any]:
    """The tasks of this loop that have not ended."""
    return set(asyncio.all_tasks())


class FakeTimer:
    """Scheduled call of a FakeClock."""

    def __init__(self, clock: "FakeClock", seconds: float, call: Callable[[], object]) -> None:
        self.clock = clock
        self.seconds = seconds
        self.due = clock.now + seconds
        self.call = call
        self.over = False

    def cancel(self) -> None:
        self.over = True


class FakeTimers:
    """Scheduled calls that are not due yet; several clocks may share one instance."""

    def __init__(self) -> None:
        self._set: list[FakeTimer] = []

    def add(self, timer: FakeTimer) -> None:
        self._set = [one for one in self._set if not one.over]
        self._set.append(timer)

    @property
    def pending(self) -> int:
        """How many are neither due nor cancelled."""
        return sum(not timer.over for timer in self._set)

    def ring(self, which: Callable[[FakeTimer], bool]) -> None:
        """Make those ring, in the order of their time; each may cancel those behind it."""
        for timer in sorted(filter(which, self._set), key=lambda one: one.due):
            if not timer.over:
                timer.over = True
                timer.call()


class FakeClock(Clock):
    """Clock that only ``advance`` moves. ``wall_time`` may be set, as by an administrator."""

    def __init__(self, timers: "Optional[FakeTimers]" = None) -> None:
        self.now = 1000.0
        self.wall_time = 1_690_000_000.5
        self._sleepers: dict[asyncio.Future[None], float] = {}
        self._timers = FakeTimers() if timers is None else timers
        self.monotonic = lambda: self.now
        self.wall = lambda: self.wall_time
        self.sleep = self._sleep

    @property
    def asleep(self) -> int:
        """How many wait for time to pass."""
        return len(self._sleepers)

    @property
    def scheduled(self) -> int:
        """How many calls are scheduled, by all clocks that share the timers."""
        return self._timers.pending

    async def advance(self, seconds: float) -> None:
        """Let so much time pass, and all happen that it brings about."""
        self.now += seconds
        self.wall_time += seconds
        self._timers.ring(lambda timer: timer.clock is self and timer.due <= self.now)
        for awake, until in self._sleepers.items():
            if until <= self.now and not awake.done():
                awake.set_result(None)
        await settle()

    async def elapse(self, seconds: float) -> None:
        """Let so much time pass in sweeps of the connections, so that each of its ticks counts."""
        await settle()
        for _ in range(round(seconds / SWEEP_SECONDS)):
            await self.advance(SWEEP_SECONDS)

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> "FakeTimer":
        timer = FakeTimer(self, seconds, functools.partial(call, *args))
        self._timers.add(timer)
        return timer

    async def _sleep(self, seconds: float) -> None:
        awake = asyncio.get_running_loop().create_future()
        self._sleepers[awake] = self.now + seconds
        try:
            await awake
        finally:
            del self._sleepers[awake]


class FakeMember(Outbox):
    """Member as the actors see it: an outbox that records, and the reply to its join."""

    def __init__(self) -> None:  # nothing of a real outbox is wanted
        self.writes: list[bytes] = []
        self.closed: Optional[CloseCode] = None
        self.reply: asyncio.Future[Mailbox[TopicEvent]] = asyncio.get_running_loop().create_future()
        self.on_close: Optional[Callable[[], None]] = None

    def write(self, frames: bytes) -> None:
        self.writes.append(frames)

    def write_answer(self, frames: bytes) -> None:
        self.writes.append(frames)

    def close(self, code: CloseCode) -> None:
        if self.closed is None:  # the first call counts
            self.closed = code
            if self.on_close is not None:
                self.on_close()

    @property
    def frames(self) -> list[Frame]:
        """What it was sent."""
        return [json.loads(payload) for write in self.writes for payload in payloads(write)]

    def take(self) -> list[Frame]:
        """What it was sent since the last ``take``; forgets it."""
        frames = self.frames
        self.writes.clear()
        return frames

    @property
    def username(self) -> str:
        """The name by which it joined."""
        (joined,) = (frame for frame in self.frames if frame["type"] == "joined")
        return str(joined["username"])

    @property
    def messages(self) -> list[str]:
        """The texts of the messages it was sent."""
        return [frame["message"] for frame in self.frames if frame["type"] == "message"]


@contextmanager
def log_lines() -> Iterator[list[str]]:
    """The log lines of a block, each with its level, fields and traceback."""
    lines: list[str] = []
    sink = logger.add(
        lambda line: lines.append(str(line)),
        level="DEBUG",
        format="{level} {message} {extra}",
        diagnose=False,
        backtrace=False,
    )
    try:
        yield lines
    finally:
        logger.remove(sink)


def everything() -> list[object]:
    """Every object in the process that the garbage collector knows of or can reach."""
    gc.unfreeze()  # it tells of none that are frozen
    gc.collect()
    found = gc.get_objects()
    ahead = gc.get_referents(*found)
    reached: dict[int, object] = {}  # by id, what it does not know of itself
    while ahead:
        new = {id(thing): thing for thing in filterfalse(gc.is_tracked, ahead)}
        for known in new.keys() & reached.keys():
            del new[known]
        reached.update(new)
        ahead = gc.get_referents(*new.values())
        for thing in new.values():
            if isinstance(thing, Struct):  # the collector may have been told not to look into it
                ahead += [getattr(thing, name, None) for name in thing.__struct_fields__]
    return [*found, *reached.values()]


def remains(*words: str) -> bool:
    """Whether any string or bytes in the process hold these words in a row (so tests keep them apart)."""
    return remaining(words)[0]


def remaining(*phrases: Sequence[str]) -> list[bool]:
    """``remains`` for each of several phrases, in one search."""
    texts = [" ".join(words) for words in phrases]
    data = [text.encode() for text in texts]
    found = [False] * len(phrases)
    for thing in everything():
        if isinstance(thing, (str, bytes, bytearray)):
            for place, own in enumerate(texts if isinstance(thing, str) else data):
                if own in thing and thing is not own:  # type: ignore[operator]
                    found[place] = True
    return found


class FakeTransport(asyncio.Transport):
    """Transport whose peer reads only if ``peer_reads``; else the bytes are added to ``unread``.

    It never loses its connection by itself, only when the test calls ``lose``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.sock: Optional[socket.socket] = None
        self.written = b""
        self.unread = 0
        self.high_water: Optional[int] = None  # unread bytes above which the protocol is told to pause; None: never
        self.paused = False  # the protocol: it was told so
        self.peer_reads = True
        self.reading = True
        self.half_closes = True  # else as with TLS
        self.half_closed = False
        self.closing = False
        self.aborted = False
        self.lost = False
        self.error: Optional[Exception] = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.sock if name == "socket" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def lose(self, error: Optional[Exception] = None) -> None:
        """The descriptor is closed."""
        assert not self.lost
        self.closing = self.lost = True
        self.protocol.connection_lost(error)

    # The sending side

    def write(self, data: Union[bytes, bytearray, "memoryview[Any]"]) -> None:
        assert not self.half_closed
        if self.error is not None:
            raise self.error
        self.written += data
        if not self.peer_reads:
            self.unread += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def set_write_buffer_limits(self, high: Optional[int] = None, low: Optional[int] = None) -> None:
        self.high_water = high
        self._pause_or_resume()

    def read(self, count: int) -> None:
        """The peer reads so many bytes of those unread."""
        self.unread -= count
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        """Tell the protocol to pause above the high-water mark, and to resume when nothing waits."""
        above = self.high_water is not None and self.unread > self.high_water
        if above and not self.paused:
            self.paused = True
            self.protocol.pause_writing()
        elif self.paused and not self.unread and not self.aborted and not self.lost:
            self.paused = False
            self.protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return self.half_closes

    def write_eof(self) -> None:
        assert self.half_closes and not self.half_closed
        self.half_closed = True

    # The receiving side

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    # The end

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True
        self.unread = 0


class FakeServer:
    """ASGI server: ``sent`` are its events to the peer, ``events`` those for the application."""

    def __init__(self, peer_answers: bool = True) -> None:
        """``peer_answers``: the close."""
        self.sent: list[AsgiEvent] = []
        self.events: asyncio.Queue[AsgiEvent] = asyncio.Queue()
        self.peer_reads = True
        self.peer_answers = peer_answers
        self.let_pass = asyncio.Semaphore(0)  # while the peer does not read: one event for each release
        self.error: Optional[Exception] = None

    async def receive(self) -> AsgiEvent:
        return await self.events.get()

    async def send(self, event: AsgiEvent) -> None:
        if not self.peer_reads:
            await self.let_pass.acquire()
        if self.error is not None:
            raise self.error
        self.sent.append(event)
        if event["type"] == "websocket.close" and self.peer_answers:
            self.events.put_nowait({"type": "websocket.disconnect", "code": event.get("code", 1000)})

    def read_on(self) -> None:
        """The peer reads again, and all that waits."""
        self.peer_reads = True
        self.let_pass.release()  # one sender waits at most

    @property
    def texts(self) -> list[str]:
        return [event["text"] for event in self.sent if event["type"] == "websocket.send"]

    @property
    def closes(self) -> list[int]:
        return [event["code"] for event in self.sent if event["type"] == "websocket.close"]


class FakeReceiver(Receiver):
    """Session as its connection sees it: records, and fails if it hears anything after the end.

    Like a session it closes the connection if a message is too big.
    """

    def __init__(self, connection: Connection) -> None:
        self.heard: list[Data] = []  # messages
        self.counted = 0  # frames that are no message
        self.deadlines = 0  # that were reached
        self.ended: list[str] = []  # the reason, once the connection has ended
        self.on_message: Callable[[], object] = lambda: None
        self.on_frame: Callable[[], object] = lambda: None
        self.on_end: Callable[[], object] = lambda: None
        self._connection = connection
        connection.receiver = self

    def receive(self, data: Data) -> None:
        assert not self.ended
        self.heard.append(data)
        self.on_message()

    def count_frame(self) -> None:
        assert not self.ended
        self.counted += 1
        self.on_frame()

    def refuse_big(self) -> None:
        assert not self.ended
        self._connection.close(CloseCode.FRAME_TOO_BIG)

    def overdue(self) -> None:
        assert not self.ended
        self.deadlines += 1

    def end(self, reason: str) -> None:
        assert not self.ended
        self.ended.append(reason)
        self.on_end()
