"""The HTTP routes for the operator."""

import asyncio
import contextlib
import json
import urllib.request
import warnings
from typing import Any

import pytest
from fastapi import FastAPI

from chat_actors.application import create_app
from chat_actors.cluster.node import START_SECONDS
from chat_actors.operations.routes import operations
from chat_actors.server import Server as ChatServer
from chat_actors.settings import Settings
from tests.support.cluster.world import World, world
from tests.support.fakes import in_clean_loop
from tests.support.server import Server, Visit, in_loop

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer releases of Starlette would rather have httpx2
    from starlette.testclient import TestClient


def host(**settings: Any) -> TestClient:
    return TestClient(create_app(Settings.model_validate(settings)))


def test_a_server_is_alive_and_ready() -> None:
    with host() as server:
        for path, status in (("/healthz", "alive"), ("/readyz", "ready")):
            answer = server.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": status})
            assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("limit", [{"connections": 1}, {"connections": 2}])
def test_a_full_server_is_not_ready_until_there_is_room(limit: dict[str, int]) -> None:
    with host(**limit) as server:
        for _ in range(2):
            with contextlib.ExitStack() as members:
                for number in range(limit["connections"]):
                    assert server.get("/readyz").status_code == 200
                    member = members.enter_context(server.websocket_connect("/ws"))
                    member.send_json({"username": "alice", "topic": str(number)})
                    assert member.receive_json()["type"] == "joined"
                answer = server.get("/readyz")
                assert (answer.status_code, answer.json()) == (503, {"status": "full"})
                assert answer.headers["retry-after"] == "1"
                assert server.get("/healthz").status_code == 200


def test_a_server_without_room_for_a_new_topic_is_ready_for_those_it_has() -> None:
    with host(topics=1) as server, server.websocket_connect("/ws") as alice, server.websocket_connect("/ws") as bob:
        for member in (alice, bob):
            member.send_json({"username": "alice", "topic": "sports"})
            assert member.receive_json()["type"] == "joined"
        assert server.get("/readyz").status_code == 200


def test_a_server_whose_topics_are_all_full_is_not_ready() -> None:
    with host(topics=2, topic_members=1) as server, contextlib.ExitStack() as members:
        for topic in ("sports", "movies"):
            assert server.get("/readyz").status_code == 200
            member = members.enter_context(server.websocket_connect("/ws"))
            member.send_json({"username": "alice", "topic": topic})
            assert member.receive_json()["type"] == "joined"
        assert server.get("/readyz").json() == {"status": "full"}
        for topic in ("sports", "news"):
            late = members.enter_context(server.websocket_connect("/ws"))
            late.send_json({"username": "bob", "topic": topic})
            assert late.receive_json()["error"] == "server_full"


def test_a_server_without_a_lifespan_is_ready() -> None:
    assert TestClient(create_app(Settings.model_validate({}))).get("/readyz").status_code == 200


@in_clean_loop
async def test_a_node_that_cannot_listen_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("cannot listen")

    chat = ChatServer(Settings.model_validate({"cluster": "tcp/127.0.0.1:7447"}))
    monkeypatch.setattr("chat_actors.server._open_node", fail)
    assert chat.readiness() == "no_endpoint"


@world(quorum=True, configured=3)
async def test_a_node_is_ready_while_it_sees_half_of_its_cluster(nodes: World) -> None:
    alone = nodes.make(configured=3, quorum=True)
    await nodes.join(alone)
    chat = ChatServer(Settings.model_validate({}))
    chat._node, chat._supervisor = alone, alone.front
    seen = [chat.readiness()]  # not at its start either: a join would wait in vain
    await nodes.run_out(START_SECONDS)
    seen.append(chat.readiness())
    (other,) = await nodes.start(1)
    seen.append(chat.readiness())
    await nodes.kill(other)
    assert [*seen, chat.readiness()] == ["no_quorum", "no_quorum", "ready", "no_quorum"]


def test_a_server_that_shuts_down_is_alive_and_not_ready() -> None:
    settings = Settings.model_validate({})
    chat, app = ChatServer(settings), FastAPI()
    app.include_router(operations(chat, settings))
    chat.stopping = True
    server = TestClient(app)
    answer = server.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "closing"})
    assert server.get("/healthz").status_code == 200


def test_the_topics_are_those_of_the_list() -> None:
    with host() as server:
        assert server.get("/topics").json() == []
        with server.websocket_connect("/ws") as alice, server.websocket_connect("/ws") as carol:
            for member, topic in ((alice, "sports"), (carol, "movies")):
                member.send_json({"username": "alice", "topic": topic})
                member.receive_json()
            alice.send_text("/list")
            answer = server.get("/topics")
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
            assert answer.json() == alice.receive_json()["topics"]


def test_the_topics_can_be_kept_to_oneself() -> None:
    with host(topics_page=False) as server:
        assert server.get("/topics").status_code == 404
        assert server.get("/metrics").status_code == 200


@pytest.mark.parametrize("path", ["/topics", "/metrics"])
def test_a_server_with_a_token_answers_only_requests_that_give_it(path: str) -> None:
    with host(token="secret") as server:
        refused = server.get(path)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        for given, status in (("Bearer wrong", 401), ("secret", 401), ("Bearer secret", 200)):
            assert server.get(path, headers={"Authorization": given}).status_code == status
        assert server.get("/readyz").status_code == 200


def test_the_metrics_are_in_the_format_that_is_asked_for() -> None:
    with host() as server:
        answer = server.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert "\nchat_members 0.0\n" in answer.text
        openmetrics = server.get("/metrics", headers={"Accept": "application/openmetrics-text"})
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text;")
        assert openmetrics.text.endswith("# EOF\n")


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text;version=a.b.c", "text/plain;version=x;escaping=y", ";", ",", "image/png"]
)
def test_a_scrape_that_asks_for_no_known_format_gets_text(accept: str) -> None:
    with host() as server:
        answer = server.get("/metrics", headers={"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/topics", "/metrics"])
def test_a_slash_behind_the_path_of_a_probe_is_no_redirect(path: str) -> None:
    with host() as server:
        assert server.get(f"{path}/", follow_redirects=False).status_code == server.get(path).status_code == 200


def test_the_http_side_describes_itself() -> None:
    with host() as server:
        paths = server.get("/openapi.json").json()["paths"]
        assert {"/healthz", "/readyz", "/topics", "/metrics"} <= {*paths}
        schema = paths["/topics"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert {*schema["items"]["properties"]} == {"topic", "users"}


@in_loop
async def test_a_real_server_tells_its_topics_and_its_numbers(server: Server) -> None:
    def get(node: Server, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.port}{path}") as answer:
            text: str = answer.read().decode()
        return text

    async with Visit(server) as visit:
        await visit.join("alice", "sports")
        topics = [await asyncio.to_thread(get, node, "/topics") for node in server.nodes]
        metrics = [await asyncio.to_thread(get, node, "/metrics") for node in server.nodes]
    assert [json.loads(one) for one in topics] == [[{"topic": "sports", "users": 1}]] * len(server.nodes)
    # A member is counted where its topic is.
    assert sum("\nchat_members 1.0\n" in one for one in metrics) == 1
    assert [one.count("\nprocess_open_fds") for one in metrics] == [len(node.processes()) for node in server.nodes]
