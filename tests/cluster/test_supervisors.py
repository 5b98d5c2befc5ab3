"""A node's two supervisors, and what follows when one of them gives up."""

import asyncio

from chat_actors.actors.events import Restore, Returning, Send
from chat_actors.cluster.backlog import Backlog
from chat_actors.cluster.views import highest
from chat_actors.protocol.codes import CloseCode
from tests.support.cluster.fabric import Person
from tests.support.cluster.world import World, crash, leave, member, members, world
from tests.support.fakes import log_lines, settle


@world()
async def test_when_the_supervisor_of_the_topics_gives_up_another_one_takes_its_place(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.topic((here, nodes.all))
    alice = await member(there, "alice", topic)
    bob = Person(there)
    before = here.back
    crash(before.post)
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
    alice, bob = await members(topic, alice=here, bob=there)
    carol = Person(here)
    crash(here.front.post)
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
    people = [Person(here), Person(here)]
    for person in people:
        await person.joins("member", next(mine))
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
    for person in people:
        person.says("one")
    await settle()
    assert sorted(person.texts for person in people) == [[], ["ack 1"]]


@world()
async def test_a_message_to_the_supervisor_from_a_member_that_left_is_dropped(nodes: World) -> None:
    owner, here = await nodes.start(2)
    topic = nodes.owned_by(owner)
    alice, bob = await members(topic, alice=here, bob=owner)
    (attachment,) = (one for one in owner.estates.open[topic].seating.attachments.values() if one.name == here.me)
    (seat,) = attachment.seats.values()
    await leave(alice)
    with log_lines() as lines:
        owner.back.pass_on(Send(seat, "late"))
        await settle()
    assert bob.hears() == [] and lines == []


@world()
async def test_mail_that_a_failed_supervisor_did_not_pass_on_is_not_on_its_way(nodes: World) -> None:
    here, there = await nodes.start(2)
    topic = nodes.topic((here, nodes.all))
    alice = await member(there, "alice", topic)
    estate = here.estates.open[topic]
    ((seat,),) = (attachment.seats.values() for attachment in estate.seating.attachments.values())
    crash(here.back.post)
    estate._pass_on(Send(seat, "one"))
    estate._pass_on(Restore(topic, [Returning(seat, "alice")], lambda *_: None))
    await settle()
    assert estate._on_their_way == 0 and alice.outbox.closed is CloseCode.RESTARTING
