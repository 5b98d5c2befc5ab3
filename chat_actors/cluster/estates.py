"""The topics that a node owns, and what has come for those that are not open yet.

Relays and last owners may be heard before all nodes see the same others. Until that is settled, whoever would join a
topic with a past waits, with all that it says; then the topic is opened with what everybody knows of it.
"""

from typing import TYPE_CHECKING, Optional

from chat_actors.cluster.estate import Estate
from chat_actors.cluster.gather import gathered
from chat_actors.cluster.views import highest
from chat_actors.cluster.wire import Attach, Bequest, Counted, ToOwner

if TYPE_CHECKING:
    from chat_actors.cluster.node import Node


class Estates:
    """``open``: by topic."""

    def __init__(self, node: "Node") -> None:
        self.open: dict[str, Estate] = {}
        self._node = node
        # An Attach and what came behind it, by topic, node and relay.
        self._waiting: dict[str, dict[tuple[str, int], list[ToOwner]]] = {}
        self._bequests: dict[str, list[Bequest]] = {}
        self._late: set[str] = set()  # topics of those of them that nobody had a use for at the last beat

    def take(self, node: str, item: ToOwner) -> None:
        """What the relay of a node has to say to its owner."""
        estate = self.open.get(item.topic)
        waiting = self._waiting.get(item.topic, {})
        if type(item) is Attach:
            waiting.pop((node, item.relay), None)
            if estate is None or not (self._node.settled or estate.knows(item.line)):
                self._waiting.setdefault(item.topic, waiting)[node, item.relay] = [item]
                estate = None
        else:
            for (other, _), items in waiting.items():
                if other == node and items[0].life == item.life:
                    items.append(item)
                    estate = None
        if estate is not None:
            estate.take(node, item)
        elif self._node.settled and waiting and self._node.owns(item.topic):
            self._open(item.topic)

    def inherit(self, node: str, bequest: Bequest) -> None:
        """What a node has to tell of a topic."""
        if self._node.settled and bequest.topic in self.open:
            self._node.log.bind(topic=bequest.topic, node=node).info("bequest dropped: topic open")
        else:
            self._bequests.setdefault(bequest.topic, []).append(bequest)

    def settle(self) -> None:
        """Open the topics that others had before, and those that were asked for meanwhile."""
        for topic in list(self._waiting):
            if self._node.owns(topic):
                with self._node.contained("topic open failed", topic=topic):
                    self._open(topic)
        self._bequests.clear()

    def _open(self, topic: str) -> None:
        """Take in those who wait for a topic, which may be open for others already."""
        waiting = self._waiting.pop(topic)
        attaches = [(node, items[0]) for (node, _), items in waiting.items() if type(items[0]) is Attach]
        bequests = self._bequests.pop(topic, [])
        estate, legacy = self.open.get(topic), None
        if estate is None:
            estate = self.open[topic] = Estate(self._node, topic)
            known = gathered([item for _, item in attaches], bequests)
            if known.line.name and any(item.seats for _, item in attaches):  # else the last member has left it
                legacy = known
        estate.attach(attaches, bequests, legacy)
        for (node, _), items in waiting.items():
            for item in items[1:]:
                estate.take(node, item)

    def hand_over(self) -> dict[str, Bequest]:
        """Let go of the topics that other nodes own now; what those have to know."""
        bequests: dict[str, Bequest] = {}
        for topic in [topic for topic in self.open if not self._node.owns(topic)]:
            with self._node.contained("topic bequest failed", topic=topic):
                bequest = self.open.pop(topic).abdicate()
                if bequest is not None:
                    bequests[topic] = bequest
        return bequests

    def abandon(self) -> None:
        """Let go of all topics, and forget what waits."""
        for topic in list(self.open):
            with self._node.contained("topic release failed", topic=topic):
                self.open.pop(topic).abdicate()
        self._waiting.clear()
        self._bequests.clear()

    def lose(self, node: str) -> None:
        """A node is gone, with its relays."""
        for estate in list(self.open.values()):
            estate.seating.lose(node)
        self.waive(node)

    def waive(self, node: str, view: Optional[list[str]] = None) -> None:
        """Forget what waits from a node; where it has said which others it sees, what is for another owner then."""
        for topic, waiting in list(self._waiting.items()):
            if view is None or highest(topic, view) != self._node.me:
                for key in [key for key in waiting if key[0] == node]:
                    del waiting[key]
                if not waiting:
                    del self._waiting[topic]

    def close(self, estate: Estate) -> None:
        """Nobody is attached to it any more."""
        if self.open.get(estate.topic) is estate:
            del self.open[estate.topic]

    def expire(self, now: float) -> None:
        """Forget what is over (``now``: monotonic seconds)."""
        for estate in self.open.values():
            estate.seating.expire(now)
        if self._node.settled:  # what came late, and is not followed by a change of the view
            for topic in self._late & self._bequests.keys():
                del self._bequests[topic]
            self._late = set(self._bequests)

    def counted(self, number: int) -> Counted:
        """The answer to a census of that number."""
        rooms = [room for room in self._node.back.active_topics() if room.topic in self.open]
        return Counted(number, [(room.topic, room.users, self.open[room.topic].journal.age) for room in rooms])
