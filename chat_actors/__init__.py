"""A real-time WebSocket chat server with topic rooms. Each topic is an actor: one asyncio task with a mailbox."""

from typing import TYPE_CHECKING, Any

from chat_actors.version import __version__

if TYPE_CHECKING:
    from chat_actors.application import create_app

__all__ = ["__version__", "create_app"]


def __getattr__(name: str) -> Any:
    """Load ``create_app`` on first use: a program that needs only the client loads no web framework."""
    if name == "create_app":
        from chat_actors.application import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
