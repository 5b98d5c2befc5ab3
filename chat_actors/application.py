"""The FastAPI application, to run alone or to mount in another application.

Importing this module and calling ``create_app`` change nothing outside the application. Read this file first: the
data flows down from here.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Optional

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route, WebSocketRoute

from chat_actors.clock import Clock
from chat_actors.connection.asgi import App, Receive, Scope, Send
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
from chat_actors.workers.opening import Workers


class Application(FastAPI):
    """FastAPI application whose every response follows ``HttpSemantics``: also 500, and those of added middleware.

    ``workers``: where others are looked for before anything is served; None: nowhere.
    """

    def __init__(self, workers: Optional[Workers], **options: Any) -> None:
        super().__init__(**options)
        self._workers = workers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._workers is not None:
            await self._workers.open(scope, send)  # here, for FastAPI wraps ``send`` in a lifespan
        await super().__call__(scope, receive, send)

    def build_middleware_stack(self) -> App:
        return HttpSemantics(super().build_middleware_stack())


def create_app(
    settings: Optional[Settings] = None,
    clock: Optional[Clock] = None,
    counters: Optional[Counters] = None,
    workers: Optional[Workers] = None,
) -> FastAPI:
    """Return an application with actors of its own.

    ``settings``: read from the ``CHAT_*`` environment variables if None. ``clock``: the system's clock if None.
    ``counters``: those of the process if its log counts there; new ones if None. ``workers``: those of the
    process's host, for ``workers.opening``; None: if there are several, each has topics of its own.

    Raises ``pydantic.ValidationError`` if a variable of the environment has a wrong value.
    """
    settings = settings or Settings.model_validate({})
    server = Server(settings, clock, counters, workers)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.open()
        yield
        await server.stop()

    # The endpoint is an ASGI application: Starlette's WebSocket class would cost time for each frame.
    routes: list[BaseRoute] = [WebSocketRoute("/ws", server), Route("/ws", upgrade_required)]
    routes += [*page_routes(), *reference_routes(settings)]
    app = Application(
        workers,
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
