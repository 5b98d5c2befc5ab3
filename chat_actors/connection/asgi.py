"""The ASGI server under the application: the types of ASGI, and access to uvicorn's protocol object for the fast lane.

All knowledge of uvicorn's internals must live here; ``inbox`` and ``lanes`` use it through these names. Nothing in
uvicorn is patched. On any other ASGI server ``uvicorn_protocol`` returns None, and connections use the plain lane.
"""

import asyncio
from collections.abc import Awaitable, MutableMapping
from typing import Any, Callable, Optional, Protocol

AsgiEvent = MutableMapping[str, Any]  # an ASGI event
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiEvent]]
Send = Callable[[AsgiEvent], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_KEY = "chat_actors.protocol"
# The attributes that hold the size limit of a message in uvicorn's implementations: (part of the protocol, name).
_LIMITS = ("conn", "max_message_size"), ("conn", "max_size"), ("", "max_size"), ("buffer", "max_length")


class UvicornProtocol(Protocol):
    """Interface of uvicorn's WebSocket protocols for the fast lane: an ``asyncio.Protocol`` and its transport."""

    transport: asyncio.Transport

    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> Optional[bool]: ...
    def connection_lost(self, exc: Optional[Exception]) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


def limit_inflation(protocol: UvicornProtocol, max_bytes: int) -> None:
    """Make uvicorn refuse a message that inflates to more than ``max_bytes`` bytes.

    uvicorn's own limit is 16 MiB by default. With that, a peer that sends compressed frames could fill the memory a
    thousand times faster than it sends.
    """
    for part, name in _LIMITS:
        owner = getattr(protocol, part, None) if part else protocol
        if hasattr(owner, name):
            setattr(owner, name, max_bytes)


class FindProtocol:
    """ASGI middleware that puts uvicorn's protocol object into the scope, before other middleware wraps ``send``."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            protocol = getattr(send, "__self__", None)
            # Over HTTP/2 other streams would share the transport.
            if type(protocol).__module__.startswith("uvicorn.protocols.websockets.") and scope["http_version"] == "1.1":
                scope[_KEY] = protocol
        await self._app(scope, receive, send)


def uvicorn_protocol(scope: Scope) -> Optional[UvicornProtocol]:
    """Return uvicorn's protocol for this connection; None on other servers and on shared transports (HTTP/2)."""
    return scope.get(_KEY)
