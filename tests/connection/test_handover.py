"""A connection on its way to another process: it leaves once all is written, and nothing is written meanwhile."""

import socket
from collections.abc import Iterator

import pytest

from chat_actors.actors.base import Mailbox
from chat_actors.actors.events import Join
from chat_actors.actors.handover import Elsewhere, Traveller
from chat_actors.actors.supervisor import SupervisorEvent
from chat_actors.connection.admission import Authenticated
from chat_actors.connection.session import Session
from chat_actors.protocol.codes import CloseCode
from chat_actors.settings import Settings
from tests.support.fakes import in_clean_loop, settle
from tests.support.websocket.stage import Stage
from tests.support.websocket.wire import text

JOIN = text('{"username": "alice", "topic": "sports"}')


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    own, peer = socket.socketpair()
    with own, peer:
        yield own


def test_nothing_is_written_to_a_connection_that_is_given_away(sock: socket.socket) -> None:
    stage = Stage()
    stage.transport.sock = sock
    stage.connection.hold()
    stage.connection.give()
    stage.connection.write(b"frame")
    stage.connection.close(CloseCode.RESTARTING)
    stage.seconds_pass(120.0)
    assert (stage.transport.written, stage.closed) == (b"", 0)
    assert stage.receiver.ended == []


@in_clean_loop
async def test_a_session_leaves_once_all_that_was_written_has_left(sock: socket.socket) -> None:
    """What waits in this process cannot go along, and would come behind what the other one says."""
    stage = Stage()
    stage.transport.sock = sock
    mailbox: Mailbox[SupervisorEvent] = Mailbox()
    settings, caller = Settings.model_validate({}), Authenticated()
    session = Session(stage.connection, mailbox, settings, stage.counters, stage.clock, caller, "peer", None)
    stage.transport.peer_reads = False
    stage.connection.write(b"a list")
    stage.read(JOIN)
    join = mailbox.get_nowait()
    assert isinstance(join, Join)
    roads: list[Traveller] = []
    join.reply.set_exception(Elsewhere(roads.append))
    await settle()
    assert roads == []
    stage.transport.read(len(b"a list"))
    assert roads == [session]
