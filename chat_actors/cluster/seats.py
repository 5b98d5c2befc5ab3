"""A topic's members on other nodes, as the owner has them: one seat for each, in the attachment of its node's relay."""

from typing import TYPE_CHECKING, Optional

import msgspec
from msgspec import Struct

from chat_actors.actors.events import Leave
from chat_actors.actors.outbox import Carrier, Outbox
from chat_actors.cluster.wire import Attach, Close, Item, Write
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import payloads

if TYPE_CHECKING:
    from chat_actors.cluster.estate import Estate
    from chat_actors.cluster.node import Node


class _Token(Struct):
    """What is needed of a ``joined``: it may have the names of thousands."""

    resume: str = ""


_token = msgspec.json.Decoder(_Token)


class Tally(Struct, eq=False):
    """Of one member, for as long as it is connected to its node: messages received from it, and acks given."""

    received: int = 0
    acked: int = 0

    def count(self, done: int) -> None:
        """So many are in the topic and acknowledged, if not more."""
        self.received, self.acked = max(self.received, done), max(self.acked, done)


class Seat(Outbox):
    """A member's way out, as the topic sees it: by way of its node's relay."""

    __slots__ = "attachment", "carrier", "estate", "number", "said", "tally", "token"

    def __init__(
        self, estate: "Estate", attachment: "Attachment", number: int, tally: Tally, token: Optional[str]
    ) -> None:
        self.estate = estate
        self.carrier: Optional[Carrier] = None  # until the epoch that it joins is known
        self.attachment = attachment
        self.number = number
        self.tally = tally
        self.said = tally.received  # messages that came by this attachment, and those before it
        self.token = token  # None while a ``joined`` that has one is to come

    def write(self, frames: bytes) -> None:
        self.estate.seating.let_in(self.attachment)  # it has become a member
        if self.token is None:
            self.token = token_in(frames)
        self.attachment.send(Write(self.attachment.life, self.number, frames, False))

    def write_answer(self, frames: bytes) -> None:
        self.attachment.send(Write(self.attachment.life, self.number, frames, True))

    def close(self, code: CloseCode) -> None:
        if self.attachment.seats.pop(self.number, None) is not None:
            self.attachment.send(Close(self.attachment.life, self.number, int(code)))
            self.attachment.leave(self, code.name.lower())  # its session is elsewhere, and will find it closed


class Attachment:
    """A node's relay, attached. ``foreign``: it cannot go on here in the line that it has followed.

    ``outside``: it hears nothing of the topic yet.
    """

    def __init__(self, node: "Node", name: str, item: Attach, foreign: bool) -> None:
        self.name = name  # of its node
        self.relay = item.relay
        self.life = item.life
        self.foreign = foreign
        self.came_from = item.line.name if foreign else ""
        self.outside = True
        self.seats: dict[int, Seat] = {}
        self.taken = 0  # parcels that it has passed on
        self.heard: dict[int, tuple[int, int]] = {}  # by member, acks that it has had, and those with what comes to it
        self.cut = False  # it is told nothing any more
        self._node = node

    def send(self, item: Item) -> None:
        if not self.cut:
            self._node.send(self.name, item)

    def leave(self, seat: Seat, reason: str) -> None:
        """Post a member's leave."""
        self._node.back.post(Leave(seat, reason))


def token_in(joined: bytes) -> str:
    """The token in the finished frame of a ``joined``."""
    return _token.decode(next(iter(payloads(joined)))).resume
