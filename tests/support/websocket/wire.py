"""A raw socket that sends right and wrong WebSocket bytes, and reads only when it is told to."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Optional

from tests.support.server import PATIENCE

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
DEFLATE = HANDSHAKE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
MASK = b"\x11\x22\x33\x44"

# How a connection ends: by a close code, or
ABORTED = "aborted"  # without a close frame
OPEN = "open"  # not at all
PROTOCOL_ERROR, NOT_TEXT, TOO_BIG = "1002", "1007", "1009"


def header(first: int, length: int, mask: Optional[bytes] = MASK, width: int = 0) -> bytes:
    """What stands before a payload. ``width``: bytes of the extended length; as few as can be where it is 0."""
    if not width and length > 125:
        width = 2 if length < 1 << 16 else 8
    extended = length.to_bytes(width, "big") if width else b""
    size = {0: length, 2: 126, 8: 127}[width]
    return bytes([first, size | (0 if mask is None else 0x80)]) + extended + (mask or b"")


def frame(first: int, payload: bytes = b"", mask: Optional[bytes] = MASK, width: int = 0) -> bytes:
    """A frame; ``first`` is its first byte, ``mask=None`` leaves it unmasked."""
    return header(first, len(payload), mask, width) + (payload if mask is None else masked(payload, mask))


def text(words: str) -> bytes:
    """A whole text frame."""
    return frame(FIN | TEXT, words.encode())


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    """The payload under the mask."""
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def frames_in(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole frames that a server has sent: the first byte and the payload of each."""
    at = 0
    while at + 2 <= len(data):
        first, size, at = data[at], data[at + 1], at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[at : at + width], "big"), at + width
        if at + size > len(data):
            return
        yield first, data[at : at + size]
        at += size


class RawClient:
    """Connection on a raw socket. A context manager; at its end the socket is closed in any state."""

    def __init__(self, port: int) -> None:
        self._address = "127.0.0.1", port
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._received = b""  # that is not yet a whole frame
        self.compresses = False  # as was agreed in the handshake

    async def __aenter__(self) -> "RawClient":
        await self._loop.sock_connect(self._socket, self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def send(self, data: bytes) -> None:
        """Send all. Raises ConnectionError where the server is gone."""
        await asyncio.wait_for(self._loop.sock_sendall(self._socket, data), PATIENCE)

    async def send_until_the_end(self, data: bytes) -> None:
        """Send the same again and again until the server ends the connection; read nothing meanwhile."""
        with suppress(ConnectionError):
            while True:
                await self.send(data)

    def send_no_more(self) -> None:
        """Half-close."""
        with suppress(OSError):  # the server may have closed already
            self._socket.shutdown(socket.SHUT_WR)

    async def answer(self) -> str:
        """The status code of the answer to a handshake, or to what stood in its place."""
        while b"\r\n\r\n" not in self._received:
            if not await self._read():
                return ABORTED
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        self.compresses = b"permessage-deflate" in head
        return head.split(b" ", 2)[1].decode()

    async def upgrade(self, handshake: bytes = HANDSHAKE) -> None:
        await self.send(handshake)
        status = await self.answer()
        assert status == "101", status

    async def join(self, username: str, topic: str) -> None:
        await self.send(text(json.dumps({"username": username, "topic": topic})))
        while (await self.recv())["type"] != "joined":
            pass

    async def recv(self) -> dict[str, Any]:
        """The next text frame."""
        first, payload = await self._next()
        while first & 0x0F != TEXT:
            first, payload = await self._next()
        frame: dict[str, Any] = json.loads(payload)
        return frame

    async def is_open(self) -> bool:
        """Whether the conversation goes on."""
        await self.send(text("/list"))
        while (await self.recv())["type"] != "topics":
            pass
        return True

    async def ending(self) -> str:
        """Read on until the server ends the connection, and answer its close: the close code, or ABORTED."""
        code = ABORTED
        with suppress(ConnectionError):
            while True:
                first, payload = await self._next()
                if first == FIN | CLOSE:
                    code = str(int.from_bytes(payload[:2], "big") or "empty")
                    await self.send(frame(FIN | CLOSE, payload[:2]))
                    if code == TOO_BIG:  # the server may wait for the rest of it
                        break
        return code

    async def read_all(self) -> bytes:
        """All the bytes there are until the server ends the connection."""
        with suppress(ConnectionError):
            while await self._read():
                pass
        return self._received

    async def _next(self) -> tuple[int, bytes]:
        while True:
            for first, payload in frames_in(self._received):
                self._received = self._received[len(header(first, len(payload), None)) + len(payload) :]
                return first, payload
            if not await self._read():
                raise ConnectionResetError

    async def _read(self) -> bool:
        data = await asyncio.wait_for(self._loop.sock_recv(self._socket, 1 << 16), PATIENCE)
        self._received += data
        return bool(data)
