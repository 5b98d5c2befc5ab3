"""The frames for members with ``events``; and nothing of the window stays after it."""

from tests.support.fakes import in_clean_loop, settle, tasks
from tests.support.harness import TopicHarness
from tests.support.window import held, joined, short, token

# Events.


@in_clean_loop
async def test_members_are_listed_oldest_first_also_after_a_takeover() -> None:
    room = TopicHarness()
    alice, _ = room.ask("alice"), room.join("bob")
    await settle()
    room.ask("alice", resume=token(alice))
    carol = room.ask("bob", events=True)
    await settle()
    assert joined(carol)["members"] == ["alice", "bob", "bob#2"]


@in_clean_loop
async def test_joins_and_leaves_of_one_turn_reach_the_other_members_in_one_frame() -> None:
    room = TopicHarness()
    watcher, plain = await room.watcher(), room.join("plain")
    await settle()
    watcher.take()
    room.send(plain, "1")
    alice = room.ask("alice", events=True)
    room.send(plain, "2")
    bob = room.ask("bob")
    room.leave(alice)
    again = room.ask("alice", events=True)
    room.send(watcher, "3")
    room.leave(bob)
    room.leave(plain)
    room.send(again, "4")
    await settle()
    assert short(watcher) == ["1 1", "2 2", "3 ack", "4 4", "plain left 1", "alice joined 2"]
    assert len(watcher.writes) == 1
    assert short(again) == ["joined", "3 3", "4 ack"]
    assert (joined(again)["members"], joined(again)["users"]) == (["watcher", "alice"], 2)
    assert short(plain) == ["joined", "1 ack", "2 ack", "3 3"]
    assert short(alice) == short(bob) == []  # they have gone before they were told anything


@in_clean_loop
async def test_expired_is_sent_after_messages_expired_or_were_evicted() -> None:
    room = TopicHarness(history_messages=2)
    watcher, (alice,) = await room.watcher(), await room.enter("alice")
    asker = room.ask("asker")
    await settle()
    watcher.take()
    room.send(alice, "1", "2", "3")  # the bound is looked at behind the drain
    await settle()
    assert short(watcher) == ["1 1", "2 2", "3 3", "expired 1"]
    room.send(alice, "4")
    room.leave(alice)
    await settle()
    await room.clock.advance(29.75)
    assert short(watcher)[4:] == ["4 4", "alice left 2", "expired 2"]
    await room.clock.advance(0.25)
    assert short(watcher)[7:] == ["expired 4"]
    await room.clock.advance(60)
    assert len(short(watcher)) == 8
    assert short(asker) == ["joined", "1 1", "2 2", "3 3", "4 4"]


@in_clean_loop
async def test_a_member_that_left_is_forgotten_in_time_and_without_a_word() -> None:
    room = TopicHarness()
    watcher = await room.watcher()
    when_new = held(room.topic)
    alice = room.ask("alice")
    await settle()
    room.leave(alice)  # and nobody says anything
    await settle()
    await room.clock.advance(29.75)
    assert held(room.topic) != when_new
    await room.clock.advance(0.25)
    assert held(room.topic) == when_new
    assert short(watcher) == ["alice joined 2", "alice left 1"]


# Nothing stays.


@in_clean_loop
async def test_after_thirty_seconds_of_silence_a_topic_holds_what_it_held_when_it_was_new() -> None:
    before = tasks()
    room = TopicHarness(history_messages=50)
    stays = room.ask("stays", events=True)
    plain = room.join("plain")
    await settle()
    when_new, tasks_when_new = held(room.topic), tasks()
    for number in range(100):
        visitor = room.ask(f"visitor {number % 10}", events=bool(number % 2))
        await settle()
        room.send(visitor, str(number), ref=str(number))
        room.send(stays, str(number), ref=str(number))
        room.send(plain, str(number), ref=str(number))
        again = room.ask("visitor", resume=token(visitor), since=0)
        room.send(again, str(number), ref=str(number))
        room.leave(visitor)
        if number % 2:
            room.leave(again)
            again = room.ask("visitor", resume=token(visitor), since=number, epoch="another")
        room.leave(again)
        room.leave(room.join("visitor"))
        await room.clock.advance(0.25)
    assert held(room.topic) != when_new
    await room.clock.advance(29.75)
    assert held(room.topic) != when_new  # the last of it may still be asked for
    await room.clock.advance(0.25)
    assert held(room.topic) == when_new
    assert tasks() == tasks_when_new
    room.leave(stays)
    room.leave(plain)
    room.topic.stop()
    await room.topic.task
    assert tasks() == before
