"""The world of a schedule: one supervisor and its topics, their clients, and a record of the events."""

import asyncio
import inspect
from typing import Any, Optional, Union

from msgspec import Struct, UnsetType

from chat_actors.actors.base import MAX_CRASHES
from chat_actors.actors.events import Join, Leave, More, Replaced, Restore, Send, TopicEvent
from chat_actors.actors.followers import Follower
from chat_actors.actors.outbox import Outbox
from chat_actors.actors.supervisor import ListTopics, Supervisor, SupervisorEvent, _Active
from chat_actors.actors.topic import Topic
from chat_actors.clock import Clock
from chat_actors.connection import plain
from chat_actors.connection.admission import Authenticated
from chat_actors.connection.base import Connection, Sweep
from chat_actors.connection.plain import PlainConnection
from chat_actors.connection.session import Session
from chat_actors.connection.websocket import WebSocket
from chat_actors.counters import Counters
from chat_actors.settings import Settings
from tests.tools.simulation.loop import ShuffledLoop
from tests.tools.simulation.model import Handled, Said, Told, TurnEnded
from tests.tools.simulation.peer import Peer
from tests.tools.simulation.prepared import Boom

BOOM = "boom"  # the name of one whose join fails in the topic

Rooms = list[tuple[str, int]]  # topics with their users, oldest topic first


class Crash(Struct):
    """Event whose handler raises."""


class Epoch:
    """One epoch of a topic: its actor, and what it handled, in order, with its time (monotonic seconds) for each."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.journal: list[tuple[Handled, float]] = []
        self.crashes = 0
        self._handle, self._turn, self._joined = topic.handle, topic.turn, topic._joined
        topic.handle, topic.turn = self.handle, self.turn  # type: ignore[method-assign]
        topic._joined = self.joined  # type: ignore[method-assign]

    def handle(self, event: TopicEvent) -> None:
        if isinstance(event, Crash) or (type(event) is Join and event.username == BOOM):
            self.crashes += 1
            raise Boom
        assert not isinstance(event, Restore)  # that is for clusters
        # What is not wanted is no part of it. A Send is hidden from the garbage collector, and would keep the world.
        if not isinstance(event, More) and not (isinstance(event, Join) and event.reply.done()):
            handled: Handled = Said(event.outbox, event.message, event.ref) if isinstance(event, Send) else event
            self.journal.append((handled, self.topic._now))
        self._handle(event)

    def joined(self, follower: Follower, names: bytes, now: float) -> bytes:
        self.journal.append((Told(follower.join.outbox), now))
        return self._joined(follower, names, now)

    async def turn(self, event: TopicEvent) -> None:
        await self._turn(event)
        self.journal.append((TurnEnded(), self.topic._now))

    @property
    def may_give_up(self) -> bool:
        return self.crashes > MAX_CRASHES


class Observed(Supervisor):
    """Supervisor that records the topics it created and the lists it was asked for."""

    def __init__(self, settings: Settings, clock: Clock, counters: Counters) -> None:
        self.epochs: list[Epoch] = []
        self.lists: dict[Outbox, list[Optional[Rooms]]] = {}  # those due to each; None where a crash leaves it open
        self._asked: list[Outbox] = []
        self._inside: dict[str, set[Outbox]] = {}  # by topic: joined and not left, in the order of the mailbox
        super().__init__(settings, clock, counters)

    def handle(self, event: SupervisorEvent) -> None:
        wanted = type(event) is not Join or not event.reply.done()
        super().handle(event)
        if type(event) is Join and wanted:
            if event.topic in self._inside or len(self._inside) < self._settings.topics:
                self._inside.setdefault(event.topic, set()).add(event.outbox)
        elif type(event) is Leave or type(event) is Replaced:
            for topic, outboxes in self._inside.items():
                if event.outbox in outboxes:
                    outboxes.remove(event.outbox)
                    if not outboxes:
                        del self._inside[topic]
                    break

    def topics_frame(self) -> bytes:
        crashed = any(epoch.may_give_up for epoch in self.epochs)
        rooms = [(topic, len(outboxes)) for topic, outboxes in self._inside.items()]
        for outbox in self._asked:
            self.lists.setdefault(outbox, []).append(None if crashed else rooms)
        self._asked.clear()
        return super().topics_frame()

    def answer_list(self, event: ListTopics) -> None:
        self._asked.append(event.outbox)
        super().answer_list(event)

    def _create(self, name: str) -> _Active:
        active = super()._create(name)
        assert isinstance(active.topic, Topic)
        self.epochs.append(Epoch(active.topic))
        return active


class Client:
    """One connection: its peer, its session, and what the peer has said since it said its join."""

    def __init__(self, number: int, peer: Peer, connection: Connection, session: Session) -> None:
        self.number = number
        self.peer = peer
        self.connection = connection
        self.username = self.topic = ""  # until it has said its join
        self.said: list[tuple[str, Union[str, UnsetType]]] = []  # messages, each with its ref
        self.task: Optional[asyncio.Task[None]] = None  # its handler, on the plain lane
        self.cancelled = False
        self._session = session

    @property
    def ended(self) -> bool:
        """Whether its session has taken leave."""
        return self.connection.receiver is not self._session

    @property
    def began(self) -> bool:
        """Whether its handler serves: in ``Server`` nothing can come between that and the connection's beginning."""
        coroutine: Any = None if self.task is None else self.task.get_coro()
        return coroutine is not None and inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED

    def lines(self) -> list[int]:
        """Where its handler waits: lines of the plain lane's module, the outermost call first."""
        lines = []
        coroutine: Any = None if self.task is None else self.task.get_coro()
        while inspect.iscoroutine(coroutine) and coroutine.cr_frame is not None:
            if coroutine.cr_frame.f_code.co_filename == plain.__file__:
                lines.append(coroutine.cr_frame.f_lineno)
            coroutine = coroutine.cr_await
        return lines

    def joined(self) -> Optional[dict[str, Any]]:
        """The frame by which it knows that it is a member."""
        return next((frame for frame in self.peer.frames if frame["type"] == "joined"), None)


class World:
    """Supervisor in a loop of its own, and its connections."""

    def __init__(
        self, loop: ShuffledLoop, settings: Settings, supervisor: type[Observed], session: type[Session]
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.clock = Clock()
        self.clock.monotonic = self.clock.wall = loop.time
        counters = Counters()
        self.supervisor = supervisor(settings, self.clock, counters)
        self.stopped = False
        self.clients: list[Client] = []
        self.open = 0  # connections whose descriptor is not closed
        self.sweep = Sweep(settings, self.clock, counters, lambda: None)
        self.sweeping = asyncio.create_task(self.sweep.run())
        self.hosted: set[Any] = set()  # the connections that the host counts
        self._session = session
        self._counters = counters

    def connect(self, peer: Peer, direct: bool) -> Client:
        """Open a connection as ``Server`` does."""
        self.open += 1
        connection: Union[WebSocket, PlainConnection]
        if direct:
            connection = WebSocket(peer, self.hosted, self.sweep, self._closed)
        else:
            connection = PlainConnection(peer.receive, peer.send, True, self.sweep, self._closed)
        session = self._session(
            connection,
            self.supervisor.mailbox,
            self.settings,
            self._counters,
            self.clock,
            Authenticated(),
            "peer",
            None,
        )
        client = Client(len(self.clients), peer, connection, session)
        if isinstance(connection, PlainConnection):
            client.task = self.loop.create_task(connection.serve())
            client.task.add_done_callback(lambda _: peer.hang_up())  # as uvicorn does
        self.clients.append(client)
        return client

    def _closed(self) -> None:
        self.open -= 1
