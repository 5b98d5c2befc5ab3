"""One topic: the events that it receives, and the frames that its members receive."""

import asyncio
import json
import weakref
from typing import Any

import pytest

from chat_actors.actors.base import TURN_EVENTS
from chat_actors.actors.events import JoinFailed, Restore, Returning, Shutdown
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Window, payloads
from chat_actors.room.history import Stored
from chat_actors.room.members import Members
from tests.support.fakes import (
    POISON,
    FakeMember,
    everything,
    in_clean_loop,
    log_lines,
    remaining,
    remains,
    settle,
    tasks,
)
from tests.support.harness import TopicHarness

YEAR = 365 * 86400.0


# Names.


@pytest.mark.parametrize(
    "asked_for, given",
    [
        (["alice", "alice", "alice"], ["alice", "alice#2", "alice#3"]),
        (["alice", "alice#2", "alice#2"], ["alice", "alice#2", "alice#2#2"]),
        (["alice#2", "alice", "alice"], ["alice#2", "alice", "alice#3"]),
        (["alice", "ALICE", "Alice"], ["alice", "ALICE#2", "Alice#3"]),
        (["alice", "bob"], ["alice", "bob"]),
    ],
)
@in_clean_loop
async def test_a_taken_name_gets_the_smallest_free_number(asked_for: list[str], given: list[str]) -> None:
    room = TopicHarness()
    members = [room.join(username) for username in asked_for]
    await settle()
    assert [member.username for member in members] == given


@pytest.mark.parametrize("place, freed", [(0, "alice"), (1, "alice#2")])
@in_clean_loop
async def test_a_freed_name_is_given_again(place: int, freed: str) -> None:
    room = TopicHarness()
    members = [room.join("alice") for _ in range(3)]
    room.leave(members[place])
    following = room.join("alice")
    await settle()
    assert following.username == freed


# Joins.


@pytest.mark.parametrize("seconds, shown", [(30.0, "30"), (0.5, "0.5")])
@in_clean_loop
async def test_a_join_is_answered_with_the_frame_and_the_address(seconds: float, shown: str) -> None:
    room = TopicHarness(message_ttl=seconds)
    await room.enter("bob")
    alice = room.join("alice")
    await settle()
    (joined,) = alice.frames
    assert joined == {"type": "joined", "username": "alice", "topic": "sports", "users": 2, "ttl": seconds}
    assert json.dumps(joined["ttl"]) == shown
    assert alice.reply.result() is room.topic.mailbox


@in_clean_loop
async def test_a_plain_member_gets_no_frame_for_a_join_or_a_leave() -> None:
    room = TopicHarness()
    alice, bob = await room.enter("alice", "bob")
    room.leave(bob)
    with log_lines() as lines:
        await settle()
    assert alice.frames == bob.frames == []
    assert lines == [
        "INFO member left {'topic': 'sports', 'username': 'bob', 'users': 1, 'reason': 'closed by peer'}\n"
    ]


@in_clean_loop
async def test_a_join_whose_session_has_ended_is_not_handled() -> None:
    room = TopicHarness()
    (bob,) = await room.enter("bob")
    alice = room.join("alice")
    alice.reply.cancel()
    room.leave(alice)
    room.send(bob, "1")
    with log_lines() as lines:
        await settle()
    assert bob.frames[0]["recipients"] == 0
    assert lines == []  # it was never handled


@in_clean_loop
async def test_a_join_past_the_bound_is_answered_so_and_a_leave_makes_room() -> None:
    room = TopicHarness(topic_members=1)
    (bob,) = await room.enter("bob")
    alice = room.join("alice")
    room.leave(bob)
    carol = room.join("carol")
    await settle()
    with pytest.raises(JoinFailed) as failed:
        alice.reply.result()
    assert (failed.value.code, failed.value.detail) == (
        CloseCode.OVERLOADED,
        "topic full (1 members): join another topic",
    )
    assert (alice.frames, carol.frames[0]["users"]) == ([], 1)


# Messages.


@in_clean_loop
async def test_a_message_reaches_all_other_members_and_its_sender_gets_an_ack() -> None:
    room = TopicHarness()
    alice, bob, carol = await room.enter("alice", "bob", "carol")
    room.send(alice, "Hello World", ref="r")
    await settle()
    shown = {"type": "message", "id": 1, "username": "alice", "message": "Hello World", "timestamp": 1_690_000_000}
    assert bob.frames == carol.frames == [shown]
    ack = {"type": "ack", "status": "delivered", "id": 1, "ref": "r", "timestamp": 1_690_000_000, "recipients": 2}
    assert alice.frames == [ack]


@in_clean_loop
async def test_an_ack_has_a_ref_only_where_one_was_given() -> None:
    room = TopicHarness()
    (alice,) = await room.enter("alice")
    room.send(alice, "1")
    room.send(alice, "2", ref="r")
    await settle()
    assert [frame.get("ref", "none") for frame in alice.frames] == ["none", "r"]


@in_clean_loop
async def test_all_see_one_order_and_each_ack_in_its_place() -> None:
    room = TopicHarness()
    alice, bob, carol = await room.enter("alice", "bob", "carol")
    room.send(alice, "1", "2")
    room.send(bob, "3")
    room.send(alice, "4")
    await settle()
    room.send(bob, "5")
    await settle()

    def seen(member: FakeMember) -> list[str]:
        return [f"{frame['id']} {frame.get('message', 'ack')}" for frame in member.frames]

    assert seen(carol) == ["1 1", "2 2", "3 3", "4 4", "5 5"]
    assert seen(alice) == ["1 ack", "2 ack", "3 3", "4 ack", "5 5"]
    assert seen(bob) == ["1 1", "2 2", "3 ack", "4 4", "5 ack"]


@in_clean_loop
async def test_a_turn_writes_once_to_each_member_and_shares_the_bytes() -> None:
    room = TopicHarness()
    alice, bob, carol, dave = await room.enter("alice", "bob", "carol", "dave")
    room.send(alice, "1", "2")
    room.send(bob, "3")
    await settle()
    assert [len(member.writes) for member in (alice, bob, carol, dave)] == [1, 1, 1, 1]
    assert carol.writes[0] is dave.writes[0]


@pytest.mark.parametrize("count, characters, sizes", [(600, 1, [256, 256, 88]), (7, 60_000, [5, 2])])
@in_clean_loop
async def test_a_drain_is_bounded_in_messages_and_in_bytes(count: int, characters: int, sizes: list[int]) -> None:
    room = TopicHarness()
    alice, bob = await room.enter("alice", "bob")
    room.send(alice, *["x" * characters] * count)
    await settle()
    assert [len(list(payloads(write))) for write in bob.writes] == sizes
    assert [frame["id"] for frame in bob.frames] == [frame["id"] for frame in alice.frames] == [*range(1, count + 1)]


@in_clean_loop
async def test_joins_and_leaves_take_effect_where_they_stand_among_the_messages() -> None:
    room = TopicHarness()
    alice, bob = await room.enter("alice", "bob")
    room.send(alice, "1")
    carol = room.join("carol")
    room.send(alice, "2")
    room.leave(bob)
    room.send(bob, "of a member no more")
    room.send(alice, "3")
    room.leave(carol)
    dave = room.join("dave")
    room.send(alice, "4", "5")
    await settle()
    assert bob.messages == ["1", "2"]
    assert dave.messages == ["4", "5"]
    assert carol.frames == []  # she has gone before she was told anything
    assert [frame["recipients"] for frame in alice.frames] == [1, 2, 1, 1, 1]


@in_clean_loop
async def test_a_connection_that_is_not_a_member_can_neither_send_nor_leave() -> None:
    room = TopicHarness()
    (alice,) = await room.enter("alice")
    stranger = FakeMember()
    room.send(stranger, "1")
    room.leave(stranger)
    room.send(alice, "2")
    with log_lines() as lines:
        await settle()
    assert (stranger.frames, lines) == ([], [])
    assert [(frame["id"], frame["recipients"]) for frame in alice.frames] == [(1, 0)]


@pytest.mark.parametrize("members, characters, most", [(600, 1, 256), (10, 60_000, 4)])
@in_clean_loop
async def test_a_large_fan_out_yields_after_256_members_and_sooner_if_frames_are_big(
    members: int, characters: int, most: int
) -> None:
    room = TopicHarness()
    everyone = await room.enter(*[f"user {number}" for number in range(members)])
    room.send(everyone[0], "x" * characters)
    written = [0]  # to so many, as another task sees it, turn by turn
    while written[-1] < members:
        await asyncio.sleep(0)
        written.append(sum(len(member.writes) for member in everyone))
    assert max(after - before for before, after in zip(written, written[1:])) <= most


# Expiry.


@in_clean_loop
async def test_a_message_is_gone_from_the_process_after_thirty_seconds_and_not_before() -> None:
    room = TopicHarness()
    members = await room.enter("alice", "bob")
    room.send(members[0], " ".join(["alpha", "omega"]))
    await settle()
    assert members[1].take()[0]["id"] == 1
    stored = (one for one in everything() if isinstance(one, Stored))
    (message,) = (weakref.ref(one) for one in stored if " ".join(["alpha", "omega"]).encode() in one.frame)
    del stored
    await room.clock.advance(29.75)
    assert remains("alpha", "omega")
    await room.clock.advance(0.25)
    assert not remains("alpha", "omega")
    assert message() is None


@pytest.mark.parametrize("step", [-YEAR, YEAR])
@in_clean_loop
async def test_setting_the_wall_clock_changes_timestamps_and_nothing_else(step: float) -> None:
    room = TopicHarness()
    (alice,) = await room.enter("alice")
    stored = []
    room.send(alice, "one")
    await settle()
    room.clock.wall_time += step
    await room.clock.advance(29.75)
    room.send(alice, "two")
    await settle()
    for seconds in (0, 0.25, 29.5, 0.25):
        await room.clock.advance(seconds)
        stored.append(room.topic.statistics().messages)
    assert stored == [2, 1, 1, 0]
    assert [frame["timestamp"] for frame in alice.frames] == [1_690_000_000, 1_690_000_030 + int(step)]


@in_clean_loop
async def test_one_task_expires_all_and_lives_only_while_there_are_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    room = TopicHarness()
    (alice,) = await room.enter("alice")
    created: list[asyncio.Task[Any]] = []
    create_task = asyncio.create_task

    def create(coroutine: Any, **options: Any) -> Any:
        created.append(create_task(coroutine, **options))
        return created[-1]

    monkeypatch.setattr(asyncio, "create_task", create)
    for second in range(40):
        if second < 5:
            room.send(alice, str(second))
        await settle()
        living = [task for task in created if not task.done()]
        assert (len(living), room.clock.asleep) == ((1, 1) if second < 34 else (0, 0))
        await room.clock.advance(1)


@in_clean_loop
async def test_messages_that_come_close_together_expire_together_and_soon() -> None:
    room = TopicHarness()
    (alice,) = await room.enter("alice")
    for word in ("one", "two", "three"):
        room.send(alice, " ".join(["alpha", word]))
        await settle()
        await room.clock.advance(0.03125)
    alice.take()
    await room.clock.advance(30 - 3 * 0.03125)
    assert remaining(("alpha", "one"), ("alpha", "two")) == [False, True]
    await room.clock.advance(0.125)
    assert remaining(("alpha", "two"), ("alpha", "three")) == [False, False]


@pytest.mark.parametrize("limits", [{"history_messages": 2}, {"history_bytes": 200}, {"history_bytes": 299}])
@in_clean_loop
async def test_the_history_is_bounded_and_loses_the_oldest_first(limits: dict[str, int]) -> None:
    room = TopicHarness(**limits)
    (alice,) = await room.enter("alice")
    room.send(alice, *(" ".join(["alpha", word]).ljust(18, ".") for word in ("one", "two", "three")))  # frames of 100
    await settle()
    alice.take()
    assert remaining(("alpha", "one"), ("alpha", "two"), ("alpha", "three")) == [False, True, True]


@pytest.mark.parametrize("limits", [{"history_messages": 0}, {"history_bytes": 0}])
@in_clean_loop
async def test_a_topic_that_may_keep_nothing_delivers_and_forgets(limits: dict[str, int]) -> None:
    room = TopicHarness(**limits)
    alice, bob = await room.enter("alice", "bob")
    before = tasks()
    room.send(alice, " ".join(["alpha", "omega"]))
    await settle()
    assert len(bob.take()) == 1
    assert not remains("alpha", "omega")
    assert tasks() == before


# Crashes and the end.


@in_clean_loop
async def test_a_message_that_fails_is_skipped_and_leaves_nothing_behind() -> None:
    room = TopicHarness()
    alice, bob = await room.enter("alice", "bob")
    room.send(alice, "1", " ".join(["secret", "words", POISON]), "2")
    with log_lines() as lines:
        await settle()
    assert [(frame["id"], frame["message"]) for frame in bob.frames] == [(1, "1"), (2, "2")]
    assert [frame["id"] for frame in alice.frames] == [1, 2]
    (line,) = lines
    assert line.startswith("ERROR handler failed {'topic': 'sports', 'event': 'Send', 'outcome': 'event skipped'}")
    assert "secret" not in line
    del line, lines[:]
    assert not remains("secret", "words")


@in_clean_loop
async def test_a_join_that_fails_is_answered_so(monkeypatch: pytest.MonkeyPatch) -> None:
    room = TopicHarness()
    (bob,) = await room.enter("bob")
    monkeypatch.setattr(Members, "join", None)
    alice = room.join("alice")
    room.send(bob, "1")
    await settle()
    with pytest.raises(JoinFailed) as failed:
        alice.reply.result()
    assert failed.value.code is CloseCode.CRASHED
    assert alice.frames == []
    assert [frame["recipients"] for frame in bob.frames] == [0]


@in_clean_loop
async def test_five_crashes_close_no_member_and_the_sixth_closes_all() -> None:
    before = tasks()
    room = TopicHarness()
    alice, bob = await room.enter("alice", "bob")
    room.send(alice, *[POISON] * 5, "1")
    await settle()
    assert (alice.closed, bob.closed, bob.messages) == (None, None, ["1"])
    room.send(alice, "2", POISON, "3")
    late = room.join("carol")
    await room.topic.task
    assert (alice.closed, bob.closed, bob.messages) == (CloseCode.CRASHED, CloseCode.CRASHED, ["1", "2"])
    assert [join.outbox for join in room.topic.stranded] == [late]
    assert not late.reply.done()
    assert tasks() == before


@pytest.mark.parametrize("how", ["fails", "comes behind the end"])
@in_clean_loop
async def test_members_are_closed_if_their_restore_fails(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    room = TopicHarness()
    bob, carol = FakeMember(), FakeMember()
    if how == "fails":
        monkeypatch.setattr(room.topic, "_restore", None)
    else:
        room.topic.stop()
    room.topic.post(Restore("sports", [Returning(bob, "bob"), Returning(carol, "carol")], lambda *_: None))
    await settle()
    assert bob.closed is carol.closed is CloseCode.CRASHED
    room.topic.stop()
    await room.topic.task


@in_clean_loop
async def test_crashes_over_more_than_thirty_seconds_close_no_member() -> None:
    room = TopicHarness()
    alice, bob = await room.enter("alice", "bob")
    for _ in range(12):
        room.send(alice, POISON)
        await room.clock.advance(6)
    room.send(alice, "1")
    await settle()
    assert (bob.closed, bob.messages) == (None, ["1"])


@pytest.mark.parametrize("mail_before", [0, 1])
@in_clean_loop
async def test_a_topic_that_is_stopped_ends_behind_its_mail_with_its_messages_and_tasks(mail_before: int) -> None:
    before = tasks()
    room = TopicHarness()
    alice, bob = await room.enter("alice", "bob")
    room.send(alice, " ".join(["alpha", "omega"]))
    await settle()
    room.send(alice, *["2"] * mail_before)
    room.leave(alice)
    room.leave(bob)
    await settle()
    room.topic.stop()
    room.send(alice, "behind the end")
    late = room.join("carol")
    await room.topic.task
    assert len(bob.take()) == 1 + mail_before
    alice.take()
    assert not remains("alpha", "omega")
    assert [join.outbox for join in room.topic.stranded] == [late]
    assert tasks() == before
    assert room.clock.asleep == 0


# The end of the server.


@in_clean_loop
async def test_a_shutdown_tells_each_watcher_another_time_and_everybody_has_left() -> None:
    room = TopicHarness()
    plain = room.join("alice")
    watchers = [room.join(name, Window(events=True)) for name in ("bob", "carol")]
    await settle()
    for member in (plain, *watchers):
        member.take()
    room.send(plain, "the last word")
    room.topic.post(Shutdown(1000, 10))
    room.send(plain, "too late")
    room.topic.stop()
    with log_lines() as lines:
        await room.topic.task
    assert [frame["type"] for frame in plain.take()] == ["ack"]
    for watcher, moment in zip(watchers, (1010, 1020)):
        message, closing = watcher.take()
        assert message["message"] == "the last word"
        assert closing == {"type": "closing", "retry_after_ms": moment}
    assert [member.closed for member in (plain, *watchers)] == [CloseCode.RESTARTING] * 3
    assert len([line for line in lines if " left " in line and "restarting" in line]) == 3


@in_clean_loop
async def test_others_have_their_turn_between_the_joins_of_a_storm() -> None:
    room = TopicHarness()
    members = [room.join(f"user {number}", Window(since=0)) for number in range(2 * TURN_EVENTS + 1)]
    seen: list[int] = []
    while len(seen) < 20:
        await asyncio.sleep(0)
        seen.append(sum(bool(member.writes) for member in members))
    assert {*seen} == {0, TURN_EVENTS, 2 * TURN_EVENTS, 2 * TURN_EVENTS + 1}
