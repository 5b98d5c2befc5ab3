"""The types of ASGI: how a host calls the application."""

from collections.abc import Awaitable, MutableMapping
from typing import Any, Callable

AsgiEvent = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiEvent]]
Send = Callable[[AsgiEvent], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
