"""The server of one application: the lifetime of its actors, and the ASGI endpoint that opens a session.

The actors are created when they are first needed, in the event loop that runs then.
"""

import asyncio
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union

import msgspec
from loguru import logger

from chat_actors.actors.handover import Luggage
from chat_actors.actors.supervisor import Supervisor
from chat_actors.clock import Clock
from chat_actors.connection.addresses import stands_for_others
from chat_actors.connection.admission import Admission, Authenticated, Caller, HandshakeRefused, Place
from chat_actors.connection.asgi import AsgiEvent, Receive, Scope, Send, local_address
from chat_actors.connection.base import CLOSE_SECONDS, Connection, Sweep
from chat_actors.connection.descriptors import lingerers
from chat_actors.connection.landing import land
from chat_actors.connection.plain import PlainConnection
from chat_actors.connection.session import Session
from chat_actors.connection.signals import ExitSignals
from chat_actors.connection.takeover import PeerLost, Taken, accept, has_waited, note_refusal
from chat_actors.connection.websocket import WebSocket
from chat_actors.counters import Counters, Measurements, Statistics, Totals
from chat_actors.http_semantics import OF_EVERY_RESPONSE
from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.protocol.frames import Error, finished
from chat_actors.settings import Settings
from chat_actors.workers.opening import Workers

if TYPE_CHECKING:  # a process without a cluster must not import it, nor one without others
    from chat_actors.cluster.node import Node
    from chat_actors.workers.crew import Crew
    from chat_actors.workers.station import Station
    from chat_actors.workers.supervisor import WorkerSupervisor

T = TypeVar("T")

STRIDE = 256  # topics or connections that a snapshot looks at before other tasks run
CLOSE_POLL_SECONDS = 0.05  # between two checks for open connections when the server ends
MAX_CLOSE_POLLS = 60  # then open connections are aborted


class Server:
    """Actors of one application, and its ASGI endpoint ``/ws``.

    A call takes one handshake. On the fast lane it returns then, and the connection stands on its own; on the plain
    lane it serves the connection to its end. ``settings`` holds every limit. ``counters``: new ones if None.
    ``workers``: those of its host, if they are to be one server.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Optional[Clock] = None,
        counters: Optional[Counters] = None,
        workers: Optional[Workers] = None,
    ) -> None:
        self.admission = Admission(settings)
        self.counters = counters or Counters()
        self.stopping = False  # True: new connections are refused
        self._settings = settings
        self._clock = clock or Clock()
        self._sweep = Sweep(settings, self._clock, self.counters, self._begin_end)
        self._turned_away: dict[Place, Connection] = {}  # by place, oldest first, until each is closed
        self._landings: set[asyncio.Task[None]] = set()  # of connections that other workers have sent
        self._landed: set[Any] = set()  # these connections, of which the host does not know
        self._said: set[str] = set()  # reasons for the plain lane that the log has
        self._proxy_said = False  # whether the log has that a proxy is not trusted
        # Created in ``start``, in the loop that runs then.
        self._supervisor: Optional[Supervisor] = None
        self._node: Optional[Node] = None  # None without a cluster
        self._workers = workers
        if workers is not None:
            workers.host = self
        self._worker: Optional[WorkerSupervisor] = None  # the supervisor, if there are several workers
        self._sweeping: asyncio.Task[None]
        self._signals: ExitSignals
        self._ending: Optional[asyncio.Task[None]] = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        address, port = scope.get("client") or ("unknown", 0)
        peer = f"{address}:{port}"
        headers = scope.get("headers", ())
        caller = self.admission.decide(headers, local_address(scope))
        if not has_waited(scope):
            caller = HandshakeRefused("frames before the answer")
        if isinstance(caller, HandshakeRefused):
            logger.bind(peer=peer, reason=caller.reason, **caller.seen).info("handshake refused")
            await _deny(scope, send, caller.reason)
            return
        supervisor = None if self.stopping else self.start()
        source, proxy = self.admission.source(address, headers)
        place = self.admission.enter(source)
        if proxy or (not place.within and stands_for_others(address, headers)):
            self._say_proxy(address)
        leave = partial(self._leave, place)
        try:
            connection = await self._accept(scope, receive, send, leave)
        except BaseException as failed:  # the host may cancel
            leave()
            if isinstance(failed, PeerLost):
                logger.bind(peer=peer, error=repr(failed.__cause__)).debug("handshake not finished")
                await _refuse(send)  # else uvicorn would log that its handshake has no answer
                return
            raise
        self._begin(connection, supervisor, caller, peer, place)
        if isinstance(connection, PlainConnection):
            await connection.serve()

    def _begin(
        self, connection: Connection, supervisor: Optional[Supervisor], caller: Caller, peer: str, place: Place
    ) -> Optional[Session]:
        """Begin the session of a connection, or turn it away. ``supervisor``: None if the server is stopping."""
        if supervisor is None:
            self._turn_away(connection, place, peer, CloseCode.RESTARTING)
            self._clock.call_later(CLOSE_SECONDS, connection.abort, "server stopped")  # the sweep may have ended
            return None
        if not place.within:
            connection.write(finished(Error(ErrorCode.SERVER_FULL, "server full: try again later")))
            self._turn_away(connection, place, peer, CloseCode.OVERLOADED)
            return None
        mailbox, settings = supervisor.mailbox, self._settings
        return Session(connection, mailbox, settings, self.counters, self._clock, caller, peer, place.source)

    def take(self, luggage: Luggage, descriptor: int, place: Place) -> bool:
        """Take a connection from another worker, which counts it; return False, and do not, if the server is stopping.

        ``place``: left once the connection is closed.
        """
        if self.stopping:
            return False
        landing = asyncio.ensure_future(self._land(luggage, descriptor, place))
        self._landings.add(landing)
        landing.add_done_callback(self._landings.discard)
        return True

    async def _land(self, luggage: Luggage, descriptor: int, place: Place) -> None:
        def begin(transport: asyncio.Transport, read: bytes) -> None:
            connection = WebSocket(transport, self._landed, self._sweep, partial(self._leave, place))
            supervisor = None if self.stopping else self.start()
            session = self._begin(connection, supervisor, Authenticated(), luggage.peer, place)
            if session is not None:
                session.arrive(luggage)
                connection.data_received(luggage.unread + read)

        if not await land(descriptor, begin):
            place.leave()

    def _say_proxy(self, address: str) -> None:
        """Tell the log, once, that a proxy is not trusted, so that all of its clients have its address."""
        if not self._proxy_said:
            self._proxy_said = True
            said = "proxy not trusted: set CHAT_PROXY_HEADERS=1 and FORWARDED_ALLOW_IPS"
            logger.bind(address=address).warning(said)

    async def _accept(
        self, scope: Scope, receive: Receive, send: Send, closed: Callable[[], None]
    ) -> Union[WebSocket, PlainConnection]:
        """Accept a connection: on the fast lane under uvicorn, else on the plain lane. Raises PeerLost."""
        accepted = await accept(scope, send)
        if isinstance(accepted, Taken):
            return WebSocket(accepted.transport, accepted.connections, self._sweep, closed)
        if accepted.why not in self._said:
            self._said.add(accepted.why)
            logger.bind(reason=accepted.why).warning("fast lane not used")
        return PlainConnection(receive, send, accepted.host_pings, self._sweep, closed)

    def _leave(self, place: Place) -> None:
        """Forget a connection whose descriptor is closed."""
        place.leave()
        self._turned_away.pop(place, None)

    def _turn_away(self, connection: Connection, place: Place, peer: str, code: CloseCode) -> None:
        """Close a connection that gets no session. A page sees only a close code, not a status of the handshake."""
        logger.bind(peer=peer, code=code.name.lower()).info("connection refused")
        connection.close(code)
        self._turned_away[place] = connection
        if len(self._turned_away) > lingerers(self._settings.connections):
            # More would take the last descriptors. The oldest has had the most time to read why. Its last bytes leave
            # at the end of this turn of the loop.
            oldest = self._turned_away.pop(next(iter(self._turned_away)))
            asyncio.get_running_loop().call_soon(oldest.abort, "server full")

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
                self._sweeping.cancel()
                if self._supervisor.task.get_loop() is not asyncio.get_running_loop():
                    self._sweep.connections.clear()
                    self._turned_away.clear()
                    self._ending = None
            settings = self._settings
            if settings.endpoints:
                if self._node is None or not self._node.reopen():
                    self._node = _open_node(settings, self._clock, self.counters)
                self._supervisor = self._node.front
            elif self._station is not None and self._station.crew is not None:
                self._supervisor = self._worker = self._open_worker(self._station, self._station.crew)
            else:
                self._supervisor = Supervisor(settings, self._clock, self.counters)
            self._sweeping = asyncio.create_task(self._sweep.run())
            alone = self._worker is None
            self._signals = ExitSignals(self._end if alone else self._leave_and_end, waits=alone)
        return self._supervisor

    def _open_worker(self, station: "Station", crew: "Crew") -> "WorkerSupervisor":
        from chat_actors.workers.supervisor import WorkerSupervisor

        worker = WorkerSupervisor(crew, self._settings, self._clock, self.counters)
        station.hears = worker.hear
        self.admission.tally = crew.tally
        return worker

    @property
    def _station(self) -> "Optional[Station]":
        return None if self._workers is None else self._workers.station

    def readiness(self) -> str:
        """Return ``ready``, or why every join would be refused now.

        The reasons: ``closing``, ``no_endpoint`` and ``no_quorum`` of the cluster, ``full``.

        Starts the actors, as the join would. A server with as many topics as it may have is ready while members can
        join one of those.
        """
        if self.stopping:
            return "closing"
        try:
            supervisor = self.start()
        except OSError:
            return "no_endpoint"
        if self._node is not None and not self._node.has_quorum():
            return "no_quorum"
        return "full" if self.admission.is_full() or supervisor.is_full() else "ready"

    async def stop(self) -> None:
        """Close every connection with 1012, wait until every actor has ended, and restore the signals.

        Can be called twice. Connections still open after MAX_CLOSE_POLLS checks are aborted.
        """
        await self._end()
        if self._supervisor is not None:
            self._signals.restore()
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
            self._supervisor = self._worker = self._node = self._ending = None
        if self._station is not None:
            await self._station.close()

    async def topics(self) -> tuple[bytes, bool]:
        """Return the active topics as a JSON array of ``TopicUsers``, oldest first, and whether some may be missing.

        In a cluster they are those of all nodes that answer in time; of several workers, those of all.
        """
        if self._node is not None:
            topics = await self._node.registry.census()
            return msgspec.json.encode(topics.topics), topics.partial is True
        if self._worker is not None:
            current = await self._worker.current()
            return self._worker.topics_json(), not current
        return b"[]" if self._supervisor is None else self._supervisor.topics_json(), False

    async def _end(self) -> None:
        """Refuse new connections, end the actors, close all connections, and abort those that stay open."""
        self._begin_end()
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _leave_and_end(self) -> None:
        """End after the other workers know it. Until then connections are still taken."""
        await self._say_leaving()
        await self._end()

    async def _say_leaving(self) -> None:
        """Tell the other workers, if there are any, that this one ends."""
        if self._station is not None:
            await self._station.leave()

    def _begin_end(self) -> None:
        """Begin what ``_end`` waits for, once."""
        self.stopping = True
        if self._supervisor is not None and self._ending is None:
            self._ending = asyncio.create_task(self._end_all(self._supervisor))

    async def _end_all(self, supervisor: Supervisor) -> None:
        await self._say_leaving()
        supervisor.stop()
        await asyncio.wait({supervisor.task})
        if self._node is not None:
            await self._node.close()
        connections = self._sweep.connections
        for connection in list(connections):  # no-op for members: the topics have closed them
            connection.close(CloseCode.RESTARTING)
        for _ in range(MAX_CLOSE_POLLS):
            if not connections:
                break
            await self._clock.sleep(CLOSE_POLL_SECONDS)
        for connection in list(connections):
            connection.abort("server stopped")

    async def measure(self) -> Measurements:
        """Return the measurements of this server: those of all workers, if there are several."""
        statistics, station = await self.statistics(), self._station
        if station is None or station.crew is None:
            return Measurements(statistics, self.counters)
        return await station.measure_all(station.crew, statistics)

    def values(self) -> dict[str, Any]:
        """Return the counters by name, with the bytes of connections that are still open."""
        open_bytes = sum(connection.written for connection in self._sweep.connections)
        return {**self.counters.values(), "bytes_out": self.counters.bytes_out + open_bytes}

    async def statistics(self) -> Statistics:
        """Return a snapshot of this process. The topics are those that it owns.

        Other tasks run in between: a snapshot shows each topic and each connection at a moment of its own.
        """
        supervisor, totals = self._supervisor, Totals()
        if supervisor is None:
            return Statistics(0, totals, 0, 0, self.counters.bytes_out)
        owner = supervisor if self._node is None else self._node.back
        mail = supervisor.mailbox.qsize()
        # Both at one moment: a connection that ends meanwhile is counted once, so that the sum never falls.
        bytes_out, connections = self.counters.bytes_out, list(self._sweep.connections)
        for topics in _strides(owner.statistics()):
            totals.add(topics)
            await asyncio.sleep(0)
        max_waiting = 0
        for stride in _strides(connections):
            bytes_out += sum(connection.written for connection in stride)
            max_waiting = max(max_waiting, *(connection.buffered() for connection in stride))
            await asyncio.sleep(0)
        return Statistics(self.admission.tally.connections, totals, max_waiting, mail, bytes_out)


def _strides(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield the items in lists, so that the caller can let other tasks run after each."""
    rest = iter(items)
    while stride := list(islice(rest, STRIDE)):
        yield stride


async def _deny(scope: Scope, send: Send, reason: str) -> None:
    """Refuse a handshake with 403 and the reason, if the host can (ASGI, "WebSocket Denial Response")."""
    if "websocket.http.response" not in (scope.get("extensions") or ()):
        await _refuse(send)
        return
    body = f"{reason}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    start = {"type": "websocket.http.response.start", "status": 403, "headers": [*headers, *OF_EVERY_RESPONSE.items()]}
    await _refuse(send, start, {"type": "websocket.http.response.body", "body": body})
    note_refusal(scope)


async def _refuse(send: Send, *events: AsgiEvent) -> None:
    """Refuse a handshake: by default the host answers 403. Raises OSError if the host raises it: the peer is gone."""
    try:
        for event in events or ({"type": "websocket.close"},):
            await send(event)
    except Exception as lost:  # each ASGI server raises its own exception for a lost peer
        logger.bind(error=repr(lost)).debug("event not sent")
        if isinstance(lost, OSError):  # by ASGI; it then does not ask why the handshake has no answer
            raise


def _open_node(settings: Settings, clock: Clock, counters: Counters) -> "Node":
    """Open a node of the cluster. Raises OSError if this process can listen on no endpoint of the settings."""
    from chat_actors.cluster.mesh import ZenohMesh
    from chat_actors.cluster.node import Node

    mesh = ZenohMesh(settings.endpoints, settings.cluster_config)
    node = Node(mesh, len(settings.endpoints), settings.cluster_quorum, settings, clock, counters)
    node.open()
    return node
