"""Every frame of the wire contract, and the encoding of those that the server sends. The codes are in ``codes``.

``decoding`` turns what a client sends into a ``ClientFrame``. ``finished`` turns a ``ServerFrame`` into the bytes of a
whole WebSocket frame. No asyncio, no socket, no state.

``asyncapi`` publishes the docstrings of the frames for authors of clients: the first paragraph is the summary, and a
line that begins with a field's name and a colon describes that field.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Optional, Union

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from chat_actors.protocol.codes import ErrorCode

# Types of fields that several frames share.

MAX_ID = 2**53 - 1  # JSON parsers agree on integers up to here (RFC 8259, section 6)
Since = Annotated[int, Meta(ge=0, le=MAX_ID)]
Id = Annotated[int, Meta(ge=1, description="place in the topic: 1, 2, 3 …, the same for every member.")]
Timestamp = Annotated[int, Meta(description="Unix time in seconds, by the server's clock.")]
Users = Annotated[int, Meta(ge=1, description="members of the topic now.")]
Name = Annotated[str, Meta(description="name of a member, as the server gave it.")]
Ref = Annotated[str, Meta(min_length=1, max_length=64, description="the client's own reference to the message.")]
RemainingMs = Annotated[
    int,
    Meta(
        ge=1,
        description="milliseconds until the server deletes the message, from the time at which it made this frame. A "
        "client counts them down on its monotonic clock: wall clocks differ, and are set.",
    ),
]
Yes = Annotated[bool, Meta(extra_json_schema={"const": True})]  # present and true, or absent


# From a client. Unknown keys are ignored, and an optional key that is null is as an absent one.


class Window(Struct, frozen=True):
    """Request for the window, taken from a ``JoinFrame``; its fields mean the same as there."""

    since: Union[int, UnsetType] = UNSET
    epoch: Union[str, UnsetType] = UNSET
    resume: str = ""
    events: bool = False


class JoinFrame(Struct):
    """Join a topic: the first frame of a connection. After an error the client may send another join.

    Any of the keys ``since``, ``epoch``, ``resume`` and ``events`` asks for the window. ``joined`` then carries
    ``epoch``, ``last_id`` and ``resume``, and the server recognises a ``ref`` that this member has used within the
    window, also on a connection that it resumed: it acknowledges that message again and does not send it again.

    An optional key that is null is the same as an absent one, and a whole number such as 5.0 is an integer.

    ``username``: the name to be shown. It may hold every character that can be seen. Names that are equal by RFC 8266
    (Nickname) are the same; if another member of the topic has the name, the server appends the smallest free ``#n``,
    n from 2.
    ``topic``: the topic to join. It may hold every character that can be seen. Topics are the same if they are equal in
    Unicode normalization form C (NFC); the server makes every run of spaces one plain space, and of what is not seen
    it keeps only what changes what is seen.
    ``since``: the highest id of a message or an ack that the client has seen; 0 asks for all stored messages. After
    ``joined`` the server sends the stored messages with a higher id, oldest first and the client's own included,
    before any newer message.
    ``epoch``: the ``epoch`` of the client's last ``joined``. With ``since``, the new ``joined`` then has a ``gap`` if
    messages after ``since`` are lost.
    ``resume``: the ``resume`` token of an earlier ``joined``. The client comes back as that member, with its old name
    if that is free, and the server closes its old connection with 4409. If the token is unknown, expired or empty,
    the client joins as a new member.
    ``events``: whether to receive ``members`` in ``joined``, and the frames ``presence``, ``renamed``, ``expired`` and
    ``closing``.
    ``token``: the server's shared secret; required if the server has one and the handshake did not give it.
    """

    username: str
    topic: str
    since: Union[Since, UnsetType, None] = UNSET
    epoch: Union[str, UnsetType, None] = UNSET
    resume: Union[str, UnsetType, None] = UNSET
    events: Union[bool, UnsetType, None] = UNSET
    token: Union[str, UnsetType, None] = UNSET

    @property
    def window(self) -> Optional[Window]:
        """The request for the window; None if the frame has none of its keys: that client sees the plain contract."""
        absent = (UNSET, None)
        if self.since in absent and self.epoch in absent and self.resume in absent and self.events in absent:
            return None
        since = UNSET if self.since is None else self.since
        epoch = UNSET if self.epoch is None else self.epoch
        return Window(since, epoch, self.resume or "", self.events is True)


class SendFrame(Struct):
    """Send a message to the topic of this connection.

    ``message``: the text, not only white space. A text whose first character after white space is a slash is a command.
    ``ref``: the client's own reference, repeated in the ack; null is the same as absent. A member that asked for the
    window may send a message again with the same ``ref``: within the window the topic takes it only once.
    """

    message: str
    ref: Union[Ref, UnsetType, None] = UNSET


LIST = "/list"


class ListCommand(Struct, tag_field="message", tag=LIST):
    """List the active topics, before or after the join: as a message or as bare text. It is never broadcast."""


ClientFrame = Union[JoinFrame, SendFrame, ListCommand]


# To a client. ``type`` comes first and names the frame.


class ReplayGap(Struct):
    """Range of ids after ``since`` whose messages are lost.

    ``from``: the first lost id.
    ``to``: the last lost id; null if it is unknown, because the topic has another epoch now.
    ``reason``: ``expired`` (older than the window), ``evicted`` (more than the topic keeps) or ``restarted`` (the topic
    has another epoch now, and the server replays all of its stored messages).
    """

    from_: Id = msgspec.field(name="from")
    to: Optional[int]
    reason: Literal["expired", "evicted", "restarted"]


class Joined(Struct, tag_field="type", tag="joined"):
    """Answer to a join: the client is a member now. An optional key is sent only if the join asked for the window.

    ``username``: the member's name: as requested, or with ``#n`` appended.
    ``topic``: the topic as the server compares it: in NFC, without the spaces around it, with one plain space for
    those within it, and without what is not seen and changes nothing that is seen.
    ``users``: members of the topic now, this one included.
    ``ttl``: length of the window in seconds: the server keeps a message and its ``ref`` for so long, and the ``resume``
    token of a member that left.
    ``epoch``: identifier of this lifetime of the topic. A topic ends with its last member; the next topic of the same
    name has another epoch, and ids of different epochs are not comparable.
    ``last_id``: id of the topic's newest message; 0 if there is none.
    ``resume``: token of this member; a join that gives it comes back as the same member.
    ``expired_through``: the highest deleted id: the messages up to it are deleted too. Sent only if the join asked for
    ``events`` and gave this ``epoch`` and a ``since`` above 0, and any message is deleted: that member has had
    messages, and has not been told which of them have expired since.
    ``members``: the usernames of all members, oldest member first; sent only if the join asked for ``events`` and the
    topic has not too many members to name them.
    """

    username: Name
    topic: str
    users: Users
    ttl: float
    epoch: Union[str, UnsetType] = UNSET
    last_id: Union[Annotated[int, Meta(ge=0)], UnsetType] = UNSET
    resume: Union[str, UnsetType] = UNSET
    gap: Union[ReplayGap, UnsetType] = UNSET
    expired_through: Union[Id, UnsetType] = UNSET
    members: Union[list[str], UnsetType] = UNSET


class Message(Struct, tag_field="type", tag="message"):
    """Message of another member: sent to every member of the topic except its sender."""

    id: Id
    username: Name
    message: str
    timestamp: Timestamp


class Replayed(Struct, tag_field="type", tag="message", kw_only=True):
    """Stored message: sent to a member that joined with ``since``, its own messages included."""

    id: Id
    username: Name
    message: str
    timestamp: Timestamp
    replayed: Yes = True
    remaining_ms: RemainingMs


class Presence(Struct, tag_field="type", tag="presence", kw_only=True):
    """Other members have joined or left: sent to members with ``events``, once for all who did so at the same time.

    A frame with neither list means that the topic has too many members to name them: a client that keeps their names
    forgets them, and shows the number.

    ``joined``: the usernames of those who joined; absent if there are none.
    ``left``: the usernames of those who left; absent if there are none.
    """

    joined: Union[list[Name], UnsetType] = UNSET
    left: Union[list[Name], UnsetType] = UNSET
    users: Users


class Renamed(Struct, tag_field="type", tag="renamed"):
    """A member has another name, because two parts of a split cluster met: sent to members with ``events``.

    ``username``: the member's name until now.
    ``renamed``: the member's name from now on.
    """

    username: Name
    renamed: Name


class Expired(Struct, tag_field="type", tag="expired"):
    """Messages have been deleted: sent to members with ``events``.

    ``through``: the highest deleted id; the messages up to it are deleted too.
    """

    through: Id


class Closing(Struct, tag_field="type", tag="closing"):
    """The server is about to close this connection: sent to members with ``events``.

    ``retry_after_ms``: milliseconds to wait before the client reconnects; the server spreads its members over time.
    """

    retry_after_ms: Annotated[int, Meta(ge=0)]


class Ack(Struct, tag_field="type", tag="ack", kw_only=True):
    """Answer to a message: the topic has it, with the same ``id`` and ``timestamp`` for the other members.

    ``recipients``: count of the other members that the message went to.
    ``ref``: the ``ref`` of the message; absent if it had none.
    ``duplicate``: present if the member has used this ``ref`` before: the server did not send the message again, and
    ``id``, ``timestamp`` and ``recipients`` are those of the first ack.
    ``remaining_ms``: present with ``duplicate``: milliseconds until the server deletes the message, and forgets its
    ``ref``.
    """

    status: Literal["delivered"] = "delivered"
    id: Id
    ref: Union[Ref, UnsetType] = UNSET
    timestamp: Timestamp
    recipients: Annotated[int, Meta(ge=0)]
    duplicate: Union[Yes, UnsetType] = UNSET
    remaining_ms: Union[RemainingMs, UnsetType] = UNSET


class TopicUsers(Struct):
    """Active topic with the count of its members."""

    topic: str
    users: Users


class Topics(Struct, tag_field="type", tag="topics"):
    """Answer to ``/list``: the active topics, oldest topic first.

    ``message``: the list as text, for people.
    ``topics``: the list for programs.
    ``partial``: present if a node of the cluster did not answer in time: topics may be missing.
    """

    message: str
    topics: list[TopicUsers]
    partial: Union[Yes, UnsetType] = UNSET

    @classmethod
    def of(cls, active: list[TopicUsers], partial: bool = False) -> "Topics":
        """Make the answer from the active topics, oldest first; ``partial`` if some may be missing."""
        lines = [cls.line(one.topic, one.users) for one in active] or ["\n(none)"]
        return cls("".join(["Active Topics:", *lines]), active, True if partial else UNSET)

    @staticmethod
    def line(topic: str, users: int) -> str:
        """Return the line of ``message`` about a topic, with the line break before it."""
        return f"\n- {topic} ({users} user{'' if users == 1 else 's'})"


class ListedTopic:
    """Active topic as it stands in a ``Topics`` frame, encoded: once for all frames until its count changes."""

    __slots__ = "item", "line"

    def __init__(self, topic: str, users: int) -> None:
        self.item = _encode(TopicUsers(topic, users))
        self.line = _encode(Topics.line(topic, users))[1:-1]  # without the quotation marks


class Error(Struct, tag_field="type", tag="error"):
    """Answer to a refused frame. It does not name the frame: a client that must know sends one frame at a time.

    ``detail``: a sentence for people: what is wrong, and what the server expects. Its wording may change.
    """

    error: ErrorCode
    detail: str


ServerFrame = Union[Joined, Message, Replayed, Presence, Renamed, Expired, Closing, Ack, Topics, Error]

_encode = msgspec.json.Encoder().encode


def finished(frame: ServerFrame) -> bytes:
    """Encode a frame as a whole, unmasked WebSocket text frame (RFC 6455, section 5.2)."""
    return _framed(_encode(frame))


def finished_topics(active: list[ListedTopic]) -> bytes:
    """Encode the answer of ``Topics.of``, from parts that are encoded already."""
    if not active:
        return finished(Topics.of([]))
    lines, items = b"".join([one.line for one in active]), b",".join([one.item for one in active])
    return _framed(b'{"type":"topics","message":"Active Topics:%b","topics":[%b]}' % (lines, items))


def finished_joined(joined: Joined, members: bytes) -> bytes:
    """Encode ``joined`` with the ``members`` that ``encoded_names`` returned: many newcomers may get the same."""
    return _framed(_encode(joined)[:-1] + b',"members":' + members + b"}")


def encoded_names(usernames: list[str]) -> bytes:
    """Encode usernames for ``finished_joined``."""
    return _encode(usernames)


REPLAYED_BYTES = 46  # by which the frame of a Replayed is longer than that of its Message, at most


def replayed(message: bytes, remaining_ms: int) -> bytes:
    """Turn the finished frame of a Message into that of a Replayed."""
    size = message[1]
    start = 2 if size < 126 else 4 if size == 126 else 10
    return _framed(b'%b,"replayed":true,"remaining_ms":%d}' % (message[start:-1], remaining_ms))


def _framed(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


def payloads(frames: bytes) -> Iterator[bytes]:
    """Yield the payload of each frame in a run of finished frames, for a server that does its own framing."""
    at = 0
    while at < len(frames):
        size, at = frames[at + 1], at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(frames[at : at + width], "big"), at + width
        yield frames[at : at + size]
        at += size
