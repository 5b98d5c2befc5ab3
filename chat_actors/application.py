"""The FastAPI application: ``uvicorn chat_actors.app:app``. Read this file first; the data flows downward from here."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Optional

from fastapi import FastAPI
from starlette.routing import BaseRoute, WebSocketRoute

from chat_actors import __version__
from chat_actors.clock import Clock
from chat_actors.connection.asgi import FindProtocol
from chat_actors.operations.logs import configure_logging
from chat_actors.operations.routes import operations
from chat_actors.page.reference import reference_routes
from chat_actors.page.routes import page_routes
from chat_actors.server import Chat
from chat_actors.settings import Settings, load_settings
from chat_actors.workers import refuse_several_workers


def create_app(settings: Optional[Settings] = None, clock: Optional[Clock] = None) -> FastAPI:
    """An application with actors of its own; ``settings`` default to those of the environment."""
    settings = settings or load_settings()
    chat = Chat(settings, clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        chat.open()
        yield
        await chat.stop()

    # The endpoint is an ASGI application, not a function of a WebSocket: nothing stands between it and each frame.
    routes: list[BaseRoute] = [WebSocketRoute("/ws", chat), *page_routes(), *reference_routes(settings)]
    app = FastAPI(title="chat_actors", version=__version__, lifespan=lifespan, routes=routes)
    app.include_router(operations(chat, settings))
    app.add_middleware(FindProtocol)
    return app


refuse_several_workers()
# Connections and topics are many and live long: by default they would all be looked at again and again, at a third of
# the CPU where there are thousands of rooms. What is in cycles here is little, and can wait.
gc.set_threshold(50_000, 20, 50)
_settings = load_settings()
_guarded = bool(_settings.token or _settings.allowed_origins)
configure_logging(_settings.log_level, _settings.log_json, _settings.changed_limits(), _guarded)
app = create_app(_settings)
