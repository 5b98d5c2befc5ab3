"""The check against several workers without a cluster, which would split every topic."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Optional

import pytest

from chat_actors import workers
from chat_actors.settings import Settings
from chat_actors.workers import STARTUP_FAILURE, OneForEachNode, bound_sockets, end_the_server, take_place
from tests.support.server import PATIENCE, ROOT, Server, free_ports, in_loop

PARENT = 4711
SENTENCE = "chat_actors keeps its topics in the memory of one process: several workers would split every topic."

PROGRAM = """
import uvicorn
if __name__ == "__main__":
    uvicorn.run("chat_actors.app:app", port=0, workers=2)
"""
UVICORN = "-m", "uvicorn", "chat_actors.app:app", "--port", "0"
GUNICORN = "-m", "gunicorn", "chat_actors.app:app", "--bind", "127.0.0.1:0", "-k", "uvicorn.workers.UvicornWorker"
HYPERCORN = "-m", "hypercorn", "chat_actors.app:app", "--bind", "127.0.0.1:0"
GRANIAN = "-m", "granian", "--interface", "asgi", "chat_actors.app:app"
# Commands and variables; {}: a free port.
WAYS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "uvicorn's option": ((*UVICORN, "--workers", "2"), {}),
    "uvicorn's variable": (UVICORN, {"UVICORN_WORKERS": "2"}),
    "a variable": (UVICORN, {"WEB_CONCURRENCY": "2"}),
    "a program of one's own": (("program.py",), {}),
    "gunicorn's option": ((*GUNICORN, "-w", "2"), {}),
    "gunicorn's variable": (GUNICORN, {"GUNICORN_CMD_ARGS": "-w 2"}),
    "gunicorn's file": ((*GUNICORN, "-c", "config.py"), {}),
    "gunicorn with the application loaded before": ((*GUNICORN, "-w", "2", "--preload"), {}),
    "gunicorn's own worker": ((*GUNICORN, "-w", "3", "-k", "asgi"), {}),
    "hypercorn": ((*HYPERCORN, "-w", "2"), {}),
    "hypercorn with uvloop": ((*HYPERCORN, "-w", "2", "-k", "uvloop"), {}),
    "granian": ((*GRANIAN, "--workers", "2"), {"GRANIAN_PORT": "{}"}),
    "two workers as one node": ((*UVICORN, "--workers", "2"), {"CHAT_CLUSTER": "tcp/127.0.0.1:{}"}),
    "three workers as two nodes": (
        (*UVICORN, "--workers", "3"),
        {"CHAT_CLUSTER": "tcp/127.0.0.1:{}, tcp/127.0.0.1:{},"},
    ),
}


@pytest.mark.parametrize(("command", "variables"), WAYS.values(), ids=WAYS)
def test_a_server_with_two_workers_says_why_not_and_ends(
    command: tuple[str, ...], variables: dict[str, str], tmp_path: Path
) -> None:
    # granian is no dependency of the tests, and older gunicorn has no ASGI worker of its own.
    pytest.importorskip("gunicorn.workers.gasgi" if "asgi" in command and "gunicorn" in command else "uvicorn")
    pytest.importorskip(command[1] if command[0] == "-m" else "uvicorn")
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "config.py").write_text("workers = 2\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
    ports = free_ports(2)
    process = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(ROOT), **{name: value.format(*ports) for name, value in variables.items()}},
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=3 * PATIENCE,
    )
    assert SENTENCE in process.stderr
    assert "Traceback" not in process.stderr or "gunicorn" in command  # gunicorn's main process may show its own


@pytest.mark.parametrize("option", [["--workers", "1"], ["--reload"]], ids=" ".join)
def test_a_server_with_one_worker_starts(start: Callable[..., Server], option: list[str]) -> None:
    server = start("uvicorn", "chat_actors.app:app", "--port", "0", *option)
    server.wait_for("Application startup complete")
    server.kill()


# Siblings: processes with a socket in common.

LOCK = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))
print("locked", flush=True)
sys.stdin.read()
"""


class Sibling:
    """Process that has a socket in common with this one, and a place on it unless that is ``taken``."""

    def __init__(self, sock: socket.socket, place: int = 0) -> None:
        command = sys.executable, "-c", LOCK, str(sock.fileno()), str(place)
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._process = subprocess.Popen(command, pass_fds=[sock.fileno()], encoding="utf-8", **pipes)
        assert self._process.stdout is not None
        self.taken = self._process.stdout.readline() == ""

    def end(self) -> None:
        self._process.communicate(timeout=PATIENCE)


class Host:
    """Server with these sockets that runs the application. ``told``: what the application has seen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *sockets: socket.socket, nodes: int = 1) -> None:
        self.sockets = [*sockets]
        self.told: list[str] = []
        self.ended = 0
        self.starts = True  # whether the application can start
        self.app = OneForEachNode(self._serve, nodes)
        monkeypatch.setattr(workers, "bound_sockets", self._bound)
        monkeypatch.setattr(workers, "end_the_server", self._end)

    def _bound(self) -> dict[int, tuple[int, str]]:
        all_ = bound_sockets()
        return {one.fileno(): all_[one.fileno()] for one in self.sockets}

    def _end(self) -> None:
        self.ended += 1

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        self.told.append(scope["type"])
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete" if self.starts else "lifespan.startup.failed"})
            self._started.set()
            if not self.starts:
                return
            await self._stopping.wait()
            await send({"type": "lifespan.shutdown.complete"})

    async def start(self) -> None:
        self._started, self._stopping = asyncio.Event(), asyncio.Event()
        self._life = asyncio.create_task(self.app({"type": "lifespan"}, None, self._send))  # type: ignore[arg-type]
        await self._started.wait()

    async def stop(self) -> None:
        self._stopping.set()
        await self._life

    async def connect(self) -> None:
        await self.app({"type": "websocket"}, None, self._send)  # type: ignore[arg-type]

    async def _send(self, event: Any) -> None:
        self.told.append(event["type"])


STARTED = ["lifespan", "lifespan.startup.complete"]
STOPPED = "lifespan.shutdown.complete"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def sock(stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_server(("127.0.0.1", 0)))


@pytest.fixture
def sibling(stack: ExitStack) -> Callable[..., Sibling]:
    def start_sibling(sock: socket.socket, place: int = 0) -> Sibling:
        sibling = Sibling(sock, place)
        stack.callback(sibling.end)
        return sibling

    return start_sibling


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.001)


@in_loop
async def test_a_process_without_siblings_has_its_place(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, sibling: Callable[..., Sibling]
) -> None:
    for sockets in [], [sock]:
        host = Host(monkeypatch, *sockets)
        await host.start()
        await host.connect()
        await host.connect()
        await host.stop()
        assert (host.told, host.ended) == ([*STARTED, "websocket", "websocket", STOPPED], 0)
    assert sibling(sock).taken


@in_loop
async def test_a_start_that_fails_or_a_stop_leaves_no_task_and_no_timer(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket
) -> None:
    looks: list[int] = []

    def take(fd: int, nodes: int) -> bool:
        looks.append(fd)
        return True

    monkeypatch.setattr(workers, "take_place", take)
    monkeypatch.setattr(workers, "LISTEN_SECONDS", 0.005)
    before = asyncio.all_tasks()
    for starts in False, True:
        host = Host(monkeypatch, sock)
        host.starts = starts
        await host.start()
        await host.stop()
        assert asyncio.all_tasks() == before
    seen = len(looks)
    await asyncio.sleep(0.01)
    assert len(looks) == seen


@pytest.mark.parametrize("first", ["start", "connect"])  # a host may have no lifespan
@pytest.mark.usefixtures("hurried")
@in_loop
async def test_a_further_worker_is_refused_with_the_sentence_in_a_single_write(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, sibling: Callable[..., Sibling], first: str
) -> None:
    written: list[str] = []
    monkeypatch.setattr("sys.stderr.write", written.append)
    assert not sibling(sock).taken
    host = Host(monkeypatch, sock)
    await asyncio.gather(*[getattr(host, first)() for _ in range(1 if first == "start" else 3)])
    if first == "start":
        await host.stop()
    assert host.ended == 1
    (line,) = written
    assert line.startswith(SENTENCE)
    assert line.endswith("Start one worker, or list one endpoint for each worker in CHAT_CLUSTER.\n")


@pytest.mark.usefixtures("hurried")
@in_loop
async def test_as_many_workers_as_nodes_have_a_place(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, sibling: Callable[..., Sibling]
) -> None:
    sibling(sock, 0)
    host = Host(monkeypatch, sock, nodes=2)
    await host.start()
    assert host.ended == 0
    assert sibling(sock, 1).taken
    assert take_place(sock.fileno(), 3) and not sibling(sock, 2).taken
    await host.stop()


@in_loop
async def test_a_worker_waits_for_the_one_that_it_replaces(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, sibling: Callable[..., Sibling]
) -> None:
    monkeypatch.setattr(workers, "WAIT_SECONDS", PATIENCE)
    before = sibling(sock)
    host = Host(monkeypatch, sock)
    starting = asyncio.create_task(host.start())
    await asyncio.sleep(0)
    assert host.told == []
    before.end()
    await starting
    assert (host.told, host.ended) == (STARTED, 0)
    await host.stop()


@in_loop
async def test_a_lock_that_the_server_gives_up_is_taken_again_once_it_listens(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, sibling: Callable[..., Sibling]
) -> None:
    host = Host(monkeypatch, sock)
    await host.start()
    sock.dup().close()  # by POSIX it gives up every lock of this process on the socket
    await host.connect()
    assert sibling(sock).taken
    await host.stop()


@in_loop
async def test_a_start_alone_is_enough_to_look_again(monkeypatch: pytest.MonkeyPatch, sock: socket.socket) -> None:
    monkeypatch.setattr(workers, "LISTEN_SECONDS", 0)
    looked = asyncio.Event()
    host = Host(monkeypatch, sock)
    await host.start()
    monkeypatch.setattr(workers, "take_place", lambda fd, nodes: not looked.set())  # type: ignore[func-returns-value]
    await asyncio.wait_for(looked.wait(), PATIENCE)
    await host.stop()


@in_loop
async def test_servers_that_a_listening_process_has_forked_are_no_siblings(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack, sock: socket.socket, sibling: Callable[..., Sibling]
) -> None:
    host = Host(monkeypatch, sock)  # its parent's
    await host.start()
    own = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    host.sockets.append(own)
    await host.connect()
    assert not sibling(sock).taken
    assert host.ended == 0
    await host.stop()


@in_loop
async def test_workers_that_bind_the_same_address_once_more_are_siblings(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack, sibling: Callable[..., Sibling]
) -> None:
    shared = stack.enter_context(socket.create_server(("127.0.0.1", 0), reuse_port=True))
    host = Host(monkeypatch, shared)
    await host.start()
    own = stack.enter_context(socket.create_server(shared.getsockname(), reuse_port=True))
    host.sockets.append(own)
    await host.connect()
    assert sibling(shared).taken
    await host.stop()


def test_only_sockets_that_can_accept_connections_count(stack: ExitStack, tmp_path: Path) -> None:
    listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    path = stack.enter_context(socket.socket(socket.AF_UNIX))
    path.bind(str(tmp_path / "socket"))
    client = stack.enter_context(socket.create_connection(listening.getsockname()))
    accepted = stack.enter_context(listening.accept()[0])
    datagrams = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    datagrams.bind(("127.0.0.1", 0))
    others = [client, accepted, datagrams, stack.enter_context(socket.socket())]
    others += map(stack.enter_context, socket.socketpair())
    found = bound_sockets()
    assert {listening.fileno(), path.fileno()} <= {*found}
    assert not {one.fileno() for one in others} & {*found}
    assert found[path.fileno()][1] == str(tmp_path / "socket")


def test_a_system_without_locks_on_sockets_refuses_nobody(sock: socket.socket) -> None:
    closed = sock.dup()
    number = closed.fileno()
    closed.close()
    assert take_place(number, 1)


# The end of the server.


@pytest.mark.parametrize(
    ("parent", "age", "status", "killed"),
    [
        (PARENT, 1.0, STARTUP_FAILURE, [(PARENT, signal.SIGTERM)]),
        (PARENT, 1e6, 1, []),  # it runs, and a worker more must not end it
        (1, 1.0, STARTUP_FAILURE, []),  # init has adopted this process
        (None, 1.0, STARTUP_FAILURE, []),  # no process of multiprocessing, as under gunicorn
    ],
)
def test_a_worker_ends_its_server_unless_that_runs_or_has_ended(
    monkeypatch: pytest.MonkeyPatch,
    parent: Optional[int],
    age: float,
    status: int,
    killed: list[tuple[int, int]],
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr("os._exit", sys.exit)
    monkeypatch.setattr("os.getppid", lambda: parent)
    monkeypatch.setattr(workers, "_age", lambda pid: age)
    of = None if parent is None else SimpleNamespace(pid=PARENT)
    monkeypatch.setattr("multiprocessing.parent_process", lambda: of)
    with pytest.raises(SystemExit) as ended:
        end_the_server()
    assert ended.value.code == status
    assert sent == killed


def test_the_age_of_a_process_is_known_while_it_runs() -> None:
    assert 0 <= workers._age(os.getpid()) <= workers._age(os.getppid())
    assert workers._age(0) == 0


@pytest.mark.parametrize("sockets", [{}, {3: (4711, "address")}], ids=["alone", "worker"])
def test_a_worker_with_a_wrong_setting_ends_its_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sockets: dict[int, tuple[int, str]]
) -> None:
    monkeypatch.setattr(workers, "bound_sockets", lambda: sockets)
    monkeypatch.setattr(workers, "end_the_server", lambda: sys.exit(STARTUP_FAILURE))
    assert workers.load_settings_or_end() == Settings.model_validate({})
    monkeypatch.setenv("CHAT_CLUSTER", "localhost:7447,localhost:7448")
    with pytest.raises(SystemExit) as ended:
        workers.load_settings_or_end()
    assert ended.value.code == (STARTUP_FAILURE if sockets else 2)
    assert capsys.readouterr().err.startswith("CHAT_CLUSTER=localhost:7447,localhost:7448: ")
