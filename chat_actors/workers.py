"""The check against several workers: without a cluster each process would have topics of its own, without an error.

Workers of one server accept connections of one listening socket. So each takes a lock on that socket: of processes with
a socket in common, only as many can have one as there are nodes. It does not matter which server has started them, or
how it was told their number. A lock on a socket (POSIX, ``fcntl``) belongs to the process and ends with it, needs no
file, and is out of reach for other users. Closing any descriptor of the socket gives it up: nothing here may do that.

A process may have more sockets than it serves: one that its parent left open, or one for a debugger. So it is refused
at the start only if it finds a place on none. For a connection it needs the place on the socket of that connection.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn, Optional, Union

from chat_actors.connection.asgi import App, AsgiEvent, Receive, Scope, Send, local_address
from chat_actors.settings import Settings, load_settings

try:
    import fcntl
except ImportError:  # pragma: no cover  # Windows: there ``bound_sockets`` finds none to lock
    fcntl = None  # type: ignore[assignment]

STARTUP_FAILURE = 3  # exit code that tells the parent process of uvicorn and gunicorn not to start it again
SENTENCE = (
    "chat_actors keeps its topics in the memory of one process: several workers would split every topic. "
    "Start one worker, or list one endpoint for each worker in CHAT_CLUSTER.\n"
)
WAIT_SECONDS = 5.0  # for a worker that ends while the one in its place starts, as in a reload
POLL_SECONDS = 0.05
LISTEN_SECONDS = 0.2  # from the end of the start until a server that opens its sockets then has opened them
YOUNG_SECONDS = 30.0  # age of a server whose workers are its first
GATE = 0  # byte of a socket that is locked while places are taken; the places are the bytes after it


class BoundSocket(NamedTuple):
    """Stream socket of this process that listens, or may do so later: it has an address and no peer."""

    inode: int  # the same in each process that has the socket
    address: Union[int, str, bytes]  # port, or path of a Unix socket
    listens: bool

    @property
    def port(self) -> int:
        """Port, as ``port_of`` returns it; 0 for a Unix socket."""
        return self.address if isinstance(self.address, int) else 0


class OneForEachNode:
    """ASGI middleware that ends this process if other workers of its server have the place of each node.

    It takes a place when the lifespan begins; again when the server listens, which may have opened other sockets or
    given a lock up by closing a descriptor; and at the first connection to each port.
    ``nodes``: how many workers are allowed; 1 without a cluster.
    """

    def __init__(self, app: App, nodes: int) -> None:
        self._app = app
        self._nodes = nodes
        self._timer: Optional[asyncio.TimerHandle] = None  # of the second look
        self._second_look: Optional[asyncio.Task[None]] = None
        self._served: dict[int, asyncio.Task[None]] = {}  # by port, from its first connection on: the look for a place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        port = port_of(scope)
        if port not in self._served:
            self._served[port] = asyncio.ensure_future(self._look_at_served(port))
        if not self._served[port].done():
            await asyncio.wait({self._served[port]})
        await self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the lifespan, with the first look before it and the second after its start."""

        async def watched_send(event: AsgiEvent) -> None:
            if event["type"] == "lifespan.startup.complete":
                before = {sock.address for sock in bound_sockets().values()}
                self._timer = asyncio.get_running_loop().call_later(LISTEN_SECONDS, self._begin_second_look, before)
            else:  # the start has failed, or this is the end
                await self._stop()
            await send(event)

        self._second_look = None
        self._served.clear()
        await self._take_place_or_end(bound_sockets())
        await self._app(scope, receive, watched_send)

    async def _stop(self) -> None:
        """Leave no timer and no task behind."""
        if self._timer is not None:
            self._timer.cancel()
        looks = {*self._served.values(), *filter(None, [self._second_look])}
        for look in looks:
            look.cancel()
        if looks:
            await asyncio.wait(looks)

    def _begin_second_look(self, before: set[Union[int, str, bytes]]) -> None:
        self._second_look = asyncio.ensure_future(self._look_at_listening(before))

    async def _look_at_listening(self, before: set[Union[int, str, bytes]]) -> None:
        """Take a place on what the server listens on. ``before``: addresses when the start was complete."""
        sockets = listening_sockets()
        own = {fd: sock for fd, sock in sockets.items() if sock.address not in before}
        if own and 0 not in self._served:
            # The others are its parent's, which forked it while listening, unless a connection says otherwise.
            for fd in sockets.keys() - own.keys():
                if sockets[fd].port not in self._served:
                    give_up_place(fd)
            sockets = own
        await self._take_place_or_end(sockets)

    async def _look_at_served(self, port: int) -> None:
        """Take a place on the sockets of a port; of any port if the host does not tell by which one a peer came."""
        sockets = listening_sockets()
        await self._take_place_or_end({fd: sock for fd, sock in sockets.items() if sock.port == port} or sockets)

    async def _take_place_or_end(self, sockets: dict[int, BoundSocket]) -> None:
        """Take a place on one address at least; end this process if there is none for WAIT_SECONDS."""
        if sockets:
            for _ in range(round(WAIT_SECONDS / POLL_SECONDS)):
                if take_places(sockets, self._nodes):
                    return
                await asyncio.sleep(POLL_SECONDS)
            sys.stderr.write(SENTENCE)  # one write, line end included: several workers may write at once
            end_the_server()


def port_of(scope: Scope) -> int:
    """Return the port of this host that a request came to; 0 for a Unix socket, or if the host does not tell."""
    local = local_address(scope)
    return 0 if local is None else local.port or 0


def bound_sockets() -> dict[int, BoundSocket]:
    """Return by descriptor the stream sockets of this process with an address and without a peer."""
    found = {}
    try:
        descriptors = [*map(int, os.listdir("/dev/fd"))]
    except OSError:  # Windows, or no /proc: nothing is known, and nobody is refused
        return {}
    for fd in descriptors:
        with suppress(OSError):  # the descriptor of the directory is closed again
            status = os.fstat(fd)
            sock = _bound_socket(fd, status.st_ino) if stat.S_ISSOCK(status.st_mode) else None
            if sock is not None:
                found[fd] = sock
    return found


def listening_sockets() -> dict[int, BoundSocket]:
    """Return those that listen: a connection that its peer has reset is bound and has no peer either."""
    return {fd: sock for fd, sock in bound_sockets().items() if sock.listens}


def _bound_socket(fd: int, inode: int) -> Optional[BoundSocket]:
    sock = socket.socket(fileno=fd)
    try:
        if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            return None
        name = sock.getsockname()
        address = name[1] if isinstance(name, tuple) else name
        return None if not address or _has_peer(sock) else BoundSocket(inode, address, _listens(sock))
    finally:
        sock.detach()  # without closing it


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _listens(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:  # the system does not tell: a place too many is taken, rather than one too few
        return True


def take_places(sockets: dict[int, BoundSocket], nodes: int) -> bool:
    """Take a place on each address where one is free, and return whether one was: of so many nodes on each socket.

    An address may have several sockets (``SO_REUSEPORT``): each of them needs its place. Of processes with the same
    sockets one comes first on all of them: the others wait at the gate, on the oldest.
    """
    gate = min(sockets, key=lambda fd: sockets[fd].inode)
    if not _lock(gate, GATE):
        return False
    taken: dict[Union[int, str, bytes], bool] = {}
    for fd, sock in sockets.items():
        taken[sock.address] = _take_place(fd, nodes) and taken.get(sock.address, True)
    with suppress(OSError):
        fcntl.lockf(gate, fcntl.LOCK_UN, 1, GATE)
    return any(taken.values())


def give_up_place(fd: int) -> None:
    """Release each lock of this process on a socket."""
    with suppress(OSError):
        fcntl.lockf(fd, fcntl.LOCK_UN)


def _take_place(fd: int, nodes: int) -> bool:
    for place in range(GATE + 1, GATE + 1 + nodes):
        if _lock(fd, place):
            with suppress(OSError):
                fcntl.lockf(fd, fcntl.LOCK_UN, 0, place + 1)  # one that it had before
            return True
    return False


def _lock(fd: int, byte: int) -> bool:
    """Lock a byte of a socket, as of a file, and return whether no other process has it."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):  # another process has it
        return False
    except OSError:  # the system has no locks on sockets
        pass
    return True


def end_the_server() -> NoReturn:
    """End this process at once, and the server that started it unless that has been running for long.

    A server would start failed workers again and again. But one that runs is not ended by a further worker.
    """
    status = 1
    if _age(os.getppid()) < YOUNG_SECONDS:
        status = STARTUP_FAILURE
        parent = multiprocessing.parent_process()
        if parent is not None and parent.pid == os.getppid():
            os.kill(os.getppid(), signal.SIGTERM)  # older uvicorn restarts a failed worker for ever
    sys.stderr.flush()
    os._exit(status)  # an exception would end in the event loop, or in the log of the host


def _age(pid: int) -> float:
    """Return for how many seconds a process has run; 0 where that is not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # no Linux
        return 0.0


def load_settings_or_end() -> Settings:
    """Return the settings of a server process.

    Raises SystemExit like ``load_settings``. In a worker it ends the server too, which would start others for ever.
    """
    try:
        return load_settings(Settings)
    except SystemExit:
        if bound_sockets():
            end_the_server()
        raise
