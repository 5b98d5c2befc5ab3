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
from chat_actors.actors.fanout import STRIDE_BYTES
from chat_actors.actors.outbox import Outbox
from chat_actors.actors.topic import Topic, TopicActor
from chat_actors.clock import Clock
from chat_actors.counters import Counters, TopicStatistics
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import ListedTopic, TopicUsers, finished_topics
from chat_actors.settings import Settings

RETRY_MS = 1000  # after a shutdown, until the first member should reconnect: the time of a restart
STRIDE_ENDS = 64  # topics that are ended before other tasks run
RETRY_STEP_MS = 2  # from one member to the next

# Events that the supervisor receives, besides those of ``events``.


class ListTopics(Struct, eq=False):
    """Request to send the active topics to an outbox."""

    outbox: Outbox


class _Active(Struct, eq=False):
    """Active topic and the count of its members."""

    topic: TopicActor
    users: int = 0  # joins forwarded to the topic, less leaves
    listed: Optional[ListedTopic] = None  # as it was at the end of the last turn; None before that


class TopicEnded(Struct, eq=False):
    """Fact that the task of a topic has ended: after its last leave, or after too many failures."""

    active: _Active


SupervisorEvent = Union[Join, Leave, Replaced, Restore, ListTopics, TopicEnded]


class Supervisor(Actor[SupervisorEvent]):
    """Actor that owns the set of active topics: creates and ends them, and forwards joins and leaves to them.

    ``_active_of`` says who is a member of what. The counts follow from it, and ``_repair`` makes them so again.
    """

    def __init__(self, settings: Settings, clock: Clock, counters: Counters) -> None:
        self._settings = settings
        self._counters = counters
        self._topics: dict[str, _Active] = {}  # by name, oldest first
        self._active_of: dict[Outbox, _Active] = {}  # for each member
        self._tasks: set[asyncio.Task[None]] = set()  # of the topics that have not ended
        self._changed: set[_Active] = set()  # in this turn
        self._askers: list[Outbox] = []  # of this turn, for the list
        self._list: Optional[bytes] = None  # the answer to them, until a join or leave changes it
        super().__init__(clock, actor="supervisor")

    async def turn(self, event: SupervisorEvent) -> None:
        """Handle the mail that waits. Who asked for the list gets it as it is then: one for all."""
        await super().turn(event)
        for active in self._changed:
            active.listed = ListedTopic(active.topic.name, active.users)
        if self._changed:
            self.announce({active.topic.name for active in self._changed})
            self._changed.clear()
        if self._askers:
            await self._answer_askers()

    async def _answer_askers(self) -> None:
        """Write the list to all who have asked, and let other tasks run between; a subclass may do so later."""
        askers, self._askers = self._askers, []
        answer, written = self.topics_frame(), 0
        for outbox in askers:
            outbox.write_answer(answer)
            written += len(answer)
            if written > STRIDE_BYTES:
                written = 0
                await asyncio.sleep(0)

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
            self.answer_list(event)
        elif type(event) is TopicEnded:
            self._topic_ended(event.active)
        else:
            raise TypeError(f"not an event of the supervisor: {type(event)}")

    def _join(self, event: Join) -> None:
        if event.reply.done():  # nobody waits for it any more
            return
        active = self._topics.get(event.topic)
        if active is None:
            if not self.may_open(event):
                return
            active = self._create(event.topic)
        self._count_in(event.outbox, active)
        active.topic.post(event)

    def may_open(self, join: Join) -> bool:
        """Return whether a join may open its topic here; answer it if not."""
        return self.within_limit(join, len(self._topics))

    def within_limit(self, join: Join, topics: int) -> bool:
        """Return whether there may be one more than so many topics; refuse the join if not."""
        most = self._settings.topics
        if topics >= most:
            join.refuse(CloseCode.OVERLOADED, f"too many topics ({most}): join an active topic")
        return topics < most

    def _restore(self, event: Restore) -> None:
        active = self._topics.get(event.topic) or self._create(event.topic)
        for member in event.members:
            self._count_in(member.outbox, active)
        active.topic.post(event)

    def _leave(self, event: Leave) -> None:
        active = self._active_of.get(event.outbox)
        if active is not None:
            active.topic.post(event)
            self._count_out(event.outbox)

    def _replaced(self, event: Replaced) -> None:
        if event.outbox in self._active_of:  # else the connection that resumed the member has left already
            self._count_out(event.outbox)

    def _count_in(self, outbox: Outbox, active: _Active) -> None:
        self._active_of[outbox] = active
        active.users += 1
        self._note_change(active)

    def _count_out(self, outbox: Outbox) -> None:
        """Count a member out of its topic, and end that after its last leave."""
        active = self._active_of.pop(outbox)
        active.users -= 1
        self._note_change(active)
        if not active.users:
            self._retire(active)

    def _note_change(self, active: _Active) -> None:
        self._changed.add(active)
        self._list = None

    def _repair(self, outbox: Outbox) -> None:
        """Remove a member whose join or leave failed at some step, and count all others anew."""
        active = self._active_of.pop(outbox, None)
        if active is not None:
            active.topic.post(Leave(outbox, CloseCode.CRASHED.name.lower()))
        for one in (*self._topics.values(), *self._active_of.values()):
            one.users = 0
            self._note_change(one)
        for one in self._active_of.values():
            one.users += 1
        for one in [one for one in self._topics.values() if not one.users]:
            self._retire(one)

    def answer_list(self, event: ListTopics) -> None:
        """Note for the end of the turn that an outbox is to get the list; a subclass may answer otherwise."""
        self._askers.append(event.outbox)

    def topics_frame(self) -> bytes:
        """Return the finished frame with the active topics, oldest first: the same object until one changes."""
        if self._list is None:
            self._list = finished_topics(self._listed())
        return self._list

    def topics_json(self) -> bytes:
        """Return the active topics as a JSON array, oldest first."""
        return b"[%b]" % b",".join([one.item for one in self._listed()])

    def _listed(self) -> list[ListedTopic]:
        return [active.listed for active in self._topics.values() if active.listed is not None]

    def open(self, name: str) -> TopicActor:
        """Start the actor of a topic; a subclass may start another kind."""
        return Topic(name, self._settings, self._clock, self._counters, self.post)

    def closed(self, name: str) -> None:
        """Do what is to be done once a topic is active here no more; nothing by default."""

    def announce(self, topics: set[str]) -> None:
        """Tell others what has changed in this turn, before any member hears of it; nobody by default."""

    def note(self, topic: str, event: str) -> None:
        """Log the creation or the removal of a topic."""
        self._log.bind(topic=topic).info(event)

    def _create(self, name: str) -> _Active:
        active = self._topics[name] = _Active(self.open(name))
        task = active.topic.task
        self._tasks.add(task)
        task.add_done_callback(lambda _: self.post(TopicEnded(active)))
        self.note(name, "topic created")
        return active

    def _retire(self, active: _Active) -> None:
        """End an empty topic. The next join creates a new topic of that name."""
        active.topic.stop()
        if self._topics.get(active.topic.name) is active:
            del self._topics[active.topic.name]
            self.note(active.topic.name, "topic removed")
            self.closed(active.topic.name)

    def _topic_ended(self, active: _Active) -> None:
        self._tasks.discard(active.topic.task)
        if active.users and self._topics.get(active.topic.name) is active:  # it was not retired
            del self._topics[active.topic.name]
            self._note_change(active)
            self._log.bind(topic=active.topic.name).error("topic removed after too many failures")
            self.closed(active.topic.name)
        for join in active.topic.stranded:
            if self._active_of.get(join.outbox) is active:  # else it has left meanwhile
                del self._active_of[join.outbox]
                active.users -= 1
                self._join(join)

    def is_full(self) -> bool:
        """Return whether no member can join: there are as many topics as there may be, and each is full."""
        most = self._settings.topic_members
        at_most = len(self._topics) >= self._settings.topics and most > 0
        return at_most and all(active.users >= most for active in self._topics.values())

    def active_topics(self) -> list[TopicUsers]:
        """Return the active topics with the counts of their members, oldest first."""
        return [TopicUsers(name, active.users) for name, active in self._topics.items()]

    def statistics(self) -> Iterator[TopicStatistics]:
        """Return snapshots of the topics that are active now, oldest first, each made when it is taken.

        Joins and leaves may come in between.
        """
        return (active.topic.statistics() for active in list(self._topics.values()))

    def crashed(self, event: object, exception: Exception) -> None:
        super().crashed(event, exception)
        if type(event) is Join or type(event) is Restore:
            event.refuse(CloseCode.CRASHED)
        if type(event) is Join or type(event) is Leave or type(event) is Replaced:
            self._repair(event.outbox)

    def undelivered(self, event: SupervisorEvent) -> None:
        stranded = event.active.topic.stranded if type(event) is TopicEnded else [event]
        for one in stranded:
            if type(one) is Join or type(one) is Restore:
                one.refuse(CloseCode.RESTARTING)

    def dismiss(self, code: CloseCode) -> None:
        """Post a shutdown to every topic: it closes its members with ``code``."""
        for _ in self._shutdowns(code):
            pass

    def _shutdowns(self, code: CloseCode) -> Iterator[_Active]:
        """Post a shutdown to each topic, as it is taken."""
        first, step = self.retry()
        for active in self._topics.values():
            active.topic.post(Shutdown(first, step, code))
            first += active.users * step
            yield active

    def retry(self) -> tuple[float, float]:
        """Return when the first member should reconnect after a shutdown, and the next behind it, in milliseconds."""
        return RETRY_MS, RETRY_STEP_MS

    async def ended(self) -> None:
        """Close every member with RESTARTING, and wait until every topic has ended."""
        for place, active in enumerate(self._shutdowns(CloseCode.RESTARTING), 1):
            active.topic.stop()
            self.note(active.topic.name, "topic removed")
            if not place % STRIDE_ENDS:
                await asyncio.sleep(0)
        if self._tasks:
            await asyncio.wait(self._tasks)
