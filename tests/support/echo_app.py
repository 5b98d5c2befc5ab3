"""Echo, only for the tests: every message comes back as it came, by the chat server's own ways in and out.

``app`` reads and writes as a session does: text that the inbox takes at once is written by the outbox, and what
comes as an ASGI event is text or binary. ``plain`` is the same echo without inbox and outbox, to compare with.
"""

from loguru import logger
from websockets.frames import Frame, Opcode

from chat_actors.clock import Clock
from chat_actors.connection.asgi import FindProtocol, Receive, Scope, Send, uvicorn_protocol
from chat_actors.connection.inbox import open_inbox
from chat_actors.connection.lanes import open_outbox
from chat_actors.connection.outbox import StallWatch
from chat_actors.counters import Counters
from chat_actors.settings import load_settings


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """``send`` is handed on as the server made it: behind it the fast lane is found."""
    await FindProtocol(_echo)(scope, receive, send)


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    settings = load_settings()
    watch = StallWatch(Clock(), Counters(), settings.outbox_bytes, settings.stall_timeout, settings.message_ttl)
    protocol = uvicorn_protocol(scope)
    outbox = open_outbox(watch, protocol, receive, send)
    inbox = open_inbox(protocol, outbox.receive, settings.frame_bytes)
    taken = 0

    def write(text: str) -> None:
        outbox.write(Frame(Opcode.TEXT, text.encode()).serialize(mask=False))

    def take(text: str) -> bool:
        nonlocal taken
        taken += 1
        write(text)
        return True

    inbox.deliver_to(take)
    while (event := await inbox.receive())["type"] == "websocket.receive":
        if event.get("text") is not None:
            write(event["text"])
        else:  # the outbox knows text frames only
            await send({"type": "websocket.send", "bytes": event["bytes"]})
    logger.info("echoed taken={}", taken)
    await outbox.finish()


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})
