"""The application as it is, on a server that also tells at ``/tasks`` how many tasks it has."""

import asyncio

from chat_actors.app import app as application
from chat_actors.lane import Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """``send`` is handed on as the server made it: behind it the fast lane is found."""
    if scope["type"] == "http" and scope["path"] == "/tasks":
        body = str(len(asyncio.all_tasks())).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": body})
    else:
        await application(scope, receive, send)
