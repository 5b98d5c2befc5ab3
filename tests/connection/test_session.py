"""One session: the test plays its peer, its supervisor and its topic."""

import asyncio
import json
from typing import Any, Callable, Optional

import pytest

from chat_actors.actors.base import HIGH_WATER, Mailbox
from chat_actors.actors.events import Join, JoinFailed, Leave, Send, TopicEvent
from chat_actors.actors.supervisor import ListTopics, SupervisorEvent
from chat_actors.connection.admission import Admission, HandshakeRefused
from chat_actors.connection.asgi import Receive
from chat_actors.connection.inbox import Backpressure, Inbox, Take
from chat_actors.connection.lanes import open_outbox
from chat_actors.connection.outbox import StallWatch
from chat_actors.connection.session import Session
from chat_actors.counters import Counters
from chat_actors.protocol.codes import CloseCode
from chat_actors.settings import Settings
from tests.support.fakes import FakeClock, FakeServer, in_clean_loop, log_lines, settle


class HoldingInbox(Inbox):
    """Inbox that keeps ``take`` for the test to call, and the futures that the session waits for."""

    def __init__(self, receive: Receive) -> None:
        super().__init__(receive)
        self.take: Optional[Take] = None
        self.held: list[asyncio.Future[None]] = []

    def deliver_to(self, take: Take) -> None:
        self.take = take

    def hold(self, until: "asyncio.Future[None]") -> None:
        self.held.append(until)

    def guard(self, backpressure: Backpressure, too_big: Callable[[], None]) -> None:
        self.backpressure, self.too_big = backpressure, too_big


class Alone:
    """Session that runs alone, and its surroundings."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.counters = Counters()
        self.server = FakeServer()
        watch = StallWatch(self.clock, self.counters, 1 << 20, 10.0, 30.0)
        self.outbox = open_outbox(watch, None, self.server.receive, self.server.send)
        self.inbox = HoldingInbox(self.outbox.receive)
        self.supervisor: Mailbox[SupervisorEvent] = Mailbox()
        self.topic: Mailbox[TopicEvent] = Mailbox()
        chosen = Settings.model_validate(settings)
        caller = Admission(chosen).decide([])
        assert not isinstance(caller, HandshakeRefused)
        session = Session(self.inbox, self.outbox, self.supervisor, chosen, self.counters, self.clock, caller, "peer")
        self.task = asyncio.create_task(session.run())

    def says(self, *texts: str) -> None:
        for text in texts:
            self.server.events.put_nowait({"type": "websocket.receive", "text": text})

    def goes(self) -> None:
        self.server.events.put_nowait({"type": "websocket.disconnect"})

    async def asks_to_join(self) -> Join:
        self.says('{"username": "alice", "topic": "sports"}')
        await settle()
        *_, asked = mail(self.supervisor)
        assert isinstance(asked, Join)
        assert (asked.username, asked.topic, asked.outbox) == ("alice", "sports", self.outbox)
        return asked

    async def joins(self) -> Take:
        """Become a member; what the session would have the inbox call for each text that it reads itself."""
        asked = await self.asks_to_join()
        asked.reply.set_result(self.topic)
        await settle()
        assert self.inbox.take is not None
        return self.inbox.take

    async def leaves(self) -> str:
        """See the session end with exactly one leave; its reason."""
        await asyncio.wait({self.task})
        (leave,) = mail(self.supervisor)
        assert isinstance(leave, Leave)
        assert leave.outbox is self.outbox
        return leave.reason

    @property
    def errors(self) -> list[tuple[str, str]]:
        """Code and detail of each."""
        frames = [json.loads(event["text"]) for event in self.server.sent if event["type"] == "websocket.send"]
        return [(frame["error"], frame["detail"]) for frame in frames]


def mail(mailbox: "Mailbox[Any]") -> list[Any]:
    """Take all that waits."""
    return [mailbox.get_nowait() for _ in range(mailbox.qsize())]


@in_clean_loop
async def test_a_peer_that_goes_before_it_asks_to_join_leaves_no_topic() -> None:
    with log_lines() as lines:
        alone = Alone()
        alone.goes()
        await alone.task
    assert mail(alone.supervisor) == []
    assert [line for line in lines if "connection closed before join" in line and "closed by peer" in line]


@in_clean_loop
async def test_messages_go_to_the_topic_and_list_requests_to_the_supervisor() -> None:
    alone = Alone()
    take = await alone.joins()
    alone.says('{"message": "one", "ref": "r"}', "/list")
    await settle()
    assert take('{"message": "two"}')
    assert take("/list")
    assert [(send.message, send.outbox) for send in mail(alone.topic)] == [
        ("one", alone.outbox),
        ("two", alone.outbox),
    ]
    assert [type(event) for event in mail(alone.supervisor)] == [ListTopics, ListTopics]
    alone.goes()
    assert await alone.leaves() == "closed by peer"


@in_clean_loop
async def test_a_join_that_failed_closes_with_its_code_and_leaves() -> None:
    alone = Alone()
    (await alone.asks_to_join()).reply.set_exception(JoinFailed(CloseCode.RESTARTING))
    assert await alone.leaves() == "restarting"
    assert alone.server.closes == [CloseCode.RESTARTING]


@in_clean_loop
async def test_a_join_that_failed_for_a_limit_gets_the_detail() -> None:
    alone = Alone()
    (await alone.asks_to_join()).reply.set_exception(JoinFailed(CloseCode.OVERLOADED, "the topic is full"))
    assert await alone.leaves() == "overloaded"
    assert alone.errors == [("server_full", "the topic is full")]
    assert alone.server.closes == [CloseCode.OVERLOADED]


@in_clean_loop
async def test_a_session_that_is_cancelled_while_its_join_waits_leaves() -> None:
    alone = Alone()
    reply = (await alone.asks_to_join()).reply
    alone.task.cancel()
    assert await alone.leaves() == "restarting"
    assert alone.task.cancelled()
    assert reply.cancelled()  # a topic that gets round to it only now has nothing to set


@in_clean_loop
async def test_a_session_that_is_cancelled_closes_with_1012() -> None:
    alone = Alone()
    await alone.joins()
    alone.task.cancel()
    assert await alone.leaves() == "restarting"
    assert alone.server.closes == [CloseCode.RESTARTING]


@in_clean_loop
async def test_an_exception_in_a_session_closes_with_1011_and_leaves() -> None:
    with log_lines() as lines:
        alone = Alone()
        await alone.joins()
        alone.server.events.put_nowait({"type": "websocket.receive", "text": object()})  # no server would
        assert await alone.leaves() == "crashed"
    assert alone.server.closes == [CloseCode.CRASHED]
    assert len([line for line in lines if "session failed" in line and "Traceback" in line]) == 1


@in_clean_loop
async def test_an_exception_at_a_message_taken_at_once_closes_with_1011_and_leaves() -> None:
    alone = Alone()
    take = await alone.joins()
    assert not take(object())  # type: ignore[arg-type]
    assert await alone.leaves() == "crashed"
    assert alone.server.closes == [CloseCode.CRASHED]


@in_clean_loop
async def test_too_many_refused_first_frames_close_the_connection() -> None:
    alone = Alone(refused_frames=3)
    alone.says("{", "{", "/list", "{", "{", "{", "{")
    await alone.task
    assert [code for code, _ in alone.errors] == ["invalid_json"] * 5
    assert alone.server.closes == [CloseCode.TOO_MANY_REFUSED]
    assert [type(event) for event in mail(alone.supervisor)] == [ListTopics]


@pytest.mark.parametrize("at_once", [True, False])
@in_clean_loop
async def test_too_many_refused_frames_of_a_member_close_the_connection(at_once: bool) -> None:
    alone = Alone(refused_frames=3)
    take = await alone.joins()
    for text in ("{", "{", '{"message": "good"}', "{", "{", "{"):
        if not at_once:
            alone.says(text)
        elif not take(text):
            break
    assert await alone.leaves() == "too_many_refused"
    assert [code for code, _ in alone.errors] == ["invalid_json"] * 5
    assert alone.server.closes == [CloseCode.TOO_MANY_REFUSED]


@in_clean_loop
async def test_nothing_is_posted_of_what_came_behind_the_frame_that_closes() -> None:
    alone = Alone(refused_frames=1)
    take = await alone.joins()
    alone.says('{"message": "late"}')  # on its way, when the frame is read that closes
    assert not take("{")
    assert not take('{"message": "late as well"}')
    assert await alone.leaves() == "too_many_refused"
    assert mail(alone.topic) == []


@in_clean_loop
async def test_a_frame_over_the_limit_closes_the_connection() -> None:
    alone = Alone(frame_bytes=1024)
    await alone.joins()
    alone.server.events.put_nowait({"type": "websocket.receive", "bytes": b"{".ljust(1024)})
    alone.server.events.put_nowait({"type": "websocket.receive", "bytes": b"{".ljust(1025)})
    assert await alone.leaves() == "frame_too_big"
    assert [code for code, _ in alone.errors] == ["invalid_json"]
    assert alone.server.closes == [CloseCode.FRAME_TOO_BIG]


@in_clean_loop
async def test_a_frame_that_the_inbox_finds_too_big_ends_the_conversation() -> None:
    alone = Alone()
    await alone.joins()
    alone.inbox.too_big()
    alone.goes()
    assert await alone.leaves() == "frame_too_big"
    assert alone.server.closes == [CloseCode.FRAME_TOO_BIG]


@in_clean_loop
async def test_a_member_reads_nothing_more_while_its_topic_is_crowded() -> None:
    alone = Alone(rate_limit=0)
    take = await alone.joins()
    alone.says(*['{"message": "x"}'] * (HIGH_WATER + 5))
    await settle()
    while alone.topic.qsize() < HIGH_WATER:
        await settle()
    await settle()
    assert alone.topic.qsize() == HIGH_WATER
    assert take('{"message": "x"}')  # what has been read is posted, but the inbox is to hold the rest
    (held,) = alone.inbox.held
    assert not held.done()
    assert len(mail(alone.topic)) == HIGH_WATER + 1
    alone.topic.release_senders()
    await settle()
    assert held.done()
    assert alone.topic.qsize() == 5
    alone.goes()
    assert await alone.leaves() == "closed by peer"


@in_clean_loop
async def test_a_sender_above_its_rate_is_read_more_slowly_and_loses_nothing() -> None:
    alone = Alone(rate_limit=1, rate_burst=1)
    take = await alone.joins()
    assert take('{"message": "0"}')
    assert not alone.inbox.held
    assert take('{"message": "1"}')
    (held,) = alone.inbox.held
    await settle()
    await alone.clock.advance(0.75)
    assert not held.done()
    await alone.clock.advance(0.25)
    assert held.done()
    alone.says(*[f'{{"message": "{number}"}}' for number in range(2, 5)])
    await settle()
    for count in (3, 4, 5):  # one each second
        assert alone.topic.qsize() == count
        await alone.clock.advance(1)
    assert [send.message for send in mail(alone.topic) if isinstance(send, Send)] == list("01234")
    alone.goes()
    assert await alone.leaves() == "closed by peer"


@in_clean_loop
async def test_frames_that_do_not_reach_the_session_count_towards_the_rate() -> None:
    limited, unlimited = Alone(rate_limit=0.001, rate_burst=2), Alone(rate_limit=0)
    await limited.joins()
    await unlimited.joins()
    assert [limited.inbox.backpressure() is None for _ in range(4)] == [True, True, False, False]
    assert all(unlimited.inbox.backpressure() is None for _ in range(200))
    for alone in (limited, unlimited):
        alone.goes()
        assert await alone.leaves() == "closed by peer"


@pytest.mark.parametrize("joined", [True, False])
@in_clean_loop
async def test_nothing_more_is_read_of_a_sender_above_its_rate_until_it_may_go_on(joined: bool) -> None:
    alone = Alone(rate_limit=0.001, rate_burst=1)
    if joined:
        await alone.joins()
    alone.says(*["/list"] * 5)
    await settle()
    assert [type(event) for event in mail(alone.supervisor)] == [ListTopics] * 2
    alone.task.cancel()
    await asyncio.wait({alone.task})


@in_clean_loop
async def test_a_join_without_the_required_token_is_refused_and_may_be_tried_again() -> None:
    alone = Alone(token="secret")
    alone.says('{"username": "alice", "topic": "sports"}')
    alone.says('{"username": "alice", "topic": "sports", "token": "wrong"}')
    alone.says("/list")
    alone.says('{"username": "alice", "topic": "sports", "token": "secret"}')
    await settle()
    (join,) = mail(alone.supervisor)
    assert isinstance(join, Join)
    assert [code for code, _ in alone.errors] == ["invalid_join", "invalid_join", "not_joined"]
    join.reply.set_result(alone.topic)
    alone.goes()
    assert await alone.leaves() == "closed by peer"


@in_clean_loop
async def test_the_join_timeout_closes_a_connection_that_has_not_joined() -> None:
    member, stranger = Alone(join_timeout=10.0), Alone(join_timeout=10.0)
    asked = await member.asks_to_join()
    asked.reply.set_result(member.topic)
    stranger.says("{", "/list")
    await member.clock.advance(10.0)
    await stranger.clock.advance(9.9)
    assert not stranger.task.done()
    await stranger.clock.advance(0.1)
    await asyncio.wait({stranger.task})
    assert stranger.server.closes == [CloseCode.NO_JOIN]
    member.goes()
    assert await member.leaves() == "closed by peer"


@in_clean_loop
async def test_a_late_join_is_answered_within_the_join_timeout_or_refused() -> None:
    member = Alone(join_timeout=10.0)
    await member.clock.advance(9.0)
    asked = await member.asks_to_join()
    await member.clock.advance(9.9)
    assert not member.task.done()
    await member.clock.advance(0.1)
    await asyncio.wait({member.task})
    assert isinstance(asked.reply.exception(), JoinFailed)
    assert member.server.closes == [CloseCode.OVERLOADED]
    assert await member.leaves() == "overloaded"
