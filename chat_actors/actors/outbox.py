"""Interfaces through which actors send frames to members. ``connection`` and ``cluster`` implement them."""

from abc import ABC, abstractmethod
from typing import Callable, Optional

from chat_actors.protocol.codes import CloseCode

# For each outbox, the pieces that it gets instead of frames: (place of the frame, bytes), in order of places.
Overrides = dict["Outbox", list[tuple[int, bytes]]]


class Carrier(ABC):
    """Shared path to many members: takes the frames of a turn once and delivers them to each."""

    @abstractmethod
    async def carry(self, frames: list[bytes], notices: list[int], overrides: Overrides) -> None:
        """Take the frames of one turn, in order; ``notices``: places of those only for members with ``events``."""


class Outbox(ABC):
    """Sending side of one member's connection: no method waits, and none raises.

    What has a default here does for an outbox that takes all at once, such as one with a carrier.
    """

    __slots__ = ()
    carrier: Optional[Carrier] = None  # takes the frames for all members; None: the topic writes to this outbox

    @abstractmethod
    def write(self, frames: bytes) -> None:
        """Send a run of finished frames. No-op if the peer is gone; aborts a peer that is too slow."""

    @abstractmethod
    def write_answer(self, frames: bytes) -> None:
        """Send the answer to a request: its bytes do not count towards the bound of the outbox."""

    def write_until(self, frames: bytes, deadline: float) -> None:
        """Send frames that must not leave the process after ``deadline`` (monotonic seconds)."""
        self.write_answer(frames)

    def has_room(self) -> bool:
        """Return whether nothing waits for the peer."""
        return True

    def when_room(self, call: Callable[[], None]) -> None:
        """Call ``call`` once nothing waits for the peer, at once if that is so. Not if the connection ends before."""
        call()

    def drop_slow(self, detail: str) -> None:  # noqa: B027  # a default like the others
        """Abort a peer that does not read fast enough. ``detail``: for the log."""

    @abstractmethod
    def close(self, code: CloseCode) -> None:
        """Send what was written, then a close frame, and nothing after it. No-op after the first call."""
