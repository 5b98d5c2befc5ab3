"""The routes of the chat page: ``GET /`` and its files, served from memory.

A Content-Security-Policy allows the page to load nothing but these files.
"""

from importlib.resources import files
from pathlib import PurePath

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chat_actors.http_semantics import Representation, named_host

MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

# In current browsers 'self' includes WebSockets; older browsers need the origin of the WebSocket.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{sockets}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


def page_routes() -> list[BaseRoute]:
    """Return the routes ``/`` and ``/page/…``. The files are read once, in this call."""
    contents = {entry.name: entry.read_bytes() for entry in files(__package__).iterdir() if _media_type(entry.name)}
    routes: list[BaseRoute] = [_route("/", "index.html", contents.pop("index.html"))]
    routes += [_route(f"/page/{name}", name, content) for name, content in sorted(contents.items())]
    return routes


def _route(path: str, name: str, content: bytes) -> Route:
    file = Representation(content, _media_type(name))

    async def serve(request: Request) -> Response:
        policy = _policy(named_host(request))
        return file.respond(request, Content_Security_Policy=policy, Referrer_Policy="no-referrer")

    return Route(path, serve, include_in_schema=False)


def _media_type(name: str) -> str:
    return MEDIA_TYPES.get(PurePath(name).suffix, "")


def _policy(host: str) -> str:
    return _POLICY.format(sockets=f" ws://{host} wss://{host}" if host else "")
