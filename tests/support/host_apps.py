"""Applications with the chat inside, for ``uvicorn --factory tests.support.host_apps:<name>``."""

from fastapi import FastAPI
from loguru import logger

from chat_actors import FastLane, create_app
from chat_actors.connection.asgi import App, AsgiEvent, Receive, Scope, Send
from chat_actors.operations.logs import configure_logging

configure_logging("INFO", as_json=False)


class Wrapping:
    """Middleware that puts a function of its own around ``send``, as many do."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def pass_on(event: AsgiEvent) -> None:
            await send(event)

        await self._app(scope, receive, pass_on)


class Noting:
    """Middleware that logs when the endpoint of a WebSocket has returned."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            logger.info("endpoint returned")


def mounted() -> FastAPI:
    host = FastAPI()
    host.mount("/chat", create_app())
    return host


def mounted_on_the_fast_lane() -> FastAPI:
    host = mounted()
    host.add_middleware(FastLane)
    return host


def wrapped() -> FastAPI:
    host = create_app()
    host.add_middleware(Wrapping)
    return host


def wrapped_on_the_fast_lane() -> FastAPI:
    host = wrapped()
    host.add_middleware(FastLane)  # the last one added is the outermost
    return host


def noted() -> FastAPI:
    host = create_app()
    host.add_middleware(Noting)
    return host
