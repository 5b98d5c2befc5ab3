"""The end of a real server: every member is notified, no error is logged, and the process ends in time."""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Optional

import pytest
import uvicorn
from websockets.asyncio.client import connect

from chat_actors import create_app
from chat_actors.settings import Settings
from tests.support.server import APP, FAST, UNBOUNDED, Client, Server, Visit, in_loop
from tests.support.tls import Certificate
from tests.support.websocket.wire import HANDSHAKE, text

StartServer = Callable[..., Server]

GRACE = 15.0  # seconds; the server's own limits (2 for a peer that does not answer, 10 in all) lie below
TROUBLE_BUT_THE_LIMIT = re.compile(
    r"Traceback|\b(ERROR|CRITICAL)\b|\bWARNING\b(?! +Maximum request limit of 1 exceeded)"
)
TLS = "TLS"  # stands for the options with the certificate
BIND = "--bind", "127.0.0.1:0"
COMMANDS = {
    "uvicorn": APP,
    "uvicorn, no lifespan": (*APP, "--lifespan", "off"),
    "uvicorn, TLS": (*APP, TLS),
    "uvicorn, TLS, asyncio": (*APP, TLS, "--loop", "asyncio"),
    "uvicorn --ws wsproto": ("uvicorn", "chat_actors.app:app", "--port", "0", "--ws", "wsproto"),
    "uvicorn --ws websockets": ("uvicorn", "chat_actors.app:app", "--port", "0", "--ws", "websockets"),
    "uvicorn --workers": (*APP, "--workers", "2"),
    "gunicorn": ("gunicorn", "chat_actors.app:app", "-k", "uvicorn_worker.UvicornWorker", "-w", "2", *BIND),
    "python -m chat_actors": ("chat_actors",),
    "mounted, fast lane": ("uvicorn", "--factory", "tests.support.host_apps:mounted_on_the_fast_lane", *FAST),
}
every_command = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


@pytest.fixture
def launch(start: StartServer, tmp_path: Path) -> StartServer:
    """``start``, for the commands above."""

    def launch_server(command: tuple[str, ...], **environment: str) -> Server:
        tls = Certificate(tmp_path) if TLS in command else None
        words = [*(word for word in command if word != TLS), *(tls.options if tls else ())]
        server = start(*words, CHAT_PORT="0", **environment)
        if "--workers" in command or "gunicorn" in command:
            server.clean_status = 0  # the parent does not raise the signal again
            server.wait_for("Application startup complete", count=2)
        if any("mounted" in word for word in command):
            server.url = server.url.replace("/ws", "/chat/ws")
        if tls is not None:
            server.client_options = {"ssl": tls.trust}
        return server

    return launch_server


async def terminate(server: Server, *clients: Client) -> list[int]:
    """End the server, which must be clean; the codes by which the clients were closed."""
    codes = asyncio.gather(*[client.close_code() for client in clients])
    await asyncio.to_thread(server.terminate, within=GRACE)
    return await codes


@every_command
@in_loop
async def test_every_connection_is_closed_with_1012_at_a_shutdown(
    launch: StartServer, command: tuple[str, ...]
) -> None:
    server = launch(command)
    async with Visit(server) as visit:
        members = [await visit.join("alice", topic) for topic in ("sports", "sports", "movies")]
        stranger = await visit.connect()
        await stranger.ask("/list")
        await members[0].ask({"message": "hello"})  # so that an expiry waits
        assert await terminate(server, *members, stranger) == [1012] * 4
    assert len(server.lines(" left ")) == 3
    assert len(server.lines("topic removed")) == 2


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("lifespan", ["on", "off"])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGINT])
@in_loop
async def test_each_signal_that_ends_a_process_closes_its_members_with_1012(
    launch: StartServer, number: int, lifespan: str
) -> None:
    server = launch((*APP, "--lifespan", lifespan))
    async with Visit(server) as visit:
        alice = await visit.join("alice", "sports")
        os.kill(server.pid, number)
        assert await alice.close_code() == 1012
        status = 0 if number == signal.SIGINT else -number  # uvicorn raises it again, and takes a KeyboardInterrupt
        await asyncio.to_thread(server.wait_for_end, status, GRACE)


@every_command
@in_loop
async def test_each_member_with_events_gets_another_delay_at_a_shutdown(
    launch: StartServer, command: tuple[str, ...]
) -> None:
    server = launch(command)
    async with Visit(server) as visit:
        plain = await visit.join("alice", "sports")
        watchers = [await visit.connect() for _ in range(3)]
        for watcher, topic in zip(watchers, ("sports", "sports", "movies")):
            await watcher.ask({"username": "bob", "topic": topic, "events": True})
        assert await terminate(server, plain, *watchers) == [1012] * 4
    assert [json.loads(frame)["type"] for frame in plain.texts] == ["joined"]
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
    """A member whose machine takes a few kilobytes and no more, and that answers nothing."""
    trust: Optional[ssl.SSLContext] = server.client_options.get("ssl")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    if trust is not None:
        sock = trust.wrap_socket(sock, server_hostname="127.0.0.1")
    path = server.url.split("/", 3)[3]
    sock.sendall(HANDSHAKE.replace(b"/ws", b"/" + path.encode()))
    assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
    sock.sendall(text(json.dumps({"username": username, "topic": topic})))
    return sock


@every_command
@in_loop
async def test_members_that_neither_read_nor_answer_do_not_hold_up_the_end(
    launch: StartServer, sockets: ExitStack, command: tuple[str, ...]
) -> None:
    # Bounds so wide that nobody is aborted as too slow before the end, nor slowed down.
    wide = {"CHAT_OUTBOX_BYTES": str(1 << 26), "CHAT_STALL_TIMEOUT": "600", "CHAT_RATE_LIMIT": "0"}
    server = launch(command, **wide)
    async with Visit(server) as visit:
        alice, bob = await visit.join("alice", "sports"), await visit.join("bob", "sports")
        for _ in range(3):
            sockets.enter_context(join_and_read_nothing(server, "stalled", "sports"))
        await server.logged(" joined ", "users=5")
        sockets.enter_context(join_and_read_nothing(server, "quiet", "movies"))  # takes the close, and does not answer
        reading = asyncio.create_task(bob.close_code())
        for _ in range(512):  # 8 MiB for each: twice what the kernel takes
            assert (await alice.ask({"message": "😀" * 4096}))["recipients"] == 4
        assert await terminate(server, alice) == [1012]
        assert await reading == 1012
    assert len(server.lines(" left ")) == 6


# An end without a signal.


async def join_with_events(visit: Visit) -> Client:
    client = await visit.connect()
    await client.ask({"username": "watcher", "topic": "sports", "events": True})
    return client


@pytest.mark.parametrize("encrypted", [(), (TLS,)], ids=["TCP", "TLS"])
@pytest.mark.parametrize(("loop", "lifespan"), [("asyncio", "on"), ("uvloop", "off")])
@in_loop
async def test_uvicorn_that_ends_by_itself_tells_its_members_first(
    launch: StartServer, sockets: ExitStack, loop: str, lifespan: str, encrypted: tuple[str, ...]
) -> None:
    limit = "--limit-max-requests", "1"
    server = launch((*APP, *encrypted, "--loop", loop, "--lifespan", lifespan, *limit))
    async with Visit(server) as visit:
        watcher = await join_with_events(visit)
        sockets.enter_context(join_and_read_nothing(server, "quiet", "sports"))
        await server.logged(" joined ", "users=2")
        page = server.url.replace("ws", "http", 1).replace("/ws", "/healthz")
        await asyncio.to_thread(lambda: urllib.request.urlopen(page, context=server.client_options.get("ssl")).close())
        assert await watcher.close_code() == 1012
        assert json.loads(watcher.texts[-1])["type"] == "closing"
        await asyncio.to_thread(server.wait_for_end, 0, GRACE, TROUBLE_BUT_THE_LIMIT)
    assert len(server.lines(" left ")) == 2


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@in_loop
async def test_a_uvicorn_in_a_thread_that_is_told_to_end_does_so(sockets: ExitStack, loop: str) -> None:
    app = create_app(Settings.model_validate({}))
    host = uvicorn.Server(uvicorn.Config(app, ws="websockets-sansio", loop=loop, log_config=None, access_log=False))
    listening = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
    thread = threading.Thread(target=host.run, kwargs={"sockets": [listening]})
    thread.start()
    port = listening.getsockname()[1]
    try:
        async with connect(f"ws://127.0.0.1:{port}/ws", **UNBOUNDED) as connection:
            alice = Client(connection)
            await alice.join("alice", "sports")
            host.should_exit = True
            assert await alice.close_code() == 1012
    finally:
        host.should_exit = True
        await asyncio.to_thread(thread.join, GRACE)
    assert not thread.is_alive()
