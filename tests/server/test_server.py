"""The server of one application, behind an ASGI server that the test controls: from its start to its end."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from chat_actors.connection.asgi import AsgiEvent
from chat_actors.connection.base import CLOSE_SECONDS
from chat_actors.connection.descriptors import lingerers
from chat_actors.server import Server
from chat_actors.settings import Settings
from tests.support.connection import JOIN, Connection, end
from tests.support.fakes import FakeClock, in_clean_loop, log_lines, settle, tasks

DEFAULTS = Settings.model_validate({})


@in_clean_loop
async def test_the_end_closes_every_member_and_waits_for_every_actor() -> None:
    before = tasks()
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    alice = Connection(server)
    await alice.says(JOIN)
    ack = await alice.says('{"message": "hello"}')
    assert ack["timestamp"] == 1_690_000_000  # the clock is the one that was given
    await end(server, clock)
    await alice.task
    assert alice.closes == [1012]
    assert tasks() == before


@in_clean_loop
async def test_a_server_that_shuts_down_refuses_new_connections() -> None:
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    alice = Connection(server)
    await alice.says(JOIN)
    await end(server, clock)
    bob = Connection(server)
    await bob.goes()
    assert (bob.frames, bob.closes) == ([], [1012])
    await alice.task
    server.open()  # again, as a host may
    carol = Connection(server)
    assert (await carol.says(JOIN))["users"] == 1
    await carol.goes()
    await end(server, clock)


class NeverAnswers(Connection):
    """WebSocket whose peer does not answer the close."""

    async def send(self, event: AsgiEvent) -> None:
        self.sent.append(event)


@in_clean_loop
async def test_a_peer_turned_away_after_the_end_does_not_stay_for_ever() -> None:
    before = tasks()
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    server.start()
    await end(server, clock)
    eve = NeverAnswers(server)
    await settle()
    assert (eve.closes, eve.task.done()) == ([1012], False)
    await clock.advance(CLOSE_SECONDS)
    await asyncio.wait({eve.task})
    assert (server.admission.tally.connections, tasks()) == (0, before)


@in_clean_loop
async def test_of_many_that_are_turned_away_at_once_the_oldest_do_not_linger() -> None:
    clock = FakeClock()
    server = Server(Settings.model_validate({"connections": 1}), clock)
    alice = Connection(server)
    await alice.says(JOIN)
    slow: list[Connection] = [NeverAnswers(server) for _ in range(lingerers(1) - 1)]
    for _ in range(20):
        await Connection(server).task  # this peer answers the close
    assert not [one for one in slow if one.task.done()]
    slow += [NeverAnswers(server) for _ in range(3)]
    await settle()
    assert {(one.frames[0]["error"], *one.closes) for one in slow} == {("server_full", 1013)}
    assert [one.task.done() for one in slow] == [True, True, *[False] * lingerers(1)]
    await clock.elapse(CLOSE_SECONDS + 1)
    await asyncio.wait({one.task for one in slow})
    assert server.admission.tally.connections == 1
    await end(server, clock)
    await alice.task


@in_clean_loop
async def test_start_and_stop_can_be_called_twice() -> None:
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    await end(server, clock)  # before the start
    supervisor = server.start()
    assert server.start() is supervisor
    await end(server, clock)
    await end(server, clock)
    assert server.start() is not supervisor
    await end(server, clock)


@pytest.mark.parametrize(("scope", "peer"), [({"client": ("10.0.0.1", 5000)}, "10.0.0.1:5000"), ({}, "unknown:0")])
@in_clean_loop
async def test_the_log_names_the_peer_where_the_host_does(scope: dict[str, Any], peer: str) -> None:
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    with log_lines() as lines:
        eve = Connection(server, **scope)
        await eve.says("{")
        await eve.goes()
    await end(server, clock)
    assert [line for line in lines if "frame refused" in line and peer in line]


@in_clean_loop
async def test_a_handshake_that_its_host_cancels_is_not_counted() -> None:
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    alice = Connection(server)
    alice.peer_reads = False
    await settle()
    assert server.admission.tally.connections == 1
    alice.task.cancel()
    await asyncio.wait({alice.task})
    assert (alice.task.cancelled(), server.admission.tally.connections) == (True, 0)
    await end(server, clock)


class Deaf(Connection):
    """WebSocket of a host that does not give up its ``receive`` when it is cancelled."""

    def __init__(self, server: Server) -> None:
        self.gives_up = asyncio.Event()
        super().__init__(server)

    async def receive(self) -> AsgiEvent:
        if not self.events.empty():
            return await super().receive()
        while not self.gives_up.is_set():
            with suppress(asyncio.CancelledError):
                await self.gives_up.wait()
        raise asyncio.CancelledError


@in_clean_loop
async def test_the_end_does_not_wait_for_ever_for_a_host_that_keeps_a_connection() -> None:
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    alice = Deaf(server)
    await settle()
    await end(server, clock)
    assert not alice.task.done()
    alice.gives_up.set()
    await asyncio.wait({alice.task})
    assert (alice.closes, server.admission.tally.connections) == ([1012], 0)


@in_clean_loop
async def test_a_peer_that_sends_frames_before_the_answer_is_refused() -> None:
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    queue: asyncio.Queue[Any] = asyncio.Queue()
    queue.put_nowait({"type": "websocket.receive", "text": JOIN})
    with log_lines() as lines:
        transport = SimpleNamespace(is_closing=lambda: False)
        eve = Connection(server, **{"chat_actors.uvicorn": SimpleNamespace(queue=queue, transport=transport)})
        await eve.task
    await end(server, clock)
    assert eve.sent == [{"type": "websocket.close"}]
    assert len([line for line in lines if "handshake refused" in line and "frames before the answer" in line]) == 1
    assert server.admission.tally.connections == 0


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("error", [ConnectionResetError("gone"), RuntimeError("gone")])
@in_clean_loop
async def test_a_host_that_says_that_the_peer_is_gone_hears_it_again(refused: bool, error: Exception) -> None:
    """By ASGI's own error, OSError: the host knows then why no handshake was answered. Others are its secret."""
    clock = FakeClock()
    server = Server(DEFAULTS, clock)

    async def receive() -> AsgiEvent:
        return {"type": "websocket.connect"}

    async def send(event: AsgiEvent) -> None:
        raise error

    headers = [(b"host", b"chat.example"), (b"origin", b"https://evil.example")] if refused else []
    handshake = server({"type": "websocket", "headers": headers}, receive, send)
    if isinstance(error, OSError):
        with pytest.raises(ConnectionResetError):
            await handshake
    else:
        await handshake
    assert server.admission.tally.connections == 0
    await end(server, clock)


@in_clean_loop
async def test_a_handshake_that_admission_refuses_is_never_accepted() -> None:
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    with log_lines() as lines:
        eve = Connection(server, headers=[(b"host", b"chat.example"), (b"origin", b"https://evil.example")])
        await eve.task
    await end(server, clock)
    assert eve.sent == [{"type": "websocket.close"}]
    assert len([line for line in lines if "handshake refused" in line]) == 1


@in_clean_loop
async def test_the_log_of_a_refused_origin_names_both_sides_and_no_control_character() -> None:
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    with log_lines() as lines:
        origin = b"https://evil.example\x1b[2J" + 1000 * b"x"
        await Connection(server, headers=[(b"host", b"chat.example:443"), (b"origin", origin)]).task
    await end(server, clock)
    (line,) = [line for line in lines if "handshake refused" in line]
    assert "https://evil.example?[2J" in line and "chat.example:443" in line
    assert 300 * "x" not in line


@in_clean_loop
async def test_a_proxy_that_is_not_trusted_is_named_once_and_shuts_nobody_out() -> None:
    clock = FakeClock()
    server = Server(Settings.model_validate({"connections_per_address": 1}), clock)
    with log_lines() as lines:
        for number in range(3):
            guest = Connection(server, headers=[(b"x-forwarded-for", b"203.0.113.%d" % number)])
            assert (await guest.says(JOIN))["type"] == "joined"
    await end(server, clock)
    (line,) = [line for line in lines if "proxy not trusted" in line]
    assert line.startswith("WARNING")


@pytest.mark.parametrize(("headers", "said"), [([(b"x-forwarded-for", b"203.0.113.1")], 1), ([], 0)])
@in_clean_loop
async def test_a_public_address_that_may_be_a_proxy_is_named_once_it_has_too_many(headers: Any, said: int) -> None:
    clock = FakeClock()
    server = Server(Settings.model_validate({"connections_per_address": 1}), clock)
    with log_lines() as lines:
        first = Connection(server, client=("8.8.8.8", 4711), headers=headers)
        assert (await first.says(JOIN))["type"] == "joined"
        assert not [line for line in lines if "proxy not trusted" in line]
        for _ in range(2):
            other = Connection(server, client=("8.8.8.8", 4711), headers=headers)
            await other.goes()
            assert [frame["error"] for frame in other.frames] == ["server_full"]
    await end(server, clock)
    assert len([line for line in lines if "proxy not trusted" in line]) == said


@pytest.mark.parametrize("headers", [[], [(b"host", b"chat.example"), (b"origin", b"https://evil.example")]])
@pytest.mark.parametrize("ended", [False, True])
@in_clean_loop
async def test_a_peer_that_is_gone_before_it_was_accepted_is_no_error_and_takes_no_place(
    ended: bool, headers: list[Any]
) -> None:
    async def refuse(message: Any) -> None:
        raise RuntimeError("as some servers say it once they have answered 500 on their own")

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    clock = FakeClock()
    server = Server(Settings.model_validate({"connections": 1}), clock)
    server.stopping = ended
    with log_lines() as lines:
        await server({"type": "websocket", "headers": headers}, receive, refuse)
    assert server.admission.tally.connections == 0
    assert not [line for line in lines if not line.startswith(("INFO", "DEBUG"))]
    await end(server, clock)


@in_clean_loop
async def test_a_connection_over_the_limit_is_refused_until_another_one_ends() -> None:
    clock = FakeClock()
    server = Server(Settings.model_validate({"connections": 1}), clock)
    alice = Connection(server)
    await alice.says(JOIN)
    for _ in range(2):  # those that are turned away take no place
        bob = Connection(server)
        await bob.goes()
        assert [frame["error"] for frame in bob.frames] == ["server_full"]
        assert bob.closes == [1013]
    await alice.goes()
    bob = Connection(server)
    assert (await bob.says(JOIN))["type"] == "joined"
    await bob.goes()
    await end(server, clock)


@in_clean_loop
async def test_a_token_in_the_handshake_need_not_be_in_the_join() -> None:
    clock = FakeClock()
    server = Server(Settings.model_validate({"token": "secret"}), clock)
    alice = Connection(server, headers=[(b"authorization", b"Bearer secret")])
    assert (await alice.says(JOIN))["type"] == "joined"
    bob = Connection(server)
    assert (await bob.says(JOIN))["error"] == "unauthorized"
    await alice.goes()
    await bob.goes()
    await end(server, clock)


@in_clean_loop
async def test_a_supervisor_that_has_given_up_is_replaced_and_nothing_of_it_remains() -> None:
    before = tasks()
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    first = server.start()
    first.task.cancel()
    await asyncio.wait({first.task})
    assert server.start() is not first
    await settle()
    assert len(tasks() - before) == 2  # the supervisor and the sweep
    await end(server, clock)
    assert tasks() == before


@in_clean_loop
async def test_a_connection_that_stays_open_at_the_end_is_aborted() -> None:
    before = tasks()
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    alice, stranger, deaf = Connection(server), Connection(server), Connection(server)
    await alice.says(JOIN)
    await stranger.says("/list")
    await deaf.says(JOIN)
    deaf.peer_reads = False
    await end(server, clock)
    assert (alice.closes, stranger.closes, deaf.closes) == ([1012], [1012], [])
    await asyncio.wait({alice.task, stranger.task, deaf.task})
    assert tasks() == before
