"""The server of one application: the lifetime of its actors, and the ASGI endpoint that opens a session.

The actors are created when they are first needed, in the event loop that runs then.
"""

import asyncio
import heapq
from typing import TYPE_CHECKING, Optional

from loguru import logger

from chat_actors.actors.supervisor import Supervisor
from chat_actors.clock import Clock
from chat_actors.connection.admission import Admission, HandshakeRefused
from chat_actors.connection.asgi import Receive, Scope, Send, uvicorn_protocol
from chat_actors.connection.handshake import send_events, turn_away
from chat_actors.connection.inbox import open_inbox
from chat_actors.connection.lanes import open_outbox
from chat_actors.connection.outbox import StallWatch
from chat_actors.connection.session import Session
from chat_actors.connection.signals import ExitSignals
from chat_actors.counters import Counters, ReaderStatistics, Statistics
from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.protocol.frames import Error, Topics
from chat_actors.settings import Settings

if TYPE_CHECKING:  # a process without a cluster must not import it
    from chat_actors.cluster.node import Node

SLOWEST = 10  # readers that a snapshot names
CLOSE_POLL_SECONDS = 0.05  # between two checks for open connections when the server ends
MAX_CLOSE_POLLS = 60  # then open connections are aborted


class Server:
    """Actors of one application, and its ASGI endpoint ``/ws``.

    A call serves one connection, from its handshake to its end. ``settings`` holds every limit.
    """

    def __init__(self, settings: Settings, clock: Optional[Clock] = None) -> None:
        self.admission = Admission(settings)
        self.counters = Counters()
        self.stopping = False  # True: new connections are refused
        self._settings = settings
        self._clock = clock or Clock()
        # Created in ``start``, in the loop that runs then.
        self._supervisor: Optional[Supervisor] = None
        self._node: Optional[Node] = None  # None without a cluster
        self._watch: StallWatch
        self._watching: asyncio.Task[None]
        self._signals: ExitSignals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        headers = scope.get("headers", ())
        address, port = scope.get("client") or ("unknown", 0)
        peer = f"{address}:{port}"
        caller = self.admission.decide(headers)
        if isinstance(caller, HandshakeRefused):
            logger.bind(peer=peer, reason=caller.reason).info("handshake refused")
            await send_events(send, {"type": "websocket.close"})  # before the accept: the ASGI server answers 403
            return
        if self.stopping:
            await self._refuse(send, peer, CloseCode.RESTARTING)
            return
        try:
            if not self.admission.enter(address):
                full = Error(ErrorCode.SERVER_FULL, "server full: try again later")
                await self._refuse(send, peer, CloseCode.OVERLOADED, full)
                return
            supervisor = self.start()
            if not await send_events(send, {"type": "websocket.accept"}):
                return
            protocol = uvicorn_protocol(scope)
            outbox = open_outbox(self._watch, protocol, receive, send)
            inbox = open_inbox(protocol, outbox.receive, self._settings.frame_bytes)
            session = Session(
                inbox, outbox, supervisor.mailbox, self._settings, self.counters, self._clock, caller, peer
            )
            await session.run()
        finally:
            self.admission.leave(address)

    async def _refuse(self, send: Send, peer: str, code: CloseCode, error: Optional[Error] = None) -> None:
        self.counters.closed[int(code)] += 1
        logger.bind(peer=peer, code=code.name.lower()).info("connection refused")
        await turn_away(send, code, error)

    def open(self) -> None:
        """Start the actors, also after a ``stop``. A host without a lifespan starts them with the first connection.

        Raises OSError if no endpoint of the cluster is this process's to listen on.
        """
        self.stopping = False
        self.start()

    def start(self) -> Supervisor:
        """Return the supervisor that runs in this loop; create it and its surroundings if there is none.

        Raises OSError like ``open``.
        """
        if self._supervisor is None or self._supervisor.task.done():
            if self._supervisor is not None:  # it failed too often, or its loop was closed
                self._signals.restore()
                self._watching.cancel()
            settings = self._settings
            if settings.endpoints:
                if self._node is None or not self._node.reopen():
                    self._node = _open_node(settings, self._clock, self.counters)
                self._supervisor = self._node.front
            else:
                self._supervisor = Supervisor(settings, self._clock, self.counters)
            self._watch = StallWatch(
                self._clock, self.counters, settings.outbox_bytes, settings.stall_timeout, settings.message_ttl
            )
            self._watching = asyncio.create_task(self._watch.run())
            self._signals = ExitSignals(self._end)
        return self._supervisor

    async def stop(self) -> None:
        """Close every connection with 1012, wait until every actor has ended, and restore the signals.

        Can be called twice. Connections still open after MAX_CLOSE_POLLS checks are aborted.
        """
        await self._end()
        if self._supervisor is not None:
            self._signals.restore()
            self._watching.cancel()
            await asyncio.wait({self._watching})
            self._supervisor = self._node = None

    async def topics(self) -> Topics:
        """Return the active topics, oldest first; in a cluster, the topics of all nodes that answer in time."""
        if self._node is not None:
            return await self._node.registry.census()
        return Topics.of([] if self._supervisor is None else self._supervisor.active_topics())

    async def _end(self) -> None:
        """Refuse new connections, end the actors, close all connections, and abort those that stay open."""
        self.stopping = True
        if self._supervisor is not None:
            outboxes = list(self._watch.outboxes)
            self._supervisor.stop()
            await asyncio.wait({self._supervisor.task})
            if self._node is not None:
                await self._node.close()
            for outbox in outboxes:  # no-op for members: the topics have closed them
                outbox.close(CloseCode.RESTARTING)
            for _ in range(MAX_CLOSE_POLLS):
                outboxes = [outbox for outbox in outboxes if outbox.is_open()]
                if not outboxes:
                    break
                await self._clock.sleep(CLOSE_POLL_SECONDS)
            for outbox in outboxes:
                outbox.abort()

    def statistics(self) -> Statistics:
        """Return a snapshot for the metrics. The topics are those that this process owns."""
        supervisor = self._supervisor
        if supervisor is None:
            return Statistics(0, [], [], 0, self.counters.bytes_out)
        owner = supervisor if self._node is None else self._node.back
        outboxes = self._watch.outboxes
        slowest = []
        for outbox in heapq.nlargest(SLOWEST, outboxes, key=lambda outbox: outbox.buffered()):
            member = supervisor.member(outbox)
            if member is not None and outbox.buffered():
                slowest.append(ReaderStatistics(*member, outbox.buffered()))
        bytes_out = self.counters.bytes_out + sum(outbox.written for outbox in outboxes)
        mail = supervisor.mailbox.qsize()
        return Statistics(self.admission.connections, owner.statistics(), slowest, mail, bytes_out)


def _open_node(settings: Settings, clock: Clock, counters: Counters) -> "Node":
    """Open a node of the cluster. Raises OSError if this process can listen on no endpoint of the settings."""
    from chat_actors.cluster.mesh import ZenohMesh
    from chat_actors.cluster.node import Node

    mesh = ZenohMesh(settings.endpoints, settings.cluster_config)
    node = Node(mesh, len(settings.endpoints), settings.cluster_quorum, settings, clock, counters)
    node.open()
    return node
