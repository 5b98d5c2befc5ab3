"""A random stream of one connection: its bytes, where they are cut, and what else its sender does.

A seed and a number name a stream. What must come of it is the matter of ``model``.
"""

import enum
import itertools
import json
import random
from typing import Callable, NamedTuple, TypeVar, Union

from tests.support.websocket.wire import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
    MASK,
    PING,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    frame,
    header,
)

T = TypeVar("T")

LIMIT = 5000  # bytes of a message
CHARS = 200  # of a chat message
REFUSED = 5  # frames in a row that end a connection
SETTINGS = {
    "CHAT_FRAME_BYTES": str(LIMIT),
    "CHAT_MESSAGE_CHARS": str(CHARS),
    "CHAT_REFUSED_FRAMES": str(REFUSED),
    "CHAT_TOPIC_MEMBERS": "2",
    "CHAT_JOIN_TIMEOUT": "600",
    # A rate that is soon reached, so that the server holds many connections for a moment, and reads on.
    "CHAT_RATE_LIMIT": "2000",
    "CHAT_RATE_BURST": "8",
}
USERNAMES = "sender", "sénder", "witness"  # the last has a namesake in the topic
WITNESS = "witness"

_BYTE_BY_BYTE = 700  # bytes of a stream that is cut everywhere, at most
_GOOD_CODES = 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999
_BAD_CODES = 0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535
_OTHER_OPCODES = 3, 4, 5, 6, 7, 11, 12, 13, 14, 15
_NOT_UTF8 = (
    b"\xff",
    b"\xc3",
    b"\x80",
    b"ab\xc3(",
    b"\xed\xa0\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xc0\xaf",
)
_REFUSED_TEXTS = (
    "{",
    "[]",
    "nonsense",
    "/nothing",
    "null",
    '{"message": 5}',
    '{"message": ""}',
    '{"message": " \\t"}',
    '{"message": "/nothing"}',
    '{"message": "\\ud800"}',
    '{"message": "x", "ref": ""}',
    '{"username": "x"}',
    '{"username": "", "topic": ""}',
    '{"mess\u00e4ge": "x"}',
    json.dumps({"message": "x" * (CHARS + 1)}),
)
_HEARTBEATS = "", "ping", '{"type": "ping"}', "Heartbeat"


class Do(enum.Enum):
    """What a sender does between its bytes."""

    AWAIT = "await all answers"
    RESUME = "resume as this member by another connection"


class Last(enum.Enum):
    """What a sender does after its bytes."""

    WAIT = "wait for the end, if there is one, else for the answers"
    EOF = "send no more"
    RESET = "reset"


class Stream(NamedTuple):
    """Stream of one connection. ``parts``: what its bytes are, for people, each with its place."""

    name: str
    topic: str
    script: list[Union[bytes, Do]]
    last: Last
    full: bool  # the topic, before the sender comes
    parts: list[tuple[int, str]]

    @property
    def data(self) -> bytes:
        return b"".join(item for item in self.script if isinstance(item, bytes))

    def __str__(self) -> str:
        data = self.data
        places = [place for place, _ in self.parts] + [len(data)]
        sizes = [str(len(item)) if isinstance(item, bytes) else item.name for item in self.script]
        runs = [(size, len(list(run))) for size, run in itertools.groupby(sizes)]
        lines = [f"stream {self.name}{', into a full topic' * self.full}, then: {self.last.value}"]
        for (place, part), end in zip(self.parts, places[1:]):
            piece = data[place:end]
            lines.append(f"  {place:6} {part}: {piece[:40].hex()}{f'… ({len(piece)} bytes)' * (len(piece) > 40)}")
        sent = " ".join(size if count == 1 else f"{count}x{size}" for size, count in runs)
        return "\n".join([*lines, f"  sent as {sent}"])


def stream(seed: int, number: int, take: int = 0) -> Stream:
    """Return the stream of this seed and number. Each ``take`` of it has a topic of its own."""
    return _Author(seed, number, take).write()


class _Author:
    """Author of one stream."""

    def __init__(self, seed: int, number: int, take: int) -> None:
        self._name = f"{seed}/{number}"
        self._rng = random.Random(self._name)
        self._topic = f"topic {number}.{take:04}"
        self._said = 0  # messages
        self._long = 0.3 if self._chance(0.15) else 0.0  # chance of a length that is longer than it needs to be
        self._username = self._choice(*USERNAMES)
        self._data = bytearray()
        self._parts: list[tuple[int, str]] = []
        self._edges: set[int] = set()  # where frames begin, and payloads
        self._waits: set[int] = set()  # where answers are awaited
        self._resumes: set[int] = set()

    def write(self) -> Stream:
        rng = self._rng
        plots = (self._close, self._break, self._be_refused, self._be_resumed, self._stop, self._break_off)
        plot: Callable[[], Last] = rng.choices(plots, (30, 30, 7, 7, 10, 16))[0]
        full = plot == self._stop and self._chance(0.3)
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            self._before_the_join()
        if plot == self._be_resumed or self._chance(0.93):
            self._join(windowed=plot == self._be_resumed or self._chance(0.3))
        for _ in range(rng.choice((0, 1, 2, 3, 5, 8, 13))):
            self._legal()
        last: Last = plot()
        return Stream(self._name, self._topic, self._cut(), last, full, self._parts)

    # Plots

    def _close(self) -> Last:
        """The sender closes; it may say something behind its close."""
        self._add("close", frame(FIN | CLOSE, self._close_payload(), self._mask()))
        for _ in range(self._rng.choice((0, 0, 1, 3))):
            self._anything()
        return self._choice(Last.WAIT, Last.WAIT, Last.WAIT, Last.EOF)

    def _break(self) -> Last:
        """Something is broken."""
        self._broken()
        for _ in range(self._rng.choice((0, 1, 2, 5))):
            self._anything()
        return self._choice(Last.WAIT, Last.WAIT, Last.WAIT, Last.EOF)

    def _be_refused(self) -> Last:
        """Too many frames are refused."""
        for _ in range(REFUSED):
            self._text("refused", self._choice(*_REFUSED_TEXTS).encode())
            if self._chance(0.2):
                self._control()
            if self._chance(0.05):
                self._text("heartbeat", self._choice(*_HEARTBEATS).encode())
        for _ in range(self._rng.choice((0, 1, 2, 5))):
            self._legal() if self._chance(0.9) else self._anything()
        return self._choice(Last.WAIT, Last.WAIT, Last.EOF)

    def _be_resumed(self) -> Last:
        """Another connection takes the member over, perhaps within a frame or a message."""
        at = len(self._data)
        if self._chance(0.3):
            self._fragments(TEXT, self._message(), "message in fragments")
            at = self._rng.randint(at, len(self._data))
        self._resumes.add(at)
        for _ in range(self._rng.choice((0, 1, 3, 6))):
            self._legal() if self._chance(0.9) else self._anything()
        return self._choice(Last.WAIT, Last.WAIT, Last.EOF)

    def _stop(self) -> Last:
        """Nothing more comes."""
        return self._rng.choice(list(Last))

    def _break_off(self) -> Last:
        """The sender goes at any place."""
        self._anything()
        end = self._rng.randint(0, len(self._data))
        del self._data[end:]
        self._parts = [(place, part) for place, part in self._parts if place < end]
        return self._choice(Last.WAIT, Last.EOF, Last.EOF, Last.RESET)

    # What is said

    def _before_the_join(self) -> None:
        if self._chance(0.5):
            self._text("refused", self._choice(*_REFUSED_TEXTS).encode())
        elif self._chance(0.5):
            self._text("list", self._list())
        else:
            self._control()

    def _join(self, windowed: bool) -> None:
        keys = {"username": self._username, "topic": self._topic}
        if windowed:
            keys["resume"] = ""
        self._text("join", json.dumps(keys, ensure_ascii=self._chance(0.5)).encode())

    def _legal(self) -> None:
        """Something that does not end the connection; a refused text does so by and by."""
        what = self._rng.choices(("message", "list", "refused", "heartbeat", "control", "pad"), (60, 7, 8, 2, 20, 3))[0]
        if what == "message":
            self._text(what, self._message())
        elif what == "list":
            self._text(what, self._list())
        elif what == "refused":
            self._text(what, self._choice(*_REFUSED_TEXTS).encode())
        elif what == "heartbeat":
            self._text(what, self._choice(*_HEARTBEATS).encode())
        elif what == "control":
            self._control()
        else:
            size = self._choice(126, 127, 4096, LIMIT - 1, LIMIT)
            message = self._message()
            self._text("long message", message + b" " * (size - len(message)))

    def _message(self) -> bytes:
        rng = self._rng
        self._said += 1
        message = f"{self._said}" + rng.choice(("", " hello", " ünïcödé ✓ 🎈", ' "quoted\\"', " x" * 60))
        keys = {"message": message}
        if self._chance(0.5):
            keys["ref"] = f"r{self._said}"
        text = json.dumps(keys, ensure_ascii=self._chance(0.3))
        return (" " * rng.choice((0, 0, 1, 100)) + text).encode()

    def _list(self) -> bytes:
        return self._choice(b"/list", b" /list ", b'{"message": "/list"}')

    def _text(self, what: str, payload: bytes) -> None:
        """A message, by any of the ways in which a message can come."""
        way = self._rng.random()
        if way < 0.7:
            self._frame(what, FIN | TEXT, payload)
        elif way < 0.8:
            self._frame(f"binary {what}", FIN | BINARY, payload)
        else:
            self._fragments(self._choice(TEXT, TEXT, BINARY), payload, f"{what} in fragments")

    def _fragments(self, kind: int, payload: bytes, what: str, controls: float = 0.3) -> None:
        rng = self._rng
        cuts = sorted(rng.randint(0, len(payload)) for _ in range(rng.choice((1, 1, 2, 4))))
        if self._chance(0.2):
            cuts = [0, *cuts, len(payload)]  # empty fragments
        places = [0, *cuts, len(payload)]
        for place, (start, end) in enumerate(zip(places, places[1:])):
            first = (kind if not place else CONT) | (FIN if place == len(cuts) else 0)
            self._frame(f"{what}, {place + 1} of {len(cuts) + 1}", first, payload[start:end])
            if place < len(cuts) and self._chance(controls):
                self._control()

    def _control(self) -> None:
        payload = self._rng.randbytes(self._choice(0, 0, 1, 4, 125))
        self._frame("control", FIN | self._choice(PING, PING, PONG), payload)

    def _close_payload(self) -> bytes:
        if self._chance(0.2):
            return b""
        reason = self._choice("", "", "bye", "ünïcödé ✓", "x" * 123).encode()
        return self._choice(*_GOOD_CODES).to_bytes(2, "big") + reason

    # What is wrong

    def _anything(self) -> None:
        """Something that comes too late, perhaps."""
        what = self._rng.random()
        if what < 0.6:
            self._legal()
        elif what < 0.75:
            self._add("close", frame(FIN | CLOSE, self._close_payload(), self._mask()))
        elif what < 0.9:
            self._broken()
        else:
            self._add("noise", self._rng.randbytes(self._rng.randint(1, 40)))

    def _broken(self) -> None:
        self._choice(
            self._unmasked,
            self._reserved_bits,
            self._other_opcode,
            self._not_text,
            self._not_text_in_fragments,
            self._no_start,
            self._no_end,
            self._control_in_fragments,
            self._long_control,
            self._too_big,
            self._too_big,
            self._too_big_in_fragments,
            self._bad_close,
            self._close_in_message,
            self._noise,
        )()

    def _unmasked(self) -> None:
        first = FIN | self._choice(TEXT, BINARY, PING, CLOSE)
        self._add("unmasked", frame(first, self._choice(b"", self._message()), None))

    def _reserved_bits(self) -> None:
        first = FIN | self._choice(TEXT, BINARY, PING, PONG, CLOSE) | self._choice(RSV1, RSV2, RSV3, RSV1 | RSV3)
        self._half("reserved bits", first, self._message())

    def _other_opcode(self) -> None:
        self._half("opcode of nothing", FIN | self._choice(*_OTHER_OPCODES), self._message())

    def _not_text(self) -> None:
        self._frame("not UTF-8", FIN | TEXT, self._choice(b"", b"hello", b'{"message": "') + self._choice(*_NOT_UTF8))

    def _not_text_in_fragments(self) -> None:
        payload = self._choice(b"", "ünï".encode()) + self._choice(*_NOT_UTF8) + self._choice(b"", b"hello")
        self._fragments(TEXT, payload, "not UTF-8 in fragments", controls=0.6)

    def _no_start(self) -> None:
        self._frame("end without a start", self._choice(CONT, FIN | CONT), self._choice(b"", b"hello"))

    def _no_end(self) -> None:
        self._frame("start", self._choice(TEXT, BINARY), self._choice(b"", b"hello"))
        self._control() if self._chance(0.3) else None
        self._frame("another start", self._choice(TEXT, BINARY, FIN | TEXT, FIN | BINARY), self._message())

    def _control_in_fragments(self) -> None:
        self._frame("control in fragments", self._choice(PING, PONG, CLOSE), self._choice(b"", b"\x03\xe8"))

    def _long_control(self) -> None:
        size = self._choice(126, 127, 1000, LIMIT + 1, 1 << 16)
        self._half("long control", FIN | self._choice(PING, PONG, CLOSE), b"\x03\xe8" + b"x" * (size - 2))

    def _too_big(self) -> None:
        first = self._choice(FIN, FIN, 0) | self._choice(TEXT, BINARY)
        if self._chance(0.4):
            size = self._choice(LIMIT + 1, 1 << 24, (1 << 24) + 1, 1 << 40, 1 << 63, (1 << 64) - 1)
            self._add("head of what is too big", header(first, size, self._mask(), 8))
        else:
            self._frame("too big", first, b" " * (LIMIT + self._choice(1, 500)))

    def _too_big_in_fragments(self) -> None:
        size = LIMIT + self._choice(1, 500)
        self._frame("start of what is too big", TEXT, b" " * self._choice(3000, LIMIT))
        self._control() if self._chance(0.3) else None
        self._frame("too big by this", CONT, b" " * (size - 3000))
        self._control() if self._chance(0.3) else None
        self._frame("end of what is too big", FIN | CONT, b"")

    def _bad_close(self) -> None:
        code = self._choice(*_BAD_CODES).to_bytes(2, "big")
        good = self._choice(*_GOOD_CODES).to_bytes(2, "big")
        self._frame(
            "bad close", FIN | CLOSE, self._choice(b"\x03", code, code + b"bye", good + b"\xff", good + b"x\xc3")
        )

    def _close_in_message(self) -> None:
        self._frame("start", self._choice(TEXT, BINARY), self._message())
        self._frame("close in a message", FIN | CLOSE, self._close_payload())

    def _noise(self) -> None:
        self._add("noise", self._rng.randbytes(self._rng.randint(1, 200)))

    # Bytes

    def _frame(self, what: str, first: int, payload: bytes) -> None:
        width = 0
        if self._chance(self._long):
            width = 8 if len(payload) >= 1 << 16 else self._choice(2, 8)
        self._add(f"{what}{' (long length)' * bool(width)}", frame(first, payload, self._mask(), width), len(payload))

    def _half(self, what: str, first: int, payload: bytes) -> None:
        """A frame that is wrong by its header; its payload may never come."""
        whole = frame(first, payload, self._mask())
        if self._chance(0.2):
            end = self._rng.randint(2, len(whole))
            self._add(f"{what}, {end} of {len(whole)} bytes", whole[:end])
        else:
            self._add(what, whole, len(payload))

    def _mask(self) -> bytes:
        return self._choice(MASK, b"\0\0\0\0", self._rng.randbytes(4), self._rng.randbytes(4))

    def _add(self, what: str, data: bytes, payload: int = 0) -> None:
        at = len(self._data)
        self._parts.append((at, what))
        self._edges |= {at, at + len(data) - payload, at + len(data)}
        if self._chance(0.1):
            self._waits.add(at)
        self._data += data

    def _cut(self) -> list[Union[bytes, Do]]:
        """Cut the bytes in pieces, and put between them what else the sender does."""
        rng, data = self._rng, bytes(self._data)
        size = len(data)
        way = rng.choices(("whole", "bytes", "frames", "near", "tiny", "random"), (20, 15, 10, 20, 15, 20))[0]
        waits = self._waits if self._chance(0.5) else set()
        cuts = waits | self._resumes
        if way == "bytes":
            if size <= _BYTE_BY_BYTE:
                cuts |= set(range(size))
            else:
                cuts |= {edge + near for edge in self._edges for near in range(-5, 15)}
        elif way == "frames":
            cuts |= self._edges
        elif way == "near":
            cuts |= {edge + rng.randint(-3, 12) for edge in sorted(self._edges) if self._chance(0.7)}
        elif way == "tiny" and size <= 5 * _BYTE_BY_BYTE:
            at = 0
            while at < size:
                at += rng.randint(1, 9)
                cuts.add(at)
        elif way in ("tiny", "random"):
            cuts |= {rng.randint(0, size) for _ in range(rng.randint(1, 20))}
        script: list[Union[bytes, Do]] = []
        at = 0
        for cut in sorted(cut for cut in {*cuts, size} if 0 <= cut <= size):
            if cut > at:
                script.append(data[at:cut])
            if cut in waits or cut in self._resumes:
                script.append(Do.AWAIT)
            if cut in self._resumes:
                script.append(Do.RESUME)
            at = cut
        return script

    # Chance

    def _chance(self, share: float) -> bool:
        return self._rng.random() < share

    def _choice(self, *among: T) -> T:
        return self._rng.choice(among)
