"""The application in this process: on other hosts, with and without a lifespan, from its start to its end."""

import asyncio
import warnings
from typing import Any, Callable

import pytest
from pydantic import ValidationError

from chat_actors.application import create_app
from chat_actors.server import Server
from chat_actors.settings import Settings
from tests.support.connection import JOIN, Connection, end
from tests.support.fakes import FakeClock, Frame, in_clean_loop, log_lines, settle, tasks
from tests.support.server import APP, Visit, in_loop
from tests.support.server import Server as Process

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer releases of Starlette would rather have httpx2
    from starlette.testclient import TestClient, WebSocketTestSession

# The application on other hosts.


DEFAULTS = Settings.model_validate({})
FIRST = {"type": "joined", "username": "alice", "topic": "sports", "users": 1, "ttl": 30}


def connect(host: TestClient) -> WebSocketTestSession:
    return host.websocket_connect("/ws")


def join(socket: WebSocketTestSession) -> Frame:
    socket.send_json({"username": "alice", "topic": "sports"})
    joined: Frame = socket.receive_json()
    return joined


def test_the_application_runs_under_starlettes_test_client() -> None:
    with TestClient(create_app(DEFAULTS)) as host, connect(host) as alice, connect(host) as bob:
        assert join(alice)["users"] == 1
        assert join(bob)["username"] == "alice#2"
        alice.send_bytes(b'{"message": "hello"}')
        assert bob.receive_json()["message"] == "hello"
        assert alice.receive_json()["recipients"] == 1
        bob.send_text("/list")
        assert bob.receive_json()["topics"] == [{"topic": "sports", "users": 2}]


def test_two_applications_in_one_process_share_nothing() -> None:
    one, other = TestClient(create_app(DEFAULTS)), TestClient(create_app(DEFAULTS))
    with one, other, connect(one) as alice, connect(other) as bob:
        join(alice)
        bob.send_text("/list")
        assert bob.receive_json()["topics"] == []
        assert join(bob) == FIRST


def test_without_a_lifespan_the_actors_start_in_the_loop_of_the_first_connection() -> None:
    host = TestClient(create_app(DEFAULTS))  # not entered: no lifespan, and a loop for each connection
    for _ in range(2):
        with connect(host) as alice:
            assert join(alice) == FIRST


@in_loop
async def test_uvicorn_without_a_lifespan_serves_and_ends_the_same(start: Callable[..., Process]) -> None:
    server = start(*APP, "--lifespan", "off")
    async with Visit(server) as visit:
        alice, bob = await visit.join("alice", "sports"), await visit.join("bob", "sports")
        assert (await alice.ask({"message": "hello"}))["recipients"] == 1
        assert (await bob.recv())["message"] == "hello"
        await asyncio.to_thread(server.terminate)
        assert [await alice.close_code(), await bob.close_code()] == [1012, 1012]


def test_an_application_takes_its_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_MESSAGE_TTL", "2.5")
    with TestClient(create_app()) as host, connect(host) as alice:
        assert join(alice)["ttl"] == 2.5


def test_a_wrong_environment_is_an_error_for_the_host_and_no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_PORT", "tcp://10.96.0.7:8000")
    with pytest.raises(ValidationError, match="port"):
        create_app()
    create_app(DEFAULTS)  # with settings of its own it reads no variable


# The actors of one application, with an ASGI server of our own.


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
async def test_once_the_end_has_begun_nobody_comes_in() -> None:
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    alice = Connection(server)
    await alice.says(JOIN)
    await end(server, clock)
    bob = Connection(server)
    await bob.task
    assert (bob.frames, bob.closes) == ([], [1012])
    await alice.task
    server.open()  # again, as a host may
    carol = Connection(server)
    assert (await carol.says(JOIN))["users"] == 1
    await carol.goes()
    await end(server, clock)


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
async def test_a_handshake_that_the_door_refuses_is_never_accepted() -> None:
    clock = FakeClock()
    server = Server(DEFAULTS, clock)
    with log_lines() as lines:
        eve = Connection(server, headers=[(b"host", b"chat.example"), (b"origin", b"https://evil.example")])
        await eve.task
    await end(server, clock)
    assert eve.sent == [{"type": "websocket.close"}]
    assert len([line for line in lines if "handshake refused" in line]) == 1


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
    assert server.admission.connections == 0
    assert [line for line in lines if "not sent" in line and "answered 500" in line]
    await end(server, clock)


@in_clean_loop
async def test_one_connection_too_many_is_told_so_until_another_one_goes() -> None:
    clock = FakeClock()
    server = Server(Settings.model_validate({"connections": 1}), clock)
    alice = Connection(server)
    await alice.says(JOIN)
    for _ in range(2):  # those that are turned away take no place
        bob = Connection(server)
        await bob.task
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
    assert (await bob.says(JOIN))["error"] == "invalid_join"
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
    assert len(tasks() - before) == 2  # the supervisor and the stall clock
    await end(server, clock)
    assert tasks() == before


@in_clean_loop
async def test_whoever_does_not_go_at_the_end_is_aborted() -> None:
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
