"""The arrival of a connection that another process of this machine has accepted: a transport for its descriptor."""

import asyncio
import socket
from typing import Callable, Optional, cast

from loguru import logger

Begin = Callable[[asyncio.Transport, bytes], None]


class _Landing(asyncio.Protocol):
    """Protocol that a transport has until the connection that it is for has begun."""

    def __init__(self, begin: Begin) -> None:
        self.begun = False
        self._begin_with = begin
        self._read = b""
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not now: asyncio of Python 3.10 and older would not let the connection hold its transport yet.
        asyncio.get_running_loop().call_soon(self._begin, cast(asyncio.Transport, transport))  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._read += data

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._lost = True

    def _begin(self, transport: asyncio.Transport) -> None:
        if self._lost:
            return
        self.begun = True  # from now on the end of the transport is the connection's
        try:
            self._begin_with(transport, self._read)
        except Exception as exception:
            logger.opt(exception=exception).error("connection not begun")
            transport.abort()
            self.begun = transport.get_protocol() is not self


async def land(descriptor: int, begin: Begin) -> bool:
    """Open a transport, and call ``begin`` with it and with what has been read; return False if there is none.

    The descriptor is the transport's then, or is closed.
    """
    landing = _Landing(begin)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: landing, sock)
    except OSError as lost:  # the peer has gone meanwhile
        logger.bind(error=repr(lost)).debug("connection lost on its way")
        sock.close()
    return landing.begun
