"""The FastAPI application: ``uvicorn chat_actors.app:app``. Read this file first; the data flows downward from here.

``Chat`` builds the actors when they are first needed, in the loop that runs then, and ends them at shutdown.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Optional

from fastapi import FastAPI
from loguru import logger
from starlette.routing import BaseRoute, WebSocketRoute

from chat_actors import __version__
from chat_actors.clock import Clock
from chat_actors.door import Door
from chat_actors.history import Limits
from chat_actors.inbox import open_inbox
from chat_actors.lane import FindProtocol, Receive, Scope, Send, uvicorn_protocol
from chat_actors.logs import configure_logging
from chat_actors.outbox import StallWatch, open_outbox, turn_away
from chat_actors.page import page_routes
from chat_actors.protocol import Error, ErrorCode
from chat_actors.session import Session
from chat_actors.settings import Settings, load_settings
from chat_actors.supervisor import Supervisor
from chat_actors.workers import refuse_several_workers


class Chat:
    """The actors of one application, and the ASGI endpoint that opens a session for each WebSocket."""

    def __init__(self, settings: Settings, clock: Optional[Clock] = None) -> None:
        self._settings = settings
        self._clock = clock or Clock()
        self._door = Door(settings)
        self._supervisor: Optional[Supervisor] = None
        self._watch: StallWatch
        self._watching: asyncio.Task[None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        supervisor = self.start()
        await receive()  # websocket.connect
        headers = scope.get("headers", ())
        refusal = self._door.refusal(headers)
        address, port = scope.get("client") or ("unknown", 0)
        peer = f"{address}:{port}"
        if refusal is not None:
            logger.bind(peer=peer, reason=refusal).info("handshake refused")
            await send({"type": "websocket.close"})  # before the upgrade: the server answers 403
            return
        try:
            if not self._door.enter(address):
                logger.bind(peer=peer, code=ErrorCode.SERVER_FULL.value).info("connection refused")
                await turn_away(send, Error(ErrorCode.SERVER_FULL, "the server is full, try again later"))
                return
            await send({"type": "websocket.accept"})
            protocol = uvicorn_protocol(scope)
            outbox = open_outbox(self._watch, protocol, receive, send)
            inbox = open_inbox(protocol, outbox.receive, self._settings.frame_bytes)
            is_token = None if self._door.knows(headers) else self._door.is_token
            await Session(inbox, outbox, supervisor.mailbox, self._settings, peer, is_token).run()
        finally:
            self._door.leave(address)

    def start(self) -> Supervisor:
        """The supervisor that runs in this loop; hosts without a lifespan get it with their first connection."""
        if self._supervisor is None or self._supervisor.task.done():
            settings = self._settings
            limits = Limits(
                message_ttl=settings.message_ttl,
                history_messages=settings.history_messages,
                history_bytes=settings.history_bytes,
                topics=settings.topics,
                topic_members=settings.topic_members,
            )
            self._supervisor = Supervisor(limits, self._clock)
            self._watch = StallWatch(self._clock, settings.outbox_bytes, settings.stall_timeout, settings.message_ttl)
            self._watching = asyncio.create_task(self._watch.run())
        return self._supervisor

    async def stop(self) -> None:
        """Close every member with 1012 and wait until every actor has ended. Can be called twice."""
        if self._supervisor is not None:
            self._supervisor.stop()
            await asyncio.wait({self._supervisor.task})
            self._watching.cancel()
            await asyncio.wait({self._watching})
            self._supervisor = None


def create_app(settings: Optional[Settings] = None, clock: Optional[Clock] = None) -> FastAPI:
    """An application with actors of its own; ``settings`` default to those of the environment."""
    chat = Chat(settings or load_settings(), clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        chat.start()
        yield
        await chat.stop()

    # The endpoint is an ASGI application, not a function of a WebSocket: nothing stands between it and each frame.
    routes: list[BaseRoute] = [WebSocketRoute("/ws", chat), *page_routes()]
    app = FastAPI(title="chat_actors", version=__version__, lifespan=lifespan, routes=routes)
    app.add_middleware(FindProtocol)
    return app


refuse_several_workers()
_settings = load_settings()
configure_logging(_settings.log_level, _settings.log_json)
app = create_app(_settings)
