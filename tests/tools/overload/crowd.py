"""The load: many clients that are cheap, for they do not parse what they get.

They look for the answer to their join, answer pings, and forget the rest.
"""

import asyncio
import re
import socket
from collections import Counter
from contextlib import suppress
from typing import Any, Callable, Optional, cast

from tests.tools.faults.wire import HANDSHAKE, HOST, PONG, NotOpened, masked, text

AT_ONCE = 100  # connections being made
OPEN_SECONDS = 60.0  # for one handshake

JOINED, REFUSED = b'"type":"joined"', b'"type":"error"'
CODE = re.compile(rb'"error":"(\w+)"')
PING = b"\x89\x00"  # the whole frame; also where it stands for something else: a pong too many harms nobody


class Member(asyncio.Protocol):
    """Client. It is open after its handshake, asks to join, and is in, refused or lost then."""

    __slots__ = ("_asked", "_crowd", "_unread", "gone", "inside", "left", "opened", "transport")

    def __init__(self, crowd: "Crowd") -> None:
        loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.opened: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.inside = False
        self.left = False  # by itself
        self._crowd = crowd
        self._asked = False  # to join, and not answered yet
        self._unread = b""  # of an answer that is not whole

    def join(self, username: str, topic: str, **window: Any) -> None:
        self._asked = True
        self.transport.write(text({"username": username, "topic": topic, **window}))

    def leave(self) -> None:
        """Break off. No-op if the connection has ended."""
        self.left = True
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # that of uvloop is of no type of asyncio
        self.transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        self._crowd.bytes += len(data)
        if PING in data or data[0] == PING[1]:  # the second byte may come alone
            self.transport.write(masked(b"", PONG))
        if self._asked:
            self._look_for_answer(data)
        elif not self.opened.done():
            self._unread += data
            if b"\r\n\r\n" in self._unread:
                self._open(self._unread)

    def _open(self, head: bytes) -> None:
        self._unread = b""
        if head.startswith(b"HTTP/1.1 101 "):
            self.opened.set_result(None)
        else:
            self.opened.set_exception(NotOpened(head[:100].decode()))
            self.leave()

    def _look_for_answer(self, data: bytes) -> None:
        self._unread += data
        if JOINED in self._unread:
            self.inside = True
            self._crowd.inside += 1
        elif REFUSED in self._unread:
            code = CODE.search(self._unread)
            self._crowd.refused[code[1].decode() if code else "error"] += 1
            self.leave()
        else:
            return
        self._asked, self._unread = False, b""
        self._crowd.news.set()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        crowd = self._crowd
        if not self.opened.done():
            self.opened.set_exception(NotOpened(repr(exc)))
        crowd.inside -= self.inside
        crowd.lost += not self.left
        self.inside = self._asked = False
        self.gone.set_result(None)
        crowd.news.set()


class Crowd:
    """Members of one server, and the count of what happened to them."""

    def __init__(self, port: int) -> None:
        self.members: list[Member] = []
        self.inside = 0
        self.lost = 0  # connections that the server ended, or never opened
        self.refused: Counter[str] = Counter()  # joins, by error code
        self.bytes = 0  # received
        self.news = asyncio.Event()  # set with each change of the counts
        self._port = port

    async def connect(self, reads: bool = True) -> Member:
        """Open one connection. Without ``reads`` it reads nothing behind the handshake, and its socket holds little.

        Raises OSError or TimeoutError where the server does not go along.
        """
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if not reads:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(sock, (HOST, self._port))
            _, member = await loop.create_connection(lambda: Member(self), sock=sock)
        except BaseException:
            sock.close()
            raise
        self.members.append(member)
        try:
            await asyncio.wait_for(member.opened, OPEN_SECONDS)
        except BaseException:
            member.leave()
            raise
        if not reads:
            member.transport.pause_reading()
        return member

    async def open(self, count: int, reads: bool = True) -> "list[Member]":
        """Open so many connections, a hundred at a time."""
        opening = asyncio.Semaphore(AT_ONCE)

        async def one() -> Member:
            async with opening:
                return await self.connect(reads)

        return await asyncio.gather(*(one() for _ in range(count)))

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until the counts are so; return whether they were in time."""

        async def wait() -> None:
            while not condition():
                self.news.clear()
                await self.news.wait()

        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), seconds)
        return condition()

    def leave(self) -> None:
        """Break off all connections."""
        for member in self.members:
            member.leave()
        self.members.clear()

    def __str__(self) -> str:
        refused = "".join(f", {count:,} refused ({code})" for code, count in self.refused.items())
        return f"{self.inside:,} in{refused or ', 0 refused'}, {self.lost:,} lost"
