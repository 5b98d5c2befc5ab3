"""The end of one worker of several: what its members see, and that the others see nothing."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Callable

import pytest
from uvicorn.supervisors.multiprocess import Process
from websockets.exceptions import ConnectionClosed

from chat_actors.client import Chat, Gap, connect
from chat_actors.protocol.frames import Message
from tests.support.server import APP, PATIENCE, Client, Server, Visit, Workers, in_loop
from tests.support.workers import Pages, connect_to, enter, home_of, open_descriptors, stopped

StartServer = Callable[..., Server]

MANY = [f"topic {number}" for number in range(8)]  # some for each worker
TWO = "--workers", "2"
GUNICORN = "gunicorn", "chat_actors.app:app", "-k", "uvicorn_worker.UvicornWorker", "--bind", "127.0.0.1:0"


async def homes(server: Server, members: dict[str, Client]) -> dict[str, int]:
    """The worker of each topic."""
    return {topic: await home_of(server, member) for topic, member in members.items()}


async def has_descriptors(process: int, count: int) -> None:
    """Wait until a process has no more descriptors open than so many."""
    for _ in range(round(PATIENCE / 0.05)):
        if open_descriptors(process) <= count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{open_descriptors(process)} descriptors are open, not {count}")


@asynccontextmanager
async def chats(server: Server) -> "AsyncIterator[dict[str, Chat]]":
    """A client alice in each topic, that has heard of one message."""
    async with AsyncExitStack() as stack:
        yield {topic: await stack.enter_async_context(connect(server.url, "alice", topic)) for topic in MANY}


async def hear(chat: Chat, words: str) -> list[object]:
    """Read until that message; what came before it."""
    before: list[object] = []
    async for event in chat:
        if isinstance(event, Message) and event.message == words:
            break
        before.append(event)
    return before


async def come_back(visit: Visit, username: str, topic: str) -> Client:
    """Join; once more where the connection was on its way to a worker that ended."""
    while True:
        client = await visit.connect()
        with suppress(ConnectionClosed):
            await client.join(username, topic)
            return client
        assert client.connection.close_code == 1012


@in_loop
async def test_a_worker_that_is_killed_costs_its_own_topics_what_they_had_and_no_other(
    start: StartServer,
) -> None:
    server = start(*APP, kind=Workers, count=3)
    async with Visit(server) as visit, chats(server) as alices:
        bobs = {topic: await visit.join("bob", topic) for topic in MANY}
        for topic, bob in bobs.items():
            await bob.ask({"message": "before"})
            assert await hear(alices[topic], "before") == []
        home = await homes(server, bobs)
        killed = home[MANY[0]]
        lost, kept = [topic for topic in MANY if home[topic] == killed], [t for t in MANY if home[t] != killed]
        assert lost and kept
        os.kill(killed, signal.SIGKILL)
        for topic in lost:
            with pytest.raises(ConnectionClosed):
                await bobs[topic].recv()
            bobs[topic].joined = {}  # nobody has seen it leave
            bobs[topic] = await come_back(visit, "bob", topic)
        for topic, bob in bobs.items():
            ack = await bob.ask({"message": "after"})
            seen = await hear(alices[topic], "after")
            if topic in kept:
                assert (ack["id"], seen) == (2, [])
            else:
                assert ack["id"] == 1
                assert [event for event in seen if isinstance(event, Gap)] == [Gap(2, None, "restarted")]


@in_loop
async def test_a_stopped_worker_holds_up_its_own_topics_alone_and_nothing_leaks(start: StartServer) -> None:
    patient = "--timeout-worker-healthcheck", "60"  # else uvicorn would kill the worker
    server = start(*APP, *patient, kind=Workers)
    async with Visit(server) as visit:
        members = {topic: await visit.join("alice", topic) for topic in MANY}
        home = await homes(server, members)
        worker, other = home[MANY[0]], next(one for one in server.processes() if one != home[MANY[0]])
        before = {process: open_descriptors(process) for process in server.processes()}
        async with Visit(server) as later:
            late = [await connect_to(later, other) for _ in range(20)]
            with stopped(worker):
                joins = [one.ask({"username": "late", "topic": MANY[0]}) for one in late]
                assert {frame["error"] for frame in await asyncio.gather(*joins)} == {"server_full"}
                assert await asyncio.gather(*(one.close_code() for one in late)) == [1013] * 20
                for topic in MANY:
                    if home[topic] == other:
                        assert (await members[topic].ask({"message": "on"}))["type"] == "ack"
                again = await later.connect()
                assert (await again.ask({"username": "again", "topic": MANY[0]}))["error"] == "server_full"
                for number in range(8):  # nothing new begins at a worker that is known to hang
                    await later.join("new", f"new topic {number}")
                asker = await later.connect()
                listed = (await asker.ask("/list"))["topics"]
                assert len(listed) == 16 and {one["users"] for one in listed} == {1}
            after = await later.join("after", MANY[0])
            assert after.joined["users"] == 2
            for topic in MANY:
                assert (await members[topic].ask({"message": "still here"}))["type"] == "ack"
        for process in before:
            await has_descriptors(process, before[process])


@in_loop
async def test_a_connection_on_its_way_to_a_worker_that_is_killed_is_closed_and_may_return(start: StartServer) -> None:
    server = start(*APP, kind=Workers)
    async with Visit(server) as visit:
        alice = await visit.join("alice", MANY[0])
        worker = await home_of(server, alice)
        (other,) = {*server.processes()} - {worker}
        late = [await connect_to(visit, other) for _ in range(20)]
        asker = await connect_to(visit, other)
        before = open_descriptors(other)
        with stopped(worker):
            for one in late:
                await one.send({"username": "late", "topic": MANY[0]})
            await asker.ask("/list")  # so that the joins have been read
            os.kill(worker, signal.SIGKILL)
            assert await asyncio.gather(*(one.close_code() for one in late)) == [1012] * 20
        alice.joined = {}  # nobody has seen it leave
        await has_descriptors(other, before - 20)
        for one in late:
            assert not one.joined
            await come_back(visit, "late", MANY[0])
        assert (await asker.ask("/list"))["topics"] == [{"topic": MANY[0], "users": 20}]


async def the_hour(member: Client) -> int:
    """Read on until the server closes for a restart; the milliseconds after which it asks the member to come back."""
    assert await member.close_code() == 1012
    frame = json.loads(member.texts[-1])
    assert frame["type"] == "closing"
    moment: int = frame["retry_after_ms"]
    return moment


def end_one(server: Server) -> None:
    """One worker less (uvicorn)."""
    os.kill(server.pid, signal.SIGTTOU)


def replace_all(server: Server) -> None:
    """Each worker makes room for a new one."""
    os.kill(server.pid, signal.SIGHUP)


def replace_one(server: Server) -> None:
    """One worker is told to end, and its parent starts another."""
    os.kill(server.processes()[0], signal.SIGTERM)


# What replaces workers: command, act, and how many new ones there will be.
UVICORN_2 = *APP, *TWO
ENDS: dict[str, tuple[tuple[str, ...], Callable[[Server], None], int]] = {
    "uvicorn, SIGTTOU": (UVICORN_2, end_one, 0),
    "uvicorn, SIGHUP": (UVICORN_2, replace_all, 2),
    "uvicorn, a worker ends": (UVICORN_2, replace_one, 1),
    "gunicorn, SIGTTOU": ((*GUNICORN, "-w", "2"), end_one, 0),
    "gunicorn, SIGHUP": ((*GUNICORN, "-w", "2"), replace_all, 2),
    "gunicorn, a worker ends": ((*GUNICORN, "-w", "2"), replace_one, 1),
}


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(("command", "act", "new"), ENDS.values(), ids=ENDS)
@in_loop
async def test_the_members_of_a_worker_that_goes_come_back_within_a_second(
    start: StartServer, command: tuple[str, ...], act: Callable[[Server], None], new: int
) -> None:
    server = start(*command)
    server.clean_status = 0
    server.wait_for("Application startup complete", count=2)
    async with Visit(server) as visit, chats(server) as alices:
        bobs = {}
        for topic in MANY:
            bobs[topic] = await visit.connect()
            await bobs[topic].ask({"username": "bob", "topic": topic, "events": True})
            await alices[topic].send("before")
        before = server.processes()
        home = await homes(server, bobs)
        assert {*home.values()} == {*before}
        # Older uvicorn ends the last of its workers before the first new one serves.
        most = 1000 if act is not replace_all or hasattr(Process, "wait_until_ready") else 1500
        act(server)
        await server.logged("Finished server process", count=max(1, new))
        await server.logged("Application startup complete", count=2 + new)
        gone = {*before} - {*server.processes()}
        assert len(gone) == max(1, new)
        lost = [topic for topic in MANY if home[topic] in gone]
        assert max(await asyncio.gather(*(the_hour(bobs[topic]) for topic in lost))) < most
        for topic, alice in alices.items():
            await alice.send("after")
            carol = await visit.join("carol", topic)
            assert (await carol.ask({"message": "hello"}))["recipients"] == (1 if topic in lost else 2)
            assert isinstance((await hear(alice, "hello")), list)


@in_loop
async def test_a_worker_more_takes_new_topics(start: StartServer) -> None:
    server = start(*APP, kind=Workers)
    async with Visit(server) as visit:
        members = {topic: await visit.join("alice", topic) for topic in MANY}
        home = await homes(server, members)
        os.kill(server.pid, signal.SIGTTIN)
        await server.logged("Application startup complete", count=3)
        new = server.processes()[2]
        more = {f"new {topic}": await visit.join("alice", f"new {topic}") for topic in MANY}
        assert {*(await homes(server, more)).values()} == {*server.processes()}
        assert await homes(server, members) == home
        bob = await enter(visit, new, "bob", MANY[0])
        assert bob.joined["users"] == 2


LIMIT_REACHED = re.compile(r"Traceback|\b(ERROR|CRITICAL)\b|\bWARNING\b(?! +Maximum request limit of 1 exceeded)")


@in_loop
async def test_a_worker_that_has_served_its_requests_is_replaced_and_its_members_go_on(start: StartServer) -> None:
    server = start(*APP, "--limit-max-requests", "1", kind=Workers)
    async with Visit(server) as visit:
        bobs = {}
        for topic in MANY:
            bobs[topic] = await visit.connect()
            await bobs[topic].ask({"username": "bob", "topic": topic, "events": True})
        home = await homes(server, bobs)
        worker = server.processes()[0]
        with Pages(server, worker):  # one request
            await server.logged("Finished server process")
        await server.logged("Application startup complete", count=3)
        assert worker not in server.processes()
        for topic, bob in bobs.items():
            if home[topic] == worker:
                assert await the_hour(bob) < 1000
                bob = await visit.join("bob", topic)
            assert (await bob.ask("/list"))["topics"][0]["users"] == 1
    server.terminate(trouble=LIMIT_REACHED)


@in_loop
async def test_the_members_of_a_server_that_is_reloaded_come_back_within_a_second(
    start: StartServer, tmp_path: Path
) -> None:
    watched = tmp_path / "watched.py"
    watched.write_text("")
    server = start(*APP, "--reload", "--reload-dir", str(tmp_path))
    server.wait_for("Application startup complete")
    async with Visit(server) as visit:
        bob = await visit.connect()
        await bob.ask({"username": "bob", "topic": "sports", "events": True})
        ending = asyncio.ensure_future(the_hour(bob))
        while not ending.done():  # it looks for changes now and then
            watched.write_text(watched.read_text() + "\n")
            await asyncio.wait({ending}, timeout=0.2)
        assert ending.result() < 1000
        assert (await visit.join("bob", "sports")).joined["users"] == 1
    server.kill()
