"""The FastAPI application, to run alone or to mount in another application.

Importing this module and calling ``create_app`` change nothing outside the application. Read this file first: the
data flows down from here.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Optional

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route, WebSocketRoute

from chat_actors.clock import Clock
from chat_actors.connection.asgi import App
from chat_actors.connection.hosts import HostGuard
from chat_actors.connection.takeover import FastLane
from chat_actors.counters import Counters
from chat_actors.http_semantics import HttpSemantics
from chat_actors.operations.routes import operations
from chat_actors.page.reference import reference_routes, upgrade_required
from chat_actors.page.routes import page_routes
from chat_actors.server import Server
from chat_actors.settings import Settings
from chat_actors.version import __version__


class Application(FastAPI):
    """FastAPI application whose every response follows ``HttpSemantics``: also 500, and those of added middleware."""

    def build_middleware_stack(self) -> App:
        return HttpSemantics(super().build_middleware_stack())


def create_app(
    settings: Optional[Settings] = None, clock: Optional[Clock] = None, counters: Optional[Counters] = None
) -> FastAPI:
    """Return an application with actors of its own.

    ``settings``: read from the ``CHAT_*`` environment variables if None. ``clock``: the system's clock if None.
    ``counters``: those of the process if its log counts there; new ones if None.

    Raises ``pydantic.ValidationError`` if a variable of the environment has a wrong value.
    """
    settings = settings or Settings.model_validate({})
    server = Server(settings, clock, counters)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.open()
        yield
        await server.stop()

    # The endpoint is an ASGI application: Starlette's WebSocket class would cost time for each frame.
    routes: list[BaseRoute] = [WebSocketRoute("/ws", server), Route("/ws", upgrade_required)]
    routes += [*page_routes(), *reference_routes(settings)]
    app = Application(
        title="chat_actors",
        version=__version__,
        lifespan=lifespan,
        routes=routes,
        docs_url=None,  # FastAPI's pages run scripts of another host, in the origin of the chat
        redoc_url=None,
        redirect_slashes=False,  # it redirects to what the client gave as Host; a probe counts that as success
    )
    app.include_router(operations(server, settings))
    app.add_middleware(HostGuard, hosts=server.admission.hosts)
    app.add_middleware(FastLane)
    return app
