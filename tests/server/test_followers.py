"""A long history for clients that read it slowly, or not at all, on real sockets: both lanes, both loops, with TLS."""

import asyncio
import json
import re
import signal
import socket
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Optional

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.server import Client, Server, Visit, in_loop
from tests.support.tls import Certificate

APP = "chat_actors.app:app"
LOOPS = "asyncio", "uvloop"
IMPLEMENTATIONS = "auto", "websockets", "websockets-sansio", "wsproto"
TLS = "TLS"
HYPERCORN = "hypercorn", APP, "--bind", "127.0.0.1:0", "--graceful-timeout", "0"
COMMANDS = {
    **{
        f"{loop} {ws}": ("uvicorn", APP, "--port", "0", "--loop", loop, "--ws", ws)
        for loop in LOOPS
        for ws in IMPLEMENTATIONS
    },
    **{f"{loop} {TLS}": ("uvicorn", APP, "--port", "0", "--loop", loop, TLS) for loop in LOOPS},
    "hypercorn": HYPERCORN,
}
SETTINGS = {
    "CHAT_MESSAGE_CHARS": "60000",
    "CHAT_MESSAGE_TTL": "600",  # a slow test is no slow reader
    "CHAT_STALL_TIMEOUT": "600",
}
TROUBLE = re.compile("Traceback|ERROR|CRITICAL")  # a warning tells of the plain lane

MESSAGES = 120
MESSAGE = "x" * 60_000
RECEIVED = 16 * 1024  # bytes that the system keeps for a client that does not read: about so many
# Bytes that are written for such a client, at most: most of them are in the system, or in the TLS of the client. On the
# plain lane the system keeps some megabytes for each connection.
BOUND, PLAIN_BOUND = 1 << 20, 5 << 20
WAITING = 128 * 1024  # bytes of these that wait in the server, at most


class Host(NamedTuple):
    """Server, and what its clients trust; None without TLS."""

    server: Server
    trust: Optional[ssl.SSLContext]
    bound: int  # bytes

    @asynccontextmanager
    async def history(self) -> AsyncIterator[tuple[Visit, Client]]:
        """A visit in which alice has said all there is to be told."""
        async with Visit(self.server) as visit:
            alice = await visit.join("alice", "sports")
            for _ in range(MESSAGES):
                await alice.ask({"message": MESSAGE})
            yield visit, alice
        alice.connection.transport.close()  # Python 3.9 warns of TLS that its peer has closed

    @asynccontextmanager
    async def slow_client(self) -> AsyncIterator[ClientConnection]:
        """A client for which little waits while it does not read."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.server.port))
        tls: dict[str, Any] = {} if self.trust is None else {"ssl": self.trust, "server_hostname": "127.0.0.1"}
        async with connect(self.server.url, sock=sock, max_queue=1, compression=None, **tls) as client:
            try:
                yield client
            finally:
                client.transport.abort()  # else its close would wait for what it has not read

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""

        def scrape() -> str:
            scheme = "http" if self.trust is None else "https"
            with urllib.request.urlopen(
                f"{scheme}://127.0.0.1:{self.server.port}/metrics", context=self.trust
            ) as answer:
                return str(answer.read(), "utf-8")

        return sum(
            map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", await asyncio.to_thread(scrape), re.MULTILINE))
        )


@pytest.fixture(scope="module", params=COMMANDS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    command = COMMANDS[request.param]
    tls = Certificate(tmp_path_factory.mktemp("tls")) if TLS in command else None
    words = [*(word for word in command if word != TLS), *(tls.options if tls else ())]
    server = Server(*words, **SETTINGS)
    try:
        if tls is not None:
            server.client_options = {"ssl": tls.trust}
        yield Host(server, tls.trust if tls else None, PLAIN_BOUND if command is HYPERCORN else BOUND)
        server.terminate(0 if command is HYPERCORN else -signal.SIGTERM, trouble=TROUBLE)
    finally:
        server.kill()


def join(username: str) -> str:
    return json.dumps({"username": username, "topic": "sports", "since": 0})


@in_loop
async def test_a_client_that_reads_slowly_is_told_each_message_once_and_in_order(host: Host) -> None:
    async with host.history() as (visit, alice):
        async with host.slow_client() as slow:
            await slow.send(join("slow"))
            await slow.send('{"message": "at last"}')  # which waits until all is told
            frames: list[dict[str, Any]] = [json.loads(await slow.recv())]
            while frames[-1]["type"] != "ack":
                frames.append(json.loads(await slow.recv()))
                if not len(frames) % 10:
                    await alice.ask({"message": "meanwhile"})
            joined, *told, ack = frames
            assert (joined["type"], joined["last_id"]) == ("joined", MESSAGES)
            assert [frame["id"] for frame in told] == [*range(1, ack["id"])]
            assert sum("replayed" in frame for frame in told) == MESSAGES
            assert all(frame["message"] == MESSAGE for frame in told[:MESSAGES])
            assert ack["id"] > MESSAGES + 1
        await visit.see_leaves(1)


@in_loop
async def test_a_client_that_never_reads_costs_a_bounded_number_of_bytes(host: Host) -> None:
    async with host.history() as (visit, alice):
        written = await host.metric("chat_sent_bytes_total")
        async with host.slow_client() as first, host.slow_client() as second:
            for deaf in (first, second):
                await deaf.send(join("deaf"))
            while (await alice.ask("/list"))["topics"] != [{"topic": "sports", "users": 3}]:
                pass
            for number in range(20):  # turns of the topic
                ack = await alice.ask({"message": str(number)})
            assert ack["recipients"] == 2
            assert await host.metric("chat_sent_bytes_total") - written < 2 * host.bound
            assert await host.metric("chat_reader_waiting_bytes") < 2 * WAITING
        await visit.see_leaves(2)
