"""The wire contract: every frame there is, and how a frame is written. Its codes are in ``codes``.

No asyncio, no socket, no state. What a client sends is a ``ClientFrame``, once ``decoding`` has judged it; what it gets
is a ``ServerFrame``, made into the bytes of a finished WebSocket frame by ``finished``. The docstrings are published
with them (by ``asyncapi``): what begins with a field's name and a colon is about that field.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Optional, Union

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from chat_actors.protocol.codes import ErrorCode

# What more than one frame holds.

MOST_ID = 2**53 - 1  # every JSON parser knows an integer up to here (RFC 8259, section 6)
Id = Annotated[int, Meta(ge=1, description="1, 2, 3 … in the topic's order, the same for all.")]
Timestamp = Annotated[int, Meta(description="Unix seconds, the server's.")]
Users = Annotated[int, Meta(ge=1, description="members of the topic now.")]
Name = Annotated[str, Meta(description="a member's, as the server gave it.")]
Ref = Annotated[str, Meta(min_length=1, max_length=64, description="the client's own reference for the message.")]
Yes = Annotated[bool, Meta(extra_json_schema={"const": True})]  # present and true, or absent


# From a client: unknown keys are ignored.


class Window(Struct, frozen=True):
    """What a join asks for beyond the plain contract. ``since``: the highest message id that the client has seen."""

    since: Union[int, UnsetType] = UNSET
    epoch: Union[str, UnsetType] = UNSET
    resume: str = ""
    events: bool = False


class JoinFrame(Struct):
    """Become a member of a topic: a connection's first frame. After an error it may be tried again.

    Any of ``since``, ``epoch``, ``resume`` and ``events`` asks for the window: ``joined`` then carries ``epoch``,
    ``last_id`` and ``resume``, and a ``ref`` that this member has used within the window, on this connection or the one
    before, does not send again.

    ``username``: without control and format characters. Shown as given, compared as RFC 8266 (Nickname) does; if it
    is taken in the topic, the server appends the smallest free ``#n``, n from 2.
    ``topic``: without control and format characters; compared exactly, after NFC.
    ``since``: the highest id that the client has seen, of a message or an ack. Behind ``joined`` come the stored
    messages above it, oldest first, the client's own among them, and then what is newer. 0: all there is.
    ``epoch``: with ``since``, the ``epoch`` of the last ``joined``: the next one then has a ``gap`` if something after
    ``since`` is lost.
    ``resume``: the token of an earlier ``joined``, to come back as that member and under its name, if that is free; its
    old connection is closed with 4409. Unknown, expired or empty, it is an ordinary join with a new token.
    ``events``: whether to be told the ``members``, and by ``presence``, ``expired`` and ``closing`` what happens.
    ``token``: the server's shared secret, where it has one and the handshake did not give it.
    """

    username: str
    topic: str
    since: Union[Annotated[int, Meta(ge=0, le=MOST_ID)], UnsetType] = UNSET
    epoch: Union[str, UnsetType] = UNSET
    resume: Union[str, UnsetType] = UNSET
    events: Union[bool, UnsetType] = UNSET
    token: Union[str, UnsetType] = UNSET

    @property
    def window(self) -> Optional[Window]:
        """None where the frame has none of the window's keys: that client sees the plain contract."""
        if self.since is self.epoch is self.resume is self.events is UNSET:
            return None
        return Window(self.since, self.epoch, self.resume or "", self.events is True)


class SendFrame(Struct):
    """Send a message to the topic.

    ``message``: more than white space. What starts with a slash, white space before it not counted, is a command.
    """

    message: str
    ref: Union[Ref, UnsetType] = UNSET


LIST = "/list"


class ListCommand(Struct, tag_field="message", tag=LIST):
    """List the active topics, before or after the join: as a message, or as bare text. It is never broadcast."""


ClientFrame = Union[JoinFrame, SendFrame, ListCommand]


# To a client: ``type`` comes first and names the kind.


class ReplayGap(Struct):
    """Where something is lost: the ids that cannot be replayed.

    ``to``: null where nobody knows: the topic has died since.
    ``reason``: older than the window, more than the topic keeps, or (then all that is stored is replayed) of a life of
    the topic that is over.
    """

    from_: Id = msgspec.field(name="from")
    to: Optional[int]
    reason: Literal["expired", "evicted", "restarted"]


class Joined(Struct, tag_field="type", tag="joined"):
    """To the one who joined. What may be absent is for those who asked for the window.

    ``username``: as asked for, or with the number that made it free.
    ``users``: members of the topic now, this one included.
    ``ttl``: seconds a message is kept, a ref recognised, a token good: the window.
    ``epoch``: this life of the topic; each has its own, and ids begin at 1 with it.
    ``last_id``: the topic's newest message; 0 if there was none.
    ``resume``: this member's token, by which it may come back as itself.
    ``members``: the usernames, oldest member first; for those who asked for ``events``.
    """

    username: Name
    topic: str
    users: Users
    ttl: float
    epoch: Union[str, UnsetType] = UNSET
    last_id: Union[Annotated[int, Meta(ge=0)], UnsetType] = UNSET
    resume: Union[str, UnsetType] = UNSET
    gap: Union[ReplayGap, UnsetType] = UNSET
    members: Union[list[str], UnsetType] = UNSET


class Message(Struct, tag_field="type", tag="message"):
    """To everyone in the topic but the sender."""

    id: Id
    username: Name
    message: str
    timestamp: Timestamp


class Replayed(Struct, tag_field="type", tag="message"):
    """A message from the past, to a member that joined with ``since``; its own are among them."""

    id: Id
    username: Name
    message: str
    timestamp: Timestamp
    replayed: Yes = True


class Presence(Struct, tag_field="type", tag="presence"):
    """To members with ``events``: somebody else came or went."""

    event: Literal["joined", "left"]
    username: Name
    users: Users


class Renamed(Struct, tag_field="type", tag="renamed"):
    """To members with ``events``: where two parts of a split cluster met, a name was in use on both sides.

    ``username``: the name until now. ``renamed``: what that member is called from here on.
    """

    username: Name
    renamed: Name


class Expired(Struct, tag_field="type", tag="expired"):
    """To members with ``events``: the messages up to the id ``through`` have been deleted."""

    through: Id


class Closing(Struct, tag_field="type", tag="closing"):
    """To members with ``events``, before the server ends.

    ``retry_after_ms``: when to come back, each at a time of its own.
    """

    retry_after_ms: Annotated[int, Meta(ge=0)]


class Ack(Struct, tag_field="type", tag="ack", kw_only=True):
    """To the sender: the message is in the topic, with the ``id`` and the ``timestamp`` that the others saw.

    ``recipients``: how many others it went to.
    ``ref``: only where one was given.
    ``duplicate``: this member's ``ref`` was used before, and this is the ack of the message that had it.
    """

    status: Literal["delivered"] = "delivered"
    id: Id
    ref: Union[Ref, UnsetType] = UNSET
    timestamp: Timestamp
    recipients: Annotated[int, Meta(ge=0)]
    duplicate: Union[Yes, UnsetType] = UNSET


class TopicUsers(Struct):
    """One active topic and the number of its members."""

    topic: str
    users: Users


class Topics(Struct, tag_field="type", tag="topics"):
    """The answer to ``/list``: for people in ``message``, for programs in ``topics``; oldest topic first.

    ``partial``: a node of the cluster did not answer in time, so topics may be missing.
    """

    message: str
    topics: list[TopicUsers]
    partial: Union[Yes, UnsetType] = UNSET

    @classmethod
    def of(cls, active: list[TopicUsers], partial: bool = False) -> "Topics":
        lines = [f"- {one.topic} ({one.users} user{'' if one.users == 1 else 's'})" for one in active]
        return cls("\n".join(["Active Topics:", *(lines or ["(none)"])]), active, True if partial else UNSET)


class Error(Struct, tag_field="type", tag="error"):
    """To the one whose frame was refused. It does not say which: who has to know sends one frame at a time.

    ``detail``: for people: what is wrong and what is expected.
    """

    error: ErrorCode
    detail: str


ServerFrame = Union[Joined, Message, Replayed, Presence, Renamed, Expired, Closing, Ack, Topics, Error]

_encode = msgspec.json.Encoder().encode


def finished(frame: ServerFrame) -> bytes:
    """The frame as it goes over the wire: an unmasked WebSocket text frame (RFC 6455, section 5.2)."""
    return _framed(_encode(frame))


def replayed(message: bytes) -> bytes:
    """The finished frame of a Message as that of a Replayed."""
    (payload,) = payloads(message)
    return _framed(payload[:-1] + b',"replayed":true}')


def _framed(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


def payloads(frames: bytes) -> Iterator[bytes]:
    """The payloads inside a run of finished frames, for a host that does its own framing."""
    at = 0
    while at < len(frames):
        size, at = frames[at + 1], at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(frames[at : at + width], "big"), at + width
        yield frames[at : at + size]
        at += size
