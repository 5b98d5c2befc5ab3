"""One session: the test plays its connection, its supervisor and its topic."""

import asyncio
import json
from collections import deque
from typing import Any, Callable, Optional

import pytest

from chat_actors.actors.base import HIGH_WATER, Mailbox
from chat_actors.actors.events import Join, JoinFailed, Leave, TopicEvent
from chat_actors.actors.handover import Elsewhere, Luggage, Traveller
from chat_actors.actors.supervisor import ListTopics, SupervisorEvent
from chat_actors.connection.admission import Admission, HandshakeRefused
from chat_actors.connection.base import MOVING, OPEN, Connection, Sweep
from chat_actors.connection.session import FORGET_SECONDS, Session
from chat_actors.counters import Counters
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.decoding import Data
from chat_actors.protocol.frames import payloads
from chat_actors.settings import Settings
from tests.support.fakes import FakeClock, in_clean_loop, log_lines, settle

JOIN = '{"username": "alice", "topic": "sports"}'


class FakeConnection(Connection):
    """Connection that delivers what the test says for the peer, while the session does not hold it."""

    __slots__ = ("close_codes", "frames", "given", "held", "on_room", "said")

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep, lambda: None)
        self.said: deque[Data] = deque()
        self.held = False
        self.frames: list[dict[str, Any]] = []
        self.close_codes: list[CloseCode] = []
        self.on_room: list[Callable[[], None]] = []  # to be called once all that was written is sent
        self.given: Optional[tuple[int, bytes]] = None  # the descriptor and the bytes, if it can be given away

    def deliver(self) -> None:
        while self.said and not self.held and self._state is OPEN:
            self.receiver.receive(self.said.popleft())

    def hold(self) -> None:
        self.held = self._state is OPEN

    def release(self) -> None:
        self.held = False
        self.deliver()

    def write(self, frames: bytes) -> None:
        self.frames += map(json.loads, payloads(frames))

    def buffered(self) -> int:
        return 0

    def when_room(self, call: Callable[[], None]) -> None:
        self.on_room.append(call)

    def give(self) -> Optional[tuple[int, bytes]]:
        if self._state is OPEN and self.given is not None:
            self._state = MOVING
            return self.given
        return None

    def take_back(self) -> None:
        if self._state is MOVING:
            self._state = OPEN

    def _send_close(self, code: CloseCode) -> None:
        self.close_codes.append(code)

    def _cut(self) -> None: ...

    def _check_silence(self, silent: int) -> None: ...


class Alone:
    """Session that is alone, and its surroundings."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.counters = Counters()
        chosen = Settings.model_validate(settings)
        sweep = Sweep(chosen, self.clock, self.counters, lambda: None)
        self.sweeping = asyncio.create_task(sweep.run())
        self.connection = FakeConnection(sweep)
        self.supervisor: Mailbox[SupervisorEvent] = Mailbox()
        self.topic: Mailbox[TopicEvent] = Mailbox()
        caller = Admission(chosen).decide([])
        assert not isinstance(caller, HandshakeRefused)
        peer, source = "10.0.0.1:5000", "10.0.0.1"
        self.session = Session(
            self.connection, self.supervisor, chosen, self.counters, self.clock, caller, peer, source
        )

    def says(self, *frames: Data) -> None:
        self.connection.said.extend(frames)
        self.connection.deliver()

    def goes(self) -> None:
        self.connection.abort("closed by peer")

    def asks_to_join(self) -> Join:
        self.says(JOIN)
        *_, asked = mail(self.supervisor)
        assert isinstance(asked, Join)
        assert (asked.username, asked.topic, asked.outbox) == ("alice", "sports", self.connection)
        return asked

    async def joins(self) -> None:
        self.asks_to_join().reply.set_result(self.topic)
        await settle()

    def leaves(self) -> str:
        """The reason of its leave: the only one, and all that waits for the supervisor."""
        (leave,) = mail(self.supervisor)
        assert isinstance(leave, Leave)
        assert leave.outbox is self.connection
        return leave.reason

    @property
    def errors(self) -> list[tuple[str, str]]:
        """Code and detail of each."""
        return [(frame["error"], frame["detail"]) for frame in self.connection.frames]

    @property
    def codes(self) -> list[str]:
        return [code for code, _ in self.errors]

    @property
    def close_codes(self) -> list[CloseCode]:
        return self.connection.close_codes

    @property
    def messages(self) -> list[str]:
        """The messages that wait for the topic, each of this member's."""
        sends = mail(self.topic)
        assert all(send.outbox is self.connection for send in sends)
        return [send.message for send in sends]


def mail(mailbox: "Mailbox[Any]") -> list[Any]:
    """Take all that waits."""
    return [mailbox.get_nowait() for _ in range(mailbox.qsize())]


def message(text: object) -> str:
    return json.dumps({"message": str(text)})


# From the join to the leave.


@in_clean_loop
async def test_a_peer_that_goes_before_it_asks_to_join_leaves_no_topic() -> None:
    alone = Alone()
    with log_lines() as lines:
        alone.goes()
    assert mail(alone.supervisor) == []
    (line,) = lines
    assert "connection closed before join" in line and "closed by peer" in line and "10.0.0.1:5000" in line


@in_clean_loop
async def test_messages_go_to_the_topic_and_list_requests_to_the_supervisor() -> None:
    alone = Alone()
    await alone.joins()
    alone.says('{"message": "one", "ref": "r"}', "/list", b'{"message": "two"}', b"/list")
    sends = mail(alone.topic)
    assert [(send.message, send.ref, send.outbox) for send in sends[:1]] == [("one", "r", alone.connection)]
    assert [send.message for send in sends] == ["one", "two"]
    lists = mail(alone.supervisor)
    assert [(type(event), event.outbox) for event in lists] == [(ListTopics, alone.connection)] * 2
    alone.goes()
    assert alone.leaves() == "closed by peer"


@in_clean_loop
async def test_a_member_leaves_with_the_reason_of_its_connection() -> None:
    alone = Alone()
    await alone.joins()
    alone.connection.close(CloseCode.RESUMED_ELSEWHERE)
    alone.connection.close(CloseCode.RESTARTING)
    alone.goes()
    assert alone.leaves() == "resumed_elsewhere"


@in_clean_loop
async def test_frames_behind_a_join_wait_for_its_answer() -> None:
    alone = Alone()
    asked = alone.asks_to_join()
    alone.says(message("1"), "/list", message("2"))
    await settle()
    assert (mail(alone.supervisor), alone.messages) == ([], [])
    asked.reply.set_result(alone.topic)
    await settle()
    assert alone.messages == ["1", "2"]
    assert [type(event) for event in mail(alone.supervisor)] == [ListTopics]
    assert alone.errors == []


@in_clean_loop
async def test_a_join_with_the_keys_of_the_window_asks_for_it() -> None:
    alone = Alone()
    alone.says('{"username": "alice", "topic": "sports", "since": 7}')
    (asked,) = mail(alone.supervisor)
    assert asked.window.since == 7


@in_clean_loop
async def test_a_join_that_failed_closes_with_its_code_and_leaves() -> None:
    alone = Alone()
    alone.asks_to_join().reply.set_exception(JoinFailed(CloseCode.RESTARTING))
    alone.says(message("behind"))
    await settle()
    assert (alone.leaves(), alone.close_codes, alone.errors) == ("restarting", [CloseCode.RESTARTING], [])
    assert alone.messages == []


@in_clean_loop
async def test_a_join_that_failed_for_a_limit_gets_the_detail() -> None:
    alone = Alone()
    alone.asks_to_join().reply.set_exception(JoinFailed(CloseCode.OVERLOADED, "the topic is full"))
    await settle()
    assert (alone.leaves(), alone.close_codes) == ("overloaded", [CloseCode.OVERLOADED])
    assert alone.errors == [("server_full", "the topic is full")]
    assert alone.counters.refused == {"server_full": 1}


@in_clean_loop
async def test_a_peer_that_goes_while_its_join_waits_leaves_and_its_reply_is_cancelled() -> None:
    alone = Alone()
    asked = alone.asks_to_join()
    alone.goes()
    assert asked.reply.cancelled()  # a topic that gets round to it only now has nothing to set
    await settle()
    assert (alone.leaves(), alone.close_codes) == ("closed by peer", [])


@pytest.mark.parametrize("failed", [False, True])
@in_clean_loop
async def test_an_answer_that_crosses_the_end_changes_nothing(failed: bool) -> None:
    alone = Alone()
    reply = alone.asks_to_join().reply
    if failed:
        reply.set_exception(JoinFailed(CloseCode.OVERLOADED, "the topic is full"))
    else:
        reply.set_result(alone.topic)
    alone.goes()
    await settle()
    assert (alone.leaves(), alone.errors, alone.close_codes) == ("closed by peer", [], [])


@pytest.mark.parametrize("joined", [False, True])
@in_clean_loop
async def test_an_exception_in_a_session_closes_with_1011(joined: bool) -> None:
    alone = Alone()
    if joined:
        await alone.joins()
    with log_lines() as lines:
        alone.says(object(), message("behind"))  # type: ignore[arg-type]  # no connection would
    assert alone.close_codes == [CloseCode.CRASHED]
    assert len([line for line in lines if "session failed" in line and "Traceback" in line]) == 1
    if joined:
        assert alone.leaves() == "crashed"
    assert alone.messages == []


# The time limit of the join.


@in_clean_loop
async def test_the_join_timeout_closes_a_connection_that_has_not_joined() -> None:
    member, stranger = Alone(join_timeout=10), Alone(join_timeout=10)
    await member.joins()
    stranger.says("{", "/list")
    await stranger.clock.elapse(10)
    assert stranger.close_codes == []
    await stranger.clock.elapse(1)
    assert stranger.close_codes == [CloseCode.NO_JOIN]
    await member.clock.elapse(100)
    assert member.close_codes == []


@in_clean_loop
async def test_a_late_join_is_answered_within_the_join_timeout_or_refused() -> None:
    alone = Alone(join_timeout=10)
    await alone.clock.elapse(9)
    asked = alone.asks_to_join()
    await alone.clock.elapse(10)
    assert not asked.reply.done()
    await alone.clock.elapse(1)
    assert asked.reply.cancelled()  # nobody waits for it any more
    assert alone.close_codes == [CloseCode.OVERLOADED]
    assert [code for code, _ in alone.errors] == ["server_full"]
    assert alone.leaves() == "overloaded"


@in_clean_loop
async def test_a_join_that_is_accepted_has_the_time_it_needs_to_read() -> None:
    alone = Alone(join_timeout=10)
    asked = alone.asks_to_join()
    await alone.clock.elapse(9)
    asked.accepted = True  # ``joined`` is written
    alone.says(message("1"))
    await alone.clock.elapse(100)
    assert (asked.reply.done(), alone.close_codes, alone.messages) == (False, [], [])
    asked.reply.set_result(alone.topic)
    await settle()
    await alone.clock.elapse(100)
    assert (alone.close_codes, alone.messages) == ([], ["1"])


# The token.


@in_clean_loop
async def test_a_join_without_the_required_token_is_refused_and_may_be_tried_again() -> None:
    alone = Alone(token="secret")
    alone.says(JOIN, '{"username": "alice", "topic": "sports", "token": "wrong"}', "/list", message("1"))
    assert mail(alone.supervisor) == []
    assert alone.errors == [
        ("unauthorized", "token required: add `token` to the join frame"),
        ("unauthorized", "wrong token: correct `token` in the join frame"),
        ("unauthorized", "token required: first join with `token` in the join frame"),
        ("not_joined", 'join before sending: the first frame must be {"username": "…", "topic": "…"}'),
    ]
    alone.says('{"username": "alice", "topic": "sports", "token": "secret"}')
    (join,) = mail(alone.supervisor)
    assert isinstance(join, Join)
    join.reply.set_result(alone.topic)
    await settle()
    alone.says("/list")
    assert [type(event) for event in mail(alone.supervisor)] == [ListTopics]


# Refused frames.


@pytest.mark.parametrize("joined", [False, True])
@in_clean_loop
async def test_too_many_refused_frames_in_a_row_close_the_connection(joined: bool) -> None:
    alone = Alone(refused_frames=3)
    if joined:
        await alone.joins()
    alone.says("{", "{", "/list", "{", "{", "{", "{", message("late"))
    assert alone.codes == ["invalid_json"] * 5
    assert alone.close_codes == [CloseCode.TOO_MANY_REFUSED]
    assert alone.messages == []
    assert alone.counters.refused == {"invalid_json": 5}


@in_clean_loop
async def test_a_message_and_a_join_forgive_the_frames_refused_before() -> None:
    alone = Alone(refused_frames=3)
    alone.says("{", "{")
    await alone.joins()
    alone.says("{", "{", message("good"), "{", "{")
    assert alone.close_codes == []
    alone.says("{")
    assert alone.close_codes == [CloseCode.TOO_MANY_REFUSED]


@in_clean_loop
async def test_refused_frames_far_apart_close_no_connection() -> None:
    alone = Alone(refused_frames=3)
    await alone.joins()
    for _ in range(20):
        alone.says("{")
        await alone.clock.elapse(FORGET_SECONDS)
    assert alone.close_codes == []
    alone.says("{", "{", "{")
    assert alone.close_codes == [CloseCode.TOO_MANY_REFUSED]


@pytest.mark.parametrize("joined", [False, True])
@in_clean_loop
async def test_the_heartbeats_of_a_library_are_refused_and_never_counted(joined: bool) -> None:
    alone = Alone(refused_frames=1)
    if joined:
        await alone.joins()
    heartbeats: list[Data] = ['{"type": "ping"}', "ping", b"", '"heartbeat"']
    alone.says(*heartbeats * 10)
    assert (len(alone.errors), alone.close_codes) == (40, [])
    assert sum(alone.counters.refused.values()) == 40
    alone.says("{")
    assert alone.close_codes == [CloseCode.TOO_MANY_REFUSED]


@in_clean_loop
async def test_a_refused_frame_is_logged_with_its_code_and_its_peer() -> None:
    alone = Alone()
    with log_lines() as lines:
        alone.says("{")
        alone.connection.receiver.refuse_big()
    refused = [line for line in lines if "frame refused" in line and "10.0.0.1:5000" in line]
    assert ["invalid_json" in refused[0], "frame_too_big" in refused[1]] == [True, True]
    assert alone.close_codes == [CloseCode.FRAME_TOO_BIG]


@in_clean_loop
async def test_a_frame_too_big_ends_a_member() -> None:
    alone = Alone()
    await alone.joins()
    alone.connection.receiver.refuse_big()
    assert (alone.leaves(), alone.close_codes) == ("frame_too_big", [CloseCode.FRAME_TOO_BIG])


# Backpressure.


@in_clean_loop
async def test_a_member_is_held_while_its_topic_is_crowded() -> None:
    alone = Alone(rate_limit=0)
    await alone.joins()
    alone.says(*[message(number) for number in range(HIGH_WATER + 5)])
    await settle()
    assert (alone.topic.qsize(), alone.connection.held) == (HIGH_WATER, True)
    assert alone.messages == [str(number) for number in range(HIGH_WATER)]
    alone.topic.release_senders()
    await settle()
    assert not alone.connection.held
    assert alone.messages == [str(number) for number in range(HIGH_WATER, HIGH_WATER + 5)]


@in_clean_loop
async def test_a_peer_that_has_not_joined_is_held_while_the_supervisor_is_crowded() -> None:
    alone = Alone(rate_limit=0)
    alone.says(*["/list"] * (HIGH_WATER + 5))
    assert (alone.supervisor.qsize(), alone.connection.held) == (HIGH_WATER, True)
    mail(alone.supervisor)
    alone.supervisor.release_senders()
    await settle()
    assert (alone.supervisor.qsize(), alone.connection.held) == (5, False)


@in_clean_loop
async def test_a_mailbox_that_is_drained_after_the_end_disturbs_nobody() -> None:
    alone = Alone(rate_limit=0)
    await alone.joins()
    alone.says(*[message("x")] * HIGH_WATER)
    alone.goes()
    alone.topic.end(lambda event: None)
    await settle()
    assert alone.leaves() == "closed by peer"


# The rate limit.


@in_clean_loop
async def test_a_sender_above_its_rate_is_read_more_slowly_and_loses_nothing() -> None:
    alone = Alone(rate_limit=1, rate_burst=2)
    await alone.joins()
    alone.says(*map(message, range(5)))
    assert (alone.topic.qsize(), alone.connection.held) == (3, True)  # two at once; the third is taken, and waited for
    await alone.clock.advance(0.75)
    assert alone.topic.qsize() == 3
    await alone.clock.advance(0.25)
    assert alone.topic.qsize() == 4
    await alone.clock.advance(1)
    assert (alone.messages, alone.connection.held) == (list("01234"), True)
    await alone.clock.advance(1)
    assert not alone.connection.held


@in_clean_loop
async def test_frames_before_the_join_and_refused_frames_count_towards_the_rate() -> None:
    alone = Alone(rate_limit=1, rate_burst=2)
    alone.says("/list", "{", "/list", "/list")
    assert ([type(event) for event in mail(alone.supervisor)], len(alone.errors)) == ([ListTopics] * 2, 1)
    await alone.clock.advance(1)
    assert len(mail(alone.supervisor)) == 1


@in_clean_loop
async def test_frames_that_are_no_messages_count_towards_the_rate() -> None:
    limited, unlimited = Alone(rate_limit=1, rate_burst=2), Alone(rate_limit=0)
    held = []
    for _ in range(3):
        for alone in (limited, unlimited):
            alone.connection.receiver.count_frame()
        held.append((limited.connection.held, unlimited.connection.held))
    assert held == [(False, False), (False, False), (True, False)]
    await limited.clock.advance(1)
    assert not limited.connection.held


@in_clean_loop
async def test_a_sender_that_waits_for_its_rate_is_not_released_by_a_drained_mailbox() -> None:
    alone = Alone(rate_limit=1, rate_burst=HIGH_WATER - 1)
    await alone.joins()
    alone.says(*[message("x")] * (HIGH_WATER + 1))
    assert alone.topic.qsize() == HIGH_WATER
    alone.topic.release_senders()
    await settle()
    assert (alone.topic.qsize(), alone.connection.held) == (HIGH_WATER, True)


@in_clean_loop
async def test_a_session_that_ended_releases_nothing_later() -> None:
    alone = Alone(rate_limit=1, rate_burst=1)
    await alone.joins()
    alone.says(message("1"), message("2"))
    alone.goes()
    await alone.clock.advance(10)
    assert alone.connection.held


@in_clean_loop
async def test_a_join_itself_is_free_of_the_rate() -> None:
    alone = Alone(rate_limit=0.001, rate_burst=1)
    alone.says("/list", JOIN)
    assert [type(event) for event in mail(alone.supervisor)] == [ListTopics, Join]


# On the way to another worker.


async def is_sent_elsewhere(alone: Alone, given: Optional[tuple[int, bytes]] = (7, b"behind")) -> Traveller:
    """Answer the join with the way to another worker; return who takes it, once all that was written is sent."""
    travellers: list[Traveller] = []
    alone.connection.given = given
    alone.asks_to_join().reply.set_exception(Elsewhere(travellers.append))
    await settle()
    (call,) = alone.connection.on_room
    assert travellers == []
    call()
    assert travellers == [alone.session]
    return travellers[0]


@in_clean_loop
async def test_a_join_of_another_workers_topic_goes_there_with_all_that_belongs_to_it() -> None:
    alone = Alone(rate_limit=10, rate_burst=5)
    alone.says("/list", "/list")
    traveller = await is_sent_elsewhere(alone)
    assert traveller.pack() == (
        7,
        Luggage("sports", "alice", None, "10.0.0.1:5000", "10.0.0.1", 3.0, alone.clock.monotonic(), b"behind"),
    )
    traveller.arrived()
    alone.goes()
    assert (mail(alone.supervisor), alone.close_codes, alone.errors) == ([], [], [])  # no leave: it goes on there


@in_clean_loop
async def test_a_server_without_a_rate_sends_none_along() -> None:
    alone = Alone(rate_limit=0)
    packed = (await is_sent_elsewhere(alone)).pack()
    assert packed is not None
    assert (packed[1].tokens, packed[1].counted_at) == (0.0, 0.0)


@in_clean_loop
async def test_a_connection_that_arrives_joins_and_goes_on_at_its_rate() -> None:
    alone = Alone(rate_limit=10, rate_burst=5)
    counted_at = alone.clock.monotonic()
    alone.session.arrive(Luggage("sports", "alice", None, "10.0.0.1:5000", None, -3.0, counted_at, b""))
    alone.says(message("1"), message("2"))
    (join,) = mail(alone.supervisor)
    assert (join.topic, join.username, join.outbox, join.arrived) == ("sports", "alice", alone.connection, True)
    assert alone.messages == []  # held until the join is answered
    join.reply.set_result(alone.topic)
    await settle()
    assert alone.messages == ["1"]
    await alone.clock.advance(0.3)
    assert alone.messages == []  # 4 frames above its burst: 0.4 s
    await alone.clock.advance(0.11)
    assert alone.messages == ["2"]


@in_clean_loop
async def test_a_connection_that_arrives_has_no_rate_where_there_is_none() -> None:
    alone = Alone(rate_limit=0)
    alone.session.arrive(Luggage("sports", "alice", None, "10.0.0.1:5000", None, 0.0, 0.0, b""))
    (join,) = mail(alone.supervisor)
    join.reply.set_result(alone.topic)
    await settle()
    alone.says(*[message(str(number)) for number in range(200)])
    assert len(alone.messages) == 200


@in_clean_loop
async def test_a_connection_that_was_not_taken_asks_again_and_is_held_until_then() -> None:
    alone = Alone()
    traveller = await is_sent_elsewhere(alone)
    assert traveller.pack() is not None
    traveller.ask_again()
    alone.says(message("1"))
    (join,) = mail(alone.supervisor)
    assert (join.topic, join.username, join.arrived, alone.messages) == ("sports", "alice", False, [])
    join.reply.set_result(alone.topic)
    await settle()
    assert alone.messages == ["1"]


@pytest.mark.parametrize("detail", ["", "try again later"])
@in_clean_loop
async def test_a_connection_that_is_refused_on_its_way_is_closed_with_the_code(detail: str) -> None:
    alone = Alone()
    traveller = await is_sent_elsewhere(alone)
    assert traveller.pack() is not None
    traveller.refuse(CloseCode.RESTARTING, detail)
    assert alone.close_codes == [CloseCode.RESTARTING]
    assert alone.errors == [("server_full", detail)] * bool(detail)
    assert alone.leaves() == "restarting"


@in_clean_loop
async def test_a_connection_that_cannot_be_sent_is_refused_and_the_log_says_why() -> None:
    alone = Alone()
    traveller = await is_sent_elsewhere(alone, given=None)
    with log_lines() as lines:
        assert traveller.pack() is None
    assert any("not on the fast lane" in line for line in lines)
    assert alone.close_codes == [CloseCode.OVERLOADED]
    assert alone.errors == [("server_full", "join not possible here: try again later")]


@in_clean_loop
async def test_a_connection_that_waits_too_long_for_its_way_is_refused() -> None:
    alone = Alone(join_timeout=10)
    traveller = await is_sent_elsewhere(alone)
    await alone.clock.elapse(11)
    assert (alone.close_codes, alone.codes) == ([CloseCode.OVERLOADED], ["server_full"])
    assert alone.leaves() == "overloaded"
    assert traveller.pack() is None


@pytest.mark.parametrize("packed", [False, True])
@in_clean_loop
async def test_whatever_comes_of_the_way_of_a_peer_that_has_gone_does_nothing(packed: bool) -> None:
    alone = Alone()
    traveller = await is_sent_elsewhere(alone)
    if packed:
        assert traveller.pack() is not None
    alone.goes()
    assert alone.leaves() == "closed by peer"
    with log_lines() as lines:
        assert traveller.pack() is None
        traveller.ask_again()
        traveller.refuse(CloseCode.OVERLOADED, "try again later")
    assert (mail(alone.supervisor), alone.close_codes, alone.errors, lines) == ([], [], [], [])
