"""Rules for any input: for the result of the decoder, and for the answers of a server to a stream of bytes."""

import asyncio
import json
import sys
import unicodedata
from contextlib import suppress

from hypothesis import strategies as st

from chat_actors.protocol.codes import ErrorCode
from chat_actors.protocol.decoding import Data, Refused, decode_first, decode_next
from chat_actors.protocol.frames import Error, JoinFrame, ListCommand, SendFrame, finished, payloads
from tests.support.server import Server
from tests.support.websocket.inputs import ANYTHING, check_many
from tests.support.websocket.wire import CLOSE, DEFLATE, FIN, HANDSHAKE, PING, PONG, TEXT, RawClient, frame, frames_in
from tests.tools.hostile.attack import Attack

UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # categories of characters that no name may have
LONGEST = 64  # characters of a message
RANDOM = st.tuples(ANYTHING, st.booleans(), st.booleans())  # whether joined, whether compression is offered
KINDS = {"joined", "message", "ack", "topics", "error"}
CLOSES = {*range(1000, 1015), *range(3000, 5000)} - {1004, 1005, 1006}  # that may be sent; the peer's own is echoed


def decoded(data: Data) -> object:
    """What the decoder makes of a frame before and after the join, judged; to compare it with."""
    return _first(data), _next(data)


def _first(data: Data) -> object:
    try:
        read = decode_first(data)
    except Refused as refusal:
        return _refused(refusal)
    if isinstance(read, JoinFrame):
        assert 1 <= len(read.username) <= 32 and 1 <= len(read.topic) <= 64
        assert not {unicodedata.category(character) for character in read.username + read.topic} & UNSEEN
    else:
        assert isinstance(read, ListCommand)
    return read


def _next(data: Data) -> object:
    try:
        read = decode_next(data, LONGEST)
    except Refused as refusal:
        return _refused(refusal)
    if isinstance(read, SendFrame):
        assert len(read.message) <= LONGEST and read.message.strip()
        assert not read.message.lstrip().startswith("/")
    else:
        assert isinstance(read, ListCommand)
    return read


def _refused(refusal: Refused) -> ErrorCode:
    """The answer can be sent, whatever the frame held."""
    (payload,) = payloads(finished(Error(refusal.code, refusal.detail)))
    assert json.loads(payload)["detail"]
    return ErrorCode(refusal.code)


def judge_decoding(data: Data) -> None:
    """A frame is read or refused, with a reason; and the same in a binary frame as in a text frame."""
    verdict = decoded(data)
    if isinstance(data, str):
        with suppress(UnicodeEncodeError):
            assert decoded(data.encode()) == verdict


async def judge_answers(port: int, data: bytes, joined: bool, compressed: bool) -> None:
    """Whatever is sent, the server says nothing but whole frames of the contract, and nothing behind its close."""
    async with RawClient(port) as client:
        await client.upgrade(DEFLATE if compressed else HANDSHAKE)
        if joined:
            await client.join("eve", "hostile")
        with suppress(ConnectionError):
            await client.send(data)
        client.send_no_more()
        answers = await client.read_all()
    whole, closed = 0, False
    for first, payload in frames_in(answers):
        assert not closed
        whole += len(frame(first, payload, mask=None))
        if first == FIN | TEXT:
            assert json.loads(payload)["type"] in KINDS
        elif first == FIN | CLOSE:
            closed = True
            assert not payload or int.from_bytes(payload[:2], "big") in CLOSES
        else:
            assert first in (FIN | PING, FIN | PONG)
    assert whole == len(answers)


def judge_at_random(server: Server, count: int) -> Attack:
    """An attack with so many random streams of bytes."""
    loop = asyncio.new_event_loop()
    try:
        attack = Attack(server)
        loop.run_until_complete(attack.__aenter__())

        async def judge(stream: tuple[bytes, bool, bool]) -> None:
            await attack.witnesses.say()
            await judge_answers(server.port, *stream)

        try:
            check_many(count, RANDOM, lambda stream: loop.run_until_complete(judge(stream)))
        finally:
            loop.run_until_complete(attack.__aexit__(*sys.exc_info()))
        return attack
    finally:
        loop.close()
