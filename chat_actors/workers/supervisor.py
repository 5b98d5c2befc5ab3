"""The supervisor of a worker: it opens a topic only with a claim, and lists those of all workers."""

import time
from typing import Optional

from msgspec import Struct

from chat_actors.actors.events import Join
from chat_actors.actors.handover import Elsewhere
from chat_actors.actors.outbox import Outbox
from chat_actors.actors.supervisor import RETRY_STEP_MS, ListTopics, Supervisor
from chat_actors.actors.topic import TopicActor
from chat_actors.clock import Clock
from chat_actors.counters import Counters
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import ListedTopic
from chat_actors.settings import Settings
from chat_actors.workers.crew import Crew, Where

RETRY_SECONDS = 0.02  # until a join looks again for the worker of its topic
RETURN_MS = 100  # until the first member of a worker that ends should come to the others,
RETURN_SPREAD_MS = 700  # and after it, the last
LIST_SECONDS = 1.0  # that the list waits for what another worker has announced, and that has not come


class Heard(Struct):
    """Fact that the topics of others have changed, or that the list has waited long enough."""


class WorkerSupervisor(Supervisor):
    """Supervisor of the topics that live in this worker."""

    def __init__(self, crew: Crew, settings: Settings, clock: Clock, counters: Counters) -> None:
        self._crew = crew
        self._born: dict[str, int] = {}  # monotonic nanoseconds, by topic
        self._changes = 0  # of the others, that the list has
        self._asking: set[Outbox] = set()  # those who wait for the list
        self._behind: list[Join] = []  # of these, until they have it
        self._list_by: Optional[float] = None  # monotonic seconds, until which those who asked wait at most
        super().__init__(settings, clock, counters)

    def handle(self, event: object) -> None:
        if type(event) is not Heard:  # that makes a turn, which is all
            super().handle(event)  # type: ignore[arg-type]  # all others are a supervisor's

    def hear(self) -> None:
        """Look again at the list that somebody waits for."""
        if self._askers:
            self.mailbox.put_nowait(Heard())  # type: ignore[arg-type]  # an event of this supervisor alone

    def answer_list(self, event: ListTopics) -> None:
        super().answer_list(event)
        self._asking.add(event.outbox)

    def _join(self, event: Join) -> None:
        if event.outbox in self._asking:  # the connection must not leave, nor hear of the topic, before the list
            self._behind.append(event)
        else:
            super()._join(event)

    # The topics of this worker

    def may_open(self, join: Join) -> bool:
        where = self._crew.find(join.topic, join.arrived)
        if where is Where.LATER:
            self._clock.call_later(RETRY_SECONDS, self.post, join)
            return False
        if where is not Where.HERE:
            join.reply.set_exception(Elsewhere(where.road))
            return False
        # Counted before the others are: of two that open the last topic at once both may be refused.
        self._crew.count_topics(len(self._topics) + 1)
        if self.within_limit(join, self._crew.all_topics() - 1):
            return True
        self._crew.release(join.topic)
        self._crew.count_topics(len(self._topics))
        return False

    def open(self, name: str) -> TopicActor:
        self._born[name] = time.monotonic_ns()
        return super().open(name)

    def closed(self, name: str) -> None:
        self._crew.release(name)
        self._crew.count_topics(len(self._topics))

    def announce(self, topics: set[str]) -> None:
        users = {name: self._topics[name].users if name in self._topics else 0 for name in topics}
        self._crew.announce([(name, self._born.get(name, 0), count) for name, count in users.items()])
        for name in topics - self._topics.keys():
            self._born.pop(name, None)

    def retry(self) -> tuple[float, float]:
        users = len(self._active_of)
        if not users or self._crew.is_last():
            return super().retry()
        return RETURN_MS, min(RETRY_STEP_MS, RETURN_SPREAD_MS / users)  # the others are there

    async def ended(self) -> None:
        for join in self._behind:
            join.refuse(CloseCode.RESTARTING)
        await super().ended()
        names, self._topics = {*self._topics}, {}
        for name in names:
            self.closed(name)
        self.announce(names)

    # The topics of all workers

    def _listed(self) -> list[ListedTopic]:
        own = [(self._born[name], one.listed) for name, one in self._topics.items() if one.listed is not None]
        others = [(other.born, other.listed) for other in self._crew.others()]
        return [listed for _, listed in sorted(own + others, key=lambda topic: topic[0])]

    def topics_frame(self) -> bytes:
        if self._changes != self._crew.changes:
            self._changes, self._list = self._crew.changes, None
        return super().topics_frame()

    async def _answer_askers(self) -> None:
        """Answer once this worker knows what the others have announced, or has waited long enough for it."""
        if not self._crew.is_current():
            now = self._clock.monotonic()
            if self._list_by is None:
                self._list_by = now + LIST_SECONDS
                self._clock.call_later(LIST_SECONDS, self.hear)
            if now < self._list_by:
                return
        self._list_by = None
        self._asking.clear()
        behind, self._behind = self._behind, []
        await super()._answer_askers()
        for join in behind:
            self.post(join)

    async def current(self) -> bool:
        """Wait like the list; return whether this worker knows what the others have announced."""
        for _ in range(round(LIST_SECONDS / RETRY_SECONDS)):
            if self._crew.is_current():
                return True
            await self._clock.sleep(RETRY_SECONDS)
        return self._crew.is_current()

    def is_full(self) -> bool:
        most = self._settings.topic_members
        if not most or self._crew.all_topics() < self._settings.topics:
            return False
        return all(one.users >= most for one in self._topics.values()) and all(
            other.users >= most for other in self._crew.others()
        )
