"""The application in this process: with and without a lifespan, alone and beside another application."""

import warnings

import pytest
from pydantic import ValidationError

from chat_actors.application import create_app
from chat_actors.settings import Settings
from tests.support.fakes import Frame

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer releases of Starlette would rather have httpx2
    from starlette.testclient import TestClient, WebSocketTestSession

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


def test_an_application_takes_its_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_MESSAGE_TTL", "2.5")
    with TestClient(create_app()) as host, connect(host) as alice:
        assert join(alice)["ttl"] == 2.5


def test_a_wrong_environment_is_an_error_for_the_host_and_no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_TOPICS", "many")
    with pytest.raises(ValidationError, match="topics"):
        create_app()
    create_app(DEFAULTS)  # with settings of its own it reads no variable
