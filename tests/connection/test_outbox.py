"""Both lanes, on a fake transport and a fake ASGI server, and the stall clock that watches them."""

import asyncio
import gc
import json
import socket
import weakref
from types import SimpleNamespace
from typing import cast

import pytest

from chat_actors.connection.asgi import AsgiEvent, UvicornProtocol
from chat_actors.connection.lanes import CLOSE_SECONDS, UNSENT_BYTES, open_outbox
from chat_actors.connection.outbox import StallWatch
from chat_actors.counters import Counters
from chat_actors.protocol.codes import CloseCode
from tests.support.fakes import FakeClock, FakeServer, in_clean_loop, log_lines, remains, settle, tasks
from tests.support.lane import FastLane, Lane, both_lanes, frame, slow

DISCONNECT = {"type": "websocket.disconnect"}


# Writing.


@both_lanes
@in_clean_loop
async def test_both_lanes_give_the_server_the_same_json_texts(kind: type[Lane]) -> None:
    lane = kind()
    texts = ["1", "ünï", "3" * 200, "4" * 70_000]
    lane.write(texts[0])
    lane.outbox.write(b"".join(frame(text) for text in texts[1:]))
    await settle()
    frames = [{"type": "message", "id": 1, "username": "alice", "message": text, "timestamp": 0} for text in texts]
    assert lane.texts == [json.dumps(one, separators=(",", ":"), ensure_ascii=False) for one in frames]


@in_clean_loop
async def test_the_plain_lane_keeps_nothing_of_a_frame_that_was_sent() -> None:
    lane = Lane()
    lane.write(" ".join(["east", "west"]))
    await settle()
    assert len(lane.server.sent) == 1
    lane.server.sent.clear()
    assert not remains("east", "west")


@both_lanes
@in_clean_loop
async def test_a_peer_with_more_unread_than_the_bound_is_aborted(kind: type[Lane]) -> None:
    lane = kind.stalled(max_bytes=1000)
    for _ in range(2):
        lane.write("x" * 700)
        assert not slow(lane)
    lane.write("x")
    reason = lane.outbox.reason
    assert (reason or "").startswith("slow: outbox full, 1")
    lane.write("x")
    await lane.seconds(50)
    assert lane.outbox.reason == reason


@in_clean_loop
async def test_the_bound_is_for_what_waits_however_much_was_written() -> None:
    lane = FastLane(max_bytes=1000)
    lane.write(*["x" * 300] * 50)
    lane.stall()
    waiting = []
    while not slow(lane):
        waiting.append(lane.transport.unread)
        lane.write("x" * 300)
    assert max(waiting) > 1000  # by one write at the most
    assert sorted(waiting)[-2] <= 1000


@in_clean_loop
async def test_the_bound_of_the_plain_lane_is_for_what_waits_however_much_was_written() -> None:
    lane = Lane(max_bytes=1000)
    for _ in range(50):
        lane.write("x" * 300)
        await settle()
    assert not slow(lane)


@both_lanes
@in_clean_loop
async def test_one_answer_over_the_limit_aborts_no_peer_and_many_answers_do(kind: type[Lane]) -> None:
    lane = kind.stalled()
    lane.outbox.write_answer(frame("x" * 5000))
    await settle()
    lane.write("small")
    assert not slow(lane)
    for _ in range(3):
        lane.outbox.write_answer(frame("x" * 5000))
    assert slow(lane)


@in_clean_loop
async def test_a_transport_that_has_forgotten_its_buffer_has_nothing_to_write() -> None:
    lane = FastLane()
    del lane.transport.unread  # a TLS transport of asyncio has none after a second close: AttributeError
    assert lane.outbox.buffered() == 0


@in_clean_loop
async def test_a_connection_is_open_until_its_peer_has_read_the_end() -> None:
    lane = FastLane()
    assert lane.outbox.is_open()
    lane.stall()
    lane.write("unread")
    await lane.outbox.finish()
    assert lane.outbox.is_open()
    await lane.read_one("unread")
    assert not lane.outbox.is_open()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
@in_clean_loop
async def test_the_kernel_takes_little_ahead_of_what_it_sends(family: socket.AddressFamily) -> None:
    lane = FastLane()
    with socket.socket(family) as sock:
        lane.transport._extra = {"socket": sock}  # type: ignore[attr-defined]
        protocol = cast(UvicornProtocol, SimpleNamespace(transport=lane.transport))
        open_outbox(lane.watch, protocol, lane.server.receive, lane.server.send)
        if family == socket.AF_INET:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES


@both_lanes
@in_clean_loop
async def test_a_replay_comes_on_top_of_what_may_wait(kind: type[Lane]) -> None:
    lane = kind.stalled(max_bytes=1000)
    lane.outbox.write_answer(frame("x" * 5000))
    for _ in range(2):
        lane.write("x" * 700)
        assert not slow(lane)
    lane.write("x")
    assert slow(lane)


@in_clean_loop
async def test_an_aborted_peer_loses_its_connection_on_the_fast_lane() -> None:
    lane = FastLane.stalled("1", "2", max_bytes=0)
    assert lane.transport.aborted.is_set()
    assert len(lane.texts) == 1


@in_clean_loop
async def test_an_aborted_peer_ends_the_conversation_on_the_plain_lane() -> None:
    lane = Lane.stalled("1", "2", max_bytes=0)
    assert await lane.outbox.receive() == DISCONNECT
    lane.server.peer_reads = True
    await settle()
    assert lane.server.sent == []


@in_clean_loop
async def test_nothing_is_written_to_a_transport_that_is_closing() -> None:
    lane = FastLane()
    lane.transport.closing = True
    lane.write("1")
    assert lane.texts == []


@in_clean_loop
async def test_a_transport_that_was_closed_in_between_is_no_error() -> None:
    lane = FastLane()
    lane.transport.error = RuntimeError("the handler is closed")  # the words of uvloop
    lane.write("1")
    assert lane.outbox.reason is None


@in_clean_loop
async def test_a_peer_that_is_gone_ends_the_plain_lane_without_a_word() -> None:
    lane = Lane()
    lane.server.error = OSError("gone")
    lane.write("1")
    assert await lane.outbox.receive() == DISCONNECT
    lane.server.error = None
    with log_lines() as lines:
        for _ in range(5):
            lane.write("x" * 700)
        await settle()
    assert (lane.server.sent, lines, lane.outbox.reason) == ([], [], None)


# The stall clock.


@both_lanes
@in_clean_loop
async def test_a_peer_that_reads_nothing_for_ten_seconds_is_aborted(kind: type[Lane]) -> None:
    lane = kind.stalled("1")
    await lane.seconds(9)
    assert lane.outbox.reason is None
    await lane.seconds(10)
    assert (lane.outbox.reason or "").startswith("slow: no progress")


@both_lanes
@in_clean_loop
async def test_progress_starts_the_ten_seconds_again(kind: type[Lane]) -> None:
    lane = kind.stalled(*["1"] * 5, window=1000)
    await settle()
    for _ in range(4):
        await lane.seconds(9)
        await lane.read_one("1")
    await lane.seconds(10)
    assert not slow(lane)  # the look ten seconds ago saw progress
    await lane.seconds(1)
    assert slow(lane)


@both_lanes
@in_clean_loop
async def test_a_frame_that_outlives_its_message_aborts_a_peer_though_it_makes_progress(
    kind: type[Lane],
) -> None:
    lane = kind.stalled(*["1"] * 60, max_bytes=100_000)
    await settle()
    for _ in range(30):
        await lane.seconds(1)
        await lane.read_one("1")
    assert lane.outbox.reason is None
    await lane.seconds(1)
    assert (lane.outbox.reason or "").startswith("slow: frame older than the window")


@both_lanes
@in_clean_loop
async def test_a_frame_written_behind_others_waits_no_longer_than_they_may(kind: type[Lane]) -> None:
    lane = kind.stalled(*["1"] * 29, max_bytes=100_000)
    await lane.seconds(1)
    lane.write(*["1"] * 60)
    for _ in range(31):
        assert lane.outbox.reason is None
        await lane.seconds(1)
        await lane.read_one("1")
    assert (lane.outbox.reason or "").startswith("slow: frame older than the window")


@both_lanes
@in_clean_loop
async def test_a_peer_that_is_always_a_little_behind_is_left_alone(kind: type[Lane]) -> None:
    lane = kind.stalled()
    for second in range(50):
        lane.write("1")
        await lane.seconds(1)
        if second >= 5:  # so each frame waits for five seconds
            await lane.read_one("1")
    assert lane.outbox.reason is None


@both_lanes
@in_clean_loop
async def test_a_peer_without_waiting_bytes_is_not_aborted(kind: type[Lane]) -> None:
    lane = kind()
    await lane.seconds(50)
    lane.write("1")
    await lane.seconds(50)
    assert lane.outbox.reason is None


# Closing.


@both_lanes
@in_clean_loop
async def test_the_first_close_counts_and_nothing_follows_it(kind: type[Lane]) -> None:
    lane = kind()
    lane.write("1")
    lane.outbox.close(CloseCode.CRASHED)
    lane.outbox.close(CloseCode.RESTARTING)
    lane.write("2")
    await lane.outbox.finish()
    assert len(lane.texts) == 1
    close = {"type": "websocket.close", "code": 1011, "reason": "internal error, join again"}
    assert lane.server.sent[-1] == close
    assert lane.server.closes == [1011]
    assert lane.outbox.reason == "crashed"


@both_lanes
@in_clean_loop
async def test_a_peer_that_was_aborted_gets_no_close(kind: type[Lane]) -> None:
    lane = kind.stalled("1", "2", max_bytes=0)
    lane.outbox.close(CloseCode.RESTARTING)
    lane.server.peer_reads = True
    await lane.outbox.finish()
    assert (lane.server.closes, slow(lane)) == ([], True)


@both_lanes
@in_clean_loop
async def test_a_close_that_cannot_be_sent_is_no_error(kind: type[Lane]) -> None:
    lane = kind()
    lane.server.error = RuntimeError("unexpected ASGI message 'websocket.close'")
    lane.outbox.close(CloseCode.NO_JOIN)
    with log_lines() as lines:
        await lane.outbox.finish()
    assert [line.split()[0] for line in lines] == ["DEBUG"]


@both_lanes
@in_clean_loop
async def test_a_close_that_never_returns_is_given_up(kind: type[Lane]) -> None:
    before = tasks()
    lane = kind.stalled()
    lane.outbox.close(CloseCode.RESTARTING)
    finishing = asyncio.ensure_future(lane.outbox.finish())
    await settle()
    await lane.clock.advance(CLOSE_SECONDS / 2)
    assert not finishing.done()
    await lane.clock.advance(CLOSE_SECONDS / 2)
    await finishing
    assert lane.server.sent == []
    assert tasks() == before | {lane.watching}
    if isinstance(lane, FastLane):
        assert lane.transport.aborted.is_set()


@pytest.mark.parametrize("reads_on", [False, True])
@pytest.mark.parametrize("closed_by_uvicorn", [False, True])
@in_clean_loop
async def test_a_peer_that_leaves_bytes_unread_at_the_end_is_aborted(reads_on: bool, closed_by_uvicorn: bool) -> None:
    lane = FastLane.stalled("1")
    if closed_by_uvicorn:
        lane.transport.closing = True
        lane.outbox.check(lane.clock.now + 1)
        lane.outbox.check(lane.clock.now + 20)  # not a stall
    else:
        await lane.outbox.finish()
    assert not lane.transport.aborted.is_set()
    if reads_on:
        await lane.read_one("1")
    await lane.clock.advance(CLOSE_SECONDS)
    assert lane.transport.aborted.is_set() is not reads_on
    assert lane.outbox.reason is None


@both_lanes
@in_clean_loop
async def test_nothing_is_left_of_an_outbox_that_has_finished(kind: type[Lane]) -> None:
    before = tasks()
    lane = kind()
    reading = asyncio.ensure_future(lane.outbox.receive())
    lane.server.events.put_nowait({"type": "websocket.receive", "text": "{}"})
    await reading
    await lane.outbox.finish()
    assert tasks() == before | {lane.watching}
    outbox = weakref.ref(lane.outbox)
    del lane.outbox, reading
    gc.collect()
    assert outbox() is None


# Receiving.


@both_lanes
@in_clean_loop
async def test_the_server_s_events_are_passed_on_in_order(kind: type[Lane]) -> None:
    lane = kind()
    events: list[AsgiEvent] = [{"type": "websocket.receive", "text": str(number)} for number in range(3)]
    for event in events:
        lane.server.events.put_nowait(event)
    assert [await lane.outbox.receive() for _ in events] == events


@in_clean_loop
async def test_a_close_on_the_plain_lane_ends_the_conversation_for_good() -> None:
    before = tasks()
    lane = Lane()
    waiting = asyncio.ensure_future(lane.outbox.receive())
    await settle()
    lane.outbox.close(CloseCode.NO_JOIN)
    assert await waiting == DISCONNECT
    assert await lane.outbox.receive() == DISCONNECT
    await lane.outbox.finish()
    assert lane.server.closes == [4408]
    assert tasks() == before | {lane.watching}


@in_clean_loop
async def test_an_error_while_an_outbox_finishes_is_not_raised() -> None:
    async def receive() -> AsgiEvent:
        try:
            await asyncio.Event().wait()
        finally:
            raise ConnectionResetError

    watch = StallWatch(FakeClock(), Counters(), 1, 10, 30)
    outbox = open_outbox(watch, None, receive, FakeServer().send)
    reading = asyncio.ensure_future(outbox.receive())
    await settle()
    reading.cancel()
    await outbox.finish()


@in_clean_loop
async def test_a_check_that_fails_does_not_stop_the_checks_of_other_outboxes() -> None:
    clock = FakeClock()
    watch = StallWatch(clock, Counters(), 1, 10, 30)
    looks = 0

    class Broken:
        def check(self, now: float) -> None:
            nonlocal looks
            looks += 1
            raise ValueError

    watch.outboxes.add(Broken())  # type: ignore[arg-type]
    running = asyncio.ensure_future(watch.run())
    with log_lines() as lines:
        for _ in range(2):
            await settle()
            await clock.advance(1)
    assert looks == 2
    assert len([line for line in lines if "stall check failed" in line]) == 2
    running.cancel()
