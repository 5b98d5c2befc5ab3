"""What a schedule is about: one supervisor and all that it makes, their clients, and a record of what happened."""

import asyncio
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Optional, Union
from unittest.mock import patch

from msgspec import UNSET, Struct, UnsetType

from chat_actors import actor, fanout, outbox, session, topic
from chat_actors.actor import MOST_CRASHES
from chat_actors.clock import Clock
from chat_actors.history import Limits
from chat_actors.inbox import open_inbox
from chat_actors.outbox import Outbox, StallWatch, open_outbox
from chat_actors.session import Session
from chat_actors.settings import Settings
from chat_actors.supervisor import ListTopics, Supervisor, SupervisorEvent, _Active
from chat_actors.topic import Join, Leave, Replaced, Topic, TopicEvent
from tests.simulation.loop import ShuffledLoop
from tests.simulation.peer import Peer

BOOM = "boom"  # the name of one whose join fails in the topic
SETTINGS = Settings()

Rooms = list[tuple[str, int]]  # topics with their users, oldest topic first


class Boom(Exception):
    """A bug, on purpose."""


class Crash(Struct):
    """An event whose handling raises."""


class Life:
    """One life of a topic: the topic, and what it handled, in order, with its time (monotonic seconds) for each."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.journal: list[tuple[TopicEvent, float]] = []
        self.crashes = 0
        self._handle = topic.handle
        topic.handle = self.handle  # type: ignore[method-assign]

    def handle(self, event: TopicEvent) -> None:
        if isinstance(event, Crash) or (type(event) is Join and event.username == BOOM):
            self.crashes += 1
            raise Boom
        self.journal.append((event, self.topic._now))
        self._handle(event)

    @property
    def may_give_up(self) -> bool:
        return self.crashes > MOST_CRASHES


class Observed(Supervisor):
    """The supervisor, with a record of the topics it made and of the lists it was asked for."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.lives: list[Life] = []
        self.lists: dict[Outbox, list[Optional[Rooms]]] = {}  # those due to each; None where a crash leaves it open
        self._inside: dict[str, set[Outbox]] = {}  # by topic: joined and not left, in the order of the mailbox
        super().__init__(limits, clock)

    def handle(self, event: SupervisorEvent) -> None:
        super().handle(event)
        if type(event) is Join:
            self._inside.setdefault(event.topic, set()).add(event.outbox)
        elif type(event) is Leave or type(event) is Replaced:
            for topic, outboxes in self._inside.items():
                if event.outbox in outboxes:
                    outboxes.remove(event.outbox)
                    if not outboxes:
                        del self._inside[topic]
                    break
        elif type(event) is ListTopics:
            crashed = any(life.may_give_up for life in self.lives)
            rooms = [(topic, len(outboxes)) for topic, outboxes in self._inside.items()]
            self.lists.setdefault(event.outbox, []).append(None if crashed else rooms)

    def _create(self, name: str) -> _Active:
        active = super()._create(name)
        self.lives.append(Life(active.topic))
        return active


class Client:
    """One connection: its peer, its session, and what the peer has said since it said its join."""

    def __init__(self, number: int, peer: Peer, task: "asyncio.Task[None]") -> None:
        self.number = number
        self.peer = peer
        self.task = task
        self.username = self.topic = ""  # until it has said its join
        self.said: list[tuple[str, Union[str, UnsetType]]] = []  # messages, each with its ref
        self.outbox: Optional[Outbox] = None  # once its handler has begun

    def joined(self) -> Optional[dict[str, Any]]:
        """The frame by which it knows that it is a member."""
        return next((frame for frame in self.peer.frames if frame["type"] == "joined"), None)


class Log:
    """Stands in for loguru: nothing is written, and errors are kept (a crash on purpose is counted)."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.crashes = 0
        self._exception: Optional[BaseException] = None

    def bind(self, **fields: Any) -> "Log":
        return self

    def opt(self, exception: BaseException) -> "Log":
        self._exception = exception
        return self

    def debug(self, message: str) -> None: ...

    info = debug

    def error(self, message: str) -> None:
        exception, self._exception = self._exception, None
        if isinstance(exception, Boom):
            self.crashes += 1
        elif exception is not None:
            self.errors.append("".join([message, ":\n", *traceback.format_exception(None, exception, None)]))
        elif message != "topic removed after too many crashes":
            self.errors.append(message)


LOG = Log()


@contextmanager
def small_bounds() -> Iterator[None]:
    """The package with a counting log, and with bounds so small that a short program reaches them."""
    bounds = {actor: {"ROOM": 3}, topic: {"TURN_EVENTS": 4}, fanout: {"MOST_FRAMES": 3, "STRIDE_MEMBERS": 1}}
    with ExitStack() as stack:
        for module, values in bounds.items():
            stack.enter_context(patch.multiple(module, **values))
        for module in (actor, session, outbox):
            stack.enter_context(patch.object(module, "logger", LOG))
        yield


class World:
    """One supervisor in one loop; ``limits`` are those of its topics."""

    def __init__(
        self, loop: ShuffledLoop, limits: Limits, supervisor: type[Observed], session: type[Session]
    ) -> None:
        LOG.__init__()  # type: ignore[misc]
        self.loop = loop
        self.limits = limits
        self.clock = Clock()
        self.clock.monotonic = self.clock.wall = loop.time
        self.supervisor = supervisor(limits, self.clock)
        self.stopped = False
        self.clients: list[Client] = []
        self.watch = StallWatch(self.clock, SETTINGS.outbox_bytes, SETTINGS.stall_timeout, limits.message_ttl)
        self._session = session

    def connect(self, peer: Peer, direct: bool) -> Client:
        """Open a connection as ``Chat`` does."""

        async def handler() -> None:
            protocol = peer if direct else None
            client.outbox = open_outbox(self.watch, protocol, peer.receive, peer.send)
            inbox = open_inbox(protocol, client.outbox.receive, SETTINGS.frame_bytes)
            await self._session(inbox, client.outbox, self.supervisor.mailbox, SETTINGS, "peer").run()

        task = self.loop.create_task(handler())
        task.add_done_callback(lambda _: peer.hang_up())  # as uvicorn does
        client = Client(len(self.clients), peer, task)
        self.clients.append(client)
        return client
