"""Echo, only for the tests: every message comes back as it came, by the chat server's own ways in and out.

``app`` reads and writes as a session does: text that the inbox takes at once is written by the outbox, and what
comes as an ASGI event is text or binary. ``plain`` is the same echo without inbox and outbox, to compare with.
"""

from websockets.frames import Frame, Opcode

from chat_actors.clock import Clock
from chat_actors.inbox import open_inbox
from chat_actors.lane import App, FindProtocol, Receive, Scope, Send, uvicorn_protocol
from chat_actors.outbox import StallWatch, open_outbox
from chat_actors.settings import load_settings


class Echo:
    """The application, with or without the fast lane. ``taken``: how many messages came by it."""

    def __init__(self, fast: bool) -> None:
        self.taken = 0
        self._fast = fast

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        if self._fast:
            await self._echo_fast(scope, receive, send)
        else:
            while (event := await receive())["type"] == "websocket.receive":
                await send({**event, "type": "websocket.send"})

    async def _echo_fast(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings = load_settings()
        watch = StallWatch(Clock(), settings.outbox_bytes, settings.stall_timeout, settings.message_ttl)
        protocol = uvicorn_protocol(scope)
        outbox = open_outbox(watch, protocol, receive, send)
        inbox = open_inbox(protocol, outbox.receive, settings.frame_bytes)

        def write(text: str) -> None:
            outbox.write(Frame(Opcode.TEXT, text.encode()).serialize(mask=False))

        def take(text: str) -> bool:
            self.taken += 1
            write(text)
            return True

        inbox.take_at_once(take)
        while (event := await inbox.receive())["type"] == "websocket.receive":
            if event.get("text") is not None:
                write(event["text"])
            else:  # the outbox knows text frames only
                await send({"type": "websocket.send", "bytes": event["bytes"]})
        await outbox.finish()


echo = Echo(fast=True)
app: App = FindProtocol(echo)
plain: App = Echo(fast=False)
