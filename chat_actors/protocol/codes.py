"""The codes of the wire contract, each with its cause: of a refused frame, and of a closed connection.

``asyncapi`` publishes the codes with their causes and the docstrings of the two classes.
"""

import enum


class ErrorCode(str, enum.Enum):
    """Reason for refusing a frame. Nothing else changes, and the connection stays open except after ``server_full``."""

    def __new__(cls, code: str, cause: str = "") -> "ErrorCode":
        member = str.__new__(cls, code)
        member._value_ = code
        member.cause = cause
        return member

    cause: str

    INVALID_JSON = "invalid_json", "the frame is not one JSON object in valid UTF-8"
    INVALID_JOIN = "invalid_join", "a key of the join is missing or has the wrong type"
    UNAUTHORIZED = (
        "unauthorized",
        "the server requires a token: it is missing or wrong in the join, or ``/list`` came before it",
    )
    INVALID_USERNAME = "invalid_username", "the username breaks the rules for names"
    INVALID_TOPIC = "invalid_topic", "the topic breaks the rules for names"
    INVALID_MESSAGE = (
        "invalid_message",
        "``message`` is missing or not a string, or ``ref`` is neither absent nor a string of 1 to 64 characters",
    )
    EMPTY_MESSAGE = "empty_message", "the message holds only white space"
    MESSAGE_TOO_LONG = "message_too_long", "the message has more characters than the server accepts"
    UNKNOWN_COMMAND = "unknown_command", "the message starts with a slash and is not ``/list``"
    ALREADY_JOINED = "already_joined", "the connection has joined a topic; another topic needs another connection"
    NOT_JOINED = "not_joined", "a message before the join"
    SERVER_FULL = "server_full", "too many connections, topics or members of the topic; the server closes with 1013"


class CloseCode(enum.IntEnum):
    """Reason for closing a connection. This protocol defines the codes from 4000 up (RFC 6455, section 7.4.2).

    After 1008 and 1009 a client should not reconnect by itself: it would be closed again. After 4409 neither: two
    connections that resume the same member close each other in turn. After any other code it may reconnect. The server
    aborts a reader that is too slow without a close frame: it would not read that either.
    """

    def __new__(cls, code: int, reason: str) -> "CloseCode":
        member = int.__new__(cls, code)
        member._value_ = code
        member.reason = reason
        return member

    reason: str  # sent with the code; at most 123 bytes (RFC 6455, section 5.5)

    TOO_MANY_REFUSED = 1008, "too many refused frames in a row"
    FRAME_TOO_BIG = 1009, "frame too big"
    CRASHED = 1011, "internal error, join again"
    RESTARTING = 1012, "the server restarts, reconnect later"
    OVERLOADED = 1013, "the server is full, try again later"
    NO_JOIN = 4408, "no join within the time limit"
    RESUMED_ELSEWHERE = 4409, "another connection has resumed this member"


def close_code(code: int) -> CloseCode:
    """Return the CloseCode with this value. Raises KeyError if there is none."""
    return _CLOSE_CODES[code]


_CLOSE_CODES = {int(code): code for code in CloseCode}
