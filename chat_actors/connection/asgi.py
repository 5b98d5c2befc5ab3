"""ASGI: how a host calls the application, and what it says of its own end of a connection."""

from collections.abc import Awaitable, Iterable, MutableMapping
from typing import Any, Callable, NamedTuple, Optional

AsgiEvent = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiEvent]]
Send = Callable[[AsgiEvent], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]  # names in lower case


class LocalAddress(NamedTuple):
    """Address of this end of a connection. ``port``: None on a Unix socket, whose address is a path."""

    address: str
    port: Optional[int]


def local_address(scope: Scope) -> Optional[LocalAddress]:
    """Return what the host says of this end; None if it says nothing that can be understood.

    granian gives the port as a text; gunicorn cuts the path of a Unix socket into pieces.
    """
    try:
        address, port = scope["server"]
        return LocalAddress(str(address), None if port is None else int(port))
    except (KeyError, TypeError, ValueError):
        return None
