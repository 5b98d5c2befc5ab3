"""Deadlines of connections on real sockets: of the close, of silence, and of a process that stood still."""

import asyncio
import os
import re
import signal
import urllib.request
from contextlib import suppress
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
        with suppress(ConnectionClosed):  # by then it may have been turned away
            await client.send("/list")
        return bool((await client.recv())["type"] == "error")


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


# Silence.


@in_loop
async def test_a_peer_that_answers_no_ping_is_aborted_and_one_that_does_stays(start: StartServer) -> None:
    server = start(*AHEAD_APP)
    async with Visit(server) as visit, RawClient(server.port) as silent, RawClient(server.port) as steady:
        watcher = await visit.join("watcher", "sports")  # the package answers its pings
        for peer, name in ((silent, "silent"), (steady, "steady")):
            await peer.upgrade()
            await peer.join(name, "sports")
        for _ in range(3):
            await passes(server, PING_SECONDS)
            await steady.send(frame(FIN | PONG))
        await visit.see_leaves(1, reason="silent: no answer to a ping")
        assert (FIN | PING, b"") in frames_in(await silent.read_all())
        assert (await watcher.ask("/list"))["topics"] == [{"topic": "sports", "users": 2}]
        assert await steady.is_open()


PLAIN = {"uvicorn without pings": (*WRAPPED_APP, "--ws-ping-interval", "0"), "hypercorn": HYPERCORN}


@pytest.mark.parametrize("command", PLAIN.values(), ids=PLAIN)
@in_loop
async def test_where_nobody_pings_a_silent_peer_is_told_to_come_back(
    start: StartServer, command: tuple[str, ...]
) -> None:
    server = start(*command)
    async with Visit(server) as visit:
        silent, talker = await visit.join("silent", "sports"), await visit.join("talker", "sports")
        for _ in range(2):
            await passes(server, IDLE_SECONDS / 2)
            await talker.ask({"message": "hello"})
        assert await silent.close_code() == 1012
        await visit.see_leaves(1, reason="silent: nothing heard")
        assert (await talker.ask("/list"))["topics"] == [{"topic": "sports", "users": 1}]
    server.terminate(0 if command is HYPERCORN else -signal.SIGTERM, trouble=TROUBLE_ON_PLAIN_LANE)


NO_LIMIT = {"pings of the host": (WRAPPED_APP, "75"), "no limit": (HYPERCORN, "0")}


@pytest.mark.parametrize(("command", "seconds"), NO_LIMIT.values(), ids=NO_LIMIT)
@in_loop
async def test_a_silent_peer_stays_where_its_host_pings_it_or_nothing_limits_its_silence(
    start: StartServer, command: tuple[str, ...], seconds: str
) -> None:
    server = start(*command, CHAT_IDLE_TIMEOUT=seconds)
    async with Visit(server) as visit:
        silent, talker = await visit.join("silent", "sports"), await visit.join("talker", "sports")
        for _ in range(3):
            await passes(server, IDLE_SECONDS)
            await talker.ask({"message": "hello"})
        assert [(await silent.recv())["id"] for _ in range(3)] == [1, 2, 3]
    server.terminate(0 if command is HYPERCORN else -signal.SIGTERM, trouble=TROUBLE_ON_PLAIN_LANE)


# A process that stood still.

SHORT = {"CHAT_JOIN_TIMEOUT": "3", "CHAT_PING_INTERVAL": "1", "CHAT_STALL_TIMEOUT": "1"}


@in_loop
async def test_a_process_that_was_stopped_punishes_nobody_when_it_goes_on(start: StartServer) -> None:
    server, twin = start(*APP, **SHORT), start(*APP, **SHORT)
    async with Visit(server) as visit, Visit(twin) as beside, RawClient(twin.port) as silent:
        alice, bob = await visit.join("alice", "sports"), await visit.join("bob", "sports")
        await silent.upgrade()
        await silent.join("silent", "sports")
        waiting, hesitant = await visit.connect(), await visit.connect()
        late = await beside.connect()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await waiting.send({"username": "waiting", "topic": "sports"})
            await alice.send({"message": "hello"})
            # The twin has the same deadlines, and goes on: once they are over there, they are over here.
            assert await late.close_code() == 4408
            await beside.see_leaves(1, reason="silent: no answer to a ping")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert (await waiting.recv())["type"] == "joined"
        assert (await alice.recv())["type"] == "ack"
        assert (await bob.recv())["message"] == "hello"
        await hesitant.join("hesitant", "sports")  # its time to join has not passed here
        assert (await waiting.ask("/list"))["topics"] == [{"topic": "sports", "users": 4}]
    assert {line.rpartition("reason=")[2] for line in server.lines(" left ")} == {"'closed by peer'"}
