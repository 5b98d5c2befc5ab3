"""The supervisor: the active topics, and the topic of each member.

Every join, leave and list passes through this one mailbox, so that one order decides them all: a topic is active from
its first join until its last leave, and no join reaches a topic that is about to end.
"""

import asyncio
from collections.abc import Iterator
from typing import Optional, Union

from msgspec import Struct

from chat_actors.actors.base import Actor
from chat_actors.actors.events import Join, Leave, Replaced, Restore, Shutdown
from chat_actors.actors.outbox import Outbox
from chat_actors.actors.topic import Topic, TopicActor
from chat_actors.clock import Clock
from chat_actors.counters import Counters, TopicStatistics
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Topics, TopicUsers, finished
from chat_actors.settings import Settings

RETRY_MS = 1000  # after a shutdown, until the first member should reconnect: the time of a restart
RETRY_STEP_MS = 2  # from one member to the next

# Events that the supervisor receives, besides those of ``events``.


class ListTopics(Struct, eq=False):
    """Request to send the active topics to an outbox."""

    outbox: Outbox


class _Active(Struct, eq=False):
    """Active topic and the count of its members."""

    topic: TopicActor
    users: int = 0  # joins forwarded to the topic, less leaves


class TopicEnded(Struct, eq=False):
    """Fact that the task of a topic has ended: after its last leave, or after too many failures."""

    active: _Active


SupervisorEvent = Union[Join, Leave, Replaced, Restore, ListTopics, TopicEnded]


class Supervisor(Actor[SupervisorEvent]):
    """Actor that owns the set of active topics: creates and ends them, and forwards joins and leaves to them."""

    def __init__(self, settings: Settings, clock: Clock, counters: Counters) -> None:
        self._settings = settings
        self._counters = counters
        self._topics: dict[str, _Active] = {}  # by name, oldest first
        self._active_of: dict[Outbox, _Active] = {}  # for each member
        self._tasks: set[asyncio.Task[None]] = set()  # of the topics that have not ended
        self._list: Optional[bytes] = None  # the answer to /list, until a join or leave changes it
        super().__init__(clock, actor="supervisor")

    def handle(self, event: SupervisorEvent) -> None:
        if type(event) is Join:
            self._join(event)
        elif type(event) is Leave:
            self._leave(event)
        elif type(event) is Replaced:
            self._replaced(event)
        elif type(event) is Restore:
            self._restore(event)
        elif type(event) is ListTopics:
            self._tell_topics(event)
        elif type(event) is TopicEnded:
            self._topic_ended(event.active)
        else:
            raise TypeError(f"not an event of the supervisor: {type(event)}")

    def _join(self, event: Join) -> None:
        active, max_topics = self._topics.get(event.topic), self._settings.topics
        if active is None and len(self._topics) >= max_topics:
            event.refuse(CloseCode.OVERLOADED, f"too many topics ({max_topics}): join an active topic")
            return
        if active is None:
            active = self._create(event.topic)
        active.users += 1
        self._active_of[event.outbox] = active
        self._list = None
        active.topic.post(event)

    def _restore(self, event: Restore) -> None:
        active = self._topics.get(event.topic) or self._create(event.topic)
        for member in event.members:
            active.users += 1
            self._active_of[member.outbox] = active
        self._list = None
        active.topic.post(event)

    def _leave(self, event: Leave) -> None:
        active = self._take_out(event.outbox)
        if active is not None:
            active.topic.post(event)
            self._retire_if_empty(active)

    def _replaced(self, event: Replaced) -> None:
        active = self._take_out(event.outbox)
        if active is not None:  # the connection that resumed the member may have left already
            self._retire_if_empty(active)

    def _take_out(self, outbox: Outbox) -> Optional[_Active]:
        """Count a member out of its topic and return that; None if the outbox is not a member."""
        active = self._active_of.pop(outbox, None)
        if active is not None:
            active.users -= 1
            self._list = None
        return active

    def _tell_topics(self, event: ListTopics) -> None:
        if self._list is None:
            self._list = finished(Topics.of(self.active_topics()))
        event.outbox.write_answer(self._list)

    def open(self, name: str) -> TopicActor:
        """Start the actor of a topic; a subclass may start another kind."""
        return Topic(name, self._settings, self._clock, self._counters, self.post)

    def note(self, topic: str, event: str) -> None:
        """Log the creation or the removal of a topic."""
        self._log.bind(topic=topic).info(event)

    def _create(self, name: str) -> _Active:
        active = _Active(self.open(name))
        self._topics[name] = active
        task = active.topic.task
        self._tasks.add(task)
        task.add_done_callback(lambda _: self.post(TopicEnded(active)))
        self.note(name, "topic created")
        return active

    def _retire_if_empty(self, active: _Active) -> None:
        """End a topic after its last leave. The next join creates a new topic of that name."""
        if active.users:
            return
        active.topic.stop()
        if self._topics.get(active.topic.name) is active:
            del self._topics[active.topic.name]
            self.note(active.topic.name, "topic removed")

    def _topic_ended(self, active: _Active) -> None:
        self._tasks.discard(active.topic.task)
        if active.users and self._topics.get(active.topic.name) is active:  # it was not retired
            del self._topics[active.topic.name]
            self._list = None
            self._log.bind(topic=active.topic.name).error("topic removed after too many failures")
        for join in active.topic.stranded:
            if self._active_of.get(join.outbox) is active:  # else it has left meanwhile
                active.users -= 1
                self._join(join)

    def active_topics(self) -> list[TopicUsers]:
        """Return the active topics with the counts of their members, oldest first."""
        return [TopicUsers(name, active.users) for name, active in self._topics.items()]

    def statistics(self) -> Iterator[TopicStatistics]:
        """Return snapshots of the topics that are active now, oldest first, each made when it is taken.

        Joins and leaves may come in between.
        """
        return (active.topic.statistics() for active in list(self._topics.values()))

    def member(self, outbox: Outbox) -> Optional[tuple[str, str]]:
        """Return the topic and the username of an outbox; None if it is not a member."""
        active = self._active_of.get(outbox)
        username = None if active is None else active.topic.username(outbox)
        return None if active is None or username is None else (active.topic.name, username)

    def crashed(self, event: SupervisorEvent, exception: Exception) -> None:
        super().crashed(event, exception)
        if type(event) is Join or type(event) is Restore:
            event.refuse(CloseCode.CRASHED)

    def undelivered(self, event: SupervisorEvent) -> None:
        stranded = event.active.topic.stranded if type(event) is TopicEnded else [event]
        for one in stranded:
            if type(one) is Join or type(one) is Restore:
                one.refuse(CloseCode.RESTARTING)

    def dismiss(self, code: CloseCode) -> None:
        """Post a shutdown to every topic: it closes its members with ``code``."""
        first = RETRY_MS
        for active in self._topics.values():
            active.topic.post(Shutdown(first, RETRY_STEP_MS, code))
            first += active.users * RETRY_STEP_MS

    async def ended(self) -> None:
        """Close every member with RESTARTING, and wait until every topic has ended."""
        self.dismiss(CloseCode.RESTARTING)
        for name, active in self._topics.items():
            active.topic.stop()
            self.note(name, "topic removed")
        if self._tasks:
            await asyncio.wait(self._tasks)
