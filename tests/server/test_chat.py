"""The server on real sockets: joins, topics, /list, and every way to leave."""

import asyncio
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable
from typing import Callable

import pytest

from tests.support.server import APP, Client, Frame, Server, Visit, in_loop

StartServer = Callable[..., Server]

# A client to be killed: it joins, says so, and stays.
CLIENT = """
import json, sys
from websockets.sync.client import connect
with connect(sys.argv[1]) as connection:
    connection.send(json.dumps({"username": sys.argv[2], "topic": sys.argv[3]}))
    print(connection.recv(), flush=True)
    connection.recv()
"""


@in_loop
async def test_a_join_is_answered_by_exactly_one_joined(server: Server) -> None:
    async with Visit(server) as visit:
        alice = await visit.join("alice", "sports")
        assert alice.joined == {"type": "joined", "username": "alice", "topic": "sports", "users": 1, "ttl": 30}
        bob = await visit.join("bob", "sports")
        assert bob.joined["users"] == 2
        await bob.send({"message": "hello"})
        assert (await alice.recv())["message"] == "hello"  # nothing came before it: no notice that bob joined


@in_loop
async def test_a_taken_name_gets_the_smallest_free_number(server: Server) -> None:
    async with Visit(server) as visit:
        clients = [await visit.join("alice", "sports") for _ in range(3)]
        assert [client.joined["username"] for client in clients] == ["alice", "alice#2", "alice#3"]
        await visit.leave(clients[1])
        assert (await visit.join("alice", "sports")).joined["username"] == "alice#2"
        assert (await visit.join("alice#2", "sports")).joined["username"] == "alice#2#2"
        assert (await visit.join("alice#5", "sports")).joined["username"] == "alice#5"


@in_loop
async def test_one_name_in_two_topics_is_two_members(server: Server) -> None:
    async with Visit(server) as visit:
        for topic in ("sports", "movies"):
            assert (await visit.join("alice", topic)).joined["username"] == "alice"


@in_loop
async def test_a_message_reaches_every_other_member_of_its_topic_and_no_other_client(server: Server) -> None:
    async with Visit(server) as visit:
        alice, bob, carol = [await visit.join(name, "sports") for name in ("alice", "bob", "carol")]
        dave, erin = [await visit.join(name, "movies") for name in ("dave", "erin")]
        before = int(time.time())
        ack = await alice.ask({"message": "Hello World", "ref": "r-1"})
        message = {"type": "message", "id": 1, "username": "alice", "message": "Hello World"}
        message["timestamp"] = ack["timestamp"]
        assert [await bob.recv(), await carol.recv()] == [message, message]
        assert ack == {
            "type": "ack",
            "status": "delivered",
            "id": 1,
            "ref": "r-1",
            "timestamp": ack["timestamp"],
            "recipients": 2,
        }
        assert isinstance(ack["timestamp"], int) and before <= ack["timestamp"] <= time.time()
        assert "ref" not in await dave.ask({"message": "hi"})
        assert (await erin.recv())["message"] == "hi"  # and not the other topic's
        assert (await bob.ask({"message": "again"}))["id"] == 2
        assert (await alice.recv())["id"] == 2  # and alice was not sent her own


@in_loop
async def test_all_members_see_one_order_while_all_send_at_once(server: Server) -> None:
    each = 50

    async def send_all(client: Client) -> None:
        for number in range(each):
            text = f"{client.joined['username']} {number}"
            await client.send({"message": text, "ref": text})

    async def view(client: Client) -> list[tuple[int, int, str]]:
        """What one member saw, its own messages in the place of their acks: (id, timestamp, text)."""
        frames = [await client.recv() for _ in range(each * 4)]
        return [(frame["id"], frame["timestamp"], frame.get("ref") or frame["message"]) for frame in frames]

    async with Visit(server) as visit:
        members = [await visit.join(name, "sports") for name in ("alice", "bob", "carol", "dave")]
        seen = asyncio.gather(*map(view, members))
        await asyncio.gather(*map(send_all, members))
        first, *others = await seen
        assert others == [first] * 3
        assert [id for id, _, _ in first] == list(range(1, each * 4 + 1))
        for name in ("alice", "bob", "carol", "dave"):
            own = [text for _, _, text in first if text.startswith(name)]
            assert own == [f"{name} {number}" for number in range(each)]


@in_loop
async def test_list_tells_the_active_topics_before_and_after_the_join(server: Server) -> None:
    async with Visit(server) as visit:
        stranger = await visit.connect()
        empty = {"type": "topics", "message": "Active Topics:\n(none)", "topics": []}
        assert await stranger.ask("/list") == empty
        await visit.join("alice", "sports")
        bob = await visit.join("bob", "sports")
        await visit.join("carol", "movies")
        topics: Frame = {
            "type": "topics",
            "message": "Active Topics:\n- sports (2 users)\n- movies (1 user)",
            "topics": [{"topic": "sports", "users": 2}, {"topic": "movies", "users": 1}],
        }
        for asker in (stranger, bob):
            for question in ("/list", "  /list\n", {"message": "/list"}, b'{"message": "/list"}'):
                answer = await asker.ask(question)
                if len(server.nodes) > 1 and answer["topics"] != topics["topics"]:  # their ages come a moment apart
                    head, *lines = answer["message"].split("\n")
                    answer = {**answer, "message": "\n".join([head, *lines[::-1]]), "topics": answer["topics"][::-1]}
                assert answer == topics
        await stranger.join("stranger", "movies")


@in_loop
async def test_list_is_neither_broadcast_nor_numbered(server: Server) -> None:
    async with Visit(server) as visit:
        alice = await visit.join("alice", "sports")
        bob = await visit.join("bob", "sports")
        await bob.ask("/list")
        await bob.ask({"message": "/list"})
        assert (await bob.ask({"message": "hello"}))["id"] == 1
        assert (await alice.recv())["message"] == "hello"


@in_loop
async def test_a_binary_frame_is_read_like_text(server: Server) -> None:
    async with Visit(server) as visit:
        alice = await visit.join("alice", "sports")
        bob = await visit.connect()
        join = {"username": "bob", "topic": "sports"}
        assert (await bob.ask(json.dumps(join).encode()))["username"] == "bob"
        assert (await bob.ask(b"/list"))["type"] == "topics"
        assert (await bob.ask('{"message": "grüße"}'.encode()))["type"] == "ack"
        assert (await alice.recv())["message"] == "grüße"


async def close(visit: Visit) -> None:
    bob = await visit.join("bob", "sports")
    await bob.connection.close()


async def reset(visit: Visit) -> None:
    bob = await visit.join("bob", "sports")
    transport = bob.connection.transport
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await bob.connection.wait_closed()


async def kill(visit: Visit) -> None:
    command = [sys.executable, "-c", CLIENT, visit.server.url, "bob", "sports"]
    bob = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert bob.stdout is not None and b"joined" in await bob.stdout.readline()
    finally:
        bob.kill()
        await bob.wait()


@pytest.mark.parametrize("join_and_end", [close, reset, kill])
@in_loop
async def test_a_connection_that_ends_is_one_leave_and_the_others_notice_nothing(
    start: StartServer, join_and_end: Callable[[Visit], Awaitable[None]]
) -> None:
    server = start(*APP)
    async with Visit(server) as visit:
        alice = await visit.join("alice", "sports")
        await join_and_end(visit)
        await server.logged(" left ", "username='bob'", "reason='closed by peer'")
        assert (await alice.ask("/list"))["topics"] == [{"topic": "sports", "users": 1}]
        carol = await visit.join("carol", "sports")
        assert carol.joined["users"] == 2
        await carol.send({"message": "hello"})
        assert (await alice.recv())["id"] == 1
    server.terminate()
    assert len(server.lines(" left ", "username='bob'")) == 1
    assert len(server.lines(" left ")) == 3


@in_loop
async def test_the_last_one_out_removes_the_topic(server: Server) -> None:
    async with Visit(server) as visit:
        stranger = await visit.connect()
        for _ in range(2):  # the second time it is a new topic, which counts from 1 again
            alice, bob = await visit.join("alice", "sports"), await visit.join("bob", "sports")
            assert (await alice.ask({"message": "hello"}))["id"] == 1
            await visit.leave(alice)
            assert (await stranger.ask("/list"))["topics"] == [{"topic": "sports", "users": 1}]
            await visit.leave(bob)
            assert (await stranger.ask("/list"))["topics"] == []
