"""Replays for members that join with ``since``, and the gaps that report lost messages."""

import json
from typing import Optional

import pytest
from msgspec import UNSET

from chat_actors.actors.events import Expire, Join
from chat_actors.protocol.frames import Window
from tests.support.fakes import FakeMember, Frame, in_clean_loop, settle
from tests.support.harness import TopicHarness
from tests.support.lane import Lane, both_lanes
from tests.support.window import joined, short, token

# Replay.


@pytest.mark.parametrize("since", range(5))
@in_clean_loop
async def test_a_replay_stands_between_what_was_before_the_join_and_what_is_behind_it(since: int) -> None:
    room = TopicHarness()
    alice, bob = room.ask("alice"), room.join("bob")
    await settle()
    room.send(alice, "1")
    room.send(bob, "2")
    await settle()
    old = token(alice)
    # All that follows is one drain.
    room.send(bob, "3")
    again = room.ask("alice", resume=old, since=since)
    room.send(bob, "4")
    room.send(again, "5")
    await settle()
    replay = ["1 1 again", "2 2 again", "3 3 again"]  # the first of them her own
    assert short(again) == ["joined", *replay[since:], "4 4", "5 ack"]
    assert short(alice) == ["joined", "1 ack", "2 2", "3 3"]


@in_clean_loop
async def test_joins_anywhere_in_a_storm_of_messages_get_each_message_once() -> None:
    room = TopicHarness()
    (alice,) = await room.enter("alice")
    late: list[FakeMember] = []
    for number in range(1, 901):  # several turns, each of several writes
        room.send(alice, str(number))
        if number % 60 == 0:
            late.append(room.ask("bob", since=number % 7))
    await settle()
    for place, member in enumerate(late):
        _, *messages = member.frames
        since, replayed = 60 * (place + 1) % 7, 60 * (place + 1)
        assert [frame["id"] for frame in messages] == [*range(since + 1, 901)]
        assert [frame["id"] for frame in messages if "replayed" in frame] == [*range(since + 1, replayed + 1)]


@in_clean_loop
async def test_a_message_that_is_no_longer_kept_is_not_replayed() -> None:
    room = TopicHarness(history_messages=2)
    (alice,) = await room.enter("alice")
    room.send(alice, "1", "2", "3")
    await settle()
    bob = room.ask("bob", since=0)
    await settle()
    assert short(bob) == ["joined", "2 2 again", "3 3 again"]
    await room.clock.advance(30)
    carol = room.ask("carol", since=0)
    await settle()
    assert short(carol) == ["joined"]


@both_lanes
@pytest.mark.parametrize("reads_on", [True, False])
@in_clean_loop
async def test_a_replay_may_exceed_the_outbox_bound_and_later_frames_may_not(kind: type[Lane], reads_on: bool) -> None:
    room, lane = TopicHarness(), kind(outbox_bytes=1024)
    (alice,) = await room.enter("alice")
    room.send(alice, *["x" * 500] * 20)  # ten times the bound
    lane.stall()
    bob = FakeMember()
    room.topic.post(Join("sports", "bob", lane.connection, bob.reply, Window(since=0)))
    room.send(alice, "1")
    await settle()
    room.send(alice, "2")
    await settle()
    assert lane.receiver.ended == []
    if reads_on:
        await lane.read_on()
        assert [json.loads(text).get("id") for text in lane.texts] == [None, *range(1, 23)]
    else:
        room.send(alice, "x" * 1000)  # with 2 more than the bound
        await settle()
        assert lane.receiver.ended == []
        room.send(alice, "4")
        await settle()
        assert lane.slow


# Gaps.


@pytest.mark.parametrize(
    "seconds, limits, since, gap",
    [
        (0, {}, 0, None),
        (0, {}, 4, None),
        (0, {}, 5, None),  # beyond the newest: nobody was told of it, so it is not lost
        (0, {}, 2**62, None),
        (30, {}, 0, {"from": 1, "to": 4, "reason": "expired"}),
        (30, {}, 3, {"from": 4, "to": 4, "reason": "expired"}),
        (30, {}, 4, None),
        (15, {}, 0, {"from": 1, "to": 2, "reason": "expired"}),
        (15, {}, 1, {"from": 2, "to": 2, "reason": "expired"}),
        (15, {}, 2, None),
        (0, {"history_messages": 1}, 0, {"from": 1, "to": 3, "reason": "evicted"}),
        (0, {"history_messages": 1}, 2, {"from": 3, "to": 3, "reason": "evicted"}),
        (0, {"history_messages": 1}, 3, None),
    ],
)
@in_clean_loop
async def test_a_gap_has_exact_ids_and_is_sent_only_if_messages_are_lost(
    seconds: int, limits: dict[str, int], since: int, gap: Optional[Frame]
) -> None:
    room = TopicHarness(**limits)
    alice = room.ask("alice")
    room.send(alice, "1", "2")
    await settle()
    await room.clock.advance(15)
    room.send(alice, "3", "4")
    await settle()
    await room.clock.advance(seconds)
    bob = room.ask("bob", since=since, epoch=joined(alice)["epoch"])
    carol = room.ask("carol", since=since)  # without an epoch there is nothing to compare with
    dave = room.ask("dave", epoch=joined(alice)["epoch"])  # and without since nothing is missed
    await settle()
    assert joined(bob).get("gap") == gap
    replayed = [frame["id"] for frame in bob.frames[1:]]
    assert replayed == [*range(gap["to"] + 1 if gap else since + 1, 5)]
    assert "gap" not in joined(carol) and "gap" not in joined(dave)
    assert [frame["id"] for frame in carol.frames[1:]] == replayed
    assert short(dave) == ["joined"]


@pytest.mark.parametrize(
    "seconds, limits, through",
    [(14, {}, None), (15, {}, 2), (30, {}, 4), (0, {"history_messages": 1}, 3)],
    ids=["nothing", "half", "all", "evicted"],
)
@in_clean_loop
async def test_a_member_that_has_seen_messages_is_told_which_are_deleted(
    seconds: int, limits: dict[str, int], through: Optional[int]
) -> None:
    room = TopicHarness(**limits)
    alice, bob = room.ask("alice"), room.join("bob")
    await settle()
    room.send(bob, "1", "2")
    await settle()
    await room.clock.advance(15)
    room.send(bob, "3", "4")
    await settle()
    epoch, resume = joined(alice)["epoch"], token(alice)
    room.leave(alice)
    await room.clock.advance(seconds)
    told = {"since": 4, "epoch": epoch, "events": True}
    others = [
        room.ask("carol", **{**told, **wants})
        for wants in ({"since": 0}, {"since": UNSET}, {"epoch": UNSET}, {"epoch": "another"}, {"events": False})
    ]
    others.append(room.join("dave"))
    again = room.ask("alice", resume=resume, **told)  # it has missed nothing: there is no gap
    await settle()
    assert "gap" not in joined(again) and short(again) == ["joined"]
    assert joined(again).get("expired_through") == through
    assert not any("expired_through" in joined(other) for other in others)  # they have nothing, or do not ask


@in_clean_loop
async def test_what_expires_in_the_turn_of_a_return_is_told_to_the_member_that_returns() -> None:
    room = TopicHarness()
    alice, bob = room.ask("alice", events=True), room.join("bob")
    await settle()
    room.send(bob, "1")
    await settle()
    room.clock.now += 30
    again = room.ask("alice", resume=token(alice), since=1, epoch=joined(alice)["epoch"], events=True)
    room.topic.post(Expire())
    await settle()
    assert joined(again)["expired_through"] == 1


@pytest.mark.parametrize("since", [0, 1, 2, 17])
@in_clean_loop
async def test_in_another_epoch_all_is_replayed_and_the_gap_has_no_end(since: int) -> None:
    room = TopicHarness()
    (alice,) = await room.enter("alice")
    room.send(alice, "1", "2")
    bob = room.ask("bob", since=since, epoch="another")
    await settle()
    assert joined(bob)["gap"] == {"from": since + 1, "to": None, "reason": "restarted"}
    assert short(bob) == ["joined", "1 1 again", "2 2 again"]
