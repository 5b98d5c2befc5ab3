"""The client's side of the wire, as little of it as a load needs: frames out, a join, counting by a mark."""

import re
import socket
import time

MARK = b"DELIVERYSTAMP"  # opens every message; capitals occur nowhere else, so that bytes.count skips most bytes
STAMPED = re.compile(MARK + rb"(\d{20})")
CHARACTERS = 86  # of a message
KEEP = len(MARK) - 1  # bytes of one read to look at again with the next: a mark across both is counted, and once

PATIENCE = 60.0  # seconds for an answer to a join
PING = 0x89  # a first byte that does not occur in JSON of ASCII
PONG = 10
MASK = 0x5A  # four times the same byte, so that masking is a bytes.translate; not 0, which some servers skip

_MASKED = bytes(byte ^ MASK for byte in range(256))


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A client's frame, of up to 64 KiB."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + bytes([MASK] * 4) + payload.translate(_MASKED)


_BLANK = b"?" * 20
_BEFORE, _AFTER = frame(b'{"message":"%s"}' % (MARK + _BLANK).ljust(CHARACTERS, b"x")).split(_BLANK.translate(_MASKED))


def message() -> bytes:
    """The frame of a message that says when it was sent."""
    return _BEFORE + (b"%020d" % time.monotonic_ns()).translate(_MASKED) + _AFTER


def pongs(data: bytes) -> bytes:
    """The answers to the pings in what a server sent; without them it would close the connection after a while."""
    answers = b""
    at = data.find(PING)
    while at >= 0:
        payload = data[at + 2 : at + 2 + data[at + 1]] if at + 1 < len(data) else b""
        if payload and len(payload) == data[at + 1] <= KEEP - 2:  # else not a ping, or the rest is still to come
            answers += frame(payload, PONG)
        at = data.find(PING, at + 1)
    return answers


def join(port: int, username: str, topic: str) -> socket.socket:
    """A connection that has joined. Raises OSError where the server does not go along."""
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" % port
        )
        reply = more(sock)
        while b"\r\n\r\n" not in reply:
            reply += more(sock)
        head, _, joined = reply.partition(b"\r\n\r\n")
        if b" 101 " not in head:
            raise ConnectionError(f"no WebSocket at /ws: {head[:60]!r}")
        sock.sendall(frame(b'{"username":"%s","topic":"%s"}' % (username.encode(), topic.encode())))
        while len(joined) < 2:
            joined += more(sock)
    except OSError:
        sock.close()
        raise
    return sock


def more(sock: socket.socket) -> bytes:
    """What arrives next; never nothing."""
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data
