"""The access to uvicorn's protocol object, which decides about the fast lane."""

from typing import Optional

import pytest

from chat_actors.connection.asgi import AsgiEvent, FindProtocol, Receive, Scope, Send, uvicorn_protocol
from tests.support.fakes import FakeServer, FakeTransport, in_clean_loop


class UvicornsProtocol:
    """Stand-in for one of uvicorn's WebSocket protocols."""

    def __init__(self) -> None:
        self.transport = FakeTransport()

    async def send(self, event: AsgiEvent) -> None:
        raise AssertionError


UvicornsProtocol.__module__ = "uvicorn.protocols.websockets.some_impl"


class AnotherProtocol(UvicornsProtocol):
    """Stand-in for the protocol of another server."""


@pytest.mark.parametrize(
    "kind, scope, fast",
    [
        (UvicornsProtocol, {"type": "websocket", "http_version": "1.1"}, True),
        (UvicornsProtocol, {"type": "websocket", "http_version": "2"}, False),
        (AnotherProtocol, {"type": "websocket", "http_version": "1.1"}, False),
        (UvicornsProtocol, {"type": "http", "http_version": "1.1"}, False),
        (UvicornsProtocol, {"type": "lifespan"}, False),
        (None, {"type": "websocket", "http_version": "1.1"}, False),
    ],
)
@in_clean_loop
async def test_the_fast_lane_is_taken_where_uvicorn_has_a_connection_of_its_own(
    kind: Optional[type[UvicornsProtocol]], scope: Scope, fast: bool
) -> None:
    found: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(uvicorn_protocol(scope))

    server = FakeServer()
    protocol = None if kind is None else kind()

    async def send_alone(event: AsgiEvent) -> None:
        raise AssertionError

    send = send_alone if protocol is None else protocol.send
    await FindProtocol(app)(scope, server.receive, send)
    assert found == [protocol if fast else None]
