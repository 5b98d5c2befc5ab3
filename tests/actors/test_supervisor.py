"""The supervisor with its topics, driven by the events that sessions post. The order of events forces each race."""

import asyncio
import gc

import pytest

from chat_actors.actors.base import MAX_CRASHES, TURN_EVENTS
from chat_actors.actors.events import JoinFailed, Restore, Returning
from chat_actors.actors.supervisor import RETRY_MS, RETRY_STEP_MS, ListTopics, Supervisor
from chat_actors.actors.topic import Topic
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Window
from tests.support.fakes import POISON, FakeMember, in_clean_loop, log_lines, remains, settle, tasks
from tests.support.harness import SupervisorHarness

FATAL = [POISON] * (MAX_CRASHES + 1)


def in_memory(kind: type) -> int:
    gc.collect()
    return sum(1 for thing in gc.get_objects() if type(thing) is kind)


def failure(member: FakeMember) -> JoinFailed:
    """The answer to a join that failed."""
    with pytest.raises(JoinFailed) as failed:
        member.reply.result()
    return failed.value


async def end(chat: SupervisorHarness) -> None:
    """Stop the supervisor and wait for its end."""
    chat.supervisor.stop()
    await chat.supervisor.task


# Create, list, retire.


@in_clean_loop
async def test_topics_are_listed_oldest_first_with_exact_counts() -> None:
    chat = SupervisorHarness()
    assert await chat.listed() == []
    (alice,) = await chat.enter("alice", topic="sports")
    await chat.enter("alice", "bob", topic="movies")
    assert await chat.listed() == [("sports", 1), ("movies", 2)]
    chat.leave(alice)
    assert await chat.listed() == [("movies", 2)]
    await chat.enter("alice", topic="sports")
    assert await chat.listed() == [("movies", 2), ("sports", 1)]


@in_clean_loop
async def test_topics_may_come_and_go_between_two_snapshots_of_the_statistics() -> None:
    chat = SupervisorHarness()
    members = [(await chat.enter("alice", topic=topic))[0] for topic in ("sports", "movies", "music")]
    seen = chat.supervisor.statistics()
    assert next(seen).users == 1
    chat.leave(members[1])
    await chat.enter("bob", "carol", topic="music")
    await chat.enter("dave", topic="games")
    assert [one.users for one in seen] == [0, 3]  # movies, music
    assert [one.users for one in chat.supervisor.statistics()] == [1, 3, 1]


@in_clean_loop
async def test_the_list_goes_only_to_the_connection_that_asked() -> None:
    chat = SupervisorHarness()
    alice, bob = await chat.enter("alice", "bob")
    alice.take()
    bob.take()
    chat.post(ListTopics(alice))
    await settle()
    topics = [{"topic": "sports", "users": 2}]
    assert alice.frames == [{"type": "topics", "message": "Active Topics:\n- sports (2 users)", "topics": topics}]
    assert bob.frames == []


@in_clean_loop
async def test_every_join_and_every_leave_shows_in_the_list_at_once() -> None:
    chat = SupervisorHarness()
    seen = []
    members = []
    for username in ("alice", "bob"):
        members.append(chat.join(username))
        seen.append(await chat.listed())
    for member in members:
        chat.leave(member)
        seen.append(await chat.listed())
    assert seen == [[("sports", 1)], [("sports", 2)], [("sports", 1)], []]


@in_clean_loop
async def test_the_list_is_made_once_for_all_requests_between_two_changes() -> None:
    chat = SupervisorHarness()
    (alice,) = await chat.enter("alice")
    alice.take()
    chat.post(ListTopics(alice))
    chat.post(ListTopics(alice))
    await settle()
    first, second = alice.writes
    assert first is second


@in_clean_loop
async def test_the_same_name_in_two_topics_is_two_members() -> None:
    chat = SupervisorHarness()
    (one,) = await chat.enter("alice", topic="sports")
    (other,) = await chat.enter("alice", topic="movies")
    chat.send(one, "to nobody")
    await settle()
    assert (one.username, other.username) == ("alice", "alice")
    assert other.messages == []


@in_clean_loop
async def test_the_last_leave_removes_the_topic_with_its_task_its_mailbox_and_its_messages() -> None:
    chat = SupervisorHarness()
    await settle()
    before = tasks(), in_memory(asyncio.Task), in_memory(Topic)
    alice, bob = await chat.enter("alice", "bob")
    chat.send(alice, " ".join(["north", "south"]))
    await settle()
    assert len(tasks()) == len(before[0]) + 2  # the topic and its expiry
    chat.leave(alice, bob)
    with log_lines() as lines:
        await settle()
    assert sorted(line.split("{")[0] for line in lines) == [
        "INFO member left ",
        "INFO member left ",
        "INFO topic removed ",
    ]
    alice = bob = FakeMember()
    assert (tasks(), in_memory(asyncio.Task), in_memory(Topic)) == before
    assert not remains("north", "south")


@in_clean_loop
async def test_a_second_leave_changes_nothing() -> None:
    chat = SupervisorHarness()
    alice, bob, stranger = *await chat.enter("alice", "bob"), FakeMember()
    chat.leave(alice, alice, stranger)
    assert await chat.listed() == [("sports", 1)]
    chat.send(bob, "1")
    await settle()
    assert bob.frames[-1]["type"] == "ack"


@in_clean_loop
async def test_a_topic_past_the_bound_is_refused_and_those_there_are_stay_open() -> None:
    chat = SupervisorHarness(topics=1)
    await chat.enter("alice", topic="sports")
    (bob,) = await chat.enter("bob", topic="movies")
    detail = "too many topics (1): join an active topic"
    assert (failure(bob).code, failure(bob).detail) == (CloseCode.OVERLOADED, detail)
    chat.leave(bob)
    await chat.enter("bob", topic="sports")
    assert await chat.listed() == [("sports", 2)]


# Races.


@in_clean_loop
async def test_a_join_right_behind_the_last_leave_lands_in_a_live_topic() -> None:
    chat = SupervisorHarness()
    (alice,) = await chat.enter("alice")
    chat.leave(alice)
    bob = chat.join("alice")
    assert await chat.listed() == [("sports", 1)]
    chat.send(bob, "1")
    await settle()
    assert [(frame["type"], frame.get("users")) for frame in bob.frames] == [("joined", 1), ("ack", None)]
    assert bob.username == "alice"


@pytest.mark.parametrize("others", [0, 1])
@in_clean_loop
async def test_a_leave_right_behind_its_own_join_leaves_no_ghost(others: int) -> None:
    chat = SupervisorHarness()
    await chat.enter(*["bob"] * others)
    before = tasks()
    alice = chat.join("alice")
    chat.leave(alice)
    assert await chat.listed() == [("sports", 1)] * others
    assert tasks() == before
    again = chat.join("alice")
    await settle()
    assert (again.username, again.frames[0]["users"]) == ("alice", others + 1)


@in_clean_loop
async def test_a_send_before_the_leave_is_delivered_and_one_behind_it_is_not() -> None:
    chat = SupervisorHarness()
    alice, bob = await chat.enter("alice", "bob")
    chat.send(alice, "1")
    chat.leave(alice)
    await settle()
    sent = len(alice.frames)
    chat.send(alice, "2")
    chat.send(bob, "3")
    await settle()
    assert bob.messages == ["1"]
    assert bob.frames[-1]["id"] == 2
    assert len(alice.frames) == sent


@in_clean_loop
async def test_a_send_to_a_topic_that_has_ended_is_harmless() -> None:
    chat = SupervisorHarness()
    (alice,) = await chat.enter("alice")
    chat.leave(alice)
    await settle()
    with log_lines() as lines:
        chat.send(alice, "1")
        await settle()
    assert (alice.messages, lines) == ([], [])


@in_clean_loop
async def test_two_joins_for_one_name_in_one_turn_are_two_members_of_one_topic() -> None:
    chat = SupervisorHarness()
    first, second = await chat.enter("alice", "alice")
    assert (first.username, second.username) == ("alice", "alice#2")
    assert first.reply.result() is second.reply.result()
    assert await chat.listed() == [("sports", 2)]


# Crashes.


@in_clean_loop
async def test_a_topic_that_gives_up_is_removed_and_the_others_notice_nothing() -> None:
    chat = SupervisorHarness()
    await settle()
    before = tasks()
    alice, bob = await chat.enter("alice", "bob")
    (carol,) = await chat.enter("carol", topic="movies")
    assert await chat.listed() == [("sports", 2), ("movies", 1)]
    chat.send(alice, *FATAL)
    with log_lines() as lines:
        await settle()
    assert await chat.listed() == [("movies", 1)]
    assert lines[-1] == "ERROR topic removed after too many failures {'actor': 'supervisor', 'topic': 'sports'}\n"
    assert (alice.closed, bob.closed, carol.closed) == (CloseCode.CRASHED, CloseCode.CRASHED, None)
    chat.send(carol, "1")
    await settle()
    assert carol.frames[-1]["type"] == "ack"
    chat.leave(alice, bob, carol)
    assert await chat.listed() == []
    assert tasks() == before


@in_clean_loop
async def test_a_join_stranded_behind_the_crash_is_placed_in_a_new_topic() -> None:
    chat = SupervisorHarness()
    (alice,) = await chat.enter("alice")
    chat.send(alice, *FATAL)
    bob = chat.join("bob")  # in the topic's mailbox before the topic handles its crashes
    await settle()
    assert await chat.listed() == [("sports", 1)]
    assert bob.reply.result() is not alice.reply.result()
    chat.leave(alice)
    chat.send(bob, "1")
    await settle()
    assert [(frame["type"], frame.get("users")) for frame in bob.frames] == [("joined", 1), ("ack", None)]
    assert (alice.closed, bob.closed) == (CloseCode.CRASHED, None)
    assert await chat.listed() == [("sports", 1)]


@in_clean_loop
async def test_a_stranded_join_that_has_left_is_placed_nowhere() -> None:
    chat = SupervisorHarness()
    await settle()
    before = tasks()
    (alice,) = await chat.enter("alice")
    chat.send(alice, *FATAL)
    bob = chat.join("bob")
    chat.leave(bob, alice)
    await settle()
    assert await chat.listed() == []
    assert bob.frames == []
    assert tasks() == before


@in_clean_loop
async def test_a_join_between_a_crash_and_its_report_is_placed_in_a_new_topic() -> None:
    chat = SupervisorHarness()
    (alice,) = await chat.enter("alice")
    chat.send(alice, "keeps an expiry task, whose end the topic waits for")
    await settle()
    placed: list[FakeMember] = []
    alice.on_close = lambda: placed.append(chat.join("bob"))  # the topic is about to end
    chat.send(alice, *FATAL)
    await settle()
    assert await chat.listed() == [("sports", 1)]
    (bob,) = placed
    assert bob.frames[0]["users"] == 1
    chat.leave(alice)
    assert await chat.listed() == [("sports", 1)]
    chat.send(bob, "1")
    await settle()
    assert bob.frames[-1]["type"] == "ack"


@in_clean_loop
async def test_a_join_that_fails_counts_until_its_session_leaves() -> None:
    chat = SupervisorHarness()
    (alice,) = await chat.enter(POISON)
    assert failure(alice).code is CloseCode.CRASHED
    chat.leave(alice)
    assert await chat.listed() == []


# Shutdown.


@in_clean_loop
async def test_the_end_closes_every_member_once_and_ends_every_task() -> None:
    before = tasks()
    chat = SupervisorHarness()
    members = [*await chat.enter("alice", "bob"), *await chat.enter("carol", topic="movies")]
    (gone,) = await chat.enter("dave")
    chat.leave(gone)
    chat.send(members[0], "1")
    chat.supervisor.stop()
    chat.supervisor.stop()
    with log_lines() as lines:
        await chat.supervisor.task
    assert [member.closed for member in members] == [CloseCode.RESTARTING] * 3
    assert gone.closed is None
    assert not [line for line in lines if not line.startswith(("INFO", "DEBUG"))]
    assert tasks() == before
    chat.supervisor.stop()


@in_clean_loop
async def test_a_supervisor_without_topics_ends() -> None:
    before = tasks()
    chat = SupervisorHarness()
    await end(chat)
    assert tasks() == before


@in_clean_loop
async def test_a_join_before_the_end_is_answered_and_closed_and_one_behind_it_fails() -> None:
    chat = SupervisorHarness()
    alice = chat.join("alice")
    chat.supervisor.stop()
    bob, carol = chat.join("bob"), chat.join("carol")
    carol.reply.cancel()  # the answer for a session that is gone is dropped
    asker = FakeMember()
    chat.post(ListTopics(asker))
    await chat.supervisor.task
    assert (alice.username, alice.closed) == ("alice", CloseCode.RESTARTING)
    assert failure(bob).code is CloseCode.RESTARTING
    assert asker.frames == bob.frames == carol.frames == []


@in_clean_loop
async def test_the_end_closes_the_members_of_a_topic_that_is_giving_up() -> None:
    before = tasks()
    chat = SupervisorHarness()
    (alice,) = await chat.enter("alice")
    chat.send(alice, *FATAL)
    await end(chat)
    assert alice.closed in (CloseCode.RESTARTING, CloseCode.CRASHED)
    assert tasks() == before


@in_clean_loop
async def test_a_member_that_resumes_and_leaves_at_once_leaves_no_ghost_topic() -> None:
    chat = SupervisorHarness()
    old = chat.join("alice", window=Window())
    await settle()
    token = old.frames[0]["resume"]
    new = chat.join("alice", window=Window(resume=token))
    chat.leave(new)  # before the supervisor hears of the takeover
    await settle()
    chat.leave(old)
    assert await chat.listed() == []
    assert len(tasks()) == 2  # this test's and the supervisor's


@in_clean_loop
async def test_a_join_stranded_behind_a_crash_is_answered_also_when_the_server_ends() -> None:
    chat = SupervisorHarness()
    (alice,) = await chat.enter("alice")
    chat.send(alice, *FATAL)
    late = chat.join("bob")
    for _ in range(2):  # far enough for the topic to give up with the join behind it
        await asyncio.sleep(0)
    await end(chat)
    await settle()
    assert isinstance(failure(late), JoinFailed)


@in_clean_loop
async def test_an_event_that_is_none_of_the_actors_is_reported_as_a_bug() -> None:
    chat = SupervisorHarness()
    (alice,) = await chat.enter("alice")
    with log_lines() as lines:
        chat.post("nonsense")  # type: ignore[arg-type]
        alice.reply.result().put_nowait("nonsense")  # type: ignore[arg-type]
        await settle()
    assert len([line for line in lines if "handler failed" in line and "TypeError" in line]) == 2
    assert await chat.listed() == [("sports", 1)]


@in_clean_loop
async def test_a_join_that_the_supervisor_fails_at_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = SupervisorHarness()
    monkeypatch.setattr(Supervisor, "_create", None)
    (alice,) = await chat.enter("alice")
    assert failure(alice).code is CloseCode.CRASHED


@pytest.mark.parametrize("how, code", [("fails", CloseCode.CRASHED), ("has ended", CloseCode.RESTARTING)])
@in_clean_loop
async def test_members_to_restore_are_closed_if_the_supervisor_ends(
    how: str, code: CloseCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = SupervisorHarness()
    bob = FakeMember()
    if how == "fails":
        monkeypatch.setattr(Supervisor, "_create", None)
    else:
        chat.supervisor.stop()
    chat.post(Restore("sports", [Returning(bob, "bob")], lambda *_: None))
    await settle()
    assert bob.closed is code


@in_clean_loop
async def test_who_asks_for_the_list_in_one_turn_gets_the_same_list() -> None:
    chat = SupervisorHarness()
    await chat.enter("alice")
    askers = [FakeMember() for _ in range(2 * TURN_EVENTS + 1)]
    for asker in askers:
        chat.post(ListTopics(asker))
    seen: list[int] = []
    while len(seen) < 10:
        await asyncio.sleep(0)
        seen.append(sum(bool(asker.writes) for asker in askers))
    assert {*seen} == {TURN_EVENTS, 2 * TURN_EVENTS, 2 * TURN_EVENTS + 1}
    assert len({id(asker.writes[0]) for asker in askers}) == 1
    await end(chat)


@in_clean_loop
async def test_at_the_end_no_two_watchers_get_the_same_delay() -> None:
    chat = SupervisorHarness()
    watchers = [
        chat.join(name, topic, Window(events=True)) for name, topic in (("ann", "a"), ("bob", "a"), ("cid", "b"))
    ]
    await settle()
    for watcher in watchers:
        watcher.take()
    await end(chat)
    moments = [closing["retry_after_ms"] for watcher in watchers for closing in watcher.take()]
    assert moments == [RETRY_MS, RETRY_MS + RETRY_STEP_MS, RETRY_MS + 2 * RETRY_STEP_MS]
