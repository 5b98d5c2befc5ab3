"""The codes of the wire contract: why a frame was refused, and why a connection was closed. Each with its cause.

The docstrings are published with them (by ``asyncapi``).
"""

import enum


class ErrorCode(str, enum.Enum):
    """Why a frame was refused. The connection stays open and nothing else changes, but for ``server_full``."""

    def __new__(cls, code: str, cause: str = "") -> "ErrorCode":
        member = str.__new__(cls, code)
        member._value_ = code
        member.cause = cause
        return member

    cause: str

    INVALID_JSON = "invalid_json", "not one JSON object in valid UTF-8"
    INVALID_JOIN = "invalid_join", "a key of the join is missing or of the wrong type, or the token is wrong"
    INVALID_USERNAME = "invalid_username", "refused by the rules of names"
    INVALID_TOPIC = "invalid_topic", "refused by the rules of names"
    INVALID_MESSAGE = "invalid_message", "message is missing or no string, or ref is not one of 1 to 64 characters"
    EMPTY_MESSAGE = "empty_message", "nothing but white space"
    MESSAGE_TOO_LONG = "message_too_long", "more characters than the server takes"
    UNKNOWN_COMMAND = "unknown_command", "starts with a slash and is not /list"
    ALREADY_JOINED = "already_joined", "another topic needs another connection"
    NOT_JOINED = "not_joined", "a message before the join; or a list, where the server has a token that was not given"
    SERVER_FULL = "server_full", "too many connections, topics or members of the topic; a close with 1013 follows"


class CloseCode(enum.IntEnum):
    """Why the server closed a connection. 4000 and above are this protocol's own (RFC 6455, section 7.4.2).

    After 1008, 1009 and 4409 the same client would be closed again; after any other it may come back. A reader that is
    too slow is aborted without a close frame: it would not read that either.
    """

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
    OVERLOADED = 1013, "the server is full, try again later"
    NO_JOIN = 4408, "no join in time"
    RESUMED_ELSEWHERE = 4409, "another connection has resumed this member"


def close_code(code: int) -> CloseCode:
    """The close code of that number. Raises KeyError."""
    return _CLOSE_CODES[code]


_CLOSE_CODES = {int(code): code for code in CloseCode}
