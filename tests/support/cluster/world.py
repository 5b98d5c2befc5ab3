"""Nodes that come, go and part at a word; the members of their topics; and what tests ask of both."""

import functools
import inspect
from collections.abc import Coroutine
from typing import Any, Callable

from chat_actors.actors.base import MAX_CRASHES
from chat_actors.actors.events import Join, JoinFailed
from chat_actors.actors.supervisor import ListTopics
from chat_actors.cluster.node import Node
from chat_actors.cluster.views import highest
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Window
from tests.support.cluster.fabric import Nodes, Person
from tests.support.fakes import POISON, FakeMember, Frame, in_clean_loop, settle, tasks
from tests.support.presence import one_by_one


class World(Nodes):
    """Nodes that come, go and part at a word."""

    async def join(self, *nodes: Node) -> None:
        """Open nodes that were made, so that they become part of the cluster."""
        for node in nodes:
            node.open()
        await settle()

    async def moving_topic(self) -> tuple[Node, Node, Node, str]:
        """Two nodes, a third one that is not open, and a topic: the first node owns it until the third joins."""
        here, there = await self.start(2)
        new = self.make()
        return here, there, new, self.topic((here, [here, there]), (new, self.all))

    async def topic_that_moves_twice(self) -> tuple[Node, Node, Node, Node, str]:
        """The same with a fourth node that is not open, to which the topic moves from the third."""
        here, there = await self.start(2)
        new, newer = self.make(), self.make()
        return here, there, new, newer, self.topic((here, [here, there]), (new, [here, there, new]), (newer, self.all))

    def apart(self, one: Node, other: Node) -> None:
        """Two nodes do not see each other, from the beginning."""
        self.fabric.apart.add(frozenset((one.me, other.me)))

    async def meet(self, one: Node, other: Node) -> None:
        """Two nodes that were apart from the beginning see each other."""
        for node, seen in ((one, other), (other, one)):
            self.fabric.tell(node.me, seen.me, False)
        self.fabric.heal(one.me, other.me)
        await settle()

    async def part(self, one: Node, *others: Node) -> None:
        """A node and these others lose sight of each other."""
        for other in others:
            self.fabric.part(one.me, other.me)
        await settle()

    async def heal(self, one: Node, *others: Node) -> None:
        """They see each other again."""
        for other in others:
            self.fabric.heal(one.me, other.me)
        await settle()

    def hold(self, sender: Node, receiver: Node) -> None:
        """Keep what is sent that way."""
        self.fabric.hold(sender.me, receiver.me)

    async def release(self, sender: Node, receiver: Node) -> None:
        """Deliver what was held that way, and stop holding."""
        await self.fabric.release(sender.me, receiver.me)

    def release_in_one_turn(self, receiver: Node, *senders: Node) -> None:
        """The same for several senders: the receiver takes all of it before anything that follows from it."""
        mail = self.fabric.ends[receiver.me].mail
        for sender in senders:
            for data in self.fabric.held.pop((sender.me, receiver.me)):
                mail(data)

    async def release_until(self, sender: Node, receiver: Node, word: bytes) -> None:
        """Deliver what was held that way and comes before this word."""
        held = self.fabric.held[sender.me, receiver.me]
        while not (held and word in held[0]):
            self.fabric.deliver(sender.me, receiver.me, held.popleft())
            await settle()

    def topic(self, *owners: tuple[Node, list[Node]]) -> str:
        """A topic that each of these nodes owns while just the nodes in the list beside it are up."""
        return next(
            topic
            for topic in map("topic-{}".format, range(100_000))
            if all(highest(topic, [one.me for one in view]) == owner.me for owner, view in owners)
        )

    async def asked(self, node: Node) -> FakeMember:
        """A connection that has asked for the list."""
        asker = FakeMember()
        node.front.post(ListTopics(asker))
        await settle()
        return asker


def world(**wants: Any) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[..., None]]:
    """Run a test with nodes, its first argument. They are closed at its end, when nothing is left of them."""

    def decorate(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @in_clean_loop
        @functools.wraps(test)
        async def run(**parameters: Any) -> None:
            before = tasks()
            nodes = World(**wants)
            try:
                await test(nodes, **parameters)
            finally:  # what a failed test leaves open would be a failure of the next one
                await nodes.end()
            assert tasks() == before

        # pytest would take the nodes for a fixture
        _, *others = inspect.signature(test).parameters.values()
        setattr(run, "__signature__", inspect.Signature(others))  # noqa: B010  # unknown to mypy
        return run

    return decorate


async def member(node: Node, username: str, topic: str, **window: Any) -> Person:
    """A person who has joined."""
    person = Person(node)
    await person.joins(username, topic, **window)
    return person


async def members(topic: str, *, events: bool = False, **nodes: Node) -> list[Person]:
    """Persons who have joined one topic in this order, by name, each at a node; all of them with ``events`` or none."""
    window = {"events": True} if events else {}
    return [await member(node, username, topic, **window) for username, node in nodes.items()]


async def leave(*people: Person) -> None:
    """Let persons leave at once; returns when it has taken effect."""
    for person in people:
        person.leaves()
    await settle()


def asks(person: Person, username: str, topic: str, **window: Any) -> None:
    """Ask to join, without waiting for the answer."""
    outbox = person.outbox
    person.node.front.post(Join(topic, username, outbox, outbox.reply, Window(**window) if window else None))


def answered(person: Person) -> None:
    """The join of ``asks`` has been answered meanwhile: the person can speak."""
    person.address = person.outbox.reply.result()


def refusal(person: Person) -> tuple[CloseCode, str]:
    """The code and the detail with which a join was refused."""
    failed = person.outbox.reply.exception()
    assert isinstance(failed, JoinFailed)
    person.leaves()  # as its session does then
    return failed.code, failed.detail


def listed(asker: FakeMember) -> list[tuple[list[str], bool]]:
    """The answers to ``/list``: topics, and whether some may be missing."""
    return [([one["topic"] for one in frame["topics"]], frame.get("partial", False)) for frame in asker.take()]


def crash(post: Callable[[Any], None], event: object = POISON) -> None:
    """Post an event that the actor cannot take until the actor gives up."""
    for _ in range(MAX_CRASHES + 1):
        post(event)


def unacked(*nodes: Node) -> list[list[str]]:
    """For each member of the relays of these nodes: what it has said without an ack so far."""
    guests = [guest for node in nodes for relay in node._relays for guest in relay._guests.values()]
    return [[text for text, _ in guest.unacked] for guest in guests]


def waiting_for_acks(nodes: Nodes) -> list[str]:
    """What members of all nodes have said without an ack so far."""
    return [text for texts in unacked(*nodes.all) for text in texts]


def empty(nodes: Nodes) -> bool:
    """Whether no node has anything left of any topic."""
    return not any(node._relays or node.estates.open or node.estates._waiting or node._lives for node in nodes.all)


def messages(person: Person) -> list[tuple[int, str]]:
    """The messages a person has heard since the last time: ids and texts."""
    return [(frame["id"], frame["message"]) for frame in person.hears() if frame["type"] == "message"]


def presence(frames: list[Frame]) -> list[tuple[str, str]]:
    """The joins and leaves among frames, each with its name."""
    told = [frame for frame in frames if frame["type"] == "presence"]
    return [(event, name) for frame in told for event, name, _ in one_by_one(frame)]
