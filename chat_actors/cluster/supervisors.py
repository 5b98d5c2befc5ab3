"""The two supervisors of a node: of the relays that its members are in, and of the topics that it owns."""

from typing import TYPE_CHECKING, Any, Union, cast

from msgspec import Struct

from chat_actors.actors.events import Join, Restore, Send
from chat_actors.actors.supervisor import ListTopics, Supervisor
from chat_actors.actors.topic import Topic, TopicActor
from chat_actors.cluster.estate import Estate
from chat_actors.cluster.relay import Relay
from chat_actors.cluster.seats import Seat
from chat_actors.protocol.codes import CloseCode

if TYPE_CHECKING:
    from chat_actors.cluster.node import Node


class Front(Supervisor):
    """The supervisor that the sessions know: its rooms are relays."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        super().__init__(node.settings, node.clock, node.counters)

    def open(self, name: str) -> TopicActor:
        return Relay(name, self._node)

    def _join(self, event: Join) -> None:
        if self._node.in_minority():
            event.refuse(CloseCode.OVERLOADED, "this node sees fewer than half of its cluster")
        else:
            super()._join(event)

    def answer_list(self, event: ListTopics) -> None:
        self._node.registry.census(event)

    def note(self, topic: str, event: str) -> None:
        """A relay that comes or goes is no news: its topic lives elsewhere."""


class CountTopics(Struct, eq=False):
    """Tell a node which topics are owned here, once all that was posted before is done."""

    node: str
    number: int


class Back(Supervisor):
    """The supervisor of the topics that this node owns."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._estate: Estate  # that a topic is opened for
        super().__init__(node.settings, node.clock, node.counters)

    def count(self, event: CountTopics) -> None:
        """Have a node told, behind all that was posted before."""
        self.mailbox.put_nowait(event)  # type: ignore[arg-type]  # an event of this supervisor alone

    def pass_on(self, event: Union[Send, Restore]) -> None:
        """Have an event taken to its topic, behind all that was posted before."""
        self.mailbox.put_nowait(event)  # type: ignore[arg-type]  # the same

    def handle(self, event: Any) -> None:
        if type(event) is Send:
            seat = cast(Seat, event.outbox)
            seat.estate.passed()
            active = self._active_of.get(seat)
            if active is not None:  # it has not left
                active.topic.post(event)
        elif type(event) is CountTopics:
            self._node.send(event.node, self._node.estates.counted(event.number))
        else:
            super().handle(event)

    def open(self, name: str) -> TopicActor:
        topic = Topic(name, self._settings, self._clock, self._counters, self.post)
        estate = self._estate
        estate.bind(topic)
        topic.task.add_done_callback(lambda _: estate.unbind(topic))
        return topic

    def _join(self, event: Join) -> None:
        seat = cast(Seat, event.outbox)
        self._estate = seat.estate
        super()._join(event)
        seat.carrier = seat.estate.voice  # of the epoch that it joins

    def _restore(self, event: Restore) -> None:
        seats = [cast(Seat, member.outbox) for member in event.members]
        self._estate = estate = seats[0].estate
        estate.restored()
        super()._restore(event)
        for seat in seats:
            seat.carrier = estate.voice

    def undelivered(self, event: Any) -> None:
        super().undelivered(event)
        if type(event) is Send:
            cast(Seat, event.outbox).estate.passed()
        elif type(event) is Restore:
            cast(Seat, event.members[0].outbox).estate.restored()
