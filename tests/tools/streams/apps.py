"""The application for each lane. A close frame of the peer that the server overlooks is waited for, not forgiven."""

from chat_actors.app import app as fast
from chat_actors.connection import base
from chat_actors.connection.asgi import AsgiEvent, Receive, Scope, Send

__all__ = ["fast"]

base.CLOSE_SECONDS = 3600.0


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    """The application behind a middleware around ``send``, which keeps it on the plain lane."""

    async def wrapped(event: AsgiEvent) -> None:
        await send(event)

    await fast(scope, receive, wrapped)
