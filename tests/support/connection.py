"""A WebSocket of an ASGI server that the test controls, and the end of that server."""

import asyncio
import json
from typing import Any

from chat_actors.server import CLOSE_POLL_SECONDS, Server
from tests.support.fakes import FakeClock, FakeServer, Frame, settle


class Connection(FakeServer):
    """WebSocket of an ASGI server that the test controls."""

    def __init__(self, app: Server, **scope: Any) -> None:
        super().__init__()
        self.events.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.ensure_future(app({"type": "websocket", **scope}, self.receive, self.send))

    async def says(self, text: str) -> Frame:
        """Send a text; the last frame that was sent back, to this one or before."""
        self.events.put_nowait({"type": "websocket.receive", "text": text})
        await settle()
        return self.frames[-1]

    async def goes(self) -> None:
        self.events.put_nowait({"type": "websocket.disconnect"})
        await self.task
        await settle()  # its leave

    @property
    def frames(self) -> list[Frame]:
        return [json.loads(text) for text in self.texts]


JOIN = '{"username": "alice", "topic": "sports"}'


async def end(server: Server, clock: FakeClock) -> None:
    """Stop the server; time passes while it waits for those who have not gone."""
    stopping = asyncio.ensure_future(server.stop())
    await settle()
    while not stopping.done():
        await clock.advance(CLOSE_POLL_SECONDS)
    await stopping
