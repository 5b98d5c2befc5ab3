"""The routes of the chat page: ``GET /`` and its files, served from memory.

A Content-Security-Policy allows the page to load nothing but these files.
"""

import hashlib
import re
from importlib.resources import files
from pathlib import PurePath

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

# In current browsers 'self' includes WebSockets; older browsers need the origin of the WebSocket.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{sockets}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")  # no character with a meaning in a policy


def page_routes() -> list[BaseRoute]:
    """Return the routes ``/`` and ``/page/…``. The files are read once, in this call."""
    contents = {entry.name: entry.read_bytes() for entry in files(__package__).iterdir() if _media_type(entry.name)}
    routes: list[BaseRoute] = [_route("/", "index.html", contents.pop("index.html"))]
    routes += [_route(f"/page/{name}", name, content) for name, content in sorted(contents.items())]
    return routes


def _route(path: str, name: str, content: bytes) -> Route:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def serve(request: Request) -> Response:
        headers = {
            "ETag": etag,
            "Cache-Control": "no-cache",  # a browser may keep it, but must revalidate: a new release shows at once
            "Content-Security-Policy": _policy(request.headers.get("host", "")),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        if _is_known(etag, request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=_media_type(name))

    return Route(path, serve, include_in_schema=False)


def _media_type(name: str) -> str:
    return MEDIA_TYPES.get(PurePath(name).suffix, "")


def _policy(host: str) -> str:
    return _POLICY.format(sockets=f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else "")


def _is_known(etag: str, if_none_match: str) -> bool:
    """Return whether the client has this content already, by weak comparison (RFC 9110, section 13.1.2)."""
    known = [one.strip() for one in if_none_match.split(",")]
    return "*" in known or etag in (one[2:] if one.startswith("W/") else one for one in known)
