"""The engine on the loopback: which nodes are found, what arrives in which order, and which node is given up."""

import asyncio
import json
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
import zenoh
from loguru import logger

from chat_actors.cluster import calls, mesh, zenoh_config
from chat_actors.cluster.calls import Call, Caller
from chat_actors.cluster.mesh import ZenohMesh
from tests.support.fakes import in_clean_loop, log_lines
from tests.support.server import PATIENCE, ROOT, free_ports

ADDRESS = "127.0.0.1", 0


class Peer:
    """A mesh, and what it has called back with, from which threads."""

    def __init__(self, name: str, endpoints: list[str], config: str = "") -> None:
        self.name = name
        self.mesh = ZenohMesh(endpoints, config)
        self.mail: list[bytes] = []
        self.seen: list[tuple[str, bool]] = []
        self.threads: set[int] = set()
        self._news = asyncio.Event()

    def open(self) -> str:
        """Open the mesh; returns the endpoint it has taken."""
        with log_lines() as lines:
            self.mesh.open(self.name, lambda data: self._note(self.mail, data), lambda *one: self._note(self.seen, one))
        (line,) = (line for line in lines if "endpoint bound" in line)
        return line.split("'endpoint': '")[1].split("'")[0]

    def _note(self, where: list[Any], what: Any) -> None:
        self.threads.add(threading.get_ident())
        where.append(what)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it is true, which something that arrives will make it."""
        while not condition():
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), PATIENCE)

    async def sees(self, other: "Peer", there: bool = True) -> None:
        await self.until(lambda: (other.name, there) in self.seen)


def free_endpoints(count: int) -> list[str]:
    return [f"tcp/127.0.0.1:{port}" for port in free_ports(count)]


@asynccontextmanager
async def closed_at_the_end(*all_of_them: Peer) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for peer in all_of_them:
            await peer.mesh.close()


@asynccontextmanager
async def unopened(*names: str) -> AsyncIterator[list[Peer]]:
    """Peers with an endpoint for each of them that the test opens; closed at the end."""
    endpoints = free_endpoints(len(names))
    all_of_them = [Peer(name, endpoints) for name in names]
    async with closed_at_the_end(*all_of_them):
        yield all_of_them


@asynccontextmanager
async def peers(*names: str) -> AsyncIterator[list[Peer]]:
    """Peers that see each other; closed at the end."""
    async with unopened(*names) as all_of_them:
        for peer in all_of_them:
            peer.open()
        for peer in all_of_them:
            for other in all_of_them:
                if other is not peer:
                    await peer.sees(other)
        yield all_of_them


@contextmanager
def logged(text: str) -> Iterator[asyncio.Event]:
    """Set when this is logged, on whatever thread."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def look(line: object) -> None:
        if text in str(line):
            loop.call_soon_threadsafe(event.set)

    sink = logger.add(look, level="DEBUG")
    try:
        yield event
    finally:
        logger.remove(sink)


class Wire:
    """A way to an endpoint. It can be cut, or held for a while. It ends when no call comes any more."""

    def __init__(self, port: int, to: int) -> None:
        self._port = port
        self._to = to
        self._open = asyncio.Event()
        self._open.set()
        self._ended = False
        self._writers: set[asyncio.StreamWriter] = set()  # of all connections so far
        self._tasks: set[asyncio.Task[None]] = set()  # references, so that they are not collected

    async def __aenter__(self) -> "Wire":
        self._server = await asyncio.start_server(self._accept, ADDRESS[0], self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        self._server.close()
        self.release()
        await asyncio.sleep(0)  # now every accepted connection has a task
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            self.cut()
            await asyncio.wait(others)
        self.cut()
        await asyncio.sleep(0)  # the closing takes one turn

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection(ADDRESS[0], self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(back)
        if self._ended:
            return
        for one, other in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._carry(one, other))
            self._tasks.add(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@in_clean_loop
async def test_two_find_each_other_and_all_mail_arrives_in_order() -> None:
    async with peers("alice", "bob") as (alice, bob):
        there = [b"%d " % number + bytes(number % 100 * 200) for number in range(5000)]  # 50 MB
        back = [b"%d" % number for number in range(5000)]
        for one, other in zip(there, back):
            assert alice.mesh.send("bob", one)
            assert bob.mesh.send("alice", other)
        await bob.until(lambda: len(bob.mail) == len(there))
        await alice.until(lambda: len(alice.mail) == len(back))
        assert bob.mail == there
        assert alice.mail == back


@in_clean_loop
async def test_mail_is_for_one_alone() -> None:
    async with peers("alice", "bob", "carol") as (alice, bob, carol):
        for number in range(100):
            assert alice.mesh.send("bob", b"%d for bob" % number)
            assert alice.mesh.send("carol", b"%d for carol" % number)
        for peer in (bob, carol):
            await peer.until(lambda peer=peer: len(peer.mail) == 100)  # type: ignore[misc]
            assert peer.mail == [b"%d for %s" % (number, peer.name.encode()) for number in range(100)]
        assert alice.mail == []


@in_clean_loop
async def test_a_node_that_comes_later_sees_the_others_and_is_seen() -> None:
    async with unopened("alice", "bob", "carol") as (alice, bob, carol):
        alice.open()
        for late in (bob, carol):
            late.open()
            await late.sees(alice)
            await alice.sees(late)
        await carol.sees(bob)
        await bob.sees(carol)
        assert alice.seen == [("bob", True), ("carol", True)]


@in_clean_loop
async def test_a_node_that_could_not_be_reached_at_first_is_tried_again() -> None:
    async with unopened("alice", "bob") as (alice, bob):
        with logged("node call failed") as tried:
            alice.open()
            await asyncio.wait_for(tried.wait(), PATIENCE)
        bob.open()
        await alice.sees(bob)
        await bob.sees(alice)


async def talk(one: Peer, other: Peer) -> None:
    """One sees the other, and its mail arrives."""
    await one.until(lambda: one.seen[-1:] == [(other.name, True)])
    other.mail.clear()
    assert one.mesh.send(other.name, b"hello")
    await other.until(lambda: other.mail == [b"hello"])


@pytest.mark.parametrize("how", ["cut", "held"])
@in_clean_loop
async def test_nodes_that_lose_each_other_find_each_other_again(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zenoh_config, "LEASE_MS", 1000)
    one, other, way = free_ports(3)
    alice = Peer("alice", [f"tcp/127.0.0.1:{one}", f"tcp/127.0.0.1:{way}"])
    bob = Peer("bob", [f"tcp/127.0.0.1:{other}", f"tcp/127.0.0.1:{one}"])
    async with Wire(way, other) as wire, closed_at_the_end(alice, bob):
        alice.open()
        bob.open()
        for _ in range(3):
            await talk(alice, bob)
            await talk(bob, alice)
            alice.seen.clear()
            bob.seen.clear()
            if how == "cut":
                wire.cut()
            else:
                wire.hold()
            for peer, there in ((alice, bob), (bob, alice)):
                await peer.sees(there, there=False)
                peer.mesh.forget(there.name)
            wire.release()


@in_clean_loop
async def test_two_endpoints_that_lead_to_one_node_are_one_node() -> None:
    one, other, way = free_ports(3)
    alice = Peer("alice", [f"tcp/127.0.0.1:{port}" for port in (one, other, way)])
    bob = Peer("bob", [f"tcp/127.0.0.1:{port}" for port in (other, one)])
    async with Wire(way, other), closed_at_the_end(alice, bob):
        alice.open()
        bob.open()
        await alice.sees(bob)
        for number in range(100):
            assert alice.mesh.send("bob", b"%d" % number)
        await bob.until(lambda: len(bob.mail) == 100)
        assert bob.mail == [b"%d" % number for number in range(100)]
        await bob.mesh.close()
        await alice.sees(bob, there=False)
        assert alice.seen == [("bob", True), ("bob", False)]


@in_clean_loop
async def test_it_calls_back_in_the_thread_of_the_loop_alone() -> None:
    async with peers("alice", "bob") as (alice, bob):
        assert alice.mesh.send("bob", b"hello")
        await bob.until(lambda: bob.mail == [b"hello"])
        await bob.mesh.close()
        await alice.sees(bob, there=False)
        assert alice.threads == bob.threads == {threading.get_ident()}


@in_clean_loop
async def test_each_takes_the_first_endpoint_that_it_can_listen_on() -> None:
    with socket.socket() as taken:
        taken.bind(ADDRESS)
        first, *others = [f"tcp/127.0.0.1:{port}" for port in (taken.getsockname()[1], *free_ports(2))]
        alice, bob, carol = [Peer(name, [first, *others]) for name in ("alice", "bob", "carol")]
        async with closed_at_the_end(alice, bob, carol):
            assert [alice.open(), bob.open()] == others
            with pytest.raises(OSError, match=f"^cannot listen on any of {', '.join([first, *others])}$"):
                carol.open()
            await alice.mesh.close()
            assert carol.open() == others[0]


@in_clean_loop
async def test_an_endpoint_that_somebody_takes_in_between_is_passed_over() -> None:
    endpoints = free_endpoints(2)
    alice, bob, carol = [Peer(name, endpoints) for name in ("alice", "bob", "carol")]
    async with closed_at_the_end(alice, bob, carol):
        alice.open()
        with pytest.MonkeyPatch.context() as patch, log_lines() as lines:
            patch.setattr(zenoh_config, "is_free", lambda endpoint: True)
            assert bob.open() == endpoints[1]
            with pytest.raises(OSError, match=f"^cannot listen on any of {', '.join(endpoints)}: .*in use"):
                carol.open()
        assert f"'endpoint': '{endpoints[0]}'" in next(line for line in lines if "DEBUG endpoint not bound" in line)
        await alice.sees(bob)


@in_clean_loop
async def test_a_node_that_is_closed_is_seen_as_gone_and_comes_back_as_another() -> None:
    async with peers("alice", "bob") as (alice, bob):
        await bob.mesh.close()
        await alice.sees(bob, there=False)
        dave = Peer("dave", bob.mesh._endpoints)
        async with closed_at_the_end(dave):
            dave.open()
            await alice.sees(dave)
            assert dave.mesh.send("alice", b"hello")
            await alice.until(lambda: alice.mail == [b"hello"])
        assert alice.seen.count(("bob", False)) == 1


@in_clean_loop
async def test_a_close_sends_what_waits() -> None:
    async with peers("alice", "bob") as (alice, bob):
        mail = [b"%d " % number + bytes(10_000) for number in range(3000)]
        for one in mail:
            assert alice.mesh.send("bob", one)
        await alice.mesh.close()
        await bob.until(lambda: len(bob.mail) == len(mail))
        assert bob.mail == mail


@in_clean_loop
async def test_once_closed_it_can_be_closed_again_and_what_is_said_is_for_nobody() -> None:
    async with peers("alice", "bob") as (alice, bob):
        await alice.mesh.close()
        await alice.mesh.close()
        await bob.sees(alice, there=False)
        assert alice.mesh.send("bob", b"lost")  # no node is given up because of it
        alice.mesh.forget("bob")
        dave = Peer("dave", alice.mesh._endpoints)
        async with closed_at_the_end(dave):
            dave.open()
            await dave.sees(bob)
            assert dave.mesh.send("bob", b"hello")
            await bob.until(lambda: bool(bob.mail))
            assert bob.mail == [b"hello"]


@in_clean_loop
async def test_a_close_waits_for_a_call_that_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zenoh_config, "LEASE_MS", 500)
    with socket.create_server(ADDRESS) as silent:
        alice = Peer("alice", [f"tcp/127.0.0.1:{port}" for port in (*free_ports(1), silent.getsockname()[1])])
        alice.open()
        connection, _ = await asyncio.to_thread(silent.accept)
        with connection:
            await alice.mesh.close()
        assert not any(caller.is_alive() for caller in alice.mesh._callers)


@in_clean_loop
async def test_one_that_was_never_opened_can_be_closed() -> None:
    await ZenohMesh([], "").close()


def test_what_comes_when_the_loop_has_ended_is_dropped() -> None:
    endpoints = free_endpoints(2)
    left_open: list[Peer] = []

    async def leave_open() -> None:
        left_open.append(Peer("alice", endpoints))
        left_open[0].open()

    async def call_there(dropped: asyncio.Event) -> None:
        bob = Peer("bob", endpoints)
        async with closed_at_the_end(bob):
            bob.open()
            await asyncio.wait_for(dropped.wait(), PATIENCE)

    async def watch_the_log() -> None:
        with logged("mail dropped: loop closed") as dropped:
            await call_there(dropped)

    asyncio.run(leave_open())
    (alice,) = left_open
    try:
        asyncio.run(watch_the_log())
        assert alice.mail == []
    finally:
        alice.mesh._close({}, {}, alice.mesh._session)


def test_only_the_token_of_its_own_node_ends_a_call() -> None:
    call = Call(None)
    assert [call.hear("one", True), call.hear("two", True), call.hear("two", False)] == [True, False, False]
    assert call.node == "one" and not call.over.is_set()
    assert not call.hear("one", False)
    assert call.over.is_set()


@in_clean_loop
async def test_a_node_is_there_while_both_can_be_heard() -> None:
    one, seen = ZenohMesh([], ""), list[tuple[str, bool]]()
    one._seen = lambda *what: seen.append(what)
    call, other = Call(None), Call(None)
    call.node = other.node = "bob"
    one._reached(call)
    assert seen == []
    one._called("bob", "first", True)
    assert seen == [("bob", True)]
    one._called("bob", "second", True)
    one._called("bob", "first", False)
    one._reached(other)
    assert other.over.is_set()
    one._lost(other)
    assert seen == [("bob", True)]
    one._called("bob", "second", False)
    assert seen == [("bob", True), ("bob", False)]
    one._called("bob", "third", True)
    one._lost(call)
    one._lost(call)
    assert seen == [("bob", True), ("bob", False)] * 2
    one._reached(other)  # too late
    assert seen == [("bob", True), ("bob", False)] * 2


def test_why_nobody_answers_is_said_once_until_it_is_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = ["refused", "refused", "no route", "no route", "refused", "refused"]
    wanted, tried, all_tried = iter(reasons), [], threading.Event()

    def fails(config: object) -> None:
        reason = next(wanted, reasons[-1])
        tried.append(reason)
        if len(tried) > len(reasons):
            all_tried.set()
        raise zenoh.ZError(reason)

    monkeypatch.setattr(calls, "CALL_AGAIN_SECONDS", 0)
    monkeypatch.setattr(zenoh, "open", fails)
    with log_lines() as lines:
        caller = Caller("me", None, lambda _: None, lambda _: None)
        assert all_tried.wait(PATIENCE)
        caller.end()
        caller.join(PATIENCE)
    said = [line.split("'error': '")[1].split("'")[0] for line in lines if "DEBUG node call failed" in line]
    assert said == ["refused", "no route", "refused"] and not caller.is_alive()


# Mail that waits for a node that takes nothing.


class FakePublisher:
    """A publisher whose puts end one by one, each when the test says so."""

    def __init__(self, key: str) -> None:
        self.node = key.rpartition("/")[2]
        self.entered: queue.Queue[bytes] = queue.Queue()  # of the puts that have begun
        self.may_go = threading.Semaphore(0)
        self.put_through: list[bytes] = []
        self.wrong: Exception = RuntimeError()
        self.fails = False
        self.undeclared = threading.Event()

    def put(self, data: bytes) -> None:
        self.entered.put(data)
        self.may_go.acquire()
        if self.fails:
            raise zenoh.ZError("session closed")
        self.put_through.append(data)

    def undeclare(self) -> None:
        self.undeclared.set()

    def is_putting(self) -> bytes:
        return self.entered.get(timeout=PATIENCE)


class FakeSession:
    def __init__(self) -> None:
        self.publishers: list[FakePublisher] = []
        self.asked: list[str] = []
        self.closed = False

    def get(self, key: str, **how: object) -> list[object]:
        self.asked.append(key.rpartition("/")[2])
        return []

    def declare_publisher(self, key: str, **how: object) -> FakePublisher:
        self.publishers.append(FakePublisher(key))
        return self.publishers[-1]

    def close(self) -> None:
        self.closed = True

    def let_all_go(self) -> None:
        for publisher in self.publishers:
            publisher.may_go.release(1000)


@asynccontextmanager
async def held_mesh() -> AsyncIterator[tuple[ZenohMesh, FakeSession]]:
    one, session = ZenohMesh([], ""), FakeSession()
    one._session, one._loop = session, asyncio.get_running_loop()
    for name in ("bob", "carol"):
        one._calls[name] = Call(session)
    try:
        yield one, session
    finally:
        session.let_all_go()
        await one.close()
        assert session.closed
        for publisher in session.publishers:
            assert publisher.undeclared.wait(PATIENCE)


@in_clean_loop
async def test_a_node_for_which_too_much_waits_is_given_up_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_WAITING", 10)
    async with held_mesh() as (one, session):
        assert one.send("bob", b"123456")
        assert session.publishers[0].is_putting() == b"123456"  # it counts as waiting until its put has ended
        assert one.send("bob", b"7890")
        assert not one.send("bob", b"x")
        assert one.send("carol", b"1234567890")
        assert [publisher.node for publisher in session.publishers] == ["bob", "carol"]


@in_clean_loop
async def test_what_is_through_does_not_wait_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_WAITING", 10)
    async with held_mesh() as (one, session):
        assert one.send("bob", b"123456")
        assert one.send("bob", b"7890")
        (bob,) = session.publishers
        assert bob.is_putting() == b"123456"
        bob.may_go.release()
        assert bob.is_putting() == b"7890"
        assert one.send("bob", b"abcdef")
        assert not one.send("bob", b"x")
        session.let_all_go()
        assert bob.is_putting() == b"abcdef"
    assert bob.put_through == [b"123456", b"7890", b"abcdef"]


@in_clean_loop
async def test_mail_for_a_forgotten_node_is_dropped_and_new_mail_does_not_wait_for_it() -> None:
    async with held_mesh() as (one, session):
        for data in (b"one", b"two", b"three"):
            assert one.send("bob", data)
        (before,) = session.publishers
        assert before.is_putting() == b"one"
        one.forget("bob")
        assert one.send("bob", b"four")
        after = session.publishers[1]
        assert after.is_putting() == b"four"
        assert not before.undeclared.is_set()
        session.let_all_go()
        assert before.undeclared.wait(PATIENCE)
        assert before.put_through == [b"one"]
    assert after.put_through == [b"four"]


@in_clean_loop
async def test_a_call_that_is_over_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(self: FakeSession, key: str, **how: object) -> FakePublisher:
        raise zenoh.ZError("session closed")

    async with held_mesh() as (one, session):
        with monkeypatch.context() as patch:
            patch.setattr(FakeSession, "declare_publisher", closed)
            assert one.send("bob", b"lost")  # the mesh is about to tell that the node is gone
        assert one.send("dave", b"lost")
        assert one.send("bob", b"hello")
        assert session.publishers[0].is_putting() == b"hello"


@in_clean_loop
async def test_forgetting_a_node_that_was_sent_nothing_changes_nothing() -> None:
    async with held_mesh() as (one, session):
        one.forget("bob")
        assert session.publishers == []


@in_clean_loop
async def test_what_cannot_be_sent_is_dropped_and_what_follows_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_WAITING", 3)
    async with held_mesh() as (one, session):
        with log_lines() as lines:
            assert one.send("bob", b"on")
            (bob,) = session.publishers
            assert bob.is_putting() == b"on"
            assert one.send("bob", b"e")
            bob.fails = True
            bob.may_go.release()
            assert bob.is_putting() == b"e"
            bob.fails = False
            assert one.send("bob", b"12")
            session.let_all_go()
            assert bob.is_putting() == b"12"
        assert [line for line in lines if "DEBUG mail dropped: send failed {'error': 'session closed'}" in line]
    assert bob.put_through == [b"e", b"12"]


# Mail that comes while the loop is busy.


class Waiting(threading.Condition):
    """A condition that tells when a thread waits, and whether it was notified."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.told: list[bool] = []

    def wait(self, timeout: Optional[float] = None) -> bool:
        self.begun.set()
        self.told.append(super().wait(timeout))
        return self.told[-1]


def comes(one: ZenohMesh, take: Callable[..., None], data: bytes) -> threading.Thread:
    """Hand mail over in a thread, as zenoh does."""
    thread = threading.Thread(target=one._hand_over, args=(take, data), kwargs={"size": len(data)})
    thread.start()
    return thread


@pytest.mark.parametrize("how", ["taken", "closed"])
@in_clean_loop
async def test_mail_waits_where_too_much_is_unread_until_that_is_taken_or_the_mesh_closed(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh, "MOST_UNREAD", 10)
    async with held_mesh() as (one, _):
        one._taken = waiting = Waiting()
        read: list[object] = []
        threads = [comes(one, read.append, b"123456")]
        threads[0].join(PATIENCE)
        threads.append(comes(one, read.append, b"abcdef"))
        assert waiting.begun.wait(PATIENCE)
        one._hand_over(read.append, "a token")  # does not wait
        assert one._unread == 6 and read == []
        if how == "closed":
            await one.close()
        while len(read) < 3:
            await asyncio.sleep(0)
        assert read == [b"123456", "a token", b"abcdef"]
        for thread in threads:
            thread.join(PATIENCE)
        assert waiting.told == [True]


@in_clean_loop
async def test_mail_that_is_bigger_than_all_that_may_wait_comes_when_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mesh, "MOST_UNREAD", 3)
    async with held_mesh() as (one, _):
        read: list[bytes] = []
        comes(one, read.append, b"123456").join(PATIENCE)
        while not read:
            await asyncio.sleep(0)
        assert read == [b"123456"] and one._unread == 0


def test_nothing_waits_for_a_loop_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "MOST_UNREAD", 3)
    one, session = ZenohMesh([], ""), FakeSession()
    one._session, one._loop = session, asyncio.new_event_loop()
    comes(one, pytest.fail, b"12").join(PATIENCE)  # the loop will not read it
    one._loop.close()
    with log_lines() as lines:
        for data in (b"123", b"456"):
            comes(one, pytest.fail, data).join(PATIENCE)
    assert one._unread == 0 and one._inbox == []
    assert [line for line in lines if "DEBUG mail dropped: loop closed" in line] == lines[:2] == lines


@in_clean_loop
async def test_mail_that_meets_a_bug_costs_no_other() -> None:
    def fails(data: bytes) -> None:
        raise RuntimeError("a bug")

    async with held_mesh() as (one, _):
        read: list[bytes] = []
        with log_lines() as lines:
            for take in (fails, read.append, fails, read.append):
                one._hand_over(take, b"hello", size=5)
            while len(read) < 2:
                await asyncio.sleep(0)
        assert sum("ERROR mail handler failed" in line for line in lines) == 2


@in_clean_loop
async def test_a_node_whose_loop_is_busy_loses_nothing_and_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "MOST_UNREAD", 1_000_000)
    sent = [number.to_bytes(2, "big") * 50_000 for number in range(200)]
    async with peers("alice", "bob") as (alice, bob):
        alice.mesh._taken = waiting = Waiting()
        for data in sent:
            assert bob.mesh.send("alice", data)
        assert waiting.begun.wait(PATIENCE)  # and so does the loop
        assert alice.mesh._unread <= 1_000_000
        await alice.until(lambda: len(alice.mail) == len(sent))
        assert alice.mail == sent
        assert alice.seen == [("bob", True)] and bob.seen == [("alice", True)]


# The end.


@in_clean_loop
async def test_a_close_does_not_wait_for_ever_for_a_node_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "CLOSE_SECONDS", 0.01)
    async with held_mesh() as (one, session):
        assert one.send("bob", b"hello")
        await one.close()
        assert session.closed
        assert session.asked == []  # it would not answer that either
        assert session.publishers[0].put_through == []


@in_clean_loop
async def test_a_close_asks_those_that_took_all_whether_it_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "CLOSE_SECONDS", PATIENCE)
    async with held_mesh() as (one, session):
        for node in ("bob", "carol"):
            assert one.send(node, b"hello")
        one.forget("carol")
        session.let_all_go()
        await one.close()
        assert session.asked == ["bob"]


# Where a process may listen.


@in_clean_loop
async def test_a_close_is_not_stopped_by_a_call_that_is_over() -> None:
    async with peers("alice", "bob") as (alice, bob):
        assert alice.mesh.send("bob", b"hello")
        await bob.until(lambda: bob.mail == [b"hello"])
        alice.mesh._calls["bob"].session.close()
        await alice.mesh.close()


@pytest.mark.parametrize("protocol", ["tcp", "tls", "ws"])
def test_an_endpoint_is_free_unless_its_port_is_in_use(protocol: str) -> None:
    with socket.create_server(ADDRESS) as taken:
        endpoint = f"{protocol}/127.0.0.1:{taken.getsockname()[1]}"
        assert not zenoh_config.is_free(endpoint)
        assert not zenoh_config.is_free(f"{endpoint}#iface=lo")
    assert zenoh_config.is_free(endpoint)
    assert zenoh_config.is_free(f"{endpoint}#iface=lo")


def test_an_endpoint_of_another_machine_or_of_none_is_not_free() -> None:
    (port,) = free_ports(1)
    for host in ("192.0.2.1", "nowhere.invalid", "a..b", f"{'a' * 70}.example"):
        assert not zenoh_config.is_free(f"tcp/{host}:{port}")


def test_a_host_with_an_address_that_is_not_of_this_machine_may_have_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def addresses(host: str, port: int, type: int) -> list[Any]:
        return [(socket.AF_INET, type, 0, "", (address, port)) for address in ("192.0.2.1", "127.0.0.1")]

    monkeypatch.setattr("socket.getaddrinfo", addresses)
    with socket.create_server(ADDRESS) as taken:
        endpoint = f"tcp/two-addresses.example:{taken.getsockname()[1]}"
        assert not zenoh_config.is_free(endpoint)
    assert zenoh_config.is_free(endpoint)


def test_zenoh_decides_about_a_protocol_without_tcp_ports() -> None:
    with socket.create_server(ADDRESS) as taken:
        for protocol in ("udp", "quic", "unknown"):
            assert zenoh_config.is_free(f"{protocol}/127.0.0.1:{taken.getsockname()[1]}")


@in_clean_loop
async def test_a_protocol_that_zenoh_does_not_know_is_named() -> None:
    one = Peer("alice", ["unknown/127.0.0.1:1"])
    with pytest.raises(OSError, match=r"^cannot listen on any of unknown/127.0.0.1:1: .*unknown"):
        one.open()


# The configuration file.


@in_clean_loop
async def test_the_file_is_used_but_for_what_makes_a_node(tmp_path: Path) -> None:
    file = tmp_path / "zenoh.json5"
    file.write_text(
        "{mode: 'client', metadata: {place: 'here'}, listen: {endpoints: ['tcp/192.0.2.1:1']}} // a comment"
    )
    endpoints = free_endpoints(2)
    alice, bob = [Peer(name, endpoints, str(file)) for name in ("alice", "bob")]
    configured = zenoh_config.configured(alice.mesh._config, endpoints, [])
    assert json.loads(configured.get_json("metadata")) == {"place": "here"}
    assert json.loads(configured.get_json("transport/shared_memory/enabled")) is False
    async with closed_at_the_end(alice, bob):
        assert [alice.open(), bob.open()] == endpoints
        await alice.sees(bob)


@in_clean_loop
async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    wrong = tmp_path / "wrong.json5"
    wrong.write_text("{mode: ")
    unknown = tmp_path / "unknown.json5"
    unknown.write_text("{no_such_setting: 1}")
    for file in (tmp_path / "missing.json5", tmp_path, wrong, unknown):
        with pytest.raises(OSError, match=str(file)):
            Peer("alice", [f"tcp/127.0.0.1:{port}"], str(file)).open()


# A process without a cluster.

START_AND_STOP = """
import asyncio, sys
from chat_actors.app import app

async def main():
    async with app.router.lifespan_context(app):
        pass

asyncio.run(main())
print(sorted({"zenoh", "chat_actors.cluster.mesh", "chat_actors.cluster.node"} & {*sys.modules}))
"""


@pytest.mark.parametrize(("clustered", "loaded"), [(False, 0), (True, 3)], ids=["alone", "a node"])
def test_the_engine_is_loaded_only_with_a_cluster(clustered: bool, loaded: int) -> None:
    environment = {"PYTHONPATH": str(ROOT)}
    if clustered:
        environment["CHAT_CLUSTER"] = f"tcp/127.0.0.1:{free_ports(1)[0]}"
    told = subprocess.run(
        [sys.executable, "-c", START_AND_STOP],
        env=environment,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=PATIENCE,
        check=True,
    ).stdout
    assert len(told.strip("[]\n").split()) == loaded
