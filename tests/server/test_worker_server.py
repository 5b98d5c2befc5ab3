"""The server of one of several workers, in this process: connections that others send, and what it tells of all."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from chat_actors.actors.handover import Luggage
from chat_actors.server import Server
from chat_actors.settings import Settings
from chat_actors.workers.board import Board
from chat_actors.workers.claims import FILES, Locks
from chat_actors.workers.crew import Crew
from chat_actors.workers.opening import Workers
from chat_actors.workers.station import Station
from tests.support.connection import JOIN, Connection, end
from tests.support.fakes import FakeClock, in_clean_loop, settle, tasks
from tests.support.websocket.wire import CLOSE, FIN, TEXT, frame, frames_in, text

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers find each other on Linux alone")

DEFAULTS = Settings.model_validate({})
HELLO = text('{"message": "hello"}')


def luggage(unread: bytes = b"") -> Luggage:
    return Luggage("sports", "alice", None, "192.0.2.1:5000", None, 100.0, 0.0, unread)


class Peer:
    """Peer of a connection that another worker has accepted, and sends."""

    def __init__(self, server: Server) -> None:
        own, self.sock = socket.socketpair()
        self.descriptor = own.detach()
        self.sock.setblocking(False)
        self.place = server.admission.enter(None)
        self.received = b""

    async def frames(self, count: int) -> list[Any]:
        """Wait for so many frames in all; the text ones as their JSON, a close as its code."""
        while len(frames := list(frames_in(self.received))) < count:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 4096)
            assert data, self.received
            self.received += data
        return [json.loads(data) if kind == FIN | TEXT else int.from_bytes(data[:2], "big") for kind, data in frames]

    async def is_closed(self) -> None:
        """Wait until the server has closed its end."""
        while await asyncio.get_running_loop().sock_recv(self.sock, 4096):
            pass


@pytest.fixture
def server() -> Server:
    return Server(DEFAULTS, FakeClock())


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    peer = Peer(server)
    with peer.sock:
        yield peer


async def ends(server: Server) -> None:
    assert isinstance(server._clock, FakeClock)
    await end(server, server._clock)


@in_clean_loop
async def test_a_connection_from_another_worker_joins_and_what_it_said_is_heard(server: Server, peer: Peer) -> None:
    assert server.take(luggage(HELLO + HELLO[:5]), peer.descriptor, peer.place)
    peer.sock.send(HELLO[5:])
    joined, first, second = await peer.frames(3)
    assert (joined["type"], joined["username"]) == ("joined", "alice")
    assert [first["id"], second["id"]] == [1, 2]
    assert server.admission.tally.connections == 1
    peer.sock.send(frame(FIN | CLOSE, b"\x03\xe8"))
    await peer.frames(4)
    peer.sock.close()
    while server.admission.tally.connections:  # its place is left once it is closed
        await asyncio.sleep(0)
    await ends(server)


@in_clean_loop
async def test_a_server_that_ends_takes_no_connection_and_touches_no_descriptor(server: Server, peer: Peer) -> None:
    server.start()
    await ends(server)
    assert not server.take(luggage(), peer.descriptor, peer.place)
    os.close(peer.descriptor)


@in_clean_loop
async def test_a_connection_that_lands_after_the_end_has_begun_is_sent_away(server: Server, peer: Peer) -> None:
    server.start()
    assert server.take(luggage(HELLO), peer.descriptor, peer.place)
    ending = asyncio.ensure_future(ends(server))
    assert await peer.frames(1) == [1012]
    peer.sock.send(frame(FIN | CLOSE, b"\x03\xf4"))
    await peer.is_closed()
    await ending
    assert server.admission.tally.connections == 0


@in_clean_loop
async def test_a_connection_that_is_lost_on_its_way_leaves_its_place(
    server: Server, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(factory: Callable[[], Any], sock: socket.socket) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", connect)
    assert server.take(luggage(), peer.descriptor, peer.place)
    await settle()
    assert server.admission.tally.connections == 0
    await ends(server)


# With a station.


class TellingCrew(Crew):
    """Crew that notes whether it has told the others of its end, and says whether they end too."""

    told = False
    others_end = True

    def leave(self) -> None:
        self.told = True

    def is_last(self) -> bool:
        return self.others_end


class Worker:
    """Server that is the only worker so far."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        workers = Workers(DEFAULTS)
        self.server = Server(DEFAULTS, self.clock, workers=workers)
        self.station = workers.station = Station(self.server, DEFAULTS, self.clock)
        files = [os.memfd_create("claims") for _ in range(FILES)]
        self._files = [Board.create(10), *files]
        self.crew = self.station.crew = TellingCrew(
            0, Board(self._files[0]), Locks(files), self.clock.monotonic, self.station
        )
        self.server.open()

    async def ends(self) -> None:
        await end(self.server, self.clock)
        for descriptor in self._files:
            os.close(descriptor)


@in_clean_loop
async def test_a_worker_lists_and_measures_what_all_workers_have() -> None:
    before = tasks()
    worker = Worker()
    alice = Connection(worker.server)
    assert (await alice.says(JOIN))["users"] == 1
    assert await worker.server.topics() == (b'[{"topic":"sports","users":1}]', False)
    measured = await worker.server.measure()
    assert (measured.statistics.connections, measured.statistics.totals.topics) == (1, 1)
    assert measured.processes == {0: os.getpid()}
    assert measured.statistics.bytes_out == worker.server.values()["bytes_out"] > 0  # of connections that are open, too
    assert worker.crew.board.connections(0) == 1  # where the others see it
    await alice.goes()
    await worker.ends()
    assert tasks() == before


@in_clean_loop
async def test_a_signal_tells_the_others_first_and_then_ends_the_worker() -> None:
    """The host's own handler does not wait for that: it closes its listening sockets."""
    handled: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, _: handled.append(signum))
    try:
        worker = Worker()
        worker.crew.others_end = False  # as far as it knows: it waits for their word
        os.kill(os.getpid(), signal.SIGTERM)
        await settle()
        assert (handled, worker.crew.told, worker.server.stopping) == ([signal.SIGTERM], True, False)
        await worker.ends()
    finally:
        signal.signal(signal.SIGTERM, before)
