"""What nodes say to each other, as MessagePack. Data alone: nothing that is read here can run anything.

A *relay* stands for a topic on each node that has members in it; the *owner* has the topic. ``life`` is the number of
one attachment of a relay to an owner: what belongs to another one is old, and is dropped. ``number`` is a member's, on
its node, for as long as it is connected.
"""

from typing import Optional, Union

import msgspec
from msgspec import Struct

from chat_actors.protocol.frames import Ack, Window

VERSION = 1  # of all this: a field more or less, or one that means something else, is another one


class Parcel(Struct, array_like=True):
    """What a topic said in one turn, once for all members wherever they are.

    ``line``: of parcels with numbers 1, 2, 3 …; ``last_id``: of the topic's messages, after this.
    ``own``: what someone gets in place of frames: node, number, acks it had before, (place, bytes), and its token.
    """

    line: str
    number: int
    last_id: int
    frames: list[bytes]
    notices: list[int]
    own: list[tuple[str, int, int, list[tuple[int, bytes]], str]]


class Kept(Struct, array_like=True):
    """A parcel within the window, and the seconds until it is over."""

    remaining: float
    parcel: Parcel


class Line(Struct, array_like=True):
    """How far a line of parcels has been followed: through ``number``.

    ``ancestors``: lines that this one goes on from, each with its last number that is part of this one.
    ``age``: of the topic, in seconds.
    """

    name: str = ""
    number: int = 0
    last_id: int = 0
    ancestors: dict[str, int] = {}
    age: float = 0.0

    def includes(self, other: "Line") -> bool:
        """Whether who has followed ``other`` can go on here."""
        if other.name == self.name:
            return True
        return other.number <= self.ancestors.get(other.name, -1)


class SeatState(Struct, array_like=True):
    """A member as its relay knows it. ``acked``: acks that it has had so far; ``age``: seconds since it joined."""

    number: int
    username: str
    token: str
    events: bool
    acked: int
    age: float


class Renaming(Struct, array_like=True):
    """``number``: the member's, if it is the relay's own; 0 if it is another one."""

    number: int
    before: str
    after: str


class Gone(Struct, array_like=True):
    """Someone who may come back within ``remaining`` seconds, and its references."""

    username: str
    token: str
    remaining: float
    refs: dict[str, Ack]


# A relay to an owner.


class ToOwner(Struct, array_like=True, tag=True):
    """Of every word: the topic, and the relay's attachment."""

    topic: str
    life: int


class Attach(ToOwner):
    """Be my owner from here on. What was asked and is not answered yet comes again behind this.

    ``relay``: its number on its node, the same in all its lives.
    """

    relay: int
    line: Line
    seats: list[SeatState]
    window: list[Kept]


class Detach(ToOwner):
    """The relay has no members any more."""


class Ask(ToOwner):
    """A join."""

    number: int
    username: str
    window: Optional[Window]


class Depart(ToOwner):
    """A leave."""

    number: int
    reason: str


class Say(ToOwner):
    """Messages, in order: the sender's number, the text, the ref or None."""

    messages: list[tuple[int, str, Optional[str]]]


class Taken(ToOwner):
    """The relay has passed on the parcels through that number."""

    number: int


# An owner to a relay.


class ToRelay(Struct, array_like=True, tag=True):
    """Of every word: the attachment it is for."""

    life: int


class ToGuest(ToRelay):
    """To one member. ``number``: its own."""

    number: int


class Attached(ToRelay):
    """The relay is attached. Where it cannot go on from what it has followed, it begins anew: ``foreign``.

    ``missed``: by member, how many acks no parcel has for it; what is known of them comes behind this.
    """

    line: Line
    foreign: bool
    missed: dict[int, int]


class Let(ToRelay):
    """I am not your owner any more; you may see others than I do."""


class Names(ToRelay):
    """Who is a member now, oldest first; and who of those the relay knew is called otherwise from here on."""

    members: list[str]
    renamed: list[Renaming]


class Carry(ToRelay):
    parcel: Parcel


class Write(ToGuest):
    """Frames for one member."""

    frames: bytes
    answer: bool


class Close(ToGuest):
    code: int


class JoinRefused(ToGuest, tag="Refused"):  # the tag is what older nodes know
    """Nobody became a member by that join."""

    code: int
    detail: str


# A node to a node.


class ToNode(Struct, array_like=True, tag=True):
    """Of a node as a whole."""


class Hello(ToNode):
    """The first thing that is said, by both."""


class Settled(ToNode):
    """While these nodes are there, you have been told all that I have for you. ``ask``: say the same of your view."""

    view: list[str]
    ask: bool


class Resign(ToNode):
    """I am going; what I owned has been bequeathed."""


class Bequest(ToNode):
    """A topic that I owned is yours now. ``epoch``: of the topic's life, which goes on.

    Without an epoch: I had members in it, who have left; this is what they had heard.
    """

    topic: str
    epoch: str
    line: Line
    window: list[Kept]
    departed: list[Gone]


class Count(ToNode):
    """Which topics do you own?"""

    number: int


class Counted(ToNode):
    """Topic, its members, and its age in seconds."""

    number: int
    topics: list[tuple[str, int, float]]


Item = Union[ToOwner, ToRelay, ToNode]
_FromRelay = Union[Attach, Detach, Ask, Depart, Say, Taken]
_FromOwner = Union[Attached, Let, Names, Carry, Write, Close, JoinRefused]
_FromNode = Union[Hello, Settled, Resign, Bequest, Count, Counted]


class Envelope(Struct, array_like=True):
    """What goes at once from one node to another. ``mine``, ``yours``: their numbers while they know each other."""

    sender: str
    mine: int
    yours: int
    items: list[Union[_FromRelay, _FromOwner, _FromNode]]


class Sealed(Struct, array_like=True):
    """The same, with items that are encoded already: a parcel is encoded once for all nodes."""

    sender: str
    mine: int
    yours: int
    items: list[msgspec.Raw]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def encoded(parcel: Parcel) -> msgspec.Raw:
    """A parcel, encoded once for all nodes."""
    return msgspec.Raw(_encoder.encode(parcel))


def sealed(item: Item) -> msgspec.Raw:
    """One item, encoded."""
    return msgspec.Raw(_encoder.encode(item))


def seal(sender: str, mine: int, yours: int, items: list[msgspec.Raw]) -> bytes:
    """An envelope."""
    return _encoder.encode(Sealed(sender, mine, yours, items))


def opened(data: bytes) -> Envelope:
    """What is in an envelope. Raises msgspec.DecodeError, of which msgspec.ValidationError is one."""
    return _decoder.decode(data)
