"""The supervisor: which topics there are, and which of them each member is in.

Every join, leave and list passes through this one mailbox, so one order decides them all: a topic is active from
the first join until the leave that empties it, and no join can meet a topic that is on its way out.
"""

import asyncio
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

RETRY_MS = 1000  # for the server to be there again, before the first member comes back
RETRY_STEP_MS = 2  # between one member and the next

# What the actor receives.


class ListTopics(Struct, eq=False):
    """Tell the active topics to the one who asks."""

    outbox: Outbox


class _Active(Struct, eq=False):
    """A topic and how many are in it: joins forwarded less leaves forwarded."""

    topic: TopicActor
    users: int = 0


class TopicEnded(Struct, eq=False):
    """The task of a topic has ended: because it was retired, or because it gave up."""

    active: _Active


SupervisorEvent = Union[Join, Leave, Replaced, Restore, ListTopics, TopicEnded]


class Supervisor(Actor[SupervisorEvent]):
    """The actor."""

    def __init__(self, settings: Settings, clock: Clock, counters: Counters) -> None:
        self._settings = settings
        self._counters = counters
        self._topics: dict[str, _Active] = {}  # the active ones, oldest first
        self._where: dict[Outbox, _Active] = {}  # every member: joined, and not left
        self._tasks: set[asyncio.Task[None]] = set()  # of all topics that have not ended yet
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
        active, most = self._topics.get(event.topic), self._settings.topics
        if active is None and len(self._topics) >= most:
            event.refuse(CloseCode.OVERLOADED, f"the server has {most} topics already, join one of them")
            return
        if active is None:
            active = self._create(event.topic)
        active.users += 1
        self._where[event.outbox] = active
        self._list = None
        active.topic.post(event)

    def _restore(self, event: Restore) -> None:
        active = self._topics.get(event.topic) or self._create(event.topic)
        for member in event.members:
            active.users += 1
            self._where[member.outbox] = active
        self._list = None
        active.topic.post(event)

    def _leave(self, event: Leave) -> None:
        active = self._take_out(event.outbox)
        if active is not None:
            active.topic.post(event)
            self._retire_if_empty(active)

    def _replaced(self, event: Replaced) -> None:
        active = self._take_out(event.outbox)
        if active is not None:  # the one who took its place may have left already
            self._retire_if_empty(active)

    def _take_out(self, outbox: Outbox) -> Optional[_Active]:
        """Count a member out of its topic; None if it was counted out before."""
        active = self._where.pop(outbox, None)
        if active is not None:
            active.users -= 1
            self._list = None
        return active

    def _tell_topics(self, event: ListTopics) -> None:
        if self._list is None:
            self._list = finished(Topics.of(self.rooms()))
        event.outbox.write_answer(self._list)

    def open(self, name: str) -> TopicActor:
        """The actor that stands for a topic in this process."""
        return Topic(name, self._settings, self._clock, self._counters, self.post)

    def note(self, topic: str, what: str) -> None:
        """Log what has become of a topic."""
        self._log.bind(topic=topic).info(what)

    def _create(self, name: str) -> _Active:
        active = _Active(self.open(name))
        self._topics[name] = active
        task = active.topic.task
        self._tasks.add(task)
        task.add_done_callback(lambda _: self.post(TopicEnded(active)))
        self.note(name, "topic created")
        return active

    def _retire_if_empty(self, active: _Active) -> None:
        """End a topic behind its last leave; a join after this meets a new topic of that name."""
        if active.users:
            return
        active.topic.stop()
        if self._topics.get(active.topic.name) is active:
            del self._topics[active.topic.name]
            self.note(active.topic.name, "topic removed")

    def _topic_ended(self, active: _Active) -> None:
        self._tasks.discard(active.topic.task)
        if active.users and self._topics.get(active.topic.name) is active:  # it gave up
            del self._topics[active.topic.name]
            self._list = None
            self._log.bind(topic=active.topic.name).error("topic removed after too many crashes")
        for join in active.topic.stranded:
            if self._where.get(join.outbox) is active:  # it has not left in the meantime
                active.users -= 1
                self._join(join)

    def rooms(self) -> list[TopicUsers]:
        """The active topics, oldest first."""
        return [TopicUsers(name, active.users) for name, active in self._topics.items()]

    def statistics(self) -> list[TopicStatistics]:
        """A snapshot of the active topics, oldest first."""
        return [active.topic.statistics() for active in self._topics.values()]

    def member(self, outbox: Outbox) -> Optional[tuple[str, str]]:
        """The topic and the username of a connection; None if it is not a member."""
        active = self._where.get(outbox)
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
        """Have every member of every topic closed with ``code``."""
        first = RETRY_MS
        for active in self._topics.values():
            active.topic.post(Shutdown(first, RETRY_STEP_MS, code))
            first += active.users * RETRY_STEP_MS

    async def ended(self) -> None:
        """Have every member told that the server restarts, and see every topic end."""
        self.dismiss(CloseCode.RESTARTING)
        for name, active in self._topics.items():
            active.topic.stop()
            self.note(name, "topic removed")
        if self._tasks:
            await asyncio.wait(self._tasks)
