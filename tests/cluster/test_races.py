"""Nodes that come and go at the worst moment: every member still hears each message once and in order."""

import asyncio
from typing import Any

import pytest

from chat_actors.actors.base import MAX_CRASHES
from chat_actors.actors.events import Leave, Restore, TopicEvent
from chat_actors.actors.supervisor import ListTopics
from chat_actors.cluster.estate import TAKEN_SECONDS
from chat_actors.cluster.node import REMAINS_SECONDS, SETTLE_SECONDS, START_SECONDS, Node
from chat_actors.cluster.views import highest
from chat_actors.cluster.wire import Item, Taken
from chat_actors.protocol.codes import CloseCode
from tests.support.cluster.fabric import Person
from tests.support.cluster.world import (
    World,
    answered,
    asks,
    crash,
    empty,
    leave,
    listed,
    member,
    members,
    messages,
    presence,
    refusal,
    waiting_for_acks,
    world,
)
from tests.support.fakes import POISON, FakeMember, log_lines, settle


def slow(node: Node) -> None:
    """A node never says that it has taken a parcel, so that owners wait for it as long as they ever do."""
    send = node.send

    def without_taken(to: str, item: Item) -> None:
        if type(item) is not Taken:
            send(to, item)

    setattr(node, "send", without_taken)  # noqa: B010  # a method, which mypy would have stay as it is


def keep_busy(node: Node) -> None:
    """Give the supervisor of a node's topics so much mail that anything sent after it comes late."""
    node.back.turn_is_full = lambda: True  # type: ignore[method-assign]  # after each event of a turn
    stranger = FakeMember()
    for _ in range(2000):
        node.back.post(Leave(stranger, ""))


async def has_time(node: Node) -> None:
    """Wait until the supervisor has handled all of its mail."""
    while not node.back.mailbox.empty():
        await asyncio.sleep(0)
    await settle()


# What was on its way when the owner changed.


async def one_on_its_way(
    nodes: World, topic: str, owner: Node, here: Node, there: Node, **window: Any
) -> tuple[Person, Person]:
    """Alice ``here`` has said "one" and has its ack; bob ``there`` has not heard it: the way from the owner is held."""
    alice = await member(here, "alice", topic)
    bob = await member(there, "bob", topic, **window)
    nodes.hold(owner, there)
    alice.says("one")
    await settle()
    assert alice.texts == ["ack 1"] and bob.texts == []
    return alice, bob


@world()
async def test_what_was_on_its_way_when_the_owner_was_stopped_for_a_moment_is_heard_once(nodes: World) -> None:
    owner, here, there = await nodes.start(3)
    topic = nodes.owned_by(owner)
    alice, bob = await one_on_its_way(nodes, topic, owner, here, there)
    late = Person(here)
    with log_lines() as lines:
        await nodes.stop(owner, 2.5)
    assert any("node frozen" in line for line in lines)
    await nodes.release(owner, there)
    await nodes.run_out(SETTLE_SECONDS)
    assert bob.texts == ["one"] and alice.texts == []
    await late.joins("carol", topic, since=0)
    assert messages(late) == [(1, "one")]
    assert await nodes.listed(there) == [{"topic": topic, "users": 3}]


@world()
async def test_mail_on_its_way_is_heard_from_a_node_that_comes_as_the_owner_dies(nodes: World) -> None:
    owner, here, there = await nodes.start(3)
    new = nodes.make()
    topic = nodes.topic((owner, [owner, here, there]), (new, [here, there, new]))
    alice, bob = await one_on_its_way(nodes, topic, owner, here, there)
    nodes.hold(here, there)  # so that they do not agree on the next owner
    nodes.hold(there, here)
    await nodes.kill(owner)
    await nodes.join(new)
    await nodes.release(here, there)
    await nodes.release(there, here)
    assert topic in new.estates.open and bob.texts == ["one"] and alice.texts == []


@world()
async def test_mail_on_its_way_is_heard_once_if_the_owner_dies_before_its_handover(
    nodes: World,
) -> None:
    owner, here, there = await nodes.start(3)
    new = nodes.make()
    topic = nodes.topic((owner, [owner, here, there]), (new, nodes.all), (new, [here, there, new]))
    alice, bob = await one_on_its_way(nodes, topic, owner, here, there)
    nodes.hold(owner, new)
    await nodes.join(new)
    await nodes.kill(owner)
    assert topic in new.estates.open and bob.texts == ["one"] and alice.texts == []


@world()
async def test_mail_on_its_way_is_heard_once_if_the_next_owner_dies_before_it_opens(
    nodes: World,
) -> None:
    owner, here, busy = await nodes.start(3)
    new = nodes.make()
    topic = nodes.topic((owner, [owner, here, busy]), (busy, [here, busy]), (new, [here, busy, new]))
    alice, bob = await one_on_its_way(nodes, topic, owner, here, busy)
    late = Person(here)
    keep_busy(busy)
    await nodes.kill(owner)
    assert busy.estates.open[topic].room is None
    nodes.hold(busy, here)
    await nodes.join(new)
    await nodes.release(busy, here)
    await has_time(busy)
    assert topic in new.estates.open and bob.texts == ["one"] and alice.texts == []
    await late.joins("carol", topic, since=0)
    assert messages(late) == [(1, "one")]


@pytest.mark.parametrize("next_one", [1, 2])
@world()
async def test_a_message_heard_only_by_a_member_that_left_is_heard_after_the_owner_died(
    nodes: World, next_one: int
) -> None:
    owner, here, there = await nodes.start(3)
    topic = nodes.topic((owner, nodes.all), (nodes.all[next_one], [here, there]))
    alice, bob = await one_on_its_way(nodes, topic, owner, here, there, events=True)
    await leave(alice)
    assert not here._relays
    await nodes.kill(owner)
    assert bob.texts == ["one", "left alice (1)"]
    bob.says("two")
    await settle()
    assert bob.texts == ["ack 2"]


@world()
async def test_the_journal_of_a_relay_is_forgotten_soon_after_its_end(nodes: World) -> None:
    here, there = await nodes.start(2)
    alice = await member(here, "alice", nodes.owned_by(there))
    alice.says("one")
    await settle()
    await leave(alice)
    assert len(list(here._remains.of_others_than([here.me]))) == 1
    await nodes.pass_time(REMAINS_SECONDS)
    assert not list(here._remains.of_others_than([here.me]))


@world()
async def test_what_was_on_its_way_when_nodes_met_is_heard_once(nodes: World) -> None:
    winner, loser, here, there = await nodes.start(4)
    side = [loser, here, there]
    topic = nodes.topic((winner, nodes.all), (loser, side))
    await nodes.part(winner, *side)
    carol, alice, bob = await members(topic, carol=winner, alice=here, bob=there)
    nodes.hold(loser, here)
    bob.says("one")
    await settle()
    await nodes.run_out(TAKEN_SECONDS)
    alice.says("two")
    await settle()
    await nodes.run_out(TAKEN_SECONDS)
    assert bob.texts == ["ack 1", "two"] and alice.texts == []
    await nodes.heal(winner, *side)
    await nodes.release(loser, here)
    await nodes.run_out(SETTLE_SECONDS)
    assert alice.texts == ["one", "ack 2"] and bob.texts == [] and not waiting_for_acks(nodes)
    bob.says("three")
    await settle()
    assert alice.texts[-1] == "three" and carol.texts == ["three"]


@world()
async def test_mail_from_a_link_that_has_ended_changes_nothing(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(there)
    alice, bob = await members(topic, alice=here, bob=there)
    nodes.hold(here, there)
    alice.says("one")
    await settle()
    old = list(nodes.fabric.held.pop((here.me, there.me)))
    here._links.begin_anew()
    await settle()
    assert (alice.texts, bob.texts) == (["ack 1"], ["one"])
    for data in old:
        nodes.fabric.deliver(here.me, there.me, data)
    alice.says("two")
    bob.says("three")
    await settle()
    assert sorted(alice.texts + bob.texts) == ["ack 2", "ack 3", "three", "two"]


@world()
async def test_messages_to_a_busy_new_owner_are_heard_though_that_owner_is_lost_again(
    nodes: World,
) -> None:
    owner, busy = await nodes.start(2)
    topic = nodes.owned_by(owner)
    _, bob = await members(topic, alice=owner, bob=busy)
    keep_busy(busy)
    await nodes.part(owner, busy)
    assert topic in busy.estates.open
    await nodes.heal(owner, busy)
    await nodes.part(owner, busy)
    assert not busy.back.mailbox.empty()
    bob.says("one")
    await has_time(busy)
    bob.says("two")
    await settle()
    assert bob.texts == ["ack 1", "ack 2"]
    assert await nodes.listed(busy) == [{"topic": topic, "users": 1}]


@world()
async def test_a_message_before_a_leave_is_heard_though_others_come_back_after_it(nodes: World) -> None:
    owner, busy, there, late = await nodes.start(4)
    topic = nodes.topic((owner, nodes.all), (busy, [busy, there, late]))
    alice = await member(busy, "alice", topic, events=True)
    bob, _ = await members(topic, bob=there, carol=late)
    nodes.hold(late, busy)
    await nodes.kill(owner)
    keep_busy(busy)
    await nodes.run_out(SETTLE_SECONDS)
    bob.says("last words")
    await leave(bob)
    await nodes.release(late, busy)
    assert busy.estates.open[topic].room is None
    alice.hears()
    await has_time(busy)
    heard = alice.texts
    assert "last words" in heard[: heard.index("left bob (1)")]


# Members that come back while topics move.


async def said_with_a_ref(topic: str, here: Node, there: Node) -> tuple[Person, Person, str]:
    """Alice ``here``, bob ``there``, and alice's token. Alice has just said "one" with a ref."""
    alice = Person(here)
    token = (await alice.joins("alice", topic, resume=""))["resume"]
    bob = await member(there, "bob", topic)
    alice.says("one", ref="r")
    return alice, bob, token


async def said_again(person: Person) -> list[str]:
    """Says "one" with that ref again; returns the answer."""
    person.says("one", ref="r")
    await settle()
    return person.texts


@world()
async def test_a_member_of_an_owner_that_ends_resumes_on_another_node(nodes: World) -> None:
    owner, there = await nodes.start(2)
    topic = nodes.owned_by(owner)
    alice, bob, token = await said_with_a_ref(topic, owner, there)
    back = Person(there)
    await settle()
    assert bob.texts == ["one"]
    alice.outbox.on_close = alice.leaves
    await nodes.close(owner)
    await settle()
    assert (await back.joins("anyone", topic, resume=token))["username"] == "alice"
    assert await said_again(back) == ["ack 1 again"] and bob.texts == []


@world()
async def test_the_refs_of_a_member_that_resumed_on_another_node_move_with_the_topic(nodes: World) -> None:
    there, here, new, topic = await nodes.moving_topic()
    alice, bob, token = await said_with_a_ref(topic, here, there)
    back = Person(there)
    await settle()
    assert bob.texts == ["one"]
    await back.joins("anyone", topic, resume=token)
    alice.leaves()
    await nodes.join(new)
    assert topic in new.estates.open
    assert await said_again(back) == ["ack 1 again"] and bob.texts == []


@world()
async def test_the_refs_of_a_member_that_resumed_on_its_node_outlive_the_owner(nodes: World) -> None:
    owner, here, there = await nodes.start(3)
    topic = nodes.owned_by(owner)
    alice, bob, token = await said_with_a_ref(topic, here, there)
    back = Person(here)
    await leave(alice)
    assert bob.texts == ["one"]
    await back.joins("anyone", topic, resume=token)
    await nodes.kill(owner)
    assert await said_again(back) == ["ack 1 again"] and bob.texts == []


@world()
async def test_a_member_that_resumes_while_its_topic_moves_keeps_its_name(nodes: World) -> None:
    there, here, new, topic = await nodes.moving_topic()
    alice, bob, token = await said_with_a_ref(topic, here, there)
    back = Person(here)
    await leave(alice)
    nodes.hold(there, here)
    asks(back, "anyone", topic, resume=token)
    await nodes.join(new)
    await nodes.release(there, here)
    joined, *more = back.hears()
    assert (joined["username"], joined["users"], more) == ("alice", 2, [])
    answered(back)
    assert await said_again(back) == ["ack 1 again"] and bob.texts == ["one"]


@world()
async def test_of_two_connections_of_a_member_the_younger_stays_though_the_owner_died(
    nodes: World,
) -> None:
    owner, here, there = await nodes.start(3)
    topic = nodes.owned_by(owner)
    old, new = Person(here), Person(there)
    token = (await old.joins("alice", topic, resume=""))["resume"]
    nodes.hold(owner, here)  # so that the node of the old connection does not hear of the new one
    await nodes.pass_time(1)
    await new.joins("anyone", topic, resume=token)
    await nodes.kill(owner)
    assert (old.outbox.closed, new.outbox.closed) == (CloseCode.RESUMED_ELSEWHERE, None)
    await leave(old)
    assert await nodes.listed(here) == [{"topic": topic, "users": 1}]


@pytest.mark.parametrize("seconds, heard", [(20.0, ["two"]), (35.0, ["one", "two"])])
@world()
async def test_what_a_frozen_node_says_again_is_known_within_the_window_and_new_after_it(
    nodes: World, seconds: float, heard: list[str]
) -> None:
    owner, here, frozen = await nodes.start(3)
    topic = nodes.owned_by(owner)
    alice, bob = await members(topic, alice=here, bob=frozen)
    nodes.hold(owner, frozen)
    bob.says("one")
    await settle()
    await nodes.run_out(TAKEN_SECONDS)
    assert alice.texts == ["one"]
    await nodes.freeze(frozen)
    await nodes.release(owner, frozen)
    await nodes.pass_time(seconds)
    await nodes.thaw(frozen)
    assert not waiting_for_acks(nodes)
    bob.says("two")
    await settle()
    assert alice.texts == heard
    await nodes.kill(owner)
    assert alice.texts == [] and not waiting_for_acks(nodes)


@pytest.mark.parametrize("left", [False, True])
@world()
async def test_an_ack_that_is_over_with_its_message_is_not_waited_for(nodes: World, left: bool) -> None:
    owner, here, frozen = await nodes.start(3)
    topic = nodes.owned_by(owner)
    alice, bob, carol = await members(topic, alice=here, bob=frozen, carol=frozen)
    nodes.hold(owner, frozen)
    bob.says("one")
    await settle()
    await nodes.run_out(TAKEN_SECONDS)
    await nodes.pass_time(5)
    await nodes.freeze(frozen)
    await nodes.pass_time(25)
    assert alice.texts == ["one"]
    await nodes.thaw(frozen)
    await nodes.release_until(owner, frozen, b"Attached")
    assert waiting_for_acks(nodes) == ["one"]
    if left:
        await leave(bob)
    await nodes.release(owner, frozen)
    assert not waiting_for_acks(nodes)
    carol.says("two")
    await settle()
    assert alice.texts == ["two"] and carol.texts[-1] == "ack 2"
    await nodes.kill(owner)
    assert alice.texts == []


# The end of a topic, and of a relay.


@world(topic_members=1)
async def test_a_new_topic_hears_nothing_that_the_last_one_of_its_name_still_had_to_say(nodes: World) -> None:
    owner, here, there = await nodes.start(3)
    topic = nodes.owned_by(owner)
    alice = await member(here, "alice", topic)
    bob, carol = Person(here), Person(there)
    asks(carol, "carol", topic)
    await settle()
    nodes.hold(there, owner)  # to the owner, the node of the refused member is still attached
    assert refusal(carol)[0] == CloseCode.OVERLOADED
    nodes.hold(here, owner)
    alice.says(*map(str, range(900)))  # more than a topic takes in one turn
    alice.leaves()
    asks(bob, "bob", topic, since=0)
    await nodes.release(here, owner)
    joined, *more = bob.hears()
    assert (joined["users"], joined["last_id"], more) == (1, 0, [])
    await nodes.release(there, owner)
    answered(bob)
    bob.says("one")
    await settle()
    assert bob.texts == ["ack 1"] and await nodes.listed(there) == [{"topic": topic, "users": 1}]


@world()
async def test_last_words_are_heard_though_another_member_joins_before_them(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    bob, alice = await members(topic, bob=here, alice=there)
    carol = Person(there)
    (relay,) = there._relays
    bob.says(*["long " * 10_000] * 20)
    while relay.mailbox.idle():
        await asyncio.sleep(0)
    alice.says("last words")
    alice.leaves()
    asks(carol, "carol", topic)
    await settle()
    assert relay not in there._relays and len(there._relays) == 1
    assert [text for text in bob.texts if not text.startswith("ack")] == ["last words"]
    assert carol.hears()[0]["type"] == "joined"
    assert await nodes.listed(there) == [{"topic": topic, "users": 2}]


@world()
async def test_a_relay_that_ends_while_its_owner_changes_leaves_no_member_behind(nodes: World) -> None:
    owner, there, new, topic = await nodes.moving_topic()
    alice = await member(there, "alice", topic)
    bob = await member(owner, "bob", topic, events=True)
    nodes.apart(owner, new)
    await nodes.join(new)
    await leave(alice)
    await nodes.kill(new)
    assert bob.texts == ["left alice (1)"]
    assert await nodes.listed(there) == [{"topic": topic, "users": 1}]


@world()
async def test_a_topic_that_crashes_leaves_none_of_its_members_behind(nodes: World) -> None:
    owner, there = await nodes.start(2)
    topic = nodes.owned_by(owner)
    alice, bob = Person(there), Person(owner)
    for number, person in enumerate((alice, bob)):
        person.outbox.on_close = person.leaves
        await person.joins(f"name-{number}", topic)
    room = owner.estates.open[topic].room
    assert room is not None
    crash(room.post, Leave)  # a class, not an event
    await settle()
    assert alice.outbox.closed == bob.outbox.closed == CloseCode.CRASHED
    assert not owner.back._active_of and not owner.back._topics and empty(nodes)


@world()
async def test_a_member_that_leaves_as_its_topic_crashes_leaves_once(nodes: World) -> None:
    owner, there = await nodes.start(2)
    topic = nodes.owned_by(owner)
    alice = await member(there, "alice", topic)
    room = owner.estates.open[topic].room
    assert room is not None
    nodes.hold(owner, there)
    crash(room.post, Leave)  # a class, not an event
    await settle()
    await leave(alice)
    await nodes.release(owner, there)
    assert not owner.back._active_of and empty(nodes)
    assert (await Person(there).joins("alice", topic))["users"] == 1


@world()
async def test_a_relay_that_begins_again_keeps_a_window_of_what_the_topic_says_from_then(nodes: World) -> None:
    owner, here, other = await nodes.start(3)
    topic = nodes.topic((owner, nodes.all), (other, [here, other]))
    alice = await member(here, "alice", topic)
    bob, late = Person(here), Person(here)
    alice.says("1", "2", "3")
    await settle()
    nodes.hold(here, owner)
    asks(bob, "bob", topic)
    await leave(alice)
    await nodes.kill(owner)
    answered(bob)
    assert bob.hears()[0]["users"] == 1
    bob.says("new")
    await settle()
    (acked,) = bob.texts
    await nodes.kill(other)
    await late.joins("carol", topic, since=0)
    assert [(f"ack {number}", text) for number, text in messages(late)] == [(acked, "new")]


# The list, and what is kept.


@world()
async def test_at_every_moment_of_a_move_the_list_is_whole_or_says_that_it_is_not(nodes: World) -> None:
    here, _ = await nodes.start(2)
    new = nodes.make()
    names = [node.me for node in nodes.all]
    topics = sorted(topic for topic in map(str, range(30)) if highest(topic, names) == new.me)
    for topic in topics:
        await Person(here).joins("alice", topic)
    new.open()
    askers = []
    for _ in range(60):
        askers.append(FakeMember())
        here.front.post(ListTopics(askers[-1]))
        await asyncio.sleep(0)
    await settle()
    assert sorted(new.estates.open) == topics
    for asker in askers:
        ((found, partial),) = listed(asker)
        assert partial or sorted(found) == topics


@world()
async def test_how_far_members_of_lost_nodes_had_come_is_forgotten_with_the_window(nodes: World) -> None:
    owner, there = await nodes.start(2)
    more = [nodes.make() for _ in range(3)]
    topic = nodes.topic((owner, [owner]), *((owner, [owner, one]) for one in [there, *more]), (owner, nodes.all))
    await Person(owner).joins("alice", topic)
    await nodes.join(*more)
    for number, node in enumerate([there, *more]):
        await Person(node).joins(f"name-{number}", topic)
    for node in [there, *more]:
        await nodes.kill(node)
    estate = owner.estates.open[topic]
    await nodes.pass_time(29)
    assert len(estate.seating._tallies) == 4
    await nodes.pass_time(1)
    assert not estate.seating._tallies


@world()
async def test_acks_that_are_over_are_missed_and_those_behind_them_are_told_once(nodes: World) -> None:
    owner, here, other = await nodes.start(3)
    topic = nodes.topic((owner, nodes.all), (other, [here, other]))  # ``other`` does not open it, for it sees the owner
    alice, bob = await members(topic, alice=here, bob=owner)
    nodes.hold(owner, here)
    for text in ("one", "two"):
        alice.says(text)
        await settle()
        await nodes.run_out(TAKEN_SECONDS)
        if text == "one":
            await nodes.pass_time(30.5)
    await nodes.part(owner, here)
    nodes.fabric.held.clear()  # the acks are lost on their way
    await nodes.heal(owner, here)
    alice.says("three")
    await settle()
    assert alice.texts == ["ack 2", "ack 3"] and waiting_for_acks(nodes) == []
    assert [text for text in bob.texts if text != "expired"] == ["one", "two", "three"]


# Messages while parts of a cluster meet.


async def two_parts(nodes: World) -> tuple[str, Person, Person]:
    """A topic on both sides of a split, with one member each. The first member's node owns it when the sides meet."""
    winner, loser = await nodes.start(2)
    topic = nodes.topic((winner, nodes.all))
    await nodes.part(winner, loser)
    await nodes.run_out(SETTLE_SECONDS)
    alice, bob = await members(topic, alice=winner, bob=loser)
    return topic, alice, bob


async def goes_on(nodes: World) -> None:
    """Let everything arrive that is on its way."""
    for _ in range(3):
        await settle()
        await nodes.run_out(TAKEN_SECONDS)
        await nodes.run_out(SETTLE_SECONDS)


@world()
async def test_ids_go_up_for_members_whose_part_was_ahead(nodes: World) -> None:
    _, alice, bob = await two_parts(nodes)
    bob.says(*map(str, range(8)))
    await settle()
    assert bob.texts[-1] == "ack 8"
    nodes.fabric.heal(alice.node.me, bob.node.me)
    for number in range(60):  # before the topic takes bob in, meanwhile and afterwards
        alice.says(f"alice {number}")
        await asyncio.sleep(0)
    await goes_on(nodes)
    heard = messages(bob)
    ids = [number for number, _ in heard]
    assert ids[0] > 8 and ids == sorted({*ids})
    assert [text for _, text in heard] == [f"alice {number}" for number in range(60)][-len(heard) :]


@world()
async def test_members_of_the_other_part_are_closed_where_the_topic_cannot_take_them_in(nodes: World) -> None:
    topic, alice, bob = await two_parts(nodes)
    room = alice.node.estates.open[topic].room
    assert room is not None
    post = room.post

    def too_many_bugs_before(event: TopicEvent) -> None:
        if type(event) is Restore:
            alice.says(*[POISON] * (MAX_CRASHES + 1))
        post(event)

    setattr(room, "post", too_many_bugs_before)  # noqa: B010  # a method, which mypy would have stay as it is
    nodes.fabric.heal(alice.node.me, bob.node.me)
    await goes_on(nodes)
    assert alice.outbox.closed is bob.outbox.closed is CloseCode.CRASHED
    for one in (alice, bob):
        one.leaves()
    late = Person(bob.node)
    assert (await late.joins("carol", topic))["users"] == 1
    late.says("anew")
    await goes_on(nodes)
    assert late.texts == ["ack 1"] and await nodes.listed(alice.node) == [{"topic": topic, "users": 1}]


@world()
async def test_a_join_after_members_that_could_not_be_taken_in_hears_messages(nodes: World) -> None:
    topic, alice, bob = await two_parts(nodes)
    room = alice.node.estates.open[topic].room
    setattr(room, "_restore", None)  # noqa: B010  # a bug
    late = Person(bob.node)
    (relay,) = bob.node._relays
    nodes.fabric.heal(alice.node.me, bob.node.me)
    while relay.owner != alice.node.me:
        await asyncio.sleep(0)
    asks(late, "carol", topic)
    await goes_on(nodes)
    assert (alice.outbox.closed, bob.outbox.closed) == (None, CloseCode.CRASHED)
    bob.leaves()
    answered(late)
    alice.says("one")
    await goes_on(nodes)
    assert late.texts[-1] == "one" and alice.texts[-1] == "ack 1"


@world()
async def test_an_ack_from_before_the_sender_is_taken_in_again_is_told_once(nodes: World) -> None:
    owner, here, there = await nodes.start(3)
    topic = nodes.topic((owner, nodes.all))
    alice, bob, carol = await members(topic, alice=owner, bob=here, carol=there)
    slow(there)
    alice.says("x")
    await settle()  # the topic waits
    bob.says("one")  # this message waits for the topic
    await settle()
    (relay,) = here._relays
    before = relay._journal.line.name
    keep_busy(here)  # so that bob's message does not reach this node's own topic of that name
    for other in (owner, there):
        nodes.fabric.part(here.me, other.me)
    while relay._journal.line.name == before:
        await asyncio.sleep(0)
    for other in (owner, there):
        nodes.fabric.heal(here.me, other.me)
    while relay.owner != owner.me:
        await asyncio.sleep(0)
    await has_time(here)
    await goes_on(nodes)
    assert bob.texts == ["x", "ack 2"] and alice.texts == ["ack 1", "one"] and waiting_for_acks(nodes) == []
    bob.says("two")
    await goes_on(nodes)
    await nodes.pass_time(30.5)
    await nodes.kill(owner)
    await goes_on(nodes)
    assert [text for text in carol.texts if text != "expired"] == ["x", "one", "two"]


@world()
async def test_ids_go_up_for_members_whose_relay_turns_away_before_they_are_taken_in(nodes: World) -> None:
    owner, here, there = await nodes.start(3)
    new = nodes.make()
    topic = nodes.topic((owner, [owner, there]), (owner, [owner, here, there]), (new, nodes.all))
    for other in (owner, there):
        nodes.fabric.part(here.me, other.me)
        nodes.apart(other, new)
    await settle()
    await nodes.run_out(SETTLE_SECONDS)
    alice, bob, _ = await members(topic, alice=owner, bob=here, carol=there)
    bob.says(*map(str, range(20)))
    await goes_on(nodes)
    assert bob.texts[-1] == "ack 20"
    slow(there)
    alice.says("x")
    await settle()  # the topic waits
    alice.says("y", "z")  # these wait for the topic, before bob's return
    await settle()
    await nodes.heal(here, owner, there)
    (relay,) = here._relays
    await nodes.join(new)
    assert relay.owner == new.me
    await nodes.kill(new)
    assert relay.owner == owner.me
    await goes_on(nodes)
    alice.says("last")
    await goes_on(nodes)
    assert messages(bob) == [(21, "last")]


@world()
async def test_members_of_another_topic_of_that_name_are_taken_in_as_new(nodes: World) -> None:
    owner, here = await nodes.start(2)
    new = nodes.make()
    topic = nodes.topic((owner, nodes.all[:2]), (new, nodes.all), (new, [new, here]))
    nodes.apart(owner, new)  # so that neither knows the other's topic
    alice, bob = await members(topic, events=True, alice=owner, bob=here)
    carol = Person(new)
    await nodes.join(new)
    await nodes.run_out(START_SECONDS)
    await goes_on(nodes)
    await carol.joins("carol", topic, events=True)
    bob.says(*map(str, range(8)))
    await goes_on(nodes)
    assert bob.texts[-1] == "ack 8"
    await nodes.kill(new)
    await goes_on(nodes)
    assert presence(bob.hears()) == [("left", "carol"), ("joined", "alice")]
    alice.says("one")
    bob.says("two")
    await goes_on(nodes)
    assert bob.texts == ["one", "ack 10"]
    assert [frame["username"] for frame in alice.hears() if frame["type"] == "message"] == ["bob"]


@world()
async def test_a_part_that_waits_to_be_taken_in_hears_nothing_of_another_that_is(nodes: World) -> None:
    winner, first, second = await nodes.start(3)
    topic = nodes.topic((winner, nodes.all), (winner, [winner, first]))
    for one, other in ((winner, first), (winner, second), (first, second)):
        nodes.fabric.part(one.me, other.me)
    await settle()
    await nodes.run_out(SETTLE_SECONDS)
    alice, bob, carol = await members(topic, events=True, alice=winner, bob=first, carol=second)
    room = winner.estates.open[topic].room
    assert room is not None
    post, held = room.post, []

    def hold(event: TopicEvent) -> None:
        if type(event) is Restore:
            held.append(event)
        else:
            post(event)

    setattr(room, "post", hold)  # noqa: B010  # a method, which mypy would have stay as it is
    nodes.fabric.heal(winner.me, first.me)
    await goes_on(nodes)
    nodes.fabric.heal(winner.me, second.me)
    nodes.fabric.heal(first.me, second.me)
    await goes_on(nodes)
    assert [[known.username for known in event.members] for event in held] == [["bob"], ["carol"]]
    post(held[0])
    await goes_on(nodes)
    assert presence(bob.hears()) == [("joined", "alice")] and carol.hears() == []
    post(held[1])
    await goes_on(nodes)
    assert presence(bob.hears()) == [("joined", "carol")]
    assert presence(carol.hears()) == [("joined", "alice"), ("joined", "bob")]
    assert presence(alice.hears()) == [("joined", "bob"), ("joined", "carol")]


# A bug in one topic does not harm the others when a node goes.


@world()
async def test_a_topic_that_cannot_turn_to_its_next_owner_keeps_no_other_from_it(nodes: World) -> None:
    owner, here, there = await nodes.start(3)
    names = [node.me for node in nodes.all]
    topics = [nodes.topic((owner, nodes.all), (there, [here, there]))]
    topics += [topic for topic in map("room {}".format, range(60)) if highest(topic, names) == owner.me]
    everybody = [Person(here) for _ in topics]
    for one, topic in zip(everybody, topics):
        await one.joins("member", topic)
    mallory, *others = everybody
    mallory.says(POISON)  # this cannot be sent to a node and gets no ack
    await settle()
    with log_lines() as lines:
        await nodes.kill(owner)
        await nodes.run_out(SETTLE_SECONDS)
    assert sum("relay attach failed" in line for line in lines) == 1
    for one in others:
        one.says("one")
    await goes_on(nodes)
    assert [one.texts for one in others] == [["ack 1"]] * len(others)


@world()
async def test_a_topic_that_cannot_be_bequeathed_keeps_no_other_from_it(nodes: World) -> None:
    (owner,) = await nodes.start(1)
    topics = [f"topic-{number}" for number in range(20)]
    everybody = [Person(owner) for _ in topics]
    for one, topic in zip(everybody, topics):
        await one.joins("member", topic)
    new = nodes.make()
    moving = [number for number, topic in enumerate(topics) if highest(topic, [owner.me, new.me]) == new.me]
    room = owner.estates.open[topics[moving[0]]].room
    setattr(room, "legacy", None)  # noqa: B010  # a bug
    with log_lines() as lines:
        await nodes.join(new)
        await nodes.run_out(START_SECONDS)
        await nodes.run_out(SETTLE_SECONDS)
    assert sum("topic bequest failed" in line for line in lines) == 1
    for number in moving[1:]:
        everybody[number].says("one")
    await goes_on(nodes)
    assert len(moving) > 1 and all(everybody[number].texts == ["ack 1"] for number in moving[1:])
    assert not [room for room in owner.back.active_topics() if room.topic in [topics[number] for number in moving]]


@world()
async def test_a_second_close_of_a_node_waits_as_well(nodes: World) -> None:
    (node,) = await nodes.start(1)
    may_end = asyncio.Event()
    end = node._links.close

    async def slow() -> None:
        await may_end.wait()
        await end()

    setattr(node._links, "close", slow)  # noqa: B010  # a method, which mypy would have stay as it is
    closing = [asyncio.create_task(node.close()) for _ in range(2)]
    await settle()
    assert not any(task.done() for task in closing)
    closing[0].cancel()  # this does not stop the closing
    may_end.set()
    await closing[1]
    await settle()
    assert node._beating.done()


@world()
async def test_a_node_that_cannot_close_its_links_ends_all_the_same(nodes: World) -> None:
    (node,) = await nodes.start(1)
    end = node._links.close

    async def fails() -> None:
        await end()
        raise RuntimeError("a bug")

    setattr(node._links, "close", fails)  # noqa: B010  # a method, which mypy would have stay as it is
    with pytest.raises(RuntimeError, match="a bug"):
        await node.close()
    assert node._beating.done()
    nodes.all.clear()
