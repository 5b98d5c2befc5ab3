"""The client of the package, against a scripted server and at the end against a real one."""

import asyncio
import socket
import ssl
import traceback
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Any, Callable, Optional, Union

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.datastructures import Headers
from websockets.exceptions import InvalidProxy, InvalidStatus, InvalidURI, SecurityError
from websockets.http11 import Response

from chat_actors import client_handshake
from chat_actors.client import FINAL, Chat, Disconnected, Event, Gap, Members, Tuning, connect
from chat_actors.protocol.codes import ErrorCode
from chat_actors.protocol.decoding import Refused
from chat_actors.protocol.frames import Ack, Message, Renamed, TopicUsers
from tests.support.fakes import log_lines, settle, tasks
from tests.support.script import TIMESTAMP, Naps, Peer, Script, chatting, in_tidy_loop, message, scripted
from tests.support.server import APP, Server

StartServer = Callable[..., Server]

QUICK = Tuning(backoff=(0.02, 0.3))  # for a real server and real time
ERROR = {"type": "error", "error": "message_too_long", "detail": "at most 10 characters"}
NO_TOPICS = {"type": "topics", "message": "Active Topics:\n(none)", "topics": []}
FULL = {"type": "error", "error": "server_full", "detail": "try again later"}


def event(number: int, text: str = "hello", username: str = "bob") -> Message:
    return Message(number, username, text, TIMESTAMP)


async def knocking(script: Script) -> tuple[asyncio.Future[Chat], Peer]:
    """Alice enters ``sports``, and the server's side of the connection, which has not let her in yet."""
    entering = asyncio.ensure_future(connect(script.url, "alice", "sports").__aenter__())
    return entering, await script.peer()


async def take(chat: Chat, count: int) -> list[Event]:
    return [await chat.__anext__() for _ in range(count)]


def recorder(connections: list[ClientConnection]) -> Callable[..., ClientConnection]:
    """A factory of connections for ``websockets``. The test finds them in this list."""

    def create(*args: Any, **kwargs: Any) -> ClientConnection:
        connections.append(ClientConnection(*args, **kwargs))
        return connections[-1]

    return create


PLAIN = {"username": "alice", "topic": "sports", "users": 1, "ttl": 30}


def answer(status: int, **headers: str) -> Response:
    return Response(status, "x", Headers({name.replace("_", "-"): value for name, value in headers.items()}))


def answers(*responses: Response) -> Callable[[], Optional[Response]]:
    """What a script answers to one handshake after another, before it takes them again."""
    left = [*responses]
    return lambda: left.pop(0) if left else None


# Entering.


@in_tidy_loop
async def test_entering_asks_for_a_token_only_and_tells_the_name_the_server_gave() -> None:
    async with scripted() as script:
        entering, peer = await knocking(script)
        assert await peer.recv() == {"username": "alice", "topic": "sports", "resume": ""}
        assert not entering.done()
        joined = {"username": "alice#2", "topic": "sports", "users": 2, "ttl": 30}
        peer.send({"type": "joined", **joined, "epoch": "e", "last_id": 7, "resume": "t"})
        chat = await entering
        assert chat.username == "alice#2"
        await chat.__aexit__()


@in_tidy_loop
async def test_with_replay_it_begins_with_the_messages_that_the_server_still_has() -> None:
    async with scripted() as script:
        admitting = asyncio.ensure_future(script.peer())
        entering = asyncio.ensure_future(connect(script.url, "alice", "sports", Tuning(replay=True)).__aenter__())
        peer = await admitting
        assert (await peer.admit(last_id=8))["since"] == 0
        peer.send(message(7, replayed=True), message(8, replayed=True), message(9))
        chat = await entering
        assert await take(chat, 3) == [event(7), event(8), event(9)]
        await chat.__aexit__()


@in_tidy_loop
async def test_options_are_those_of_websockets() -> None:
    async with scripted() as script, chatting(script, additional_headers={"X-Name": "value"}) as (_, peer):
        assert peer.connection.request is not None
        assert peer.connection.request.headers["X-Name"] == "value"


@in_tidy_loop
async def test_a_dead_connection_is_found_in_time_to_come_back_within_the_window() -> None:
    connections: list[ClientConnection] = []
    async with scripted() as script, chatting(script, create_connection=recorder(connections)):
        (connection,) = connections
        seconds = connection.ping_interval, connection.ping_timeout, connection.close_timeout, Tuning().backoff[1]
        assert sum(limit or 0 for limit in seconds) < 30
        assert all(seconds)


def test_a_chat_can_be_made_before_the_loop_runs_that_it_lives_in() -> None:
    @in_tidy_loop
    async def enter(chat: Chat, listener: socket.socket) -> None:
        async with scripted(listener) as script:
            admitting = asyncio.ensure_future(script.admitted())
            async with chat:
                peer = await admitting
                sends = asyncio.gather(chat.send("1"), chat.send("2"))
                await peer.deliver(1)
                await peer.deliver(2)
                assert [ack.id for ack in await sends] == [1, 2]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        enter(connect(f"ws://127.0.0.1:{listener.getsockname()[1]}/ws", "alice", "sports"), listener)


async def refuse(peer: Peer) -> None:
    await peer.recv()
    peer.send({"type": "error", "error": "invalid_username", "detail": "at most 32 characters"})


async def turn_away(peer: Peer) -> None:
    peer.send(FULL)
    await peer.close(1013, "try again later")


async def close(code: int, peer: Peer) -> None:
    await peer.close(code, "why")


async def cut(peer: Peer) -> None:
    peer.cut()


@pytest.mark.parametrize(
    "answer, raised",
    [
        (refuse, Refused(ErrorCode.INVALID_USERNAME, "at most 32 characters")),
        (turn_away, Refused(ErrorCode.SERVER_FULL, "try again later")),
        (partial(close, 1008), Disconnected(1008, "why")),
        (partial(close, 1012), Disconnected(1012, "why")),
        (cut, Disconnected(1006, "")),
    ],
    ids=["refused", "turned away", "closed with 1008", "closed with 1012", "cut"],
)
@in_tidy_loop
async def test_entering_is_one_attempt_that_raises_what_the_server_said(
    answer: Callable[[Peer], Any], raised: Exception
) -> None:
    async with scripted() as script:
        entering, peer = await knocking(script)
        await answer(peer)
        with pytest.raises(type(raised)) as failed:
            await entering
        assert failed.value.args == raised.args
        await peer.connection.wait_closed()
        assert script.handshakes == 1


@in_tidy_loop
async def test_entering_raises_at_once_where_there_is_no_such_server() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError):
            async with connect(f"ws://127.0.0.1:{unused.getsockname()[1]}/ws", "alice", "sports"):
                pass
    async with scripted() as script:
        script.refuse = lambda: HTTPStatus.SERVICE_UNAVAILABLE
        with pytest.raises(InvalidStatus):
            async with connect(script.url, "alice", "sports"):
                pass
        assert script.handshakes == 1


@in_tidy_loop
async def test_entering_raises_where_the_server_does_not_answer_the_handshake_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(asyncio.TimeoutError):
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}/ws"
        async with connect(url, "alice", "sports", open_timeout=0.01):
            pass


@in_tidy_loop
async def test_entering_can_be_cancelled_and_leaves_nothing_behind() -> None:
    async with scripted() as script:
        entering, peer = await knocking(script)
        await peer.recv()
        entering.cancel()
        await asyncio.wait({entering})
        assert entering.cancelled()
        assert peer.connection.close_code == 1000


# Sending and asking.


@in_tidy_loop
async def test_send_returns_the_ack_and_topics_the_topics() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        sending = asyncio.ensure_future(chat.send("Hello World"))
        sent = await peer.deliver(7, recipients=3)
        assert sent == {"message": "Hello World", "ref": sent["ref"]}
        ack = await sending
        assert (ack.id, ack.timestamp, ack.recipients, ack.ref) == (7, TIMESTAMP, 3, sent["ref"])
        asking = asyncio.ensure_future(chat.topics())
        assert await peer.recv() == "/list"
        peer.send({"type": "topics", "message": "Active Topics: …", "topics": [{"topic": "sports", "users": 4}]})
        assert (await asking).topics == [TopicUsers("sports", 4)]


@pytest.mark.parametrize(
    "text, code",
    [
        ("x" * 11, ErrorCode.MESSAGE_TOO_LONG),
        (" \n", ErrorCode.EMPTY_MESSAGE),
        ("/who", ErrorCode.UNKNOWN_COMMAND),
        (" /list ", ErrorCode.UNKNOWN_COMMAND),
        ("\udcff", ErrorCode.INVALID_JSON),
        (None, ErrorCode.INVALID_MESSAGE),
    ],
)
@in_tidy_loop
async def test_a_text_that_is_no_message_is_refused_before_it_reaches_the_server(text: Any, code: ErrorCode) -> None:
    async with scripted() as script, chatting(script, Tuning(longest=10)) as (chat, peer):
        with pytest.raises(Refused) as refused:
            await chat.send(text)
        assert (refused.value.code, bool(refused.value.detail)) == (code, True)
        sending = asyncio.ensure_future(chat.send("x" * 10))
        assert (await peer.deliver(1))["message"] == "x" * 10
        await sending


@in_tidy_loop
async def test_a_refused_message_raises_and_the_chat_goes_on() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        peer.send(ERROR)  # no request is waiting
        await settle()
        sends = [asyncio.ensure_future(chat.send(text)) for text in ("too long", "2")]
        await peer.recv()
        peer.send(ERROR)
        with pytest.raises(Refused) as refused:
            await sends[0]
        assert refused.value.args == (ErrorCode.MESSAGE_TOO_LONG, ERROR["detail"])
        await peer.deliver(1)
        assert (await sends[1]).id == 1


@in_tidy_loop
async def test_an_answer_that_nobody_asked_for_is_none() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        peer.ack({"ref": "another"}, 9)
        peer.send(NO_TOPICS, message(1))
        assert await take(chat, 1) == [event(1)]
        asking = asyncio.ensure_future(chat.topics())
        await peer.recv()
        peer.ack({"ref": "another"}, 9)
        peer.send(message(2), {"type": "topics", "message": "…", "topics": [{"topic": "sports", "users": 4}]})
        assert (await asking).topics == [TopicUsers("sports", 4)]
        sending = asyncio.ensure_future(chat.send("1"))
        sent = await peer.recv()
        peer.send(NO_TOPICS)
        peer.ack({"ref": "another"}, 9)
        peer.ack(sent, 3)
        assert (await sending).id == 3
        peer.send(message(4))
        assert await take(chat, 2) == [event(2), event(4)]


@in_tidy_loop
async def test_several_at_once_go_one_by_one_in_order() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        asked = asyncio.gather(chat.send("1"), chat.topics(), chat.send("2"), chat.send("3"))
        first = await peer.recv()
        second = asyncio.ensure_future(peer.recv())
        await (await peer.connection.ping())  # the pong comes after all that the client has sent
        assert not second.done()
        peer.ack(first, 1)
        assert (first["message"], await second) == ("1", "/list")
        peer.send(NO_TOPICS)
        assert [(await peer.deliver(number))["message"] for number in (2, 3)] == ["2", "3"]
        one, topics, two, three = await asked
        assert (one.id, topics.topics, two.id, three.id) == (1, [], 2, 3)


@in_tidy_loop
async def test_a_request_that_waits_for_its_turn_is_not_overtaken() -> None:
    async def answer(chat: Chat) -> Ack:
        await chat.__anext__()
        return await chat.send("3")

    async with scripted() as script, chatting(script) as (chat, peer):
        sends = [asyncio.ensure_future(chat.send("1"))]
        first = await peer.recv()
        answering = asyncio.ensure_future(answer(chat))
        await settle()
        sends.append(asyncio.ensure_future(chat.send("2")))
        await settle()
        peer.send(message(1))
        peer.ack(first, 2)
        assert [(await peer.deliver(number))["message"] for number in (3, 4)] == ["2", "3"]
        assert [(await sending).id for sending in [*sends, answering]] == [2, 3, 4]


@in_tidy_loop
async def test_a_send_that_is_cancelled_before_its_turn_is_not_sent() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        sends = [asyncio.ensure_future(chat.send(text)) for text in "123"]
        first = await peer.recv()
        sends[1].cancel()
        peer.ack(first, 1)
        assert (await peer.deliver(2))["message"] == "3"
        assert ((await sends[0]).id, (await sends[2]).id, sends[1].cancelled()) == (1, 2, True)


@in_tidy_loop
async def test_a_send_cancelled_in_its_turn_is_sent_and_the_next_waits_for_its_answer() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        first = asyncio.ensure_future(chat.send("1"))
        sent = await peer.recv()
        first.cancel()
        await asyncio.wait({first})
        second, third = (asyncio.ensure_future(chat.send(text)) for text in "23")
        peer = await script.readmitted(peer)
        assert await peer.recv() == sent  # so a cancelled send is sent again too
        third.cancel()  # it waits like the second
        peer.ack(sent, 1)
        assert (await peer.deliver(2))["message"] == "2"
        assert (first.cancelled(), (await second).id) == (True, 2)


# Coming back.


async def lose_an_ack(script: Script, chat: Chat, peer: Peer, **joined: Any) -> tuple[asyncio.Future[Ack], Peer]:
    """Alice sends "hi", the connection breaks before the ack, and she is let in again: her next frame is "hi" again."""
    sending = asyncio.ensure_future(chat.send("hi"))
    await peer.recv()
    return sending, await script.readmitted(peer, **joined)


@pytest.mark.parametrize("end", [Peer.cut, Peer.reset, Peer.cut_in_a_frame])
@in_tidy_loop
async def test_it_comes_back_to_where_it_was_however_the_connection_broke(end: Callable[[Peer], None]) -> None:
    async with scripted() as script, chatting(script, joined={"last_id": 4}) as (chat, peer):
        peer.send(message(5))
        assert await take(chat, 1) == [event(5)]
        end(peer)
        peer = await script.peer()
        join = await peer.admit(last_id=7)
        known = {"since": 5, "epoch": "epoch 1", "resume": "token 1"}
        assert join == {"username": "alice", "topic": "sports", **known}
        peer.send(message(5, replayed=True), message(6, replayed=True), message(7, replayed=True), message(8))
        assert await take(chat, 3) == [event(6), event(7), event(8)]  # a known message does not come twice


@in_tidy_loop
async def test_a_break_before_anything_came_asks_for_what_came_since_the_join() -> None:
    async with scripted() as script, chatting(script, joined={"last_id": 4}) as (_, peer):
        assert (await script.readmitted(peer)).join["since"] == 4


@in_tidy_loop
async def test_it_rejoins_by_its_first_name_with_its_newest_token_and_epoch() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        for number in (2, 3):
            renamed = {"username": f"alice#{number}", "epoch": f"epoch {number}", "resume": f"token {number}"}
            peer = await script.readmitted(peer, **renamed)
            known = f"epoch {number - 1}", f"token {number - 1}"
            assert (peer.join["username"], peer.join["epoch"], peer.join["resume"]) == ("alice", *known)
        peer.send(message(1))
        await take(chat, 1)
        assert chat.username == "alice#3"


@in_tidy_loop
async def test_a_message_sent_without_a_connection_goes_to_the_next_one() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        peer.cut()
        peer = await script.peer()  # it has not let us in yet
        sending = asyncio.ensure_future(chat.send("1"))
        await peer.admit()
        assert (await peer.deliver(1))["message"] == "1"
        assert (await sending).id == 1


@in_tidy_loop
async def test_a_message_sent_on_a_closing_connection_goes_to_the_next_one() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        peer.connection.transport.pause_reading()  # so the closing hangs when the client has answered
        peer.connection.transport.write(b"\x88\x02" + (1012).to_bytes(2, "big"))
        await settle()
        sending = asyncio.ensure_future(chat.send("1"))
        await settle()
        peer = await script.readmitted(peer)
        assert (await peer.deliver(1))["message"] == "1"
        assert (await sending).id == 1


@in_tidy_loop
async def test_a_message_that_was_acknowledged_is_neither_asked_for_nor_sent_again() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        sending = asyncio.ensure_future(chat.send("1"))
        await peer.deliver(1)
        await sending
        peer = await script.readmitted(peer)
        assert peer.join["since"] == 1
        sending = asyncio.ensure_future(chat.send("2"))
        assert (await peer.deliver(2))["message"] == "2"
        await sending


@in_tidy_loop
async def test_a_message_with_a_lost_ack_is_sent_again_and_is_no_event_for_its_sender() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        sending = asyncio.ensure_future(chat.send("hi"))
        sent = await peer.recv()
        peer = await script.readmitted(peer, last_id=2)
        peer.send(message(1, "hi", "alice", replayed=True), message(2, replayed=True))
        assert await peer.deliver(1, duplicate=True) == sent
        ack = await sending
        assert (ack.id, ack.duplicate) == (1, True)
        peer = await script.readmitted(peer)
        assert peer.join["since"] == 2
        peer.send(message(3))
        assert await take(chat, 2) == [event(2), event(3)]


@in_tidy_loop
async def test_a_message_that_may_be_an_own_one_waits_for_the_ack() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        sending, peer = await lose_an_ack(script, chat, peer, last_id=4)
        peer.send(message(1), message(2, "hi"), message(3, "hi", "alice"), message(4))
        assert await take(chat, 1) == [event(1)]
        following = asyncio.ensure_future(chat.__anext__())
        await (await peer.connection.ping())
        await settle()
        assert not following.done()
        await peer.deliver(3, duplicate=True)
        await sending
        assert [await following, *await take(chat, 1)] == [event(2, "hi"), event(4)]


@in_tidy_loop
async def test_an_equal_message_is_another_members_if_the_server_takes_ours_as_new() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        sending, peer = await lose_an_ack(script, chat, peer, last_id=1)
        peer.send(message(1, "hi"))
        await peer.deliver(2)
        await sending
        peer.send(message(3))
        assert await take(chat, 2) == [event(1, "hi"), event(3)]


@in_tidy_loop
async def test_an_id_of_an_earlier_epoch_is_not_taken_for_that_of_an_own_message() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        sending, peer = await lose_an_ack(script, chat, peer, last_id=1)
        peer.send(message(1, "hi"))
        await peer.recv()
        peer = await script.readmitted(peer, epoch="epoch 2", gap={"from": 2, "to": None, "reason": "restarted"})
        await peer.recv()
        peer = await script.readmitted(peer, epoch="epoch 2", last_id=1)
        peer.send(message(1, "hi", "alice"))
        await peer.deliver(1, duplicate=True)
        await sending
        peer.send(message(2))
        assert await take(chat, 3) == [event(1, "hi"), Gap(2, None, "restarted"), event(2)]


# Gaps and unread messages.


@pytest.mark.parametrize("reason", ["expired", "evicted"])
@in_tidy_loop
async def test_messages_that_the_server_no_longer_has_are_a_gap_with_their_ids(reason: Any) -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        peer.send(message(1))
        assert await take(chat, 1) == [event(1)]
        peer = await script.readmitted(peer, last_id=6, gap={"from": 2, "to": 5, "reason": reason})
        assert await take(chat, 1) == [Gap(2, 5, reason)]
        peer = await script.readmitted(peer)
        assert peer.join["since"] == 5
        peer.send(message(6))
        assert await take(chat, 1) == [event(6)]


@in_tidy_loop
async def test_in_a_new_epoch_the_gap_has_no_end_and_the_ids_begin_at_one() -> None:
    async with scripted() as script, chatting(script, joined={"last_id": 5}) as (chat, peer):
        restarted = {"from": 6, "to": None, "reason": "restarted"}
        peer = await script.readmitted(peer, epoch="epoch 2", last_id=1, gap=restarted)
        peer.send(message(1, replayed=True), message(2))
        assert await take(chat, 3) == [Gap(6, None, "restarted"), event(1), event(2)]
        join = (await script.readmitted(peer)).join
        assert (join["since"], join["epoch"]) == (2, "epoch 2")


@in_tidy_loop
async def test_while_as_many_messages_wait_as_may_the_socket_is_not_read() -> None:
    tuning = Tuning(most_unread=2)
    async with scripted() as script, chatting(script, tuning, max_queue=1) as (chat, peer):
        peer.send(*map(message, range(1, 6)))
        await settle()
        pong = asyncio.ensure_future(await peer.connection.ping())
        await settle()
        assert not pong.done()  # it waits behind messages that are not read from the socket
        assert await take(chat, 5) == [*map(event, range(1, 6))]
        await pong


@in_tidy_loop
async def test_a_connection_lost_while_no_one_reads_is_replaced_once_the_reader_goes_on() -> None:
    async with scripted() as script, chatting(script, Tuning(most_unread=2), max_queue=1) as (chat, peer):
        peer.send(*map(message, range(1, 6)))
        await settle()
        peer.cut()
        await settle()
        assert script.handshakes == 1
        assert await take(chat, 5) == [*map(event, range(1, 6))]
        assert (await (await script.peer()).admit())["since"] == 5


@in_tidy_loop
async def test_while_a_request_waits_the_socket_is_read_and_surplus_messages_are_a_gap() -> None:
    async with scripted() as script, chatting(script, Tuning(most_unread=2), max_queue=1) as (chat, peer):
        peer.send(*map(message, range(1, 6)))
        await settle()  # the third waits for room, the others behind it
        sending = asyncio.ensure_future(chat.send("6"))
        await peer.deliver(6)
        assert (await sending).id == 6
        asking = asyncio.ensure_future(chat.topics())
        await peer.recv()
        peer.send(message(7), NO_TOPICS)
        await asking
        assert await take(chat, 1) == [event(1)]
        peer.send(message(8))  # there is no room for it yet
        assert await take(chat, 2) == [event(2), Gap(3, 7, "unread")]
        assert await take(chat, 1) == [event(8)]
        assert (await script.readmitted(peer)).join["since"] == 8


@in_tidy_loop
async def test_a_gap_of_unread_messages_is_not_merged_with_the_gap_before_it() -> None:
    async with scripted() as script, chatting(script, Tuning(most_unread=1)) as (chat, peer):
        peer.send(message(1))
        await settle()
        asking = asyncio.ensure_future(chat.topics())
        await peer.recv()
        peer = await script.readmitted(peer, last_id=5, gap={"from": 2, "to": 3, "reason": "expired"})
        peer.send(message(4), message(5), NO_TOPICS)
        await asking
        assert await take(chat, 3) == [event(1), Gap(2, 3, "expired"), Gap(4, 5, "unread")]


@in_tidy_loop
async def test_a_reader_loses_nothing_however_much_comes_while_a_request_waits() -> None:
    async with scripted() as script, chatting(script, Tuning(most_unread=5)) as (chat, peer):
        reading = asyncio.ensure_future(take(chat, 100))
        sending = asyncio.ensure_future(chat.send("hi"))
        sent = await peer.recv()
        peer.send(*map(message, range(1, 101)))
        peer.ack(sent, 101)
        await sending
        assert await reading == [*map(event, range(1, 101))]


# When it tries again.


async def lose(script: Script, peer: Peer, times: int) -> Peer:
    """End this connection and those after it, without letting them in; returns the next one."""
    for _ in range(times):
        peer.cut()
        peer = await script.peer()
    return peer


@in_tidy_loop
async def test_it_waits_for_anything_up_to_a_limit_that_doubles_up_to_a_cap() -> None:
    clock, rolls = Naps(), [1.0, 0.5, 0.0, 0.75, 0.9, 1.0, 0.1]
    tuning = Tuning(backoff=(0.5, 5.0), random=iter(rolls).__next__, clock=clock)
    async with scripted() as script, chatting(script, tuning) as (_, peer):
        await lose(script, peer, len(rolls))
        limits = [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
        assert clock.naps == [roll * limit for roll, limit in zip(rolls, limits)]


@pytest.mark.parametrize("seconds, then", [(5.0, 0.5), (4.75, 4.0)])
@in_tidy_loop
async def test_a_connection_that_lasts_as_long_as_the_longest_wait_resets_it(seconds: float, then: float) -> None:
    clock = Naps()
    tuning = Tuning(backoff=(0.5, 5.0), random=lambda: 1.0, clock=clock)
    async with scripted() as script, chatting(script, tuning) as (_, peer):
        peer = await lose(script, peer, 3)
        assert clock.naps == [0.5, 1.0, 2.0]
        await peer.admit()
        clock.now += seconds
        peer.cut()
        await script.peer()
        assert clock.naps == [0.5, 1.0, 2.0, then]


@in_tidy_loop
async def test_an_attempt_that_fails_does_not_reset_it_however_long_it_takes() -> None:
    clock = Naps()
    statuses = [HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT]

    def refuse() -> Optional[HTTPStatus]:
        clock.now += 10
        return statuses.pop() if statuses else None

    async with scripted() as script, chatting(script, Tuning(random=lambda: 1.0, clock=clock)) as (_, peer):
        script.refuse = refuse
        await script.readmitted(peer)
        assert clock.naps == [0.5, 1.0, 2.0, 4.0]


# What ends the chat and what does not.


@pytest.mark.parametrize("code", [None, 1000, 1001, 1011, 1012, 1013, 4000, 4408])
@in_tidy_loop
async def test_it_comes_back_after_a_close_that_leaves_hope(code: Optional[int]) -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        if code is None:
            peer.close_without_a_code()
        else:
            await peer.close(code)
        peer = await script.peer()
        assert (await peer.admit())["resume"] == "token 1"
        peer.send(message(1))
        assert await take(chat, 1) == [event(1)]


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010, 4409])
@in_tidy_loop
async def test_a_final_close_is_raised_behind_the_last_event_and_by_every_request(code: int) -> None:
    assert code in FINAL
    async with scripted() as script, chatting(script) as (chat, peer):
        sends = [asyncio.ensure_future(chat.send(text)) for text in "12"]
        await peer.recv()
        peer.send(message(1))
        await peer.close(code, "why")
        asked: list[Any] = [*sends, chat.send("3"), chat.topics()]
        assert await take(chat, 1) == [event(1)]
        for asking in [*asked, chat.__anext__()]:
            with pytest.raises(Disconnected) as ended:
                await asking
            assert (ended.value.code, ended.value.reason) == (code, "why")
        assert script.handshakes == 1


@in_tidy_loop
async def test_4409_may_come_of_a_join_of_our_own_that_came_late_and_then_it_comes_back() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        peer = await lose(script, peer, 2)  # one join got no answer
        await peer.admit()
        await peer.close(4409)
        peer = await script.peer()
        assert (await peer.admit())["resume"] == "token 1"
        await peer.close(4409)  # now only another client can be the cause
        with pytest.raises(Disconnected) as ended:
            await chat.topics()
        assert ended.value.code == 4409


@in_tidy_loop
async def test_a_full_server_is_tried_again_later_and_another_refusal_is_the_end() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        peer.cut()
        await turn_away(await script.peer())
        peer = await script.admitted()
        peer.send(message(1))
        assert await take(chat, 1) == [event(1)]
        peer.cut()
        await refuse(await script.peer())
        with pytest.raises(Refused) as refused:
            await chat.__anext__()
        assert refused.value.code is ErrorCode.INVALID_USERNAME


@in_tidy_loop
async def test_a_handshake_that_will_be_refused_again_is_the_end() -> None:
    for status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        async with scripted() as script, chatting(script) as (chat, peer):
            script.refuse = lambda answer=status: answer  # type: ignore[misc]
            peer.cut()
            with pytest.raises(InvalidStatus):
                await chat.send("1")
            assert script.handshakes == 2


@pytest.mark.parametrize("status", [302, 400, 404, 408, 426, 429, 500, 502, 503, 520, 525, 530])
@in_tidy_loop
async def test_any_other_answer_may_be_that_of_a_proxy_whose_server_is_away(status: int) -> None:
    async with scripted() as script, chatting(script) as (_, peer):
        script.refuse = answers(*[answer(status, Location="https://example.org/login")] * 3)
        await script.readmitted(peer)
        assert script.handshakes == 5


@pytest.mark.parametrize(
    "broken", [b"", b"HTTP/1.1 101 x\r\n", b"garbage\r\n\r\n", b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n"]
)
@in_tidy_loop
async def test_it_comes_back_after_an_answer_that_is_not_http_or_no_handshake(broken: bytes) -> None:
    cut: list[bytes] = []

    class Broken(ClientConnection):
        """The client's connection; the server's first answer after the join is replaced."""

        def data_received(self, data: bytes) -> None:
            if script.handshakes == 2 and not cut:
                cut.append(data)
                self.transport.pause_reading()
                super().data_received(broken) if broken else None
                self.transport.abort()
            else:
                super().data_received(data)

    async with scripted() as script, chatting(script, create_connection=Broken) as (_, peer):
        await lose(script, peer, 1)
        await script.admitted()
        assert (script.handshakes, bool(cut)) == (3, True)


@pytest.mark.parametrize("nonsense", [{"type": "weather"}, {"type": "joined", **PLAIN}])
@in_tidy_loop
async def test_another_server_in_its_place_is_an_error_first_and_tried_again_later(nonsense: Any) -> None:
    async with scripted() as script:
        entering, peer = await knocking(script)
        peer.send(nonsense)
        with pytest.raises(ConnectionError, match="chat server"):
            await entering
        async with chatting(script) as (_, peer):
            peer = await lose(script, peer, 1)
            peer.send(nonsense)
            await script.admitted()


@in_tidy_loop
async def test_a_refusal_with_a_code_that_is_newer_than_the_client_is_a_refusal() -> None:
    async with scripted() as script:
        entering, peer = await knocking(script)
        peer.send({"type": "error", "error": "new_reason", "detail": "do this"})
        with pytest.raises(Refused) as refused:
            await entering
        assert refused.value.args == ("new_reason", "do this")


# Bounds.


class Waits(Naps):
    """A clock whose timers a test fires by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: dict[float, Callable[..., object]] = {}
        self.handles: list[asyncio.TimerHandle] = []

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> Any:
        self.timers[seconds] = call
        self.handles.append(asyncio.get_running_loop().call_later(1000, call, *args))
        return self.handles[-1]


@in_tidy_loop
async def test_a_join_without_an_answer_is_given_up() -> None:
    clock = Waits()
    async with scripted() as script:
        entering = asyncio.ensure_future(connect(script.url, "alice", "sports", Tuning(clock=clock)).__aenter__())
        await (await script.peer()).recv()
        clock.timers[10]()
        with pytest.raises(asyncio.TimeoutError, match="no answer to the join within 10 seconds"):
            await entering
        async with chatting(script, Tuning(clock=clock)) as (_, peer):
            await (await lose(script, peer, 1)).recv()
            clock.timers[10]()
            await script.admitted()


@in_tidy_loop
async def test_leaving_is_given_up_when_the_server_takes_nothing() -> None:
    tuning = Tuning(clock=(clock := Waits()))
    async with scripted() as script, chatting(script, tuning, close_timeout=1000) as (chat, peer):
        peer.connection.transport.pause_reading()
        leaving = asyncio.ensure_future(chat.__aexit__())
        await settle()
        clock.timers[1000]()
        await leaving


@in_tidy_loop
async def test_an_option_that_is_none_is_no_bound() -> None:
    none = {"open_timeout": None, "ping_timeout": None, "close_timeout": None}
    async with scripted() as script, chatting(script, **none) as (chat, peer):
        sending = asyncio.ensure_future(chat.send("1"))
        await peer.deliver(1)
        await sending


@in_tidy_loop
async def test_a_connection_that_takes_no_frame_is_replaced() -> None:
    clock = Waits()
    tuning = Tuning(clock=clock, longest=1 << 26)
    async with scripted() as script, chatting(script, tuning, ping_timeout=11) as (chat, peer):
        peer.connection.transport.pause_reading()
        sending = asyncio.ensure_future(chat.send("x" * (1 << 25)))
        await settle()
        clock.timers[11]()
        await script.admitted()
        sending.cancel()


@in_tidy_loop
async def test_a_connection_whose_server_answers_pings_but_no_request_is_replaced() -> None:
    clock = Waits()
    tuning = Tuning(clock=clock)
    async with scripted() as script, chatting(script, tuning, ping_timeout=11) as (chat, peer):
        first = asyncio.ensure_future(chat.send("1"))
        sent = await peer.recv()
        first.cancel()  # a caller that is out of patience leaves its message behind
        second = asyncio.ensure_future(chat.send("2"))
        await (await peer.connection.ping())
        clock.timers[11]()
        peer = await script.admitted()
        assert await peer.deliver(1) == sent
        assert (await peer.deliver(2))["message"] == "2"
        assert (await second).id == 2
        asking = asyncio.ensure_future(chat.topics())
        await peer.recv()
        clock.timers[11]()
        peer = await script.admitted()
        assert await peer.recv() == "/list"
        peer.send(NO_TOPICS)
        assert (await asking).topics == []
    assert all(handle.cancelled() for handle in clock.handles)


@in_tidy_loop
async def test_a_handshake_that_comes_byte_by_byte_is_given_up() -> None:
    ended = asyncio.Event()

    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.001)
        writer.transport.abort()
        ended.set()

    async with await asyncio.start_server(trickle, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        with pytest.raises(asyncio.TimeoutError):
            await connect(url, "alice", "sports", open_timeout=0.05).__aenter__()
        await ended.wait()


@in_tidy_loop
async def test_leaving_is_not_lost_in_a_timeout_of_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    called = asyncio.Event()

    async def time_out(*_: Any) -> ClientConnection:
        nonlocal calls
        calls += 1
        called.set()
        try:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if calls > 1:
                raise
            raise asyncio.TimeoutError from None

    async with scripted() as script, chatting(script) as (chat, peer):
        monkeypatch.setattr(client_handshake, "shake_hands", time_out)
        peer.cut()
        await called.wait()
        await chat.__aexit__()
        with pytest.raises(Disconnected) as ended:
            await chat.send("1")
        assert (ended.value.code, calls) == (1000, 1)


@in_tidy_loop
async def test_leaving_can_be_cancelled_and_then_the_connection_is_cut() -> None:
    connections: list[ClientConnection] = []
    options: dict[str, Any] = {"close_timeout": 1000, "create_connection": recorder(connections)}
    async with scripted() as script, chatting(script, **options) as (chat, peer):
        peer.connection.transport.pause_reading()
        leaving = asyncio.ensure_future(chat.__aexit__())
        await settle()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await settle()
        assert connections[0].transport.is_closing()
        assert not [task for task in tasks() if "_stay" in repr(task)]
        peer.connection.transport.resume_reading()


@in_tidy_loop
async def test_a_chat_is_entered_once_and_not_used_before() -> None:
    async with scripted() as script, chatting(script) as (chat, _):
        with pytest.raises(RuntimeError, match="call connect"):
            await chat.__aenter__()
        outside = connect(script.url, "alice", "sports")
        for asking in (outside.send("1"), outside.topics(), outside.__anext__()):
            with pytest.raises(RuntimeError, match="async with connect"):
                await asking


# Secrets.


@in_tidy_loop
async def test_the_token_is_in_every_join_and_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with scripted() as script, chatting(script, token=" s3cret\n") as (chat, peer):
        assert peer.join["token"] == "s3cret"
        assert (await script.readmitted(peer)).join["token"] == "s3cret"
        assert "s3cret" not in repr(chat) + repr(vars(chat))
    assert not [one for one in caplog.records if one.name == "websockets.client" and "s3cret" in one.getMessage()]
    async with scripted() as script, chatting(script, token=" ") as (_, peer):
        assert "token" not in peer.join


@in_tidy_loop
async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    async with scripted() as script:
        async with chatting(script):
            pass
        with pytest.raises(OSError):
            await connect(script.url, "alice", "sports", proxy=True).__aenter__()
        with pytest.raises(OSError):  # the proxy is asked, and it is not there
            await connect("ws://chat.example/ws", "alice", "sports").__aenter__()


@in_tidy_loop
async def test_a_redirect_is_followed_within_the_origin_only() -> None:
    async with scripted() as script, scripted() as other:
        script.refuse = answers(answer(307, Location="/chat"))
        async with chatting(script, token="s3cret") as (_, peer):
            assert peer.connection.request is not None
            assert peer.connection.request.path == "/chat"
        script.refuse = answers(answer(307, Location=other.url))
        with pytest.raises(InvalidStatus):
            await connect(script.url, "alice", "sports", token="s3cret").__aenter__()
        script.refuse = answers(answer(302, Location="https://example.org/login"))
        with pytest.raises(InvalidStatus):
            await connect(script.url, "alice", "sports").__aenter__()
        assert other.handshakes == 0


@pytest.mark.parametrize("option", [{}, {"host": "127.0.0.1"}], ids=["no option", "host"])
@pytest.mark.parametrize(
    "locations",
    [
        ["https://example.org/login"],
        ["ws://example.org/login"],
        ["ws://example.org:port/"],
        ["//[/"],
        ["/\xe9"],
        ["/a", "/b"],
    ],
    ids=repr,
)
@in_tidy_loop
async def test_a_redirect_to_nowhere_is_tried_again(locations: list[str], option: dict[str, Any]) -> None:
    async with scripted() as script, chatting(script, **option) as (_, peer):
        script.refuse = answers(Response(302, "x", Headers([("Location", one) for one in locations])))
        await script.readmitted(peer)
        assert script.handshakes == 3


@in_tidy_loop
async def test_redirects_in_a_circle_end_and_are_tried_again() -> None:
    async with scripted() as script, chatting(script) as (_, peer):
        script.refuse = answers(*[answer(307, Location="/ws")] * 10)
        await script.readmitted(peer)
        script.refuse = lambda: answer(307, Location="/ws")
        with pytest.raises(SecurityError):
            await connect(script.url, "alice", "sports").__aenter__()


@pytest.mark.parametrize(
    "url, shown",
    [
        ("http://alice:s3cret@127.0.0.1/ws", "http://…@127.0.0.1/ws"),
        ("ws://alice:s3/cret@127.0.0.1/ws", "ws://…@127.0.0.1/ws"),
        ("ws://alice:s3#cret@127.0.0.1/ws", "ws://…@127.0.0.1/ws"),
        ("ws://alice:s3?cret@127.0.0.1/ws", "ws://…@127.0.0.1/ws"),
        ("ws://alice:s3@cret@127.0.0.1:port/ws", "ws://…@127.0.0.1:port/ws"),
        ("ws://alice:s3cret@[127.0.0.1/ws", "ws://…@[127.0.0.1/ws"),
        ("ws://s3cret@127.0.0.1/ws", "ws://…@127.0.0.1/ws"),
        ("alice:s3cret@127.0.0.1/ws", "…@127.0.0.1/ws"),
        ("ws:///ws", "ws:///ws"),
    ],
)
@in_tidy_loop
async def test_the_password_of_a_wrong_address_is_not_shown(url: str, shown: str) -> None:
    with pytest.raises(InvalidURI) as wrong:
        await connect(url, "alice", "sports").__aenter__()
    assert wrong.value.uri == shown
    assert str(wrong.value).startswith(f"{shown} isn't a valid URI: ")
    text = "".join(traceback.format_exception(InvalidURI, wrong.value, None))
    assert "s3" not in text
    assert "cret" not in text.replace("secret", "")


@in_tidy_loop
async def test_the_password_of_a_wrong_proxy_is_not_shown() -> None:
    with pytest.raises(InvalidProxy) as wrong:
        await connect("ws://chat.example/ws", "alice", "sports", proxy="http://alice:s3#cret@proxy:1").__aenter__()
    assert wrong.value.proxy == "http://…@proxy:1"
    assert "cret" not in "".join(traceback.format_exception(InvalidProxy, wrong.value, None))


@in_tidy_loop
async def test_no_variable_of_the_client_shows_the_token_where_a_traceback_has_them() -> None:
    async with scripted() as script:
        entering = asyncio.ensure_future(connect(script.url, "alice", "sports", token="s3cret").__aenter__())
        peer = await script.peer()
        assert (await peer.recv())["token"] == "s3cret"
        peer.send({"type": "error", "error": "unauthorized", "detail": "wrong token"})
        with pytest.raises(Refused) as failed:
            await entering
    told = traceback.TracebackException.from_exception(failed.value, capture_locals=True)
    frames = [frame for frame in told.stack if "chat_actors" in frame.filename]
    assert "_ask_to_join" in [frame.name for frame in frames]
    assert not [frame.name for frame in frames if "s3cret" in str(frame.locals)]


# Who is there.


def joined(*names: str) -> dict[str, Any]:
    return {"users": len(names), "members": [*names]}


@in_tidy_loop
async def test_who_asks_for_events_is_told_who_is_there_and_who_comes_and_goes() -> None:
    async with scripted() as script, chatting(script, joined=joined("bob", "alice"), events=True) as (chat, peer):
        assert peer.join["events"] is True
        assert (chat.users, chat.members) == (2, ("bob", "alice"))
        assert await take(chat, 1) == [Members(2, ("bob", "alice"))]
        peer.send(
            {"type": "presence", "joined": ["dan"], "left": ["bob"], "users": 2}, {"type": "expired", "through": 1}
        )
        assert await take(chat, 1) == [Members(2, ("alice", "dan"), ("dan",), ("bob",))]
        peer = await script.readmitted(peer, **joined("alice", "eve"))
        assert await take(chat, 1) == [Members(2, ("alice", "eve"), ("eve",), ("dan",))]


@in_tidy_loop
async def test_where_the_server_only_counts_there_are_no_names_until_the_next_join() -> None:
    async with scripted() as script, chatting(script, joined=joined("alice"), events=True) as (chat, peer):
        await take(chat, 1)
        peer.send({"type": "presence", "users": 1502})
        assert await take(chat, 1) == [Members(1502, None)]
        peer.send({"type": "presence", "left": ["bob"], "users": 900})
        assert await take(chat, 1) == [Members(900, None)]
        assert (chat.users, chat.members) == (900, None)
        await script.readmitted(peer, **joined("alice", "bob"))
        assert await take(chat, 1) == [Members(2, ("alice", "bob"))]


@in_tidy_loop
async def test_new_names_are_told_the_own_one_also_after_a_reconnect() -> None:
    async with scripted() as script, chatting(script, joined=joined("alice", "bob"), events=True) as (chat, peer):
        await take(chat, 1)
        peer.send({"type": "renamed", "username": "alice", "renamed": "alice#2"})
        assert await take(chat, 2) == [
            Renamed("alice", "alice#2"),
            Members(2, ("alice#2", "bob"), ("alice#2",), ("alice",)),
        ]
        peer.send({"type": "renamed", "username": "nobody", "renamed": "somebody"})
        peer.send({"type": "renamed", "username": "bob", "renamed": "bob#2"})
        assert await take(chat, 1) == [Members(2, ("alice#2", "bob#2"), ("bob#2",), ("bob",))]
        await script.readmitted(peer, username="alice#3", **joined("alice#3", "bob#2"))
        assert await take(chat, 2) == [
            Renamed("alice#2", "alice#3"),
            Members(2, ("alice#3", "bob#2"), ("alice#3",), ("alice#2",)),
        ]
        assert chat.username == "alice#3"


@in_tidy_loop
async def test_who_asks_for_no_events_gets_none() -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        assert "events" not in peer.join
        peer.send({"type": "presence", "joined": ["dan"], "users": 3}, message(1, remaining_ms=5))
        assert await take(chat, 1) == [event(1)]
        assert (chat.users, chat.members) == (3, None)


@in_tidy_loop
async def test_unread_events_of_presence_become_one_however_many_come() -> None:
    def comes(name: str) -> dict[str, Any]:
        return {"type": "presence", "joined": [name], "users": 2}

    def goes(name: str) -> dict[str, Any]:
        return {"type": "presence", "left": [name], "users": 1}

    tuning = Tuning(clock=Naps(), most_unread=3)
    async with scripted() as script, chatting(script, tuning, joined=joined("alice"), events=True) as (chat, peer):
        await take(chat, 1)
        peer.send(comes("bob"), message(1), message(2), goes("bob"), comes("carol"), comes("dan"), goes("dan"))
        own = [{"type": "renamed", "username": f"alice#{n}", "renamed": f"alice#{n + 1}"} for n in range(2, 9)]
        peer.send({"type": "renamed", "username": "alice", "renamed": "alice#2"}, *own)
        await settle()
        heard = await take(chat, 4)
        assert [type(one) for one in heard] == [Members, Message, Message, Renamed]
        assert heard[0] == Members(1, ("alice#9", "carol"), ("alice#9", "carol"), ("alice",))
        assert heard[3] == Renamed("alice", "alice#9")


@in_tidy_loop
async def test_changes_are_those_since_the_last_event_whatever_came_between() -> None:
    async with scripted() as script, chatting(script, joined=joined("alice", "bob"), events=True) as (chat, peer):
        await take(chat, 1)
        peer.send({"type": "presence", "joined": ["carol"], "left": ["bob"], "users": 2})
        peer.send({"type": "presence", "users": 1502})
        peer = await script.readmitted(peer, **joined("alice", "dan"))
        await settle()
        assert await take(chat, 1) == [Members(2, ("alice", "dan"), ("dan",), ("bob",))]
        peer.send({"type": "presence", "joined": ["carol"], "users": 3}, {"type": "presence", "users": 1502})
        await settle()
        assert await take(chat, 1) == [Members(1502, None)]
        await script.readmitted(peer, **joined("alice"))
        assert await take(chat, 1) == [Members(1, ("alice",))]


@in_tidy_loop
async def test_a_new_name_and_the_next_reconnect_are_one_change_of_the_members() -> None:
    async with scripted() as script, chatting(script, joined=joined("alice", "bob"), events=True) as (chat, peer):
        await take(chat, 1)
        peer.send({"type": "renamed", "username": "alice", "renamed": "alice#2"})
        peer = await script.readmitted(peer, username="alice", **joined("bob", "alice"))
        heard = await take(chat, 4)
        assert heard[0] == Renamed("alice", "alice#2")
        assert heard[1] == Members(2, ("alice#2", "bob"), ("alice#2",), ("alice",))
        assert heard[2] == Renamed("alice#2", "alice")
        assert heard[3] == Members(2, ("bob", "alice"), ("alice",), ("alice#2",))
        assert (chat.username, chat.members) == ("alice", ("bob", "alice"))


@in_tidy_loop
async def test_it_comes_back_after_an_error_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [
        socket.gaierror("no such name"),
        OSError("no route"),
        ssl.SSLCertVerificationError("expired"),
        ssl.SSLEOFError(),
        asyncio.TimeoutError(),
        EOFError(),
    ]
    shake_hands = client_handshake.shake_hands

    async def fail(*args: Any) -> ClientConnection:
        if errors:
            raise errors.pop()
        return await shake_hands(*args)

    async with scripted() as script, chatting(script) as (_, peer):
        monkeypatch.setattr(client_handshake, "shake_hands", fail)
        await script.readmitted(peer)
        assert errors == []


@in_tidy_loop
async def test_it_waits_as_long_as_a_refused_handshake_asks_and_not_an_hour() -> None:
    clock = Naps()
    tuning = Tuning(random=lambda: 1.0, clock=clock)
    async with scripted() as script, chatting(script, tuning) as (_, peer):
        script.refuse = answers(
            answer(503, Retry_After="7"),
            answer(429, Retry_After="3600"),
            answer(503, Retry_After="Sun, 06 Nov 1994 08:50:07 GMT", Date="Sun, 06 Nov 1994 08:49:37 GMT"),
            answer(503),
        )
        await script.readmitted(peer)
        assert clock.naps == [0.5, 7 + 1.0, 300 + 2.0, 30 + 4.0, 5.0]


@in_tidy_loop
async def test_it_waits_as_long_as_a_server_asks_that_is_about_to_close() -> None:
    clock = Naps()
    tuning = Tuning(random=lambda: 1.0, clock=clock)
    async with scripted() as script, chatting(script, tuning, events=True) as (_, peer):
        peer.send({"type": "closing", "retry_after_ms": 2500})
        await peer.close(1012)
        await script.admitted()
        assert clock.naps == [2.5 + 0.5]


@in_tidy_loop
async def test_it_waits_as_long_as_asked_also_if_the_last_frame_is_broken() -> None:
    clock = Naps()
    tuning = Tuning(random=lambda: 1.0, clock=clock)
    async with scripted() as script, chatting(script, tuning, events=True) as (_, peer):
        peer.send({"type": "closing", "retry_after_ms": 10**18}, {"type": "closing"})
        await script.admitted()
        assert clock.naps == [300 + 0.5]


@pytest.mark.parametrize("newer", ['{"type": "retracted", "id": 1}', '{"id": [1.5], "type": "hello"}', b'{"type": ""}'])
@in_tidy_loop
async def test_a_frame_of_a_type_that_the_client_does_not_know_is_ignored(newer: Union[str, bytes]) -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        with log_lines() as lines:
            await peer.connection.send(newer)
            peer.send(message(1))
            assert await take(chat, 1) == [event(1)]
        assert (script.handshakes, lines) == (1, [])


@pytest.mark.parametrize(
    "data, kind",
    [
        ("s3cret", ""),
        ("", ""),
        ('["s3cret"]', ""),
        ('{"no": "s3cret"}', ""),
        ('{"type": 7, "message": "s3cret"}', ""),
        ('{"type": "message", "id": 1, "username": "bob", "message": "s3cret", "timestamp": 1.5}', "message"),
        ('{"type": "message", "id": 0, "username": "bob", "message": "s3cret", "timestamp": 1}', "message"),
        ('{"type": "closing", "retry_after_ms": 1.5, "reason": "s3cret"}', "closing"),
        (b"s3cret\xff\xfe", ""),
        ('{"type": "topics", "message": "s3cret", "topics": ' + "[" * 100_000, ""),
    ],
    ids=repr,
)
@in_tidy_loop
async def test_a_frame_that_cannot_be_decoded_is_a_lost_connection(data: Union[str, bytes], kind: str) -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        peer.send(message(1))
        with log_lines() as lines:
            await peer.connection.send(data)
            peer = await script.admitted()
        assert lines == [f"WARNING frame not decodable: connecting again {{'type': '{kind}'}}\n"]
        assert peer.join["since"] == 1
        peer.send(message(2))
        assert await take(chat, 2) == [event(1), event(2)]


@pytest.mark.parametrize(
    "broken",
    [b"\x81\x02\xff\xfe", b"\x83\x00", b"\xc1\x00", b"\x89\x7e\x01\x00", b"\x81\x7f" + b"\x7f" * 8],
    ids=["not UTF-8", "unknown opcode", "reserved bit", "ping too long", "too big"],
)
@in_tidy_loop
async def test_a_frame_that_breaks_the_protocol_is_a_lost_connection(broken: bytes) -> None:
    async with scripted() as script, chatting(script) as (chat, peer):
        peer.connection.transport.write(broken)
        peer = await script.admitted()
        peer.send(message(1))
        assert await take(chat, 1) == [event(1)]


@in_tidy_loop
async def test_a_server_whose_every_connection_breaks_is_tried_ever_more_rarely() -> None:
    clock = Naps()
    async with scripted() as script, chatting(script, Tuning(random=lambda: 1.0, clock=clock)) as (_, peer):
        for _ in range(6):
            await peer.connection.send("not json")
            peer = await script.admitted()
        assert clock.naps == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


@in_tidy_loop
async def test_the_traceback_of_the_final_error_does_not_grow_with_each_raise() -> None:
    def length(traceback: Optional[TracebackType]) -> int:
        return 0 if traceback is None else 1 + length(traceback.tb_next)

    async with scripted() as script, chatting(script) as (chat, peer):
        await peer.close(1008)
        lengths = []
        for _ in range(5):
            with pytest.raises(Disconnected) as ended:
                await chat.topics()
            lengths.append(length(ended.value.__traceback__))
        assert len({*lengths[1:]}) == 1


# Leaving.


@in_tidy_loop
async def test_leaving_ends_the_requests_and_the_iteration_behind_the_unread_events() -> None:
    async with scripted() as script:
        async with chatting(script) as (chat, peer):
            sends = [asyncio.ensure_future(chat.send(text)) for text in "12"]
            await peer.recv()
            peer.send(message(1), message(2))
            await take(chat, 1)
        assert peer.connection.close_code == 1000
        assert [one async for one in chat] == [event(2)]
        for asking in [*sends, chat.send("3"), chat.topics()]:
            with pytest.raises(Disconnected) as ended:
                await asking
            assert (ended.value.code, ended.value.reason) == (1000, "left")
        assert script.handshakes == 1


@in_tidy_loop
async def test_leaving_ends_an_iteration_that_waits() -> None:
    async def read(chat: Chat) -> list[Event]:
        return [one async for one in chat]

    async with scripted() as script:
        async with chatting(script) as (chat, peer):
            reading = asyncio.ensure_future(read(chat))
            peer.send(message(1))
            asking = asyncio.ensure_future(chat.topics())
            await peer.recv()
        assert await reading == [event(1)]
        with pytest.raises(Disconnected):
            await asking


@in_tidy_loop
async def test_leaving_while_it_waits_to_come_back_does_not_wait() -> None:
    clock = Naps(wake=False)
    async with scripted() as script:
        async with chatting(script, Tuning(clock=clock)) as (chat, peer):
            peer.cut()
            await clock.asleep.wait()
            sending = asyncio.ensure_future(chat.send("1"))
        with pytest.raises(Disconnected):
            await sending
        assert script.handshakes == 1


@in_tidy_loop
async def test_leaving_while_too_many_messages_are_unread_does_not_wait() -> None:
    async with scripted() as script:
        async with chatting(script, Tuning(most_unread=1)) as (chat, peer):
            peer.send(message(1), message(2))
            await settle()
        assert [one async for one in chat] == [event(1)]
        assert peer.connection.close_code == 1000


# Against a real server.


@in_tidy_loop
async def test_two_of_them_talk_over_a_real_server(start: StartServer) -> None:
    server = start(*APP)
    async with connect(server.url, "alice", "sports") as alice, connect(server.url, "alice", "sports") as other:
        assert (alice.username, other.username) == ("alice", "alice#2")
        acks = await asyncio.gather(*[alice.send(str(number)) for number in range(1, 51)])
        assert [(ack.id, ack.recipients) for ack in acks] == [(number, 1) for number in range(1, 51)]
        heard = [one for one in await take(other, 50) if isinstance(one, Message)]
        assert [(one.id, one.username, one.message) for one in heard] == [(n, "alice", str(n)) for n in range(1, 51)]
        assert (await other.topics()).topics == [TopicUsers("sports", 2)]
        with pytest.raises(Refused):
            await alice.send("x" * 4097)


@in_tidy_loop
async def test_a_lost_ack_doubles_nothing_on_a_real_server(start: StartServer) -> None:
    server = start(*APP)
    connections: list[ClientConnection] = []
    broken = connect(server.url, "bob", "sports", QUICK, create_connection=recorder(connections))
    async with connect(server.url, "alice", "sports") as alice, broken as bob:
        connections[-1].transport.pause_reading()  # so that the ack does not arrive
        sending = asyncio.ensure_future(bob.send("1"))
        assert [one.message for one in await take(alice, 1) if isinstance(one, Message)] == ["1"]
        await alice.send("2")
        connections[-1].transport.abort()
        ack = await sending
        assert (ack.id, ack.duplicate, bob.username) == (1, True, "bob")
        await bob.send("3")
        await alice.send("4")
        heard = [(one.id, one.message) for one in await take(bob, 2) if isinstance(one, Message)]
        assert heard == [(2, "2"), (4, "4")]
        assert [one.message for one in await take(alice, 1) if isinstance(one, Message)] == ["3"]


@in_tidy_loop
async def test_a_restart_of_a_real_server_is_a_gap_and_what_was_to_be_sent_is_sent(start: StartServer) -> None:
    server = start(*APP)
    async with connect(server.url, "alice", "sports", QUICK) as alice:
        assert (await alice.send("1")).id == 1
        await asyncio.to_thread(server.terminate)
        sending = asyncio.ensure_future(alice.send("2"))
        await asyncio.to_thread(start, *APP, "--port", str(server.port))
        assert (await sending).id == 1
        assert await take(alice, 1) == [Gap(2, None, "restarted")]


@in_tidy_loop
async def test_a_real_server_that_is_full_refuses_a_client_that_enters(start: StartServer) -> None:
    server = start(*APP, CHAT_CONNECTIONS="1")
    async with connect(server.url, "alice", "sports"):
        with pytest.raises(Refused) as refused:
            async with connect(server.url, "bob", "sports"):
                pass
        assert refused.value.code is ErrorCode.SERVER_FULL


@in_tidy_loop
async def test_a_real_server_tells_who_is_there(start: StartServer) -> None:
    server = start(*APP)
    async with connect(server.url, "alice", "sports", events=True) as alice:
        assert await take(alice, 1) == [Members(1, ("alice",))]
        async with connect(server.url, "bob", "sports"):
            assert await take(alice, 1) == [Members(2, ("alice", "bob"), ("bob",))]
        assert await take(alice, 1) == [Members(1, ("alice",), (), ("bob",))]
        assert (alice.users, alice.members) == (1, ("alice",))
