"""SIGTERM to a real server: every member is notified, no error is logged, and the process ends in time."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Callable

import pytest

from tests.support.server import APP, Client, Server, Visit, in_loop

StartServer = Callable[..., Server]

GRACE = 15.0  # seconds; the server's own limits (2 for a peer that does not read, 10 in all) lie below
COMMANDS = {
    "uvicorn": APP,
    "uvicorn --ws websockets": (*APP, "--ws", "websockets"),
    "uvicorn --ws websockets-sansio": (*APP, "--ws", "websockets-sansio"),
    "uvicorn --ws wsproto": (*APP, "--ws", "wsproto"),
    "python -m chat_actors": ("chat_actors",),
}
every_command = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


async def terminate(server: Server, *clients: Client) -> list[int]:
    """End the server, which must be clean; the codes by which the clients were closed."""
    codes = asyncio.gather(*[client.close_code() for client in clients])
    await asyncio.to_thread(server.terminate, within=GRACE)
    return await codes


@every_command
@in_loop
async def test_every_connection_is_closed_with_1012_at_a_shutdown(start: StartServer, command: tuple[str, ...]) -> None:
    server = start(*command, CHAT_PORT="0")
    async with Visit(server) as visit:
        members = [await visit.join("alice", topic) for topic in ("sports", "sports", "movies")]
        stranger = await visit.connect()
        await stranger.ask("/list")
        await members[0].ask({"message": "hello"})  # so that an expiry waits
        assert await terminate(server, *members, stranger) == [1012] * 4
    assert len(server.lines(" left ")) == 3
    assert len(server.lines("topic removed")) == 2


@every_command
@in_loop
async def test_each_member_with_events_gets_another_delay_at_a_shutdown(
    start: StartServer, command: tuple[str, ...]
) -> None:
    server = start(*command, CHAT_PORT="0")
    async with Visit(server) as visit:
        plain = await visit.join("alice", "sports")
        watchers = [await visit.connect() for _ in range(3)]
        for watcher, topic in zip(watchers, ("sports", "sports", "movies")):
            await watcher.ask({"username": "bob", "topic": topic, "events": True})
        assert await terminate(server, plain, *watchers) == [1012] * 4
    assert [json.loads(text)["type"] for text in plain.texts] == ["joined"]
    closings = [json.loads(watcher.texts[-1]) for watcher in watchers]
    assert [closing["type"] for closing in closings] == ["closing"] * 3
    moments = [closing["retry_after_ms"] for closing in closings]
    assert len({*moments}) == 3 and min(moments) >= 1000
    assert len(server.lines(" left ")) == 4


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def join_and_read_nothing(server: Server, username: str, topic: str) -> socket.socket:
    """A member whose machine takes a few kilobytes and no more."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    sock.sendall(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
    join = json.dumps({"username": username, "topic": topic}).encode()
    sock.sendall(bytes([0x81, 0x80 | len(join)]) + bytes(4) + join)  # masked with zeros
    return sock


@every_command
@in_loop
async def test_members_that_do_not_read_do_not_hold_up_the_end(
    start: StartServer, sockets: ExitStack, command: tuple[str, ...]
) -> None:
    # Bounds so wide that nobody is aborted as too slow before the end, nor slowed down.
    wide = {"CHAT_OUTBOX_BYTES": str(1 << 26), "CHAT_STALL_TIMEOUT": "600", "CHAT_RATE_LIMIT": "0"}
    server = start(*command, CHAT_PORT="0", **wide)
    async with Visit(server) as visit:
        alice, bob = await visit.join("alice", "sports"), await visit.join("bob", "sports")
        for _ in range(3):
            sockets.enter_context(join_and_read_nothing(server, "stalled", "sports"))
        await server.logged(" joined ", "users=5")
        reading = asyncio.create_task(bob.close_code())
        for _ in range(512):  # 8 MiB for each: twice what the kernel takes
            assert (await alice.ask({"message": "😀" * 4096}))["recipients"] == 4
        assert await terminate(server, alice) == [1012]
        assert await reading == 1012
    assert len(server.lines(" left ")) == 5
