"""The limits on connections and topics hold for all workers together, and every place is free again after its use."""

import asyncio
import json
import socket
import time
import urllib.request
from contextlib import suppress
from typing import Any, Callable

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.server import APP, PATIENCE, UNBOUNDED, Client, Server, Visit, Workers, in_loop
from tests.support.workers import Pages

StartServer = Callable[..., Server]

BURST = 60
MOST = 20


async def come(server: Server, number: int, topic: str) -> "tuple[Any, Client]":
    """Connect and join at once; the connection, and its client with the first frame that the server sent."""
    connection = await connect(server.url, **UNBOUNDED)
    client = Client(connection)
    with suppress(ConnectionClosed):  # the server need not read what it refuses
        await client.send({"username": f"member {number}", "topic": topic})
    await client.recv()
    return connection, client


async def burst(server: Server, topics: int) -> "list[tuple[Any, Client]]":
    """Members that come all at the same time, to so many topics."""
    return await asyncio.gather(*(come(server, number, f"topic {number % topics}") for number in range(BURST)))


async def go(server: Server, came: "list[tuple[Any, Client]]") -> int:
    """All leave; how many had joined."""
    before = len(server.lines(" left "))
    joined = sum(1 for _, client in came if client.joined)
    await asyncio.gather(*(connection.close() for connection, _ in came))
    await server.logged(" left ", count=before + joined)
    return joined


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("limit", ["CHAT_CONNECTIONS", "CHAT_CONNECTIONS_PER_ADDRESS"])
@in_loop
async def test_a_burst_gets_as_many_connections_as_all_workers_may_have(
    start: StartServer, workers: int, limit: str
) -> None:
    server = start(*APP, kind=Workers, count=workers, **{limit: str(MOST)})
    for _ in range(3):  # each time all places are free
        came = await burst(server, 7)
        refused = [client for _, client in came if not client.joined]
        assert {json.loads(client.texts[0])["error"] for client in refused} == {"server_full"}
        assert 0 < await go(server, came) <= MOST
    async with Visit(server) as visit:  # one after the other, all the places are there
        for number in range(MOST):
            await visit.join("alice", f"topic {number % 7}")
        late = await visit.connect()
        assert (await late.recv())["error"] == "server_full"
        assert await late.close_code() == 1013


@pytest.mark.parametrize("workers", [2, 3])
@in_loop
async def test_a_burst_opens_as_many_topics_as_all_workers_may_have(start: StartServer, workers: int) -> None:
    server = start(*APP, kind=Workers, count=workers, CHAT_TOPICS=str(MOST))
    for _ in range(3):
        came = await burst(server, BURST)
        refused = [client for _, client in came if not client.joined]
        assert {json.loads(client.texts[0])["error"] for client in refused} == {"server_full"}
        assert 0 < await go(server, came) <= MOST
    async with Visit(server) as visit:
        for number in range(MOST):
            await visit.join("alice", f"topic {number}")
        late = await visit.connect()
        assert (await late.ask({"username": "alice", "topic": "one more"}))["error"] == "server_full"
        assert await late.close_code() == 1013
        assert (await visit.join("bob", "topic 0")).joined["users"] == 2


@in_loop
async def test_no_connection_is_counted_once_all_have_gone(start: StartServer) -> None:
    server = start(*APP, kind=Workers, count=3)
    with Pages(server, server.processes()[0]) as pages:
        for _ in range(3):
            assert await go(server, await burst(server, 7)) == BURST
        while "\nchat_connections 0.0\n" not in await asyncio.to_thread(pages.get, "/metrics"):
            pass
        metrics = await asyncio.to_thread(pages.get, "/metrics")
        assert "\nchat_topics 0.0\n" in metrics and "\nchat_members 0.0\n" in metrics


@in_loop
async def test_the_first_connection_of_a_worker_without_a_lifespan_is_counted_too(start: StartServer) -> None:
    server = start(*APP, "--workers", "2", "--lifespan", "off")
    server.clean_status = 0
    await asyncio.to_thread(wait_for_port, server.port)
    async with Visit(server) as visit:
        for _ in range(8):
            await visit.connect()
        metrics = await asyncio.to_thread(text_of, f"http://127.0.0.1:{server.port}/metrics")
        assert "\nchat_connections 8.0\n" in metrics


def wait_for_port(port: int) -> None:
    """Wait until somebody listens: without a lifespan no line of the log says so."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return


def text_of(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE) as page:
        return str(page.read(), "utf-8")
