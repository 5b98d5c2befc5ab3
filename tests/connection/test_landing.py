"""The arrival of a connection from another process: who has its descriptor then, and what was read by nobody."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from chat_actors.connection.landing import land
from tests.support.fakes import FakeTransport, in_clean_loop, log_lines

Sockets = tuple[int, socket.socket]


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """The descriptor of one end of a connection, which is given away, and the other end."""
    own, peer = socket.socketpair()
    peer.settimeout(10)
    with peer:
        yield own.detach(), peer


class Reader(asyncio.Protocol):
    """Connection that begins on a transport."""

    def __init__(self) -> None:
        self.read = b""
        self.ended = asyncio.Event()

    def begin(self, transport: asyncio.Transport, read: bytes) -> None:
        self.read = read
        transport.set_protocol(self)
        transport.write(b"here")

    def data_received(self, data: bytes) -> None:
        self.read += data

    def connection_lost(self, exc: Any) -> None:
        self.ended.set()


@in_clean_loop
async def test_a_connection_that_lands_reads_on_and_writes(sockets: Sockets) -> None:
    descriptor, peer = sockets
    reader = Reader()
    peer.send(b"first")
    assert await land(descriptor, reader.begin)
    assert peer.recv(100) == b"here"
    peer.send(b"second")
    peer.shutdown(socket.SHUT_WR)
    await reader.ended.wait()
    assert reader.read == b"firstsecond"


@pytest.mark.parametrize("taken", [False, True])
@in_clean_loop
async def test_a_connection_that_cannot_begin_is_closed(taken: bool, sockets: Sockets) -> None:
    descriptor, peer = sockets
    reader = Reader()

    def begin(transport: asyncio.Transport, read: bytes) -> None:
        if taken:
            transport.set_protocol(reader)
        raise RuntimeError("a test")

    with log_lines() as lines:
        assert await land(descriptor, begin) is taken  # then it hears of its own end
        if taken:
            await reader.ended.wait()
        assert await asyncio.to_thread(peer.recv, 100) == b""
    assert any("connection not begun" in line for line in lines)


Connect = Callable[[Callable[[], Any], socket.socket], Any]


def on_loop(monkeypatch: pytest.MonkeyPatch, connect: Connect) -> None:
    """Let a loop make the transport of an accepted socket in this way."""
    monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", connect)


@in_clean_loop
async def test_a_peer_that_has_gone_meanwhile_leaves_no_descriptor(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor, peer = sockets

    async def connect(factory: Callable[[], Any], sock: socket.socket) -> None:
        raise ConnectionResetError

    on_loop(monkeypatch, connect)
    assert not await land(descriptor, lambda transport, read: pytest.fail())
    assert peer.recv(100) == b""


@pytest.mark.parametrize("lost", [False, True])
@in_clean_loop
async def test_what_a_loop_reads_before_the_beginning_is_kept(
    lost: bool, sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uvloop does. Nor does anything begin on a connection that is lost by then."""
    transport, began = FakeTransport(), []

    async def connect(factory: Callable[[], Any], sock: socket.socket) -> None:
        transport.sock = sock
        transport.protocol = factory()
        transport.protocol.connection_made(transport)
        for piece in b"ear", b"ly":
            transport.protocol.data_received(piece)
        if lost:
            transport.lose()
        await asyncio.sleep(0)

    on_loop(monkeypatch, connect)
    assert await land(sockets[0], lambda transport, read: began.append((transport, read))) is not lost
    assert began == ([] if lost else [(transport, b"early")])
    assert transport.sock is not None
    transport.sock.close()
