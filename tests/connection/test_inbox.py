"""The inbox: the messages that it delivers at once, the frames that uvicorn gets, and the order of both."""

import asyncio
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.protocols.websockets import wsproto_impl

from chat_actors.connection.inbox import MAX_AHEAD, Inbox, open_inbox
from tests.support.fakes import in_clean_loop
from tests.support.websocket.inputs import chunks, deflated
from tests.support.websocket.stage import LONGEST, Stage, a_message, listening
from tests.support.websocket.twins import IMPLEMENTATIONS, hear
from tests.support.websocket.wire import BINARY, CLOSE, CONT, FIN, PING, PONG, RSV1, RSV2, TEXT, frame, header, text

BAD_UTF8 = frame(FIN | TEXT, b"caf\xe9")
BINARY_FRAME = frame(FIN | BINARY, b"binary")


@pytest.mark.parametrize("words", ["", "x", "grüße", "x" * 125, "x" * 126, "😀" * 250])
def test_a_whole_text_frame_is_taken_at_once(words: str) -> None:
    stage = listening()
    stage.read(text(words), text("next"))
    assert stage.texts == [words, "next"]
    assert not stage.uvicorn.data


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 11, 100])
def test_a_text_frame_is_taken_when_the_last_of_it_is_read(size: int) -> None:
    stage = listening()
    data = text("one") + text("") + text("x" * 200) + text("two")
    for at in range(0, len(data), size):
        stage.read(data[at : at + size])
    assert stage.texts == ["one", "", "x" * 200, "two"]
    assert not stage.uvicorn.data


def test_uvicorn_gets_all_frames_until_the_session_takes_messages() -> None:
    stage = Stage()
    stage.read(text("join") + frame(FIN | PING))
    assert stage.uvicorn.data == [text("join"), frame(FIN | PING)]


OTHERS = {
    "binary": BINARY_FRAME,
    "the beginning of a message": frame(TEXT, b"be"),
    "its end": frame(FIN | CONT, b"end"),
    "compressed": frame(FIN | RSV1 | TEXT, b"\x4a\x04\x00"),
    "reserved bits": frame(FIN | RSV2 | TEXT, b"x"),
    "ping": frame(FIN | PING, b"ping"),
    "pong": frame(FIN | PONG),
    "close": frame(FIN | CLOSE, b"\x03\xe8bye"),
    "bad UTF-8": BAD_UTF8,
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_all_other_frames_go_on_to_uvicorn_byte_for_byte(data: bytes) -> None:
    stage = listening()
    stage.read(text("before") + data[:4])
    assert not stage.uvicorn.data
    stage.read(data[4:])
    assert stage.uvicorn.data == [data]
    assert stage.texts == ["before"]


GIVEN_UP = {
    "not masked": frame(FIN | TEXT, b"hello", mask=None),
    "a length that is none": header(FIN | TEXT, 1 << 63) + b"x",
    "a length in too many bytes": frame(FIN | TEXT, b"x" * 125, width=2),
    "a length in far too many bytes": frame(FIN | TEXT, b"x" * 200, width=8),
    "a long control frame": frame(FIN | PING, b"x" * 126),
    "too big, and nobody to tell": text("x" * (LONGEST + 1)),
}


@pytest.mark.parametrize("data", GIVEN_UP.values(), ids=GIVEN_UP)
def test_uvicorn_gets_a_broken_frame_and_all_frames_after_it(data: bytes) -> None:
    stage = listening()
    behind = data[14:] + text("behind")
    stage.read(text("before"), data[:14], behind)
    assert stage.texts == ["before"]
    assert stage.uvicorn.data == [data[:14], behind]
    assert stage.pipe.protocol is stage.uvicorn


TOO_BIG = {
    "a text": text("x" * (LONGEST + 1)),
    "of 64 KiB and more": frame(FIN | BINARY, b"x" * (1 << 16)),
    "compressed": frame(FIN | RSV1 | TEXT, b"x" * (LONGEST + 1)),
}


@pytest.mark.parametrize("at", [1, 3, 5, 7, 13, 14])
@pytest.mark.parametrize("data", TOO_BIG.values(), ids=TOO_BIG)
def test_a_message_too_big_is_refused_by_its_length_and_nothing_of_it_is_kept(data: bytes, at: int) -> None:
    stage = listening()
    stage.inbox.guard(lambda: None, stage.too_big)
    stage.read(text("before") + data[:at], data[at:14])
    assert stage.refused == 1
    stage.read(data[14:-1], data[-1:] + text("behind") + frame(FIN | CLOSE))
    assert (stage.refused, stage.texts) == (1, ["before"])
    assert stage.uvicorn.data == [text("behind"), frame(FIN | CLOSE)]  # uvicorn is to see the peer's close


def test_the_fragments_of_a_message_are_too_big_together() -> None:
    stage = listening()
    stage.inbox.guard(lambda: None, stage.too_big)
    half = LONGEST // 2
    for _ in range(2):
        stage.read(frame(TEXT, b"x" * half) + frame(FIN | PING) + frame(FIN | CONT, b"x" * (half - 1)))
    assert stage.refused == 0
    stage.read(frame(TEXT, b"x" * half), frame(CONT, b"x" * half))
    assert stage.refused == 1


def test_empty_fragments_count_towards_the_limit() -> None:
    stage = listening()
    stage.inbox.guard(lambda: None, stage.too_big)
    stage.read(frame(TEXT) + frame(CONT) * LONGEST)
    assert stage.refused == 0
    stage.read(frame(CONT))
    assert stage.refused == 1


def test_the_longest_message_is_taken() -> None:
    stage = listening()
    stage.read(text("x" * LONGEST))
    assert stage.texts == ["x" * LONGEST]


@pytest.mark.parametrize("kind", ["binary", "compressed", "bad UTF-8"])
@in_clean_loop
async def test_no_text_overtakes_a_message_that_uvicorn_has(kind: str) -> None:
    ahead = OTHERS[kind]
    stage = listening()
    stage.read(ahead + text("second"), text("third"))
    assert stage.uvicorn.data == [ahead, text("second"), text("third")]
    for _ in range(2):
        await stage.inbox.receive()
        stage.read(frame(FIN | PONG))
    stage.read(text("fourth"))
    assert not stage.texts
    for _ in range(2):
        await stage.inbox.receive()
    stage.read(text("fifth"))
    assert stage.texts == ["fifth"]


@in_clean_loop
async def test_a_message_in_fragments_is_waited_for_once() -> None:
    stage = listening()
    stage.read(frame(TEXT, b"be") + frame(CONT, b"gin") + frame(FIN | CONT, b"end") + text("second"))
    assert not stage.texts
    for _ in range(2):
        await stage.inbox.receive()
    stage.read(text("third"))
    assert stage.texts == ["third"]


@in_clean_loop
async def test_uvicorn_gets_a_text_inside_another_message() -> None:
    stage = listening()
    stage.read(frame(TEXT, b"be") + text("inside"), text("behind"))
    assert stage.uvicorn.data == [frame(TEXT, b"be"), text("inside"), text("behind")]
    assert not stage.texts


@pytest.mark.parametrize("first", [FIN | CLOSE, CLOSE, PING, FIN | RSV1 | PONG, FIN | 0xB])
def test_nothing_is_taken_behind_a_close_or_a_broken_control_frame(first: int) -> None:
    stage = listening()
    stage.read(text("before") + frame(first) + text("behind"))
    assert stage.texts == ["before"]
    assert stage.uvicorn.data == [frame(first), text("behind")]


def test_control_frames_are_not_waited_for() -> None:
    stage = listening()
    stage.read(frame(FIN | PING) + text("taken"))
    assert stage.texts == ["taken"]


def test_nothing_is_taken_after_the_conversation_is_over() -> None:
    stage = listening()
    stage.goes_on = False
    stage.read(text("last") + text("late"), text("later"))
    assert stage.texts == ["last"]


@in_clean_loop
async def test_while_held_nothing_is_read_and_then_all_goes_on_in_order() -> None:
    stage = listening()
    until = [asyncio.get_running_loop().create_future() for _ in range(2)]
    numbers = count()

    def take_and_hold(words: str) -> bool:
        number = next(numbers)
        if number < len(until):
            stage.inbox.hold(until[number])
        return stage.take(words)

    stage.inbox.deliver_to(take_and_hold)
    stage.read(text("one") + text("two") + BINARY_FRAME + frame(FIN | PING) + text("three")[:3])
    assert (stage.texts, stage.uvicorn.data, stage.pipe.reading) == (["one"], [], False)
    stage.read(text("three")[3:])  # was on its way
    assert (stage.texts, stage.uvicorn.data, stage.pipe.reading) == (["one"], [], False)
    until[0].set_result(None)
    await asyncio.sleep(0)
    assert (stage.texts, stage.uvicorn.data, stage.pipe.reading) == (["one", "two"], [], False)
    until[1].set_result(None)
    await asyncio.sleep(0)
    assert stage.texts == ["one", "two"]
    assert stage.uvicorn.data == [BINARY_FRAME, frame(FIN | PING), text("three")]
    assert stage.pipe.reading


@pytest.mark.parametrize("kind", ["ping", "pong", "the beginning of a message"])
@in_clean_loop
async def test_a_control_frame_or_fragment_is_counted_and_backpressure_stops_the_next(kind: str) -> None:
    stage = listening()
    until = asyncio.get_running_loop().create_future()
    waits = iter([None, until])
    stage.inbox.guard(lambda: next(waits), stage.too_big)
    stage.read(OTHERS[kind] * 3)
    assert (stage.uvicorn.data, stage.pipe.reading) == ([OTHERS[kind]] * 2, False)
    waits = iter([None])
    until.set_result(None)
    await asyncio.sleep(0)
    assert (stage.uvicorn.data, stage.pipe.reading) == ([OTHERS[kind]] * 3, True)


@in_clean_loop
async def test_a_peer_that_does_not_read_its_pongs_is_not_read_until_it_does() -> None:
    stage = listening()
    for _ in range(2):
        stage.uvicorn.data.clear()
        stage.pipe.protocol.pause_writing()
        stage.read(text("a message") + frame(FIN | PING) * 2)
        assert (stage.uvicorn.data, stage.pipe.reading) == ([frame(FIN | PING)], False)
        stage.pipe.protocol.resume_writing()
        await asyncio.sleep(0)
        assert (stage.uvicorn.data, stage.pipe.reading) == ([frame(FIN | PING)] * 2, True)
    assert stage.texts == ["a message"] * 2


@in_clean_loop
async def test_backpressure_and_the_wait_for_the_session_do_not_end_each_other() -> None:
    stage = listening()
    until = asyncio.get_running_loop().create_future()
    stage.inbox.guard(lambda: until, stage.too_big)
    stage.read(BINARY_FRAME + frame(FIN | PING))
    stage.pipe.resume_reading()  # as uvicorn does once the session has received the message
    stage.read(frame(FIN | PING))
    assert (stage.uvicorn.data, stage.pipe.reading) == ([BINARY_FRAME, frame(FIN | PING)], False)
    stage.inbox.guard(lambda: None, stage.too_big)
    until.set_result(None)
    await asyncio.sleep(0)
    assert (len(stage.uvicorn.data), stage.pipe.reading) == (2, False)  # uvicorn still has a message
    await stage.inbox.receive()
    assert not stage.pipe.reading  # which the session has to deal with first
    await stage.inbox.receive()
    assert (len(stage.uvicorn.data), stage.pipe.reading) == (3, True)


@in_clean_loop
async def test_few_messages_wait_in_uvicorn_and_the_rest_comes_when_they_are_received() -> None:
    stage = listening()
    stage.read((BINARY_FRAME + frame(FIN | PING)) * (MAX_AHEAD + 1), text("behind"))
    stage.pipe.resume_reading()  # as uvicorn may
    stage.read(text("far behind"))
    assert (stage.uvicorn.data.count(BINARY_FRAME), stage.pipe.reading) == (MAX_AHEAD, False)
    for _ in range(MAX_AHEAD):
        await stage.inbox.receive()
        assert not stage.pipe.reading
    await stage.inbox.receive()
    assert stage.pipe.reading
    assert stage.uvicorn.data.count(BINARY_FRAME) == MAX_AHEAD + 1
    assert stage.uvicorn.data[-2:] == [text("behind"), text("far behind")]


@in_clean_loop
async def test_a_message_that_came_before_the_handshake_was_over_is_not_counted() -> None:
    stage = listening()
    await stage.inbox.receive()
    stage.read(text("taken"))
    assert stage.texts == ["taken"]


def test_a_control_frame_that_ended_the_connection_causes_no_backpressure() -> None:
    stage = listening()
    stage.inbox.guard(lambda: pytest.fail("asked"), stage.too_big)
    stage.uvicorn.data_received = lambda data: stage.pipe.close()  # type: ignore[method-assign]
    stage.read(frame(FIN | CLOSE))


@in_clean_loop
async def test_a_connection_that_ends_while_held_is_left_alone() -> None:
    stage = listening()
    until = asyncio.get_running_loop().create_future()

    def take_and_hold(words: str) -> bool:
        stage.inbox.hold(until)
        return stage.take(words)

    stage.inbox.deliver_to(take_and_hold)
    stage.read(text("one") + text("two"))
    stage.pipe.close()
    until.set_result(None)
    await asyncio.sleep(0)
    assert (stage.texts, stage.pipe.reading) == (["one"], False)


def test_uvicorn_gets_every_event_of_the_connection() -> None:
    stage = listening()
    failure = ConnectionResetError()
    stage.pipe.protocol.pause_writing()
    stage.pipe.protocol.resume_writing()
    assert stage.pipe.protocol.eof_received() is True
    stage.pipe.protocol.connection_lost(failure)
    assert stage.uvicorn.told == ["pause", "resume", "eof", failure]


@in_clean_loop
async def test_another_servers_messages_come_one_by_one() -> None:
    inbox = open_inbox(None, a_message, LONGEST)
    assert type(inbox) is Inbox
    inbox.deliver_to(lambda text: pytest.fail(text))
    assert (await inbox.receive())["text"] == "hello"


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=chunks(), turns=st.lists(st.integers(0, 4)))
def test_a_stream_cut_in_any_way_has_the_messages_and_end_of_uvicorn_alone(
    implementation: str, pieces: list[bytes], turns: list[int]
) -> None:
    alone = asyncio.run(hear(implementation, [bytes([byte]) for byte in b"".join(pieces)], direct=False))
    assert asyncio.run(hear(implementation, pieces, direct=True, turns=turns)) == alone


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_compressed_message_may_not_grow_far_beyond_the_limit_whatever_uvicorns_is(implementation: str) -> None:
    if implementation == "wsproto" and not hasattr(wsproto_impl, "WebsocketBuffer"):
        pytest.skip("this uvicorn, 0.39, has no limit for messages by wsproto: there is nothing to set")
    bomb = [frame(FIN | RSV1 | TEXT, deflated(b"x" * 100_000))]
    heard = asyncio.run(hear(implementation, bomb, direct=True, uvicorns_limit=1 << 24))
    assert (heard.messages, heard.code) == ([], 1009)
    assert asyncio.run(hear(implementation, bomb, direct=False, uvicorns_limit=1 << 24)).messages == ["x" * 100_000]
