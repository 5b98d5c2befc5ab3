"""Nodes that are lost, frozen, at odds or too few: what members see of it, and that nothing is left behind."""

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
from chat_actors.cluster.node import SETTLE_SECONDS, START_SECONDS
from chat_actors.cluster.views import highest
from chat_actors.cluster.wire import Count, Depart, Hello, JoinRefused, Say, opened
from chat_actors.protocol.codes import CloseCode
from tests.support.cluster.fabric import Person
from tests.support.cluster.world import World, asks, empty, listed, messages, presence, refusal, world
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
    nodes.fabric.hold(third.me, here.me)
    await settle()
    await nodes.kill(third)
    assert alice.outbox.closed == CloseCode.OVERLOADED and bob.outbox.closed == CloseCode.OVERLOADED
    assert refusal(bob)[0] == CloseCode.OVERLOADED
    asks(carol, "carol", "sports")
    await settle()
    assert refusal(carol) == (CloseCode.OVERLOADED, "this node sees fewer than half of its cluster")
    alice.leaves()
    await settle()
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
        alice.leaves()
        await settle()
        assert empty(nodes)


@world(topics=1)
async def test_an_owner_with_as_many_topics_as_may_be_refuses_joins_of_others(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic, other = [topic for topic in map(str, range(100)) if highest(topic, [here.me, there.me]) == here.me][:2]
    alice, bob = Person(here), Person(there)
    await alice.joins("alice", topic)
    asks(bob, "bob", other)
    await settle()
    assert refusal(bob) == (CloseCode.OVERLOADED, "too many topics (1): join an active topic")
    await settle()
    assert await nodes.listed(there) == [{"topic": topic, "users": 1}] and len(here.estates.open) == 1


@world()
async def test_the_refusal_of_one_who_is_a_member_already_is_nothing(nodes: World) -> None:
    here, there = await nodes.start(2)
    alice = Person(here)
    await alice.joins("alice", nodes.owned_by(there))
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
    nodes.fabric.hold(silent.me, here.me)
    asker = await nodes.asked(here)
    assert listed(asker) == []
    await nodes.run_out(COUNT_SECONDS)
    ((topics, partial),) = listed(asker)
    assert partial and sorted(topics) == sorted([nodes.owned_by(here), nodes.owned_by(other)])
    await nodes.fabric.release(silent.me, here.me)  # too late
    assert listed(asker) == []
    assert len(listed(await nodes.asked(here))) == 1 and not here.registry._asked


@pytest.mark.parametrize("answered", [False, True])
def test_when_a_node_is_lost_those_who_are_left_are_asked_again(answered: bool) -> None:
    @world()
    async def run(nodes: World) -> None:
        here, lost, slow = await nodes.start(3)
        topic = nodes.owned_by(slow)
        await Person(here).joins("alice", topic)
        for node in (slow,) if answered else (slow, lost):
            nodes.fabric.hold(node.me, here.me)
        asker = await nodes.asked(here)
        await nodes.kill(lost)
        assert listed(asker) == []
        await nodes.fabric.release(slow.me, here.me)
        assert listed(asker) == [([topic], False)]

    run()


@world()
async def test_nobody_waits_for_the_answer_of_a_node_that_is_lost(nodes: World) -> None:
    here, lost = await nodes.start(2)
    nodes.fabric.hold(lost.me, here.me)
    asker = await nodes.asked(here)
    await nodes.kill(lost)
    assert listed(asker) == [([], False)]


@world()
async def test_those_who_ask_at_once_share_one_question_and_one_answer(nodes: World) -> None:
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
    nodes.fabric.hold(here.me, there.me)
    await nodes.start(1)
    new = nodes.all[-1]
    owner = next(node for node in nodes.all if node.me == new.owner(topic))
    asker = await nodes.asked(new)
    assert listed(asker) == []
    await nodes.fabric.release(here.me, there.me)
    assert listed(asker) == [([topic], False)] and topic in owner.estates.open


@world()
async def test_one_who_gives_up_takes_the_answer_from_nobody_else(nodes: World) -> None:
    (here,) = await nodes.start(1)
    asker = FakeMember()
    here.registry.census(ListTopics(asker))
    here.registry.census().cancel()
    await settle()
    assert listed(asker) == [([], False)] and not here.registry._asked


@world()
async def test_one_who_gives_up_leaves_nothing_behind(nodes: World) -> None:
    (here,) = await nodes.start(1)
    here.registry.census().cancel()
    await settle()
    assert not here.registry._asked


# Joins that are on their way.


@world()
async def test_a_join_that_was_not_answered_when_the_owner_died_is_answered_by_the_next_one(nodes: World) -> None:
    owner, here, there = await nodes.start(3)
    topic = nodes.owned_by(owner)
    alice, bob = Person(here), Person(there)
    await alice.joins("alice", topic)
    nodes.fabric.hold(owner.me, there.me)
    asks(bob, "bob", topic, resume="")
    await settle()
    assert not bob.outbox.reply.done()
    await nodes.kill(owner)
    assert bob.outbox.reply.done() and bob.hears()[0]["users"] == 2
    assert await nodes.listed(here) == [{"topic": topic, "users": 2}]


@world()
async def test_one_who_is_gone_before_the_join_is_answered_leaves_nothing_behind(nodes: World) -> None:
    here, there = await nodes.start(2)
    for owner in (here, there):
        topic = nodes.owned_by(owner)
        alice, bob = Person(here), Person(there)
        await bob.joins("bob", topic, events=True)
        asks(alice, "alice", topic)
        alice.outbox.reply.cancel()
        await settle()
        assert bob.texts == ["joined alice (2)"]
        alice.leaves()
        await settle()
        assert bob.texts == ["left alice (1)"]
        asks(alice, "alice", topic)
        alice.leaves()
        bob.leaves()
        await settle()
        assert empty(nodes) and await nodes.listed(here) == []


@world()
async def test_joins_that_are_not_answered_when_the_node_ends_are_refused(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(there)
    alice, bob, carol = Person(here), Person(here), Person(there)
    await alice.joins("alice", topic, events=True)
    await carol.joins("carol", topic, events=True)
    nodes.fabric.hold(there.me, here.me)
    asks(bob, "bob", topic)
    await settle()
    await here.close()
    nodes.all.remove(here)
    await settle()
    assert refusal(bob) == (CloseCode.RESTARTING, "") and alice.outbox.closed == CloseCode.RESTARTING
    assert alice.texts == ["joined carol (2)", "closing"]
    assert presence(carol.hears())[-2:] == [("left", "alice"), ("left", "bob")]
    assert await nodes.listed(there) == [{"topic": topic, "users": 1}]


# What happens in one turn.


@world()
async def test_what_someone_says_before_leaving_is_heard_and_what_comes_behind_is_not(nodes: World) -> None:
    here, there = await nodes.start(2)
    for owner in (here, there):
        topic = nodes.owned_by(owner)
        alice, bob = Person(here), Person(there)
        await alice.joins("alice", topic)
        await bob.joins("bob", topic, events=True)
        assert alice.address is not None
        alice.says("one", "two")
        alice.address.put_nowait(Leave(alice.outbox, "closed by peer"))
        alice.says("three")
        await settle()
        assert bob.texts == ["one", "two", "left alice (1)"]
        for one in (alice, bob):
            one.leaves()
        await settle()
        assert empty(nodes)


@world()
async def test_who_joins_as_the_last_one_leaves_finds_a_new_topic(nodes: World) -> None:
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
        bob.leaves()
        await settle()
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
    bob.address = bob.outbox.reply.result()
    bob.says("new")
    await settle()
    assert bob.texts == ["ack 1"] and await nodes.listed(there) == [{"topic": topic, "users": 1}]


@world()
async def test_who_leaves_as_another_connection_takes_its_place_leaves_the_place_to_that(nodes: World) -> None:
    here, there = await nodes.start(2)
    for owner in (here, there):
        topic = nodes.owned_by(owner)
        alice, new = Person(there), Person(there)
        token = (await alice.joins("alice", topic, resume=""))["resume"]
        asks(new, "anyone", topic, resume=token)
        alice.leaves()
        await settle()
        assert new.hears()[0]["username"] == "alice"
        assert await nodes.listed(here) == [{"topic": topic, "users": 1}]
        new.leaves()
        await settle()
        assert empty(nodes)


@world()
async def test_of_many_names_an_owner_is_asked_for_none_is_kept(nodes: World) -> None:
    (here,) = await nodes.start(1)
    for number in range(100_001):
        assert here.owner(str(number)) == here.me
    assert len(here._owners) < 100_000


@world()
async def test_the_supervisor_of_members_knows_who_is_where(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(there)
    alice, bob = Person(here), Person(there)
    await alice.joins("alice", topic)
    await bob.joins("alice", topic)
    assert bob.node.front.member(bob.outbox) == (topic, "alice#2") and here.front.member(bob.outbox) is None
    (of_topic,) = here.front.statistics()
    assert (of_topic.topic, of_topic.users, of_topic.mail) == (topic, 1, 0)
    (relay,) = here._relays
    assert relay.username(bob.outbox) is None


# Too much at once, and bugs.


@world()
async def test_who_sends_waits_while_too_much_is_not_acknowledged(nodes: World) -> None:
    here, there = await nodes.start(2)
    alice = Person(here)
    await alice.joins("alice", nodes.owned_by(there))
    assert alice.address is not None
    nodes.fabric.hold(there.me, here.me)
    alice.says(*map(str, range(HIGH_WATER - 1)))
    await settle()
    assert alice.address.empty() and not alice.address.crowded()
    alice.says("one more")
    await settle()
    assert alice.address.crowded()
    alice.says(*map(str, range(HIGH_WATER)))  # of those who did not ask for room
    room = alice.address.drained()
    await settle()
    assert not room.done()
    await nodes.fabric.release(there.me, here.me)
    assert room.done() and not alice.address.crowded()
    assert len(alice.texts) == 2 * HIGH_WATER


@world()
async def test_messages_stay_in_order_where_one_is_so_long_that_others_get_their_turn_before_it_is_written(
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
async def test_what_someone_who_left_had_waiting_holds_up_nobody(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(there)
    alice, bob = Person(here), Person(here)
    await alice.joins("alice", topic)
    await bob.joins("bob", topic)
    assert bob.address is not None
    nodes.fabric.hold(there.me, here.me)
    alice.says(*map(str, range(HIGH_WATER)))
    await settle()
    room = bob.address.drained()
    assert bob.address.crowded() and not room.done()
    alice.leaves()
    await settle()
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
    # And it moves on as if nothing had been.
    await nodes.kill(owner)
    new.says("and again")
    await settle()
    assert new.texts == ["ack 2"]


@world()
async def test_a_message_that_cannot_be_sent_to_another_node_costs_nobody_else_anything(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic, other = nodes.owned_by(there), nodes.owned_by(here)
    alice, bob = Person(here), Person(here)
    await alice.joins("alice", topic)
    await bob.joins("bob", other)
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
    alice, bob = Person(here), Person(there)
    await alice.joins("alice", topic)
    await bob.joins("bob", topic, events=True)
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
    for one in (new, bob):
        one.leaves()
    await settle()
    assert empty(nodes)


@world()
async def test_a_relay_that_crashes_answers_the_joins_that_are_on_their_way(nodes: World) -> None:
    here, there = await nodes.start(2)
    alice = Person(here)
    nodes.fabric.hold(there.me, here.me)
    asks(alice, "alice", nodes.owned_by(there))
    await settle()
    (relay,) = here._relays
    for _ in range(6):
        relay.post(Expire())
    await settle()
    assert alice.outbox.closed == CloseCode.CRASHED
    alice.leaves()
    await settle()
    assert alice.outbox.reply.done() and refusal(alice)[0] == CloseCode.CRASHED


@world()
async def test_what_is_for_someone_who_is_on_no_node_is_carried_to_none(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice = Person(there)
    await alice.joins("alice", topic)
    overrides: Overrides = {FakeMember(): [(0, b"nobody's")]}
    await here.estates.open[topic].carry([b"\x81\x02{}"], [], overrides)
    (parcel,) = here.estates.open[topic].journal.backlog.after(0)
    assert parcel.own == []


@world()
async def test_a_hello_to_itself_and_a_count_that_nobody_asked_for_are_nothing(nodes: World) -> None:
    (here,) = await nodes.start(1)
    with log_lines() as lines:
        here.send(here.me, Hello())
        here.send(here.me, Count(99))
        await settle()
    assert lines == [] and await nodes.listed(here) == []


# A node that goes.


@world()
async def test_a_node_may_be_closed_twice_and_answers_the_list_before_it_goes(nodes: World) -> None:
    here, there = await nodes.start(2)
    nodes.fabric.hold(there.me, here.me)
    answer = here.registry.census()
    await settle()
    assert not answer.done()
    await here.close()
    assert answer.done() and (await answer).partial is True
    await here.close()
    nodes.all.remove(here)
    await settle()
    assert there.view == [there.me]


# Nodes that were stopped.


@world()
async def test_who_has_resumed_elsewhere_while_its_node_was_frozen_is_closed_there(nodes: World) -> None:
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
        for one in (new, bob):
            one.leaves()
        await settle()
        assert empty(nodes)


@world()
async def test_a_node_that_was_frozen_while_it_met_another_knows_it_once(nodes: World) -> None:
    here, there = await nodes.start(2)
    new = nodes.make()
    topic = nodes.topic((here, [here, there]), (new, [here, there, new]))
    alice = Person(here)
    await alice.joins("alice", topic)
    nodes.fabric.hold(new.me, here.me)
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
async def test_what_a_frozen_node_was_sent_before_is_of_a_time_that_is_over(nodes: World) -> None:
    here, frozen, gone = await nodes.start(3)
    topic = nodes.topic((gone, nodes.all), (frozen, [here, frozen]))
    alice = Person(here)
    await alice.joins("alice", topic)
    nodes.fabric.frozen[frozen.me] = deque()
    await nodes.kill(gone)
    words = [args[0] for _, args in nodes.fabric.frozen[frozen.me] if len(args) == 1]
    (attach,) = (word for word in words if b"Attach" in word)
    await nodes.freeze(frozen)
    alice.leaves()
    await settle()
    assert await nodes.listed(here) == []
    nodes.fabric.frozen[frozen.me].appendleft((nodes.fabric.ends[frozen.me].mail, (attach,)))
    await nodes.thaw(frozen)
    await nodes.run_out(START_SECONDS)
    assert await nodes.listed(here) == [] and empty(nodes)


@world()
async def test_of_one_who_comes_back_under_another_name_the_others_hear_no_more_than_that(nodes: World) -> None:
    here, there, frozen = await nodes.start(3)
    topic = nodes.owned_by(here)
    alice, bob, new = Person(there), Person(frozen), Person(there)
    await alice.joins("alice", topic, events=True)
    await bob.joins("bob", topic, events=True)
    await nodes.freeze(frozen)
    await new.joins("bob", topic, events=True)
    assert alice.texts == ["joined bob (2)", "left bob (1)", "joined bob (2)"]
    await nodes.thaw(frozen)
    assert bob.texts[-2:] == ["bob is bob#2", "joined bob (3)"]
    assert alice.texts == new.texts == ["joined bob#2 (3)"]


# Topics that move.


@world()
async def test_who_left_before_a_topic_moved_may_come_back_as_itself_with_its_refs(nodes: World) -> None:
    here, there = await nodes.start(2)
    new = nodes.make()
    topic = nodes.topic((here, [here, there]), (new, nodes.all))
    alice, bob, back = Person(there), Person(here), Person(there)
    before = await alice.joins("alice", topic, resume="")
    await bob.joins("bob", topic, events=True)
    alice.says("one", ref="r")
    alice.says("two", ref="s")
    await settle()
    alice.leaves()
    await settle()
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
    here, there = await nodes.start(2)
    new = nodes.make()
    topic = nodes.topic((here, [here, there]), (new, [here, there, new]))
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
async def test_a_topic_that_moves_twice_at_once_loses_nothing(nodes: World) -> None:
    here, there = await nodes.start(2)
    new, newer = nodes.make(), nodes.make()
    topic = nodes.topic((here, [here, there]), (new, [here, there, new]), (newer, nodes.all))
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
    here, there = await nodes.start(2)
    new, newer = nodes.make(), nodes.make()
    topic = nodes.topic((here, [here, there]), (new, [here, there, new]), (newer, nodes.all))
    alice, bob = Person(here), Person(there)
    await alice.joins("alice", topic)
    await bob.joins("bob", topic)
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
    alice, bob, carol, dave = Person(here), Person(there), Person(late), Person(late)
    await alice.joins("alice", topic, events=True)
    await bob.joins("bob", topic, events=True)
    await carol.joins("carol", topic, events=True)
    await dave.joins("dave", topic)
    for one in (alice, bob, carol):
        one.hears()
    for node in (there, late):
        nodes.fabric.hold(node.me, here.me)
    await nodes.kill(owner)
    bob.says("of bob")
    dave.says("of dave")
    await nodes.run_out(SETTLE_SECONDS)
    assert alice.texts == ["left bob (3)", "left carol (2)", "left dave (1)"]
    alice.says("of alice")
    await settle()
    assert alice.texts == ["ack 1"]
    for node in (there, late):  # both in one turn
        for data in nodes.fabric.held.pop((node.me, here.me)):
            nodes.fabric.deliver(node.me, here.me, data)
    await settle()
    heard = alice.hears()
    assert sorted(presence(heard)) == [("joined", "bob"), ("joined", "carol"), ("joined", "dave")]
    said = [(frame["id"], frame["message"]) for frame in heard if frame["type"] == "message"]
    assert sorted(said) in ([(2, "of bob"), (3, "of dave")], [(2, "of dave"), (3, "of bob")])
    assert sorted(messages(carol)) == sorted([(1, "of alice"), *said])
    assert dave.texts[0] == "of alice" and bob.texts[0] == "of alice"
    assert await nodes.listed(late) == [{"topic": topic, "users": 4}]


@world()
async def test_who_joins_in_the_moment_in_which_the_topic_moves_is_a_member_of_the_next_owner(nodes: World) -> None:
    here, there = await nodes.start(2)
    new = nodes.make()
    topic = nodes.topic((here, [here, there]), (new, [here, there, new]))
    bob = Person(there)
    for sender in (there, new):
        nodes.fabric.hold(sender.me, here.me)
    asks(bob, "bob", topic, resume="")
    await nodes.join(new)
    mail = nodes.fabric.ends[here.me].mail
    for sender in (there, new):  # in one turn: here has the topic for a moment
        for data in nodes.fabric.held.pop((sender.me, here.me)):
            mail(data)
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
    alice, bob = Person(there), Person(there)
    await alice.joins("alice", topic, events=True)
    await bob.joins("bob", topic, resume="")
    alice.says("one")
    await settle()
    assert alice.texts == ["joined bob (2)", "ack 1"] and bob.texts == ["one"]
    for sender in (there, new):
        nodes.fabric.hold(sender.me, here.me)
    await nodes.kill(gone)
    alice.says("two")
    await nodes.join(new)
    mail = nodes.fabric.ends[here.me].mail
    for sender in (there, new):
        for data in nodes.fabric.held.pop((sender.me, here.me)):
            mail(data)
    await settle()
    assert topic in new.estates.open and topic not in here.estates.open
    alice.says("three")
    await settle()
    assert alice.texts == ["ack 2", "ack 3"] and bob.texts == ["two", "three"]
    assert await nodes.listed(here) == [{"topic": topic, "users": 2}]


@world()
async def test_of_windows_no_more_goes_to_a_node_at_once_than_may_and_members_notice_nothing(nodes: World) -> None:
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
    owner, there = await nodes.start(2)
    new = nodes.make()
    topic = nodes.topic((owner, [owner, there]), (new, nodes.all), (new, [there, new]))
    alice, bob, carol = Person(owner), Person(there), Person(there)
    await alice.joins("alice", topic, events=True)
    await bob.joins("bob", topic)
    await carol.joins("carol", topic)
    nodes.fabric.hold(owner.me, there.me)
    bob.says("one")
    await settle()
    assert alice.texts == ["joined bob (2)", "joined carol (3)", "one"]
    nodes.apart(owner, new)
    await nodes.join(new)
    await nodes.fabric.release(owner.me, there.me)  # of an attachment that is over
    assert bob.texts == []
    carol.leaves()
    bob.says("two")
    alice.says("three")
    await settle()
    await nodes.kill(new)
    assert bob.texts == ["ack 1", "three", "ack 3"]
    assert sorted(alice.texts) == ["ack 2", "left carol (2)", "two"]
    (guest,) = [guest for relay in there._relays for guest in relay._guests.values()]
    assert not guest.unacked
    assert await nodes.listed(there) == [{"topic": topic, "users": 2}]


@world()
async def test_a_relay_that_has_followed_another_owner_for_a_moment_gets_all_its_acks(nodes: World) -> None:
    owner, there = await nodes.start(2)
    new = nodes.make()
    topic = nodes.topic((owner, [owner, there]), (new, nodes.all), (new, [there, new]))
    alice, bob = Person(owner), Person(there)
    await alice.joins("alice", topic)
    await bob.joins("bob", topic)
    nodes.fabric.hold(owner.me, there.me)
    bob.says("one")
    await settle()
    assert alice.texts == ["one"]
    nodes.apart(owner, new)
    await nodes.join(new)
    await nodes.fabric.release(owner.me, there.me)
    nodes.fabric.hold(new.me, there.me)
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
    (guest,) = [guest for relay in there._relays for guest in relay._guests.values()]
    assert not guest.unacked


@world()
async def test_a_relay_that_its_owner_has_let_go_is_heard_by_the_next_one(nodes: World) -> None:
    here, there = await nodes.start(2)
    new = nodes.make()
    topic = nodes.topic((here, [here, there]), (new, nodes.all))
    alice, bob = Person(here), Person(there)
    await alice.joins("alice", topic, events=True)
    await bob.joins("bob", topic)
    nodes.apart(there, new)
    await nodes.join(new)
    await nodes.run_out(SETTLE_SECONDS)
    assert alice.texts == ["joined bob (2)", "left bob (1)"]
    bob.says("one")
    await settle()
    assert bob.texts == []  # it has turned to the last owner again, who has no topic for it
    await nodes.meet(there, new)
    assert bob.texts == ["ack 1"] and alice.texts == ["joined bob (2)", "one"]


@world()
async def test_an_owner_takes_nothing_from_a_relay_of_a_time_that_is_over(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice, bob = Person(here), Person(there)
    await alice.joins("alice", topic)
    await bob.joins("bob", topic)
    (relay,) = there._relays
    (number,) = relay._guests
    there.send(here.me, Say(topic, relay._life + 1, [(number, "of another life", None)]))
    there.send(here.me, Say(topic, relay._life, [(number + 1, "of nobody", None)]))
    await settle()
    assert alice.hears() == []


@pytest.mark.parametrize("lost", [False, True])
def test_one_who_is_renamed_as_nodes_meet_is_told_to_those_who_lack_its_join_behind_that_or_as_one(lost: bool) -> None:
    @world()
    async def run(nodes: World) -> None:
        here, there, third = await nodes.start(3)
        topic = nodes.topic((here, nodes.all), (there, [there, third]))
        alice, bob, carol, other = Person(here), Person(there), Person(third), Person(there)
        await alice.joins("alice", topic, events=True)
        await bob.joins("bob", topic, events=True)
        await carol.joins("carol", topic, events=True)
        for node in (there, third):
            nodes.fabric.part(here.me, node.me)
        await settle()
        nodes.fabric.hold(there.me, third.me)
        await other.joins("alice", topic, events=True)
        for one in (alice, bob, carol):
            one.hears()
        if lost:  # with its window
            await nodes.pass_time(30.5)
        for node in (there, third):
            nodes.fabric.heal(here.me, node.me)
        await settle()
        await nodes.fabric.release(there.me, third.me)
        assert sorted(presence(alice.hears())) == [("joined", name) for name in ("alice#2", "bob", "carol")]
        renamed = ["alice is alice#2", "joined alice (4)"]
        assert bob.texts == other.texts == renamed
        assert carol.texts == (["joined alice (3)", "joined alice#2 (4)"] if lost else ["joined alice (3)", *renamed])

    run()


@world()
async def test_what_nobody_but_the_owner_of_one_side_had_as_nodes_meet_comes_from_that(nodes: World) -> None:
    here, there, far = await nodes.start(3)
    topic = nodes.topic((here, [here, far]), (there, nodes.all))
    for node in (here, far):
        nodes.fabric.part(there.me, node.me)
    await settle()
    people = alice, bob, *others = [Person(node) for node in (far, far, there, there, there)]
    for number, person in enumerate(people):
        await person.joins(f"name-{number}", topic)
    nodes.fabric.hold(here.me, far.me)
    alice.says("one")
    others[0].says("two")
    await settle()
    assert alice.texts == bob.texts == [] and others[1].texts == ["two"]
    for node in (here, far):
        nodes.fabric.heal(there.me, node.me)
    await settle()
    await nodes.fabric.release(here.me, far.me)
    assert alice.texts == ["ack 1"] and bob.texts == ["one"] and others[1].texts == []
    assert not any(guest.unacked for relay in far._relays for guest in relay._guests.values())


@world()
async def test_a_bequest_for_a_topic_that_goes_on_already_is_dropped(nodes: World) -> None:
    here, there = await nodes.start(2)
    new = nodes.make()
    topic = nodes.topic((here, [here, there]), (new, nodes.all))
    alice = Person(there)
    await alice.joins("alice", topic)
    nodes.fabric.hold(here.me, new.me)
    await nodes.join(new)
    await nodes.release_until(here, new, b"Bequest")
    await nodes.run_out(SETTLE_SECONDS)
    assert topic in new.estates.open
    with log_lines() as lines:
        await nodes.fabric.release(here.me, new.me)
    assert sum("bequest dropped: topic open" in line for line in lines) == 1
    alice.says("one")
    await settle()
    assert alice.texts == ["ack 1"] and not new.estates._bequests
    assert await nodes.listed(here) == [{"topic": topic, "users": 1}]


@world()
async def test_a_bequest_that_comes_when_nobody_is_left_is_forgotten(nodes: World) -> None:
    here, there = await nodes.start(2)
    new = nodes.make()
    topic = nodes.topic((here, [here, there]), (new, nodes.all))
    alice = Person(there)
    await alice.joins("alice", topic)
    nodes.fabric.hold(here.me, new.me)
    await nodes.join(new)
    await nodes.release_until(here, new, b"Bequest")
    alice.leaves()
    await nodes.run_out(SETTLE_SECONDS)
    await nodes.fabric.release(here.me, new.me)
    assert list(new.estates._bequests) == [topic] and empty(nodes)
    await nodes.pass_time(1.0)
    assert not new.estates._bequests
    joined = await Person(there).joins("alice", topic, since=0)
    assert (joined["users"], joined["last_id"]) == (1, 0)


@world()
async def test_what_has_changed_as_nodes_meet_is_told_in_its_turn_where_a_relay_has_much_to_write(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice, bob = Person(here), Person(there)
    with patch.object(fanout, "STRIDE_BYTES", 0):
        await alice.joins("alice", topic, events=True)
        await bob.joins("bob", topic, events=True)
        nodes.fabric.part(here.me, there.me)
        await settle()
        alice.says("here")
        bob.says("there")
        await settle()
        nodes.fabric.heal(here.me, there.me)
        await settle()
        alice.says("together")
        await settle()
    assert alice.texts == ["joined bob (2)", "left bob (1)", "ack 1", "joined bob (2)", "ack 2"]
    assert bob.texts == ["left alice (1)", "ack 1", "joined alice (2)", "together"]


# A node for which too much waits.


@world()
async def test_a_node_for_which_too_much_waits_is_lost_and_comes_back_with_all_that_was_said(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice, bob = Person(here), Person(there)
    await alice.joins("alice", topic, events=True)
    await bob.joins("bob", topic)
    alice.hears()
    nodes.fabric.most_waiting = 1000
    nodes.fabric.hold(here.me, there.me)
    alice.says("one")
    bob.says("two")
    await settle()
    for _ in range(2):  # parcels that are not taken
        await nodes.run_out(TAKEN_SECONDS)
    with log_lines() as lines:
        alice.says("long " * 300)
        await settle()
    assert sum("node dropped: send queue full" in line for line in lines) == 1
    assert presence(alice.hears()) == [("left", "bob")]
    nodes.fabric.most_waiting = 1 << 30
    await nodes.fabric.release(here.me, there.me)
    await nodes.run_out(SETTLE_SECONDS)
    assert ("joined", "bob") in presence(alice.hears())
    bob.says("three")
    await settle()
    assert messages(alice)[-1][1] == "three"
    assert not any(guest.unacked for relay in there._relays for guest in relay._guests.values())
