"""The rules of every connection, on both lanes: its limits, its deadlines, the order of its end, and the sweep."""

import asyncio
import gc
import json
from typing import Any

import pytest

from chat_actors.connection.base import CLOSE_SECONDS, STRIDE, SWEEP_SECONDS, Connection, Sweep, ticks
from chat_actors.counters import Counters
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import payloads
from chat_actors.settings import Settings
from tests.support.fakes import FakeClock, in_clean_loop, log_lines, settle, tasks
from tests.support.lane import FastLane, Lane, both_lanes, frame
from tests.support.websocket.wire import FIN, PING
from tests.support.websocket.wire import frame as frame_of_peer

PING_OF_PEER = frame_of_peer(FIN | PING)

# Writing.


def lane_bytes(lane: Lane, text: str) -> bytes:
    """The bytes of a frame that wait, as the lane counts them: a host adds the header on the plain lane."""
    return frame(text) if isinstance(lane, FastLane) else next(payloads(frame(text)))


@both_lanes
@in_clean_loop
async def test_both_lanes_send_the_same_json_texts(kind: type[Lane]) -> None:
    lane = kind()
    texts = ["1", "ünï", "3" * 200, "4" * 70_000]
    lane.write(texts[0])
    lane.connection.write(b"".join(frame(text) for text in texts[1:]))
    await settle()
    frames = [{"type": "message", "id": 1, "username": "alice", "message": text, "timestamp": 0} for text in texts]
    assert lane.texts == [json.dumps(one, separators=(",", ":"), ensure_ascii=False) for one in frames]


@both_lanes
@in_clean_loop
async def test_a_peer_with_more_unread_than_the_bound_is_aborted(kind: type[Lane]) -> None:
    lane = await kind.stalled(outbox_bytes=1024)
    for _ in range(2):
        lane.write("x" * 700)
        assert not lane.slow
    unread, written = lane.connection.buffered(), lane.connection.written
    lane.write("x")
    assert lane.receiver.ended == [f"slow: outbox full, {unread} bytes unsent"]
    assert lane.counters.slow == 1
    lane.write("x")
    await lane.seconds(50)
    assert (lane.counters.slow, lane.closed, lane.connection.written) == (1, 1, written)
    assert lane.counters.bytes_out == written


@both_lanes
@in_clean_loop
async def test_exactly_the_bound_may_wait(kind: type[Lane]) -> None:
    lane = await kind.stalled(outbox_bytes=1024)
    lane.write("x" * (1024 - len(lane_bytes(lane, "x" * 900)) + 900))
    assert lane.connection.buffered() == 1024
    lane.write("x")
    assert not lane.slow
    lane.write("x")
    assert lane.slow


@both_lanes
@in_clean_loop
async def test_the_bound_is_for_what_waits_however_much_was_written(kind: type[Lane]) -> None:
    lane = kind(outbox_bytes=1024)
    for _ in range(50):
        lane.write("x" * 300)
        await settle()
    lane.stall()
    waiting = []
    while not lane.slow:
        waiting.append(lane.connection.buffered())
        lane.write("x" * 300)
    assert max(waiting) > 1024  # by one write at the most
    assert sorted(waiting)[-2] <= 1024


@both_lanes
@in_clean_loop
async def test_one_answer_over_the_bound_aborts_no_peer_and_many_answers_do(kind: type[Lane]) -> None:
    lane = await kind.stalled(outbox_bytes=1024)
    lane.connection.write_answer(frame("x" * 5000))
    await settle()
    lane.write("small")
    assert not lane.slow
    for _ in range(3):
        lane.connection.write_answer(frame("x" * 5000))
    assert lane.slow


@both_lanes
@in_clean_loop
async def test_a_replay_comes_on_top_of_what_may_wait(kind: type[Lane]) -> None:
    lane = await kind.stalled(outbox_bytes=1024)
    lane.connection.write_answer(frame("x" * 5000))
    for _ in range(2):
        lane.write("x" * 700)
        assert not lane.slow
    lane.write("x")
    assert lane.slow


# The stall clock.


@both_lanes
@in_clean_loop
async def test_a_peer_that_reads_nothing_for_the_stall_timeout_is_aborted(kind: type[Lane]) -> None:
    lane = await kind.stalled("1", stall_timeout=10)
    await lane.seconds(10)
    assert lane.receiver.ended == []
    await lane.seconds(1)
    assert lane.receiver.ended == [f"slow: no progress, {len(lane_bytes(lane, '1'))} bytes unsent"]
    assert lane.counters.slow == 1


@both_lanes
@in_clean_loop
async def test_progress_starts_the_stall_timeout_again(kind: type[Lane]) -> None:
    lane = await kind.stalled(*["1"] * 5, stall_timeout=10, message_ttl=1000, ping_interval=1000)
    for _ in range(4):
        await lane.seconds(9)
        await lane.read_one("1")
    await lane.seconds(10)
    assert not lane.slow
    await lane.seconds(1)
    assert lane.slow


@both_lanes
@in_clean_loop
async def test_a_byte_older_than_the_window_aborts_a_peer_though_it_makes_progress(kind: type[Lane]) -> None:
    lane = await kind.stalled(*["1"] * 60, message_ttl=30)
    for _ in range(29):
        await lane.seconds(1)
        await lane.read_one("1")
    assert lane.receiver.ended == []
    await lane.seconds(1)
    assert lane.receiver.ended[0].startswith("slow: frame older than the window")


@both_lanes
@in_clean_loop
async def test_a_frame_written_behind_others_waits_no_longer_than_they_may(kind: type[Lane]) -> None:
    lane = await kind.stalled(*["1"] * 28, message_ttl=30)
    await lane.seconds(1)
    lane.write(*["1"] * 60)
    for _ in range(29):
        await lane.seconds(1)
        await lane.read_one("1")
        assert lane.receiver.ended == []
    await lane.seconds(1)
    assert lane.receiver.ended[0].startswith("slow: frame older than the window")


@both_lanes
@in_clean_loop
async def test_a_peer_that_is_always_a_little_behind_is_left_alone(kind: type[Lane]) -> None:
    lane = await kind.stalled(ping_interval=100)
    for second in range(50):
        lane.write("1")
        await lane.seconds(1)
        if second >= 5:  # so each frame waits for five seconds
            await lane.read_one("1")
    assert lane.receiver.ended == []


@both_lanes
@in_clean_loop
async def test_a_peer_without_waiting_bytes_is_not_aborted(kind: type[Lane]) -> None:
    lane = kind(ping_interval=1000)
    for _ in range(3):
        await lane.seconds(50)
        lane.write("1")
    assert lane.receiver.ended == []


@both_lanes
@in_clean_loop
async def test_a_connection_that_is_over_is_no_slow_reader(kind: type[Lane]) -> None:
    lane = await kind.stalled("1")
    lane.connection.abort("server stopped")
    lane.connection.drop_slow("too late")
    assert (lane.counters.slow, lane.connection.reason) == (0, "server stopped")


# What must leave in time.


def calm(**settings: Any) -> dict[str, Any]:
    """Settings by which no other limit ends a peer that reads nothing."""
    return {"stall_timeout": 1000, "ping_interval": 1000, "message_ttl": 1000, **settings}


@both_lanes
@pytest.mark.parametrize("seconds", [0.0, 0.125, 0.4375, 3.3125, 7.0])
@in_clean_loop
async def test_a_peer_is_aborted_when_what_waits_is_at_its_deadline(kind: type[Lane], seconds: float) -> None:
    lane = await kind.stalled(**calm())
    lane.connection.write_until(frame("1"), lane.clock.now + seconds)
    for _ in range(int(seconds * 16)):
        assert lane.receiver.ended == []
        await lane.clock.advance(1 / 16)
    await lane.clock.advance(0)
    unread = len(lane_bytes(lane, "1"))
    assert lane.receiver.ended == [f"slow: frame older than the window, {unread} bytes unsent"]
    assert (lane.counters.slow, lane.closed) == (1, 1)


@both_lanes
@in_clean_loop
async def test_of_two_deadlines_the_earlier_one_counts(kind: type[Lane]) -> None:
    lane = await kind.stalled(**calm())
    lane.connection.write_until(frame("1"), lane.clock.now + 0.4)
    lane.connection.write_until(frame("2"), lane.clock.now + 0.3)
    await lane.clock.advance(0.3)
    assert lane.slow
    await lane.clock.advance(0.2)
    assert lane.counters.slow == 1


@both_lanes
@pytest.mark.parametrize("seconds", [0.3, 1.3])
@in_clean_loop
async def test_what_must_leave_in_time_ends_also_a_connection_that_closes(kind: type[Lane], seconds: float) -> None:
    lane = await kind.stalled(**calm())
    lane.connection.write_until(frame("1"), lane.clock.now + seconds)
    lane.connection.close(CloseCode.RESTARTING)
    await lane.clock.elapse(seconds - 0.3)
    await lane.clock.advance(0.29)
    assert lane.closed == 0
    await lane.clock.advance(0.02)
    assert (lane.closed, lane.receiver.ended) == (1, ["restarting"])


@both_lanes
@in_clean_loop
async def test_what_left_in_time_ends_no_peer(kind: type[Lane]) -> None:
    lane = kind(**calm())
    lane.connection.write_until(frame("1"), lane.clock.now + 0.3)  # the peer reads
    await settle()
    lane.stall()
    lane.connection.write_until(frame("2"), lane.clock.now + 0.4)
    lane.write("3")
    await lane.read_one("2")
    await lane.seconds(100)
    assert (lane.receiver.ended, len(lane_bytes(lane, "3"))) == ([], lane.connection.buffered())


@both_lanes
@pytest.mark.parametrize("reads, seconds", [(0, 0.2), (1, 0.4), (2, 3.2)])
@in_clean_loop
async def test_each_piece_has_its_own_deadline(kind: type[Lane], reads: int, seconds: float) -> None:
    lane = await kind.stalled(**calm())
    for text, deadline in (("1", 0.2), ("2", 0.4), ("3", 3.2)):
        lane.connection.write_until(frame(text), lane.clock.now + deadline)
    for text in "12"[:reads]:
        await lane.read_one(text)
    began = lane.clock.now
    while not lane.slow:
        await lane.clock.advance(0.1)
    assert lane.clock.now - began == pytest.approx(seconds)


@both_lanes
@in_clean_loop
async def test_nothing_waits_longer_than_what_was_written_behind_it_may(kind: type[Lane]) -> None:
    lane = await kind.stalled(**calm())
    lane.connection.write_until(frame("1"), lane.clock.now + 10)
    lane.connection.write_until(frame("2"), lane.clock.now + 0.2)
    await lane.read_one("1")
    await lane.clock.advance(0.2)
    assert lane.slow


@both_lanes
@in_clean_loop
async def test_a_deadline_of_a_connection_that_is_over_disturbs_nobody(kind: type[Lane]) -> None:
    lane = await kind.stalled(**calm())
    lane.connection.write_until(frame("1"), lane.clock.now + 0.3)
    lane.connection.abort("server stopped")
    await lane.seconds(3)
    assert (lane.receiver.ended, lane.counters.slow, lane.closed) == (["server stopped"], 0, 1)


# Room.


@both_lanes
@in_clean_loop
async def test_there_is_room_when_nothing_waits(kind: type[Lane]) -> None:
    lane = kind()
    called: list[str] = []
    lane.connection.when_room(lambda: called.append("new"))
    assert (called, lane.connection.has_room()) == (["new"], True)
    lane.write("1")
    await settle()
    lane.connection.when_room(lambda: called.append("read"))
    assert called == ["new", "read"]


@both_lanes
@in_clean_loop
async def test_whoever_waits_for_room_is_called_once_when_all_has_been_read(kind: type[Lane]) -> None:
    lane = await kind.stalled()
    called: list[bool] = []
    for count in (1, 2):
        lane.write("1", "2")
        await settle()
        assert not lane.connection.has_room()
        lane.connection.when_room(lambda: called.append(lane.connection.has_room()))
        await lane.read_one("1")
        assert len(called) == count - 1
        await lane.read_one("2")
        assert called == [True] * count
    lane.write("1")
    await lane.read_on()
    assert called == [True] * 2


@both_lanes
@in_clean_loop
async def test_whoever_is_called_for_room_may_write_and_wait_again(kind: type[Lane]) -> None:
    lane = await kind.stalled("0")
    texts = ["1", "2", "3"]

    def go_on() -> None:
        if texts:
            lane.write(texts.pop(0))
            lane.connection.when_room(go_on)

    lane.connection.when_room(go_on)
    for number in range(4):
        assert len(texts) == 3 - number
        await lane.read_one(str(number))
    assert (texts, lane.connection.buffered()) == ([], 0)


@both_lanes
@in_clean_loop
async def test_nobody_is_called_for_room_after_the_end(kind: type[Lane]) -> None:
    lane = await kind.stalled("1")
    called: list[str] = []
    lane.connection.when_room(lambda: called.append("too late"))
    lane.connection.abort("server stopped")
    await lane.read_on()
    await lane.seconds(10)
    assert (called, lane.closed) == ([], 1)


@both_lanes
@in_clean_loop
async def test_nobody_is_called_for_room_if_the_peer_goes_with_bytes_unread(kind: type[Lane]) -> None:
    lane = await kind.stalled("1")
    called: list[str] = []
    lane.connection.when_room(lambda: called.append("too late"))
    await lane.goes()
    await lane.seconds(10)
    assert (called, lane.closed) == ([], 1)


# Deadlines.


@both_lanes
@pytest.mark.parametrize("seconds", [0.1, 0.5, 0.75, 10.0])
@in_clean_loop
async def test_a_deadline_comes_once_and_never_early(kind: type[Lane], seconds: float) -> None:
    lane = kind(ping_interval=1000)
    await lane.seconds(3)
    await lane.clock.advance(SWEEP_SECONDS - 0.01)  # the next tick is near
    lane.connection.set_deadline(seconds)
    await lane.clock.advance(0.01)
    await lane.seconds((ticks(seconds) - 2) * SWEEP_SECONDS)
    assert lane.receiver.deadlines == 0
    await lane.seconds(SWEEP_SECONDS)
    assert lane.receiver.deadlines == 1
    await lane.seconds(100)
    assert (lane.receiver.deadlines, lane.receiver.ended) == (1, [])


def test_ticks_are_never_fewer_than_the_seconds() -> None:
    for tenths in range(1, 100):
        assert tenths / 10 <= (ticks(tenths / 10) - 1) * SWEEP_SECONDS < tenths / 10 + SWEEP_SECONDS


@both_lanes
@in_clean_loop
async def test_a_deadline_can_be_replaced_and_cleared(kind: type[Lane]) -> None:
    lane = kind(ping_interval=1000)
    lane.connection.set_deadline(10)
    await lane.seconds(9)
    lane.connection.set_deadline(10)
    await lane.seconds(9)
    assert lane.receiver.deadlines == 0
    lane.connection.clear_deadline()
    await lane.seconds(50)
    assert lane.receiver.deadlines == 0


@both_lanes
@in_clean_loop
async def test_a_process_that_stood_still_punishes_nobody(kind: type[Lane]) -> None:
    lane = await kind.stalled("1", message_ttl=86400)
    lane.connection.set_deadline(5)
    await lane.seconds(1)
    await lane.clock.advance(3600)  # one late tick
    await lane.seconds(1)
    assert (lane.receiver.deadlines, lane.receiver.ended) == (0, [])


@both_lanes
@in_clean_loop
async def test_a_peer_gets_its_time_to_answer_a_close_though_the_process_stood_still(kind: type[Lane]) -> None:
    lane = kind()
    lane.connection.close(CloseCode.RESTARTING)
    await lane.clock.advance(3600)
    assert lane.closed == 0
    await lane.answers()
    assert lane.closed == 1


@in_clean_loop
async def test_what_the_sockets_bring_counts_before_the_deadline_of_the_same_tick() -> None:
    lane = FastLane()
    lane.receiver.on_message = lane.connection.clear_deadline
    lane.connection.set_deadline(0.1)
    await lane.seconds((ticks(0.1) - 1) * SWEEP_SECONDS)
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: asyncio.ensure_future(lane.says("in time")))  # read one turn after the sweep awakes
    await lane.clock.advance(SWEEP_SECONDS)
    assert (lane.receiver.heard, lane.receiver.deadlines) == (["in time"], 0)


# The end.


@both_lanes
@in_clean_loop
async def test_the_first_close_counts_and_nothing_follows_it(kind: type[Lane]) -> None:
    lane = kind()
    lane.write("1")
    lane.connection.close(CloseCode.CRASHED)
    lane.connection.close(CloseCode.RESTARTING)
    lane.write("2")
    lane.connection.write_answer(frame("3"))
    await settle()
    assert (len(lane.texts), lane.close_codes) == (1, [1011])
    assert lane.receiver.ended == ["crashed"]
    assert lane.counters.closed == {1011: 1}


@both_lanes
@in_clean_loop
async def test_a_member_leaves_at_its_close_and_its_connection_counts_until_the_answer(kind: type[Lane]) -> None:
    lane = kind()
    order: list[str] = []
    lane.receiver.on_end = lambda: order.append("end")
    lane.write("1")
    lane.connection.close(CloseCode.NO_JOIN)
    assert order == ["end"]
    await settle()
    assert (lane.sweep.connections, lane.closed, lane.counters.bytes_out) == ({lane.connection}, 0, 0)
    await lane.answers()
    assert (lane.sweep.connections, lane.closed) == (set(), 1)
    assert lane.counters.bytes_out == lane.connection.written > len("1")
    assert order == ["end"]
    await lane.seconds(10)
    assert lane.closed == 1


@both_lanes
@in_clean_loop
async def test_a_peer_that_does_not_answer_the_close_is_aborted(kind: type[Lane]) -> None:
    lane = kind()
    lane.connection.close(CloseCode.RESTARTING)
    await lane.seconds(CLOSE_SECONDS)
    assert lane.closed == 0
    await lane.seconds(1)
    assert (lane.closed, lane.sweep.connections) == (1, set())
    assert lane.receiver.ended == ["restarting"]


@both_lanes
@in_clean_loop
async def test_a_close_that_the_peer_never_reads_is_given_up(kind: type[Lane]) -> None:
    before = tasks()
    lane = await kind.stalled("1", stall_timeout=0.5)
    lane.connection.close(CloseCode.RESTARTING)
    await lane.seconds(CLOSE_SECONDS + 1)
    assert (lane.closed, lane.counters.slow) == (1, 0)
    assert tasks() == before | {lane.sweeping}


@both_lanes
@in_clean_loop
async def test_an_abort_discards_what_waits_and_sends_no_close(kind: type[Lane]) -> None:
    lane = await kind.stalled("1", "2")
    lane.connection.abort("server stopped")
    assert lane.receiver.ended == ["server stopped"]
    lane.connection.close(CloseCode.RESTARTING)
    lane.write("3")
    await lane.read_on()
    await settle()
    assert (lane.close_codes, lane.counters.closed, lane.closed) == ([], {}, 1)
    lane.connection.abort("again")
    await lane.seconds(10)
    assert (lane.receiver.ended, lane.connection.reason, lane.closed) == (["server stopped"], "server stopped", 1)


@both_lanes
@in_clean_loop
async def test_an_abort_after_a_close_does_not_change_the_reason(kind: type[Lane]) -> None:
    lane = kind()
    lane.connection.close(CloseCode.NO_JOIN)
    lane.connection.abort("server stopped")
    await settle()
    assert (lane.receiver.ended, lane.connection.reason, lane.closed) == (["no_join"], "no_join", 1)


@both_lanes
@in_clean_loop
async def test_a_peer_that_goes_has_given_no_reason(kind: type[Lane]) -> None:
    lane = kind()
    await lane.goes()
    assert (lane.receiver.ended, lane.connection.reason) == (["closed by peer"], None)
    assert (lane.closed, lane.sweep.connections, lane.counters.closed) == (1, set(), {})
    lane.connection.close(CloseCode.RESTARTING)
    lane.connection.abort("server stopped")
    lane.write("1")
    await lane.seconds(10)
    assert (lane.texts, lane.close_codes, lane.closed) == ([], [], 1)
    assert (lane.connection.reason, lane.counters.closed) == (None, {})


@both_lanes
@in_clean_loop
async def test_nothing_is_heard_after_the_end(kind: type[Lane]) -> None:
    lane = kind()
    await lane.says("before")
    lane.connection.close(CloseCode.NO_JOIN)
    await lane.says("behind")
    lane.connection.abort("")
    await lane.says("far behind")
    assert lane.receiver.heard == ["before"]


@both_lanes
@in_clean_loop
async def test_a_connection_without_a_session_hears_nothing(kind: type[Lane]) -> None:
    """As one that was refused, which is closed at once."""
    lane = kind()
    lane.connection.receiver = Bare(sweep_of(lane.clock, lane.counters)).receiver
    lane.connection.set_deadline(1)
    await lane.says("hello")
    if isinstance(lane, FastLane):
        lane.transport.protocol.data_received(PING_OF_PEER)
    await lane.seconds(2)
    await lane.says("x" * 70_000)  # too big
    lane.connection.close(CloseCode.OVERLOADED)
    await settle()
    assert lane.close_codes == [1013]
    await lane.goes()
    assert (lane.closed, lane.receiver.heard) == (1, [])


@both_lanes
@in_clean_loop
async def test_nothing_is_left_of_a_connection_that_is_over(kind: type[Lane]) -> None:
    before = tasks()
    lane = kind()
    await lane.says("{}")
    lane.connection.close(CloseCode.NO_JOIN)
    await lane.answers()
    assert tasks() == before | {lane.sweeping}
    over = type(lane.connection)
    lane.forget()
    gc.collect()
    assert not any(type(one) is over for one in gc.get_objects())


# Holding.


@both_lanes
@in_clean_loop
async def test_while_held_nothing_is_heard_and_then_all_in_order(kind: type[Lane]) -> None:
    lane = kind()
    lane.receiver.on_message = lane.connection.hold
    await lane.says("1", "2")
    await lane.says("3")
    assert lane.receiver.heard == ["1"]
    lane.connection.release()
    await settle()
    assert lane.receiver.heard == ["1", "2"]
    lane.connection.hold()  # again, as another reason might
    lane.receiver.on_message = lambda: None
    await lane.says("4")
    assert lane.receiver.heard == ["1", "2"]
    lane.connection.release()
    await settle()
    await lane.says("5")
    assert lane.receiver.heard == ["1", "2", "3", "4", "5"]


@both_lanes
@in_clean_loop
async def test_a_release_of_a_connection_that_is_not_held_does_nothing(kind: type[Lane]) -> None:
    lane = kind()
    lane.connection.release()
    await lane.says("1")
    lane.connection.release()
    assert lane.receiver.heard == ["1"]


@both_lanes
@in_clean_loop
async def test_a_connection_that_is_closed_is_held_no_more_and_sees_the_answer(kind: type[Lane]) -> None:
    lane = kind()
    lane.receiver.on_message = lane.connection.hold
    await lane.says("1", "2")
    lane.connection.close(CloseCode.OVERLOADED)
    lane.connection.hold()
    await lane.says("3")
    await lane.answers()
    assert (lane.receiver.heard, lane.closed) == (["1"], 1)
    lane.connection.release()  # as a timer does that was set before


@both_lanes
@in_clean_loop
async def test_a_connection_can_be_held_and_closed_at_the_same_message(kind: type[Lane]) -> None:
    lane = kind()

    def hold_and_close() -> None:
        lane.connection.hold()
        lane.connection.close(CloseCode.TOO_MANY_REFUSED)
        lane.connection.hold()

    lane.receiver.on_message = hold_and_close
    await lane.says("1", "2")
    await settle()
    await lane.answers()
    assert (lane.receiver.heard, lane.close_codes, lane.closed) == (["1"], [1008], 1)


@both_lanes
@in_clean_loop
async def test_a_held_connection_can_be_aborted(kind: type[Lane]) -> None:
    lane = kind()
    lane.receiver.on_message = lane.connection.hold
    await lane.says("1", "2")
    lane.connection.abort("server stopped")
    await settle()
    lane.connection.release()
    assert (lane.receiver.heard, lane.closed) == (["1"], 1)


# The sweep.


class Bare(Connection):
    """Connection without a peer, that counts its checks."""

    __slots__ = ("checks", "error")

    def __init__(self, sweep: Sweep, error: bool = False) -> None:
        super().__init__(sweep, lambda: None)
        self.checks = 0
        self.error = error

    def check(self, now: float) -> None:
        self.checks += 1
        if self.error:
            raise ValueError

    def write(self, frames: bytes) -> None: ...

    def buffered(self) -> int:
        return 0

    def hold(self) -> None: ...

    def release(self) -> None: ...

    def _send_close(self, code: CloseCode) -> None: ...

    def _cut(self) -> None: ...

    def _check_silence(self, silent: int) -> None: ...


def sweep_of(clock: FakeClock, counters: Counters) -> Sweep:
    return Sweep(Settings.model_validate({}), clock, counters, lambda: None)


@in_clean_loop
async def test_a_bug_with_one_connection_does_not_stop_the_checks_of_the_others() -> None:
    clock = FakeClock()
    sweep = sweep_of(clock, Counters())
    connections = [Bare(sweep, error=number == 1) for number in range(3)]
    running = asyncio.create_task(sweep.run())
    with log_lines() as lines:
        for _ in range(2):
            await settle()
            await clock.advance(SWEEP_SECONDS)
    assert [one.checks for one in connections] == [2, 2, 2]
    assert len([line for line in lines if "connection check failed" in line and "ValueError" in line]) == 2
    running.cancel()


@in_clean_loop
async def test_other_tasks_run_between_the_checks_of_many_connections() -> None:
    clock = FakeClock()
    sweep = sweep_of(clock, Counters())
    connections = [Bare(sweep) for _ in range(3 * STRIDE)]
    running = asyncio.create_task(sweep.run())
    await settle()
    done: list[int] = []

    async def watch() -> None:
        while sum(one.checks for one in connections) < len(connections):
            await asyncio.sleep(0)
            done.append(sum(one.checks for one in connections))

    watching = asyncio.create_task(watch())
    await clock.advance(SWEEP_SECONDS)
    await watching
    assert {STRIDE, 2 * STRIDE} <= {*done}
    running.cancel()


@in_clean_loop
async def test_a_connection_that_ends_or_begins_during_a_sweep_disturbs_no_other() -> None:
    clock = FakeClock()
    sweep = sweep_of(clock, Counters())

    class Restless(Bare):
        """Connection that ends at its check, when another one begins."""

        __slots__ = ()

        def check(self, now: float) -> None:
            super().check(now)
            sweep.connections.discard(self)
            Bare(sweep)

    restless, calm = Restless(sweep), Bare(sweep)
    running = asyncio.create_task(sweep.run())
    for _ in range(2):
        await settle()
        await clock.advance(SWEEP_SECONDS)
    assert (restless.checks, calm.checks, len(sweep.connections)) == (1, 2, 2)
    running.cancel()


@in_clean_loop
async def test_the_sweep_measures_how_late_the_loop_is() -> None:
    clock, counters = FakeClock(), Counters()
    running = asyncio.create_task(sweep_of(clock, counters).run())
    await settle()
    await clock.advance(SWEEP_SECONDS)
    await clock.advance(SWEEP_SECONDS + 0.25)
    assert (sum(counters.lag.counts), counters.lag.sum) == (2, 0.25)
    running.cancel()


@in_clean_loop
async def test_a_connection_whose_socket_is_its_hosts_cannot_be_given_away() -> None:
    assert Bare(sweep_of(FakeClock(), Counters())).give() is None
