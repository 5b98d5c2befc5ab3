"""Deadlines of connections on real sockets: of the close, of silence, and of a process that stood still."""

import asyncio
import os
import re
import signal
import urllib.request
from contextlib import AsyncExitStack
from typing import Callable

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.server import AHEAD_APP, APP, TROUBLE_ON_PLAIN_LANE, Server, Visit, in_loop, put_forward
from tests.support.websocket.wire import CLOSE, FIN, PING, PONG, RSV2, TEXT, RawClient, frame, frames_in

StartServer = Callable[..., Server]

CLOSE_SECONDS = 3  # more than a peer gets to answer the close
PING_SECONDS = 21  # more than a peer may be silent before it is pinged, and then before it is aborted
IDLE_SECONDS = 76  # more than a peer may be silent whose host does not ping it
WRAPPED_APP = "uvicorn", "tests.support.ahead_app:wrapped", "--port", "0"
HYPERCORN = "hypercorn", "tests.support.ahead_app:app", "--bind", "127.0.0.1:0", "--graceful-timeout", "0"


def connections(server: Server) -> int:
    """What the metric says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        (count,) = re.findall(r"^chat_connections (\S+)$", answer.read().decode(), re.MULTILINE)
    return int(float(count))


async def passes(server: Server, seconds: float) -> None:
    await asyncio.to_thread(put_forward, server, seconds)


async def is_full(server: Server) -> bool:
    """Whether the next connection is turned away."""
    async with Visit(server) as visit:
        client = await visit.connect()
        return "server_full" in str(await client.ask("/list"))


# Connections that the server has ended, and that stay.


@in_loop
async def test_a_peer_refused_for_a_broken_frame_counts_until_it_is_gone(start: StartServer) -> None:
    server = start(*AHEAD_APP, CHAT_CONNECTIONS="2")
    async with RawClient(server.port) as one, RawClient(server.port) as other:
        for peer in (one, other):
            await peer.upgrade()
            await peer.send(frame(FIN | RSV2 | TEXT, b"x"))
            (close,) = frames_in(await peer.read_all())
            assert (close[0], int.from_bytes(close[1][:2], "big")) == (FIN | CLOSE, 1002)
        assert connections(server) == 2
        assert await is_full(server)
        await passes(server, CLOSE_SECONDS)
        assert connections(server) == 0
        assert not await is_full(server)


@in_loop
async def test_a_peer_turned_away_at_the_limit_counts_until_it_is_gone(start: StartServer) -> None:
    server = start(*AHEAD_APP, CHAT_CONNECTIONS="1")
    async with Visit(server) as visit, RawClient(server.port) as one, RawClient(server.port) as other:
        alice = await visit.join("alice", "sports")
        for peer in (one, other):
            await peer.upgrade()
            assert (await peer.recv())["error"] == "server_full"
        assert connections(server) == 3
        await visit.leave(alice)
        assert await is_full(server)
        await passes(server, CLOSE_SECONDS)
        assert connections(server) == 0
        for peer in (one, other):
            (close,) = frames_in(await peer.read_all())
            assert int.from_bytes(close[1][:2], "big") == 1013
        assert not await is_full(server)
