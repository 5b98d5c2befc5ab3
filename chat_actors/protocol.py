"""The wire contract: every frame, error code and close code there is, and how a frame is written.

No asyncio, no socket, no state. What a client sends is one of the first structs, once ``decoding`` has judged it; what
it gets is one of the others, made into the bytes of a finished WebSocket frame by ``finished``.
"""

import enum
from collections.abc import Iterator
from typing import Annotated, Literal, Optional, Union

import msgspec
from msgspec import UNSET, Struct, UnsetType


class ErrorCode(str, enum.Enum):
    """Why a frame was refused: the ``error`` of an error frame."""

    INVALID_JSON = "invalid_json"
    INVALID_JOIN = "invalid_join"
    INVALID_USERNAME = "invalid_username"
    INVALID_TOPIC = "invalid_topic"
    INVALID_MESSAGE = "invalid_message"
    EMPTY_MESSAGE = "empty_message"
    MESSAGE_TOO_LONG = "message_too_long"
    UNKNOWN_COMMAND = "unknown_command"
    ALREADY_JOINED = "already_joined"
    NOT_JOINED = "not_joined"
    SERVER_FULL = "server_full"


class CloseCode(enum.IntEnum):
    """Why the server closed a connection. 4000 and above are this protocol's own (RFC 6455, section 7.4.2)."""

    def __new__(cls, code: int, reason: str) -> "CloseCode":
        member = int.__new__(cls, code)
        member._value_ = code
        member.reason = reason
        return member

    reason: str  # sent with the code; at most 123 bytes (RFC 6455, section 5.5)

    TOO_MANY_REFUSED = 1008, "too many refused frames in a row"
    FRAME_TOO_BIG = 1009, "frame too big"
    CRASHED = 1011, "the topic crashed, join again"
    RESTARTING = 1012, "the server restarts, come back"
    OVERLOADED = 1013, "the server is full or this reader too slow, try again later"
    NO_JOIN = 4408, "no join in time"
    RESUMED_ELSEWHERE = 4409, "another connection has resumed this member"


# From a client: unknown keys are ignored.


class Window(Struct, frozen=True):
    """What a join asks for beyond the plain contract. ``since``: the highest message id that the client has seen."""

    since: Union[int, UnsetType] = UNSET
    epoch: Union[str, UnsetType] = UNSET
    resume: str = ""
    events: bool = False


class JoinFrame(Struct):
    """``{"username", "topic"}``, clean once ``decoding`` has judged it, and what it asks of the window."""

    username: str
    topic: str
    since: Union[Annotated[int, msgspec.Meta(ge=0)], UnsetType] = UNSET
    epoch: Union[str, UnsetType] = UNSET
    resume: Union[str, UnsetType] = UNSET
    events: Union[bool, UnsetType] = UNSET
    token: Union[str, UnsetType] = UNSET  # the server's shared secret, where it has one

    @property
    def window(self) -> Optional[Window]:
        """None where the frame has none of the window's keys: that client sees the plain contract."""
        if self.since is self.epoch is self.resume is self.events is UNSET:
            return None
        return Window(self.since, self.epoch, self.resume or "", self.events is True)


Ref = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class SendFrame(Struct):
    """``{"message"}``, with the client's own ``ref`` where it gave one (echoed in the ack)."""

    message: str
    ref: Union[Ref, UnsetType] = UNSET


class ListCommand(Struct):
    """``/list``, as bare text or as a message."""


# To a client: ``type`` comes first and names the kind.


class Gap(Struct):
    """The ids that cannot be replayed; ``to`` is null where nobody knows: the topic has died since."""

    from_: int = msgspec.field(name="from")
    to: Optional[int]
    reason: Literal["expired", "evicted", "restarted"]


class Joined(Struct, tag_field="type", tag="joined"):
    """To the one who joined. ``users``: members, this one included; ``ttl``: seconds a message is kept.

    The rest only for those who asked for the window. ``epoch``: this life of the topic; ``resume``: this member's
    token; ``members``: the usernames, oldest member first.
    """

    username: str
    topic: str
    users: int
    ttl: Union[int, float]
    epoch: Union[str, UnsetType] = UNSET
    last_id: Union[int, UnsetType] = UNSET
    resume: Union[str, UnsetType] = UNSET
    gap: Union[Gap, UnsetType] = UNSET
    members: Union[list[str], UnsetType] = UNSET


class Message(Struct, tag_field="type", tag="message", weakref=True):
    """To everyone in the topic but the sender. ``id`` counts 1, 2, 3 …; ``timestamp``: Unix seconds."""

    id: int
    username: str
    message: str
    timestamp: int


class Replayed(Struct, tag_field="type", tag="message"):
    """A message from the past, to one who joined with ``since``."""

    id: int
    username: str
    message: str
    timestamp: int
    replayed: bool = True

    @classmethod
    def of(cls, message: Message) -> "Replayed":
        return cls(message.id, message.username, message.message, message.timestamp)


class Presence(Struct, tag_field="type", tag="presence"):
    """To members with ``events``: somebody else came or went; ``users`` are there now."""

    event: Literal["joined", "left"]
    username: str
    users: int


class Expired(Struct, tag_field="type", tag="expired"):
    """To members with ``events``: the messages up to this id have been deleted."""

    through: int


class Closing(Struct, tag_field="type", tag="closing"):
    """To members with ``events``, before the server ends: when to come back, each at a time of its own."""

    retry_after_ms: int


class Ack(Struct, tag_field="type", tag="ack", kw_only=True):
    """To the sender; ``id`` and ``timestamp`` are those the ``recipients`` others saw.

    ``duplicate``: this member's ``ref`` was used before, and this is the acknowledgment of the message that had it.
    """

    status: str = "delivered"
    id: int
    ref: Union[str, UnsetType] = UNSET
    timestamp: int
    recipients: int
    duplicate: Union[bool, UnsetType] = UNSET


class TopicUsers(Struct):
    """One active topic and the number of its members."""

    topic: str
    users: int


class Topics(Struct, tag_field="type", tag="topics"):
    """The answer to ``/list``: for people in ``message``, for programs in ``topics``; oldest topic first."""

    message: str
    topics: list[TopicUsers]

    @classmethod
    def of(cls, active: list[TopicUsers]) -> "Topics":
        lines = [f"- {one.topic} ({one.users} user{'' if one.users == 1 else 's'})" for one in active]
        return cls("\n".join(["Active Topics:", *(lines or ["(none)"])]), active)


class Error(Struct, tag_field="type", tag="error"):
    """To the one whose frame was refused; ``detail`` says what is wrong and what is expected."""

    error: ErrorCode
    detail: str


ServerFrame = Union[Joined, Message, Replayed, Presence, Expired, Closing, Ack, Topics, Error]

_encode = msgspec.json.Encoder().encode


def finished(frame: ServerFrame) -> bytes:
    """The frame as it goes over the wire: an unmasked WebSocket text frame (RFC 6455, section 5.2)."""
    payload = _encode(frame)
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
