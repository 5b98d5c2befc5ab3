"""What a topic remembers of its messages: in order, for the window's length, within bounds. No asyncio."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Optional

from msgspec import Struct

from chat_actors.protocol.frames import Ack, ReplayGap

Refs = dict[str, Ack]  # a member's own references, and how the messages that had them were acknowledged


class Stored(Struct, weakref=True):
    """A message until ``deadline`` (monotonic seconds), as the frame that was sent: no text is kept twice.

    ``refs[ref]``: its sender's reference, where it gave one.
    """

    id: int
    frame: bytes
    deadline: float
    refs: Optional[Refs] = None
    ref: str = ""


class History:
    """The messages of one topic, oldest first, within bounds. A ref is forgotten with its message."""

    def __init__(self, most_messages: int, most_bytes: int) -> None:
        self.last_id = 0  # the newest message's
        self._most_messages = most_messages
        self._most_bytes = most_bytes  # of frames
        self._stored: deque[Stored] = deque()
        self._bytes = 0  # of their frames
        self._evicted = 0  # highest id that was deleted before its time

    def add(self, message: Stored) -> None:
        """Remember the message that follows the last one."""
        self.last_id = message.id
        self._bytes += len(message.frame)
        self._stored.append(message)

    def restore(self, messages: list[Stored], last_id: int) -> None:
        """Go on from what was remembered elsewhere; ids up to ``last_id`` are used up."""
        for message in messages:
            if message.id > self.last_id:
                self.add(message)
        self.last_id = max(self.last_id, last_id)

    def __len__(self) -> int:
        return len(self._stored)

    def evict(self) -> int:
        """Forget the oldest messages that are too many or too much; returns how many."""
        before = len(self._stored)
        while len(self._stored) > self._most_messages or self._bytes > self._most_bytes:
            self._evicted = self._stored[0].id
            self._forget_oldest()
        return before - len(self._stored)

    def expire(self, now: float) -> int:
        """Forget the messages whose deadline has come; returns how many."""
        before = len(self._stored)
        while self._stored and self._stored[0].deadline <= now:
            self._forget_oldest()
        return before - len(self._stored)

    def clear(self) -> None:
        """Forget all."""
        self._stored.clear()
        self._bytes = 0

    @property
    def oldest_deadline(self) -> Optional[float]:
        """When the next message has to go; None where there is none."""
        return self._stored[0].deadline if self._stored else None

    @property
    def deleted_through(self) -> int:
        """Messages up to this id have been deleted; 0 if none."""
        return self._stored[0].id - 1 if self._stored else self.last_id

    def after(self, since: int) -> Iterator[Stored]:
        """The messages with an id above ``since``, oldest first."""
        first = min(max(0, since - self.deleted_through), len(self._stored))
        while first and self._stored[first - 1].id > since:  # where lives of the topic have met there are ids unused
            first -= 1
        return islice(self._stored, first, None)

    def gap(self, since: int) -> Optional[ReplayGap]:
        """The messages above ``since`` that are lost; None where none is."""
        through = self.deleted_through
        if since >= through:
            return None
        return ReplayGap(since + 1, through, "evicted" if self._evicted > since else "expired")

    def _forget_oldest(self) -> None:
        message = self._stored.popleft()
        self._bytes -= len(message.frame)
        if message.refs is not None:
            del message.refs[message.ref]
