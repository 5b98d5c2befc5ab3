"""Members that resume: takeovers and returns, in a topic and in the list."""

import gc
import weakref

import pytest

from chat_actors.actors.events import JoinFailed
from chat_actors.actors.supervisor import ListTopics
from chat_actors.protocol.codes import CloseCode
from tests.support.fakes import FakeMember, in_clean_loop, settle, tasks
from tests.support.harness import SupervisorHarness, TopicHarness
from tests.support.window import joined, short, token


@in_clean_loop
async def test_a_takeover_closes_the_old_connection_without_a_notice() -> None:
    room = TopicHarness()
    watcher, old = await room.watcher(), room.ask("alice")
    await settle()
    assert short(watcher) == ["alice joined 2"]
    new = room.ask("somebody", resume=token(old), events=True)
    room.leave(old)
    room.send(watcher, "1")
    await settle()
    assert (old.closed, short(old)) == (CloseCode.RESUMED_ELSEWHERE, ["joined"])
    assert (joined(new)["username"], joined(new)["users"], token(new)) == ("alice", 2, token(old))
    assert short(watcher) == ["alice joined 2", "1 ack"]
    assert short(new) == ["joined", "1 1"]
    assert [told.outbox for told in room.told] == [old]
    room.leave(new)
    await settle()
    assert short(watcher)[-1] == "alice left 1"


@in_clean_loop
async def test_messages_of_a_replaced_connection_are_dropped_and_can_be_sent_again_once() -> None:
    room = TopicHarness()
    old, bob = room.ask("alice"), room.join("bob")
    await settle()
    room.send(old, "before", ref="1")
    new = room.ask("alice", resume=token(old))
    room.send(old, "behind", ref="2")
    room.send(new, "before", ref="1")
    room.send(new, "behind", ref="2")
    room.send(new, "behind", ref="2")
    await settle()
    assert short(old) == ["joined", "1 ack"]
    assert short(new) == ["joined", "1 ack duplicate", "2 ack", "2 ack duplicate"]
    assert short(bob) == ["joined", "1 before", "2 behind"]


@in_clean_loop
async def test_a_token_can_be_used_twice_in_a_row() -> None:
    room = TopicHarness()
    first = room.ask("alice")
    await settle()
    second = room.ask("alice", resume=token(first))
    await settle()
    third = room.ask("alice", resume=token(first))
    await settle()
    assert [member.closed for member in (first, second, third)] == [CloseCode.RESUMED_ELSEWHERE] * 2 + [None]
    assert [(joined(member)["username"], joined(member)["users"]) for member in (second, third)] == [("alice", 1)] * 2
    assert [told.outbox for told in room.told] == [first, second]
    room.leave(second)
    room.leave(third)
    await settle()
    fourth = room.ask("alice", resume=token(first))
    await settle()
    assert (joined(fourth)["username"], joined(fourth)["users"], third.closed) == ("alice", 1, None)


@pytest.mark.parametrize(
    "seconds, taken, username, known",
    [(0, False, "alice", True), (29.75, False, "alice", True), (29.75, True, "bob", True), (30, False, "bob", False)],
)
@in_clean_loop
async def test_a_member_that_returns_within_the_window_has_its_name_back_if_it_is_free(
    seconds: float, taken: bool, username: str, known: bool
) -> None:
    room = TopicHarness()
    watcher, alice = await room.watcher(), room.ask("alice")
    await settle()
    room.leave(alice)
    await settle()
    await room.clock.advance(seconds / 2)
    room.send(watcher, "1")
    if taken:
        room.join("ALICE")
    await room.clock.advance(seconds - seconds / 2)
    watcher.take()
    again = room.ask("bob", resume=token(alice))
    await settle()
    assert (joined(again)["username"], token(again) == token(alice)) == (username, known)
    assert short(watcher) == [f"{username} joined {3 if taken else 2}"]
    assert (alice.closed, room.told) == (None, [])


@in_clean_loop
async def test_a_name_is_not_reserved_and_a_returning_member_is_numbered_and_recognised() -> None:
    room = TopicHarness()
    alice = room.ask("alice")
    await settle()
    room.send(alice, "1", ref="r")
    room.leave(alice)
    other = room.join("alice")
    await settle()
    again = room.ask("alice", resume=token(alice))
    room.send(again, "1", ref="r")
    room.send(again, "2")
    await settle()
    assert (other.username, again.username) == ("alice", "alice#2")
    assert short(again) == ["joined", "1 ack duplicate", "2 ack"]
    assert [frame["username"] for frame in other.frames if frame["type"] == "message"] == ["alice#2"]


@in_clean_loop
async def test_a_full_topic_admits_a_takeover_but_not_a_member_that_left() -> None:
    room = TopicHarness(topic_members=1)
    old = room.ask("alice")
    await settle()
    new = room.ask("alice", resume=token(old))
    await settle()
    assert (new.username, old.closed) == ("alice", CloseCode.RESUMED_ELSEWHERE)
    room.leave(new)
    room.join("bob")
    late = room.ask("alice", resume=token(old))
    await settle()
    with pytest.raises(JoinFailed) as failed:
        late.reply.result()
    assert (failed.value.code, late.frames) == (CloseCode.OVERLOADED, [])


# What the supervisor makes of it.


class Asker(FakeMember):
    """Member that requests the list as soon as it receives its first frame: no session could do it sooner."""

    def __init__(self, chat: SupervisorHarness) -> None:
        super().__init__()
        self._chat = chat

    def write(self, frames: bytes) -> None:
        if not self.writes:
            self._chat.post(ListTopics(self))
        super().write(frames)


@in_clean_loop
async def test_a_list_right_behind_the_joined_counts_a_member_that_took_over_once() -> None:
    chat = SupervisorHarness()
    old = await chat.entered("alice")
    await chat.enter("bob")
    new = chat.ask("alice", member=Asker(chat), resume=token(old))
    await settle()
    assert new.frames[1]["topics"] == [{"topic": "sports", "users": 2}]


@pytest.mark.parametrize("leave_comes", ["before the join", "right behind the join", "later", "never"])
@in_clean_loop
async def test_a_member_that_took_over_counts_once_whenever_the_old_connection_leaves(leave_comes: str) -> None:
    chat = SupervisorHarness()
    await settle()
    before = tasks()
    old, (bob,) = await chat.entered("alice"), await chat.enter("bob")
    if leave_comes == "before the join":
        chat.leave(old)
    new = chat.ask("alice", resume=token(old))
    if leave_comes == "right behind the join":  # and before the topic comes to say that the old one was replaced
        chat.leave(old)
    await settle()
    assert await chat.listed() == [("sports", 2)]
    if leave_comes == "later":
        chat.leave(old)
        assert await chat.listed() == [("sports", 2)]
    chat.send(new, "1")
    await settle()
    assert (new.username, bob.messages, new.frames[-1]["recipients"]) == ("alice", ["1"], 1)
    chat.leave(bob)
    assert await chat.listed() == [("sports", 1)]
    chat.leave(new)
    assert await chat.listed() == []
    assert tasks() == before


@in_clean_loop
async def test_a_topic_in_which_a_member_took_over_from_itself_alone_goes_on() -> None:
    chat = SupervisorHarness()
    old = await chat.entered("alice")
    chat.send(old, "1")
    await settle()
    new = chat.ask("alice", resume=token(old), since=0, epoch=joined(old)["epoch"])
    chat.leave(old)
    await settle()
    assert short(new) == ["joined", "1 1 again"]
    assert "gap" not in joined(new)


@in_clean_loop
async def test_a_token_is_good_in_its_own_topic_alone() -> None:
    chat = SupervisorHarness()
    alice = await chat.entered("alice", "sports")
    await chat.entered("alice", "movies")
    other = chat.ask("alice", "movies", resume=token(alice))
    await settle()
    assert (other.username, alice.closed) == ("alice#2", None)
    assert token(other) != token(alice)
    assert await chat.listed() == [("sports", 1), ("movies", 2)]


@in_clean_loop
async def test_a_new_topic_knows_no_member_of_the_old_one_and_says_that_it_restarted() -> None:
    chat = SupervisorHarness()
    alice = await chat.entered("alice")
    chat.send(alice, "1", "2")
    chat.leave(alice)
    again = chat.ask("carol", resume=token(alice), since=2, epoch=joined(alice)["epoch"])
    await settle()
    assert (again.username, joined(again)["last_id"]) == ("carol", 0)
    assert joined(again)["gap"] == {"from": 3, "to": None, "reason": "restarted"}
    assert joined(again)["epoch"] != joined(alice)["epoch"]


@in_clean_loop
async def test_nothing_refers_to_a_connection_that_was_taken_over() -> None:
    chat = SupervisorHarness()
    old = await chat.entered("alice")
    connection, resume = weakref.ref(old), token(old)
    new = chat.ask("alice", resume=resume)
    await settle()
    del old
    gc.collect()
    assert connection() is None
    assert new.username == "alice"
