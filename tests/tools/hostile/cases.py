"""The kinds of hostile bytes, and how a connection that sends them may end."""

import json
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import Callable, NamedTuple

from tests.support.websocket.inputs import deflated
from tests.support.websocket.wire import (
    ABORTED,
    BINARY,
    CLOSE,
    CONT,
    DEFLATE,
    FIN,
    HANDSHAKE,
    NOT_TEXT,
    OPEN,
    PING,
    PONG,
    PROTOCOL_ERROR,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    TOO_BIG,
    RawClient,
    frame,
    header,
    text,
)

MIB = 1 << 20
HUGE = 16 * MIB  # above the limit of any server

WORDS = json.dumps({"message": "hostile"}).encode()  # nobody is to hear this
LIST = json.dumps({"message": "/list"}).encode()
BAD_UTF8 = (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"caf\xe9")

GONE = "gone"  # the client left without waiting for an end
COMPRESSED = "compressed"  # nothing was sent, for the server has agreed to compression


class Case(NamedTuple):
    """Kind of attack. ``run`` plays it on a connection and returns how that ended; ``number`` counts the times."""

    run: Callable[[RawClient, int], Awaitable[str]]
    ends: tuple[str, ...]
    handshake: bytes = HANDSHAKE  # empty where the case has its own


def sends(data: bytes, *ends: str, handshake: bytes = HANDSHAKE) -> Case:
    """Send that and read to the end; where no end is due, see that the conversation goes on."""
    return Case(partial(_send, data, OPEN in ends), ends, handshake)


async def _send(data: bytes, stays: bool, client: RawClient, number: int) -> str:
    with suppress(ConnectionError):
        await client.send(data)
        if stays and await client.is_open():
            return OPEN
    return await client.ending()


def leaves(data: bytes) -> Case:
    """Send that and go."""
    return Case(partial(_send_and_leave, data), (GONE,))


async def _send_and_leave(data: bytes, client: RawClient, number: int) -> str:
    await client.send(data)
    return GONE


async def _reserved_opcode(base: int, client: RawClient, number: int) -> str:
    return await _send(frame(FIN | base + number % 5, WORDS), False, client, number)


async def _bad_utf8(client: RawClient, number: int) -> str:
    return await _send(frame(FIN | TEXT, BAD_UTF8[number % len(BAD_UTF8)]), False, client, number)


async def _bad_utf8_in_fragments(client: RawClient, number: int) -> str:
    bad = BAD_UTF8[number % len(BAD_UTF8)]
    frames = frame(TEXT, b"caf") + frame(CONT, bad[:1]) + frame(FIN | CONT, bad[1:])
    return await _send(frames, False, client, number)


async def _flood(data: bytes, client: RawClient, number: int) -> str:
    """Send the same until the server ends the connection; only then read."""
    await client.send_until_the_end(data)
    return await client.ending()


async def _endless_fragments(client: RawClient, number: int) -> str:
    """More than any limit, and not the end of it."""
    fragments = frame(CONT, b"x" * 1024) * 64
    with suppress(ConnectionError):
        await client.send(frame(TEXT))
        for _ in range(HUGE // (1024 * 64) + 1):
            await client.send(fragments)
    return await client.ending()


async def _byte_by_byte(client: RawClient, number: int) -> str:
    for byte in frame(TEXT, LIST[:9]) + frame(FIN | PING) + frame(FIN | CONT, LIST[9:]) + text("/list"):
        await client.send(bytes([byte]))
    return OPEN if await client.is_open() else ABORTED


async def _half_close(data: bytes, client: RawClient, number: int) -> str:
    await client.send(data)
    client.send_no_more()
    return await client.ending()


async def _garbage(data: bytes, client: RawClient, number: int) -> str:
    """Instead of a handshake; the end is the status code of the answer."""
    with suppress(ConnectionError):
        await client.send(data)
        client.send_no_more()
        return await client.answer()
    return ABORTED


async def _pipelined(client: RawClient, number: int) -> str:
    """Frames behind the handshake, before it is answered; what counts is that the connection works or ends."""
    await client.send(HANDSHAKE + text("/list") + frame(BINARY, LIST) + frame(FIN | PING))
    with suppress(ConnectionError):
        if await client.answer() == "101" and await client.is_open():
            return OPEN
    return ABORTED


CASES: dict[str, Case] = {
    "text that is not masked": sends(frame(FIN | TEXT, WORDS, mask=None), PROTOCOL_ERROR),
    "ping that is not masked": sends(frame(FIN | PING, b"hello", mask=None), PROTOCOL_ERROR),
    "reserved bit 1 without compression": sends(frame(FIN | RSV1 | TEXT, WORDS), PROTOCOL_ERROR),
    "reserved bit 2": sends(frame(FIN | RSV2 | TEXT, WORDS), PROTOCOL_ERROR),
    "reserved bit 3": sends(frame(FIN | RSV3 | BINARY, WORDS), PROTOCOL_ERROR),
    "reserved bits of a ping": sends(frame(FIN | RSV1 | RSV2 | PING), PROTOCOL_ERROR),
    "opcode 3 to 7": Case(partial(_reserved_opcode, 0x3), (PROTOCOL_ERROR,)),
    "opcode 11 to 15": Case(partial(_reserved_opcode, 0xB), (PROTOCOL_ERROR,)),
    "ping of 126 bytes": sends(frame(FIN | PING, b"x" * 126), PROTOCOL_ERROR),
    "close of 126 bytes": sends(frame(FIN | CLOSE, b"\x03\xe8" + b"x" * 124), PROTOCOL_ERROR),
    "ping in fragments": sends(frame(PING, b"a") + frame(FIN | CONT, b"b"), PROTOCOL_ERROR),
    "close in fragments": sends(frame(CLOSE, b"\x03") + frame(FIN | CONT, b"\xe8"), PROTOCOL_ERROR),
    "continuation of nothing, final": sends(frame(FIN | CONT, WORDS), PROTOCOL_ERROR),
    "continuation of nothing, not final": sends(frame(CONT, WORDS), PROTOCOL_ERROR),
    "binary inside a fragmented text": sends(frame(TEXT, b"{") + frame(FIN | BINARY, WORDS), PROTOCOL_ERROR),
    "a second beginning inside a fragmented text": sends(frame(TEXT, b"{") + frame(TEXT, WORDS), PROTOCOL_ERROR),
    "close inside a fragmented text": sends(frame(TEXT, b"{") + frame(FIN | CLOSE, b"\x03\xe8"), PROTOCOL_ERROR),
    "bad UTF-8": Case(_bad_utf8, (NOT_TEXT,)),
    "bad UTF-8 in fragments": Case(_bad_utf8_in_fragments, (NOT_TEXT,)),
    "close 999": sends(frame(FIN | CLOSE, (999).to_bytes(2, "big")), PROTOCOL_ERROR),
    "close 1005": sends(frame(FIN | CLOSE, (1005).to_bytes(2, "big")), PROTOCOL_ERROR),
    "close 1006": sends(frame(FIN | CLOSE, (1006).to_bytes(2, "big")), PROTOCOL_ERROR),
    "close 65535": sends(frame(FIN | CLOSE, b"\xff\xff"), PROTOCOL_ERROR),
    "close of one byte": sends(frame(FIN | CLOSE, b"\x03"), PROTOCOL_ERROR),
    "close with bad UTF-8": sends(frame(FIN | CLOSE, b"\x03\xe8\xff"), NOT_TEXT),
    "close, and the socket stays open": sends(frame(FIN | CLOSE, b"\x03\xe8"), "1000"),
    "close without a code": sends(frame(FIN | CLOSE), "empty"),
    "two closes": sends(frame(FIN | CLOSE, b"\x03\xe8") * 2, "1000"),
    "length 2^63": sends(header(FIN | TEXT, 1 << 63), TOO_BIG),
    "length 2^63 - 1": sends(header(FIN | BINARY, (1 << 63) - 1), TOO_BIG),
    "lengths in too many bytes": sends(
        frame(FIN | TEXT, LIST, width=2) + frame(FIN | TEXT, LIST, width=8) + text("/list"), OPEN
    ),
    "a frame of 16 MiB + 1": sends(frame(FIN | TEXT, b" " * (HUGE + 1)), TOO_BIG),
    "a frame of 64 KiB + 1": sends(frame(FIN | TEXT, b" " * (65536 + 1)), TOO_BIG),
    "the beginning of a frame of 64 KiB + 1": sends(header(FIN | TEXT, 65536 + 1), TOO_BIG),
    "fragments without end": Case(_endless_fragments, (TOO_BIG, ABORTED)),
    "empty fragments": sends(
        frame(TEXT) + frame(CONT) * 1000 + frame(FIN | PING) + frame(CONT) * 1000 + frame(FIN | CONT, LIST), OPEN
    ),
    "empty messages, which are heartbeats": sends(text("") * 21, OPEN),
    "texts that are refused": sends(text("{") * 21, "1008"),
    "pings, read later": sends(frame(FIN | PING, b"x" * 125) * 1000, OPEN),
    "pings whose pongs are never read": Case(partial(_flood, frame(FIN | PING, b"x" * 125) * 500), (ABORTED,)),
    "pongs nobody asked for": sends(frame(FIN | PONG, b"x" * 125) * 1000, OPEN),
    "half a header": leaves(header(FIN | TEXT, 300)[:3]),
    "a frame cut in the middle": leaves(frame(FIN | TEXT, WORDS)[:-3]),
    "half a header, half-closed": Case(partial(_half_close, header(FIN | TEXT, 70_000)[:9]), (ABORTED,)),
    "a fragment, half-closed": Case(partial(_half_close, frame(TEXT, WORDS)), (ABORTED,)),
    "byte by byte": Case(_byte_by_byte, (OPEN,)),
    "compression offered": sends(text("/list"), OPEN, handshake=DEFLATE),
    "a compressed text": sends(frame(FIN | RSV1 | TEXT, deflated(LIST)), PROTOCOL_ERROR, handshake=DEFLATE),
}

# What comes in place of a handshake: there is no join after it.
HANDSHAKES: dict[str, Case] = {
    "TLS hello": Case(partial(_garbage, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)), ("400",), b""),
    "bytes that are not HTTP": Case(partial(_garbage, bytes(range(256)) * 4), ("400",), b""),
    # Of the two HTTP parsers that uvicorn may use, h11 waits for the end of a line.
    "a frame without a handshake": Case(partial(_garbage, text("/list")), ("400", ABORTED), b""),
    "half a handshake": Case(partial(_garbage, HANDSHAKE[:80]), (ABORTED,), b""),
    "a handshake without a key": Case(
        partial(_garbage, HANDSHAKE.replace(b"Sec-WebSocket-Key", b"X-Key")), ("400",), b""
    ),
    "a key that is not one": Case(partial(_garbage, HANDSHAKE.replace(b"==", b"")), ("400",), b""),
    "version 12": Case(partial(_garbage, HANDSHAKE.replace(b" 13", b" 12")), ("400", "426"), b""),
    "frames behind the handshake": Case(_pipelined, (OPEN, ABORTED), b""),
}
