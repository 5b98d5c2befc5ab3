"""What an operator asks over HTTP, of a real server."""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any, Callable, NamedTuple

import pytest

from tests.server import APP, Server, Visit, in_loop

StartServer = Callable[..., Server]


class Answer(NamedTuple):
    status: int
    type: str
    text: str


def get(server: Server, path: str, **headers: str) -> Answer:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return Answer(answer.status, answer.headers["content-type"], answer.read().decode())
    except urllib.error.HTTPError as refused:
        with refused:
            return Answer(refused.code, refused.headers["content-type"], refused.read().decode())


async def ask(server: Server, path: str, **headers: str) -> Answer:
    return await asyncio.to_thread(get, server, path, **headers)


@in_loop
async def test_a_server_is_alive_and_ready(server: Server) -> None:
    assert await ask(server, "/healthz") == (200, "application/json", '{"status":"alive"}')
    assert await ask(server, "/readyz") == (200, "application/json", '{"status":"ready"}')


@in_loop
async def test_the_topics_are_those_of_the_list(server: Server) -> None:
    assert (await ask(server, "/topics")).text == "[]"
    async with Visit(server) as visit:
        alice = await visit.join("alice", "sports")
        await visit.join("bob", "sports")
        await visit.join("carol", "movies")
        answer = await ask(server, "/topics")
        assert (answer.status, answer.type) == (200, "application/json")
        assert json.loads(answer.text) == (await alice.ask("/list"))["topics"]


@in_loop
async def test_the_topics_can_be_kept_to_oneself(start: StartServer) -> None:
    server = start(*APP, CHAT_TOPICS_PAGE="0")
    assert (await ask(server, "/topics")).status == 404
    assert (await ask(server, "/metrics")).status == 200


@pytest.mark.parametrize("path", ["/topics", "/metrics"])
@in_loop
async def test_where_there_is_a_token_only_who_has_it_is_answered(start: StartServer, path: str) -> None:
    server = start(*APP, CHAT_TOKEN="secret")
    assert (await ask(server, path)).status == 401
    assert (await ask(server, path, Authorization="Bearer wrong")).status == 401
    assert (await ask(server, path, Authorization="Bearer secret")).status == 200
    assert (await ask(server, "/readyz")).status == 200


@in_loop
async def test_the_metrics_are_in_prometheus_own_format(server: Server) -> None:
    async with Visit(server) as visit:
        await visit.join("alice", "sports")
        answer = await ask(server, "/metrics")
    assert answer.status == 200
    assert answer.type.startswith("text/plain; version=")
    assert "\nchat_members 1.0\n" in answer.text
    assert "\nprocess_open_fds " in answer.text


@in_loop
async def test_the_http_side_describes_itself(server: Server) -> None:
    paths: dict[str, Any] = json.loads((await ask(server, "/openapi.json")).text)["paths"]
    assert {"/healthz", "/readyz", "/topics", "/metrics"} <= {*paths}
    schema = paths["/topics"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert {*schema["items"]["properties"]} == {"topic", "users"}
