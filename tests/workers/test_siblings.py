"""Where the workers of one server meet: the gate, the names, and who has them."""

import asyncio
import errno
import os
import socket

import pytest

from chat_actors.workers import siblings
from chat_actors.workers.board import ROWS
from chat_actors.workers.siblings import Found, Meeting, friend
from tests.support.crew.child import Child
from tests.support.crew.meeting import bound, find
from tests.support.fakes import in_clean_loop

# The gate.


@in_clean_loop
async def test_one_worker_starts_after_the_other() -> None:
    with bound() as sockets:
        one, steps = Meeting(sockets), [lambda: asyncio.run(Meeting(sockets).begin()), Meeting(sockets).go]
        with Child(*steps) as child:
            child.step()
            waiting = asyncio.ensure_future(one.begin())
            await asyncio.sleep(0)
            assert not waiting.done()
            child.step()
            await asyncio.wait_for(waiting, 10)
        one.go()


@in_clean_loop
async def test_a_worker_that_ends_in_the_gate_lets_the_next_one_in() -> None:
    with bound() as sockets:
        with Child(lambda: asyncio.run(Meeting(sockets).begin())) as child:
            child.step()
            waiting = asyncio.ensure_future(Meeting(sockets).begin())
            await asyncio.sleep(0)
            assert not waiting.done()
            child.kill()
            await asyncio.wait_for(waiting, 10)
        Meeting(sockets).go()


@in_clean_loop
async def test_nobody_begins_where_sockets_have_no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EINVAL, "no locks")

    monkeypatch.setattr(siblings, "lock", none)
    with bound() as sockets, pytest.raises(OSError, match="no locks"):
        await asyncio.wait_for(Meeting(sockets).begin(), 10)


# The slots, and the names.


class Others:
    """Workers of other processes that have taken a slot each."""

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        self.children: list[Child] = []
        self.sockets: list[socket.socket] = []

    def add(self) -> int:
        """Start one; return its slot."""

        def listen() -> int:
            place = self.meeting.listen(find(self.meeting))
            assert place is not None
            self.sockets.append(place[1])
            return place[0]

        def accept() -> None:
            for _ in range(3):
                self.sockets[0].accept()[0].close()

        child = Child(listen, accept)
        self.children.append(child)
        return int(child.step())

    def __enter__(self) -> "Others":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.kill()


def close(*some: "socket.socket | Found") -> None:
    for one in some:
        (one.sock if isinstance(one, Found) else one).close()


def test_each_worker_has_the_lowest_slot_that_is_free() -> None:
    with bound() as sockets, Others(Meeting(sockets)) as others:
        assert [others.add() for _ in range(3)] == [0, 1, 2]
        others.children[1].kill()
        assert others.add() == 1


@in_clean_loop
async def test_a_worker_finds_those_that_are_there_and_not_itself() -> None:
    with bound() as sockets, Others(Meeting(sockets)) as others:
        for _ in range(3):
            others.add()
        others.children[1].kill()
        meeting = Meeting(sockets)
        found = await meeting.find()
        processes = [others.children[place].process for place in (0, 2)]
        assert sorted((one.slot, one.process) for one in found) == [*zip((0, 2), processes)]
        place = meeting.listen(found)
        assert place is not None and place[0] == 1
        again = await meeting.find(own=1)
        assert sorted(one.slot for one in again) == [0, 2]
        close(*found, *again, place[1])


def test_no_slot_is_left_if_all_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat_actors.workers.siblings.ROWS", 2)
    with bound() as sockets, Others(Meeting(sockets)) as others:
        meeting = Meeting(sockets)
        assert (others.add(), others.add()) == (0, 1)
        assert meeting.listen([]) is None


def test_a_slot_of_a_worker_that_was_found_is_taken_whatever_its_lock_says() -> None:
    with bound() as sockets, socket.socket() as any_one:
        place = Meeting(sockets).listen([Found(0, 1, any_one), Found(2, 3, any_one)])
        assert place is not None and place[0] == 1
        close(place[1])


@in_clean_loop
async def test_workers_of_different_servers_do_not_meet() -> None:
    with bound() as sockets, bound() as foreign, Others(Meeting(sockets)) as others:
        others.add()
        for sockets_of_another in (foreign, {**sockets, **foreign}):
            assert await asyncio.wait_for(Meeting(sockets_of_another).find(), 10) == []
        (found,) = await Meeting(dict(sockets)).find()
        close(found)


def test_no_name_can_be_known_before() -> None:
    with bound() as sockets:
        meeting = Meeting(sockets)
        places = [meeting.listen([]), meeting.listen([])]
        names = {place[1].getsockname() for place in places if place}
        assert len(names) == 2
        for place in places:
            assert place is not None
            close(place[1])


def imitation(meeting: Meeting, slot: object = 0) -> socket.socket:
    """A socket with a name like that of a worker, which anybody may make."""
    sock = siblings._unix_socket()
    sock.bind(f"\0{meeting._name}.{slot}.cafe")
    sock.listen(0)
    return sock


@in_clean_loop
async def test_a_name_that_another_user_has_made_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound() as sockets, Others(Meeting(sockets)) as others:
        meeting = Meeting(sockets)
        monkeypatch.setattr(siblings, "friend", lambda _: None)
        with imitation(meeting):
            assert await meeting.find() == []
        others.add()
        with imitation(meeting):
            monkeypatch.setattr(siblings, "friend", lambda sock: None if b"cafe" in sock.getpeername() else 17)
            (found,) = await asyncio.wait_for(meeting.find(), 10)
            assert (found.slot, found.process) == (0, 17)
            close(found)


@pytest.mark.parametrize("slot", [ROWS, "1x", "-1", ""])
@in_clean_loop
async def test_a_name_without_a_slot_is_nobodys(slot: object) -> None:
    with bound() as sockets:
        meeting = Meeting(sockets)
        with imitation(meeting, slot):
            assert await meeting.find() == []


@in_clean_loop
async def test_a_name_of_a_socket_that_does_not_listen_is_nobodys() -> None:
    with bound() as sockets, siblings._unix_socket() as sock:
        meeting = Meeting(sockets)
        sock.bind(f"\0{meeting._name}.0.cafe")
        assert await meeting.find() == []


# A worker whose name is crowded.


def crowd(address: bytes) -> list[socket.socket]:
    """Connect to a name until no more may wait there."""
    waiting = []
    while True:
        sock = siblings._unix_socket()
        waiting.append(sock)
        try:
            sock.connect(address)
        except BlockingIOError:
            return waiting


@in_clean_loop
async def test_nothing_begins_without_a_worker_that_others_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may connect to it while it is stopped. By its lock it is known to be there."""
    monkeypatch.setattr(siblings, "_WAITING", 10)
    with bound() as sockets, Others(Meeting(sockets)) as others:
        meeting = Meeting(sockets)
        others.add()
        (found,) = await meeting.find()
        waiting = crowd(found.sock.getpeername())
        close(found)
        finding = asyncio.ensure_future(meeting.find())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not finding.done()
        others.children[0].step()
        (found,) = await asyncio.wait_for(finding, 10)
        assert (found.slot, found.process) == (0, others.children[0].process)
        close(found, *waiting)


@in_clean_loop
async def test_a_name_that_is_crowded_and_nobodys_is_passed_over() -> None:
    with bound() as sockets:
        meeting = Meeting(sockets)
        with imitation(meeting) as sock:
            waiting = crowd(sock.getsockname())
            assert await asyncio.wait_for(meeting.find(), 10) == []
            close(*waiting)


def test_nobody_is_known_to_have_a_slot_once_the_host_has_closed_its_socket() -> None:
    with bound() as sockets:
        meeting = Meeting(sockets)
    assert meeting.holder(0) is None


# Hosts under which one worker alone may run.


def test_the_only_place_is_taken_once_and_is_free_at_the_end_of_who_has_it() -> None:
    with bound() as sockets:
        first = Meeting(sockets).take_alone()
        assert first is not None
        assert [Meeting(sockets).take_alone() for _ in range(3)] == [None] * 3
        first.close()
        again = Meeting(sockets).take_alone()
        assert again is not None
        again.close()


# Who is at the other end.


def test_the_process_at_the_other_end_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair()
    with one, other:
        assert friend(one) == os.getpid()
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert friend(one) is None
