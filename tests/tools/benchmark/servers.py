"""The server and its peers as processes: found, started on a core of their own, observed, and ended."""

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import IO, NamedTuple, Optional

from tests.support.server import ROOT, free_ports

PEERS = Path(__file__).resolve().parent / "peers"
WORKERS = "workers"  # several processes of this server, which are measured where they are asked for alone
START_SECONDS = 20.0
STOP_SECONDS = 10.0
SPARE_FILES = 200  # that a process has open besides its connections


class Server(NamedTuple):
    """Server to measure. ``{port}`` in ``command`` stands for the port; ``environ`` is added to that of this process.

    ``ready``: a line of the log, and how often it is there once its processes have found each other.
    """

    name: str
    title: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = MappingProxyType({})
    ready: tuple[str, int] = "", 0


class Process(NamedTuple):
    port: int
    pid: int


class ServerFailed(Exception):
    """Error for a server that cannot be measured; its text says why."""


def find_servers(node_modules: Optional[str], bun: Optional[str]) -> tuple[list[Server], list[str]]:
    """Those that can run here, ours first, and a sentence for each that cannot.

    ``node_modules``: a directory that holds Node's ``ws``. ``bun``: the program. Without them, the usual places.
    """
    module = (sys.executable, "-m")
    port = ("--port", "{port}")
    ours = (*module, "uvicorn", "chat_actors.app:app", *port)
    environ = {"CHAT_RATE_LIMIT": "0"}
    found = [
        Server("ours", "chat_actors", ours, environ),
        Server("naive", "naive FastAPI loop", (*module, "uvicorn", "tests.tools.benchmark.peers.naive:app", *port)),
    ]
    missing = []
    if sys.platform == "linux":
        workers = (*ours, "--workers", "2")
        found.append(Server(WORKERS, "chat_actors, two workers", workers, environ, ("worker ready", 2)))
    else:
        missing.append(f"{WORKERS} is left out: it needs Linux.")
    if find_spec("uvloop") and find_spec("websockets"):
        command = (*module, "tests.tools.benchmark.peers.websockets_broadcast", "{port}")
        found.append(Server("websockets", "websockets broadcast()", command))
    else:
        missing.append("websockets is left out: it needs the packages websockets and uvloop.")
    if find_spec("uvloop") and find_spec("aiohttp"):
        command = (*module, "tests.tools.benchmark.peers.aiohttp_loop", "{port}")
        found.append(Server("aiohttp", "aiohttp loop", command))
    else:
        missing.append("aiohttp is left out: it needs the packages aiohttp and uvloop.")
    environ = {"NODE_PATH": os.path.abspath(node_modules)} if node_modules else {}
    node = shutil.which("node")
    if node and _node_has_ws(node, environ):
        found.append(Server("node", "Node ws", (node, str(PEERS / "node_ws.js"), "{port}"), environ))
    else:
        missing.append("node is left out: it needs Node.js and its package ws (--node-modules DIR).")
    program = shutil.which(bun or "bun")
    if program:
        found.append(Server("bun", "Bun publish/subscribe", (program, str(PEERS / "bun_pubsub.js"), "{port}")))
    else:
        missing.append("bun is left out: the program was not found (--bun PATH).")
    return found, missing


def _node_has_ws(node: str, environ: dict[str, str]) -> bool:
    look = [node, "-e", "require.resolve('ws')"]
    return subprocess.run(look, cwd=PEERS, env={**os.environ, **environ}, stderr=subprocess.DEVNULL).returncode == 0


@contextmanager
def running(server: Server, core: Optional[int] = None) -> Iterator[Process]:
    """The server, started and answering, until the block ends. Raises ServerFailed where it does not answer."""
    (port,) = free_ports(1)
    command = [part.format(port=port) for part in server.command]
    with tempfile.TemporaryFile() as log:
        with on_core(core):
            process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **server.environ}, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            if not (_answers(process, port) and _have_met(*server.ready, log)):
                log.seek(0)
                raise ServerFailed(f"{server.name} did not start.\n{log.read().decode(errors='replace')[-2000:]}")
            yield Process(port, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(process: "subprocess.Popen[bytes]", port: int) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False


def _have_met(line: str, count: int, log: IO[bytes]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        log.seek(0)
        if log.read().count(line.encode()) >= count:
            return True
        time.sleep(0.05)
    return False


def allow_open_files(connections: int) -> None:
    """Raise this process's limit on open files, and that of what it starts. Raises ServerFailed where it may not."""
    needed = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ServerFailed(
            f"{connections:,} connections need {needed:,} open files; the limit is {hard:,} (ulimit -Hn)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Cores(NamedTuple):
    """Cores for the server and for the load; None: any core."""

    server: Optional[int]
    load: Optional[int]


def cores() -> Cores:
    """One core for the server and another for the load, where this process may use two."""
    if hasattr(os, "sched_getaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) > 1:
            return Cores(usable[0], usable[1])
    return Cores(None, None)


@contextmanager
def on_core(core: Optional[int]) -> Iterator[None]:
    """Pin this process, and with it what it starts, to one core until the block ends."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Usage(NamedTuple):
    cpu_seconds: float
    resident_kib: float


def usage(pid: int) -> Usage:
    """What a process and those it has started have used so far; not-a-number where there is no /proc."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    started = children.read_text().split() if children.exists() else []
    return Usage(*map(sum, zip(_usage_of(pid), *map(usage, map(int, started)))))


def _usage_of(pid: int) -> Usage:
    with suppress(FileNotFoundError):
        # The name of the program, in parentheses, is the one field that may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
        return Usage(ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 1024)
    return Usage(float("nan"), float("nan"))
