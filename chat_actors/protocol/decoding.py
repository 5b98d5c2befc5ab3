"""Decoding and validation of what a client sends: a frame, or a refusal with its reason. No asyncio, no state."""

from typing import Any, Callable, Optional, Union

import msgspec

from chat_actors.protocol.codes import ErrorCode
from chat_actors.protocol.frames import LIST, MAX_ID, JoinFrame, ListCommand, Ref, SendFrame, Since
from chat_actors.protocol.names import InvalidName, clean_topic, clean_username

Data = Union[str, bytes]  # the payload of a text or of a binary frame


class Refused(Exception):
    """Error for a client's frame that breaks the contract. The client is told the code and the detail."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


# A valid frame takes one typed decode. What that refuses is decoded key by key, to say which key is wrong.

_decode_join = msgspec.json.Decoder(JoinFrame).decode
_decode_send = msgspec.json.Decoder(SendFrame).decode
_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder(Any).decode
_decode_text = msgspec.json.Decoder(Optional[str]).decode
_decode_flag = msgspec.json.Decoder(Optional[bool]).decode
_decode_since = msgspec.json.Decoder(Optional[Since]).decode
_decode_ref = msgspec.json.Decoder(Optional[Ref]).decode

# UnicodeError: a lone surrogate or broken UTF-8; RecursionError: nesting deeper than the decoder goes.
_UNDECODABLE = (msgspec.DecodeError, UnicodeError, RecursionError)

_LONGEST_HEARTBEAT = 128  # bytes
_BEATS = {"ping", "pong", "heartbeat", "keepalive", "keep-alive"}
_KEYS = ("username", "topic", "message")  # of frames that mean something

_JOIN_FORM = '{"username": "…", "topic": "…"}'
_SEND_FORM = '{"message": "…"}'
_NO_JOIN = f"the first frame must be {_JOIN_FORM}"

Keys = dict[str, msgspec.Raw]  # the keys of a frame with their undecoded values
Forms = dict[str, tuple[Callable[[msgspec.Raw], Any], str]]  # the decoder of each optional key, and what it takes


def _whole(raw: msgspec.Raw) -> Optional[int]:
    """Decode ``since``. JSON has numbers only, and some languages write the integer 5 as 5.0."""
    value = _decode_any(raw)
    whole: Optional[int] = _decode_since(b"%d" % value if isinstance(value, float) and value.is_integer() else raw)
    return whole


_JOIN_KEYS: Forms = {
    "since": (_whole, f"an integer from 0 to {MAX_ID}"),
    "epoch": (_decode_text, "a string"),
    "resume": (_decode_text, "a string"),
    "events": (_decode_flag, "true or false"),
    "token": (_decode_text, "a string"),
}
_SEND_KEYS: Forms = {"ref": (_decode_ref, "a string of 1 to 64 characters")}


def decode_first(data: Data) -> Union[JoinFrame, ListCommand]:
    """Decode a frame of a client that has not joined; its names are cleaned. Raises Refused."""
    try:
        frame = _decode_join(_text(data))
    except _UNDECODABLE:
        read = _read_first(data)
        if isinstance(read, ListCommand):
            return read
        frame = read
    try:
        frame.username = clean_username(frame.username)
    except InvalidName as why:
        raise Refused(ErrorCode.INVALID_USERNAME, str(why)) from None
    try:
        frame.topic = clean_topic(frame.topic)
    except InvalidName as why:
        raise Refused(ErrorCode.INVALID_TOPIC, str(why)) from None
    return frame


def decode_next(data: Data, max_chars: int) -> Union[SendFrame, ListCommand]:
    """Decode a frame of a member. Raises Refused, also for a message of more than ``max_chars`` code points."""
    try:
        frame = _decode_send(_text(data))
    except _UNDECODABLE:
        read = _read_next(data)
        if isinstance(read, ListCommand):
            return read
        frame = read
    message = frame.message
    if len(message) > max_chars:
        detail = f"message must have at most {max_chars} characters, not {len(message)}"
        raise Refused(ErrorCode.MESSAGE_TOO_LONG, detail)
    start = message[:1]
    if start == "/" or not start or start.isspace():  # one test passes a plain message
        command = message.strip()
        if not command:
            raise Refused(ErrorCode.EMPTY_MESSAGE, "message must not be empty: send more than white space")
        if command[0] == "/":
            return _command(command)
    return frame


def is_bigger(data: Data, size: int) -> bool:
    """Return whether a payload has more than ``size`` bytes; text is measured in UTF-8."""
    if isinstance(data, str) and len(data) * 4 > size and not data.isascii():
        return len(data.encode(errors="surrogatepass")) > size
    return len(data) > size


def is_heartbeat(data: Data) -> bool:
    """Return whether a refused frame is the heartbeat of a client library, such as ``{"type": "ping"}`` or no text.

    A page cannot send a ping of the protocol, so such libraries send one of their own.
    """
    if len(data) > _LONGEST_HEARTBEAT:
        return False
    try:
        text = _text(data).strip()
        said = _decode_any(text) if text[:1] in ("{", '"') else text
    except _UNDECODABLE:
        return False
    if not isinstance(said, dict):
        return not said or _is_beat(said)
    return all(said.get(key) is None for key in _KEYS) and any(map(_is_beat, said.values()))


def _is_beat(word: object) -> bool:
    return isinstance(word, str) and word.lower() in _BEATS


def _text(data: Data) -> str:
    return data if type(data) is str else bytes(data).decode()  # type: ignore[arg-type]


def _command(text: str) -> ListCommand:
    if text == LIST:
        return ListCommand()
    raise Refused(
        ErrorCode.UNKNOWN_COMMAND, f"unknown command: send {LIST}, or a message that does not start with a slash"
    )


def _read_first(data: Data) -> Union[JoinFrame, ListCommand]:
    keys = _keys(data, _JOIN_FORM)
    if isinstance(keys, ListCommand):
        return keys
    if "message" in keys and not _has(keys, "username", "topic"):
        message = _string(keys, "message", ErrorCode.INVALID_MESSAGE).strip()
        if message.startswith("/"):
            return _command(message)
        raise Refused(ErrorCode.NOT_JOINED, f"join before sending: {_NO_JOIN}")
    if "username" not in keys or "topic" not in keys:
        raise Refused(ErrorCode.INVALID_JOIN, _NO_JOIN)
    username = _string(keys, "username", ErrorCode.INVALID_USERNAME)
    topic = _string(keys, "topic", ErrorCode.INVALID_TOPIC)
    return JoinFrame(username, topic, **_optional(keys, _JOIN_KEYS, ErrorCode.INVALID_JOIN))


def _read_next(data: Data) -> Union[SendFrame, ListCommand]:
    keys = _keys(data, _SEND_FORM)
    if isinstance(keys, ListCommand):
        return keys
    if _has(keys, "username", "topic") and not _has(keys, "message"):
        detail = "already joined: open another connection to join another topic"
        raise Refused(ErrorCode.ALREADY_JOINED, detail)
    if "message" not in keys:
        raise Refused(ErrorCode.INVALID_MESSAGE, 'a frame of a member must be {"message": "…"} or /list')
    message = _string(keys, "message", ErrorCode.INVALID_MESSAGE)
    return SendFrame(message, **_optional(keys, _SEND_KEYS, ErrorCode.INVALID_MESSAGE))


def _keys(data: Data, form: str) -> Union[ListCommand, Keys]:
    """Return the object's keys with undecoded values, or the command that came as bare text. Raises Refused."""
    try:
        text = _text(data)
        if text.lstrip().startswith("/"):
            return _command(text.strip())
        return _decode_keys(text)
    except _UNDECODABLE:
        what = "one JSON object in UTF-8, without NaN, lone surrogates or deep nesting"
        raise Refused(ErrorCode.INVALID_JSON, f"a frame must be {what}: for example {form}") from None


def _has(keys: Keys, *names: str) -> bool:
    """Return whether a key has a value: clients with one type for all frames write null for the keys of the others."""
    return any(bytes(keys.get(name, b"null")) != b"null" for name in names)


def _string(keys: Keys, key: str, code: ErrorCode) -> str:
    try:
        value = _decode_any(keys[key])
    except _UNDECODABLE:  # for example an integer that is out of range
        value = None
    if not isinstance(value, str):
        raise Refused(code, f"{key} must be a string")
    return value


def _optional(keys: Keys, forms: Forms, code: ErrorCode) -> Any:
    """Return the values of the optional keys that are there. Raises Refused for the first one that is wrong."""
    values = {}
    for key, (decode, form) in forms.items():
        if key in keys:
            try:
                values[key] = decode(keys[key])
            except _UNDECODABLE:
                raise Refused(code, f"{key} must be {form}, or absent") from None
    return values
