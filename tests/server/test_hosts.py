"""Hosts around the application: which lane a connection gets under each, and what a host sees of it."""

import asyncio
import re
import urllib.error
import urllib.request
from typing import Callable

import pytest

from tests.support.server import APP, FAST, TROUBLE_ON_PLAIN_LANE, Client, Server, Visit, in_loop

StartServer = Callable[..., Server]

HOSTS = "uvicorn", *FAST, "--factory"
HYPERCORN = "hypercorn", "chat_actors.app:app", "--bind", "127.0.0.1:0", "--graceful-timeout", "0"
WRAPPED = "middleware around `send`: add chat_actors.FastLane as the outermost middleware"
NO_FAST_LANE = {
    "mounted": ((*HOSTS, "tests.support.host_apps:mounted"), WRAPPED),
    "wrapped": ((*HOSTS, "tests.support.host_apps:wrapped"), WRAPPED),
    "hypercorn": (
        HYPERCORN,
        "uvicorn not found: another ASGI server, HTTP/2, or middleware with a task of its own",
    ),
}
FULL = re.compile(r"Traceback|\b(ERROR|CRITICAL)\b|\bWARNING\b(?! +Exceeded concurrency limit\.)")


def at_its_path(server: Server, host: str) -> Server:
    """The server, with the path to which its host has mounted the application."""
    if "mounted" in host:
        server.url = server.url.replace("/ws", "/chat/ws")
    return server


async def enter(visit: Visit) -> list[Client]:
    """Two members. Their package offers compression."""
    return [await visit.join(name, "sports") for name in ("alice", "bob")]


async def chat(alice: Client, bob: Client) -> None:
    assert (await alice.ask({"message": "hello"}))["recipients"] == 1
    assert (await bob.recv())["message"] == "hello"


@pytest.mark.parametrize(("host", "command", "why"), [(host, *NO_FAST_LANE[host]) for host in NO_FAST_LANE])
@in_loop
async def test_without_the_fast_lane_one_log_line_says_why_and_the_chat_goes_on(
    start: StartServer, host: str, command: tuple[str, ...], why: str
) -> None:
    server = at_its_path(start(*command), host)
    async with Visit(server) as visit:
        alice, bob = await enter(visit)
        assert alice.connection.protocol.extensions or host == "hypercorn"  # the framing is the host's
        await chat(alice, bob)
    (line,) = server.lines("fast lane not used")
    assert "WARNING" in line and line.endswith(f"reason={why!r}")
    server.terminate(0 if host == "hypercorn" else -15, trouble=TROUBLE_ON_PLAIN_LANE)


@pytest.mark.parametrize("host", ["mounted_on_the_fast_lane", "wrapped_on_the_fast_lane"])
@in_loop
async def test_with_the_middleware_fast_lane_a_host_needs_no_more(start: StartServer, host: str) -> None:
    server = at_its_path(start(*HOSTS, f"tests.support.host_apps:{host}"), host)
    async with Visit(server) as visit:
        alice, bob = await enter(visit)
        assert not alice.connection.protocol.extensions
        await chat(alice, bob)
    assert not server.lines("fast lane")


# What the host sees of the fast lane.


@in_loop
async def test_the_endpoint_returns_while_its_member_chats_on(start: StartServer) -> None:
    server = start(*HOSTS, "tests.support.host_apps:noted")
    async with Visit(server) as visit:
        alice, bob = await enter(visit)
        await server.logged("endpoint returned", count=2)
        await chat(alice, bob)
    assert len(server.lines("endpoint returned")) == 2


@in_loop
async def test_uvicorn_counts_a_connection_until_its_descriptor_is_closed(start: StartServer) -> None:
    def status() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz") as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code

    server = start(*APP, "--limit-concurrency", "2")  # the request itself is one
    async with Visit(server) as visit:
        assert await asyncio.to_thread(status) == 200
        alice = await visit.join("alice", "sports")
        assert await asyncio.to_thread(status) == 503
        alice.connection.transport.abort()
        await visit.see_leaves(1)
        assert await asyncio.to_thread(status) == 200
    server.terminate(trouble=FULL)
