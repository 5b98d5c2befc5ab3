"""A real-time WebSocket chat server with topic rooms: one actor and one asyncio task for each topic."""

import importlib
from typing import TYPE_CHECKING, Any

from chat_actors.version import __version__

if TYPE_CHECKING:
    from chat_actors.application import create_app
    from chat_actors.connection.takeover import FastLane

__all__ = ["FastLane", "__version__", "create_app"]


_MODULES = {"create_app": "chat_actors.application", "FastLane": "chat_actors.connection.takeover"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that a program with only the client loads no web framework."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
