"""The wire contract: frames in, frames out, error codes and close codes.

Everything here is decided on data alone: no asyncio, no socket, no state. A frame from a client is decoded and
validated by ``decode_first`` or ``decode_next``; a frame to a client is one of the structs below, made into the
bytes of a finished WebSocket frame by ``finished``.
"""

import enum
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NoReturn, Optional, Union

import msgspec
from msgspec import UNSET, Struct, UnsetType

from chat_actors.names import InvalidName, clean_topic, clean_username

Data = Union[str, bytes]  # the payload of a text or of a binary frame


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


class Refused(Exception):
    """A client's frame that breaks the contract: the client's fault, and costs nothing but an error frame."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


# From a client: unknown keys are ignored.


class Window(Struct, frozen=True):
    """What a join asks for beyond the plain contract. ``since``: the highest message id that the client has seen."""

    since: Union[int, UnsetType] = UNSET
    epoch: Union[str, UnsetType] = UNSET
    resume: str = ""
    events: bool = False


class JoinFrame(Struct):
    """``{"username", "topic"}``, clean once ``decode_first`` has returned it, and what it asks of the window."""

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


ServerFrame = Union[Joined, Message, Replayed, Presence, Expired, Ack, Topics, Error]

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


# Decoding: one typed decode where the frame is right, a second look only where it is wrong.

_decode_join = msgspec.json.Decoder(JoinFrame).decode
_decode_send = msgspec.json.Decoder(SendFrame).decode
_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder(Any).decode

# UnicodeError: a lone surrogate or broken UTF-8; RecursionError: nesting deeper than the decoder goes.
_UNDECODABLE = (msgspec.DecodeError, UnicodeError, RecursionError)

_WINDOW_FORM = "since must be an integer from 0, epoch, resume and token strings, events true or false"
_JOIN_FORM = 'the first frame must be {"username": "…", "topic": "…"}'


def decode_first(data: Data) -> Union[JoinFrame, ListCommand]:
    """A frame of a client that has not joined. Raises Refused."""
    try:
        frame = _decode_join(_text(data))
    except _UNDECODABLE as why:
        return _explain_first(data, why)
    try:
        frame.username = clean_username(frame.username)
    except InvalidName as why:
        raise Refused(ErrorCode.INVALID_USERNAME, str(why)) from None
    try:
        frame.topic = clean_topic(frame.topic)
    except InvalidName as why:
        raise Refused(ErrorCode.INVALID_TOPIC, str(why)) from None
    return frame


def decode_next(data: Data, longest: int) -> Union[SendFrame, ListCommand]:
    """A frame of a member; a message may have ``longest`` characters. Raises Refused."""
    try:
        frame = _decode_send(_text(data))
    except _UNDECODABLE as why:
        return _explain_next(data, why)
    message = frame.message
    if len(message) > longest:
        detail = f"message must have at most {longest} characters, not {len(message)}"
        raise Refused(ErrorCode.MESSAGE_TOO_LONG, detail)
    start = message[:1]
    if start == "/" or not start or start.isspace():  # a plain message is none of them: one look at one character
        command = message.strip()
        if not command:
            raise Refused(ErrorCode.EMPTY_MESSAGE, "message must hold more than white space")
        if command[0] == "/":
            return _command(command)
    return frame


def is_bigger(data: Data, size: int) -> bool:
    """Whether a payload has more than ``size`` bytes (of UTF-8, where it is text)."""
    if isinstance(data, str) and len(data) * 4 > size and not data.isascii():
        return len(data.encode(errors="surrogatepass")) > size
    return len(data) > size


def _text(data: Data) -> str:
    return data if type(data) is str else bytes(data).decode()  # type: ignore[arg-type]


def _command(text: str) -> ListCommand:
    if text == "/list":
        return ListCommand()
    raise Refused(ErrorCode.UNKNOWN_COMMAND, "there is one command, /list; a message cannot start with a slash")


def _explain_first(data: Data, why: Exception) -> ListCommand:
    keys = _keys(data)
    if isinstance(keys, ListCommand):
        return keys
    if "message" in keys and not ("username" in keys or "topic" in keys):
        message = _string(keys, "message", ErrorCode.INVALID_MESSAGE).strip()
        if message.startswith("/"):
            return _command(message)
        raise Refused(ErrorCode.NOT_JOINED, f"join before you send: {_JOIN_FORM}")
    if "username" not in keys or "topic" not in keys:
        raise Refused(ErrorCode.INVALID_JOIN, _JOIN_FORM)
    _string(keys, "username", ErrorCode.INVALID_USERNAME)
    _string(keys, "topic", ErrorCode.INVALID_TOPIC)
    raise Refused(ErrorCode.INVALID_JOIN, f"{_WINDOW_FORM}: {why}")


def _explain_next(data: Data, why: Exception) -> ListCommand:
    keys = _keys(data)
    if isinstance(keys, ListCommand):
        return keys
    if "message" in keys:
        _string(keys, "message", ErrorCode.INVALID_MESSAGE)
        raise Refused(ErrorCode.INVALID_MESSAGE, f"ref must be a string of 1 to 64 characters: {why}")
    if "username" in keys or "topic" in keys:
        detail = "this connection is in a topic; open another connection to join another topic"
        raise Refused(ErrorCode.ALREADY_JOINED, detail)
    raise Refused(ErrorCode.INVALID_MESSAGE, 'a frame must be {"message": "…"}')


def _keys(data: Data) -> Union[ListCommand, dict[str, msgspec.Raw]]:
    """The object's keys and undecoded values, or the command that came as bare text. Raises Refused."""
    try:
        text = _text(data)
        if text.lstrip().startswith("/"):
            return _command(text.strip())
        return _decode_keys(text)
    except msgspec.ValidationError:
        raise Refused(ErrorCode.INVALID_JSON, "a frame must be one JSON object") from None
    except _UNDECODABLE as why:
        _refuse_json(why)


def _string(keys: dict[str, msgspec.Raw], key: str, code: ErrorCode) -> str:
    try:
        value = _decode_any(keys[key])
    except msgspec.DecodeError:  # a number beyond every range
        value = None
    if not isinstance(value, str):
        raise Refused(code, f"{key} must be a string")
    return value


def _refuse_json(why: Exception) -> NoReturn:
    detail = f"a frame must be one JSON object in UTF-8, without NaN, lone surrogates or deep nesting: {why}"
    raise Refused(ErrorCode.INVALID_JSON, detail) from None
