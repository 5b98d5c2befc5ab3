"""One turn's way from a topic to its members: frames in order, joined once, one write for each member."""

import asyncio
from collections.abc import Iterator
from typing import Optional

from loguru import logger

from chat_actors.actors.outbox import Carrier, Outbox, Own
from chat_actors.room.members import Member

MOST_FRAMES = 256  # of one fan-out, at most; what is left waits for the next turn
MOST_BYTES = 256 * 1024
STRIDE_MEMBERS = 256  # written to, or
STRIDE_BYTES = 64 * 1024  # written, before other tasks get their turn


class Audience:
    """The members of a topic by the way to them: one by one, or by the carrier of the others."""

    def __init__(self) -> None:
        self.near: dict[Outbox, Member] = {}  # written to one by one
        self.carrier: Optional[Carrier] = None  # of all others

    def add(self, outbox: Outbox, member: Member) -> None:
        if outbox.carrier is None:
            self.near[outbox] = member
        else:
            self.carrier = outbox.carrier

    def remove(self, outbox: Outbox) -> None:
        self.near.pop(outbox, None)

    def clear(self) -> None:
        self.near.clear()


class FanOut:
    """What one turn has to say: messages to all, notices to those who asked for them, acks to the senders."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._bytes = 0
        self._notices: list[int] = []  # places of the frames that are only for members with ``events``
        self._own: Own = {}

    @classmethod
    def of(cls, frames: list[bytes], notices: list[int], own: Own) -> "FanOut":
        """One that was made elsewhere."""
        fan_out = cls()
        fan_out._frames, fan_out._notices, fan_out._own = frames, notices, own
        return fan_out

    def __len__(self) -> int:
        return len(self._frames)

    def full(self) -> bool:
        """Whether it is time to write."""
        return len(self._frames) >= MOST_FRAMES or self._bytes >= MOST_BYTES

    def message(self, frame: bytes, sender: Outbox, ack: bytes) -> None:
        """A frame for everyone; for its sender, the ack in its place. ``frame`` is empty for a duplicate."""
        place = len(self._frames), ack
        own = self._own.get(sender)
        if own is None:
            self._own[sender] = [place]
        else:
            own.append(place)
        self._frames.append(frame)
        self._bytes += len(frame)

    def notice(self, frame: bytes, about: Optional[Outbox] = None) -> None:
        """A frame for those with ``events``, except the one it is about."""
        place = len(self._frames)
        self._notices.append(place)
        if about is not None:
            self._own.setdefault(about, []).append((place, b""))
        self._frames.append(frame)
        self._bytes += len(frame)

    async def write(self, members: dict[Outbox, Member], carrier: Optional[Carrier] = None) -> None:
        """Write to each member once, and to the carrier of the others. Only the caller changes members meanwhile."""
        if carrier is not None:
            await carrier.carry(self._frames, self._notices, self._own)
        for _ in self.strides(members):
            await asyncio.sleep(0)

    def is_short(self, members: int) -> bool:
        """Whether so many members can be written to without giving others their turn in between."""
        return members <= STRIDE_MEMBERS and members * sum(map(len, self._frames)) <= STRIDE_BYTES

    def strides(self, members: dict[Outbox, Member]) -> Iterator[None]:
        """Write to each member once; it is the others' turn whenever this yields."""
        frames, own, hidden = self._frames, self._own, [(place, b"") for place in self._notices]
        everything = frames[0] if len(frames) == 1 else b"".join(frames)
        plain = _spliced(frames, hidden) if hidden else everything
        stride = max(1, min(STRIDE_MEMBERS, STRIDE_BYTES // (len(everything) or 1)))
        count = 0
        for outbox in members:  # what else is known of a member lies elsewhere in memory, and is seldom needed
            sees_all = not hidden or members[outbox].events
            data = everything if sees_all else plain
            if outbox in own:
                pieces = own[outbox]
                data = _spliced(frames, pieces if sees_all else sorted(pieces + hidden))
            if data:
                try:
                    outbox.write(data)
                except Exception as exception:  # a bug in one way out must not cost the others their frames
                    logger.opt(exception=exception).error("write failed")
                count += 1
                if not count % stride:
                    yield


def _spliced(frames: list[bytes], pieces: list[tuple[int, bytes]]) -> bytes:
    """The frames joined, with each piece in the place of the frame that stands there."""
    parts: list[bytes] = []
    start = 0
    for place, piece in pieces:
        parts += frames[start:place]
        parts.append(piece)
        start = place + 1
    parts += frames[start:]
    return b"".join(parts)
