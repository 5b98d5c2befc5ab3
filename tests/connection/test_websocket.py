"""A WebSocket on a fake transport: what is heard, what is answered, how it ends, and in which order."""

import socket
from collections.abc import Iterator
from itertools import count
from typing import Any, Optional

import pytest
from hypothesis import HealthCheck, example, given, settings
from websockets.protocol import Protocol

from chat_actors.connection.base import CLOSE_SECONDS
from chat_actors.connection.websocket import MAX_JUDGED, UNSENT_BYTES
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Message, finished
from tests.support.fakes import FakeTransport, in_clean_loop, remaining, settle
from tests.support.websocket.inputs import chunks
from tests.support.websocket.stage import LONGEST, Stage
from tests.support.websocket.wire import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
    PING,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    frame,
    header,
    text,
)

PING_FRAME = frame(FIN | PING, b"ping")
CLOSE_FRAME = frame(FIN | CLOSE, b"\x03\xe8bye")
NO_MASK = bytes(4)
A_MESSAGE = finished(Message(1, "alice", "hello", 0))

# Messages.


@pytest.mark.parametrize("words", ["", "x", "xy", "grüße", "x" * 125, "x" * 126, "x" * 127, "😀" * 250])
def test_a_whole_text_frame_is_heard_at_once(words: str) -> None:
    stage = Stage()
    stage.read(text(words), text("next"))
    assert stage.heard == [words, "next"]
    assert (stage.receiver.counted, stage.sent) == (0, [])


@pytest.mark.parametrize("words", ["xy", "grüße", "x" * 125, "x" * 126, "x" * 65_535])
def test_a_whole_text_frame_needs_no_judge(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the one kept that judged a frame before: it would cost time and memory."""
    stage = Stage(frame_bytes=1 << 16)
    stage.read(PING_FRAME, frame(FIN | BINARY), text("whole")[:5], text("whole")[5:])
    monkeypatch.setattr(Protocol, "receive_data", pytest.fail)
    stage.read(text(words) * 2, text(words))
    assert stage.heard == [b"", "whole", words, words, words]


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\0\x02\x03\x04", b"\0\x7e\xff\xff", b"\xff\xff\xff\xff"])
@pytest.mark.parametrize("words", ["hello", "x" * 126])
def test_a_text_is_heard_whatever_its_mask(words: str, mask: bytes) -> None:
    stage = Stage()
    stage.read(frame(FIN | TEXT, words.encode(), mask) * 2 + frame(FIN | TEXT, b"x" * 200, mask))
    assert stage.heard == [words, words, "x" * 200]


@pytest.mark.parametrize("size", [65_535, 65_536, 100_000])
def test_a_long_text_frame_is_heard(size: int) -> None:
    stage = Stage(frame_bytes=100_000)
    stage.read(text("x" * size) + text("next"))
    assert stage.heard == ["x" * size, "next"]


@pytest.mark.parametrize("width", [2, 8])
def test_a_length_in_more_bytes_than_it_needs_is_understood(width: int) -> None:
    stage = Stage()
    stage.receiver.on_message = stage.connection.hold  # so the end of the frame is known as well
    stage.read(frame(FIN | TEXT, b"short", width=width) + text("next"))
    assert stage.heard == ["short"]
    stage.connection.release()
    assert stage.heard == ["short", "next"]


MESSAGES: dict[str, tuple[list[bytes], Any]] = {  # the frames of one message, and how it is heard
    "text": ([text("hello")], "hello"),
    "empty text": ([text("")], ""),
    "long text": ([text("x" * 200)], "x" * 200),
    "binary": ([frame(FIN | BINARY, b"\xff\x00")], b"\xff\x00"),
    "empty binary": ([frame(FIN | BINARY)], b""),
    "fragments": ([frame(TEXT, b"gr\xc3"), frame(CONT), frame(FIN | CONT, b"\xbc\xc3\x9fe")], "grüße"),
    "binary fragments": ([frame(BINARY, b"\xff"), frame(FIN | CONT)], b"\xff"),
    "empty fragments": ([frame(TEXT), frame(FIN | CONT)], ""),
}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 8, 11, 100, 10_000])
@pytest.mark.parametrize("between", [b"", PING_FRAME, frame(FIN | PONG)], ids=["nothing", "pings", "pongs"])
def test_messages_are_heard_in_their_order_however_they_are_cut(size: int, between: bytes) -> None:
    stage = Stage()
    frames = [one for frames, _ in MESSAGES.values() for one in frames] * 2
    stage.read_in_pieces(size, b"".join(one + between for one in frames))
    assert stage.heard == [heard for _, heard in MESSAGES.values()] * 2
    fragments = len(frames) - len(stage.heard)
    assert stage.receiver.counted == fragments + (len(frames) if between else 0)
    assert stage.sent == ([(FIN | PONG, b"ping")] * len(frames) if between == PING_FRAME else [])


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_is_heard_when_the_last_of_it_is_read(kind: str) -> None:
    frames, heard = MESSAGES[kind]
    data = b"".join(frames)
    for cut in range(len(data)):
        stage = Stage()
        stage.read(text("before") + data[:cut])
        assert stage.heard == ["before"]
        stage.read(data[cut:] + text("behind"))
        assert stage.heard == ["before", heard, "behind"]


def test_a_ping_is_answered_with_its_payload_in_its_place() -> None:
    stage = Stage()
    stage.receiver.on_message = lambda: stage.connection.write(A_MESSAGE)
    stage.read(text("1") + frame(FIN | PING, b"x" * 125) + text("2") + frame(FIN | PING))
    payload = A_MESSAGE[2:]
    assert stage.sent == [(FIN | TEXT, payload), (FIN | PONG, b"x" * 125), (FIN | TEXT, payload), (FIN | PONG, b"")]
    assert stage.connection.written == len(stage.transport.written)


# What is broken.

BROKEN_HEADERS = {  # told by its header alone
    "not masked": (header(FIN | TEXT, 5, mask=None), 1002),
    "not masked, and nothing in it": (header(FIN | PING, 0, mask=None), 1002),
    "a reserved bit": (header(FIN | RSV1 | TEXT, 5), 1002),
    "another reserved bit": (header(FIN | RSV2 | BINARY, 126), 1002),
    "the last reserved bit": (header(FIN | RSV3 | PING, 5), 1002),
    "an unknown frame": (header(FIN | 0x3, 5), 1002),
    "an unknown long frame": (header(FIN | 0x7, 200), 1002),
    "an unknown control frame": (header(FIN | 0xB, 5), 1002),
    "a long control frame": (header(FIN | PING, 126), 1002),
    "a long close frame": (header(FIN | CLOSE, 200), 1002),
    "a ping in fragments": (header(PING, 5), 1002),
    "a pong in fragments": (header(PONG, 5), 1002),
    "too big": (header(FIN | TEXT, LONGEST + 1), 1009),
    "too big for two bytes": (header(FIN | BINARY, 1 << 16), 1009),
    "a length that is none": (header(FIN | TEXT, 1 << 63), 1009),
    "a control frame too big": (header(FIN | PING, 1 << 16), 1009),
    "too big, with a reserved bit": (header(FIN | RSV1 | TEXT, LONGEST + 126), 1009),
}
BROKEN = {  # told by its payload, or by what was before
    "no UTF-8": (frame(FIN | TEXT, b"caf\xe9"), 1007),
    "no UTF-8 in fragments": (frame(TEXT, b"caf\xc3") + frame(FIN | CONT, b"x"), 1007),
    "half a character": (frame(TEXT, b"caf") + frame(FIN | CONT, b"\xc3"), 1007),
    "a fragment of nothing": (frame(CONT, b"x"), 1002),
    "the end of nothing": (frame(FIN | CONT, b"x"), 1002),
    "a text in a message": (frame(TEXT, b"x") + text("inside"), 1002),
    "a binary in a message": (frame(BINARY, b"x") + frame(FIN | BINARY, b"inside"), 1002),
    "a close of one byte": (frame(FIN | CLOSE, b"\x03"), 1002),
    "a close code that is none": (frame(FIN | CLOSE, b"\x03\xed"), 1002),
    "a reason that is no UTF-8": (frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007),
    "fragments too big together": (frame(TEXT, b"x" * LONGEST) + frame(FIN | CONT, b"x"), 1009),
}


@pytest.mark.parametrize("size", [1, 2, 7, 14, 10_000])
@pytest.mark.parametrize("kind", [*BROKEN_HEADERS, *BROKEN])
def test_what_is_broken_ends_the_connection_at_its_place(kind: str, size: int) -> None:
    data, code = {**BROKEN_HEADERS, **BROKEN}[kind]
    stage = Stage()
    stage.read_in_pieces(size, text("before") + data + text("behind"))
    stage.read(PING_FRAME, text("far behind"))
    assert (stage.heard, stage.close_codes) == (["before"], [code])
    (reason,) = stage.receiver.ended
    assert reason.startswith("broken frame: ") if code != 1009 else reason == "frame_too_big"
    assert stage.connection.reason == reason
    assert stage.counters.closed == {code: 1}


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("kind", BROKEN_HEADERS)
def test_a_broken_header_is_judged_as_soon_as_it_is_there(kind: str, size: int) -> None:
    data, code = BROKEN_HEADERS[kind]
    stage = Stage()
    stage.read_in_pieces(size, text("before") + (data if kind.startswith("not masked") else data[:-4]))  # without mask
    assert (stage.heard, stage.close_codes) == (["before"], [code])


@pytest.mark.parametrize("kind", [kind for kind, (_, code) in {**BROKEN_HEADERS, **BROKEN}.items() if code != 1009])
def test_after_a_broken_frame_the_connection_is_half_closed_at_once(kind: str) -> None:
    data, _ = {**BROKEN_HEADERS, **BROKEN}[kind]
    stage = Stage()
    stage.read(data)
    assert (stage.transport.half_closed, stage.transport.closing) == (True, False)
    stage.seconds_pass(CLOSE_SECONDS)
    assert stage.transport.aborted


def test_a_broken_frame_is_told_with_its_reason() -> None:
    stage = Stage()
    stage.read(frame(FIN | RSV2 | TEXT, b"x"))
    assert stage.sent == [(FIN | CLOSE, b"\x03\xeareserved bits must be 0")]
    assert stage.receiver.ended == ["broken frame: reserved bits must be 0"]


# What is too big.

AS_LONG_AS_CAN_BE = {
    "text": text("x" * LONGEST),
    "text of long characters": text("😀" * (LONGEST // 4)),
    "binary": frame(FIN | BINARY, b"x" * LONGEST),
    "fragments": frame(TEXT, b"x" * (LONGEST - 1)) + frame(FIN | PING) + frame(FIN | CONT, b"x"),
    "empty fragments": frame(TEXT, b"x" * LONGEST) + frame(CONT) * 10 + frame(FIN | CONT),
}


@pytest.mark.parametrize("kind", AS_LONG_AS_CAN_BE)
def test_the_longest_message_is_heard(kind: str) -> None:
    stage = Stage()
    stage.read(AS_LONG_AS_CAN_BE[kind] * 2)
    assert [len(heard.encode() if isinstance(heard, str) else heard) for heard in stage.heard] == [LONGEST] * 2


def test_a_ping_within_the_longest_message_is_not_too_big() -> None:
    stage = Stage()
    stage.read(frame(TEXT, b"x" * LONGEST) + PING_FRAME + frame(FIN | CONT))
    assert [len(heard) for heard in stage.heard] == [LONGEST]


@pytest.mark.parametrize("rest", [0, 1, 500, LONGEST + 1])
def test_the_rest_of_a_message_too_big_is_skipped_up_to_the_peers_close(rest: int) -> None:
    big = frame(FIN | BINARY, CLOSE_FRAME * LONGEST)  # it looks like closes
    begin = len(big) - rest
    stage = Stage()
    stage.read(text("before") + PING_FRAME + big[:begin])
    assert (stage.heard, stage.close_codes, stage.receiver.ended) == (["before"], [1009], ["frame_too_big"])
    stage.read(big[begin:], PING_FRAME + text("behind"))
    assert not stage.transport.half_closed
    assert stage.sent[1:] == [(FIN | CLOSE, b"\x03\xf1frame too big")]
    stage.read(CLOSE_FRAME)
    assert stage.transport.half_closed
    assert (stage.heard, len(stage.sent)) == (["before"], 2)


# The peer's close.


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa0" + b"x" * 123])
def test_the_peers_close_is_answered_with_the_same_and_nothing_after_it_is_heard(payload: bytes, size: int) -> None:
    stage = Stage()
    stage.read_in_pieces(size, text("before") + frame(FIN | CLOSE, payload) + text("behind") + PING_FRAME)
    stage.read(text("far behind"), b"\xff")
    assert (stage.heard, stage.receiver.counted, stage.sent) == (["before"], 0, [(FIN | CLOSE, payload)])
    assert stage.transport.half_closed
    assert (stage.receiver.ended, stage.connection.reason, stage.counters.closed) == (["closed by peer"], None, {})
    stage.transport.lose()
    assert stage.closed == 1


def test_what_was_written_goes_before_the_answer_to_the_close() -> None:
    stage = Stage()
    stage.receiver.on_message = lambda: stage.connection.write(A_MESSAGE)
    stage.receiver.on_end = lambda: stage.connection.write(A_MESSAGE)
    stage.read(text("1") + frame(FIN | CLOSE))
    assert [first for first, _ in stage.sent] == [FIN | TEXT, FIN | CLOSE]


def test_a_close_within_a_message_is_answered_and_the_message_is_not_heard() -> None:
    stage = Stage()
    stage.read(frame(TEXT, b"be") + frame(FIN | CLOSE, b"\x03\xe8"), frame(FIN | CONT, b"end"))
    assert stage.heard == []
    assert (stage.close_codes, stage.receiver.ended) in (
        ([1002], ["broken frame: incomplete fragmented message"]),
        ([1000], ["closed by peer"]),  # the websockets package up to 15
    )
    assert stage.transport.half_closed


def test_a_connection_that_cannot_be_half_closed_is_closed() -> None:
    """As with TLS."""
    stage = Stage()
    stage.transport.half_closes = False
    stage.read(text("before") + CLOSE_FRAME + text("behind"))
    assert (stage.heard, stage.close_codes) == (["before"], [1000])
    assert stage.transport.closing and not stage.transport.aborted
    stage.seconds_pass(CLOSE_SECONDS)
    assert stage.transport.aborted
    assert stage.receiver.ended == ["closed by peer"]


def test_a_peer_that_keeps_its_side_open_after_its_close_is_aborted() -> None:
    stage = Stage()
    stage.read(CLOSE_FRAME)
    for _ in range(int(CLOSE_SECONDS)):
        stage.tick()
        stage.read(PING_FRAME)
    assert not stage.transport.aborted
    stage.seconds_pass(CLOSE_SECONDS)
    assert stage.transport.aborted


def test_the_peers_close_on_a_transport_that_is_closing_is_answered_by_nothing() -> None:
    stage = Stage()
    stage.transport.closing = True
    stage.read(CLOSE_FRAME)
    assert (stage.sent, stage.transport.half_closed) == ([], False)
    assert stage.receiver.ended == ["closed by peer"]


# The server's close.

UNDER_WAY = {  # when the server closes
    "nothing": b"",
    "one byte": text("under way")[:1],
    "a header": text("under way")[:2],
    "a text": text("under way")[:9],
    "a binary": frame(FIN | BINARY, b"under way")[:9],
    "a ping": PING_FRAME[:8],
    "a long one": text("x" * 200)[:3],
    "the beginning of a message": frame(TEXT, b"be"),
    "the beginning of the next fragment": frame(TEXT, b"be") + frame(CONT, b"gin")[:7],
}
REST = {
    "a header": text("under way")[2:],
    "one byte": text("under way")[1:],
    "a text": text("under way")[9:],
    "a binary": frame(FIN | BINARY, b"under way")[9:],
    "a ping": PING_FRAME[8:],
    "a long one": text("x" * 200)[3:],
    "the beginning of the next fragment": frame(CONT, b"gin")[7:],
}
SKIPPED = {
    "nothing": b"",
    "messages": text("late") + frame(FIN | BINARY, b"late") + frame(FIN | TEXT, b"caf\xe9"),
    "pings": PING_FRAME * 3,
    "what would be broken": frame(FIN | RSV2 | 0x3, b"x") + frame(FIN | PING, CLOSE_FRAME * 20, mask=None),
    "what would be too big": text("x" * (LONGEST + 1)),
}


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("skipped", SKIPPED)
@pytest.mark.parametrize("under_way", UNDER_WAY)
def test_after_the_servers_close_all_is_skipped_up_to_the_peers(under_way: str, skipped: str, size: int) -> None:
    stage = Stage()
    stage.read_in_pieces(size, text("before") + UNDER_WAY[under_way])
    heard = len(stage.heard)
    stage.connection.close(CloseCode.RESTARTING)
    assert stage.receiver.ended == ["restarting"]
    stage.read_in_pieces(size, REST.get(under_way, b"") + SKIPPED[skipped])
    assert not stage.transport.half_closed
    stage.read(CLOSE_FRAME[:1])
    assert stage.transport.half_closed
    stage.read(CLOSE_FRAME[1:], text("behind"))
    assert len(stage.heard) == heard == 1
    assert stage.sent == [(FIN | CLOSE, b"\x03\xf4the server restarts, reconnect later")]
    assert stage.counters.closed == {1012: 1}


@pytest.mark.parametrize("cut", [0, 1, 5, 9, 10, 14, 60_000])
def test_after_the_servers_close_a_very_long_frame_is_skipped(cut: int) -> None:
    data = frame(FIN | BINARY, CLOSE_FRAME * 10_000)
    stage = Stage(frame_bytes=1 << 20)
    stage.read(data[:cut])
    stage.connection.close(CloseCode.RESTARTING)
    stage.read(data[cut:-1], data[-1:] + PING_FRAME)
    assert not stage.transport.half_closed
    stage.read(CLOSE_FRAME)
    assert (stage.transport.half_closed, stage.close_codes) == (True, [1012])


@pytest.mark.parametrize("cut", range(1, len(CLOSE_FRAME)))
def test_a_peers_close_that_is_under_way_is_the_answer_to_the_servers(cut: int) -> None:
    stage = Stage()
    stage.read(CLOSE_FRAME[:cut])
    stage.connection.close(CloseCode.RESTARTING)
    stage.read(CLOSE_FRAME[cut:])
    assert (stage.close_codes, stage.transport.half_closed) == ([1012], True)
    assert stage.receiver.ended == ["restarting"]


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_close_at_a_message_is_answered_by_the_close_in_the_same_read(kind: str) -> None:
    frames, heard = MESSAGES[kind]
    stage = Stage()
    stage.receiver.on_message = lambda: stage.connection.close(CloseCode.TOO_MANY_REFUSED)
    stage.read(b"".join(frames) + text("behind") + PING_FRAME + CLOSE_FRAME * 2 + text("far behind"))
    assert (stage.heard, stage.close_codes, stage.transport.half_closed) == ([heard], [1008], True)


def test_a_close_at_a_frame_that_is_no_message_skips_what_is_behind_it() -> None:
    stage = Stage()
    stage.receiver.on_frame = lambda: stage.connection.close(CloseCode.OVERLOADED)
    stage.read(PING_FRAME + frame(FIN | RSV2 | TEXT, b"broken") + CLOSE_FRAME)
    assert stage.sent == [(FIN | PONG, b"ping"), (FIN | CLOSE, b"\x03\xf5the server is full, try again later")]
    assert stage.transport.half_closed


def test_a_close_of_a_connection_that_cannot_be_half_closed_waits_for_the_peers() -> None:
    stage = Stage()
    stage.transport.half_closes = False
    stage.connection.close(CloseCode.RESTARTING)
    assert not stage.transport.closing
    stage.read(text("behind") + CLOSE_FRAME)
    assert stage.transport.closing


@pytest.mark.parametrize("answer", [b"", frame(FIN | CLOSE)])
def test_a_close_of_a_held_connection_looks_for_the_peers_in_what_was_read(answer: bytes) -> None:
    stage = Stage()
    stage.receiver.on_message = stage.connection.hold
    stage.read(text("1") + text("2") + answer)
    stage.connection.close(CloseCode.RESTARTING)
    assert (stage.heard, stage.transport.reading) == (["1"], True)
    assert stage.transport.half_closed == bool(answer)


def test_a_close_on_a_transport_that_is_closing_sends_nothing_and_tells_the_session() -> None:
    stage = Stage()
    stage.transport.closing = True
    stage.connection.close(CloseCode.RESTARTING)
    assert (stage.sent, stage.receiver.ended) == ([], ["restarting"])
    stage.transport.lose()
    assert stage.closed == 1


# The end of the transport.


@pytest.mark.parametrize("close", [None, CloseCode.RESTARTING])
def test_a_half_close_by_the_peer_ends_the_connection(close: Optional[CloseCode]) -> None:
    stage = Stage()
    stage.read(text("before") + text("under way")[:5])
    if close is not None:
        stage.connection.close(close)
    assert not stage.transport.protocol.eof_received()  # so the transport closes itself
    assert stage.receiver.ended == ["closed by peer" if close is None else "restarting"]
    stage.read(text("under way")[5:], text("behind"))
    stage.connection.write(A_MESSAGE)
    assert (stage.heard, len(stage.sent)) == (["before"], 0 if close is None else 1)
    stage.seconds_pass(CLOSE_SECONDS)
    assert stage.transport.aborted  # for what was written may wait forever
    assert (stage.closed, len(stage.receiver.ended)) == (0, 1)


@pytest.mark.parametrize("error", [None, ConnectionResetError("peer gone")])
def test_a_lost_connection_is_forgotten_by_the_sweep_and_by_the_host(error: Optional[Exception]) -> None:
    stage = Stage()
    assert stage.host == {stage.connection}
    stage.receiver.on_message = stage.connection.hold
    stage.connection.write(A_MESSAGE)
    stage.read(text("1") + text("2") + text("under way")[:5])
    stage.transport.lose(error)
    assert (stage.host, stage.sweep.connections, stage.closed) == (set(), set(), 1)
    assert (stage.receiver.ended, stage.counters.bytes_out) == (["closed by peer"], len(A_MESSAGE))
    stage.connection.release()  # as a timer does that was set before
    assert stage.heard == ["1"]


def test_the_hosts_end_is_passed_on() -> None:
    stage = Stage()
    for connection in list(stage.host):
        connection.shutdown()
    assert (stage.shutdowns, stage.receiver.ended) == (1, [])


def test_nothing_of_what_a_peer_said_is_kept() -> None:
    calm, broken, lost = Stage(), Stage(), Stage()
    lost.receiver.on_frame = lost.connection.hold
    phrases = [("east", "tulip"), ("west", "tulip"), ("north", "tulip"), ("south", "tulip")]
    east, west, north, south = (" ".join(phrase) for phrase in phrases)
    calm.read(frame(FIN | TEXT, east.encode(), NO_MASK))  # heard
    broken.read(frame(TEXT, west.encode(), NO_MASK) + CLOSE_FRAME)
    lost.read(frame(TEXT, north.encode(), NO_MASK) + frame(FIN | CONT, south.encode(), NO_MASK))
    lost.transport.lose()
    calm.heard.clear()
    del east, west, north, south
    assert remaining(*phrases) == [False] * 4


# Holding.


def test_while_held_the_transport_does_not_read_and_then_all_goes_on_in_order() -> None:
    stage = Stage()
    numbers = count()

    def hold_twice() -> None:
        if next(numbers) < 2:
            stage.connection.hold()

    stage.receiver.on_message = hold_twice
    stage.read(text("one") + frame(FIN | BINARY, b"two") + PING_FRAME + text("three")[:3])
    assert (stage.heard, stage.sent, stage.transport.reading) == (["one"], [], False)
    stage.read(text("three")[3:5])  # was on its way
    stage.read(text("three")[5:] + text("four"))
    assert (stage.heard, stage.transport.reading) == (["one"], False)
    stage.connection.release()
    assert (stage.heard, stage.sent, stage.transport.reading) == (["one", b"two"], [], False)
    stage.read(text("five"))
    stage.connection.release()
    assert stage.heard == ["one", b"two", "three", "four", "five"]
    assert (stage.sent, stage.transport.reading) == ([(FIN | PONG, b"ping")], True)
    stage.read(text("six"))
    assert stage.heard[5:] == ["six"]


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize("kind", MESSAGES)
def test_a_hold_at_every_message_and_frame_loses_nothing(kind: str, size: int) -> None:
    frames, heard = MESSAGES[kind]
    stage = Stage()
    stage.receiver.on_message = stage.receiver.on_frame = stage.connection.hold
    stage.read_in_pieces(size, b"".join(one + PING_FRAME for one in frames) * 2 + text("last"))
    for _ in range(4 * len(frames) + 1):
        assert not stage.transport.reading
        stage.connection.release()
    assert stage.transport.reading
    assert stage.heard == [heard, heard, "last"]
    assert stage.sent == [(FIN | PONG, b"ping")] * 2 * len(frames)


def test_a_control_frame_or_fragment_that_holds_stops_the_next() -> None:
    for one in (PING_FRAME, frame(FIN | PONG), frame(TEXT, b"be")):
        stage = Stage()
        stage.receiver.on_frame = stage.connection.hold
        stage.read(one + frame(CONT) * 2 + PING_FRAME * 2)
        assert stage.receiver.counted == 1


def test_a_broken_frame_behind_a_hold_is_judged_after_it() -> None:
    stage = Stage()
    stage.receiver.on_message = stage.connection.hold
    stage.read(text("1") + frame(FIN | RSV2 | TEXT, b"x") + text("2"))
    assert stage.close_codes == []
    stage.connection.release()
    assert (stage.heard, stage.close_codes) == (["1"], [1002])
    assert (stage.transport.half_closed, stage.transport.reading) == (True, True)  # to see the peer's end


def test_a_transport_that_closed_while_it_was_held_is_not_resumed() -> None:
    stage = Stage()
    stage.receiver.on_message = stage.connection.hold
    stage.read(text("1") + text("2"))
    stage.transport.closing = True
    stage.connection.release()
    assert not stage.transport.reading


# A peer that does not read its pongs.


def test_a_peer_that_does_not_read_its_pongs_is_not_read_until_it_does() -> None:
    stage = Stage()
    for turn in (1, 2):
        stage.transport.protocol.pause_writing()
        stage.read(text("a message") + frame(FIN | PONG) + PING_FRAME + text("behind") + PING_FRAME)
        assert (len(stage.sent), stage.transport.reading) == (2 * turn - 1, False)
        assert stage.heard[-1] == "a message"
        stage.read(text("last"))
        stage.transport.protocol.resume_writing()
        assert (len(stage.sent), stage.transport.reading) == (2 * turn, True)
    assert stage.heard == ["a message", "behind", "last"] * 2


def test_a_hold_and_unread_pongs_do_not_end_each_other() -> None:
    stage = Stage()
    stage.receiver.on_frame = stage.connection.hold
    for first, second in (("resume_writing", "release"), ("release", "resume_writing")):
        stage.transport.protocol.pause_writing()
        stage.read(PING_FRAME + text(second))
        for ending in (first, second):
            assert not stage.transport.reading
            (stage.connection.release if ending == "release" else stage.transport.protocol.resume_writing)()
        assert stage.transport.reading
    assert stage.heard == ["release", "resume_writing"]


def test_a_close_does_not_wait_for_a_peer_to_read_its_pongs() -> None:
    stage = Stage()
    stage.transport.protocol.pause_writing()
    stage.read(PING_FRAME + text("behind"))
    stage.connection.close(CloseCode.RESTARTING)
    assert (stage.heard, stage.close_codes, stage.transport.reading) == ([], [1012], True)


def test_a_peer_that_is_awaited_for_room_has_its_own_bounds_again_when_it_has_read() -> None:
    stage = Stage()
    stage.transport.peer_reads = False
    stage.connection.write(A_MESSAGE)
    called: list[str] = []
    stage.connection.when_room(lambda: called.append("room"))
    bounds = [stage.transport.high_water]
    stage.transport.read(len(A_MESSAGE))
    bounds.append(stage.transport.high_water)
    assert (called, bounds) == (["room"], [0, None])
    stage.transport.protocol.pause_writing()  # as with pongs that are not read
    stage.transport.protocol.resume_writing()
    assert called == ["room"]


def test_nobody_is_called_for_room_who_asks_when_the_connection_is_closing() -> None:
    stage = Stage()
    stage.transport.peer_reads = False
    stage.connection.write(A_MESSAGE)
    stage.connection.close(CloseCode.RESTARTING)
    called: list[str] = []
    stage.connection.when_room(lambda: called.append("room"))
    stage.transport.read(stage.transport.unread)
    assert called == []


def test_a_transport_that_is_closing_keeps_its_bounds_when_its_peer_has_read() -> None:
    stage = Stage()
    stage.transport.peer_reads = False
    stage.connection.write(A_MESSAGE)
    stage.connection.when_room(lambda: None)
    stage.transport.close()
    stage.transport.read(len(A_MESSAGE))
    assert stage.transport.high_water == 0


# Silence.


def test_a_silent_peer_is_pinged_and_then_aborted() -> None:
    stage = Stage(ping_interval=20)
    stage.seconds_pass(20 - 1)
    assert stage.sent == []
    stage.seconds_pass(1)
    assert stage.sent == [(FIN | PING, b"")]
    stage.seconds_pass(20 - 2)
    assert (stage.receiver.ended, len(stage.sent)) == ([], 1)
    stage.seconds_pass(2)
    assert stage.receiver.ended == ["silent: no answer to a ping"]
    assert (stage.transport.aborted, stage.close_codes, stage.counters.slow) == (True, [], 0)


@pytest.mark.parametrize("sign", [frame(FIN | PONG), PING_FRAME, text("hello"), text("hello")[:1], frame(TEXT)])
def test_any_byte_of_a_peer_is_a_sign_of_life(sign: bytes) -> None:
    stage = Stage(ping_interval=20)
    stage.seconds_pass(35)
    stage.read(sign)
    stage.transport.written = b""  # a pong, perhaps
    stage.seconds_pass(15)
    assert (stage.sent, stage.receiver.ended) == ([], [])
    stage.seconds_pass(10)
    assert (stage.sent, stage.receiver.ended) == ([(FIN | PING, b"")], [])


def test_a_peer_that_only_answers_pings_is_pinged_again_and_again() -> None:
    stage = Stage(ping_interval=20)
    for turn in range(1, 5):
        stage.seconds_pass(21)
        assert len(stage.sent) == turn
        stage.read(frame(FIN | PONG))
    assert stage.receiver.ended == []


@pytest.mark.parametrize("why", ["held", "full"])
def test_silence_does_not_count_while_nothing_is_read(why: str) -> None:
    stage = Stage(ping_interval=20)
    stage.seconds_pass(15)
    if why == "held":
        stage.connection.hold()
    else:
        stage.transport.protocol.pause_writing()
        stage.read(PING_FRAME)
    stage.transport.written = b""
    stage.seconds_pass(100)
    assert {first for first, _ in stage.sent} == {FIN | PING}  # to a socket that is gone, a write fails
    stage.connection.release()
    stage.transport.protocol.resume_writing()
    stage.transport.written = b""
    stage.seconds_pass(15)
    assert (stage.sent, stage.receiver.ended) == ([], [])
    stage.seconds_pass(5)
    assert stage.sent == [(FIN | PING, b"")]


@in_clean_loop
async def test_a_peer_gets_so_many_verdicts_in_one_turn_and_the_rest_in_the_next() -> None:
    stage = Stage()
    stage.read(PING_FRAME * (MAX_JUDGED + 1) + text("behind"))
    assert (len(stage.sent), stage.heard, stage.transport.reading) == (MAX_JUDGED, [], False)
    await settle()
    assert (len(stage.sent), stage.heard, stage.transport.reading) == (MAX_JUDGED + 1, ["behind"], True)


def test_a_peer_that_is_closed_is_not_pinged() -> None:
    stage = Stage(ping_interval=1)
    stage.connection.close(CloseCode.RESTARTING)
    stage.seconds_pass(CLOSE_SECONDS - 0.5)
    assert [first for first, _ in stage.sent] == [FIN | CLOSE]


# Writing.


def test_frames_are_written_as_they_are_and_counted() -> None:
    stage = Stage()
    stage.connection.write(A_MESSAGE * 2)
    stage.connection.write_answer(A_MESSAGE)
    assert stage.transport.written == A_MESSAGE * 3
    assert stage.connection.written == 3 * len(A_MESSAGE)


def test_nothing_is_written_to_a_transport_that_is_closing() -> None:
    stage = Stage()
    stage.transport.closing = True
    stage.connection.write(A_MESSAGE)
    assert (stage.transport.written, stage.connection.written) == (b"", 0)


def test_a_transport_that_was_closed_since_the_check_is_no_error() -> None:
    stage = Stage()
    stage.transport.error = RuntimeError("the handler is closed")  # the words of uvloop
    stage.connection.write(A_MESSAGE)
    assert stage.receiver.ended == []


def test_a_transport_that_has_forgotten_its_buffer_has_nothing_to_write() -> None:
    stage = Stage()
    del stage.transport.unread  # a TLS transport of asyncio has none after a second close: AttributeError
    assert stage.connection.buffered() == 0


def test_pings_and_pongs_count_towards_what_waits() -> None:
    stage = Stage(outbox_bytes=1024)
    stage.transport.peer_reads = False
    stage.read(PING_FRAME * 200)
    stage.connection.write(A_MESSAGE)
    assert stage.receiver.ended == ["slow: outbox full, 1200 bytes unsent"]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_the_kernel_takes_little_ahead_of_what_it_sends(family: socket.AddressFamily) -> None:
    with socket.socket(family) as sock:
        transport = FakeTransport()
        transport.sock = sock
        Stage(transport)
        if family == socket.AF_INET:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES


# All of it.


def outcome(pieces: list[bytes]) -> tuple[Any, ...]:
    """All that a peer and a session learn of a stream."""
    stage = Stage()
    stage.read(*pieces)
    transport = stage.transport
    return stage.heard, stage.receiver.counted, stage.receiver.ended, transport.written, transport.half_closed


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=chunks())
@example(pieces=[frame(FIN | 0xB, b"x" * 10)[:8]])
def test_a_stream_has_one_outcome_however_it_is_cut(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    whole = outcome([data])
    assert outcome(pieces) == whole
    assert outcome([bytes([byte]) for byte in data]) == whole


# The way to another worker.


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection."""
    own, peer = socket.socketpair()
    with own, peer:
        yield own, peer


def on_socket(own: socket.socket, transport: Optional[FakeTransport] = None) -> Stage:
    transport = transport or FakeTransport()
    transport.sock = own
    return Stage(transport)


Sockets = tuple[socket.socket, socket.socket]


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_a_held_connection_is_given_away_with_what_was_read_behind(at_once: int, sockets: Sockets) -> None:
    stage = on_socket(sockets[0])
    stage.receiver.on_message = stage.connection.hold
    stage.connection.set_deadline(10)
    rest = text("second") + text("third")[:4]
    stage.read(text("first") + rest[:at_once], rest[at_once:])
    assert stage.connection.give() == (sockets[0].fileno(), rest)
    stage.connection.write(A_MESSAGE)  # another process may write now
    stage.seconds_pass(3600)
    assert (stage.heard, stage.sent, stage.transport.aborted) == (["first"], [], False)


def test_a_connection_that_is_taken_back_goes_on_where_it_was(sockets: Sockets) -> None:
    stage = on_socket(sockets[0])
    stage.receiver.on_message = stage.connection.hold
    stage.read(text("first") + text("second"))
    assert stage.connection.give() is not None
    stage.connection.take_back()
    stage.connection.write(A_MESSAGE)
    stage.connection.release()
    assert stage.heard == ["first", "second"]
    assert stage.transport.written == A_MESSAGE


def test_the_end_of_a_connection_that_another_process_has_tells_nobody(sockets: Sockets) -> None:
    own, peer = sockets
    stage = on_socket(own)
    assert stage.connection.give() is not None
    closed = stage.connection.forget()
    assert stage.transport.aborted
    stage.transport.lose()
    assert (stage.receiver.ended, stage.closed, stage.sweep.connections) == ([], 0, set())
    own.send(b"still open")
    assert peer.recv(100) == b"still open"
    closed()
    assert stage.closed == 1


@pytest.mark.parametrize("back", [False, True])
def test_a_connection_that_ends_on_its_way_is_shut_down_for_every_process(back: bool, sockets: Sockets) -> None:
    own, peer = sockets
    stage = on_socket(own)
    assert stage.connection.give() is not None
    if back:
        stage.connection.take_back()  # the other process may still have a copy of the descriptor
    stage.connection.abort("a test")
    assert (peer.recv(100), stage.receiver.ended, stage.transport.aborted) == (b"", ["a test"], True)
    stage.connection.take_back()
    assert stage.connection.give() is None


def test_a_socket_that_is_gone_already_needs_no_end(sockets: Sockets) -> None:
    stage = on_socket(sockets[0])
    assert stage.connection.give() is not None
    sockets[0].close()
    stage.connection.abort("a test")
    assert stage.transport.aborted


class TlsTransport(FakeTransport):
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return object() if name == "ssl_object" else super().get_extra_info(name, default)


@pytest.mark.parametrize("why", ["tls", "no socket", "closing", "closed by the server"])
def test_a_connection_that_cannot_change_its_process_is_not_given(why: str, sockets: Sockets) -> None:
    stage = on_socket(sockets[0], TlsTransport() if why == "tls" else None)
    if why == "no socket":
        stage.transport.sock = None
    stage.transport.closing = why == "closing"
    if why == "closed by the server":
        stage.connection.close(CloseCode.RESTARTING)
    assert stage.connection.give() is None
