"""The check against several workers: without a cluster each process would have topics of its own, without an error.

Workers of one server accept connections of one listening socket. So each takes a lock on that socket: of processes with
a socket in common, only as many can have one as there are nodes. It does not matter which server has started them, or
how it was told their number. A lock on a socket (POSIX, ``fcntl``) belongs to the process and ends with it, needs no
file, and is out of reach for other users. Closing any descriptor of the socket gives it up: nothing here may do that.
"""

import asyncio
import fcntl
import multiprocessing
import os
import signal
import socket
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Optional

from chat_actors.connection.asgi import App, AsgiEvent, Receive, Scope, Send
from chat_actors.settings import Settings, load_settings

STARTUP_FAILURE = 3  # exit code that tells the parent process of uvicorn and gunicorn not to start it again
SENTENCE = (
    "chat_actors keeps its topics in the memory of one process: several workers would split every topic. "
    "Start one worker, or list one endpoint for each worker in CHAT_CLUSTER.\n"
)
WAIT_SECONDS = 5.0  # for a worker that ends while the one in its place starts, as in a reload
POLL_SECONDS = 0.05
LISTEN_SECONDS = 0.2  # from the end of the start until a server that opens its sockets then has opened them
YOUNG_SECONDS = 30.0  # age of a server whose workers are its first


class OneForEachNode:
    """ASGI middleware that ends this process if other workers of its server have the place of each node.

    It looks at the start, and again when the server listens: a server may give up the lock by closing a descriptor.
    ``nodes``: how many workers are allowed; 1 without a cluster.
    """

    def __init__(self, app: App, nodes: int) -> None:
        self._app = app
        self._nodes = nodes
        self._looking: Optional[asyncio.Task[None]] = None
        self._timer: Optional[asyncio.TimerHandle] = None  # of the second look
        self._before: set[str] = set()  # addresses of the sockets that were there when the start was complete

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched_send(event: AsgiEvent) -> None:
            if event["type"] == "lifespan.startup.complete":
                self._before = {address for _, address in bound_sockets().values()}
                self._looking = None
                self._timer = asyncio.get_running_loop().call_later(LISTEN_SECONDS, self._begin)
            else:  # the start has failed, or this is the end
                await self._stop()
            await send(event)

        if scope["type"] == "lifespan":
            self._looking = None
        looking = self._begin()
        if not looking.done():
            await asyncio.wait({looking})
        await self._app(scope, receive, watched_send if scope["type"] == "lifespan" else send)

    def _begin(self) -> "asyncio.Task[None]":
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())
        return self._looking

    async def _stop(self) -> None:
        """Leave no timer and no task behind."""
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look(self) -> None:
        """Take a place; end this process if all are taken for WAIT_SECONDS."""
        sockets = bound_sockets()
        if self._before and {address for _, address in sockets.values()} - self._before:
            # The server listens on an address of its own. The others are its parent's, which forked it while listening.
            for fd in sockets:
                with suppress(OSError):
                    fcntl.lockf(fd, fcntl.LOCK_UN)
            return
        if sockets:
            shared = min(sockets, key=lambda fd: sockets[fd])  # the oldest: it is the same in each worker
            for _ in range(round(WAIT_SECONDS / POLL_SECONDS)):
                if take_place(shared, self._nodes):
                    return
                await asyncio.sleep(POLL_SECONDS)
            sys.stderr.write(SENTENCE)  # one write, line end included: several workers may write at once
            end_the_server()


def bound_sockets() -> dict[int, tuple[int, str]]:
    """Return the stream sockets of this process with an address and without a peer: inode and address by descriptor."""
    found = {}
    for fd in map(int, os.listdir("/dev/fd")):
        with suppress(OSError):  # the descriptor of the directory is closed again
            status = os.fstat(fd)
            address = _bound_address(fd) if stat.S_ISSOCK(status.st_mode) else None
            if address is not None:
                found[fd] = status.st_ino, address
    return found


def _bound_address(fd: int) -> Optional[str]:
    sock = socket.socket(fileno=fd)
    try:
        name = sock.getsockname()
        if sock.type != socket.SOCK_STREAM or not (name if isinstance(name, (str, bytes)) else name[1]):
            return None
        sock.getpeername()
    except OSError:  # it has no peer
        return str(name)
    finally:
        sock.detach()  # without closing it
    return None


def take_place(fd: int, nodes: int) -> bool:
    """Lock one of so many places on a socket, and return whether one was free. Places are bytes, as of a file."""
    for place in range(nodes):
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):  # another process has it
            continue
        except OSError:  # the system has no locks on sockets
            pass
        return True
    return False


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
