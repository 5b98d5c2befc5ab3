"""What every HTTP response has in common, by RFC 9110 (HTTP Semantics): methods, headers, conditional requests, hosts.

A route handles GET alone, and knows of none of this.
"""

import hashlib
import re
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from chat_actors.connection.asgi import App, AsgiEvent, Headers, Receive, Scope, Send, local_address

HeaderList = list[tuple[bytes, bytes]]

# A response is what its Content-Type says, and no page shows it in a frame.
OF_EVERY_RESPONSE = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"content-security-policy": b"frame-ancestors 'none'",  # a page has a stricter policy of its own
}
_AUTHORITY = re.compile("^https?://[^/]*", re.IGNORECASE)
# No character with a meaning in a policy or in a document.
_HOST = re.compile(r"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(:\d{1,5})?")


class HttpSemantics:
    """ASGI middleware around everything that answers a request. WebSockets pass through it untouched: the fast lane
    must see the host's own ``send``.

    HEAD is GET without the content (RFC 9110, section 9.3.2). OPTIONS is answered with 204, for a path that has a route
    (section 9.3.7). Any other method is answered with 405. The last two name the methods in ``Allow`` (section 10.2.1).
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        with_content = method not in ("HEAD", "OPTIONS")

        async def answer(event: AsgiEvent) -> None:
            if event["type"] == "http.response.start":
                event = _complete(event, method)
            elif not with_content:
                event = {**event, "body": b""}
            await send(event)

        scope = _in_origin_form(scope)
        # A copy: the host has to know that a response to HEAD has no content.
        await self._app({**scope, "method": "GET"} if method == "HEAD" else scope, receive, answer)


def _in_origin_form(scope: Scope) -> Scope:
    """Return a scope with a path, whatever form the request target has (RFC 9112, section 3.2).

    A client of a proxy gives a whole URI, and one that asks about the server itself ``OPTIONS *``.
    """
    root = scope.get("root_path", "")
    target = scope["path"].removeprefix(root)
    if target == "*" and scope["method"] == "OPTIONS":
        target = "/"
    elif not _AUTHORITY.match(target):
        return scope
    path = root + (_AUTHORITY.sub("", target) or "/")
    return {**scope, "path": path, "raw_path": quote(path).encode("ascii")}


def _complete(start: AsgiEvent, method: str) -> AsgiEvent:
    """Return the start of a response with all of its headers."""
    status, headers = start["status"], [(name.lower(), value) for name, value in start.get("headers", ())]
    if status == 405:
        allowed = {one for name, value in headers if name == b"allow" for one in value.decode("latin-1").split(", ")}
        allow = ", ".join(sorted({*allowed, "HEAD", "OPTIONS"})).encode("latin-1")
        headers = [*_without(headers, b"allow"), (b"allow", allow)]
    if method == "OPTIONS":
        headers = _without(headers, b"content-type", b"content-length")
        if status == 405:
            status = 204
        else:
            headers.append((b"content-length", b"0"))
    given = {name for name, _ in headers}
    headers += [(name, value) for name, value in OF_EVERY_RESPONSE.items() if name not in given]
    return {**start, "status": status, "headers": headers}


def _without(headers: Headers, *names: bytes) -> HeaderList:
    return [(name, value) for name, value in headers if name not in names]


class Representation:
    """Content of a resource, with its entity tag (RFC 9110, section 8.8.3)."""

    def __init__(self, content: bytes, media_type: str) -> None:
        self._content = content
        self._media_type = media_type
        self._etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    def respond(self, request: Request, **headers: str) -> Response:
        """Return 200 with the content, or 304 if the client has it already. Further headers: ``_`` stands for ``-``."""
        own = {
            "ETag": self._etag,
            "Cache-Control": "no-cache",  # a client may keep it, but must revalidate: a new release shows at once
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        if self._is_known(request):
            return Response(status_code=304, headers=own)
        return Response(self._content, headers=own, media_type=self._media_type)

    def _is_known(self, request: Request) -> bool:
        """Compare with ``If-None-Match``, weakly (RFC 9110, section 13.1.2)."""
        lines = request.headers.getlist("if-none-match")
        known = [one.strip().removeprefix("W/") for one in ",".join(lines).split(",")]
        return "*" in known or self._etag in known


def named_host(request: Request) -> str:
    """Return the ``Host`` that the client named, with its port if it has one; empty if that is no host."""
    host = request.headers.get("host", "")
    return host if _HOST.fullmatch(host) else ""


def own_address(request: Request) -> str:
    """Return the address that the request came to; ``localhost`` if it has none, as on a Unix socket."""
    local = local_address(request.scope)
    if local is None or local.port is None:
        return "localhost"
    return f"[{local.address}]:{local.port}" if ":" in local.address else f"{local.address}:{local.port}"
