"""Connections that other workers send to a server: they become members, in order, and are counted once."""

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from chat_actors.actors.handover import Luggage
from chat_actors.connection.admission import Place, Tally
from chat_actors.protocol.codes import CloseCode
from chat_actors.server import Server
from chat_actors.settings import Settings
from tests.support.connection import end
from tests.support.fakes import FakeClock, in_clean_loop, settle
from tests.support.websocket.stage import close_codes
from tests.support.websocket.wire import text

MESSAGE = text('{"message": "hello"}')


class Sockets:
    """Connected sockets: ``own`` is that of a connection, ``peer`` its peer's."""

    def __init__(self) -> None:
        self.own, self.peer = socket.socketpair()
        self.peer.settimeout(10)

    def close(self) -> None:
        self.own.close()
        self.peer.close()


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


class Arrivals:
    """Server to which other workers send connections."""

    def __init__(self, sockets: Sockets, **settings: Any) -> None:
        self.clock = FakeClock()
        self.server = Server(Settings.model_validate(settings), self.clock)
        self.sockets = sockets
        self.tally = Tally()
        self._unheard = b""

    def take(self, unread: bytes = b"", within: bool = True) -> bool:
        self.tally.enter(None)
        copy = os.dup(self.sockets.own.fileno())
        luggage = Luggage("sports", "alice", None, "192.0.2.1:5000", None, 20.0, self.clock.now, unread)
        taken = self.server.take(luggage, copy, Place(self.tally, None, within))
        if not taken:
            os.close(copy)
        self.sockets.own.close()
        return taken

    async def heard(self, words: bytes) -> bytes:
        """What the peer hears, until these words."""
        data = self._unheard
        while words not in data:
            data += await asyncio.to_thread(self.sockets.peer.recv, 4096)
        behind = data.index(words) + len(words)
        self._unheard = data[behind:]
        return data


@in_clean_loop
async def test_a_connection_from_another_worker_becomes_a_member_and_is_read_in_order(sockets: Sockets) -> None:
    arrivals = Arrivals(sockets)
    assert arrivals.take(MESSAGE + MESSAGE[:9])
    await arrivals.heard(b'"type":"joined"')
    await arrivals.heard(b'"type":"ack"')
    sockets.peer.sendall(MESSAGE[9:])
    await arrivals.heard(b'"type":"ack"')
    assert arrivals.tally.connections == 1
    sockets.peer.close()
    await end(arrivals.server, arrivals.clock)
    assert arrivals.tally.connections == 0


@in_clean_loop
async def test_a_server_that_stops_takes_no_connection(sockets: Sockets) -> None:
    arrivals = Arrivals(sockets)
    arrivals.server.stopping = True
    assert not arrivals.take()


@in_clean_loop
async def test_a_connection_that_lands_in_a_server_that_stops_is_closed(sockets: Sockets) -> None:
    arrivals = Arrivals(sockets)
    assert arrivals.take()
    arrivals.server.stopping = True
    assert close_codes(await arrivals.heard(b"\x88")) == [int(CloseCode.RESTARTING)]
    await end(arrivals.server, arrivals.clock)
    await arrivals.clock.advance(10.0)
    assert arrivals.tally.connections == 0


@in_clean_loop
async def test_a_connection_that_does_not_land_is_counted_no_more(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise OSError("the peer is gone")

    monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", fails)
    arrivals = Arrivals(sockets)
    assert arrivals.take()
    await settle()
    assert arrivals.tally.connections == 0
    await end(arrivals.server, arrivals.clock)
