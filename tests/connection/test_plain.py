"""The plain lane: what the host is asked and told, and what it can refuse. The rules of both lanes: ``test_base``."""

import asyncio
from typing import Any

import pytest

from chat_actors.connection.asgi import AsgiEvent
from chat_actors.connection.base import CLOSE_SECONDS
from chat_actors.connection.plain import PlainConnection
from chat_actors.protocol.codes import CloseCode
from tests.support.fakes import FakeServer, in_clean_loop, log_lines, remains, settle, tasks
from tests.support.lane import PlainLane

# Sending.


@in_clean_loop
async def test_events_are_sent_one_after_the_other_and_the_close_last() -> None:
    lane = PlainLane()
    lane.stall()
    lane.write("1", "2")
    lane.connection.close(CloseCode.NO_JOIN)
    await settle()
    assert lane.server.sent == []
    for count in (1, 2, 3):
        await lane.read_one("")
        assert len(lane.server.sent) == count
    close = {"type": "websocket.close", "code": 4408, "reason": "no join within the time limit"}
    assert lane.server.sent[2] == close
    assert not lane.serving.done()  # the peer has yet to answer
    await settle()
    assert not asyncio.get_running_loop()._ready  # type: ignore[attr-defined]  # nor does anything go round and round
    await lane.answers()
    await lane.serving


@in_clean_loop
async def test_nothing_of_a_frame_that_was_sent_or_received_is_kept() -> None:
    lane = PlainLane()
    lane.write(" ".join(["east", "west"]))
    await lane.says(" ".join(["north", "south"]))
    assert len(lane.server.sent) == len(lane.receiver.heard) == 1
    lane.server.sent.clear()
    lane.receiver.heard.clear()
    assert not remains("east", "west")
    assert not remains("north", "south")


@in_clean_loop
async def test_a_peer_that_is_lost_to_send_alone_ends_the_connection() -> None:
    lane = PlainLane()
    lane.server.error = OSError("gone")
    with log_lines() as lines:
        lane.write("1", "2")
        await lane.serving
    assert lane.receiver.ended == ["closed by peer"]
    assert (lane.closed, lane.connection.reason, lane.sweep.connections) == (1, None, set())
    (line,) = lines
    assert line.startswith("DEBUG event not sent") and "gone" in line
    lane.server.error = None
    for _ in range(5):
        lane.write("x" * 700)
    await settle()
    assert lane.server.sent == []


@in_clean_loop
async def test_nothing_waits_for_a_peer_that_send_has_lost() -> None:
    lane = PlainLane(outbox_bytes=1024)
    lane.server.error = OSError("gone")
    lane.receiver.on_end = lambda: lane.write("last")
    lane.write("1")
    for _ in range(4):  # the sender ends, then the connection
        await asyncio.sleep(0)
        lane.write("x" * 700)
    await lane.serving
    assert (lane.receiver.ended, lane.counters.slow) == (["closed by peer"], 0)


@in_clean_loop
async def test_whoever_waits_for_room_is_called_when_send_has_lost_the_peer() -> None:
    lane = await PlainLane.stalled("1", "2")
    lane.server.error = OSError("gone")
    called: list[int] = []
    lane.connection.when_room(lambda: called.append(lane.connection.buffered()))
    await lane.read_on()
    assert called == [0]


@in_clean_loop
async def test_a_peer_that_goes_while_its_frames_wait_ends_the_connection_at_once() -> None:
    lane = await PlainLane.stalled("1", "2")
    await lane.goes()
    assert (lane.receiver.ended, lane.closed, lane.server.sent) == (["closed by peer"], 1, [])


# The close.


@in_clean_loop
async def test_a_close_that_fails_because_the_peer_is_gone_is_no_error() -> None:
    lane = PlainLane()
    lane.server.error = OSError("gone")
    with log_lines() as lines:
        lane.connection.close(CloseCode.NO_JOIN)
        await lane.goes()
        await lane.serving
    (line,) = lines
    assert line.startswith("DEBUG event not sent") and "gone" in line
    assert (lane.receiver.ended, lane.closed) == (["no_join"], 1)


class StrictServer(FakeServer):
    """ASGI server that refuses close codes, as daphne does."""

    def __init__(self, allowed: set[int]) -> None:
        super().__init__()
        self.allowed = allowed

    async def send(self, event: AsgiEvent) -> None:
        if event["type"] == "websocket.close" and event["code"] not in self.allowed:
            raise ValueError(f"invalid close code {event['code']}")
        await super().send(event)


def strict(*allowed: int) -> PlainLane:
    """A lane on a server that allows only these close codes."""

    return PlainLane(StrictServer({*allowed}))


@in_clean_loop
async def test_a_host_that_refuses_a_close_code_is_given_1000() -> None:
    lane = strict(1000, 4408)
    with log_lines() as lines:
        lane.connection.close(CloseCode.RESTARTING)
        await lane.serving
    (event,) = lane.server.sent
    assert event == {"type": "websocket.close", "code": 1000, "reason": CloseCode.RESTARTING.reason}
    (line,) = lines
    assert line.startswith("INFO close code refused by the host") and "1012" in line
    assert lane.receiver.ended == ["restarting"]


@in_clean_loop
async def test_a_close_code_that_a_host_allows_is_left_as_it_is() -> None:
    lane = strict(1000, 4408)
    with log_lines() as lines:
        lane.connection.close(CloseCode.NO_JOIN)
        await lane.serving
    assert (lane.server.closes, lines) == ([4408], [])


@in_clean_loop
async def test_a_host_that_refuses_every_close_gets_its_exception() -> None:
    lane = strict()
    lane.connection.close(CloseCode.RESTARTING)
    await settle()
    await lane.seconds(CLOSE_SECONDS + 1)
    with pytest.raises(ValueError, match="invalid close code 1000"):
        await lane.serving
    assert (lane.closed, lane.receiver.ended, lane.sweep.connections) == (1, ["restarting"], set())


@in_clean_loop
async def test_a_close_that_the_host_had_already_made_is_no_error() -> None:
    lane = strict()
    with log_lines() as lines:
        lane.connection.close(CloseCode.RESTARTING)
        await settle()
        await lane.goes()
        await lane.serving
    assert not [line for line in lines if not line.startswith("DEBUG")]
    assert (lane.closed, lane.receiver.ended, lane.sweep.connections) == (1, ["restarting"], set())


# Cancellation.


@pytest.mark.parametrize("held", [False, True])
@in_clean_loop
async def test_a_host_that_cancels_the_endpoint_closes_with_1012(held: bool) -> None:
    before = tasks()
    lane = PlainLane()
    if held:
        lane.receiver.on_message = lane.connection.hold
    await lane.says("1")
    lane.write("written")
    lane.serving.cancel()
    await asyncio.wait({lane.serving})
    assert lane.serving.cancelled()
    assert (len(lane.texts), lane.close_codes) == (1, [1012])
    assert (lane.receiver.ended, lane.closed) == (["restarting"], 1)
    assert tasks() == before | {lane.sweeping}


@in_clean_loop
async def test_a_cancelled_endpoint_does_not_wait_long_for_a_peer_that_does_not_read() -> None:
    lane = PlainLane()
    lane.stall()
    lane.write("1")
    await settle()
    lane.serving.cancel()
    await lane.seconds(CLOSE_SECONDS)
    assert not lane.serving.done()
    await lane.seconds(1)
    assert lane.serving.cancelled()
    assert (lane.server.sent, lane.closed) == ([], 1)


@in_clean_loop
async def test_an_endpoint_that_is_cancelled_again_waits_no_longer() -> None:
    before = tasks()
    lane = await PlainLane.stalled("1")
    lane.serving.cancel()
    await settle()
    assert not lane.serving.done()
    lane.serving.cancel()
    await settle()
    assert lane.serving.cancelled()
    assert (lane.closed, lane.sweep.connections, lane.receiver.ended) == (1, set(), ["restarting"])
    assert tasks() == before | {lane.sweeping}


# Receiving.


@in_clean_loop
async def test_texts_and_binaries_are_heard_in_their_order() -> None:
    lane = PlainLane()
    events: list[AsgiEvent] = [
        {"text": "1"},
        {"bytes": b"2"},
        {"text": "3", "bytes": None},
        {"text": None, "bytes": b"4"},
        {"text": ""},
        {"bytes": b""},
    ]
    for event in events:
        lane.server.events.put_nowait({"type": "websocket.receive", **event})
    await lane.goes()
    await lane.serving
    assert lane.receiver.heard == ["1", b"2", "3", b"4", "", b""]
    assert lane.receiver.ended == ["closed by peer"]


@pytest.mark.parametrize("big", ["x" * 1025, "é" * 513, b"\xff" * 1025])
@in_clean_loop
async def test_a_message_too_big_is_refused_and_nothing_behind_it_is_heard(big: Any) -> None:
    lane = PlainLane(frame_bytes=1024)
    for data in ("x" * 1024, "é" * 512, big, "behind", big):
        kind = "text" if isinstance(data, str) else "bytes"
        lane.server.events.put_nowait({"type": "websocket.receive", kind: data})
    await settle()
    assert [len(data) for data in lane.receiver.heard] == [1024, 512]
    assert (lane.close_codes, lane.receiver.ended) == ([1009], ["frame_too_big"])


@in_clean_loop
async def test_while_held_the_host_is_asked_for_nothing() -> None:
    lane = PlainLane()
    lane.receiver.on_message = lane.connection.hold
    await lane.says("1", "2", "3")
    assert (lane.receiver.heard, lane.server.events.qsize()) == (["1"], 2)
    lane.connection.release()
    await settle()
    assert (lane.receiver.heard, lane.server.events.qsize()) == (["1", "2"], 1)


@in_clean_loop
async def test_an_error_of_the_host_in_receive_is_a_lost_peer() -> None:
    lane = PlainLane()

    async def receive() -> AsgiEvent:
        raise AttributeError("'NoneType' object has no attribute '_resume_reading'")

    connection = PlainConnection(receive, lane.server.send, True, lane.sweep, lane.count_closed)
    with log_lines() as lines:
        await connection.serve()
    assert lane.closed == 1
    assert [line.startswith("DEBUG event not received") for line in lines] == [True]


@in_clean_loop
async def test_an_error_of_the_host_while_it_is_no_longer_asked_is_not_raised() -> None:
    lane = PlainLane()

    async def receive() -> AsgiEvent:
        try:
            await asyncio.Event().wait()
        finally:
            raise ConnectionResetError

    connection = PlainConnection(receive, lane.server.send, True, lane.sweep, lane.count_closed)
    serving = asyncio.create_task(connection.serve())
    await settle()
    connection.abort("server stopped")
    await serving
    assert lane.closed == 1


# Silence.


@in_clean_loop
async def test_a_peer_that_says_nothing_for_the_idle_timeout_is_closed() -> None:
    lane = PlainLane(host_pings=False, idle_timeout=75)
    await lane.seconds(50)
    await lane.says("1")
    lane.write("what is written is no sign of life")
    await lane.seconds(75)
    assert lane.receiver.ended == []
    await lane.seconds(1)
    assert (lane.receiver.ended, lane.close_codes) == (["silent: nothing heard"], [1012])
    assert lane.connection.reason == "silent: nothing heard"
    assert lane.counters.closed == {1012: 1}


@pytest.mark.parametrize("host_pings, idle_timeout", [(True, 75), (False, 0)])
@in_clean_loop
async def test_silence_is_left_to_a_host_that_pings_or_to_the_operator(host_pings: bool, idle_timeout: int) -> None:
    lane = PlainLane(host_pings=host_pings, idle_timeout=idle_timeout)
    await lane.seconds(1000)
    assert lane.receiver.ended == []


@in_clean_loop
async def test_silence_does_not_count_while_the_connection_is_held() -> None:
    lane = PlainLane(host_pings=False, idle_timeout=75)
    lane.receiver.on_message = lane.connection.hold
    await lane.says("1")
    await lane.seconds(200)
    lane.connection.release()
    await lane.seconds(75)
    assert lane.receiver.ended == []
    await lane.seconds(1)
    assert lane.receiver.ended == ["silent: nothing heard"]
