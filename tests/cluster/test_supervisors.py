"""A node's two supervisors: what comes after one that has given up."""

import asyncio

from chat_actors.actors.base import MAX_CRASHES
from chat_actors.actors.events import Restore, Returning, Send
from chat_actors.cluster.backlog import Backlog
from chat_actors.cluster.views import highest
from chat_actors.protocol.codes import CloseCode
from tests.support.cluster.fabric import Person
from tests.support.cluster.world import World, world
from tests.support.fakes import POISON, log_lines, settle


@world()
async def test_when_the_supervisor_of_the_topics_gives_up_another_one_takes_its_place(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.topic((here, nodes.all))
    alice, bob = Person(there), Person(there)
    await alice.joins("alice", topic)
    before = here.back
    for _ in range(MAX_CRASHES + 1):
        before.post(POISON)  # type: ignore[arg-type]  # what no supervisor takes
    await settle()
    assert before.task.done()
    assert alice.outbox.closed is CloseCode.RESTARTING
    alice.leaves()
    await bob.joins("bob", topic)
    bob.says("one")
    await settle()
    assert bob.texts == ["ack 1"]
    assert await nodes.listed(there) == [{"topic": topic, "users": 1}]


@world()
async def test_when_the_supervisor_of_the_members_gives_up_the_node_can_serve_again(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.topic((there, nodes.all))
    alice, bob, carol = Person(here), Person(there), Person(here)
    await alice.joins("alice", topic)
    await bob.joins("bob", topic)
    for _ in range(MAX_CRASHES + 1):
        here.front.post(POISON)  # type: ignore[arg-type]  # what no supervisor takes
    await asyncio.wait({here.front.task})
    await settle()
    assert alice.outbox.closed is CloseCode.RESTARTING
    assert here.reopen()
    await carol.joins("carol", topic)
    bob.says("one")
    await settle()
    assert carol.texts == ["one"]


def test_a_node_of_another_loop_does_not_serve_again() -> None:
    async def start() -> World:
        nodes = World()
        await nodes.start(1)
        return nodes

    async def reopen(nodes: World) -> bool:
        return nodes.all[0].reopen()

    async def both() -> None:
        nodes = await start()
        loop = asyncio.new_event_loop()
        try:
            assert not await asyncio.to_thread(loop.run_until_complete, reopen(nodes))
        finally:
            loop.close()
        await nodes.end()

    asyncio.run(both())


@world()
async def test_a_topic_that_cannot_be_opened_costs_no_other(nodes: World) -> None:
    owner, here = await nodes.start(2)
    both = [owner.me, here.me]
    mine = (name for name in map("topic-{}".format, range(1000)) if highest(name, both) == owner.me)
    members = [Person(here), Person(here)]
    for member in members:
        await member.joins("member", next(mine))
    watch, watched = here.watch, []

    def fail_once(backlog: Backlog) -> None:
        watched.append(backlog)
        if len(watched) == 1:
            raise RuntimeError("a bug")
        watch(backlog)

    here.watch = fail_once
    with log_lines() as lines:
        await nodes.kill(owner)
    assert sum("topic open failed" in line for line in lines) == 1
    for member in members:
        member.says("one")
    await settle()
    assert sorted(member.texts for member in members) == [[], ["ack 1"]]


@world()
async def test_what_comes_to_the_supervisor_from_somebody_who_has_left_is_for_nobody(nodes: World) -> None:
    owner, here = await nodes.start(2)
    topic = nodes.owned_by(owner)
    alice, bob = Person(here), Person(owner)
    await alice.joins("alice", topic)
    await bob.joins("bob", topic)
    (attachment,) = (one for one in owner.estates.open[topic].seating.attachments.values() if one.name == here.me)
    (seat,) = attachment.seats.values()
    alice.leaves()
    await settle()
    with log_lines() as lines:
        owner.back.pass_on(Send(seat, "late"))
        await settle()
    assert bob.hears() == [] and lines == []


@world()
async def test_what_a_supervisor_that_gives_up_has_not_passed_on_is_not_on_its_way_any_more(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.topic((here, nodes.all))
    alice = Person(there)
    await alice.joins("alice", topic)
    estate = here.estates.open[topic]
    ((seat,),) = (attachment.seats.values() for attachment in estate.seating.attachments.values())
    for _ in range(MAX_CRASHES + 1):
        here.back.post(POISON)  # type: ignore[arg-type]  # what no supervisor takes
    estate._pass_on(Send(seat, "one"))
    estate._pass_on(Restore(topic, [Returning(seat, "alice")], lambda *_: None))
    await settle()
    assert estate._on_their_way == 0 and alice.outbox.closed is CloseCode.RESTARTING
