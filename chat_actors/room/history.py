"""Messages that a topic stores: in order, for the length of the window, within bounds. No asyncio."""

from collections import deque
from typing import Optional

from msgspec import Struct

from chat_actors.protocol.frames import REPLAYED_BYTES, Ack, ReplayGap

Refs = dict[str, Ack]  # the acks of a member's stored messages, by ref


class Stored(Struct, weakref=True):
    """Stored message as its finished frame, so that its text is kept once, until ``deadline`` (monotonic seconds).

    ``refs`` are those of its sender, and ``refs[ref]`` is its ack; ``refs`` is None if it has no ``ref``.
    """

    id: int
    frame: bytes
    deadline: float
    refs: Optional[Refs] = None
    ref: str = ""

    def remaining_ms(self, now: float) -> int:
        """Return the milliseconds until the deadline, at least 1; ``now``: monotonic seconds."""
        return max(1, round((self.deadline - now) * 1000))


class History:
    """Stored messages of one topic, oldest first. A ref is deleted with its message.

    ``evict`` enforces the bounds: ``max_messages``, and ``max_bytes`` of their frames.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.last_id = 0  # of the newest message, stored or deleted
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._stored: deque[Stored] = deque()
        self._bytes = 0  # of the stored frames
        self._evicted = 0  # highest id that was deleted before its deadline

    def add(self, message: Stored) -> None:
        """Store a message; its id must be above ``last_id``."""
        self.last_id = message.id
        self._bytes += len(message.frame)
        self._stored.append(message)

    def restore(self, messages: list[Stored], last_id: int) -> None:
        """Take over the messages of another history, oldest first; ids up to ``last_id`` are used."""
        for message in messages:
            if message.id > self.last_id:
                self.add(message)
        self.last_id = max(self.last_id, last_id)

    def __len__(self) -> int:
        return len(self._stored)

    def evict(self) -> int:
        """Delete the oldest messages beyond the bounds; return their count."""
        before = len(self._stored)
        while len(self._stored) > self._max_messages or self._bytes > self._max_bytes:
            self._evicted = self._stored[0].id
            self._forget_oldest()
        return before - len(self._stored)

    def expire(self, now: float) -> int:
        """Delete the messages whose deadline is not after ``now`` (monotonic seconds); return their count."""
        before = len(self._stored)
        while self._stored and self._stored[0].deadline <= now:
            self._forget_oldest()
        return before - len(self._stored)

    def clear(self) -> None:
        """Delete all messages. The refs of the members are left as they are."""
        self._stored.clear()
        self._bytes = 0

    @property
    def oldest_deadline(self) -> Optional[float]:
        """Deadline of the oldest message (monotonic seconds); None if there is none."""
        return self._stored[0].deadline if self._stored else None

    @property
    def deleted_through(self) -> int:
        """Highest id up to which all messages are deleted; 0 if none is."""
        return self._stored[0].id - 1 if self._stored else self.last_id

    def gone_through(self, now: float) -> int:
        """Return the highest id up to which no message may be told: all are deleted, or at their deadline."""
        gone = self.deleted_through
        for message in self._stored:
            if now < message.deadline:
                break
            gone = message.id
        return gone

    def after(self, since: int, max_bytes: int) -> list[Stored]:
        """Return the oldest stored messages with an id above ``since``, at least one if there is one.

        Beyond the first, their frames have at most ``max_bytes`` when they are replayed.
        """
        stored = self._stored
        chosen: list[Stored] = []
        for place in range(self._place_after(since), len(stored)):
            message = stored[place]
            max_bytes -= len(message.frame) + REPLAYED_BYTES
            if max_bytes < 0 and chosen:
                break
            chosen.append(message)
        return chosen

    def remaining_ms(self, message_id: int, now: float) -> int:
        """Return ``Stored.remaining_ms`` of the message with this id; 1 if it is not stored."""
        place = self._place_after(message_id - 1)
        message = self._stored[place] if place < len(self._stored) else None
        return message.remaining_ms(now) if message is not None and message.id == message_id else 1

    def gap(self, since: int, now: float) -> Optional[ReplayGap]:
        """Return the range of ids above ``since`` whose messages are gone; None if there is none."""
        through = self.gone_through(now)
        if since >= through:
            return None
        return ReplayGap(since + 1, through, "evicted" if self._evicted > since else "expired")

    def _place_after(self, since: int) -> int:
        """Return the place of the oldest stored message with an id above ``since``; their count if there is none."""
        stored, place = self._stored, min(max(0, since - self.deleted_through), len(self._stored))
        while place and stored[place - 1].id > since:  # after a restore, ids may be missing
            place -= 1
        return place

    def _forget_oldest(self) -> None:
        message = self._stored.popleft()
        self._bytes -= len(message.frame)
        if message.refs is not None:
            del message.refs[message.ref]
