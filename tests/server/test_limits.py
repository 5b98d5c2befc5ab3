"""Origins, the token, the rate limit and the other limits, on real sockets."""

import asyncio
import urllib.request
from contextlib import AsyncExitStack
from typing import Callable

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.server import APP, Server, Visit, in_loop
from tests.support.websocket.wire import RawClient, text

StartServer = Callable[..., Server]


@in_loop
async def test_a_page_of_a_foreign_origin_gets_403_and_a_page_of_the_server_connects(start: StartServer) -> None:
    server = start(*APP)
    with pytest.raises(InvalidStatus) as refused:
        await connect(server.url + "?secret=1", origin="https://evil.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403
    async with connect(server.url, origin=f"http://127.0.0.1:{server.port}") as own:  # type: ignore[arg-type]
        await own.send("/list")
        assert "topics" in str(await own.recv())
    assert len(await server.logged("handshake refused", "origin not allowed")) == 1
    assert not server.lines("secret")


@in_loop
async def test_the_token_comes_by_header_or_by_join_frame(start: StartServer) -> None:
    server = start(*APP, CHAT_TOKEN="s3cret")
    async with Visit(server) as visit:
        stranger = await visit.connect()
        for join in ({"username": "a", "topic": "t"}, {"username": "a", "topic": "t", "token": "wrong"}):
            assert (await stranger.ask(join))["error"] == "unauthorized"
        assert (await stranger.ask({"username": "a", "topic": "t", "token": "s3cret"}))["type"] == "joined"
    async with connect(server.url, additional_headers={"Authorization": "Bearer s3cret"}) as friend:
        await friend.send('{"username": "b", "topic": "t"}')
        assert "joined" in str(await friend.recv())
    with pytest.raises(InvalidStatus):
        await connect(server.url, additional_headers={"Authorization": "Bearer wrong"})
    assert not server.lines("s3cret")


@in_loop
async def test_a_connection_over_the_limit_gets_server_full_and_is_closed(start: StartServer) -> None:
    server = start(*APP, CHAT_CONNECTIONS="1")
    async with Visit(server) as visit:
        first = await visit.join("alice", "sports")
        async with connect(server.url) as second:
            assert "server_full" in str(await second.recv())
            with pytest.raises(ConnectionClosed):
                await second.recv()
            assert second.close_code == 1013
        assert (await first.ask({"message": "still here"}))["type"] == "ack"
    await server.logged("connection refused", "overloaded")


def health(server: Server) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz") as answer:
        return int(answer.status)


@in_loop
async def test_a_server_with_few_descriptors_is_full_in_time_and_tells_everyone_so(start: StartServer) -> None:
    server = start("tests.support.few_descriptors", "100", *APP)  # that is 50 connections, and 50 for the rest
    (warning,) = server.lines("WARNING")
    assert warning.endswith(" wanted=12048 allowed=100 connections=50")
    assert server.lines("unning on", "CHAT_CONNECTIONS=50")
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(RawClient(server.port)) for _ in range(50)]
        for member in members:
            await member.upgrade()
            await member.join("alice", "sports")
        turned_away = []
        for _ in range(60):  # more than there are descriptors; none answers its close until the end
            turned_away.append(await stack.enter_async_context(RawClient(server.port)))
            await turned_away[-1].upgrade()
            assert (await turned_away[-1].recv())["error"] == "server_full"
            assert await asyncio.to_thread(health, server) == 200
        await members[0].send(text('{"message": "still here"}'))
        assert [(await member.recv())["type"] for member in members] == ["ack", *["message"] * 49]
        assert {await one.ending() for one in turned_away} == {"1013"}
    assert server.lines("WARNING") == [warning]


@pytest.mark.parametrize(("limit", "topic"), [({"CHAT_TOPICS": "1"}, "other"), ({"CHAT_TOPIC_MEMBERS": "1"}, "sports")])
@in_loop
async def test_a_join_over_a_limit_gets_server_full_and_affects_no_other_member(
    start: StartServer, limit: dict[str, str], topic: str
) -> None:
    server = start(*APP, **limit)
    async with Visit(server) as visit:
        alice = await visit.join("alice", "sports")
        late = await visit.connect()
        assert (await late.ask({"username": "bob", "topic": topic}))["error"] == "server_full"
        assert await late.close_code() == 1013
        assert (await alice.ask("/list"))["topics"] == [{"topic": "sports", "users": 1}]


@in_loop
async def test_a_sender_above_its_rate_is_slowed_down_and_loses_nothing(start: StartServer) -> None:
    server = start(*APP, CHAT_RATE_LIMIT="25", CHAT_RATE_BURST="5")
    async with Visit(server) as visit:
        flood, quiet = await visit.join("flood", "sports"), await visit.join("quiet", "sports")
        flood.send_at_once(*[f'{{"message": "{number}"}}' for number in range(50)])
        quiet.send_at_once('{"message": "not held up"}')  # at once: the flood takes two seconds
        heard = [await quiet.recv() for _ in range(51)]
        assert [frame["message"] for frame in heard if frame["type"] == "message"] == [str(n) for n in range(50)]
        assert heard[-1]["type"] == "message"  # the ack came while the flood was waiting for its turns
        answers = [await flood.recv() for _ in range(51)]
        assert sum(frame["type"] == "ack" for frame in answers) == 50
