"""A topic's members on this node, as their relay has them, and what their relay is posted."""

from collections import deque
from typing import Callable, Optional

from msgspec import Struct

from chat_actors.actors.base import HIGH_WATER, Mailbox
from chat_actors.actors.events import Join, Send, TopicEvent
from chat_actors.actors.fanout import FanOut
from chat_actors.actors.outbox import Outbox
from chat_actors.protocol.codes import CloseCode
from chat_actors.room.members import Member


class Guest(Member, kw_only=True):
    """A member of this node. ``asked``: its join, until that is answered; ``unacked``: what it said, text and ref."""

    number: int = 0
    outbox: Outbox
    asked: Optional[Join]
    joined_at: float = 0.0  # monotonic seconds
    acked: int = 0
    unacked: deque[tuple[str, Optional[str]]]


class Deliver(Struct, eq=False):
    """A parcel has come. ``number``: its own; 0 if it is the relay's own word."""

    fan_out: FanOut
    number: int


class Hand(Struct, eq=False):
    """Frames for one member have come. ``joined``: they are its first."""

    guest: Guest
    frames: bytes
    answer: bool
    joined: bool = False


class Shut(Struct, eq=False):
    """A member has been closed."""

    guest: Guest
    code: CloseCode


class RelayMailbox(Mailbox[TopicEvent]):
    """Crowded as well while much is not acknowledged. What a member says is noted at once where nothing waits."""

    def __init__(self, say: Callable[[Send], None]) -> None:
        super().__init__()
        self.unacked = 0
        self.busy = False  # the relay is in the middle of a turn
        self._say = say

    def put_nowait(self, event: Optional[TopicEvent]) -> None:
        if type(event) is Send and not self.ended and self.idle():
            self._say(event)
        else:
            super().put_nowait(event)

    def idle(self) -> bool:
        """Whether nothing waits that would come before."""
        return not self.busy and self.empty()

    def crowded(self) -> bool:
        return self.qsize() + self.unacked >= HIGH_WATER
