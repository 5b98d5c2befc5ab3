"""Decoding and validation of what a client sends: a frame, or a refusal with its reason. No asyncio, no state."""

from typing import Any, NoReturn, Union

import msgspec

from chat_actors.protocol.codes import ErrorCode
from chat_actors.protocol.frames import LIST, MAX_ID, JoinFrame, ListCommand, SendFrame
from chat_actors.protocol.names import InvalidName, clean_topic, clean_username

Data = Union[str, bytes]  # the payload of a text or of a binary frame


class Refused(Exception):
    """Error for a client's frame that breaks the contract. The client is told the code and the detail."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


# A valid frame takes one typed decode; only an invalid one is decoded again, to explain what is wrong.

_decode_join = msgspec.json.Decoder(JoinFrame).decode
_decode_send = msgspec.json.Decoder(SendFrame).decode
_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder(Any).decode

# UnicodeError: a lone surrogate or broken UTF-8; RecursionError: nesting deeper than the decoder goes.
_UNDECODABLE = (msgspec.DecodeError, UnicodeError, RecursionError)

_LONGEST_HEARTBEAT = 128  # bytes
_BEATS = {"ping", "pong", "heartbeat", "keepalive", "keep-alive"}
_KEYS = {"username", "topic", "message"}  # of frames that mean something

_WINDOW_FORM = (
    f"since must be an integer from 0 to {MAX_ID}, epoch, resume and token must be strings, "
    "and events must be true or false"
)
_JOIN_FORM = 'the first frame must be {"username": "…", "topic": "…"}'


def decode_first(data: Data) -> Union[JoinFrame, ListCommand]:
    """Decode a frame of a client that has not joined; its names are cleaned. Raises Refused."""
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


def decode_next(data: Data, max_chars: int) -> Union[SendFrame, ListCommand]:
    """Decode a frame of a member. Raises Refused, also for a message of more than ``max_chars`` code points."""
    try:
        frame = _decode_send(_text(data))
    except _UNDECODABLE as why:
        return _explain_next(data, why)
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
    return not said.keys() & _KEYS and any(map(_is_beat, said.values()))


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


def _explain_first(data: Data, why: Exception) -> ListCommand:
    keys = _keys(data)
    if isinstance(keys, ListCommand):
        return keys
    if "message" in keys and not ("username" in keys or "topic" in keys):
        message = _string(keys, "message", ErrorCode.INVALID_MESSAGE).strip()
        if message.startswith("/"):
            return _command(message)
        raise Refused(ErrorCode.NOT_JOINED, f"join before sending: {_JOIN_FORM}")
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
        detail = "already joined: open another connection to join another topic"
        raise Refused(ErrorCode.ALREADY_JOINED, detail)
    raise Refused(ErrorCode.INVALID_MESSAGE, 'a frame of a member must be {"message": "…"} or /list')


def _keys(data: Data) -> Union[ListCommand, dict[str, msgspec.Raw]]:
    """Return the object's keys with undecoded values, or the command that came as bare text. Raises Refused."""
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
    except msgspec.DecodeError:  # for example an integer that is out of range
        value = None
    if not isinstance(value, str):
        raise Refused(code, f"{key} must be a string")
    return value


def _refuse_json(why: Exception) -> NoReturn:
    detail = f"a frame must be one JSON object in UTF-8, without NaN, lone surrogates or deep nesting: {why}"
    raise Refused(ErrorCode.INVALID_JSON, detail) from None
