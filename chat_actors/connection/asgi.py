"""The ASGI host: what it gives every application, and where the fast lane begins, which is uvicorn's protocol object.

Everything that knows of uvicorn's inside is the few names below and their use in ``inbox`` and ``lanes``; nothing of
uvicorn is patched. On any other ASGI server ``uvicorn_protocol`` is None, and both go by plain ASGI events.
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
# Where uvicorn's implementations have the limit of a message: an attribute of the protocol, or of a part of it.
_LIMITS = ("conn", "max_message_size"), ("conn", "max_size"), ("", "max_size"), ("buffer", "max_length")


class UvicornProtocol(Protocol):
    """What the fast lane uses of uvicorn's WebSocket protocols: an ``asyncio.Protocol`` with its transport."""

    transport: asyncio.Transport

    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> Optional[bool]: ...
    def connection_lost(self, exc: Optional[Exception]) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


def limit_inflation(protocol: UvicornProtocol, longest: int) -> None:
    """Have a compressed message refused when it has more than ``longest`` bytes, whatever uvicorn's own limit is.

    With its default, 16 MiB, a peer could have memory taken a thousand times as fast as it sends.
    """
    for part, name in _LIMITS:
        owner = getattr(protocol, part, None) if part else protocol
        if hasattr(owner, name):
            setattr(owner, name, longest)


class FindProtocol:
    """ASGI middleware that notes the object behind uvicorn's own ``send``, before anything wraps it."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            protocol = getattr(send, "__self__", None)
            # Over HTTP/2 the transport would be shared with other streams.
            if type(protocol).__module__.startswith("uvicorn.protocols.websockets.") and scope["http_version"] == "1.1":
                scope[_KEY] = protocol
        await self._app(scope, receive, send)


def uvicorn_protocol(scope: Scope) -> Optional[UvicornProtocol]:
    """The connection's protocol, if it is uvicorn's on a connection of its own."""
    return scope.get(_KEY)
