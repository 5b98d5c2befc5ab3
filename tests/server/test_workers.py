"""The check against several workers without a cluster, which would split every topic."""

import asyncio
import os
import signal
import socket
import struct
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
from chat_actors.workers import (
    GATE,
    STARTUP_FAILURE,
    BoundSocket,
    OneForEachNode,
    bound_sockets,
    end_the_server,
    listening_sockets,
    port_of,
    take_places,
)
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
    if "gunicorn" in command and "asgi" in command:
        pytest.importorskip("gunicorn.workers.gasgi")  # older gunicorn has no ASGI worker of its own
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


def test_two_servers_start_though_their_parent_left_them_one_listening_socket(
    stack: ExitStack, sock: socket.socket
) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
    for _ in range(2):
        server = stack.enter_context(
            subprocess.Popen(
                [sys.executable, *GUNICORN, "-w", "1"],
                cwd=ROOT,
                env=environ,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                pass_fds=[sock.fileno()],
            )
        )
        stack.callback(server.terminate)
        assert server.stderr is not None
        for line in server.stderr:
            assert SENTENCE not in line
            if "Application startup complete" in line:
                break
        else:
            pytest.fail("the server ended")


# Siblings: processes with a socket in common.

LOCK = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))
print("locked", flush=True)
sys.stdin.read()
"""
PLACE = GATE + 1  # the first


class Sibling:
    """Process that has a socket in common with this one, and a byte of it unless that is ``taken``."""

    def __init__(self, sock: socket.socket, byte: int) -> None:
        command = sys.executable, "-c", LOCK, str(sock.fileno()), str(byte)
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._process = subprocess.Popen(command, pass_fds=[sock.fileno()], encoding="utf-8", **pipes)
        assert self._process.stdout is not None
        self.taken = self._process.stdout.readline() == ""

    def end(self) -> None:
        self._process.communicate(timeout=PATIENCE)


class Host:
    """Server in this process that runs the application. ``told``: what the application has seen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: int = 1, starts: bool = True) -> None:
        self.told: list[str] = []
        self.ended = 0
        self._life: Optional[asyncio.Task[None]] = None
        self.app = OneForEachNode(self._serve, nodes)
        self._starts = starts  # whether the application can start
        monkeypatch.setattr(workers, "end_the_server", self._end)
        monkeypatch.setattr(workers, "LISTEN_SECONDS", 0)

    def _end(self) -> None:
        self.ended += 1

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        self.told.append(scope["type"])
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete" if self._starts else "lifespan.startup.failed"})
            self._started.set()
            if not self._starts:
                return
            await self._stopping.wait()
            await send({"type": "lifespan.shutdown.complete"})

    async def start(self) -> None:
        """Run the application until it has started; no turn of the loop later, so that the second look is to come."""
        self._started, self._stopping = asyncio.Event(), asyncio.Event()
        self._life = asyncio.create_task(self.app({"type": "lifespan"}, None, self._send))  # type: ignore[arg-type]
        await self._started.wait()

    async def listen(self) -> None:
        """Wait for the second look."""
        while self.app._second_look is None:
            await asyncio.sleep(0)
        await self.app._second_look

    async def stop(self) -> None:
        self._stopping.set()
        assert self._life is not None
        await self._life

    async def connect(self, to: Optional[socket.socket] = None) -> None:
        """Take a connection through a socket; None: the server does not tell which."""
        scope = {"type": "websocket", "server": None if to is None else to.getsockname()[:2]}
        await self.app(scope, None, self._send)  # type: ignore[arg-type]

    async def _send(self, event: Any) -> None:
        self.told.append(event["type"])
        self.tasks = asyncio.all_tasks() - {self._life}  # when the last event was sent


STARTED = ["lifespan", "lifespan.startup.complete"]
STOPPED = "lifespan.shutdown.complete"
Listen = Callable[..., socket.socket]
StartSibling = Callable[..., Sibling]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def other_sockets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the sockets that the process of the tests has besides."""
    others, list_directory = {str(fd) for fd in bound_sockets()}, os.listdir
    monkeypatch.setattr("os.listdir", lambda path: [name for name in list_directory(path) if name not in others])


@pytest.fixture
def listen(stack: ExitStack, other_sockets_are_hidden: None) -> Listen:
    def listen(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
        return stack.enter_context(socket.create_server((host, port), reuse_port=True))

    return listen


@pytest.fixture
def sock(listen: Listen) -> socket.socket:
    return listen()


@pytest.fixture
def sibling(stack: ExitStack) -> StartSibling:
    def start_sibling(sock: socket.socket, byte: int = PLACE) -> Sibling:
        sibling = Sibling(sock, byte)
        stack.callback(sibling.end)
        return sibling

    return start_sibling


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.001)


def reset_connection(stack: ExitStack, sock: socket.socket) -> socket.socket:
    """Return a connection that was accepted, and then reset by its peer."""
    client = socket.create_connection(("127.0.0.1", sock.getsockname()[1]))
    accepted = stack.enter_context(sock.accept()[0])
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ConnectionResetError):
        accepted.recv(1)
    return accepted


@pytest.mark.parametrize("sockets", [0, 1, 2])
@in_loop
async def test_a_process_without_siblings_has_its_place(
    monkeypatch: pytest.MonkeyPatch, listen: Listen, sibling: StartSibling, sockets: int
) -> None:
    own = [listen() for _ in range(sockets)]
    connected: list[Optional[socket.socket]] = [*own] or [None]
    host = Host(monkeypatch)
    await host.start()
    await host.listen()
    for one in connected:
        await host.connect(one)
        await host.connect(one)
    assert (host.told, host.ended) == ([*STARTED, *["websocket"] * 2 * len(connected)], 0)
    assert [sibling(one).taken for one in own] == [True] * sockets
    await host.stop()


@pytest.mark.parametrize("starts", [False, True])
@in_loop
async def test_a_start_that_fails_or_a_stop_leaves_no_task(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, sibling: StartSibling, starts: bool
) -> None:
    monkeypatch.setattr(workers, "WAIT_SECONDS", PATIENCE)
    before = asyncio.all_tasks()
    host = Host(monkeypatch, starts=starts)
    await host.start()
    if starts:
        workers.give_up_place(sock.fileno())
        sibling(sock)
        connecting = asyncio.create_task(host.connect(sock))
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks() - before) == 4  # the lifespan, the connection, and two looks
        await host.stop()
        before.add(connecting)
    assert host.tasks <= before


@in_loop
async def test_a_stop_before_the_second_look_leaves_no_timer(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket
) -> None:
    host = Host(monkeypatch)
    monkeypatch.setattr(workers, "LISTEN_SECONDS", 0.005)
    await host.start()
    await host.stop()
    await asyncio.sleep(0.01)
    assert host.app._second_look is None


@pytest.mark.parametrize("first", ["start", "connect"])  # a host may have no lifespan
@pytest.mark.usefixtures("hurried")
@in_loop
async def test_a_further_worker_is_refused_with_the_sentence_in_a_single_write(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, sibling: StartSibling, first: str
) -> None:
    written: list[str] = []
    monkeypatch.setattr("sys.stderr.write", written.append)
    assert not sibling(sock).taken
    host = Host(monkeypatch)
    await asyncio.gather(*[getattr(host, first)() for _ in range(1 if first == "start" else 3)])
    assert host.ended == 1
    (line,) = written
    assert line.startswith(SENTENCE)
    assert line.endswith("Start one worker, or list one endpoint for each worker in CHAT_CLUSTER.\n")
    if first == "start":
        await host.stop()


@pytest.mark.usefixtures("hurried")
@in_loop
async def test_as_many_workers_as_nodes_have_a_place(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, sibling: StartSibling
) -> None:
    sibling(sock, PLACE)
    host = Host(monkeypatch, nodes=2)
    await host.start()
    assert host.ended == 0
    assert sibling(sock, PLACE + 1).taken
    assert not sibling(sock, PLACE + 2).taken
    await host.stop()


def test_a_worker_that_looks_again_has_one_place(sock: socket.socket, sibling: StartSibling) -> None:
    first = sibling(sock, PLACE)
    assert take_places(bound_sockets(), 2)
    first.end()
    assert take_places(bound_sockets(), 2)
    assert [sibling(sock, byte).taken for byte in (GATE, PLACE, PLACE + 1)] == [False, True, False]


@in_loop
async def test_a_worker_waits_for_the_one_that_it_replaces(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, sibling: StartSibling
) -> None:
    monkeypatch.setattr(workers, "WAIT_SECONDS", PATIENCE)
    before = sibling(sock)
    host = Host(monkeypatch)
    starting = asyncio.create_task(host.start())
    await asyncio.sleep(0)
    assert host.told == []
    before.end()
    await starting
    assert (host.told, host.ended) == (STARTED, 0)
    await host.stop()


@pytest.mark.parametrize("look", ["listen", "connect"])
@in_loop
async def test_a_lock_that_the_server_gives_up_is_taken_again_once_it_listens(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, sibling: StartSibling, look: str
) -> None:
    host = Host(monkeypatch)
    await host.start()
    sock.dup().close()  # by POSIX it gives up every lock of this process on the socket
    await getattr(host, look)()
    assert sibling(sock).taken
    await host.stop()


@in_loop
async def test_servers_that_a_listening_process_has_forked_are_no_siblings(
    monkeypatch: pytest.MonkeyPatch, listen: Listen, sibling: StartSibling
) -> None:
    parents = listen()
    host = Host(monkeypatch)
    await host.start()
    own = listen()
    await host.connect(own)
    await host.listen()
    assert not sibling(parents).taken
    assert sibling(own).taken
    assert host.ended == 0
    await host.stop()


@pytest.mark.parametrize("tells", [True, False])
@in_loop
async def test_a_place_on_what_has_served_a_connection_is_not_given_up(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, listen: Listen, sibling: StartSibling, tells: bool
) -> None:
    host = Host(monkeypatch)
    before = {one.address for one in bound_sockets().values()}
    await host.connect(sock if tells else None)
    listen()
    await host.app._look_at_listening(before)
    assert sibling(sock).taken


@pytest.mark.usefixtures("hurried")
@in_loop
async def test_a_server_that_starts_once_more_looks_once_more(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, sibling: StartSibling
) -> None:
    host = Host(monkeypatch)
    for ended in 0, 1:
        await host.start()
        await host.listen()
        if ended:
            workers.give_up_place(sock.fileno())
            sibling(sock)
        await host.connect(sock)
        assert host.ended == ended
        await host.stop()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("opened", ["before the start", "after the start"])
@in_loop
async def test_a_worker_with_a_socket_for_a_debugger_serves_nobody_without_a_place(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, listen: Listen, sibling: StartSibling, opened: str
) -> None:
    host = Host(monkeypatch)
    if opened == "before the start":
        sibling(sock)
        listen()
    await host.start()
    if opened == "after the start":
        listen()
    await host.listen()
    if opened == "after the start":
        assert not sibling(sock).taken
    assert host.ended == 0
    await host.connect(sock)
    assert host.ended == 1
    await host.stop()


@in_loop
async def test_a_connection_that_is_reset_gives_no_place_up(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack, listen: Listen, sibling: StartSibling
) -> None:
    everywhere = listen("0.0.0.0")  # so the connection has another address, 127.0.0.1
    host = Host(monkeypatch)
    await host.start()
    accepted = reset_connection(stack, everywhere)
    assert {everywhere.fileno(), accepted.fileno()} == {*bound_sockets()}
    await host.listen()
    assert sibling(everywhere).taken
    assert not sibling(accepted).taken
    await host.stop()


@in_loop
async def test_a_socket_that_does_not_listen_yet_counts_at_the_start(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack, sibling: StartSibling
) -> None:
    bound = stack.enter_context(socket.socket())
    bound.bind(("127.0.0.1", 0))
    host = Host(monkeypatch)
    await host.start()
    assert sibling(bound).taken
    await host.listen()
    assert sibling(bound).taken
    await host.stop()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("first", ["shared", "own"])
@in_loop
async def test_workers_that_bind_the_same_address_once_more_are_siblings(
    monkeypatch: pytest.MonkeyPatch, listen: Listen, sibling: StartSibling, first: str
) -> None:
    one = listen()
    other = listen(*one.getsockname())
    shared = one if first == "shared" else other
    sibling(shared)
    host = Host(monkeypatch)
    await host.start()
    assert host.ended == 1
    await host.stop()


@pytest.mark.usefixtures("hurried")
@in_loop
async def test_servers_with_a_socket_in_common_start_if_each_has_one_of_its_own(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, listen: Listen, sibling: StartSibling
) -> None:
    sibling(sock)
    own = listen()
    host = Host(monkeypatch)
    await host.start()
    await host.listen()
    await host.connect(own)
    assert host.ended == 0
    assert sibling(own).taken
    await host.stop()


def test_of_processes_with_the_same_sockets_one_takes_all(listen: Listen, sibling: StartSibling) -> None:
    oldest, other = sorted([listen(), listen()], key=lambda sock: os.fstat(sock.fileno()).st_ino)
    taking = sibling(oldest, GATE)
    assert not take_places(bound_sockets(), 1)
    assert not sibling(other).taken
    taking.end()
    assert take_places(bound_sockets(), 1)


def test_only_sockets_that_can_accept_connections_count(stack: ExitStack, listen: Listen, tmp_path: Path) -> None:
    listening = listen()
    path, abstract = (
        stack.enter_context(socket.socket(socket.AF_UNIX)),
        stack.enter_context(socket.socket(socket.AF_UNIX)),
    )
    path.bind(str(tmp_path / "socket"))
    path.listen()
    abstract.bind("")  # the system chooses a name
    client = stack.enter_context(socket.create_connection(listening.getsockname()))
    accepted = stack.enter_context(listening.accept()[0])
    datagrams = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    datagrams.bind(("127.0.0.1", 0))
    others = [client, accepted, datagrams, stack.enter_context(socket.socket())]
    others += map(stack.enter_context, socket.socketpair())
    found = bound_sockets()
    assert {*found} == {listening.fileno(), path.fileno(), abstract.fileno()}
    assert found[path.fileno()][1:] == (str(tmp_path / "socket"), True)
    assert (found[path.fileno()].port, found[listening.fileno()].port) == (0, listening.getsockname()[1])
    reset_connection(stack, listening)
    assert {*listening_sockets()} == {listening.fileno(), path.fileno()}


def test_where_the_system_does_not_tell_what_listens_a_bound_socket_counts(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack, sock: socket.socket
) -> None:
    monkeypatch.setattr(socket, "SO_ACCEPTCONN", -1)
    assert {*listening_sockets()} == {sock.fileno()}


@pytest.mark.parametrize(
    ("server", "port"),
    [
        (("127.0.0.1", 8000), 8000),
        (("127.0.0.1", "8000"), 8000),
        (("/run/chat.sock", None), 0),
        (("/run/chat.sock", "0"), 0),
        (("/", "r"), 0),
        (None, 0),
    ],
)
def test_servers_tell_the_port_of_a_connection_in_several_ways(server: Any, port: int) -> None:
    assert port_of({"type": "websocket", "server": server}) == port
    assert port_of({"type": "websocket"}) == 0


def test_a_system_without_locks_on_sockets_refuses_nobody(sock: socket.socket) -> None:
    closed = sock.dup()
    sockets = {closed.fileno(): bound_sockets()[sock.fileno()]}
    closed.close()
    assert take_places(sockets, 1)
    workers.give_up_place(*sockets)


def test_a_system_that_lists_no_descriptors_refuses_nobody(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket
) -> None:
    monkeypatch.setattr("os.listdir", lambda path: Path(path, "no").stat())
    assert bound_sockets() == {}


def test_the_check_can_be_imported_where_files_have_no_locks() -> None:
    program = "import sys; sys.modules['fcntl'] = None; from chat_actors import workers; assert workers.fcntl is None"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=PATIENCE)


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


@pytest.mark.parametrize("sockets", [{}, {3: BoundSocket(4711, 8000, False)}], ids=["alone", "worker"])
def test_a_worker_with_a_wrong_setting_ends_its_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sockets: dict[int, BoundSocket]
) -> None:
    monkeypatch.setattr(workers, "bound_sockets", lambda: sockets)
    monkeypatch.setattr(workers, "end_the_server", lambda: sys.exit(STARTUP_FAILURE))
    assert workers.load_settings_or_end() == Settings.model_validate({})
    monkeypatch.setenv("CHAT_CLUSTER", "localhost:7447,localhost:7448")
    with pytest.raises(SystemExit) as ended:
        workers.load_settings_or_end()
    assert ended.value.code == (STARTUP_FAILURE if sockets else 2)
    assert capsys.readouterr().err.startswith("CHAT_CLUSTER=localhost:7447,localhost:7448: ")
