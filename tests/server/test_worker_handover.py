"""What a peer sends with and behind its join, when its topic lives in another worker."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Callable

import pytest

from tests.support.server import APP, Server, Visit, Workers, in_loop
from tests.support.websocket.wire import FIN, TEXT, RawClient, frame, text
from tests.support.workers import alone, home_of

StartServer = Callable[..., Server]

TOPIC = "sports"
MESSAGES = 200
JOIN = text(json.dumps({"username": "alice", "topic": TOPIC}))


@asynccontextmanager
async def meeting(server: Server, at_home: bool) -> "AsyncIterator[tuple[Visit, RawClient]]":
    """A member bob, and a raw client whose connection the worker of his topic has accepted, or the other one."""
    async with Visit(server) as visit:
        bob = await visit.join("bob", TOPIC)
        home = await home_of(server, bob)
        (other,) = {*server.processes()} - {home}
        async with AsyncExitStack() as stack:
            with alone(server, home if at_home else other):
                raw = await stack.enter_async_context(RawClient(server.port))
                await raw.upgrade()
            yield visit, raw
        await visit.see_leaves(1)


def numbered(count: int, size: int = 0) -> list[bytes]:
    """Messages with their numbers, each of at least that many bytes."""
    return [text(json.dumps({"message": f"{number}".ljust(size, "."), "ref": f"{number}"})) for number in range(count)]


async def acks(raw: RawClient, count: int) -> list[str]:
    """The refs of the next acks."""
    return [(await raw.recv())["ref"] for _ in range(count)]


@pytest.mark.parametrize("at_home", [True, False], ids=["own topic", "handed over"])
@pytest.mark.parametrize("cut", [1, 2, 5, 7, 20], ids="{} bytes of a frame".format)
@in_loop
async def test_what_comes_behind_the_join_is_read_in_order(start: StartServer, at_home: bool, cut: int) -> None:
    server = start(*APP, kind=Workers)
    async with meeting(server, at_home) as (_, raw):
        last = text(json.dumps({"message": "last", "ref": "last"}))
        await raw.send(JOIN + b"".join(numbered(MESSAGES)) + last[:cut])
        assert (await raw.recv())["type"] == "joined"
        assert await acks(raw, MESSAGES) == [str(number) for number in range(MESSAGES)]
        await raw.send(last[cut:] + text("/list"))
        assert await acks(raw, 1) == ["last"]
        assert (await raw.recv())["topics"] == [{"topic": TOPIC, "users": 2}]


@pytest.mark.parametrize("size", [20, 4_000], ids="messages of {} bytes".format)
@in_loop
async def test_much_that_comes_behind_the_join_goes_with_it(start: StartServer, size: int) -> None:
    server = start(*APP, kind=Workers)
    async with meeting(server, at_home=False) as (visit, raw):
        count = (1 << 20) // size // 5  # 200 KiB of messages
        await raw.send(JOIN + b"".join(numbered(count, size)))
        assert (await raw.recv())["type"] == "joined"
        assert await acks(raw, count) == [str(number) for number in range(count)]
        asker = await visit.connect()
        assert (await asker.ask("/list"))["topics"] == [{"topic": TOPIC, "users": 2}]


@in_loop
async def test_a_message_in_fragments_behind_the_join_is_one_message(start: StartServer) -> None:
    server = start(*APP, kind=Workers)
    async with meeting(server, at_home=False) as (_, raw):
        await raw.send(JOIN + frame(TEXT, b'{"message": "in ') + frame(0, b"three "))
        assert (await raw.recv())["type"] == "joined"
        await raw.send(frame(FIN, b'parts", "ref": "r"}'))
        assert await acks(raw, 1) == ["r"]


@in_loop
async def test_lists_before_and_behind_the_join_are_answered_in_order(start: StartServer) -> None:
    server = start(*APP, kind=Workers)
    async with meeting(server, at_home=False) as (_, raw):
        await raw.send(text("/list") + JOIN + text("/list"))
        assert (await raw.recv())["topics"] == [{"topic": TOPIC, "users": 1}]
        assert (await raw.recv())["type"] == "joined"
        assert (await raw.recv())["topics"] == [{"topic": TOPIC, "users": 2}]


@pytest.mark.parametrize("behind", [b"", text('{"message": "last words"}')], ids=["nothing", "a message"])
@in_loop
async def test_a_peer_that_closes_behind_its_join_is_a_leave(start: StartServer, behind: bytes) -> None:
    server = start(*APP, kind=Workers)
    async with meeting(server, at_home=False) as (visit, raw):
        await raw.send(JOIN + behind + frame(FIN | 8, (1000).to_bytes(2, "big")))
        assert await raw.ending() == "1000"
        await visit.see_leaves(1, reason="closed by peer")
