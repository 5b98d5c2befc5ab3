"""What every actor is: a mailbox, one task that takes events from it, an end, and a report of what went wrong.

An actor takes events in the order in which they were posted, and nobody else touches its state. An exception costs
the event that raised it. The end is an event too: mail before it is handled, mail behind it is ``undelivered``.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Callable, Generic, Optional, TypeVar

from loguru import logger

from chat_actors.clock import Clock

Event = TypeVar("Event")

MOST_CRASHES = 5  # so many events may fail within CRASH_SECONDS; one more, and the actor gives up
CRASH_SECONDS = 30.0
HIGH_WATER = 1024  # events that may wait in a mailbox before senders are expected to wait


class Mailbox(asyncio.Queue[Optional[Event]]):
    """Address of an actor. ``put_nowait`` never waits and never fails; who can wait asks ``crowded`` first."""

    _queue: deque[Optional[Event]]  # asyncio.Queue's own, which its subclasses fill and empty

    def __init__(self) -> None:
        super().__init__()
        self._undelivered: Optional[Callable[[Event], None]] = None  # takes all mail once the actor has ended
        self._senders: list[asyncio.Future[None]] = []  # that wait until the actor has caught up

    def _put(self, event: Optional[Event]) -> None:
        """Where ``asyncio.Queue`` lets a subclass say what becomes of an item."""
        if self._undelivered is None:
            self._queue.append(event)
        elif event is not None:
            self._undelivered(event)

    @property
    def ended(self) -> bool:
        """Whether the actor takes no more mail."""
        return self._undelivered is not None

    def end(self, undelivered: Callable[[Event], None]) -> None:
        """Give what is in the mailbox, and whatever comes after this, to ``undelivered`` (for the actor alone)."""
        self._undelivered = undelivered
        while not self.empty():
            self._put(self.get_nowait())
        self.release_senders()

    def crowded(self) -> bool:
        """Whether a sender is expected to wait for ``drained`` before it posts more."""
        return self.qsize() >= HIGH_WATER

    def drained(self) -> asyncio.Future[None]:
        """A future that is done when the actor has caught up, or has ended."""
        caught_up = asyncio.get_running_loop().create_future()
        self._senders.append(caught_up)
        return caught_up

    def release_senders(self) -> None:
        """Let the senders go on that wait (for the actor alone)."""
        if not self._senders:
            return
        senders, self._senders = self._senders, []
        for caught_up in senders:
            if not caught_up.done():
                caught_up.set_result(None)


class Actor(ABC, Generic[Event]):
    """Runs from its construction, in the running loop. Subclasses handle one event each in ``handle``."""

    def __init__(self, clock: Clock, **fields: Any) -> None:
        self.mailbox: Mailbox[Event] = Mailbox()
        self.running = True  # False as soon as it is decided that no more mail will be handled
        self._clock = clock
        self._log = logger.bind(**fields)
        self._crashes: deque[float] = deque(maxlen=MOST_CRASHES + 1)
        self.task: asyncio.Task[None] = asyncio.create_task(self._run())

    def post(self, event: Event) -> None:
        """Put an event into the mailbox; never waits."""
        self.mailbox.put_nowait(event)

    def stop(self) -> None:
        """End behind all the mail there is; ``task`` is done when it has ended. Can be called twice."""
        self.mailbox.put_nowait(None)

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Take one event. What it raises costs this event only, unless too many events raise in a short time."""

    async def turn(self, event: Event) -> None:
        """Take the event that came, and as many of those behind it as suits the actor."""
        self.attempt(event)

    def undelivered(self, event: Event) -> None:
        """An event that came behind the end: dropped, unless the actor knows better."""

    async def ended(self) -> None:
        """The last thing the actor does."""

    def attempt(self, event: Event) -> None:
        """Handle one event and contain what it raises."""
        try:
            self.handle(event)
        except Exception as exception:
            self.crashed(event, exception)

    def crashed(self, event: Event, exception: Exception) -> None:
        """Report that an event was lost to a bug; past the budget, end the actor."""
        now = self._clock.monotonic()
        self._crashes.append(now)
        if len(self._crashes) > MOST_CRASHES and now - self._crashes[0] < CRASH_SECONDS:
            self.running = False
        outcome = "the event is skipped" if self.running else "the actor gives up"
        self._log.bind(event=type(event).__name__, outcome=outcome).opt(exception=exception).error("crashed")

    async def _run(self) -> None:
        take = self.mailbox.get
        try:
            while self.running:
                event = await take()
                if event is None:
                    break
                try:
                    await self.turn(event)
                except Exception as exception:
                    self.crashed(event, exception)
                del event  # the name would keep the event alive until the next one comes
                if not self.mailbox.crowded():
                    self.mailbox.release_senders()
                if not self.mailbox.empty():  # nobody has two turns in a row
                    await asyncio.sleep(0)
        finally:
            self.running = False
            self.mailbox.end(self.undelivered)
            await self.ended()
