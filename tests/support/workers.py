"""The workers of a real server: which of them takes a connection, and what each of them holds."""

import asyncio
import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.server import PATIENCE, Client, Server, Visit, state_of


@contextmanager
def stopped(*processes: int) -> Iterator[None]:
    """Stop these processes (SIGSTOP) until the end of the block."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        for process in processes:
            deadline = time.monotonic() + PATIENCE
            while state_of(process) != "T":
                assert time.monotonic() < deadline, f"{process} does not stop"
                time.sleep(0.001)
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


@contextmanager
def alone(server: Server, process: int) -> Iterator[None]:
    """Whoever connects in this block comes to this worker."""
    with stopped(*(one for one in server.processes() if one != process)):
        yield


async def connect_to(visit: Visit, process: int) -> Client:
    """A connection that this worker has accepted."""
    with alone(visit.server, process):
        return await visit.connect()


async def enter(visit: Visit, process: int, username: str, topic: str, **wants: object) -> Client:
    """A member whose connection this worker has accepted."""
    client = await connect_to(visit, process)
    await client.ask({"username": username, "topic": topic, **wants})
    assert client.joined, client.texts
    return client


class Pages:
    """Pages of one worker. A context manager; it keeps one HTTP connection open."""

    def __init__(self, server: Server, process: int) -> None:
        self._http = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        path = server.client_options.get("path")
        with alone(server, process):
            if path is None:
                self._http.sock = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
            else:
                self._http.sock = socket.socket(socket.AF_UNIX)
                self._http.sock.settimeout(PATIENCE)
                self._http.sock.connect(path)
            self.get("/healthz")

    def get(self, path: str) -> str:
        """The body of a page, or the reason why there is none."""
        self._http.request("GET", path)
        return self._http.getresponse().read().decode()

    def __enter__(self) -> "Pages":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()


def open_descriptors(process: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{process}/fd"))


def holders(server: Server, client: Client) -> list[int]:
    """The processes that have the server's end of a connection."""
    port = client.connection.transport.get_extra_info("sockname")[1]
    inode = next(
        words[9]
        for words in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if words[1].endswith(f":{server.port:04X}") and words[2].endswith(f":{port:04X}")
    )
    return [process for process in server.processes() if f"socket:[{inode}]" in _targets(process)]


async def home_of(server: Server, client: Client) -> int:
    """The process that has the server's end of a connection, once no other one has it too."""
    deadline = time.monotonic() + PATIENCE
    while len(found := holders(server, client)) != 1:
        assert time.monotonic() < deadline, f"processes {found} have the connection"
        await asyncio.sleep(0.01)
    return found[0]


def _targets(process: int) -> Iterator[str]:
    for entry in os.listdir(f"/proc/{process}/fd"):
        with suppress(OSError):
            yield os.readlink(f"/proc/{process}/fd/{entry}")
