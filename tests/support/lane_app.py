"""The application, on a server that also logs the lane of each WebSocket."""

from loguru import logger

from chat_actors.app import app as application
from chat_actors.connection.asgi import Receive, Scope, Send, uvicorn_protocol


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """``send`` is handed on as the server made it: behind it the fast lane is found."""
    await application(scope, receive, send)
    if scope["type"] == "websocket":
        logger.bind(protocol=type(uvicorn_protocol(scope)).__name__).info("lane")
