"""Messages that are sent again: recognised by the refs of their sender."""

import pytest

from tests.support.fakes import POISON, in_clean_loop, settle
from tests.support.harness import TopicHarness
from tests.support.window import short, token


@in_clean_loop
async def test_a_duplicate_gets_the_first_ack_in_its_place_and_changes_nothing() -> None:
    room = TopicHarness()
    alice, bob = room.ask("alice"), room.join("bob")
    room.send(alice, "1", ref="r")
    await settle()
    (first,) = alice.take()[1:]
    bob.take()
    room.join("carol")  # one more who would count as a recipient
    room.clock.wall_time += 5
    room.send(bob, "2")
    room.send(alice, "another text", ref="r")
    room.send(bob, "3")
    await settle()
    assert short(alice) == ["2 2", "1 ack duplicate", "3 3"]
    assert alice.frames[1] == {**first, "duplicate": True, "remaining_ms": 30_000}
    assert short(bob) == ["2 ack", "3 ack"]
    late = room.ask("dave", since=0)
    await settle()
    assert short(late) == ["joined", "1 1 again", "2 2 again", "3 3 again"]


@pytest.mark.parametrize("seconds, remaining_ms", [(0.25, 29_750), (29.5, 500), (29.99975, 1), (40, 1)])
@in_clean_loop
async def test_the_ack_of_a_duplicate_says_how_long_its_message_is_still_kept(
    seconds: float, remaining_ms: int
) -> None:
    room = TopicHarness()
    alice = room.ask("alice")
    room.send(alice, "1", ref="r")
    await settle()
    room.send(alice, "2")
    await settle()
    room.clock.now += seconds  # and no timer has rung
    room.clock.wall_time -= 3600  # set by hand
    room.send(alice, "1", ref="r")
    await settle()
    *before, ack = alice.frames
    assert [frame for frame in before if "remaining_ms" in frame] == []
    assert (ack["id"], ack["duplicate"], ack["remaining_ms"]) == (1, True, remaining_ms)


@in_clean_loop
async def test_a_duplicate_alone_is_written_to_its_sender_alone() -> None:
    room = TopicHarness()
    alice, bob, watcher = room.ask("alice"), room.join("bob"), room.ask("watcher", events=True)
    room.send(alice, "1", ref="r")
    await settle()
    bob.take()
    watcher.take()
    room.send(alice, "1", ref="r")
    await settle()
    assert short(alice) == ["joined", "1 ack", "1 ack duplicate"]
    assert (bob.writes, watcher.writes) == ([], [])


@in_clean_loop
async def test_refs_are_each_members_own_and_those_of_plain_members_are_not_looked_at() -> None:
    room = TopicHarness()
    alice, bob, plain = room.ask("alice"), room.ask("bob"), room.join("plain")
    for member in (alice, bob, plain, plain):
        room.send(member, "x", ref="r")
    room.send(alice, "y", "y")  # no ref is no ref, however often
    await settle()
    acks = [[frame for frame in member.frames if frame["type"] == "ack"] for member in (alice, bob, plain)]
    assert [[frame["id"] for frame in own] for own in acks] == [[1, 5, 6], [2], [3, 4]]
    assert not [frame for own in acks for frame in own if "duplicate" in frame]


@pytest.mark.parametrize("resumed", [False, True])
@in_clean_loop
async def test_a_ref_is_new_again_when_its_message_is_gone_however_often_it_came_meanwhile(resumed: bool) -> None:
    room = TopicHarness()
    alice = room.ask("alice")
    room.send(alice, "1", ref="r")
    await settle()
    await room.clock.advance(29.75)
    if resumed:
        room.leave(alice)
        alice = room.ask("alice", resume=token(alice))
    room.send(alice, "1", ref="r")
    await settle()
    assert short(alice)[-1] == "1 ack duplicate"
    await room.clock.advance(0.25)
    room.send(alice, "1", ref="r")
    await settle()
    assert short(alice)[-1] == "2 ack"


@in_clean_loop
async def test_a_ref_is_new_again_when_its_message_was_evicted() -> None:
    room = TopicHarness(history_messages=1)
    alice = room.ask("alice")
    room.send(alice, "1", ref="r")
    room.send(alice, "2", ref="s")
    await settle()
    room.send(alice, "2", ref="s")
    room.send(alice, "1", ref="r")
    await settle()
    assert short(alice) == ["joined", "1 ack", "2 ack", "2 ack duplicate", "3 ack"]


@in_clean_loop
async def test_a_message_that_failed_is_not_known_by_its_ref() -> None:
    room = TopicHarness()
    alice = room.ask("alice")
    room.send(alice, POISON, "1", "1", ref="r")
    await settle()
    assert short(alice) == ["joined", "1 ack", "1 ack duplicate"]
