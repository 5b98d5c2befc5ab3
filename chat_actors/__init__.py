"""A real-time WebSocket chat server with topic rooms: one actor, one asyncio task, for each topic."""

__version__ = "0.1.0"
