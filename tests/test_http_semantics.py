"""HTTP as probes, balancers, browsers and scanners speak it: every method, condition and header, on every path."""

import asyncio
import warnings
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from chat_actors.application import create_app
from chat_actors.http_semantics import HttpSemantics
from chat_actors.settings import Settings
from tests.support.fakes import in_clean_loop
from tests.support.server import APP, Server, in_loop

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer releases of Starlette would rather have httpx2
    from starlette.testclient import TestClient

PATHS = {
    **dict.fromkeys(("/", "/page/main.js", "/protocol", "/asyncapi.json", "/openapi.json"), 200),
    **dict.fromkeys(("/healthz", "/readyz", "/topics", "/metrics", "/healthz?x=1", "/%68ealthz"), 200),
    "/ws": 426,
    **dict.fromkeys(("/ws/", "/docs", "/redoc", "/docs/oauth2-redirect", "/nothing", "/page/"), 404),
}
CONDITIONS = (
    {"If-None-Match": '"other", W/"another"'},
    {"If-None-Match": "not a tag"},
    {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"},
    {"If-Modified-Since": "yesterday"},
    {"Range": "bytes=0-3"},
    {"Accept": "image/png"},
    {"Accept-Encoding": "br, *;q=0"},
    {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA"},
    {"Upgrade": "websocket", "Connection": "close"},
    {"Expect": "something"},
)

each_path = pytest.mark.parametrize(("path", "status"), PATHS.items())


@pytest.fixture
def host() -> Iterator[TestClient]:
    with TestClient(create_app(Settings.model_validate({})), follow_redirects=False) as client:
        yield client


@each_path
def test_every_path_has_one_answer_whatever_is_asked_besides(host: TestClient, path: str, status: int) -> None:
    first = host.get(path)
    assert first.status_code == status
    for condition in CONDITIONS:
        again = host.get(path, headers=condition)
        assert (again.status_code, again.headers["content-type"]) == (status, first.headers["content-type"])


@each_path
def test_a_head_has_the_headers_of_a_get_and_no_content(host: TestClient, path: str, status: int) -> None:
    got, head = host.get(path), host.head(path)
    assert (head.status_code, head.content) == (status, b"")
    varying = {"content-length"} if path == "/metrics" else set()
    assert {*head.headers.items()} - {*got.headers.items()} <= {(name, head.headers[name]) for name in varying}
    assert "content-length" in head.headers


@each_path
def test_options_tells_the_methods_of_what_is_there(host: TestClient, path: str, status: int) -> None:
    answer = host.options(path)
    assert answer.content == b""
    if status == 404:
        assert (answer.status_code, answer.headers["content-length"]) == (404, "0")
    else:
        assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
        assert not {"content-length", "content-type"} & {*answer.headers}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
@each_path
def test_any_other_method_is_refused_by_name(host: TestClient, path: str, status: int, method: str) -> None:
    answer = host.request(method, path)
    if status == 404:
        assert answer.status_code == 404
    else:
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
@each_path
def test_no_response_is_sniffed_or_framed_and_none_redirects(
    host: TestClient, path: str, status: int, method: str
) -> None:
    for headers in ({}, {"If-None-Match": "*"}, {"Host": "evil.example/<script>"}):
        answer = host.request(method, path, headers=headers)
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert answer.headers.get_list("x-frame-options") == ["DENY"]
        (policy,) = answer.headers.get_list("content-security-policy")
        assert "frame-ancestors 'none'" in policy
        assert "location" not in answer.headers and "evil.example/" not in answer.text


def protected(answer: object) -> bool:
    headers = getattr(answer, "headers")  # noqa: B009  # its type depends on the release of Starlette
    return headers["x-content-type-options"] == "nosniff" and "frame-ancestors" in headers["content-security-policy"]


def test_errors_and_the_answers_of_added_middleware_are_no_exception() -> None:
    app = create_app(Settings.model_validate({"token": "s3cret"}))

    async def fail(request: Request) -> Response:
        raise ValueError

    app.add_route("/fails", fail)
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"])
    client = TestClient(app, raise_server_exceptions=False)
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    answers = {
        500: client.get("/fails"),
        401: client.get("/metrics"),
        200: client.options("/topics", headers=asked),
        400: client.options("/topics", headers={**asked, "Origin": "https://b.example"}),
    }
    for status, answer in answers.items():
        assert (answer.status_code, protected(answer)) == (status, True)
    assert client.head("/fails").content == b""


def test_what_is_mounted_has_the_same_and_leaves_its_host_alone() -> None:
    outer = FastAPI()
    outer.mount("/chat", create_app(Settings.model_validate({})))
    client = TestClient(outer)
    assert protected(client.get("/chat/healthz")) and protected(client.get("/chat/nothing"))
    assert client.head("/chat/healthz").status_code == 200
    assert client.options("/chat/ws").headers["allow"] == "GET, HEAD, OPTIONS"
    assert "x-content-type-options" not in client.get("/nothing").headers


@in_clean_loop
async def test_a_websocket_and_a_lifespan_pass_through_untouched() -> None:
    seen: list[object] = []

    async def app(*call: object) -> None:
        seen.extend(call)

    async def unused(*_: object) -> None:
        raise AssertionError

    for kind in ("websocket", "lifespan"):
        scope = {"type": kind}
        await HttpSemantics(app)(scope, unused, unused)  # type: ignore[arg-type]
        assert seen[-3] is scope and seen[-2] is seen[-1] is unused


@pytest.mark.parametrize(
    ("root", "path", "seen"),
    [
        ("", "http://chat.example/a b", "/a b"),
        ("/chat", "/chathttp://chat.example/a", "/chat/a"),  # as uvicorn puts it together
        ("/chat", "/chat*", "/chat/"),
        ("/chat", "http://chat.example", "/chat/"),
        ("/chat", "/chat/a", "/chat/a"),
    ],
)
@in_clean_loop
async def test_a_path_is_one_whatever_form_the_target_has(root: str, path: str, seen: str) -> None:
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    scope = {"type": "http", "method": "OPTIONS", "root_path": root, "path": path}
    await HttpSemantics(app)(scope, None, None)  # type: ignore[arg-type]
    assert scopes[0]["path"] == seen


# By hand, on a socket.


async def ask(server: Server, request: str) -> tuple[int, str, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request.replace("\n", "\r\n").encode("latin-1"))
    answer = (await reader.read()).decode("latin-1")
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), head.lower(), body


HANDSHAKE = (
    "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\n"
)
H2C = "Host: a\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\n"


@in_loop
async def test_probes_of_all_kinds_are_answered(server: Server) -> None:
    close = "Connection: close\n"
    for request, status in (
        ("GET /healthz HTTP/1.0\n\n", 200),
        ("OPTIONS / HTTP/1.0\n\n", 204),  # HAProxy, by default
        ("HEAD /readyz HTTP/1.0\n\n", 200),
        (f"GET /healthz?probe=1 HTTP/1.1\nHost: a\n{close}\n", 200),
        (f"GET /healthz/ HTTP/1.1\nHost: a\n{close}\n", 200),
        (f"HEAD /ws HTTP/1.1\nHost: a\n{close}\n", 426),
        (f"GET /ws HTTP/1.1\nHost: a\nUpgrade: h2c\n{close}\n", 426),
        (f"POST /ws HTTP/1.1\nHost: a\nContent-Length: 2\n{close}\nab", 405),
        (f"GET /asyncapi.json HTTP/1.1\nHost: a b<c>\n{close}\n", 421),
        (f"GET http://127.0.0.1/healthz?x=1 HTTP/1.1\nHost: 127.0.0.1\n{close}\n", 200),  # as to a proxy
        (f"GET HTTP://127.0.0.1:80 HTTP/1.1\nHost: 127.0.0.1\n{close}\n", 200),
        (f"GET http://127.0.0.1/nothing HTTP/1.1\nHost: 127.0.0.1\n{close}\n", 404),
        (f"OPTIONS * HTTP/1.1\nHost: 127.0.0.1\n{close}\n", 204),
        (f"GET * HTTP/1.1\nHost: 127.0.0.1\n{close}\n", 404),
    ):
        got, head, body = await ask(server, request)
        assert (got, "x-content-type-options: nosniff" in head) == (status, True), request
        assert bool(body) == (not request.startswith(("HEAD", "OPTIONS"))), request
    _, head, body = await ask(server, f"GET /ws HTTP/1.1\nHost: a\n{close}\n")
    assert "\nupgrade: websocket" in head and "/protocol" in body
    assert f'"host":"127.0.0.1:{server.port}"' in (await ask(server, "GET /asyncapi.json HTTP/1.0\n\n"))[2]


@pytest.mark.parametrize("implementation", ["websockets", "websockets-sansio", "wsproto"])
@in_loop
async def test_a_refused_handshake_says_why_and_is_a_response_as_any_other(
    start: Callable[..., Server], implementation: str
) -> None:
    foreign = f"GET /ws HTTP/1.1\nHost: a\nOrigin: http://evil.example\n{HANDSHAKE}\n"
    status, head, body = await ask(start(*APP, "--ws", implementation), foreign)
    assert (status, body) == (403, "origin not allowed\n")
    for header in ("x-content-type-options: nosniff", "x-frame-options: deny", "content-type: text/plain"):
        assert f"\n{header}" in head
