"""Fan-out of one turn of a topic: its frames in order, joined once, with one write for each member."""

import asyncio
from collections.abc import Iterator
from typing import Optional

from loguru import logger

from chat_actors.actors.outbox import Carrier, Outbox, Overrides
from chat_actors.room.members import Member

MAX_FRAMES = 256  # of one fan-out, or
MAX_BYTES = 256 * 1024  # of one fan-out: then it is full, and the next turn handles the rest of the mail
STRIDE_MEMBERS = 256  # that one stride writes to, at most
STRIDE_BYTES = 64 * 1024  # that one stride writes, at most; then other tasks run


class Audience:
    """Members of a topic by the path to them: those that the topic writes to, and the carrier for all others."""

    def __init__(self) -> None:
        self.direct: dict[Outbox, Member] = {}  # the topic writes to each
        self.carrier: Optional[Carrier] = None  # None: there are no others

    def add(self, outbox: Outbox, member: Member) -> None:
        """Add a member by its path: to ``direct``, or through the carrier of its outbox."""
        if outbox.carrier is None:
            self.direct[outbox] = member
        else:
            self.carrier = outbox.carrier

    def remove(self, outbox: Outbox) -> None:
        """Remove a member. No-op if the carrier writes to it; the carrier stays."""
        self.direct.pop(outbox, None)

    def clear(self) -> None:
        """Remove all members that the topic writes to."""
        self.direct.clear()


class FanOut:
    """Output of one turn: messages to all members, notices to members with ``events``, acks to the senders."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._bytes = 0
        self._notices: list[int] = []  # places of the frames that are only for members with ``events``
        self._overrides: Overrides = {}

    @classmethod
    def of(cls, frames: list[bytes], notices: list[int], overrides: Overrides) -> "FanOut":
        """Make a fan-out from the parts that a carrier took."""
        fan_out = cls()
        fan_out._frames, fan_out._notices, fan_out._overrides = frames, notices, overrides
        return fan_out

    def __len__(self) -> int:
        return len(self._frames)

    def full(self) -> bool:
        """Return whether it has so many frames or bytes that it must be written."""
        return len(self._frames) >= MAX_FRAMES or self._bytes >= MAX_BYTES

    def message(self, frame: bytes, sender: Outbox, ack: bytes) -> None:
        """Add a frame for all members but its sender, which gets the ack. For a duplicate, ``frame`` is empty."""
        piece = len(self._frames), ack
        pieces = self._overrides.get(sender)
        if pieces is None:
            self._overrides[sender] = [piece]
        else:
            pieces.append(piece)
        self._frames.append(frame)
        self._bytes += len(frame)

    def notice(self, frame: bytes) -> None:
        """Add a frame for the members with ``events``."""
        self._notices.append(len(self._frames))
        self._frames.append(frame)
        self._bytes += len(frame)

    def notices(self) -> bytes:
        """Return the frames that are for all members with ``events``."""
        return b"".join(self._frames[place] for place in self._notices)

    def until(self, place: int, outbox: Outbox, member: Member) -> bytes:
        """Return the first ``place`` frames, as this member gets them."""
        pieces = self._overrides.get(outbox, []) + ([] if member.events else [(one, b"") for one in self._notices])
        return _spliced(self._frames[:place], sorted(piece for piece in pieces if piece[0] < place))

    async def write(self, members: dict[Outbox, Member], carrier: Optional[Carrier] = None) -> None:
        """Write once to each of ``members``, and to the carrier. ``members`` must not change before this returns."""
        if carrier is not None:
            await carrier.carry(self._frames, self._notices, self._overrides)
        for _ in self.strides(members):
            await asyncio.sleep(0)

    def is_short(self, members: int) -> bool:
        """Return whether one stride can write to so many members."""
        return members <= STRIDE_MEMBERS and members * sum(map(len, self._frames)) <= STRIDE_BYTES

    def strides(self, members: dict[Outbox, Member]) -> Iterator[None]:
        """Write once to each member; yield after each stride, so that the caller can let other tasks run."""
        frames, overrides, hidden = self._frames, self._overrides, [(place, b"") for place in self._notices]
        everything = frames[0] if len(frames) == 1 else b"".join(frames)
        plain = _spliced(frames, hidden) if hidden else everything
        stride = max(1, min(STRIDE_MEMBERS, STRIDE_BYTES // (len(everything) or 1)))
        count = 0
        for outbox in members:  # the key alone, as a rule: reading each Member costs a cache miss
            sees_all = not hidden or members[outbox].events
            data = everything if sees_all else plain
            if outbox in overrides:
                pieces = overrides[outbox]
                data = _spliced(frames, pieces if sees_all else sorted(pieces + hidden))
            if data:
                try:
                    outbox.write(data)
                except Exception as exception:  # a bug in one outbox must not cost the other members their frames
                    logger.opt(exception=exception).error("member write failed")
                count += 1
                if not count % stride:
                    yield


def _spliced(frames: list[bytes], pieces: list[tuple[int, bytes]]) -> bytes:
    """Join the frames, with each piece instead of the frame at its place."""
    parts: list[bytes] = []
    start = 0
    for place, piece in pieces:
        parts += frames[start:place]
        parts.append(piece)
        start = place + 1
    parts += frames[start:]
    return b"".join(parts)
