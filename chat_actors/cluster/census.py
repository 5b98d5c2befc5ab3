"""Questions to all nodes, which topics they own; and the answers, as the protocol has them."""

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Optional

from chat_actors.actors.supervisor import ListTopics
from chat_actors.clock import Clock
from chat_actors.cluster.wire import Count, Counted
from chat_actors.protocol.frames import Topics, TopicUsers, finished

if TYPE_CHECKING:
    from chat_actors.cluster.node import Node

COUNT_SECONDS = 1.0  # that the nodes have to answer


class Census:
    """One question. ``answer``: all topics, oldest first."""

    def __init__(self, registry: "Registry", clock: Clock) -> None:
        self.number = 0  # of the last time that it was asked
        self.askers: list[ListTopics] = []
        self.answer: asyncio.Future[Topics] = asyncio.get_running_loop().create_future()
        self._registry = registry
        self._missing: set[str] = set()
        self._topics: dict[str, tuple[int, float]] = {}
        self._deadline = clock.call_later(COUNT_SECONDS, self.end)

    def ask(self, number: int, nodes: list[str]) -> None:
        """These nodes are asked now; what has been answered before may be of topics that have moved since."""
        self.number = number
        self._topics.clear()
        self._missing = set(nodes)

    def take(self, node: str, item: Counted) -> None:
        """A node's answer."""
        for topic, users, age in item.topics:
            known = self._topics.get(topic, (0, 0.0))
            self._topics[topic] = max(known[0], users), max(known[1], age)
        self._missing.discard(node)
        if not self._missing:
            self.end()

    def end(self) -> None:
        """Tell what is known, and whether something may be missing."""
        self._deadline.cancel()
        self._registry.forget(self)
        oldest_first = sorted(self._topics.items(), key=lambda one: (-one[1][1], one[0]))
        users = [TopicUsers(topic, count) for topic, (count, _) in oldest_first]
        topics = Topics.of(users, bool(self._missing))
        if not self.answer.done():  # who has asked for it may have given up
            self.answer.set_result(topics)
        frame = finished(topics)
        for asker in self.askers:
            asker.outbox.write_answer(frame)


class Registry:
    """All questions that a node has not been answered yet."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._asked: dict[int, Census] = {}
        self._next: Optional[Census] = None
        self._new_number = count(1).__next__

    def census(self, asker: Optional[ListTopics] = None) -> "asyncio.Future[Topics]":
        """All topics of all nodes. ``asker`` is told them. Those who ask in one turn of the loop share the answer."""
        census = self._next
        if census is None:
            census = self._next = Census(self, self._node.clock)
            asyncio.get_running_loop().call_soon(self._begin, census)
        if asker is not None:
            census.askers.append(asker)
        return census.answer

    def _begin(self, census: Census) -> None:
        self._next = None
        self._ask(census)

    def _ask(self, census: Census) -> None:
        self._asked.pop(census.number, None)
        number = self._new_number()
        self._asked[number] = census
        census.ask(number, self._node.view)
        for node in self._node.view:
            self._node.send(node, Count(number))

    def ask_again(self) -> None:
        """Other nodes are there now."""
        for census in list(self._asked.values()):
            self._ask(census)

    def take(self, node: str, item: Counted) -> None:
        """A node's answer; nothing where nobody waits for it any more."""
        census = self._asked.get(item.number)
        if census is not None:
            census.take(node, item)

    def forget(self, census: Census) -> None:
        """It has its answer."""
        self._asked.pop(census.number, None)

    def end(self) -> None:
        """Answer with what is known."""
        for census in list(self._asked.values()):
            census.end()
