"""A raw connection to the server: whole frames in, masked frames out, and every impolite way to end it."""

import asyncio
import json
import socket
import struct
from typing import Any, Callable, Optional, Union

Frame = dict[str, Any]
Take = Callable[[bytes], None]

HOST = "127.0.0.1"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets


class NotOpened(ConnectionError):
    """Error for a handshake that the server did not answer with 101."""


def masked(payload: bytes, first: int = TEXT) -> bytes:
    """A frame of a client, masked with zeros."""
    size = len(payload)
    if size < 126:
        return bytes([first, 0x80 | size]) + bytes(4) + payload
    if size < 65536:
        return bytes([first, 0xFE]) + size.to_bytes(2, "big") + bytes(4) + payload
    return bytes([first, 0xFF]) + size.to_bytes(8, "big") + bytes(4) + payload


def text(frame: Union[str, Frame]) -> bytes:
    """A frame of JSON, or a bare command, as it goes over the wire."""
    return masked((frame if isinstance(frame, str) else json.dumps(frame)).encode())


class Peer(asyncio.Protocol):
    """Client. ``take`` gets the payload of each text frame; without it the payloads wait for ``recv``."""

    def __init__(self, take: Optional[Take] = None) -> None:
        loop = asyncio.get_running_loop()
        self.told = asyncio.Event()  # that the server closes
        self.closed: asyncio.Future[Optional[int]] = loop.create_future()  # the close code, where there was one
        self.opened: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport
        self._frames: asyncio.Queue[Optional[bytes]] = asyncio.Queue()
        self._take = take or self._frames.put_nowait
        self._unread = b""
        self._code: Optional[int] = None
        self._ended = False  # half-closed

    def write(self, data: bytes) -> None:
        """Send bytes; none behind a half-close."""
        if not self._ended:
            self.transport.write(data)

    def send(self, *frames: Union[str, Frame]) -> None:
        self.write(b"".join(map(text, frames)))

    async def recv(self) -> Frame:
        payload = await self._frames.get()
        if payload is None:
            raise ConnectionError(f"closed with {self._code}")
        frame: Frame = json.loads(payload)
        return frame

    async def join(self, username: str, topic: str, **window: Any) -> Frame:
        self.send({"username": username, "topic": topic, **window})
        return await self.recv()

    # Ways to end it.

    def reset(self, unfinished: bytes = b"") -> None:
        """Break off, with the beginning of a frame behind whatever was sent."""
        self.write(unfinished)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        self.transport.abort()

    def stall(self) -> None:
        """Read nothing more. The end is noticed where the peer writes."""
        self.transport.pause_reading()

    def half_close(self) -> None:
        self._ended = True
        self.transport.write_eof()

    async def close(self) -> None:
        """Say goodbye, and wait until the server has closed."""
        if not self.transport.is_closing():
            self.write(masked((1000).to_bytes(2, "big"), CLOSE))
        await self.closed

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        data = self._unread + data
        if not self.opened.done():
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                self._unread = data
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self.opened.set_exception(NotOpened(head.decode()))
                self.transport.abort()
                return
            self.opened.set_result(None)
            data = rest
        at, size = 0, len(data)
        while size - at >= 2:
            length, start = data[at + 1], at + 2
            if length >= 126:
                start += 2 if length == 126 else 8
                length = int.from_bytes(data[at + 2 : start], "big") if size >= start else size
            if start + length > size:
                break
            self._take_frame(data[at], data[start : start + length])
            at = start + length
        self._unread = data[at:]

    def _take_frame(self, first: int, payload: bytes) -> None:
        if first == TEXT:
            self._take(payload)
        elif first == PING:
            self.write(masked(payload, PONG))
        elif first == CLOSE:
            self._code = int.from_bytes(payload[:2], "big")
            self.write(masked(payload[:2], CLOSE))
            self.told.set()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        if not self.opened.done():
            self.opened.set_exception(NotOpened(repr(exc)))
        if not self.closed.done():
            self.closed.set_result(self._code)
        self._frames.put_nowait(None)


async def connect(port: int, take: Optional[Take] = None, narrow: bool = False) -> Peer:
    """Connect and shake hands. ``narrow``: over a path that holds little, so that a stall is felt at once."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    try:
        if narrow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 600)
        await loop.sock_connect(sock, (HOST, port))
        _, peer = await loop.create_connection(lambda: Peer(take), sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        await peer.opened
    except BaseException:
        peer.transport.abort()
        raise
    return peer
