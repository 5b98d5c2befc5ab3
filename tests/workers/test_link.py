"""The link: messages with descriptors, in order, over real sockets; and a process or a system that has none left."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable, Optional

import pytest

from chat_actors.workers import link
from chat_actors.workers.link import READS, Link
from tests.support.fakes import in_clean_loop, log_lines


class End:
    """One end of a link, which records."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[tuple[bytes, list[int]]] = []
        self.drained = 0
        self.ended = 0
        self.on_message: Callable[[], None] = lambda: None
        self.happened = asyncio.Event()
        self.discarded = 0
        self.link = Link(sock, self._received, self._drained, self._ended, self._discard)

    def _received(self, message: bytes, descriptors: list[int]) -> None:
        self.messages.append((message, descriptors))
        self.on_message()
        self.happened.set()

    def _drained(self) -> None:
        self.drained += 1
        self.happened.set()

    def _ended(self) -> None:
        self.ended += 1
        self.happened.set()

    def _discard(self, descriptor: int) -> None:
        self.discarded += 1
        os.close(descriptor)

    @property
    def texts(self) -> list[bytes]:
        return [message for message, _ in self.messages]

    async def until(self, done: Callable[[], object]) -> None:
        while not done():
            self.happened.clear()
            await asyncio.wait_for(self.happened.wait(), 10)

    def take(self) -> list[int]:
        """All descriptors that have come, and forget the messages."""
        descriptors = [one for _, some in self.messages for one in some]
        self.messages.clear()
        return descriptors


class Pair:
    """Two ends. ``narrow``: their sockets hold little."""

    def __init__(self, narrow: bool = False) -> None:
        one, other = socket.socketpair()
        if narrow:
            for sock in (one, other):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.sockets = one, other
        self.a, self.b = End(one), End(other)

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self.a, self.b):
            end.link.close()
            for descriptor in end.take():
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    made = os.pipe()
    yield made
    for one in made:
        os.close(one)


def inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


@in_clean_loop
async def test_messages_come_in_order_both_ways_whatever_their_size() -> None:
    with Pair() as pair:
        sent = [b"", b"x", b"y" * 100_000, b"z" * 3_000_000, b"last"]
        for message in sent:
            pair.a.link.send(message)
            pair.b.link.send(message[::-1])
        assert not pair.a.link.idle
        await pair.b.until(lambda: len(pair.b.messages) == len(sent))
        await pair.a.until(lambda: len(pair.a.messages) == len(sent))
        await pair.a.until(lambda: pair.a.drained)
        assert pair.b.texts == sent
        assert pair.a.texts == [message[::-1] for message in sent]
        assert pair.a.link.idle


@in_clean_loop
async def test_descriptors_come_with_their_message(pipe: tuple[int, int]) -> None:
    with Pair() as pair:
        pair.a.link.send(b"none")
        pair.a.link.send(b"one", (pipe[0],))
        pair.a.link.send(b"none again")
        pair.a.link.send(b"two", pipe)
        pair.a.link.send(b"one more", (pipe[1],))
        await pair.b.until(lambda: len(pair.b.messages) == 5)
        read, write = map(inode, pipe)
        seen = [(message, [inode(one) for one in some]) for message, some in pair.b.messages]
        assert seen == [
            (b"none", []),
            (b"one", [read]),
            (b"none again", []),
            (b"two", [read, write]),
            (b"one more", [write]),
        ]
        assert all(not os.get_inheritable(one) for _, some in pair.b.messages for one in some)


@in_clean_loop
async def test_what_waits_for_a_full_socket_keeps_its_descriptors() -> None:
    """They may be closed as soon as they are sent."""
    with Pair(narrow=True) as pair:
        inodes = []
        for number in range(40):
            read, write = os.pipe()
            inodes.append(inode(read))
            pair.a.link.send(b"%d" % number + b"x" * 5_000, (read,))
            os.close(read)
            os.close(write)
        assert not pair.a.link.idle
        await pair.b.until(lambda: len(pair.b.messages) == 40)
        assert [inode(some[0]) for _, some in pair.b.messages] == inodes
        await pair.a.until(lambda: pair.a.drained)
        assert pair.a.link.idle


@in_clean_loop
async def test_the_end_closes_the_descriptors_that_wait(pipe: tuple[int, int]) -> None:
    with Pair(narrow=True) as pair:
        pair.a.link.send(b"x" * 1_000_000)
        pair.a.link.send(b"waits", (pipe[1],))
        pair.a.link.close()
        assert pair.a.ended == 1
        await pair.b.until(lambda: pair.b.ended)
        assert pair.b.messages == []  # a message that is not whole is none


@in_clean_loop
async def test_descriptors_of_a_message_that_is_never_whole_are_discarded(pipe: tuple[int, int]) -> None:
    one, other = socket.socketpair()
    end = End(other)
    socket.send_fds(one, [link._HEADER.pack(100, 1) + b"half"], [pipe[1]])
    one.close()
    await end.until(lambda: end.ended)
    assert (end.messages, end.discarded) == ([], 1)


@in_clean_loop
async def test_the_end_is_told_once_and_nothing_is_sent_after_it() -> None:
    with Pair() as pair:
        pair.a.link.send(b"last words")
        pair.a.link.close()
        pair.a.link.close()
        pair.a.link.send(b"too late")
        await pair.b.until(lambda: pair.b.ended)
        assert pair.b.texts == [b"last words"]
        assert (pair.a.ended, pair.b.ended) == (1, 1)


@in_clean_loop
async def test_who_sends_to_a_worker_that_has_ended_goes_on_with_what_it_does(pipe: tuple[int, int]) -> None:
    """The end comes in a turn of its own: the caller may be in a loop over all links."""
    one, other = socket.socketpair()
    end = End(one)
    other.close()
    end.link.send(b"nobody reads", (pipe[0],))
    end.link.send(b"nor this")
    assert end.ended == 0
    await end.until(lambda: end.ended)
    assert end.ended == 1


@in_clean_loop
async def test_a_link_whose_far_end_is_gone_ends_while_much_waits(pipe: tuple[int, int]) -> None:
    one, other = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    end = End(one)
    end.link.send(b"x" * 100_000)
    end.link.send(b"waits", (pipe[0],))
    assert not end.link.idle
    other.close()
    await end.until(lambda: end.ended)


@in_clean_loop
async def test_a_link_may_be_closed_by_what_it_delivers() -> None:
    with Pair() as pair:
        pair.b.on_message = pair.b.link.close
        for _ in range(3):
            pair.a.link.send(b"close")
        await pair.b.until(lambda: pair.b.ended)
        assert pair.b.ended == 1


@in_clean_loop
async def test_a_message_that_fails_ends_its_link_and_leaves_no_descriptor(pipe: tuple[int, int]) -> None:
    with Pair() as pair:

        def fail() -> None:
            raise ValueError("a bug")

        pair.b.on_message = fail
        with log_lines() as lines:
            pair.a.link.send(b"first")
            pair.a.link.send(b"second", (pipe[0],))
            await pair.b.until(lambda: pair.b.ended)
        assert pair.b.texts == [b"first"]
        assert any("ERROR message of another worker failed" in line and "ValueError" in line for line in lines)
        await pair.a.until(lambda: pair.a.ended)


@in_clean_loop
async def test_messages_behind_one_that_ended_the_link_are_not_heard() -> None:
    with Pair() as pair:
        pair.b.on_message = pair.b.link.close
        pair.a.link.send(b"first")
        pair.a.link.send(b"second")
        await pair.b.until(lambda: pair.b.ended)
        assert pair.b.texts == [b"first"]


@in_clean_loop
async def test_a_peer_that_announces_too_much_is_let_go() -> None:
    one, other = socket.socketpair()
    end = End(other)
    with one:
        one.sendall(link._HEADER.pack(link._MOST_BYTES + 1, 0))
        await end.until(lambda: end.ended)
    assert end.messages == []


@in_clean_loop
async def test_a_busy_link_lets_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_READ_BYTES", 10)
    with Pair() as pair:
        turns: list[int] = []
        pair.b.on_message = lambda: turns.append(turn)
        for _ in range(4 * READS):
            pair.a.link.send(b"four")  # 10 bytes with its header
        turn = 0
        while len(turns) < 4 * READS:
            turn += 1
            await asyncio.sleep(0)
        assert max(map(turns.count, turns)) <= READS


class Sock:
    """Socket that can do less than a real one. Each behaviour is used once, in order; then it is a real socket."""

    def __init__(self, sock: socket.socket, *sends: "Optional[Callable[[bytes], int]]", reads: int = 0) -> None:
        self._sock = sock
        self._sends = [*sends]
        self._failing_reads = reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendmsg(self, buffers: list[Any], ancillary: Any = ()) -> int:
        act = self._sends.pop(0) if self._sends else None
        return self._sock.sendmsg(buffers, ancillary) if act is None else act(bytes(buffers[0]))

    def recvmsg(self, *arguments: int) -> Any:
        if self._failing_reads:
            self._failing_reads -= 1
            raise ConnectionResetError(errno.ECONNRESET, "reset by peer")
        return self._sock.recvmsg(*arguments)


def failing(number: int) -> Callable[[bytes], int]:
    def send(data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    return send


def ends(*sends: "Optional[Callable[[bytes], int]]", reads: int = 0) -> tuple[End, End]:
    one, other = socket.socketpair()
    return End(Sock(one, *sends, reads=reads)), End(other)  # type: ignore[arg-type]


def close(*some: End) -> None:
    for one in some:
        one.link.close()
        for descriptor in one.take():
            os.close(descriptor)


@in_clean_loop
async def test_a_message_goes_without_its_descriptor_if_too_many_are_on_their_way(pipe: tuple[int, int]) -> None:
    one, other = ends(failing(errno.ETOOMANYREFS))
    one.link.send(b"first", (pipe[0],))
    one.link.send(b"second", (pipe[1],))
    await other.until(lambda: len(other.messages) == 2)
    assert other.texts == [b"first", b"second"]
    assert [len(some) for _, some in other.messages] == [0, 1]
    close(one, other)


@in_clean_loop
async def test_a_message_that_waits_goes_without_its_descriptor_too(pipe: tuple[int, int]) -> None:
    one, other = ends(failing(errno.EAGAIN), failing(errno.ETOOMANYREFS))
    one.link.send(b"first", (pipe[0],))
    one.link.send(b"second", (pipe[1],))
    await other.until(lambda: len(other.messages) == 2)
    assert [len(some) for _, some in other.messages] == [0, 1]
    assert other.texts == [b"first", b"second"]
    close(one, other)


@in_clean_loop
async def test_a_message_waits_without_its_descriptor_if_no_copy_can_be_made(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = ends(failing(errno.EAGAIN))
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", lambda _: failing(errno.EMFILE)(b""))
        one.link.send(b"first", (pipe[0],))
    one.link.send(b"second", (pipe[1],))
    await other.until(lambda: len(other.messages) == 2)
    assert other.texts == [b"first", b"second"]
    assert [len(some) for _, some in other.messages] == [0, 1]
    close(one, other)


@in_clean_loop
async def test_a_write_that_fails_for_another_reason_ends_the_link(pipe: tuple[int, int]) -> None:
    one, other = ends(failing(errno.EAGAIN), failing(errno.ENOBUFS))
    one.link.send(b"first", (pipe[0],))
    await one.until(lambda: one.ended)
    await other.until(lambda: other.ended)
    assert other.messages == []


@in_clean_loop
async def test_a_link_whose_read_fails_has_ended() -> None:
    one, other = ends(reads=1)
    other.link.send(b"unread")
    await one.until(lambda: one.ended)
    await other.until(lambda: other.ended)
    close(one, other)


@in_clean_loop
async def test_descriptors_for_which_a_process_has_no_place_are_missing(pipe: tuple[int, int]) -> None:
    """Here of two that were sent: the kernel gives what fits and says that there were more."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Pair() as pair, ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        filled = []
        try:
            while True:
                filled.append(os.dup(pipe[0]))
        except OSError:
            pass
        try:
            pair.a.link.send(b"none", (pipe[0],))
            pair.a.link.send(b"plain")
            await pair.b.until(lambda: len(pair.b.messages) == 2)
            os.close(filled.pop())
            pair.a.link.send(b"one of two", pipe)
            pair.a.link.send(b"plain")
            await pair.b.until(lambda: len(pair.b.messages) == 4)
        finally:
            for one in filled:
                os.close(one)
        assert [(message, len(some)) for message, some in pair.b.messages] == [
            (b"none", 0),
            (b"plain", 0),
            (b"one of two", 1),
            (b"plain", 0),
        ]


def test_an_ancillary_message_of_another_kind_or_cut_short_has_no_descriptors() -> None:
    assert link._descriptors([(socket.SOL_SOCKET, 99, bytes(4)), (99, socket.SCM_RIGHTS, bytes(4))]) == []
    assert link._descriptors([(socket.SOL_SOCKET, socket.SCM_RIGHTS, (7).to_bytes(4, "little") + b"\0\0")]) == [7]


@in_clean_loop
async def test_a_copy_that_has_waited_is_given_back_and_not_just_closed(pipe: tuple[int, int]) -> None:
    """It may be one of a file for claims: to close any of these gives up the claims of this process."""
    with Pair(narrow=True) as pair:
        pair.a.link.send(bytes(1 << 20))
        pair.a.link.send(b"behind", (pipe[0],))
        await pair.b.until(lambda: len(pair.b.messages) == 2)
        await pair.a.until(lambda: pair.a.drained)
        assert pair.a.discarded == 1
        pair.a.link.send(bytes(1 << 20))
        pair.a.link.send(b"never sent", (pipe[0],))
        pair.a.link.close()
        assert pair.a.discarded == 2
        for one in pair.b.take():
            os.close(one)
