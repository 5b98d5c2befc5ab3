"""The application as it is, on a server that also tells at ``/tasks`` how many tasks it has.

``python -m tests.tools.hostile.app`` starts it as ``python -m chat_actors`` does, with the safe options set.
"""

import asyncio

import chat_actors.app as served
from chat_actors.__main__ import main
from chat_actors.connection.asgi import Receive, Scope, Send

_application = served.app


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """``send`` is handed on as the server made it: behind it the fast lane is found."""
    if scope["type"] == "http" and scope["path"] == "/tasks":
        body = str(len(asyncio.all_tasks())).encode()
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})
    else:
        await _application(scope, receive, send)


if __name__ == "__main__":
    vars(served)["app"] = app
    main()
