"""What must come of a stream: a model of RFC 6455, and of the conversation as far as a stream has one.

The model reads the bytes of a stream as a whole: how they are cut must not matter. It is the fast lane's, whose frames
the package ``websockets`` judges. That package is stricter than the RFC about a close frame between the fragments of a
message, which is broken to it, and about a control frame there, whose size it adds to the message's; it is less strict
about lengths, which may be longer than they need to be. The hosts of the plain lane differ from the model as
``Difference`` says, and in no other way.

Answers have three sources: the connection itself answers pings and refused frames at once, the supervisor lists
topics, and the topic tells of the join and acknowledges messages. The order within each source is certain, and so is
that of all before and after ``joined``. No other order is.
"""

import codecs
import enum
from collections.abc import Iterator
from typing import NamedTuple, Optional, Union

from msgspec import UNSET

from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.protocol.decoding import Data, Refused, decode_first, decode_next, is_bigger, is_heartbeat
from chat_actors.protocol.frames import JoinFrame, SendFrame
from tests.support.websocket.wire import BINARY, CLOSE, CONT, FIN, PING, PONG, TEXT, masked
from tests.tools.streams.streams import CHARS, LIMIT, REFUSED, WITNESS, Do, Last, Stream

AT_ONCE, SUPERVISOR, TOPIC, PINGS = "at once", "supervisor", "topic", "pings"  # sources

Answer = tuple[str, str]  # its source, and what it says

# The list before and after the join, and while one too many asks to join. It may count a join right behind the request.
_LISTED_BEFORE, _LISTED_AFTER, _LISTED_ASKING = ((SUPERVISOR, f"topics [{users}]") for users in (1, 2, 3))

BROKEN, NOT_TEXT = 1002, 1007  # close codes (RFC 6455, section 7.4.1)
CODES = {*range(1000, 1015), *range(3000, 5000)} - {1004, 1005, 1006}  # that a close frame may have
LONGEST_PING = 125  # bytes (RFC 6455, section 5.5)
HOST_LIMIT = 1 << 24  # bytes of a message, of a host that knows nothing of ours


class Difference(enum.Enum):
    """Difference between the plain lane under a host and the model, with its reason."""

    READS_AHEAD = (
        "the host reads on while a message waits for the session: it answers pings, and ends the connection after a "
        "close or a broken frame, before the session takes that message, and maybe closes for its sake"
    )
    ENDS_AT_ONCE = "a host that ends the connection does not send the answers that wait for their turn"
    WHOLE_MESSAGES = "ASGI hands over whole messages, so their size is known at their end, unless the host has a limit"
    HUGE = "wsproto waits for all bytes of a message, however many it announces"
    LATE_CHECKS = "websockets-sansio looks at reserved bits and at control frames when the whole frame is there"
    LOSES_MESSAGES = "websockets-sansio drops the messages that it reads in one piece with a broken frame"
    TEXT_AFTER_ALL = (
        "websockets-sansio decodes a text when it has read the whole piece: it answers pings behind one that is not "
        "UTF-8, a broken frame there decides the close code, and after a close frame there uvicorn fails"
    )
    PONG_AFTER_CLOSE = "websockets-sansio answers pings also when it has closed"
    NO_CLOSE_FRAME = "uvicorn's wsproto ends the TCP connection after a broken frame, without a close frame"
    SHORT_LENGTHS = "wsproto refuses a length that is longer than it needs to be, of a control frame at its second byte"
    PARTS_OF_FRAMES = "wsproto looks at what is there of a frame: it sees a wrong byte or fragment before the end of it"
    NO_1014 = "wsproto does not know the close code 1014, so it is broken to it"
    CLOSE_IN_MESSAGE = "wsproto answers a close in a fragmented message, which is a broken frame to websockets"


PLAIN = {Difference.READS_AHEAD, Difference.ENDS_AT_ONCE}
DIFFERENCES: dict[str, set[Difference]] = {
    "fast lane": set(),
    "websockets-sansio": {
        *PLAIN,
        Difference.WHOLE_MESSAGES,
        Difference.LATE_CHECKS,
        Difference.LOSES_MESSAGES,
        Difference.TEXT_AFTER_ALL,
        Difference.PONG_AFTER_CLOSE,
    },
    "wsproto": {
        *PLAIN,
        Difference.HUGE,
        Difference.NO_CLOSE_FRAME,
        Difference.SHORT_LENGTHS,
        Difference.PARTS_OF_FRAMES,
        Difference.NO_1014,
        Difference.CLOSE_IN_MESSAGE,
    },
}

# How a connection ends: by a close frame with this code, or with just this payload, or by the end of the TCP
# connection alone.
End = Union[int, bytes, None]


# Frames


class Message(NamedTuple):
    at: int  # place in the stream behind it
    data: Data


class Ping(NamedTuple):
    at: int
    payload: bytes


class Ended(NamedTuple):
    at: int
    end: End


def read(data: bytes, differs: set[Difference]) -> Iterator[Union[Message, Ping, Ended]]:
    """Read the frames of a stream (RFC 6455, section 5) up to the one that ends the connection, if there is one.

    Where texts are decoded late, a text that is not UTF-8 may be followed by another end.
    """
    broken: End = None if Difference.NO_CLOSE_FRAME in differs else BROKEN
    not_text: End = None if Difference.NO_CLOSE_FRAME in differs else NOT_TEXT
    kind: Optional[int] = None  # of the message that has begun
    message = b""
    at = 0
    while at + 2 <= len(data):
        first, second = data[at : at + 2]
        final, opcode, masks, length = first & FIN, first & 0x0F, second & 0x80, second & 0x7F
        width = {126: 2, 127: 8}.get(length, 0)
        control = opcode >= CLOSE
        strict = Difference.SHORT_LENGTHS in differs
        known = opcode in (CONT, TEXT, BINARY, CLOSE, PING, PONG)
        if not known or (not (masks or strict)) or (strict and control and (width or not final)):
            yield Ended(at + 2, broken)
            return
        start = at + 2 + width
        if start > len(data):
            return
        if width:
            length = int.from_bytes(data[at + 2 : start], "big")
        if strict and (not masks or (width and (length < (126 if width == 2 else 1 << 16) or length >> 63))):
            yield Ended(start, broken)
            return
        size = length + len(message)  # also of a control frame between fragments
        by_message = not differs & {Difference.WHOLE_MESSAGES, Difference.HUGE}
        if size > (LIMIT + LONGEST_PING if by_message else HOST_LIMIT) and Difference.HUGE not in differs:
            yield Ended(start, CloseCode.FRAME_TOO_BIG)
            return
        wrong = bool(first & 0x70) or (control and (length > LONGEST_PING or not final))
        out_of_turn = (opcode == CONT and kind is None) or (opcode in (TEXT, BINARY) and kind is not None)
        if (wrong and Difference.LATE_CHECKS not in differs) or (out_of_turn and by_message):
            yield Ended(start, broken)
            return
        if by_message and not control and size > LIMIT:
            yield Ended(start, CloseCode.FRAME_TOO_BIG)
            return
        at = start + 4 + length
        payload = masked(data[start + 4 : at], data[start : start + 4])
        is_text = TEXT in (opcode, kind) and not control
        if Difference.PARTS_OF_FRAMES in differs:
            if out_of_turn and len(payload) >= min(length, 1):
                yield Ended(start + 4 + min(length, 1), broken)
                return
            good = _good_bytes(message, payload) if is_text else len(payload)
            if good < len(payload):
                yield Ended(start + 5 + good, broken)
                return
        if at > len(data):
            return
        if wrong or out_of_turn:
            yield Ended(at, broken)
            return
        if opcode == PING:
            yield Ping(at, payload)
        elif opcode == CLOSE:
            answer = _answer_to(payload)
            if Difference.NO_1014 in differs and payload[:2] == b"\x03\xf6":
                answer = BROKEN
            if kind is not None and Difference.CLOSE_IN_MESSAGE not in differs and answer != NOT_TEXT:
                answer = BROKEN
            yield Ended(at, answer if isinstance(answer, bytes) or Difference.NO_CLOSE_FRAME not in differs else None)
            return
        elif opcode != PONG:
            kind = opcode if kind is None else kind
            message += payload
            if final and is_text and not _is_text(message):
                yield Ended(at, not_text)
                if Difference.TEXT_AFTER_ALL not in differs:
                    return
            elif final:
                yield Message(at, message.decode() if is_text else message)
            if final:
                kind, message = None, b""


def _is_text(data: bytes, final: bool = True) -> bool:
    """Return whether data is UTF-8, or the beginning of it."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final)
    except UnicodeDecodeError:
        return False
    return True


def _good_bytes(before: bytes, data: bytes) -> int:
    """Return how many bytes of ``data`` continue a text."""
    low, high = 0, len(data)
    while low < high:
        middle = (low + high + 1) // 2
        if _is_text(before + data[:middle], False):
            low = middle
        else:
            high = middle - 1
    return low


def _answer_to(close: bytes) -> Union[int, bytes]:
    """Return the payload of the answer to a close frame, which is the same, or the code if that frame is broken."""
    if not close:
        return close
    if not _is_text(close[2:]):
        return NOT_TEXT
    return close if int.from_bytes(close[:2], "big") in CODES and len(close) > 1 else BROKEN


def skip(data: bytes) -> tuple[bool, bool]:
    """Skip the frames of a stream, as a server does that has closed.

    Return whether the peer's close frame behind them is read as one, and whether one is among them.
    """
    at = 0
    while at + 2 <= len(data):
        first, second = data[at : at + 2]
        width = {126: 2, 127: 8}.get(second & 0x7F, 0)
        start = at + 2 + width
        length = int.from_bytes(data[at + 2 : start], "big") if width else second & 0x7F
        at = start + (4 if second & 0x80 else 0) + length
        if first & 0x0F == CLOSE and length <= 125 and at <= len(data):
            return True, True
    return at == len(data), False


# The conversation


class Expected(NamedTuple):
    """What must come of a stream.

    ``phases``: answers, all of one phase before any of the next. The first ``awaited`` phases are complete.
    ``pongs``: answers to pings, where the host answers them and their order to others is open; the first
    ``pongs_surely`` of them must come.
    ``short``: the sources whose last answers may be missing.
    ``due``: for each time that the sender awaits, the count of answers until then; None: it awaits the end.
    ``heard``: what the witness hears, but for the leave; the first ``heard_surely`` of it in any case.
    ``leaves``: whether the witness hears of the leave; None: only if it has heard of the join.
    ``ends``: the ends that may be; empty: any.
    ``closes``: whether the server ends the connection for the sake of what it has read.
    ``aligned``: whether the sender's answer to a close can be read.
    ``answered``: whether there is one in the stream.
    """

    phases: list[list[Answer]]
    awaited: int
    pongs: list[str]
    pongs_surely: int
    short: set[str]
    due: list[Optional[int]]
    heard: list[str]
    heard_surely: int
    leaves: Optional[bool]
    ends: list[End]
    closes: bool
    aligned: bool
    answered: bool


class _Chat:
    """Conversation with one sender: takes its messages and notes the answers."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.username = ""  # once it has joined
        self.phases: list[list[Answer]] = [[]]
        self.heard: list[str] = []
        self.close: Optional[CloseCode] = None
        self._refused = 0
        self._last_id = 0

    def answer(self, source: str, what: str) -> None:
        self.phases[-1].append((source, what))

    def take(self, data: Data) -> None:
        if is_bigger(data, LIMIT):
            self.close = CloseCode.FRAME_TOO_BIG
            return
        try:
            frame = decode_next(data, CHARS) if self.username else decode_first(data)
        except Refused as refusal:
            self.answer(AT_ONCE, f"error {refusal.code.value}")
            if not is_heartbeat(data):
                self._refused += 1
                if self._refused == REFUSED:
                    self.close = CloseCode.TOO_MANY_REFUSED
            return
        self._refused = 0
        if isinstance(frame, JoinFrame):
            self._join(frame)
        elif isinstance(frame, SendFrame):
            self._last_id += 1
            ref = None if frame.ref is UNSET else frame.ref
            self.answer(TOPIC, f"ack {self._last_id} {ref} 1")
            self.heard.append(f"message {self._last_id} {self.username} {frame.message}")
        else:
            listed = _LISTED_AFTER if self.username or self._stream.full else _LISTED_BEFORE
            self.answer(*listed)

    def _join(self, frame: JoinFrame) -> None:
        assert frame.topic == self._stream.topic
        if self._stream.full:
            self.phases.append([(AT_ONCE, f"error {ErrorCode.SERVER_FULL.value}")])
            self.close = CloseCode.OVERLOADED
            return
        self.username = frame.username + "#2" * (frame.username == WITNESS)
        self.phases += [[(TOPIC, f"joined {self.username} 2")], []]
        self.heard.append(f"joined {self.username}")


def expect(stream: Stream, host: str, tls: bool) -> Expected:
    """Return what must come of a stream on the ``fast lane``, or on the plain lane under another host."""
    differs = DIFFERENCES[host]
    ahead = Difference.READS_AHEAD in differs
    data = stream.data
    chat = _Chat(stream)
    host_ends: list[End] = []
    pongs: list[str] = []
    pongs_surely = awaited = heard_surely = 0
    due: list[Optional[int]] = []
    marks = _marks(stream)
    over = False  # what comes then does not matter
    for event in [*read(data, differs), Ended(len(data) + 1, None)]:
        while marks and marks[0][0] < event.at and not over:
            _, mark = marks.pop(0)
            if chat.close is not None or host_ends:  # the sender waits for the end
                over = True
            elif mark is Do.AWAIT:
                due.append(sum(map(len, chat.phases)) + len(pongs))
                awaited, heard_surely = len(chat.phases), len(chat.heard)
                chat.phases.append([])
            elif chat.username:
                chat.close, over = CloseCode.RESUMED_ELSEWHERE, True
        if over or event.at > len(data):
            break
        if isinstance(event, Ended):
            host_ends += [event.end, None] if host_ends else [event.end]
        elif isinstance(event, Ping):
            if ahead:
                pongs.append(event.payload.hex())
                pongs_surely += chat.close is None and not host_ends
            else:
                chat.answer(AT_ONCE, f"pong {event.payload.hex()}")
        elif chat.close is None and not host_ends:
            chat.take(event.data)
        if chat.close is not None and not ahead:
            break
    due += [None] * (stream.script.count(Do.AWAIT) - len(due))
    closes = chat.close is not None or bool(host_ends)
    # What the sender sees of the end.
    gone = stream.last is Last.RESET or (tls and stream.last is Last.EOF)  # TLS does not end in one direction alone
    ends: list[End] = [] if chat.close is None else [_payload(chat.close)]
    ends += [_payload(end) if isinstance(end, CloseCode) and not ahead else end for end in host_ends]
    if not host_ends and (chat.close is None or (ahead and stream.last is Last.EOF and not over)):
        ends.append(None)
    if gone:
        short = {AT_ONCE, SUPERVISOR, TOPIC, PINGS}
    elif not closes and stream.last is Last.WAIT:
        short = set()
    elif Difference.ENDS_AT_ONCE not in differs or (chat.close is not None and len(ends) == 1):
        short = {SUPERVISOR, TOPIC}
    else:
        short = {AT_ONCE, SUPERVISOR, TOPIC}
    # What the witness sees.
    lost = any(isinstance(end, int) for end in host_ends) and Difference.LOSES_MESSAGES in differs
    if not gone and not lost:
        heard_surely = len(chat.heard)
    leaves = bool(chat.username) and (heard_surely > 0 or None)
    return Expected(
        chat.phases,
        awaited,
        pongs,
        pongs_surely,
        short,
        due,
        chat.heard,
        heard_surely,
        leaves,
        [] if gone else ends,
        closes,
        *skip(data),
    )


def _payload(code: CloseCode) -> bytes:
    """Return the payload of the server's own close frame."""
    return int(code).to_bytes(2, "big") + code.reason.encode()


def _marks(stream: Stream) -> list[tuple[int, Do]]:
    """Return what a sender does between its bytes, each with its place."""
    at, marks = 0, []
    for item in stream.script:
        if isinstance(item, Do):
            marks.append((at, item))
        else:
            at += len(item)
    return marks


# The comparison


class Observed(NamedTuple):
    """What came of a stream, in a form to be compared.

    ``answers``: until the close frame. ``late``: behind it. ``end``: the payload of the close frame, or None.
    ``heard``: what the witness heard of the sender.
    """

    answers: list[Answer]
    late: list[Answer]
    end: Optional[bytes]
    heard: list[str]


def difference(seen: Observed, expected: Expected, host: str) -> Optional[str]:
    """Return the first difference, as a sentence; None if there is none."""
    found = _wrong_end(seen, expected, host) or _wrong_pongs(seen, expected, host)
    return found or _wrong_answers(seen, expected, host) or _wrong_hearing(seen, expected)


def _wrong_end(seen: Observed, expected: Expected, host: str) -> Optional[str]:
    ends: list[End] = [seen.end]
    if seen.end:
        ends.append(int.from_bytes(seen.end[:2], "big"))
    if expected.ends and not any(end in ends for end in expected.ends):
        return f"the end is {seen.end!r}, not {' or '.join(map(repr, expected.ends))}"
    late = [
        answer for answer in seen.late if answer[0] != PINGS or Difference.PONG_AFTER_CLOSE not in DIFFERENCES[host]
    ]
    return f"behind the close came {late[0]}" if late else None


def _wrong_pongs(seen: Observed, expected: Expected, host: str) -> Optional[str]:
    if Difference.READS_AHEAD not in DIFFERENCES[host]:
        return None  # they are among the answers
    pongs = [what for source, what in seen.answers if source == PINGS]
    surely = 0 if PINGS in expected.short else expected.pongs_surely
    if pongs != expected.pongs[: len(pongs)] or len(pongs) < surely:
        return f"pongs are {pongs}, not {expected.pongs} or at least the first {surely}"
    return None


def _wrong_answers(seen: Observed, expected: Expected, host: str) -> Optional[str]:
    answers = seen.answers
    if Difference.READS_AHEAD in DIFFERENCES[host]:
        answers = [answer for answer in answers if answer[0] != PINGS]
    else:
        answers = [(AT_ONCE, f"pong {what}") if source == PINGS else (source, what) for source, what in answers]
    for place, due in enumerate(expected.phases):
        got, answers = answers[: len(due)], answers[len(due) :]
        for listed, one_more in ((_LISTED_BEFORE, _LISTED_AFTER), (_LISTED_AFTER, _LISTED_ASKING)):
            if listed in due:
                got = [listed if one == one_more else one for one in got]
        for source in AT_ONCE, SUPERVISOR, TOPIC:
            from_it, due_from_it = ([one for one in all_ if one[0] == source] for all_ in (got, due))
            short = len(got) < len(due) and place >= expected.awaited and source in expected.short
            if from_it != (due_from_it[: len(from_it)] if short else due_from_it):
                return f"answers in phase {place} are {got}, not {due}"
    return f"more answers came: {answers}" if answers else None


def _wrong_hearing(seen: Observed, expected: Expected) -> Optional[str]:
    heard = seen.heard
    left = bool(heard) and heard[-1].startswith("left ")
    if left:
        heard = heard[:-1]
    if heard != expected.heard[: len(heard)] or len(heard) < expected.heard_surely:
        surely = expected.heard_surely
        return f"the witness heard {heard}, not {expected.heard}, or at least the first {surely}"
    return "the witness heard of no leave" if expected.leaves and not left else None
