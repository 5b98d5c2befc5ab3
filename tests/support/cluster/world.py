"""Nodes that come, go and part at a word, and what tests ask of them."""

import functools
from collections.abc import Coroutine
from typing import Any, Callable

from chat_actors.actors.events import Join, JoinFailed
from chat_actors.actors.supervisor import ListTopics
from chat_actors.cluster.node import Node
from chat_actors.cluster.views import highest
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Window
from tests.support.cluster.fabric import Nodes, Person
from tests.support.fakes import FakeMember, Frame, in_clean_loop, settle, tasks


class World(Nodes):
    """Nodes that come, go and part at a word."""

    async def join(self, *nodes: Node) -> None:
        """Have nodes that were made become part of the cluster."""
        for node in nodes:
            node.open()
        await settle()

    def apart(self, one: Node, other: Node) -> None:
        self.fabric.apart.add(frozenset((one.me, other.me)))

    async def meet(self, one: Node, other: Node) -> None:
        """Let nodes see each other that were apart from the beginning."""
        for node, seen in ((one, other), (other, one)):
            self.fabric.tell(node.me, seen.me, False)
        self.fabric.heal(one.me, other.me)
        await settle()

    async def release_until(self, sender: Node, receiver: Node, word: bytes) -> None:
        """Let go on what is held that way and comes before that."""
        held = self.fabric.held[sender.me, receiver.me]
        while not (held and word in held[0]):
            self.fabric.deliver(sender.me, receiver.me, held.popleft())
            await settle()

    def topic(self, *owners: tuple[Node, list[Node]]) -> str:
        """A topic that belongs to each of these nodes where just those others are there."""
        return next(
            topic
            for topic in map("topic-{}".format, range(100_000))
            if all(highest(topic, [one.me for one in view]) == owner.me for owner, view in owners)
        )

    async def asked(self, node: Node) -> FakeMember:
        """Someone who has asked for the list."""
        asker = FakeMember()
        node.front.post(ListTopics(asker))
        await settle()
        return asker


def world(**wants: Any) -> Callable[[Callable[[World], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """Run a test with nodes that are closed at its end, when nothing is left of them."""

    def decorate(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        @in_clean_loop
        @functools.wraps(test)
        async def run() -> None:
            before = tasks()
            nodes = World(**wants)
            try:
                await test(nodes)
            finally:  # what a failed test leaves open would be a failure of the next one
                await nodes.end()
            assert tasks() == before

        # pytest would take the argument for a fixture
        del run.__wrapped__  # type: ignore[attr-defined]
        return run

    return decorate


def asks(person: Person, username: str, topic: str, **window: Any) -> None:
    """A join whose answer is not waited for."""
    outbox = person.outbox
    person.node.front.post(Join(topic, username, outbox, outbox.reply, Window(**window) if window else None))


def refusal(person: Person) -> tuple[CloseCode, str]:
    failed = person.outbox.reply.exception()
    assert isinstance(failed, JoinFailed)
    person.leaves()  # as its session does then
    return failed.code, failed.detail


def listed(asker: FakeMember) -> list[tuple[list[str], bool]]:
    """The answers to ``/list``: topics, and whether some may be missing."""
    return [([one["topic"] for one in frame["topics"]], frame.get("partial", False)) for frame in asker.take()]


def empty(nodes: Nodes) -> bool:
    """Whether no node has anything of any topic."""
    return not any(node._relays or node.estates.open or node.estates._waiting or node._lives for node in nodes.all)


def messages(person: Person) -> list[tuple[int, str]]:
    return [(frame["id"], frame["message"]) for frame in person.hears() if frame["type"] == "message"]


def presence(frames: list[Frame]) -> list[tuple[str, str]]:
    return [(frame["event"], frame["username"]) for frame in frames if frame["type"] == "presence"]
