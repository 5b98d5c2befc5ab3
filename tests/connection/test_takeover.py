"""The way from uvicorn to the server's own WebSocket, with the installed uvicorn's own protocol classes."""

import asyncio
import multiprocessing
from collections.abc import Coroutine, Generator
from types import SimpleNamespace
from typing import Any, Callable, Optional, Union, cast

import pytest
import uvicorn
from uvicorn.lifespan.off import LifespanOff
from uvicorn.lifespan.on import LifespanOn
from uvicorn.server import Server as UvicornServer

from chat_actors.connection.asgi import App, AsgiEvent, Receive, Scope, Send
from chat_actors.connection.takeover import (
    IMPLEMENTATIONS,
    FastLane,
    NotTaken,
    PeerLost,
    Taken,
    accept,
    encrypts,
    has_waited,
    is_uvicorn,
    note_refusal,
    opens_own_sockets,
    workers_of,
)
from chat_actors.connection.websocket import WebSocket
from tests.support.fakes import FakeClock, FakeReceiver, FakeServer, FakeTransport, in_clean_loop, settle
from tests.support.websocket.stage import Stage
from tests.support.websocket.wire import BINARY, DEFLATE, FIN, HANDSHAKE, PING, frame, frames_in, text

NAMES = "websockets-sansio", "wsproto", "websockets"  # as uvicorn's option ``--ws`` calls those of IMPLEMENTATIONS
QUEUED = NAMES[:2]  # those that put the peer's messages into a queue
WRAPPED = "middleware around `send`: add chat_actors.FastLane as the outermost middleware"
NOT_FOUND = "uvicorn not found: another ASGI server, HTTP/2, or middleware with a task of its own"

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:The .websockets. impl"
)  # of the implementation ``websockets``
each_implementation = pytest.mark.parametrize("ws", NAMES)
both_queued = pytest.mark.parametrize("ws", QUEUED)  # else, if it stays with uvicorn, that waits for the peer
Accepted = Union[Taken, NotTaken, PeerLost]


class TimedLoop:
    """The running loop, with the timers of a fake clock."""

    def __init__(self, clock: FakeClock) -> None:
        self._loop = asyncio.get_running_loop()
        self.call_later = clock.call_later
        self.time = clock.monotonic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class Handshake:
    """Handshake with uvicorn on a fake transport, up to the end of the endpoint.

    ``wrap``: the middleware around the endpoint, from the inside to the outside.
    """

    def __init__(self, ws: Any, *wrap: Callable[[App], App], **options: Any) -> None:
        self.clock = FakeClock()
        self.transport = FakeTransport()
        self.accepted: list[Accepted] = []
        self.may_end = asyncio.Event()  # the endpoint, once it has answered the handshake
        self.may_end.set()
        app: App = self._endpoint
        for middleware in wrap or (FastLane,):
            app = middleware(app)
        config = uvicorn.Config(app, ws=ws, log_config=None, lifespan="off", **options)
        config.load()
        self.server = UvicornServer(config)
        self.state: Any = self.server.server_state
        self.state.default_headers = config.encoded_headers
        protocol: Any = config.ws_protocol_class
        loop: Any = TimedLoop(self.clock)
        self.protocol = protocol(config=config, server_state=self.state, app_state={}, _loop=loop)
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)

    async def _endpoint(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "websocket.connect"}
        try:
            self.accepted.append(await accept(scope, send))
        except PeerLost as lost:
            self.accepted.append(lost)
        await self.may_end.wait()

    async def shake(self, *pieces: bytes) -> Accepted:
        for piece in pieces or (DEFLATE,):
            self.protocol.data_received(piece)
        await settle()
        (accepted,) = self.accepted
        return accepted

    async def taken(self) -> Taken:
        accepted = await self.shake()
        assert isinstance(accepted, Taken)
        return accepted

    @property
    def pings(self) -> bool:
        """Whether uvicorn pings: old versions do not."""
        return getattr(self.protocol, "ping_interval", None) is not None

    @property
    def answer(self) -> list[bytes]:
        """The lines of uvicorn's answer."""
        return self.transport.written.partition(b"\r\n\r\n")[0].split(b"\r\n")

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """The frames that were sent behind the answer."""
        return list(frames_in(self.transport.written.partition(b"\r\n\r\n")[2]))


def wrapped_send(app: App) -> App:
    """Middleware that wraps ``send``."""

    async def wrapper(scope: Scope, receive: Receive, send: Send) -> None:
        async def other_send(event: AsgiEvent) -> None:
            await send(event)

        await app(scope, receive, other_send)

    return wrapper


# What is used of uvicorn.


@each_implementation
@in_clean_loop
async def test_the_implementations_that_are_used_are_uvicorns_own(ws: str) -> None:
    protocol = Handshake(ws).protocol
    assert type(protocol).__module__ in IMPLEMENTATIONS
    assert all(hasattr(protocol, name) for name in IMPLEMENTATIONS[type(protocol).__module__])


@each_implementation
@in_clean_loop
async def test_uvicorns_send_belongs_to_its_protocol_object(ws: str) -> None:
    owners: list[object] = []

    def look(app: App) -> App:
        async def looking(scope: Scope, receive: Receive, send: Send) -> None:
            owners.append(getattr(send, "__self__", None))
            await app(scope, receive, send)

        return looking

    handshake = Handshake(ws, FastLane, look)
    await handshake.shake()
    assert owners == [handshake.protocol]


@each_implementation
@in_clean_loop
async def test_uvicorns_transport_is_the_one_of_the_connection(ws: str) -> None:
    handshake = Handshake(ws)
    assert handshake.protocol.transport is handshake.transport
    assert (await handshake.taken()).transport is handshake.transport


@both_queued
@in_clean_loop
async def test_uvicorns_queue_holds_the_events_for_the_application(ws: str) -> None:
    handshake = Handshake(ws, wrapped_send)
    handshake.may_end.clear()
    await handshake.shake()
    assert handshake.protocol.queue.empty()
    handshake.protocol.data_received(text("hello"))
    assert handshake.protocol.queue.get_nowait() == {"type": "websocket.receive", "text": "hello"}
    handshake.may_end.set()
    await settle()


@each_implementation
@in_clean_loop
async def test_uvicorn_counts_the_connection_that_was_taken_and_tells_it_the_end(ws: str) -> None:
    handshake, stage = Handshake(ws), Stage()
    assert handshake.state.connections == {handshake.protocol}
    taken = await handshake.taken()
    assert handshake.state.connections == set()
    shut_down = asyncio.Event()
    stage.sweep.shutdown = shut_down.set
    connection = WebSocket(taken.transport, taken.connections, stage.sweep, lambda: None)
    assert handshake.state.connections == {connection}
    handshake.server.servers, handshake.server.lifespan = [], LifespanOff(handshake.server.config)
    ending = asyncio.create_task(handshake.server.shutdown())
    await shut_down.wait()
    assert not ending.done()
    handshake.transport.lose()
    await ending
    assert handshake.state.connections == set()


@pytest.mark.parametrize("interval", [20.0, None])
@both_queued
@in_clean_loop
async def test_uvicorns_protocol_tells_whether_it_pings(ws: str, interval: Optional[float]) -> None:
    handshake = Handshake(ws, wrapped_send, ws_ping_interval=interval)
    handshake.may_end.clear()
    accepted = await handshake.shake()
    await handshake.clock.advance(20)
    assert accepted == NotTaken(WRAPPED, [first for first, _ in handshake.frames] == [FIN | PING])
    assert interval is not None or not accepted.host_pings
    handshake.may_end.set()
    await settle()


@each_implementation
@in_clean_loop
async def test_a_loss_with_an_error_ends_uvicorns_keepalive_and_leaves_the_transport_open(ws: str) -> None:
    handshake = Handshake(ws)
    handshake.may_end.clear()
    await handshake.taken()
    for _ in range(6):
        await handshake.clock.advance(10)
    handshake.may_end.set()
    await settle()
    assert (handshake.frames, handshake.transport.closing) == ([], False)


# The takeover.


@both_queued
@in_clean_loop
async def test_uvicorn_answers_the_handshake_without_the_extension(ws: str) -> None:
    options: Any = {"headers": [("X-From", "uvicorn")]}
    offered, plain, taken = Handshake(ws, wrapped_send, **options), Handshake(ws, **options), Handshake(ws, **options)
    await offered.shake(DEFLATE)
    await plain.shake(HANDSHAKE)
    await taken.shake(DEFLATE)
    extensions = [line for line in offered.answer if line.lower().startswith(b"sec-websocket-extensions:")]
    assert len(extensions) == 1
    assert taken.answer == plain.answer == [line for line in offered.answer if line not in extensions]
    assert taken.answer[0].startswith(b"HTTP/1.1 101 ")
    assert b"x-from: uvicorn" in [line.lower() for line in taken.answer]
    assert taken.frames == []


@in_clean_loop
async def test_the_deprecated_implementation_answers_without_the_extension_as_well() -> None:
    handshake = Handshake("websockets")
    await handshake.taken()
    assert handshake.answer[0].startswith(b"HTTP/1.1 101 ")
    assert not [line for line in handshake.answer if line.lower().startswith(b"sec-websocket-extensions:")]
    assert handshake.frames == []


@each_implementation
@in_clean_loop
async def test_the_endpoint_returns_and_the_connection_goes_on(ws: str) -> None:
    handshake, stage = Handshake(ws), Stage()
    handshake.may_end.clear()
    taken = await handshake.taken()
    connection = WebSocket(taken.transport, taken.connections, stage.sweep, lambda: None)
    receiver = FakeReceiver(connection)
    handshake.may_end.set()
    await settle()
    assert handshake.state.tasks == set()
    assert (handshake.transport.closing, handshake.transport.reading) == (False, True)
    handshake.transport.protocol.data_received(text("hello") + frame(FIN | PING))
    assert receiver.heard == ["hello"]
    assert len(handshake.frames) == 1


@each_implementation
@in_clean_loop
async def test_whatever_uvicorn_does_after_the_takeover_does_not_reach_the_peer(ws: str) -> None:
    handshake = Handshake(ws)
    await handshake.taken()
    written = handshake.transport.written
    handshake.protocol.shutdown()
    handshake.protocol.transport.close()
    assert (handshake.transport.written, handshake.transport.closing) == (written, False)


EARLY = {
    "a message with the handshake": [DEFLATE + text("early")],
    "a message behind the handshake": [DEFLATE, text("early")],
    "a binary message": [DEFLATE + frame(FIN | BINARY, b"early")],
}


@pytest.mark.parametrize("kind", [*EARLY, "none"])
@in_clean_loop
async def test_a_peer_that_has_not_waited_for_the_answer_is_known(kind: str) -> None:
    waited: list[bool] = []

    def look(app: App) -> App:
        async def looking(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            waited.append(has_waited(scope))
            await send({"type": "websocket.close"})

        return looking

    handshake = Handshake("websockets-sansio", look, FastLane)
    for piece in EARLY.get(kind, [DEFLATE]):
        handshake.protocol.data_received(piece)
    await settle()
    assert waited == [kind == "none"]
    assert b" 403 " in handshake.answer[0]


# Where it is not taken over.


@both_queued
@in_clean_loop
async def test_middleware_around_send_is_noticed_and_what_to_do_is_said(ws: str) -> None:
    handshake = Handshake(ws, FastLane, wrapped_send)
    assert await handshake.shake() == NotTaken(WRAPPED, handshake.pings)


@each_implementation
@in_clean_loop
async def test_with_the_fast_lane_outside_of_such_middleware_it_is_taken_over(ws: str) -> None:
    assert isinstance(await Handshake(ws, wrapped_send, FastLane).shake(), Taken)


@each_implementation
@pytest.mark.parametrize(
    "wrap",
    [(FastLane,), (wrapped_send, FastLane), (wrapped_send,)],
    ids=["fast lane", "outside of middleware", "not found"],
)
@in_clean_loop
async def test_a_response_that_refuses_the_handshake_is_no_error_of_uvicorns(
    ws: str, wrap: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": [(b"content-length", b"2")]})
        await send({"type": "websocket.http.response.body", "body": b"no"})
        note_refusal(scope)

    handshake = Handshake(ws, lambda _: refuse, *wrap)
    handshake.protocol.data_received(HANDSHAKE)
    await settle()
    assert handshake.answer[0].startswith(b"HTTP/1.1 403") and handshake.transport.written.endswith(b"no")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


class Host:
    """Host that calls the endpoint from a method of its own, as uvicorn does."""

    ping_interval = ping_timeout = 20.0

    def __init__(self) -> None:
        self.server = FakeServer()
        self.server.events.put_nowait({"type": "websocket.connect"})

    async def send(self, event: AsgiEvent) -> None:
        await self.server.send(event)

    async def run(self, accepted: list[Any], **scope: Any) -> None:
        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            accepted.append(await accept(scope, send))

        await FastLane(endpoint)({"type": "websocket", "http_version": "1.1", **scope}, self.server.receive, self.send)


def host(module: str, **attributes: Any) -> Host:
    kind = type("Protocol", (Host,), {"__module__": module, **attributes})
    made = kind()
    assert isinstance(made, Host)
    return made


@pytest.mark.parametrize(
    "module, attributes, not_taken",
    [
        ("uvicorn.protocols.websockets.new_impl", {}, NotTaken(NOT_FOUND, False)),
        ("hypercorn.protocol.ws_stream", {}, NotTaken(NOT_FOUND, False)),
        ("uvicorns", {}, NotTaken(NOT_FOUND, False)),
    ],
)
@in_clean_loop
async def test_another_host_keeps_its_connection(module: str, attributes: dict[str, Any], not_taken: NotTaken) -> None:
    one = host(module, **attributes)
    accepted: list[Any] = []
    await asyncio.create_task(one.run(accepted))
    assert accepted == [not_taken]
    assert one.server.sent == [{"type": "websocket.accept"}]


@in_clean_loop
async def test_a_host_that_is_no_object_keeps_its_connection() -> None:
    server = FakeServer()

    async def run() -> Any:
        return await accept({"type": "websocket"}, server.send)

    assert await asyncio.create_task(run()) == NotTaken(NOT_FOUND, False)
    assert server.sent == [{"type": "websocket.accept"}]


class Compiled(Coroutine[Any, Any, Any]):
    """Coroutine without a frame to look into, as of a host that is not written in Python."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()


@in_clean_loop
async def test_a_host_that_cannot_be_looked_into_keeps_its_connection() -> None:
    server = FakeServer()
    accepting = asyncio.create_task(Compiled(accept({"type": "websocket"}, server.send)))
    assert await accepting == NotTaken(NOT_FOUND, False)


USED = [(module, name) for module, names in IMPLEMENTATIONS.items() for name in names]


@pytest.mark.parametrize("module, missing", USED)
@in_clean_loop
async def test_a_uvicorn_without_an_attribute_keeps_its_connection(module: str, missing: str) -> None:
    known = {name: SimpleNamespace() for name in IMPLEMENTATIONS[module] if name != missing}
    accepted: list[Any] = []
    one = host(module, **known)
    await asyncio.create_task(one.run(accepted))
    assert accepted == [NotTaken("unknown version of uvicorn: see docs/hosts.md", True)]
    assert one.server.sent == [{"type": "websocket.accept"}]


@pytest.mark.parametrize("kind", ["http", "lifespan"])
@in_clean_loop
async def test_the_middleware_leaves_all_but_websockets_alone(kind: str) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope))

    server = FakeServer()
    await FastLane(app)({"type": kind}, server.receive, server.send)
    assert seen == [{"type": kind}]


# A peer that goes meanwhile.


@both_queued
@in_clean_loop
async def test_a_peer_that_went_before_the_answer_is_lost(ws: str) -> None:
    handshake = Handshake(ws)
    handshake.transport.closing = True
    assert isinstance(await handshake.shake(), PeerLost)
    assert (b" 101 " in handshake.answer[0], handshake.state.connections) == (False, {handshake.protocol})
    handshake.protocol.connection_lost(None)
    assert handshake.state.connections == set()


@both_queued
@in_clean_loop
async def test_a_peer_that_is_lost_while_it_is_answered_is_lost(ws: str) -> None:
    handshake = Handshake(ws)

    class Failing(FakeTransport):
        def write(self, data: Any) -> None:
            super().write(data)
            self.closing = True

    handshake.transport = handshake.protocol.transport = Failing()
    assert isinstance(await handshake.shake(), PeerLost)
    assert handshake.state.connections == {handshake.protocol}


@each_implementation
@in_clean_loop
async def test_a_peer_that_uvicorn_knows_to_be_lost_is_lost(ws: str) -> None:
    handshake = Handshake(ws)
    handshake.protocol.data_received(DEFLATE)
    handshake.transport.lose()
    await settle()
    assert [type(accepted) for accepted in handshake.accepted] == [PeerLost]
    assert handshake.transport.written == b""


@in_clean_loop
async def test_an_exception_of_another_host_at_the_accept_is_a_lost_peer() -> None:
    server = FakeServer()
    server.error = RuntimeError("its own words")
    with pytest.raises(PeerLost) as lost:
        await accept({"type": "websocket"}, server.send)
    assert lost.value.__cause__ is server.error


@in_clean_loop
async def test_an_answer_that_is_no_101_is_no_connection() -> None:
    handshake = Handshake("websockets-sansio")
    protocol = handshake.protocol

    async def refuse(event: AsgiEvent) -> None:
        protocol.transport.write(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")

    with pytest.raises(PeerLost):
        await accept({"type": "websocket", "chat_actors.uvicorn": protocol}, refuse)
    assert protocol.transport is handshake.transport


# What a lifespan tells of its host.


class OtherHost:
    async def send(self, event: AsgiEvent) -> None: ...


def lifespan_of(**options: Any) -> Send:
    """The ``send`` that uvicorn gives to the lifespan of an application."""
    config = uvicorn.Config(FastLane, log_config=None, **options)
    config.loaded = True  # there are no such files
    return cast(Send, LifespanOn(config).send)


@in_clean_loop
async def test_a_lifespan_tells_whether_uvicorn_opens_its_sockets_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def notify() -> None: ...

    assert opens_own_sockets(lifespan_of())
    assert not opens_own_sockets(lifespan_of(fd=3))
    assert not opens_own_sockets(lifespan_of(callback_notify=notify))
    assert not opens_own_sockets(OtherHost().send)
    monkeypatch.setattr(multiprocessing, "parent_process", multiprocessing.current_process)
    assert not opens_own_sockets(lifespan_of())


@in_clean_loop
async def test_a_lifespan_tells_whether_its_host_is_uvicorn_that_encrypts_and_has_workers() -> None:
    plain, several = lifespan_of(), lifespan_of(workers=3)
    secret = lifespan_of(ssl_keyfile="key.pem", ssl_certfile="certificate.pem")
    assert [(is_uvicorn(one), encrypts(one), workers_of(one)) for one in (plain, several, secret)] == [
        (True, False, 1),
        (True, False, 3),
        (True, True, 1),
    ]


@in_clean_loop
async def test_of_another_host_nothing_is_known() -> None:
    for send in (OtherHost().send, lambda event: OtherHost().send(event)):
        assert (is_uvicorn(send), encrypts(send), workers_of(send)) == (False, False, 1)
