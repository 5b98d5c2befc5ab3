"""Base of every actor: a mailbox, one task that handles its events, and the log lines for handlers that fail.

An actor handles events in the order of posting, and only the actor touches its state. An exception costs the event
whose handler raised it. The end is an event too: mail before it is handled, mail after it goes to ``undelivered``.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Callable, Generic, Optional, TypeVar

from loguru import logger

from chat_actors.clock import Clock

Event = TypeVar("Event")

MAX_CRASHES = 5  # handlers that may fail within CRASH_SECONDS; one more stops the actor
CRASH_SECONDS = 30.0
HIGH_WATER = 1024  # events in a mailbox from which on its senders should wait
TURN_EVENTS = 256  # that one turn takes from the mailbox, at most, and
TURN_SECONDS = 0.005  # that it goes on taking them: then other tasks run


class Mailbox(asyncio.Queue[Optional[Event]]):
    """Address of an actor. ``put_nowait`` never waits and never fails; a sender that can wait checks ``crowded``."""

    _queue: deque[Optional[Event]]  # of asyncio.Queue, whose subclasses may fill it

    def __init__(self) -> None:
        super().__init__()
        self._undelivered: Optional[Callable[[Event], None]] = None  # takes all mail after the end of the actor
        self._senders: list[asyncio.Future[None]] = []  # waiting for ``drained``

    def _put(self, event: Optional[Event]) -> None:
        """Store an item, or pass it on after the end: the hook of ``asyncio.Queue`` for its subclasses."""
        if self._undelivered is None:
            self._queue.append(event)
        elif event is not None:
            self._undelivered(event)

    @property
    def ended(self) -> bool:
        """Whether the actor has ended and handles no more mail."""
        return self._undelivered is not None

    def end(self, undelivered: Callable[[Event], None]) -> None:
        """Pass all mail, now and later, to ``undelivered``. Called only by the actor."""
        self._undelivered = undelivered
        while not self.empty():
            self._put(self.get_nowait())
        self.release_senders()

    def crowded(self) -> bool:
        """Return whether a sender should wait for ``drained`` before it posts more."""
        return self.qsize() >= HIGH_WATER

    def drained(self) -> asyncio.Future[None]:
        """Return a future that is done when the mailbox is crowded no more, or the actor has ended."""
        caught_up = asyncio.get_running_loop().create_future()
        self._senders.append(caught_up)
        return caught_up

    def release_senders(self) -> None:
        """Complete the futures that ``drained`` returned. Called only by the actor."""
        if not self._senders:
            return
        senders, self._senders = self._senders, []
        for caught_up in senders:
            if not caught_up.done():
                caught_up.set_result(None)


class Actor(ABC, Generic[Event]):
    """Owner of a piece of state: one task, started by the constructor in the running loop, handles its events."""

    def __init__(self, clock: Clock, **fields: Any) -> None:
        """``fields`` are bound to each log line of the actor."""
        self.mailbox: Mailbox[Event] = Mailbox()
        self.running = True  # False: the actor handles no more mail
        self._clock = clock
        self._log = logger.bind(**fields)
        self._crashes: deque[float] = deque(maxlen=MAX_CRASHES + 1)
        self.task: asyncio.Task[None] = asyncio.create_task(self._run())

    def post(self, event: Event) -> None:
        """Post an event to the actor; never waits."""
        self.mailbox.put_nowait(event)

    def stop(self) -> None:
        """End the actor after the mail that waits now; then ``task`` is done. May be called twice."""
        self.mailbox.put_nowait(None)

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Handle one event. An exception costs this event only, until more than MAX_CRASHES stop the actor."""

    async def turn(self, event: Event) -> None:
        """Handle an event, and those that wait after it; a subclass may do at once what all of them need."""
        self.drain(event, self._clock.monotonic())

    def drain(self, event: Event, now: float) -> int:
        """Handle an event, then the mail that waits, within the bounds of a turn; return the count of events.

        ``now``: monotonic seconds at the beginning of the turn.
        """
        taken, mailbox = 1, self.mailbox
        self.attempt(event)
        while self.running and taken < TURN_EVENTS and not mailbox.empty() and not self.turn_is_full():
            if self._clock.monotonic() - now > TURN_SECONDS:
                break
            following = mailbox.get_nowait()
            if following is None:
                self.running = False
                break
            taken += 1
            self.attempt(following)
        return taken

    def turn_is_full(self) -> bool:
        """Return whether a turn must take no more mail; a subclass may have bounds of its own."""
        return False

    def undelivered(self, event: Event) -> None:
        """Dispose of an event that came after the end; does nothing by default."""

    async def ended(self) -> None:
        """Clean up, as the last step of the task; does nothing by default."""

    def attempt(self, event: Event) -> None:
        """Handle one event, and log an exception instead of raising it."""
        try:
            self.handle(event)
        except Exception as exception:
            self.crashed(event, exception)

    def crashed(self, event: object, exception: Exception) -> None:
        """Log that a handler failed; stop the actor if more than MAX_CRASHES failed within CRASH_SECONDS."""
        now = self._clock.monotonic()
        self._crashes.append(now)
        if len(self._crashes) > MAX_CRASHES and now - self._crashes[0] < CRASH_SECONDS:
            self.running = False
        outcome = "event skipped" if self.running else "actor stopped"
        self._log.bind(event=type(event).__name__, outcome=outcome).opt(exception=exception).error("handler failed")

    async def _run(self) -> None:
        take = self.mailbox.get
        try:
            while self.running:
                event = await take()
                if event is None:
                    break
                try:
                    await self.turn(event)
                except Exception as exception:  # of no event: ``attempt`` looks after those
                    self.crashed(self, exception)
                del event  # else the name keeps the event alive until the next event
                if not self.mailbox.crowded():
                    self.mailbox.release_senders()
                if not self.mailbox.empty():  # one turn, then the other tasks
                    await asyncio.sleep(0)
        finally:
            self.running = False
            self.mailbox.end(self.undelivered)
            await self.ended()
