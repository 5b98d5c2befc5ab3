"""The window on real sockets, on the fast lane, with bare WebSocket clients."""

import asyncio
import json
import time
from typing import Any, Callable

from tests.support.server import AHEAD_APP, APP, Client, Frame, Server, Visit, in_loop, put_forward

StartServer = Callable[..., Server]


async def ask(visit: Visit, username: str, **wants: Any) -> Client:
    """Join ``sports`` and ask for the window."""
    client = await visit.connect()
    await client.ask({"username": username, "topic": "sports", **wants})
    assert client.joined, client.texts
    return client


async def taken_over(client: Client) -> int:
    """Return the close code of a connection whose member resumed on another connection."""
    client.joined = {}  # so the visit does not wait for its leave
    return await client.close_code()


def wire(frame: Frame) -> str:
    return json.dumps(frame, separators=(",", ":"))


@in_loop
async def test_a_member_that_was_cut_off_has_missed_nothing_and_sent_nothing_twice(server: Server) -> None:
    async with Visit(server) as visit:
        alice, bob = await ask(visit, "alice", resume=""), await visit.join("bob", "sports")
        first = await alice.ask({"message": "1", "ref": "r1"})
        await alice.send({"message": "2", "ref": "r2"})
        assert [(await bob.recv())["message"] for _ in "12"] == ["1", "2"]
        alice.connection.transport.abort()  # with the ack on its way
        await visit.see_leaves(1)
        assert (await bob.ask({"message": "3"}))["recipients"] == 0
        again = await ask(
            visit, "alice", resume=alice.joined["resume"], since=first["id"], epoch=alice.joined["epoch"], events=False
        )
        assert again.joined == {**alice.joined, "users": 2, "last_id": 3}
        replay = [await again.recv(), await again.recv()]
        assert [(frame["id"], frame["username"], frame["replayed"]) for frame in replay] == [
            (2, "alice", True),
            (3, "bob", True),
        ]
        assert all(0 < frame["remaining_ms"] <= 30_000 for frame in replay)
        ack = await again.ask({"message": "2", "ref": "r2"})
        assert 0 < ack["remaining_ms"] <= replay[0]["remaining_ms"]
        assert (ack["id"], ack["duplicate"], ack["recipients"]) == (2, True, 1)
        assert (await again.ask({"message": "4", "ref": "r3"}))["id"] == 4
        assert (await bob.recv())["id"] == 4


@in_loop
async def test_a_resume_takes_over_a_hanging_connection_without_a_notice(server: Server) -> None:
    async with Visit(server) as visit:
        watcher = await ask(visit, "watcher", events=True)
        old = await ask(visit, "alice", resume="")
        assert await watcher.recv() == {"type": "presence", "joined": ["alice"], "users": 2}
        new = await ask(visit, "alice", resume=old.joined["resume"], events=True)
        assert (await new.ask("/list"))["topics"] == [{"topic": "sports", "users": 2}]
        assert (new.joined["username"], new.joined["members"]) == ("alice", ["watcher", "alice"])
        assert await taken_over(old) == 4409
        assert (await new.ask({"message": "hello"}))["recipients"] == 1
        assert (await watcher.recv())["message"] == "hello"  # nothing came before it
        await visit.leave(new)
        assert await watcher.recv() == {"type": "presence", "left": ["alice"], "users": 1}
        assert (await watcher.ask("/list"))["topics"] == [{"topic": "sports", "users": 1}]


@in_loop
async def test_beside_clients_with_a_window_a_plain_client_gets_the_plain_contract(server: Server) -> None:
    async with Visit(server) as visit:
        watcher = await ask(visit, "watcher", events=True)
        plain = await visit.join("plain", "sports")
        old = await ask(visit, "alice", since=0)
        new = await ask(visit, "alice", resume=old.joined["resume"], since=0, epoch="another")
        assert await taken_over(old) == 4409
        for _ in range(2):
            ack = await new.ask({"message": "1", "ref": "r"})
        await visit.leave(new)
        said = await watcher.ask({"message": "2"})
        while said["type"] != "ack":
            said = await watcher.recv()
        await plain.recv()
        await plain.recv()
        message = {"type": "message", "id": 1, "username": "alice", "message": "1", "timestamp": ack["timestamp"]}
        assert plain.texts == [
            '{"type":"joined","username":"plain","topic":"sports","users":2,"ttl":30}',
            wire(message),
            wire({**message, "id": 2, "username": "watcher", "message": "2", "timestamp": said["timestamp"]}),
        ]


@in_loop
async def test_a_member_that_joins_while_all_send_gets_each_message_once_in_order(server: Server) -> None:
    each, senders = 250, ("ann", "bob", "cat", "dan")
    last = each * len(senders)

    async def send(client: Client) -> None:
        for number in range(each):
            await client.send({"message": f"{client.joined['username']} {number}"})

    async def read(client: Client, since: int) -> tuple[int, dict[int, str]]:
        """Read to the last message; how many were replayed, and the texts by id."""
        texts: dict[int, str] = {}
        replayed = 0
        for expected in range(since + 1, last + 1):
            frame = await client.recv()
            assert frame["id"] == expected
            if "replayed" in frame:
                assert replayed == len(texts)  # all of them before anything newer
                replayed += 1
            if frame["type"] == "message":
                texts[expected] = frame["message"]
        return replayed, texts

    async def join_late(since: int) -> tuple[int, dict[int, str]]:
        return await read(await ask(visit, "late", since=since), since)

    async with Visit(server) as visit:
        clients = [await visit.join(name, "sports") for name in senders]
        reading = [asyncio.ensure_future(read(client, 0)) for client in clients]
        sending = [asyncio.ensure_future(send(client)) for client in clients]
        await clients[0].connection.ping()  # so the sending has begun
        late = [await asyncio.gather(*map(join_late, (0, 0, 1, 2))) for _ in range(3)]
        await asyncio.gather(*sending)
        whole: dict[int, str] = {}
        for _, texts in await asyncio.gather(*reading):
            whole.update(texts)
        assert len(whole) == last
        for joiners in late:
            for since, (_, texts) in zip((0, 0, 1, 2), joiners):
                assert texts == {id: text for id, text in whole.items() if id > since}


@in_loop
async def test_a_wrong_wish_is_refused_and_can_be_corrected(server: Server) -> None:
    async with Visit(server) as visit:
        client = await visit.connect()
        for key, value in (("since", -1), ("since", True), ("epoch", 1), ("resume", 1), ("events", "true")):
            answer = await client.ask({"username": "alice", "topic": "sports", key: value})
            assert (answer["type"], answer["error"]) == ("error", "invalid_join")
        assert (await client.ask("/list"))["topics"] == []
        assert (await client.ask({"username": "alice", "topic": "sports", "since": 0}))["type"] == "joined"


@in_loop
async def test_expired_messages_are_announced_and_are_a_gap_for_a_later_client(start: StartServer) -> None:
    server = start(*AHEAD_APP)
    async with Visit(server) as visit:
        watcher = await ask(visit, "watcher", events=True)
        await watcher.ask({"message": "1", "ref": "r"})
        await asyncio.to_thread(put_forward, server, 30)
        assert await watcher.recv() == {"type": "expired", "through": 1}
        late = await ask(visit, "late", since=0, epoch=watcher.joined["epoch"])
        assert late.joined["gap"] == {"from": 1, "to": 1, "reason": "expired"}
        assert (await watcher.recv())["type"] == "presence"
        assert (await watcher.ask({"message": "1", "ref": "r"}))["id"] == 2  # the ref is new again
        assert (await late.recv())["id"] == 2


@in_loop
async def test_a_member_that_returns_is_told_what_has_expired_meanwhile(start: StartServer) -> None:
    server = start(*AHEAD_APP)
    async with Visit(server) as visit:
        alice, bob = await ask(visit, "alice", events=True), await visit.join("bob", "sports")
        await bob.ask({"message": "1"})
        assert (await alice.recv())["type"] == "presence"
        seen = (await alice.recv())["id"]
        await visit.leave(alice)
        await asyncio.to_thread(put_forward, server, 31)
        again = {"since": seen, "epoch": alice.joined["epoch"], "resume": alice.joined["resume"], "events": True}
        joined = (await ask(visit, "alice", **again)).joined
        assert (joined["last_id"], joined["expired_through"], "gap" in joined) == (1, 1, False)


@in_loop
async def test_a_replayed_message_and_a_duplicate_say_how_long_the_server_keeps_them(start: StartServer) -> None:
    server = start(*AHEAD_APP)
    async with Visit(server) as visit:
        alice, bob = await ask(visit, "alice", resume=""), await visit.join("bob", "sports")
        began = time.monotonic()
        await alice.ask({"message": "1", "ref": "r"})
        assert "remaining_ms" not in await bob.recv()
        await asyncio.to_thread(put_forward, server, 20)
        late = await ask(visit, "late", since=0)
        told = [await late.recv(), await alice.ask({"message": "1", "ref": "r"})]
        passed = time.monotonic() - began
        assert all(10_000 - 1000 * passed - 1 <= frame["remaining_ms"] <= 10_000 for frame in told)
        assert "remaining_ms" not in await alice.ask({"message": "2", "ref": "s"})


@in_loop
async def test_evicted_messages_are_a_gap_with_their_ids(start: StartServer) -> None:
    server = start(*APP, CHAT_HISTORY_MESSAGES="2")
    async with Visit(server) as visit:
        alice = await ask(visit, "alice", resume="")
        for number in range(5):
            await alice.ask({"message": str(number)})
        late = await ask(visit, "late", since=1, epoch=alice.joined["epoch"])
        assert late.joined["gap"] == {"from": 2, "to": 3, "reason": "evicted"}
        assert [(await late.recv())["id"] for _ in range(2)] == [4, 5]


@in_loop
async def test_a_member_that_returns_to_an_empty_topic_joins_a_new_one(server: Server) -> None:
    async with Visit(server) as visit:
        alice = await ask(visit, "alice", resume="")
        await alice.ask({"message": "1"})
        await visit.leave(alice)
        again = await ask(visit, "carol", resume=alice.joined["resume"], since=1, epoch=alice.joined["epoch"])
        assert again.joined["gap"] == {"from": 2, "to": None, "reason": "restarted"}
        assert (again.joined["username"], again.joined["last_id"]) == ("carol", 0)
        assert again.joined["resume"] != alice.joined["resume"]
