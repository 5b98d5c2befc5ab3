"""The opening of a server process: does it have siblings, and can it join them?

A process that opens its listening sockets itself has no siblings. Where siblings cannot be joined only one worker may
run: a further one would split every topic, without an error, so it ends.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Optional

from chat_actors.connection.asgi import Scope, Send
from chat_actors.connection.takeover import encrypts, is_uvicorn, opens_own_sockets, workers_of
from chat_actors.settings import Settings, load_settings
from chat_actors.workers.sockets import shared_sockets

if TYPE_CHECKING:
    from chat_actors.workers.siblings import Meeting
    from chat_actors.workers.station import Host, Station

STARTUP_FAILURE = 3  # exit code that tells the parent process of uvicorn and gunicorn not to start it again
WAIT_SECONDS = 5.0  # for a worker that ends while the one in its place starts, as in a reload
POLL_SECONDS = 0.05
YOUNG_SECONDS = 30.0  # age of a server whose workers are its first

REFUSED = "chat_actors: several workers would split every topic here. "
NOT_UVICORN = "Workers share their topics under uvicorn, also as gunicorn's worker class. Start one worker, or uvicorn."
TLS = "A connection that uvicorn encrypts cannot change its process. Start one worker, or end TLS in a proxy."
CLUSTER = "A node of a cluster (CHAT_CLUSTER) is one process. Start one server for each endpoint, or no cluster."
NOT_LINUX = "Workers find each other on Linux alone. Start one worker."
TOO_MANY = "There are as many workers as there may be. Start fewer."


class Workers:
    """The workers of this process's host, as its server finds them. ``host``: that server."""

    def __init__(self, settings: Settings) -> None:
        self.host: Optional[Host] = None
        self.station: Optional[Station] = None  # None: there are no others, or it has not been opened
        self._settings = settings
        self._opened: Optional[asyncio.Task[None]] = None
        self._alone: Optional[socket.socket] = None  # holds the place of the only worker

    async def open(self, scope: Scope, send: Send) -> None:
        """Look for others as the lifespan begins, or, under a host that has none, with the first request.

        ``send`` must be the host's own. Ends this process if it has siblings and cannot join them.
        """
        if scope["type"] == "lifespan" or self._opened is None:
            self._opened = asyncio.ensure_future(self._open_or_end(send))
        if not self._opened.done():
            await asyncio.shield(self._opened)

    async def _open_or_end(self, send: Send) -> None:
        try:
            await self._open(send)
        except Exception as failed:  # a host may go on without a lifespan, and this process without the others
            refuse(f"The others cannot be joined: {failed!r}.")

    async def _open(self, send: Send) -> None:
        if opens_own_sockets(send):
            return
        sockets = shared_sockets()
        if not sockets:
            if _is_one_of_several(send):
                refuse(NOT_LINUX)
            return
        from chat_actors.workers.siblings import Meeting  # not loaded by a process that is alone

        meeting, reason = Meeting(sockets), self._why_alone(send)
        if reason:
            await self._take_only_place(meeting, reason)
        else:
            station = await self._join(meeting, send)
            if station.is_first:
                _log_start(sockets)

    async def _join(self, meeting: "Meeting", send: Send) -> "Station":
        from chat_actors.workers.station import Station

        assert self.host is not None
        station = self.station = Station(self.host, self._settings)
        # uvicorn's parent ends all of its workers only for good; gunicorn's, and a reload's, also to replace them.
        station.all_replaced = not _is_one_of_several(send)
        if not await station.open(meeting):
            refuse(TOO_MANY)
        return station

    def _why_alone(self, send: Send) -> str:
        """Return why this worker cannot join others; empty if it can."""
        if not is_uvicorn(send):
            return NOT_UVICORN
        if self._settings.endpoints:
            return CLUSTER
        return TLS if encrypts(send) else ""

    async def _take_only_place(self, meeting: "Meeting", reason: str) -> None:
        """Take the place of the only worker; end this process if another one keeps it."""
        for _ in range(round(WAIT_SECONDS / POLL_SECONDS)):
            self._alone = meeting.take_alone()
            if self._alone is not None:
                return
            await asyncio.sleep(POLL_SECONDS)
        refuse(reason)


def _is_one_of_several(send: Send) -> bool:
    """Return whether uvicorn's own parent process has started this worker, and others."""
    return workers_of(send) > 1 and multiprocessing.parent_process() is not None


def _log_start(sockets: dict[int, int]) -> None:
    """Log where the server listens, in uvicorn's words: its parent process writes a log of its own, or none."""
    for descriptor in sorted(sockets.values()):
        sock = socket.socket(fileno=descriptor)
        name, family = sock.getsockname(), sock.family
        sock.detach()  # without closing it
        if family != socket.AF_UNIX:
            address = "[%s]" if family == socket.AF_INET6 else "%s"
            logging.getLogger("uvicorn.error").info(f"Uvicorn running on %s://{address}:%d", "http", *name[:2])


def refuse(reason: str) -> NoReturn:
    """Say why there cannot be a further worker, and end like ``end_the_server``."""
    sys.stderr.write(f"{REFUSED}{reason}\n")  # one write, line end included: several workers may write at once
    end_the_server()


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
        if shared_sockets():
            end_the_server()
        raise
