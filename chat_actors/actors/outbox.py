"""A member's way out, as the actors see it: an interface. Its implementations belong to ``connection``."""

from abc import ABC, abstractmethod
from typing import Optional

from chat_actors.protocol.codes import CloseCode

Own = dict[
    "Outbox", list[tuple[int, bytes]]
]  # for each outbox: what it gets in place of a frame, by that frame's place


class Carrier(ABC):
    """A way to many members at once: takes the frames of a turn once, and sees to its members itself."""

    @abstractmethod
    async def carry(self, frames: list[bytes], notices: list[int], own: Own) -> None:
        """Take the frames of one turn, in order; ``notices``: places of those only for members with ``events``."""


class Outbox(ABC):
    """The way out to one member: no method waits, and none raises."""

    __slots__ = ()
    carrier: Optional[Carrier] = None  # takes the frames that are for all; None: written to one by one

    @abstractmethod
    def write(self, frames: bytes) -> None:
        """Send a run of finished frames. No-op if the peer is gone; a peer that is too slow is aborted."""

    @abstractmethod
    def write_answer(self, frames: bytes) -> None:
        """Send the answer to a request, however long it is: its bytes do not count towards the bound of the outbox."""

    @abstractmethod
    def close(self, code: CloseCode) -> None:
        """Send what was written, then a close frame; nothing after it. The first call counts."""
