"""Presence: one notice for each turn, of all who came and went in it; in a big room the number of members alone."""

from collections import Counter
from typing import Any

import pytest

from chat_actors.actors import topic
from chat_actors.actors.topic import COUNT_SECONDS
from tests.support.fakes import FakeMember, Frame, in_clean_loop, settle
from tests.support.harness import TopicHarness
from tests.support.presence import Names
from tests.support.window import joined, token


def presence(member: FakeMember) -> list[Frame]:
    """The presence that it was sent, without what all of it has in common."""
    frames = [frame for frame in member.frames if frame["type"] == "presence"]
    return [{key: value for key, value in frame.items() if key != "type"} for frame in frames]


def known(member: FakeMember) -> Names:
    """What a member knows of who is here, by all that it was sent."""
    names = Names()
    for frame in member.frames:
        names.take(frame)
    return names


# One for each turn.


@in_clean_loop
async def test_a_turn_with_many_joins_is_one_frame_for_each_who_watches() -> None:
    room = TopicHarness()
    watchers = [room.ask("watcher", events=True) for _ in range(3)]
    plain = room.join("plain")
    await settle()
    for member in (*watchers, plain):
        member.take()
    newcomers = [room.ask("new", events=True) for _ in range(100)]
    await settle()
    written = Counter(frame["type"] for member in (*watchers, plain, *newcomers) for frame in member.frames)
    assert written == {"joined": 100, "presence": 3}
    names = ["new", *(f"new#{number}" for number in range(2, 101))]
    assert [presence(watcher) for watcher in watchers] == [[{"joined": names, "users": 104}]] * 3


@in_clean_loop
async def test_each_turn_has_a_frame_of_its_own() -> None:
    room = TopicHarness()
    watcher = await room.watcher()
    for username in ("alice", "bob"):
        room.join(username)
        await settle()
    assert presence(watcher) == [{"joined": ["alice"], "users": 2}, {"joined": ["bob"], "users": 3}]


@in_clean_loop
async def test_joins_and_leaves_of_a_turn_are_in_the_order_in_which_they_came() -> None:
    room = TopicHarness()
    watcher, members = await room.watcher(), await room.enter("a", "b", "c")
    watcher.take()
    for place in (2, 0):
        room.leave(members[place])
    for username in ("z", "y"):
        room.join(username)
    await settle()
    assert presence(watcher) == [{"joined": ["z", "y"], "left": ["c", "a"], "users": 4}]


@in_clean_loop
async def test_whoever_comes_and_goes_in_a_turn_is_in_neither_list() -> None:
    room = TopicHarness()
    watcher = await room.watcher()
    room.leave(room.join("ghost"))
    room.join("alice")
    room.leave(room.join("ghost"))
    await settle()
    assert presence(watcher) == [{"joined": ["alice"], "users": 2}]


@in_clean_loop
async def test_a_turn_that_changes_nothing_has_no_frame() -> None:
    room = TopicHarness()
    watcher = await room.watcher()
    alice = room.ask("alice")
    await settle()
    watcher.take()
    room.leave(room.join("ghost"))
    room.leave(alice)
    room.ask("alice", resume=token(alice))  # it comes back as itself
    await settle()
    assert watcher.writes == []


@in_clean_loop
async def test_another_member_under_the_same_name_is_no_change() -> None:
    room = TopicHarness()
    watcher, (alice,) = await room.watcher(), await room.enter("alice")
    watcher.take()
    room.leave(alice)
    other = room.join("alice")
    room.leave(other)
    room.join("alice")
    await settle()
    assert watcher.writes == []


@in_clean_loop
async def test_a_name_in_another_case_is_a_change() -> None:
    room = TopicHarness()
    watcher, (alice,) = await room.watcher(), await room.enter("alice")
    watcher.take()
    room.leave(alice)
    room.join("ALICE")
    await settle()
    assert presence(watcher) == [{"joined": ["ALICE"], "left": ["alice"], "users": 2}]


@in_clean_loop
async def test_newcomers_find_all_of_their_turn_in_members_and_are_told_no_more() -> None:
    room = TopicHarness()
    watcher, (bob,) = await room.watcher(), await room.enter("bob")
    watcher.take()
    first = room.ask("first", events=True)
    room.leave(bob)
    plain, last = room.ask("plain"), room.ask("last", events=True)
    await settle()
    for newcomer in (first, last):
        assert joined(newcomer)["members"] == ["watcher", "first", "plain", "last"]
        assert (joined(newcomer)["users"], presence(newcomer)) == (4, [])
    room.leave(watcher)
    await settle()
    assert [presence(newcomer) for newcomer in (first, last)] == [[{"left": ["watcher"], "users": 3}]] * 2
    assert "members" not in joined(plain)


@in_clean_loop
async def test_with_nobody_to_watch_nothing_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    monkeypatch.setattr(topic, "Presence", lambda **fields: encoded.append("presence"))
    monkeypatch.setattr(topic, "encoded_names", lambda names: encoded.append("names"))
    room = TopicHarness()
    plain = await room.enter("alice", "bob", "carol")
    room.leave(plain[0])
    room.ask("dan")
    await settle()
    assert encoded == []
    room.ask("eve", events=True)  # who finds all in ``members``
    room.join("fay")
    await settle()
    assert encoded == ["names"]


# Big rooms.


class BigRoom(TopicHarness):
    """Room with three members at most that are told by their names."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(presence_members=3, **settings)

    async def come(self, *usernames: str) -> list[FakeMember]:
        members = [self.join(username) for username in usernames]
        await settle()
        return members

    async def go(self, *members: FakeMember) -> None:
        for member in members:
            self.leave(member)
        await settle()


@in_clean_loop
async def test_a_big_room_tells_the_number_of_its_members_alone() -> None:
    room = BigRoom()
    watcher = await room.watcher()
    alice, _ = await room.come("alice", "bob")
    assert presence(watcher) == [{"joined": ["alice", "bob"], "users": 3}]
    late = room.ask("late", events=True)
    await settle()
    assert presence(watcher)[1:] == [{"users": 4}]
    assert joined(late)["users"] == 4
    assert "members" not in joined(late)
    assert presence(late) == []
    await room.clock.advance(COUNT_SECONDS)
    await room.go(alice)  # a room with three members again
    assert presence(watcher)[2:] == presence(late) == [{"left": ["alice"], "users": 3}]


@in_clean_loop
async def test_a_big_room_is_counted_at_most_once_a_second_and_the_last_count_is_told() -> None:
    room = BigRoom()
    watcher, _ = await room.watcher(), await room.come("a", "b", "c")
    began, told = room.clock.now, []
    for number in range(50):
        await room.come(f"n{number}")
        await room.clock.advance(0.125)
        frames = presence(watcher)
        watcher.take()
        told += [(room.clock.now - began, frame) for frame in frames]
    await room.clock.advance(COUNT_SECONDS)
    told += [(room.clock.now - began, frame) for frame in presence(watcher)]
    times = [at for at, _ in told]
    assert len(told) == 8
    assert min(later - at for at, later in zip(times[1:], times[2:])) >= COUNT_SECONDS
    assert all(frame.keys() == {"users"} for _, frame in told)
    assert told[-1][1] == {"users": 54}


@in_clean_loop
async def test_a_change_after_a_second_of_calm_is_counted_at_once() -> None:
    room = BigRoom()
    watcher, _ = await room.watcher(), await room.come("a", "b", "c")
    await room.clock.advance(COUNT_SECONDS)
    assert presence(watcher) == [{"users": 4}]
    await room.come("d")
    assert presence(watcher)[1:] == [{"users": 5}]
    await room.clock.advance(10 * COUNT_SECONDS)
    assert presence(watcher)[2:] == []


@in_clean_loop
async def test_a_change_that_is_undone_before_it_is_counted_is_counted_all_the_same() -> None:
    room = BigRoom()
    watcher, _ = await room.watcher(), await room.come("a", "b", "c")
    (dan,) = await room.come("d")
    await room.go(dan)
    await room.clock.advance(COUNT_SECONDS)
    assert presence(watcher) == [{"users": 4}, {"users": 4}]


@in_clean_loop
async def test_whoever_takes_over_while_a_count_is_due_is_told_the_last_count() -> None:
    room = BigRoom()
    await room.watcher()
    bob = room.ask("bob", events=True)
    await settle()
    await room.come("a", "b")  # counted at once
    (dan,) = await room.come("dan")  # to be counted in a second
    again = room.ask("bob", events=True, resume=token(bob))
    await settle()
    assert joined(again)["users"] == 5
    await room.go(dan)
    await room.clock.advance(COUNT_SECONDS)
    assert known(again).users == 4


@in_clean_loop
async def test_a_count_that_is_due_is_not_told_if_the_room_has_become_small() -> None:
    room = BigRoom()
    watcher, members = await room.watcher(), await room.come("a", "b", "c")
    (dan,) = await room.come("d")
    await room.go(dan, *members)
    assert presence(watcher) == [{"users": 4}, {"left": ["a", "b", "c"], "users": 1}]
    await room.clock.advance(COUNT_SECONDS)
    assert presence(watcher)[2:] == []


@in_clean_loop
async def test_whoever_watches_knows_the_number_however_the_room_grows_and_shrinks() -> None:
    room = BigRoom()
    members = [await room.watcher()]
    members[0] = room.ask("first", events=True)
    await settle()
    for size in (2, 5, 3, 6, 1, 4, 2):
        while len(members) > size:
            room.leave(members.pop())
        while len(members) < size:
            members.append(room.ask("member", events=True))
        await room.clock.advance(COUNT_SECONDS / 4)
    await room.clock.advance(COUNT_SECONDS)
    assert [known(member).users for member in members] == [3, 3]  # with the watcher


@in_clean_loop
async def test_a_big_room_that_ends_with_a_count_due_leaves_no_timer() -> None:
    room = BigRoom()
    await room.watcher()
    await room.come("a", "b", "c")
    await room.come("d")
    assert room.clock.scheduled == 1
    room.topic.stop()
    await room.topic.task
    assert room.clock.scheduled == 0
