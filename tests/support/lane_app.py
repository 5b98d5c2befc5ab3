"""The application, on a server that also logs the lane of each WebSocket."""

from loguru import logger

from chat_actors.app import app as application
from chat_actors.connection.asgi import AsgiEvent, Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """``send`` is handed on as the server made it: behind it the fast lane is found."""
    received = 0

    async def counting_receive() -> AsgiEvent:
        nonlocal received
        received += 1
        return await receive()

    await application(scope, counting_receive, send)
    if scope["type"] == "websocket":  # on the fast lane the endpoint needs no event but the first
        logger.bind(lane="fast" if received == 1 else "plain").info("endpoint returned")
