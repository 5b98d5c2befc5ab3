"""The way from uvicorn's WebSocket to the server's own: uvicorn takes the handshake, then the connection is ours.

All knowledge of uvicorn's inside must live here. Nothing in uvicorn is patched; one protocol object, that of the
connection, is used as follows, in each of uvicorn's three implementations:

- ``send.__self__`` is the protocol object, where no middleware has wrapped ``send``.
- ``transport``: replaced while uvicorn writes its answer (101), for the compression extension is taken out of that:
  the server never compresses, and to inflate costs memory. After it uvicorn gets a transport that does nothing.
- ``connection_lost(error)``: ends uvicorn's keepalive and bookkeeping. With an error it leaves the transport open.
- ``connections``: the set of what uvicorn counts for ``--limit-concurrency``, calls ``shutdown()`` of at its end, and
  waits for. ``connection_lost`` takes the protocol out; the ``WebSocket`` comes in, in the same turn of the loop.
- ``queue`` (``websockets-sansio``, ``wsproto``): the events for the application. Once it has had
  ``websocket.connect``, the queue is empty, unless the peer has not waited for the answer, as it must (RFC 6455,
  section 4.1). ``wsproto`` and ``websockets`` do not show such frames: there they are lost.
- ``handshake_completed_event`` (``websockets``): a task of its own writes the answer, and sets this event then.
- ``handshake_complete`` (``websockets-sansio``): set after a response that refuses the handshake. uvicorn forgets to,
  and would log an error.
- ``config`` (also of the object whose method ``send`` is in a lifespan): ``is_ssl``, ``workers``, ``fd``, and
  ``callback_notify``, which gunicorn's worker class sets.
- ``ping_interval``, ``ping_timeout``: set if uvicorn pings the peers of this protocol itself.

Where one of these is missing the connection stays on the plain lane.
"""

import asyncio
import contextvars
import multiprocessing
from collections.abc import MutableSet
from contextlib import suppress
from typing import Any, Callable, NamedTuple, Optional, Protocol, Union

from chat_actors.connection.asgi import App, Receive, Scope, Send
from chat_actors.connection.turnstile import Turnstile

# The implementations, and the attributes that each must have.
_OF_ALL = "transport", "connection_lost", "connections"
IMPLEMENTATIONS = {
    "uvicorn.protocols.websockets.websockets_sansio_impl": (*_OF_ALL, "queue"),
    "uvicorn.protocols.websockets.wsproto_impl": (*_OF_ALL, "queue"),
    "uvicorn.protocols.websockets.websockets_impl": (*_OF_ALL, "handshake_completed_event"),
}

_KEY = "chat_actors.uvicorn"
_EXTENSIONS = b"sec-websocket-extensions:"


class UvicornProtocol(Protocol):
    """What is used of every implementation."""

    transport: asyncio.Transport
    connections: "MutableSet[Any]"

    def connection_lost(self, exc: Optional[Exception]) -> None: ...


class FastLane:
    """ASGI middleware that finds uvicorn's protocol object, before other middleware wraps ``send``.

    It also is the first place where a storm of handshakes can be held up, so that the members are not.

    ``create_app`` has it. A host that mounts the application, or wraps it in middleware, adds it as its outermost one.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._turnstile = Turnstile()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._turnstile.enter()
            protocol = getattr(send, "__self__", None)
            if type(protocol).__module__ in IMPLEMENTATIONS:
                scope[_KEY] = protocol
        await self._app(scope, receive, send)


class Taken(NamedTuple):
    """Accepted connection that uvicorn has given up."""

    transport: asyncio.Transport
    connections: "MutableSet[Any]"  # those that uvicorn counts


class NotTaken(NamedTuple):
    """Accepted connection that stays with its host."""

    why: str  # for the log
    host_pings: bool  # the host finds out that a silent peer is gone


class PeerLost(Exception):
    """Error: the peer went before its handshake was answered."""


def has_waited(scope: Scope) -> bool:
    """Return whether the peer waits for the answer to its handshake, as far as uvicorn shows it.

    Frames that uvicorn has read cannot be taken from it. Left with uvicorn, the peer would have uvicorn's limits.
    """
    protocol: Any = scope.get(_KEY)
    queue: Optional[asyncio.Queue[Any]] = getattr(protocol, "queue", None)
    return queue is None or queue.empty() or protocol.transport.is_closing()  # closing: the event is that it has gone


def note_refusal(scope: Scope) -> None:
    """Tell uvicorn that a response has refused the handshake."""
    protocol: Any = scope.get(_KEY) or _caller()
    if type(protocol).__module__ in IMPLEMENTATIONS:
        protocol.handshake_complete = True


async def accept(scope: Scope, send: Send) -> Union[Taken, NotTaken]:
    """Answer the handshake, and take the connection over if it is uvicorn's.

    Raises PeerLost.
    """
    protocol: Optional[UvicornProtocol] = scope.pop(_KEY, None)
    if protocol is None:
        not_taken = _explain(_caller())
    elif not all(hasattr(protocol, name) for name in IMPLEMENTATIONS[type(protocol).__module__]):
        not_taken = NotTaken("unknown version of uvicorn: see docs/hosts.md", _pings(protocol))
    else:
        return await _take(protocol, send)
    await _accept(send)
    return not_taken


def is_uvicorn(send: Send) -> bool:
    """Return whether ``send``, of whatever kind of scope, is uvicorn's own."""
    return type(getattr(send, "__self__", None)).__module__.startswith("uvicorn.")


def encrypts(send: Send) -> bool:
    """Return whether the uvicorn of a ``send``, of whatever kind of scope, speaks TLS itself."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    return bool(getattr(_config(send), "is_ssl", transport is not None and transport.get_extra_info("ssl_object")))


def opens_own_sockets(send: Send) -> bool:
    """Return whether the uvicorn of a lifespan's ``send`` opens its listening sockets itself.

    It is given them by a parent of its own (several workers, a reload), by gunicorn, or by ``--fd``.
    """
    config: Any = _config(send)
    given = multiprocessing.parent_process() is not None or getattr(config, "callback_notify", None) is not None
    return config is not None and not given and getattr(config, "fd", None) is None


def workers_of(send: Send) -> int:
    """Return how many workers the uvicorn of a lifespan's ``send`` starts; 1 if that is not known."""
    return getattr(_config(send), "workers", None) or 1


def _config(send: Send) -> object:
    return getattr(getattr(send, "__self__", None), "config", None)


def _pings(protocol: object) -> bool:
    """Return whether uvicorn pings this peer and ends the connection if it does not answer. An interval of 0: no."""
    return bool(getattr(protocol, "ping_interval", None)) and getattr(protocol, "ping_timeout", None) is not None


async def _take(protocol: UvicornProtocol, send: Send) -> Taken:
    transport, connections = protocol.transport, protocol.connections
    answer = _Answer(transport)
    with suppress(AttributeError):  # asyncio raises it for a TLS transport whose peer is gone
        # Middleware may wait in ``send``: uvicorn must not get the peer's first frames meanwhile.
        transport.pause_reading()
    protocol.transport = answer  # type: ignore[assignment]
    try:
        await _accept(send)
        answered: Optional[asyncio.Event] = getattr(protocol, "handshake_completed_event", None)
        if answered is not None:
            await answered.wait()
    finally:
        protocol.transport = transport
        with suppress(AttributeError):  # as above
            # asyncio binds what reads to the context that resumes it: the request's would live as long as the peer.
            contextvars.Context().run(transport.resume_reading)
    if not answer.written or transport.is_closing() or protocol not in connections:
        raise PeerLost
    protocol.connection_lost(ConnectionError("taken over"))
    protocol.transport = _Nothing()  # type: ignore[assignment]
    return Taken(transport, connections)


async def _accept(send: Send) -> None:
    try:
        await send({"type": "websocket.accept"})
    except Exception as lost:  # each ASGI server raises its own exception for a lost peer
        raise PeerLost from lost


def _caller() -> object:
    """Return the object whose method the current task runs: uvicorn's protocol, also if ``send`` is wrapped."""
    task = asyncio.current_task()
    frame = getattr(task and task.get_coro(), "cr_frame", None)
    return None if frame is None else frame.f_locals.get("self")


def _explain(caller: object) -> NotTaken:
    if type(caller).__module__ in IMPLEMENTATIONS:
        why = "middleware around `send`: add chat_actors.FastLane as the outermost middleware"
        return NotTaken(why, _pings(caller))
    why = "uvicorn not found: another ASGI server, HTTP/2, or middleware with a task of its own"
    return NotTaken(why, False)


class _Answer:
    """Stands for the transport while uvicorn writes its answer to the handshake."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.written = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        lines = data.split(b"\r\n")
        self.written = lines[0].startswith(b"HTTP/1.1 101")
        self._transport.write(b"\r\n".join(line for line in lines if not line.lower().startswith(_EXTENSIONS)))


class _Nothing:
    """Stands for the transport once uvicorn has given it up: does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _do_nothing


def _do_nothing(*_: object) -> None: ...
