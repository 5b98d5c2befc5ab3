"""A real server in a process of its own, and clients to talk to it."""

import asyncio
import atexit
import functools
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar, Union

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

PATIENCE = 60.0  # seconds; only a test that fails waits so long
PORTS = 50  # that one process may use, the first to claim the others
ROOT = Path(__file__).parent.parent.parent
FAST = "--port", "0"  # every implementation of uvicorn has the fast lane
APP = "uvicorn", "chat_actors.app:app", *FAST
AHEAD_APP = "uvicorn", "tests.support.ahead_app:app", *FAST  # see ``put_forward``
ENVIRONMENT = {
    "CHAT_RATE_LIMIT": "0",  # tests send as fast as they can
    "PYTHONWARNINGS": "ignore:The `websockets` implementation is deprecated",  # an option of uvicorn that is tested
}
LISTENS = re.compile(r"(?:unning on|istening at:) (https?|unix)(?:://|:| socket )(\S+)")
UNBOUNDED: dict[str, Any] = {"max_queue": None}  # else a client with unread frames waits 10 s in its close
# A system with a low limit on descriptors is no trouble of the server's.
# Older gunicorn logs as an error that it has told its workers to end.
TROUBLE = re.compile(
    r"Traceback|\b(ERROR|CRITICAL)\b(?!\] Worker \(pid:\d+\) was sent SIGTERM!)|\bWARNING\b(?! +too few descriptors)"
)
TROUBLE_ON_PLAIN_LANE = re.compile(
    r"Traceback|\b(ERROR|CRITICAL)\b|\bWARNING\b(?! +(fast lane not used |too few descriptors))"
)

Frame = dict[str, Any]
T = TypeVar("T")


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an ``async`` test in an event loop of its own; one that hangs fails."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def main() -> None:
            await asyncio.wait_for(test(*args, **kwargs), 3 * PATIENCE)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"the test leaves behind: {left}"

        asyncio.run(main())

    return run


class Server:
    """Process ``python -m <command>`` on a free port of the loopback, until ``terminate`` or ``kill``."""

    client_options: Mapping[str, Any] = {}  # of ``websockets``, for every client of a ``Visit``
    inherited: "tuple[int, ...]" = ()  # descriptors that the process gets besides
    clean_status = -signal.SIGTERM  # uvicorn raises it again once it has closed everything

    def __init__(self, *command: str, **environment: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**inherited, **ENVIRONMENT, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            pass_fds=self.inherited,
            start_new_session=True,  # so that ``kill`` reaches the server's own children as well
        )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self.log_is_read = threading.Event()  # cleared: its pipe fills
        self.log_is_read.set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.nodes: list[Server] = [self]  # of a cluster, if it is more than one
        self.port = 0  # of a Unix socket
        try:
            scheme, address = self._wait_for_address()
        except BaseException:
            self.kill()
            raise
        if scheme == "unix":
            self.url = "ws://localhost/ws"
            self.client_options = {"unix": True, "path": address}
        else:
            self.url = f"{scheme.replace('http', 'ws')}://{address}/ws"
            self.port = int(address.rpartition(":")[2])

    def _wait_for_address(self) -> "tuple[str, str]":
        """Wait until the server says where it listens: scheme, and host with port, or ``unix`` and a path."""

        def told() -> "Optional[re.Match[str]]":
            return next(filter(None, map(LISTENS.search, self._lines)), None)

        with self._news:
            self._news.wait_for(lambda: self._ended or told() is not None, PATIENCE)
            found = told()
            assert found is not None, "no address in:\n" + "\n".join(self._lines)
            return found[1], found[2]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                self._news.notify_all()
            self.log_is_read.wait()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def processes(self) -> list[int]:
        """The processes that serve now, in the order of their starts."""
        ended = {int(line.rpartition("[")[2][:-1]) for line in self.lines("Finished server process [")}
        started = [int(line.rpartition("[")[2][:-1]) for line in self.lines("Started server process [")]
        return [pid for pid in started if pid not in ended and _is_alive(pid)]

    def lines(self, *words: str) -> list[str]:
        """The log lines so far that hold all the words."""
        with self._news:
            return [line for line in self._lines if all(word in line for word in words)]

    def wait_for(self, *words: str, count: int = 1) -> list[str]:
        """Wait until so many log lines hold all the words."""
        with self._news:
            self._news.wait_for(lambda: self._ended or len(self.lines(*words)) >= count, PATIENCE)
            found = self.lines(*words)
            assert len(found) >= count, f"{count} lines with {words} were expected in:\n" + "\n".join(self._lines)
            return found

    def since(self, mark: "list[int]") -> list[str]:
        """The log lines behind that ``mark``."""
        with self._news:
            return self._lines[mark[0] :]

    def mark(self) -> list[int]:
        """Where the log ends now."""
        with self._news:
            return [len(self._lines)]

    async def logged(self, *words: str, count: int = 1) -> list[str]:
        """``wait_for``, while the loop goes on."""
        return await asyncio.to_thread(self.wait_for, *words, count=count)

    def terminate(
        self, status: Optional[int] = None, within: float = PATIENCE, trouble: "re.Pattern[str]" = TROUBLE
    ) -> None:
        """Send SIGTERM and see a clean end: in time (seconds), with that exit status, and no ``trouble`` in the log.

        ``status``: ``clean_status`` if None.
        """
        self._process.terminate()
        self.wait_for_end(self.clean_status if status is None else status, within, trouble)

    def wait_for_end(self, status: int, within: float = PATIENCE, trouble: "re.Pattern[str]" = TROUBLE) -> None:
        """See a clean end, like ``terminate``, of a server that was told to end in another way."""
        try:
            assert self._process.wait(within) == status
        finally:
            self.kill()
        assert not [line for line in self._lines if trouble.search(line)], "\n".join(self._lines)

    def kill(self) -> None:
        """End at once whatever of the server has not ended, and let go of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self.log_is_read.set()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _is_alive(pid: int) -> bool:
    try:
        return state_of(pid) not in "ZX"
    except OSError:
        return False


def state_of(pid: int) -> str:
    """The state of a process, as one letter (``man proc_pid_stat``). Raises OSError if there is none."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]


def put_forward(server: Server, seconds: float) -> None:
    """Let so much time have passed for a server of ``AHEAD_APP``."""
    url = f"http://127.0.0.1:{server.port}/ahead?seconds={seconds}"
    urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=PATIENCE).close()


class Workers(Server):
    """Two processes, or ``count``, behind one port. Which of them takes a connection is the system's choice."""

    clean_status = 0  # uvicorn's parent does not raise the signal again

    def __init__(self, *command: str, count: int = 2, **environment: str) -> None:
        super().__init__(*command, "--workers", str(count), **environment)
        self.wait_for("Application startup complete", count=count)


class Pair(Server):
    """Two servers that are nodes of one cluster, used as one server: ``url`` alternates between them."""

    def __init__(self, *command: str, **environment: str) -> None:
        endpoints = ",".join(f"tcp/127.0.0.1:{port}" for port in free_ports(2))
        self.nodes: list[Server] = []
        try:
            for _ in range(2):
                self.nodes.append(Server(*command, CHAT_CLUSTER=endpoints, **environment))
            for node in self.nodes:
                node.wait_for("node found")
        except BaseException:
            self.kill()
            raise
        self._turns = itertools.cycle(self.nodes)
        self.port = self.nodes[0].port

    @property
    def url(self) -> str:  # type: ignore[override]
        return next(self._turns).url

    @property
    def running(self) -> bool:
        return all(node.running for node in self.nodes)

    def lines(self, *words: str) -> list[str]:
        return sorted((line for node in self.nodes for line in node.lines(*words)), key=lambda line: line[:23])

    def mark(self) -> list[int]:
        return [number for node in self.nodes for number in node.mark()]

    def since(self, mark: "list[int]") -> list[str]:
        return [line for node, number in zip(self.nodes, mark) for line in node.since([number])]

    def wait_for(self, *words: str, count: int = 1) -> list[str]:
        deadline = time.monotonic() + PATIENCE
        while len(found := self.lines(*words)) < count:
            assert time.monotonic() < deadline, f"{count} lines with {words} were expected in:\n" + "\n".join(
                self.lines()
            )
            time.sleep(0.01)
        return found

    def terminate(
        self, status: Optional[int] = None, within: float = PATIENCE, trouble: "re.Pattern[str]" = TROUBLE
    ) -> None:
        for node in self.nodes:
            node.terminate(status, within, trouble)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()


@functools.cache
def _ports_of_this_process() -> "tuple[socket.socket, Iterator[int]]":
    """A block of ports that no other process takes: this one listens on the first of them for as long as it lives."""
    blocks = list(range(20_000, 30_000, PORTS))  # below those that the system gives to whoever asks for any
    for first in random.SystemRandom().sample(blocks, len(blocks)):
        with suppress(OSError):
            claim = socket.create_server(("127.0.0.1", first))
            atexit.register(claim.close)
            return claim, itertools.cycle(range(first + 1, first + PORTS))
    raise OSError("every block of ports is taken")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on, and that no other process of these tests is given."""
    _, ports = _ports_of_this_process()
    free: list[int] = []
    for port in itertools.islice(ports, PORTS - 1):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            free.append(port)
        if len(free) == count:
            return free
    raise OSError(f"fewer than {count} ports are free")


class Client:
    """A WebSocket client."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.joined: Frame = {}  # the server's answer, once it has joined
        self.texts: list[str] = []  # of all the frames received

    async def join(self, username: str, topic: str) -> Frame:
        await self.ask({"username": username, "topic": topic})
        assert self.joined, self.texts
        return self.joined

    async def send(self, frame: Union[str, bytes, Frame]) -> None:
        await self.connection.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    def send_at_once(self, *frames: str) -> None:
        """Send several frames in one packet."""
        for frame in frames:
            self.connection.protocol.send_text(frame.encode())
        self.connection.transport.write(b"".join(self.connection.protocol.data_to_send()))

    async def recv(self) -> Frame:
        text = await self.connection.recv()
        assert isinstance(text, str)
        self.texts.append(text)
        frame: Frame = json.loads(text)
        if frame["type"] == "joined":
            self.joined = frame
        return frame

    async def ask(self, frame: Union[str, bytes, Frame]) -> Frame:
        await self.send(frame)
        return await self.recv()

    async def close_code(self) -> int:
        """Read on until the server closes; the code it closed with."""
        with suppress(ConnectionClosed):
            while True:
                await self.recv()
        code = self.connection.close_code
        assert code is not None
        return code


class Visit:
    """Clients of one server. At the end of the ``async with`` block all are closed and the server knows of none."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._clients: list[Client] = []
        self._stack = AsyncExitStack()
        self._left_before = len(server.lines(" left "))

    async def connect(self, **options: Any) -> Client:
        """``options`` are those of ``websockets``."""
        options = {**self.server.client_options, **options}
        client = Client(await self._stack.enter_async_context(connect(self.server.url, **UNBOUNDED, **options)))
        self._clients.append(client)
        return client

    async def join(self, username: str, topic: str, **options: Any) -> Client:
        client = await self.connect(**options)
        await client.join(username, topic)
        return client

    async def leave(self, client: Client) -> None:
        """Close the connection and see the leave."""
        left = len(self.server.lines(" left ")) - self._left_before
        await client.connection.close()
        await self.see_leaves(left + 1, reason="closed by peer")

    async def see_leaves(self, count: int, reason: str = "") -> None:
        """Wait until so many members have left since the visit began; the last of them for that reason."""
        leaves = await self.server.logged(" left ", count=self._left_before + count)
        assert not reason or leaves[-1].endswith(f"reason={reason!r}")

    async def __aenter__(self) -> "Visit":
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._stack.aclose()
        for client in self._clients:
            client.connection.transport.close()  # else Python 3.9 warns of one with TLS that the server has ended
        if self.server.running and failure[0] is None:
            await self.see_leaves(sum(1 for client in self._clients if client.joined))
