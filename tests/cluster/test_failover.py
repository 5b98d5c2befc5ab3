"""Topics over several nodes, without sockets: the order is the same everywhere, also when nodes come and go."""

import asyncio

import pytest

from tests.support.cluster.fabric import Person
from tests.support.cluster.world import World, leave, member, members, unacked, world
from tests.support.fakes import settle, tasks


@world()
async def test_members_on_two_nodes_are_in_one_topic_with_one_order(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice, bob, carol = Person(here), Person(there), Person(there)
    assert (await alice.joins("alice", topic))["users"] == 1
    assert (await bob.joins("bob", topic))["users"] == 2
    assert (await carol.joins("bob", topic))["username"] == "bob#2"
    alice.says("one", "two")
    bob.says("three")
    carol.says("four")
    await settle()
    heard = alice.hears(), bob.hears(), carol.hears()
    by_id = [{frame["id"]: frame["timestamp"] for frame in one} for one in heard]
    assert by_id[0] == by_id[1] == by_id[2] and list(by_id[0]) == [1, 2, 3, 4]
    assert [frame["recipients"] for one in heard for frame in one if frame["type"] == "ack"] == [2] * 4
    assert {frame["message"] for frame in heard[0] if frame["type"] == "message"} == {"three", "four"}
    assert await nodes.listed(here) == await nodes.listed(there) == [{"topic": topic, "users": 3}]


@world()
async def test_the_last_leave_removes_the_topic_on_all_nodes(nodes: World) -> None:
    here, there = await nodes.start(2)
    before = tasks()
    for owner in (here, there):
        topic = nodes.owned_by(owner)
        alice, bob = await members(topic, alice=here, bob=there)
        alice.says("hello")
        await settle()
        for one in (alice, bob):
            await leave(one)
        assert await nodes.listed(here) == await nodes.listed(there) == []
        assert not here._relays and not there._relays and not here.estates.open and not there.estates.open
        await nodes.pass_time(31)
        assert tasks() == before


@world()
async def test_when_the_owner_dies_the_others_go_on_as_if_nothing_had_happened(nodes: World) -> None:
    owner, here, there = await nodes.start(3)
    topic = nodes.owned_by(owner)
    alice, bob, gone = Person(here), Person(there), Person(owner)
    first = await alice.joins("alice", topic, events=True)
    await bob.joins("bob", topic, resume="")
    await gone.joins("alice", topic)
    alice.says("one", ref="r")
    bob.says("two")
    await settle()
    alice.hears(), bob.hears()
    await nodes.kill(owner)
    assert alice.texts == ["left alice#2 (2)"]
    alice.says("one", ref="r")  # again
    bob.says("three")
    await settle()
    assert sorted(alice.texts) == ["ack 1 again", "three"]
    assert bob.texts == ["ack 3"]
    late = Person(there)
    joined = await late.joins("carol", topic, since=0)
    assert joined["epoch"] != first["epoch"] and joined["last_id"] == 3
    assert [(frame["id"], frame["username"], frame["message"]) for frame in late.hears()] == [
        (1, "alice", "one"),
        (2, "bob", "two"),
        (3, "bob", "three"),
    ]
    assert await nodes.listed(here) == [{"topic": topic, "users": 3}]


@pytest.mark.parametrize("reached", ["nobody", "the others", "the sender"])
@world()
async def test_what_was_not_acknowledged_when_the_owner_died_is_said_once(nodes: World, reached: str) -> None:
    owner, here, there = await nodes.start(3)
    topic = nodes.owned_by(owner)
    alice, bob = await members(topic, alice=here, bob=there)
    for one, name in ((here, "the sender"), (there, "the others")):
        if reached != name:
            nodes.hold(owner, one)
    alice.says("one", "two", "three")
    await settle()
    await nodes.kill(owner)
    await settle()
    assert alice.texts == ["ack 1", "ack 2", "ack 3"]
    assert bob.texts == ["one", "two", "three"]
    bob.says("four")
    await settle()
    assert alice.texts == ["four"] and bob.texts == ["ack 4"]


@world()
async def test_a_new_node_takes_over_its_topics_and_nobody_notices(nodes: World) -> None:
    here, there = await nodes.start(2)
    people = [Person(here), Person(there)]
    topics = [f"topic-{number:02}" for number in range(30)]  # some of them will move
    everyone = [[Person(node) for node in (here, there)] for _ in topics]
    epochs = []
    for topic, people in zip(topics, everyone):
        for name, person in zip(("alice", "bob"), people):
            epochs.append((await person.joins(name, topic, events=True))["epoch"])
        people[0].says("before")
    await settle()
    for people in everyone:
        people[0].says("during")
    (new,) = await nodes.start(1)
    for people in everyone:
        people[1].says("after")
    await settle()
    moved = [topic for topic in topics if new.owner(topic) == new.me]
    assert moved and sorted(new.estates.open) == moved
    for topic, (alice, bob) in zip(topics, everyone):
        assert alice.texts == ["joined bob (2)", "ack 1", "ack 2", "after"], topic
        assert bob.texts == ["before", "during", "ack 3"], topic
        third = Person(new)
        joined = await third.joins("carol", topic, since=1, epoch=epochs.pop(0))
        epochs.pop(0)
        assert "gap" not in joined and third.texts == ["during", "after"]
    assert [one["users"] for one in await nodes.listed(new)] == [3] * 30
    assert await nodes.listed(new) == await nodes.listed(here)


@world()
async def test_a_node_that_was_frozen_brings_its_members_back(nodes: World) -> None:
    here, _, frozen = await nodes.start(3)
    for owner in (here, frozen):
        topic = nodes.owned_by(owner)
        alice = await member(here, "alice", topic, events=True)
        bob = await member(frozen, "bob", topic, resume="")
        alice.says("before")
        await settle()
        alice.hears(), bob.hears()
        await nodes.freeze(frozen)
        alice.says("meanwhile")
        await settle()
        assert alice.texts == ["left bob (1)", "ack 2"]
        thawed = asyncio.ensure_future(nodes.thaw(frozen))
        bob.says("unheard", "yet")  # before any node notices
        await thawed
        bob.says("back")
        await settle()
        assert alice.texts == ["joined bob (2)", "unheard", "yet", "back"]
        assert bob.texts[-4:] == ["meanwhile", "ack 3", "ack 4", "ack 5"]
        assert unacked(frozen) == [[]]
        assert await nodes.listed(frozen) == await nodes.listed(here) == [{"topic": topic, "users": 2}]
        await leave(alice, bob)


@world()
async def test_after_a_split_both_sides_meet_and_doubled_names_are_told_apart(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice, bob = await members(topic, events=True, alice=here, bob=there)
    alice.hears()
    await nodes.part(here, there)
    assert alice.texts == ["left bob (1)"] and bob.texts == ["left alice (1)"]
    other = Person(there)
    assert (await other.joins("alice", topic, events=True))["username"] == "alice"
    alice.says("here")
    other.says("there", "and there")
    await settle()
    assert alice.texts == ["ack 1"] and bob.texts == ["joined alice (2)", "there", "and there"]
    assert other.texts == ["ack 1", "ack 2"]
    await nodes.heal(here, there)
    assert sorted(alice.texts) == ["joined alice#2 (3)", "joined bob (2)"]
    assert other.texts == bob.texts == ["alice is alice#2", "joined alice (3)"]
    other.says("together")
    await settle()
    assert alice.texts == bob.texts == ["together"]
    assert other.texts == ["ack 3"]  # higher than any id seen on either side
    assert await nodes.listed(there) == [{"topic": topic, "users": 3}]


@world()
async def test_a_member_that_resumes_on_another_node_is_the_same_member(nodes: World) -> None:
    here, there = await nodes.start(2)
    for owner in (here, there):
        topic = nodes.owned_by(owner)
        old, new, watcher = Person(here), Person(there), Person(there)
        token = (await old.joins("alice", topic, resume=""))["resume"]
        await watcher.joins("bob", topic, events=True)
        old.says("one", ref="r")
        await settle()
        joined = await new.joins("anyone", topic, resume=token, since=0)
        assert joined["username"] == "alice" and new.texts == ["one"]
        assert old.outbox.closed == 4409
        old.leaves()
        new.says("one", ref="r")
        await settle()
        assert new.texts == ["ack 1 again"] and watcher.texts == ["one"]
        assert await nodes.listed(here) == [{"topic": topic, "users": 2}]
        await leave(new, watcher)
        assert await nodes.listed(here) == []


@world()
async def test_expired_messages_are_forgotten_on_every_node(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice = await member(here, "alice", topic)
    bob = await member(there, "bob", topic, events=True)
    alice.says("one")
    await settle()
    assert bob.texts == ["one"]
    await nodes.pass_time(30.5)
    assert bob.texts == ["expired"]
    held = [backlog for node in nodes.all for backlog in node._sweeper._watched]
    assert not any(b"one" in frame for backlog in held for parcel in backlog.after(0) for frame in parcel.frames)
    await nodes.pass_time(30.5)
    assert not any(node._sweeper._watched for node in nodes.all)


@world()
async def test_a_node_that_ends_closes_its_members_and_hands_its_topics_over(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.owned_by(here)
    alice, bob = Person(here), Person(there)
    epoch = (await alice.joins("alice", topic, events=True))["epoch"]
    await bob.joins("bob", topic, events=True)
    alice.says("one")
    await settle()
    bob.hears()
    await nodes.close(here)
    await settle()
    assert alice.outbox.closed == 1012 and alice.texts[-1] == "closing"
    assert bob.texts == ["left alice (1)"]
    bob.says("two")
    await settle()
    assert bob.texts == ["ack 2"]
    late = Person(there)
    assert (await late.joins("carol", topic, since=0, epoch=epoch))["epoch"] == epoch
    assert late.texts == ["one", "two"]
    await asyncio.sleep(0)
