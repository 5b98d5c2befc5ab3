"""Nodes that are lost, frozen, at odds or too few: what members see of it. Nothing is left behind."""

from collections import deque
from unittest.mock import patch

import pytest

from chat_actors.actors import fanout
from chat_actors.actors.base import HIGH_WATER
from chat_actors.actors.events import Expire, Leave
from chat_actors.actors.outbox import Overrides
from chat_actors.actors.supervisor import ListTopics
from chat_actors.cluster import node as node_module
from chat_actors.cluster.census import COUNT_SECONDS
from chat_actors.cluster.estate import TAKEN_SECONDS
from chat_actors.cluster.node import SETTLE_SECONDS, START_SECONDS, Node
from chat_actors.cluster.views import highest
from chat_actors.cluster.wire import Count, Depart, Hello, JoinRefused, Say, opened
from chat_actors.protocol.codes import CloseCode
from tests.support.cluster.fabric import Person
from tests.support.cluster.world import (
    World,
    answered,
    asks,
    empty,
    leave,
    listed,
    member,
    members,
    messages,
    presence,
    refusal,
    unacked,
    world,
)
from tests.support.fakes import POISON, FakeMember, log_lines, settle

# Too few nodes.


@world(quorum=True, configured=3)
async def test_fewer_than_half_of_the_nodes_serve_nobody_until_the_others_are_back(nodes: World) -> None:
    here, second, third = await nodes.start(3)
    alice, bob, carol = Person(here), Person(here), Person(here)
    await alice.joins("alice", "sports")
    await nodes.kill(second)
    assert alice.outbox.closed is None
    asks(bob, "bob", nodes.owned_by(third))
    nodes.hold(third, here)
    await settle()
    await nodes.kill(third)
    assert alice.outbox.closed == CloseCode.OVERLOADED and bob.outbox.closed == CloseCode.OVERLOADED
    assert refusal(bob)[0] == CloseCode.OVERLOADED
    asks(carol, "carol", "sports")
    await settle()
    assert refusal(carol) == (CloseCode.OVERLOADED, "this node sees fewer than half of its cluster")
    await leave(alice)
    assert empty(nodes) and await nodes.listed(here) == []
    await nodes.start(1)
    assert (await Person(here).joins("alice", "sports"))["users"] == 1


@world()
async def test_without_a_quorum_the_last_node_serves_all(nodes: World) -> None:
    here, second, third = await nodes.start(3)
    alice = Person(here)
    await alice.joins("alice", "sports")
    await nodes.kill(second)
    await nodes.kill(third)
    assert alice.outbox.closed is None
    assert (await Person(here).joins("bob", "sports"))["users"] == 2


@world()
async def test_a_node_that_starts_waits_for_the_others_and_then_serves_nobody_without_them(nodes: World) -> None:
    alone = nodes.make(configured=3, quorum=True)
    await nodes.join(alone)
    alice = Person(alone)
    asks(alice, "alice", "sports")
    await settle()
    assert not alice.outbox.reply.done() and alice.outbox.closed is None
    for seconds in (SETTLE_SECONDS, START_SECONDS):
        await nodes.run_out(seconds)
    assert refusal(alice) == (CloseCode.OVERLOADED, "") and alice.outbox.closed == CloseCode.OVERLOADED
    await settle()
    assert empty(nodes)


@world()
async def test_a_node_that_starts_waits_longer_than_one_that_has_seen_the_others(nodes: World) -> None:
    alone = nodes.make(configured=3)
    await nodes.join(alone)
    alice = Person(alone)
    asks(alice, "alice", "sports")
    await nodes.run_out(SETTLE_SECONDS)
    waits = not alice.outbox.reply.done()
    await nodes.run_out(START_SECONDS)
    assert waits and alice.outbox.reply.done()


@world()
async def test_a_node_that_starts_serves_as_soon_as_all_are_there(nodes: World) -> None:
    first, second = nodes.make(configured=2), nodes.make(configured=2)
    await nodes.join(first)
    alice = Person(first)
    asks(alice, "alice", "sports")
    await settle()
    assert not alice.outbox.reply.done()
    await nodes.join(second)
    assert alice.outbox.reply.done() and alice.hears()[0]["users"] == 1


@world()
async def test_a_node_that_was_stopped_before_it_was_open_starts_all_the_same(nodes: World) -> None:
    late = nodes.make()
    nodes._clocks[late.me].now += 10
    await nodes.join(late)
    await nodes.run_out(START_SECONDS)
    assert (await Person(late).joins("alice", "sports"))["users"] == 1


# What the owner refuses.


@world(topic_members=1)
async def test_a_full_topic_refuses_joins_on_all_nodes(nodes: World) -> None:
    here, there = await nodes.start(2)
    for owner in (here, there):
        topic = nodes.owned_by(owner)
        alice, others = Person(here), [Person(here), Person(there)]
        await alice.joins("alice", topic)
        for other in others:
            asks(other, "other", topic)
        await settle()
        full = CloseCode.OVERLOADED, "topic full (1 members): join another topic"
        assert [refusal(other) for other in others] == [full, full]
        assert await nodes.listed(there) == [{"topic": topic, "users": 1}]
        alice.says("still here")
        await settle()
        assert alice.texts == ["ack 1"]
        await leave(alice)
        assert empty(nodes)


@world(topics=1)
async def test_an_owner_with_as_many_topics_as_may_be_refuses_joins_of_others(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic, other = [topic for topic in map(str, range(100)) if highest(topic, [here.me, there.me]) == here.me][:2]
    await member(here, "alice", topic)
    bob = Person(there)
    asks(bob, "bob", other)
    await settle()
    assert refusal(bob) == (CloseCode.OVERLOADED, "too many topics (1): join an active topic")
    await settle()
    assert await nodes.listed(there) == [{"topic": topic, "users": 1}] and len(here.estates.open) == 1


@world()
async def test_a_refusal_for_a_member_is_ignored(nodes: World) -> None:
    here, there = await nodes.start(2)
    alice = await member(here, "alice", nodes.owned_by(there))
    (relay,) = here._relays
    for number in [*relay._guests, 99]:
        there.send(here.me, JoinRefused(relay._life, number, CloseCode.OVERLOADED, ""))
    await settle()
    alice.says("still here")
    await settle()
    assert alice.texts == ["ack 1"] and alice.outbox.closed is None


# The list of all topics.


@world()
async def test_the_list_is_partial_where_a_node_does_not_answer_in_time(nodes: World) -> None:
    here, silent, other = await nodes.start(3)
    for number, node in enumerate((here, silent, other)):
        await Person(here).joins("alice", nodes.owned_by(node))
        nodes._clocks[node.me].now += number / 10
    nodes.hold(silent, here)
    asker = await nodes.asked(here)
    assert listed(asker) == []
    await nodes.run_out(COUNT_SECONDS)
    ((topics, partial),) = listed(asker)
    assert partial and sorted(topics) == sorted([nodes.owned_by(here), nodes.owned_by(other)])
    await nodes.release(silent, here)  # too late
    assert listed(asker) == []
    assert len(listed(await nodes.asked(here))) == 1 and not here.registry._asked


@pytest.mark.parametrize("answered", [False, True])
@world()
async def test_when_a_node_is_lost_the_remaining_nodes_are_asked_again(nodes: World, answered: bool) -> None:
    here, lost, slow = await nodes.start(3)
    topic = nodes.owned_by(slow)
    await Person(here).joins("alice", topic)
    for node in (slow,) if answered else (slow, lost):
        nodes.hold(node, here)
    asker = await nodes.asked(here)
    await nodes.kill(lost)
    assert listed(asker) == []
    await nodes.release(slow, here)
    assert listed(asker) == [([topic], False)]


@world()
async def test_nobody_waits_for_the_answer_of_a_node_that_is_lost(nodes: World) -> None:
    here, lost = await nodes.start(2)
    nodes.hold(lost, here)
    asker = await nodes.asked(here)
    await nodes.kill(lost)
    assert listed(asker) == [([], False)]


@world()
async def test_requests_for_the_list_in_one_turn_share_one_question_and_one_answer(nodes: World) -> None:
    here, there = await nodes.start(2)
    askers = [FakeMember() for _ in range(3)]
    answers = [here.registry.census(ListTopics(asker)) for asker in askers] + [here.registry.census()]
    assert all(answer is answers[0] for answer in answers)
    await settle()
    assert [listed(asker) for asker in askers] == [[([], False)]] * 3
    assert (await answers[0]).topics == []
    assert here.registry.census() is not answers[0]
    await settle()
    assert not here.registry._asked and not there.registry._asked


@world()
async def test_a_node_answers_which_topics_it_owns_once_it_is_settled(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(there)
    await Person(here).joins("alice", topic)
    nodes.hold(here, there)
    await nodes.start(1)
    new = nodes.all[-1]
    owner = next(node for node in nodes.all if node.me == new.owner(topic))
    asker = await nodes.asked(new)
    assert listed(asker) == []
    await nodes.release(here, there)
    assert listed(asker) == [([topic], False)] and topic in owner.estates.open


@world()
async def test_a_request_that_is_cancelled_takes_the_answer_from_no_other(nodes: World) -> None:
    (here,) = await nodes.start(1)
    asker = FakeMember()
    here.registry.census(ListTopics(asker))
    here.registry.census().cancel()
    await settle()
    assert listed(asker) == [([], False)] and not here.registry._asked


@world()
async def test_a_request_that_is_cancelled_leaves_nothing_behind(nodes: World) -> None:
    (here,) = await nodes.start(1)
    here.registry.census().cancel()
    await settle()
    assert not here.registry._asked


# Joins without an answer so far.


@world()
async def test_a_join_unanswered_when_the_owner_died_is_answered_by_the_next_owner(nodes: World) -> None:
    owner, here, there = await nodes.start(3)
    topic = nodes.owned_by(owner)
    await member(here, "alice", topic)
    bob = Person(there)
    nodes.hold(owner, there)
    asks(bob, "bob", topic, resume="")
    await settle()
    assert not bob.outbox.reply.done()
    await nodes.kill(owner)
    assert bob.outbox.reply.done() and bob.hears()[0]["users"] == 2
    assert await nodes.listed(here) == [{"topic": topic, "users": 2}]


@world()
async def test_a_member_that_leaves_before_its_join_is_answered_leaves_nothing_behind(nodes: World) -> None:
    here, there = await nodes.start(2)
    for owner in (here, there):
        topic = nodes.owned_by(owner)
        bob = await member(there, "bob", topic, events=True)
        alice = Person(here)
        asks(alice, "alice", topic)
        alice.outbox.reply.cancel()
        await settle()
        await leave(alice)
        assert bob.texts == []
        carol = Person(here)
        asks(carol, "carol", topic)
        carol.leaves()
        await leave(bob)
        assert empty(nodes) and await nodes.listed(here) == []


@world()
async def test_a_member_that_goes_while_the_answer_to_its_join_is_on_its_way_just_leaves(nodes: World) -> None:
    owner, here = await nodes.start(2)
    topic = nodes.owned_by(owner)
    bob = await member(owner, "bob", topic)
    alice = Person(here)
    nodes.hold(owner, here)
    asks(alice, "alice", topic)
    await settle()
    alice.outbox.reply.cancel()
    with log_lines() as lines:
        await nodes.release(owner, here)
        await leave(alice)
    assert not [line for line in lines if line.startswith("ERROR")]
    assert await nodes.listed(here) == [{"topic": topic, "users": 1}]
    await leave(bob)
    assert empty(nodes)


@world()
async def test_joins_that_are_not_answered_when_the_node_ends_are_refused(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(there)
    alice, carol = await members(topic, events=True, alice=here, carol=there)
    bob = Person(here)
    nodes.hold(there, here)
    asks(bob, "bob", topic)
    await settle()
    await nodes.close(here)
    await settle()
    assert refusal(bob) == (CloseCode.RESTARTING, "") and alice.outbox.closed == CloseCode.RESTARTING
    assert alice.texts == ["joined carol (2)", "closing"]
    assert presence(carol.hears())[-2:] == [("left", "alice"), ("left", "bob")]
    assert await nodes.listed(there) == [{"topic": topic, "users": 1}]


# What happens in one turn.


@world()
async def test_a_message_before_a_leave_is_heard_and_one_after_it_is_not(nodes: World) -> None:
    here, there = await nodes.start(2)
    for owner in (here, there):
        topic = nodes.owned_by(owner)
        alice = await member(here, "alice", topic)
        bob = await member(there, "bob", topic, events=True)
        assert alice.address is not None
        alice.says("one", "two")
        alice.address.put_nowait(Leave(alice.outbox, "closed by peer"))
        alice.says("three")
        await settle()
        assert bob.texts == ["one", "two", "left alice (1)"]
        await leave(alice, bob)
        assert empty(nodes)


@world()
async def test_a_join_right_after_the_last_leave_finds_a_new_topic(nodes: World) -> None:
    here, there = await nodes.start(2)
    for owner in (here, there):
        topic = nodes.owned_by(owner)
        alice, bob = Person(here), Person(here)
        before = await alice.joins("alice", topic, resume="")
        alice.says("old")
        await settle()
        alice.leaves()
        joined = await bob.joins("bob", topic, since=0)
        assert (joined["users"], joined["last_id"]) == (1, 0)
        assert joined["epoch"] != before["epoch"] and bob.hears() == []
        bob.says("new")
        await settle()
        assert bob.texts == ["ack 1"]
        assert await nodes.listed(there) == [{"topic": topic, "users": 1}]
        await leave(bob)
        assert empty(nodes)


@world()
async def test_a_topic_that_is_left_and_joined_in_one_turn_is_another_one(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice, bob = Person(there), Person(there)
    before = await alice.joins("alice", topic, resume="")
    alice.says("old")
    await settle()
    (relay,) = there._relays
    (number,) = relay._guests
    there.send(here.me, Depart(topic, relay._life, number, "closed by peer"))
    asks(bob, "bob", topic, since=0)
    await settle()
    joined, *more = bob.hears()
    assert (joined["users"], joined["last_id"], more) == (1, 0, []) and joined["epoch"] != before["epoch"]
    answered(bob)
    bob.says("new")
    await settle()
    assert bob.texts == ["ack 1"] and await nodes.listed(there) == [{"topic": topic, "users": 1}]


@world()
async def test_a_leave_after_another_connection_resumed_does_not_remove_the_member(nodes: World) -> None:
    here, there = await nodes.start(2)
    for owner in (here, there):
        topic = nodes.owned_by(owner)
        alice, new = Person(there), Person(there)
        token = (await alice.joins("alice", topic, resume=""))["resume"]
        asks(new, "anyone", topic, resume=token)
        await leave(alice)
        assert new.hears()[0]["username"] == "alice"
        assert await nodes.listed(here) == [{"topic": topic, "users": 1}]
        await leave(new)
        assert empty(nodes)


@world()
async def test_the_owners_of_many_topics_are_not_kept_for_ever(nodes: World) -> None:
    (here,) = await nodes.start(1)
    for number in range(100_001):
        assert here.owner(str(number)) == here.me
    assert len(here._owners) < 100_000


@world()
async def test_the_supervisor_of_members_counts_those_of_its_own_node(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(there)
    await member(here, "alice", topic)
    await member(there, "alice", topic)
    for node in (here, there):
        (of_topic,) = node.front.statistics()
        assert (of_topic.users, of_topic.mail) == (1, 0)


# Too much at once, and bugs.


@world()
async def test_a_sender_waits_while_too_much_is_not_acknowledged(nodes: World) -> None:
    here, there = await nodes.start(2)
    alice = await member(here, "alice", nodes.owned_by(there))
    assert alice.address is not None
    nodes.hold(there, here)
    alice.says(*map(str, range(HIGH_WATER - 1)))
    await settle()
    assert alice.address.empty() and not alice.address.crowded()
    alice.says("one more")
    await settle()
    assert alice.address.crowded()
    alice.says(*map(str, range(HIGH_WATER)))  # from senders that do not wait for room
    room = alice.address.drained()
    await settle()
    assert not room.done()
    await nodes.release(there, here)
    assert room.done() and not alice.address.crowded()
    assert len(alice.texts) == 2 * HIGH_WATER


@world()
async def test_messages_stay_in_order_if_one_is_so_long_that_others_get_a_turn_before_it(
    nodes: World,
) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice, others = Person(here), [Person(there), Person(there)]
    await alice.joins("alice", topic)
    for number, other in enumerate(others):
        await other.joins(f"name-{number}", topic)
    long = "long " * 10_000
    alice.says("before", long, "after")
    await settle()
    alice.says("at last")
    await settle()
    assert [other.texts[-4:] for other in others] == [["before", long, "after", "at last"]] * 2
    assert alice.texts == ["ack 1", "ack 2", "ack 3", "ack 4"]


@world()
async def test_waiting_messages_of_a_member_that_left_hold_up_nobody(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(there)
    alice, bob = await members(topic, alice=here, bob=here)
    assert bob.address is not None
    nodes.hold(there, here)
    alice.says(*map(str, range(HIGH_WATER)))
    await settle()
    room = bob.address.drained()
    assert bob.address.crowded() and not room.done()
    await leave(alice)
    assert room.done() and not bob.address.crowded()


@world()
async def test_a_topic_that_crashes_closes_its_members_on_all_nodes_and_begins_anew(nodes: World) -> None:
    owner, there = await nodes.start(2)
    topic = nodes.owned_by(owner)
    alice, bob = Person(owner), Person(there)
    before = await alice.joins("alice", topic, resume="")
    await bob.joins("bob", topic)
    alice.says("one")
    await settle()
    alice.says(*[POISON] * 6)
    await settle()
    assert alice.outbox.closed == bob.outbox.closed == CloseCode.CRASHED
    new = Person(there)
    joined = await new.joins("carol", topic, since=1, epoch=before["epoch"])
    assert joined["users"] == 1 and joined["epoch"] != before["epoch"] and joined["last_id"] == 0
    assert joined["gap"] == {"from": 2, "to": None, "reason": "restarted"}
    for one in (alice, bob):
        one.says("behind the end")
        one.leaves()
    new.says("anew")
    await settle()
    assert new.texts == ["ack 1"] and await nodes.listed(owner) == [{"topic": topic, "users": 1}]
    # The new topic moves to another node like any other.
    await nodes.kill(owner)
    new.says("and again")
    await settle()
    assert new.texts == ["ack 2"]


@world()
async def test_a_message_that_cannot_be_sent_to_another_node_costs_nobody_else_anything(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic, other = nodes.owned_by(there), nodes.owned_by(here)
    alice = await member(here, "alice", topic)
    bob = await member(here, "bob", other)
    alice.says(POISON)
    await settle()
    bob.says("one")
    await settle()
    assert bob.texts == ["ack 1"]
    assert (await Person(there).joins("carol", other))["users"] == 2


@world()
async def test_a_relay_that_crashes_closes_its_members_and_no_others(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(there)
    alice = await member(here, "alice", topic)
    bob = await member(there, "bob", topic, events=True)
    (relay,) = here._relays
    with log_lines() as lines:
        relay.post(Expire())
        await settle()
        assert alice.outbox.closed is None
        for _ in range(5):
            relay.post(Expire())
        await settle()
    assert sum("not an event of a relay" in line for line in lines) == 6
    assert alice.outbox.closed == CloseCode.CRASHED and bob.texts == ["left alice (1)"]
    alice.leaves()
    new = Person(here)
    assert (await new.joins("carol", topic))["users"] == 2
    await leave(new, bob)
    assert empty(nodes)


@world()
async def test_a_relay_that_crashes_answers_the_joins_that_are_on_their_way(nodes: World) -> None:
    here, there = await nodes.start(2)
    alice = Person(here)
    nodes.hold(there, here)
    asks(alice, "alice", nodes.owned_by(there))
    await settle()
    (relay,) = here._relays
    for _ in range(6):
        relay.post(Expire())
    await settle()
    assert alice.outbox.closed == CloseCode.CRASHED
    await leave(alice)
    assert alice.outbox.reply.done() and refusal(alice)[0] == CloseCode.CRASHED


@world()
async def test_an_ack_for_a_member_on_no_node_is_carried_to_none(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    await member(there, "alice", topic)
    overrides: Overrides = {FakeMember(): [(0, b"nobody's")]}
    await here.estates.open[topic].carry([b"\x81\x02{}"], [], overrides)
    (parcel,) = here.estates.open[topic].journal.backlog.after(0)
    assert parcel.own == []


@world()
async def test_a_hello_to_itself_and_an_unasked_count_are_ignored(nodes: World) -> None:
    (here,) = await nodes.start(1)
    with log_lines() as lines:
        here.send(here.me, Hello())
        here.send(here.me, Count(99))
        await settle()
    assert lines == [] and await nodes.listed(here) == []


# A node that ends.


@world()
async def test_a_node_may_be_closed_twice_and_answers_the_list_before_it_goes(nodes: World) -> None:
    here, there = await nodes.start(2)
    nodes.hold(there, here)
    answer = here.registry.census()
    await settle()
    assert not answer.done()
    await here.close()
    assert answer.done() and (await answer).partial is True
    await nodes.close(here)
    await settle()
    assert there.view == [there.me]


# Nodes that were stopped.


@world()
async def test_a_member_that_resumed_elsewhere_is_closed_when_its_frozen_node_thaws(nodes: World) -> None:
    here, there, frozen = await nodes.start(3)
    for owner in (here, there):
        topic = nodes.owned_by(owner)
        alice, bob, new = Person(frozen), Person(there), Person(here)
        token = (await alice.joins("alice", topic, resume=""))["resume"]
        await bob.joins("bob", topic, events=True)
        alice.says("one", ref="r")
        await settle()
        await nodes.freeze(frozen)
        joined = await new.joins("anyone", topic, resume=token)
        assert (joined["username"], joined["users"]) == ("alice", 2)
        new.says("one", ref="r")
        await settle()
        assert new.texts == ["ack 1 again"]
        bob.hears()
        await nodes.thaw(frozen)
        assert alice.outbox.closed == CloseCode.RESUMED_ELSEWHERE and new.outbox.closed is None
        alice.leaves()
        new.says("two")
        await settle()
        assert new.texts == ["ack 2"] and bob.texts == ["two"]
        assert await nodes.listed(frozen) == [{"topic": topic, "users": 2}]
        await leave(new, bob)
        assert empty(nodes)


@world()
async def test_a_node_that_was_frozen_while_it_met_another_knows_it_once(nodes: World) -> None:
    here, _, new, topic = await nodes.moving_topic()
    alice = await member(here, "alice", topic)
    nodes.hold(new, here)
    await nodes.join(new)
    (word,) = (data for data in nodes.fabric.held[new.me, here.me] if opened(data).yours)
    nodes._clocks[here.me].now += 3
    nodes.fabric.held.pop((new.me, here.me))
    nodes.fabric.ends[here.me].mail(word)
    await settle()
    assert here.view == sorted(here.view) == sorted(node.me for node in nodes.all)
    alice.says("one")
    await nodes.run_out(START_SECONDS)
    assert alice.texts == ["ack 1"]


@world()
async def test_mail_sent_to_a_node_before_it_was_frozen_is_ignored(nodes: World) -> None:
    here, frozen, gone = await nodes.start(3)
    topic = nodes.topic((gone, nodes.all), (frozen, [here, frozen]))
    alice = await member(here, "alice", topic)
    nodes.fabric.frozen[frozen.me] = deque()
    await nodes.kill(gone)
    words = [args[0] for _, args in nodes.fabric.frozen[frozen.me] if len(args) == 1]
    (attach,) = (word for word in words if b"Attach" in word)
    await nodes.freeze(frozen)
    await leave(alice)
    assert await nodes.listed(here) == []
    nodes.fabric.frozen[frozen.me].appendleft((nodes.fabric.ends[frozen.me].mail, (attach,)))
    await nodes.thaw(frozen)
    await nodes.run_out(START_SECONDS)
    assert await nodes.listed(here) == [] and empty(nodes)


@world()
async def test_others_hear_only_the_new_name_of_a_member_that_comes_back_renamed(nodes: World) -> None:
    here, there, frozen = await nodes.start(3)
    topic = nodes.owned_by(here)
    alice, bob = await members(topic, events=True, alice=there, bob=frozen)
    new = Person(there)
    await nodes.freeze(frozen)
    await new.joins("bob", topic, events=True)
    assert alice.texts == ["joined bob (2)", "left bob (1)", "joined bob (2)"]
    await nodes.thaw(frozen)
    assert bob.texts[-2:] == ["bob is bob#2", "joined bob (3)"]
    assert alice.texts == new.texts == ["joined bob#2 (3)"]


# Topics that move.


@world()
async def test_a_member_that_left_before_a_topic_moved_can_resume_with_its_refs(nodes: World) -> None:
    here, there, new, topic = await nodes.moving_topic()
    alice, bob, back = Person(there), Person(here), Person(there)
    before = await alice.joins("alice", topic, resume="")
    await bob.joins("bob", topic, events=True)
    alice.says("one", ref="r")
    alice.says("two", ref="s")
    await settle()
    await leave(alice)
    assert bob.texts == ["one", "two", "left alice (1)"]
    await nodes.join(new)
    assert topic in new.estates.open and topic not in here.estates.open
    joined = await back.joins("anyone", topic, resume=before["resume"], since=1, epoch=before["epoch"])
    assert (joined["username"], joined["epoch"], joined["last_id"]) == ("alice", before["epoch"], 2)
    assert "gap" not in joined and messages(back) == [(2, "two")]
    back.says("one", ref="r")
    back.says("three", ref="t")
    await settle()
    assert back.texts == ["ack 1 again", "ack 3"]
    assert bob.texts == ["joined alice (2)", "three"]


@world()
async def test_what_is_said_in_the_window_is_forgotten_in_time_after_a_topic_has_moved(nodes: World) -> None:
    here, there, new, topic = await nodes.moving_topic()
    alice, bob, back = Person(here), Person(there), Person(there)
    before = await alice.joins("alice", topic, resume="")
    await bob.joins("bob", topic, events=True)
    alice.says("one", ref="r")
    await settle()
    alice.leaves()
    await nodes.pass_time(20)
    await nodes.join(new)
    assert bob.texts == ["one", "left alice (1)"]
    await nodes.pass_time(10.5)
    assert bob.texts == ["expired"]
    joined = await back.joins("alice", topic, resume=before["resume"], since=0, epoch=before["epoch"])
    assert joined["resume"] != before["resume"] and messages(back) == []
    assert joined["gap"] == {"from": 1, "to": 1, "reason": "expired"}


@world()
async def test_a_member_that_returns_is_told_what_has_expired_on_whichever_node(nodes: World) -> None:
    here, there, new, topic = await nodes.moving_topic()
    alice, bob = Person(there), Person(here)
    before = await alice.joins("alice", topic, events=True)
    await bob.joins("bob", topic)
    bob.says("one")
    await settle()
    await nodes.pass_time(10)
    bob.says("two")
    await settle()
    alice.leaves()
    await nodes.pass_time(20.5)
    again = {"since": 2, "epoch": before["epoch"], "events": True}
    for node in (here, there):
        joined = await Person(node).joins("alice", topic, **again)
        assert (joined["expired_through"], "gap" in joined) == (1, False)
    await nodes.join(new)
    for node in (here, there, new):
        joined = await Person(node).joins("alice", topic, **again)
        assert (joined["expired_through"], "gap" in joined) == (1, False)


@world()
async def test_a_topic_that_moves_twice_at_once_loses_nothing(nodes: World) -> None:
    here, there, new, newer, topic = await nodes.topic_that_moves_twice()
    alice, bob, late = Person(here), Person(there), Person(there)
    before = await alice.joins("alice", topic, resume="")
    await bob.joins("bob", topic)
    alice.says("one")
    await settle()
    await nodes.join(new, newer)
    assert topic in newer.estates.open
    alice.says("two")
    await settle()
    joined = await late.joins("carol", topic, since=0, epoch=before["epoch"])
    assert messages(late) == [(1, "one"), (2, "two")] and "gap" not in joined


@world()
async def test_what_is_said_before_a_topic_moves_twice_at_once_is_heard_once(nodes: World) -> None:
    here, there, new, newer, topic = await nodes.topic_that_moves_twice()
    alice, bob = await members(topic, alice=here, bob=there)
    (relay,) = there._relays
    bob.says("one")
    lost = relay._carry
    relay._carry = lambda parcel: None  # type: ignore[method-assign]  # it is on its way when the topic moves
    await settle()
    relay._carry = lost  # type: ignore[method-assign]
    assert messages(alice) == [(1, "one")] and bob.texts == []
    await nodes.join(new, newer)
    assert bob.texts == ["ack 1"] and messages(alice) == []


@world()
async def test_members_whose_node_was_late_come_back_to_a_topic_that_went_on_without_them(nodes: World) -> None:
    owner, here, there, late = await nodes.start(4)
    topic = nodes.topic((owner, nodes.all), (here, [here, there, late]))
    alice, bob, carol = await members(topic, events=True, alice=here, bob=there, carol=late)
    dave = await member(late, "dave", topic)
    for one in (alice, bob, carol):
        one.hears()
    for node in (there, late):
        nodes.hold(node, here)
    await nodes.kill(owner)
    bob.says("of bob")
    dave.says("of dave")
    await nodes.run_out(SETTLE_SECONDS)
    assert alice.texts == ["left bob (3)", "left carol (2)", "left dave (1)"]
    alice.says("of alice")
    await settle()
    assert alice.texts == ["ack 1"]
    for node in (there, late):  # both in one turn
        nodes.fabric.pass_on(node.me, here.me)
    await settle()
    heard = alice.hears()
    assert sorted(presence(heard)) == [("joined", "bob"), ("joined", "carol"), ("joined", "dave")]
    said = [(frame["id"], frame["message"]) for frame in heard if frame["type"] == "message"]
    assert sorted(said) in ([(2, "of bob"), (3, "of dave")], [(2, "of dave"), (3, "of bob")])
    assert sorted(messages(carol)) == sorted([(1, "of alice"), *said])
    assert dave.texts[0] == "of alice" and bob.texts[0] == "of alice"
    assert await nodes.listed(late) == [{"topic": topic, "users": 4}]


@world()
async def test_a_join_in_the_moment_the_topic_moves_is_a_member_of_the_next_owner(nodes: World) -> None:
    here, there, new, topic = await nodes.moving_topic()
    bob = Person(there)
    for sender in (there, new):
        nodes.hold(sender, here)
    asks(bob, "bob", topic, resume="")
    await nodes.join(new)
    nodes.release_in_one_turn(here, there, new)  # here has the topic for a moment
    assert here.view == sorted(node.me for node in nodes.all)
    await settle()
    joined, *more = bob.hears()
    assert joined["users"] == 1 and more == []
    assert await nodes.listed(here) == [{"topic": topic, "users": 1}]
    assert not here.estates.open and not here.back.active_topics()


@world()
async def test_a_topic_that_moves_on_before_it_has_gone_on_loses_no_member(nodes: World) -> None:
    gone, here, there = await nodes.start(3)
    new = nodes.make()
    topic = nodes.topic((gone, [gone, here, there]), (here, [here, there]), (new, [here, there, new]))
    alice = await member(there, "alice", topic, events=True)
    bob = await member(there, "bob", topic, resume="")
    alice.says("one")
    await settle()
    assert alice.texts == ["joined bob (2)", "ack 1"] and bob.texts == ["one"]
    for sender in (there, new):
        nodes.hold(sender, here)
    await nodes.kill(gone)
    alice.says("two")
    await nodes.join(new)
    nodes.release_in_one_turn(here, there, new)
    await settle()
    assert topic in new.estates.open and topic not in here.estates.open
    alice.says("three")
    await settle()
    assert alice.texts == ["ack 2", "ack 3"] and bob.texts == ["two", "three"]
    assert await nodes.listed(here) == [{"topic": topic, "users": 2}]


@world()
async def test_windows_that_go_to_a_node_at_once_are_bounded_and_members_notice_nothing(nodes: World) -> None:
    here, there = await nodes.start(2)
    new = nodes.make()
    names = [here.me, there.me, new.me]
    of_here = (topic for topic in map(str, range(1000)) if highest(topic, names[:2]) == here.me)
    topics = [topic for topic in of_here if highest(topic, names) == new.me][:2]
    people = [Person(here) for _ in topics]
    for topic, person in zip(topics, people):
        await person.joins("alice", topic)
        person.says("x" * 600)
    await settle()
    with patch.object(node_module, "WINDOWS_BYTES", 1000):
        await nodes.join(new)
    assert sorted(new.estates.open) == sorted(topics)
    replayed = []
    for topic, person in zip(topics, people):
        late = Person(there)
        assert (await late.joins("bob", topic, since=0))["last_id"] == 1
        replayed.append(len(messages(late)))
        person.says("on")
        await settle()
        assert person.texts == ["ack 1", "ack 2"] and late.texts == ["on"]
    assert sorted(replayed) == [0, 1]


@world()
async def test_a_message_that_moves_remains_for_the_rest_of_its_time_on_every_node(nodes: World) -> None:
    here, there, new, topic = await nodes.moving_topic()
    alice = await member(there, "alice", topic, resume="")
    alice.says("one", ref="r")
    await settle()
    await nodes.pass_time(5)
    alice.says("two")
    await settle()
    await nodes.pass_time(5)
    nodes._clocks[new.me].now += 5000  # every machine has a monotonic clock of its own

    async def remaining(node: Node) -> list[int]:
        late = await member(node, "late", topic, since=0)
        told = [frame["remaining_ms"] for frame in late.hears()]
        alice.hears()
        alice.says("one", ref="r")  # again
        await settle()
        told += [frame["remaining_ms"] for frame in alice.hears()]
        await leave(late)
        return told

    for node in (here, there):
        assert await remaining(node) == [20_000, 25_000, 20_000]
    await nodes.join(new)
    assert topic in new.estates.open
    await nodes.pass_time(2)
    for node in (here, there, new):
        assert await remaining(node) == [18_000, 23_000, 18_000]


# Nodes that do not see the same others.


@world()
async def test_a_join_waits_until_the_nodes_agree_about_the_owner(nodes: World) -> None:
    before, here, there, lost = await nodes.start(4)
    new = nodes.make()
    olds = [before, here, there, lost]
    topic = nodes.topic((before, olds), (new, nodes.all), (before, [before, here, there]))
    for node in (here, there, lost):
        nodes.apart(node, new)
    await nodes.join(new)
    people = alice, bob, _ = [Person(node) for node in (here, there, lost)]
    for number, person in enumerate(people):
        asks(person, f"name-{number}", topic)
    await settle()
    await nodes.run_out(SETTLE_SECONDS)
    assert len(before.estates._waiting[topic]) == 3 and not before.estates.open
    people[2].outbox.reply.cancel()
    await nodes.kill(lost)
    assert len(before.estates._waiting[topic]) == 2
    await nodes.meet(here, new)
    await nodes.run_out(SETTLE_SECONDS)
    assert alice.hears()[0]["users"] == 1 and not bob.outbox.reply.done()
    assert len(before.estates._waiting[topic]) == 1
    await nodes.meet(there, new)
    assert bob.hears()[0]["users"] == 2 and not before.estates._waiting
    assert await nodes.listed(before) == [{"topic": topic, "users": 2}]


@world()
async def test_nothing_waits_for_a_node_that_is_lost(nodes: World) -> None:
    before, lost = await nodes.start(2)
    new = nodes.make()
    topic = nodes.topic((before, [before, lost]), (new, nodes.all), (before, [before]))
    nodes.apart(lost, new)
    await nodes.join(new)
    alice = Person(lost)
    asks(alice, "alice", topic)
    await settle()
    assert list(before.estates._waiting) == [topic]
    alice.outbox.reply.cancel()
    await nodes.kill(lost)
    await nodes.kill(new)
    await nodes.run_out(SETTLE_SECONDS)
    assert empty(nodes)


@world()
async def test_a_relay_that_turned_to_another_owner_for_a_moment_goes_on_where_it_was(nodes: World) -> None:
    owner, there, new, topic = await nodes.moving_topic()
    alice = await member(owner, "alice", topic, events=True)
    bob, carol = await members(topic, bob=there, carol=there)
    nodes.hold(owner, there)
    bob.says("one")
    await settle()
    assert alice.texts == ["joined bob (2)", "joined carol (3)", "one"]
    nodes.apart(owner, new)
    await nodes.join(new)
    await nodes.release(owner, there)  # for an attachment that has ended
    assert bob.texts == []
    carol.leaves()
    bob.says("two")
    alice.says("three")
    await settle()
    await nodes.kill(new)
    assert bob.texts == ["ack 1", "three", "ack 3"]
    assert sorted(alice.texts) == ["ack 2", "left carol (2)", "two"]
    assert unacked(there) == [[]]
    assert await nodes.listed(there) == [{"topic": topic, "users": 2}]


@world()
async def test_a_relay_that_has_followed_another_owner_for_a_moment_gets_all_its_acks(nodes: World) -> None:
    owner, there, new, topic = await nodes.moving_topic()
    alice, bob = await members(topic, alice=owner, bob=there)
    nodes.hold(owner, there)
    bob.says("one")
    await settle()
    assert alice.texts == ["one"]
    nodes.apart(owner, new)
    await nodes.join(new)
    await nodes.release(owner, there)
    nodes.hold(new, there)
    await nodes.run_out(SETTLE_SECONDS)
    first = nodes.fabric.held[new.me, there.me].popleft()
    assert b"Attached" in first and b"Carry" not in first
    nodes.fabric.deliver(new.me, there.me, first)
    await settle()
    await nodes.kill(new)
    bob.says("two")
    await settle()
    assert sum(text.startswith("ack") for text in bob.texts) == 2
    assert alice.texts[-1] == "two"
    assert unacked(there) == [[]]


@world()
async def test_a_relay_that_its_owner_has_let_go_is_heard_by_the_next_one(nodes: World) -> None:
    here, there, new, topic = await nodes.moving_topic()
    alice = await member(here, "alice", topic, events=True)
    bob = await member(there, "bob", topic)
    nodes.apart(there, new)
    await nodes.join(new)
    await nodes.run_out(SETTLE_SECONDS)
    assert alice.texts == ["joined bob (2)", "left bob (1)"]
    bob.says("one")
    await settle()
    assert bob.texts == []  # its relay has turned back to the last owner, which no longer has the topic
    await nodes.meet(there, new)
    assert bob.texts == ["ack 1"] and alice.texts == ["joined bob (2)", "one"]


@world()
async def test_an_owner_takes_nothing_from_a_relay_of_a_time_that_is_over(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice, _ = await members(topic, alice=here, bob=there)
    (relay,) = there._relays
    (number,) = relay._guests
    there.send(here.me, Say(topic, relay._life + 1, [(number, "of another life", None)]))
    there.send(here.me, Say(topic, relay._life, [(number + 1, "of nobody", None)]))
    await settle()
    assert alice.hears() == []


@pytest.mark.parametrize("lost", [False, True])
@world()
async def test_a_rename_is_told_behind_the_join_or_as_one_to_members_that_lack_it(nodes: World, lost: bool) -> None:
    here, there, third = await nodes.start(3)
    topic = nodes.topic((here, nodes.all), (there, [there, third]))
    alice, bob, carol = await members(topic, events=True, alice=here, bob=there, carol=third)
    other = Person(there)
    await nodes.part(here, there, third)
    nodes.hold(there, third)
    asks(other, "alice", topic, events=True)
    await settle()
    await nodes.run_out(TAKEN_SECONDS)  # the owner waits so long for the third
    for one in (alice, bob, carol, other):
        one.hears()
    if lost:  # together with the window
        await nodes.pass_time(30.5)
    await nodes.heal(here, there, third)
    await nodes.release(there, third)
    assert sorted(presence(alice.hears())) == [("joined", name) for name in ("alice#2", "bob", "carol")]
    renamed = ["alice is alice#2", "joined alice (4)"]
    assert bob.texts == other.texts == renamed
    assert carol.texts == (["joined alice (3)", "joined alice#2 (4)"] if lost else ["joined alice (3)", *renamed])


@world(presence_members=2)
async def test_members_of_a_topic_that_is_too_big_are_counted_on_every_node(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice, bob = await members(topic, events=True, alice=here, bob=there)
    assert alice.texts == ["joined bob (2)"]
    carol, dave = Person(there), Person(there)
    assert "members" not in await carol.joins("carol", topic, events=True)
    assert alice.texts == bob.texts == ["users (3)"]
    await leave(bob, carol)
    assert (await dave.joins("dave", topic, events=True))["members"] == ["alice", "dave"]
    await leave(alice)
    assert dave.texts == ["left alice (1)"]


@world(presence_members=2)
async def test_when_sides_meet_as_a_big_topic_members_are_counted_and_told_their_new_names(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.topic((here, nodes.all))
    await nodes.part(here, there)
    alice, _ = await members(topic, events=True, alice=here, bob=here)
    other, carol, dave = [Person(there) for _ in range(3)]
    for name, person in (("alice", other), ("carol", carol), ("dave", dave)):
        await person.joins(name, topic, events=True)
    for person in (alice, other, carol):
        person.hears()
    await nodes.heal(here, there)
    assert alice.texts == ["users (5)"]  # whose node knew all names
    assert other.texts == carol.texts == dave.texts == ["users (5)", "alice is alice#2"]  # whose node knew none


@world(presence_members=3)
async def test_when_sides_meet_members_that_were_told_no_names_before_are_told_none(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.topic((here, nodes.all))
    await nodes.part(here, there)
    alice, _, *others = await members(topic, events=True, alice=here, bob=here, carol=here, dave=here)
    await leave(*others)
    alice.hears()
    other = await member(there, "alice", topic, events=True)
    await nodes.heal(here, there)
    assert alice.texts == ["users (3)"]
    assert other.texts == ["alice is alice#2", "joined alice (2)", "joined bob (3)"]


@world()
async def test_when_sides_meet_messages_that_only_one_owner_had_come_from_it(nodes: World) -> None:
    here, there, far = await nodes.start(3)
    topic = nodes.topic((here, [here, far]), (there, nodes.all))
    await nodes.part(there, here, far)
    people = alice, bob, *others = [Person(node) for node in (far, far, there, there, there)]
    for number, person in enumerate(people):
        await person.joins(f"name-{number}", topic)
    nodes.hold(here, far)
    alice.says("one")
    others[0].says("two")
    await settle()
    assert alice.texts == bob.texts == [] and others[1].texts == ["two"]
    await nodes.heal(there, here, far)
    await nodes.release(here, far)
    assert alice.texts == ["ack 1"] and bob.texts == ["one"] and others[1].texts == []
    assert not any(unacked(far))


async def late_bequest(nodes: World) -> tuple[Node, Node, Node, str, Person]:
    """A topic moves from the first node to the third, and its bequest is held; alice is a member on the second."""
    here, there, new, topic = await nodes.moving_topic()
    alice = await member(there, "alice", topic)
    nodes.hold(here, new)
    await nodes.join(new)
    await nodes.release_until(here, new, b"Bequest")
    return here, there, new, topic, alice


@world()
async def test_a_bequest_for_a_topic_that_goes_on_already_is_dropped(nodes: World) -> None:
    here, _, new, topic, alice = await late_bequest(nodes)
    await nodes.run_out(SETTLE_SECONDS)
    assert topic in new.estates.open
    with log_lines() as lines:
        await nodes.release(here, new)
    assert sum("bequest dropped: topic open" in line for line in lines) == 1
    alice.says("one")
    await settle()
    assert alice.texts == ["ack 1"] and not new.estates._bequests
    assert await nodes.listed(here) == [{"topic": topic, "users": 1}]


@world()
async def test_a_bequest_that_comes_when_nobody_is_left_is_forgotten(nodes: World) -> None:
    here, there, new, topic, alice = await late_bequest(nodes)
    alice.leaves()
    await nodes.run_out(SETTLE_SECONDS)
    await nodes.release(here, new)
    assert list(new.estates._bequests) == [topic] and empty(nodes)
    await nodes.pass_time(1.0)
    assert not new.estates._bequests
    joined = await Person(there).joins("alice", topic, since=0)
    assert (joined["users"], joined["last_id"]) == (1, 0)


@world()
async def test_changes_as_nodes_meet_are_told_in_turn_if_a_relay_has_much_to_write(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice, bob = Person(here), Person(there)
    with patch.object(fanout, "STRIDE_BYTES", 0):
        await alice.joins("alice", topic, events=True)
        await bob.joins("bob", topic, events=True)
        await nodes.part(here, there)
        alice.says("here")
        bob.says("there")
        await settle()
        await nodes.heal(here, there)
        alice.says("together")
        await settle()
    assert alice.texts == ["joined bob (2)", "left bob (1)", "ack 1", "joined bob (2)", "ack 2"]
    assert bob.texts == ["left alice (1)", "ack 1", "joined alice (2)", "together"]


# A node with too much mail waiting for it.


@world()
async def test_a_node_with_too_much_mail_is_lost_and_comes_back_with_all_messages(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice = await member(here, "alice", topic, events=True)
    bob = await member(there, "bob", topic)
    alice.hears()
    nodes.fabric.most_waiting = 1000
    nodes.hold(here, there)
    alice.says("one")
    bob.says("two")
    await settle()
    for _ in range(2):  # while no parcel is taken
        await nodes.run_out(TAKEN_SECONDS)
    with log_lines() as lines:
        alice.says("long " * 300)
        await settle()
    assert sum("node dropped: send queue full" in line for line in lines) == 1
    assert presence(alice.hears()) == [("left", "bob")]
    nodes.fabric.most_waiting = 1 << 30
    await nodes.release(here, there)
    await nodes.run_out(SETTLE_SECONDS)
    assert ("joined", "bob") in presence(alice.hears())
    bob.says("three")
    await settle()
    assert messages(alice)[-1][1] == "three"
    assert not any(unacked(there))
