"""The members of a topic, and the members that left recently enough to resume. No event loop."""

from typing import Optional

import pytest

from chat_actors.actors.outbox import Outbox
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Ack, Window
from chat_actors.room.members import Member, Members

PLAIN = None
ASKS = Window()
ACK = Ack(id=1, timestamp=0, recipients=0)


class Connection(Outbox):
    """Key of a member. Members never write to it."""

    def write(self, frames: bytes) -> None:
        raise AssertionError

    def write_answer(self, frames: bytes) -> None:
        raise AssertionError

    def close(self, code: CloseCode) -> None:
        raise AssertionError


class Topic:
    """Members of a topic and its time, with short names for joins and leaves."""

    def __init__(self) -> None:
        self.members: Members[Outbox] = Members(30.0)
        self.now = 1000.0
        self.replaced: list[Outbox] = []

    def join(self, username: str, window: Optional[Window] = ASKS) -> tuple[Outbox, Member]:
        outbox = Connection()
        member, replaced = self.members.join(outbox, username, window, self.now)
        assert self.members.present[outbox] is member
        if replaced is not None:
            self.replaced.append(replaced)
        return outbox, member

    def resume(self, member: Member, username: str = "anyone", events: bool = False) -> tuple[Outbox, Member]:
        return self.join(username, Window(resume=member.token, events=events))

    def join_and_leave_with_a_ref(self, username: str) -> Member:
        """A member that left; its ref ``r`` has the ack ``ACK``."""
        outbox, member = self.join(username)
        assert member.refs is not None
        member.refs["r"] = ACK
        self.leave(outbox)
        return member

    def leave(self, outbox: Outbox) -> Optional[Member]:
        return self.members.leave(outbox, self.now)


@pytest.fixture
def topic() -> Topic:
    return Topic()


# Coming and going.


def test_a_member_that_asks_for_nothing_has_neither_token_nor_refs(topic: Topic) -> None:
    _, member = topic.join("alice", PLAIN)
    assert (member.token, member.refs, member.events) == ("", None, False)


def test_tokens_are_long_and_no_two_are_the_same(topic: Topic) -> None:
    tokens = {topic.join("alice")[1].token for _ in range(1000)}
    assert len(tokens) == 1000
    assert min(map(len, tokens)) >= 22  # 128 bits in base64
    for place in range(21):  # no part of them is fixed or counts up
        assert len({token[place] for token in tokens}) > 32


def test_a_connection_that_is_no_member_does_not_leave(topic: Topic) -> None:
    outbox, member = topic.join("alice")
    assert topic.leave(Connection()) is None
    assert topic.leave(outbox) is member
    assert topic.leave(outbox) is None
    assert topic.members.present == {}


@pytest.mark.parametrize("window", [PLAIN, ASKS])
def test_the_name_of_a_member_that_left_is_free(topic: Topic, window: Optional[Window]) -> None:
    outbox, _ = topic.join("alice", window)
    topic.leave(outbox)
    assert topic.join("ALICE", window)[1].username == "ALICE"


def test_names_are_listed_oldest_member_first(topic: Topic) -> None:
    outbox, _ = topic.join("alice")
    topic.join("bob", PLAIN)
    topic.leave(outbox)
    topic.join("carol")
    topic.join("alice")
    assert topic.members.names() == ["bob", "carol", "alice"]


# Taking over a connection that hangs.


def test_a_token_takes_over_from_the_connection_that_has_it(topic: Topic) -> None:
    old, member = topic.join("alice")
    topic.join("bob")
    new, same = topic.resume(member, username="carol")
    assert (same.username, same.token, same.refs) == ("alice", member.token, member.refs)
    assert topic.replaced == [old]
    assert topic.leave(old) is None
    assert topic.members.names() == ["alice", "bob"]  # in the old place, under the old name
    assert topic.leave(new) is same


def test_a_token_takes_over_again_and_again(topic: Topic) -> None:
    connections, member = [], topic.join("alice")[1]
    for _ in range(3):
        outbox, same = topic.resume(member)
        assert same.token == member.token
        connections.append(outbox)
    assert topic.replaced[1:] == connections[:2]
    assert [*topic.members.present] == connections[2:]


def test_a_name_stays_taken_through_a_takeover(topic: Topic) -> None:
    topic.resume(topic.join("alice")[1])
    assert topic.join("alice")[1].username == "alice#2"


# Coming back.


def test_a_token_brings_name_and_refs_back_within_the_window(topic: Topic) -> None:
    member = topic.join_and_leave_with_a_ref("alice")
    topic.join("bob")
    topic.now += 29.75
    _, same = topic.resume(member)
    assert (same.username, same.refs, same.token) == ("alice", {"r": ACK}, member.token)
    assert topic.replaced == []
    assert topic.members.names() == ["bob", "alice"]  # she left and joined, so she is last


def test_a_name_that_was_taken_meanwhile_is_not_given_back_but_all_else_is(topic: Topic) -> None:
    member = topic.join_and_leave_with_a_ref("alice")
    topic.join("Alice")
    _, same = topic.resume(member, username="alice")
    assert (same.username, same.refs, same.token) == ("alice#2", {"r": ACK}, member.token)
    assert topic.join("alice#2")[1].username == "alice#2#2"


def test_a_token_is_good_until_thirty_seconds_after_the_leave(topic: Topic) -> None:
    outbox, member = topic.join("alice")
    topic.leave(outbox)
    topic.now += 30
    _, other = topic.resume(member, username="bob")
    assert (other.username, other.refs) == ("bob", {})
    assert other.token not in ("", member.token)
    assert topic.members.oldest_deadline is None


def test_the_thirty_seconds_begin_with_each_leave(topic: Topic) -> None:
    outbox, member = topic.join("alice")
    for _ in range(3):
        topic.leave(outbox)
        topic.now += 20
        outbox, same = topic.resume(member)
        assert same is member


@pytest.mark.parametrize("token", ["", "unknown"])
def test_a_join_with_an_unknown_token_is_an_ordinary_join(topic: Topic, token: str) -> None:
    topic.join("alice", PLAIN)  # her token is empty
    outbox, _ = topic.join("alice", PLAIN)
    topic.leave(outbox)
    _, member = topic.join("bob", Window(resume=token))
    assert (member.username, member.refs, topic.replaced) == ("bob", {}, [])
    assert member.token not in ("", token)


def test_members_that_left_are_forgotten_each_in_its_time(topic: Topic) -> None:
    joined = [topic.join(username) for username in ("alice", "bob", "carol")]
    for outbox, _ in joined:
        topic.leave(outbox)
        topic.now += 1
    assert topic.members.oldest_deadline == 1030
    topic.members.expire(1029.75)
    assert topic.members.oldest_deadline == 1030
    topic.members.expire(1031)
    assert topic.members.oldest_deadline == 1032
    topic.members.expire(1032)
    assert topic.members.oldest_deadline is None
    topic.now = 1000
    assert not [member for _, member in joined if topic.resume(member)[1] is member]


def test_nothing_is_kept_of_a_plain_member_that_left(topic: Topic) -> None:
    topic.leave(topic.join("alice", PLAIN)[0])
    assert topic.members.oldest_deadline is None


# Events.


def test_members_that_want_events_are_counted_through_all_changes(topic: Topic) -> None:
    members = topic.members
    alice, member = topic.join("alice", Window(events=True))
    topic.join("bob", PLAIN)
    carol, _ = topic.join("carol", Window(events=True))
    assert members.watchers == 2
    alice, _ = topic.resume(member, events=True)  # takes over
    assert members.watchers == 2
    alice, member = topic.resume(member, events=False)
    assert (members.watchers, member.events) == (1, False)
    topic.leave(alice)
    assert members.watchers == 1
    alice, member = topic.resume(member, events=True)  # comes back
    assert (members.watchers, member.events) == (2, True)
    topic.leave(alice)
    topic.leave(carol)
    assert members.watchers == 0


def test_cleared_members_are_no_members(topic: Topic) -> None:
    topic.leave(topic.join("alice")[0])
    topic.join("bob")
    topic.members.clear()
    assert (topic.members.present, topic.members.names(), topic.members.oldest_deadline) == ({}, [], None)
