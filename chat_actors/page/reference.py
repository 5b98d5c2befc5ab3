"""The reference of the protocol over HTTP: ``/asyncapi.json`` for programs, ``/protocol`` for people.

The page is generated from the AsyncAPI document alone. It loads no other file and runs no script. Both name the URI
that they were asked at, as a client sees it: behind a proxy, under a path, on any port.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from html import escape
from typing import Any, Callable
from urllib.parse import quote

import msgspec
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from chat_actors.http_semantics import Representation, named_host, own_address
from chat_actors.protocol.asyncapi import Object, WebSocketUri, document
from chat_actors.settings import Settings

_STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --back: #fff; --quiet: #5a6169; --line: #d5d9de; --soft: #f3f5f7;
  --link: #0a58ca }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7eb; --back: #15181b; --quiet: #a3abb3; --line: #3a4046;
  --soft: #20252a; --link: #7fb2ff } }
body { margin: 0 auto; max-width: 56rem; padding: 1rem 1.25rem 4rem; color: var(--text); background: var(--back);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word }
h1, h2, h3 { line-height: 1.25 }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem }
h3 { margin-top: 2.2rem }
a { color: var(--link) }
code, pre { font: .9em/1.5 ui-monospace, monospace; background: var(--soft); border-radius: 4px }
code { padding: .1em .3em }
pre { padding: .6rem .8rem; white-space: pre-wrap; overflow-wrap: anywhere }
pre code { padding: 0; font-size: 1em }
nav ul { padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem }
table { width: 100%; border-collapse: collapse }
th, td { text-align: left; vertical-align: top; padding: .4rem .7rem .4rem 0; border-top: 1px solid var(--line) }
thead th { border-top: 0; color: var(--quiet); font-size: .9em }
tbody th { font-weight: normal; width: 9rem }
td:not(:last-child) { width: 12rem }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_MOST_URIS = 16  # for which both are kept: a client can name any host


def reference_routes(settings: Settings) -> list[APIRoute]:
    """Return the two routes, with the limits of ``settings`` in both documents."""

    @lru_cache(_MOST_URIS)
    def programs(uri: WebSocketUri) -> Representation:
        return Representation(msgspec.json.encode(document(settings, uri)), str(JSONResponse.media_type))

    @lru_cache(_MOST_URIS)
    def people(uri: WebSocketUri) -> Representation:
        return Representation(render(document(settings, uri)).encode(), str(HTMLResponse.media_type))

    return [
        _route("/asyncapi.json", "The protocol of /ws for programs: AsyncAPI 3.0", programs, JSONResponse),
        _route("/protocol", "The protocol of /ws for people", people, HTMLResponse),
    ]


def websocket_uri(request: Request) -> WebSocketUri:
    """Return the URI of the WebSocket (RFC 6455, section 3) beside the page that was asked for."""
    scope = request.scope
    scheme = "wss" if scope["scheme"] in ("https", "wss") else "ws"
    return WebSocketUri(
        scheme, named_host(request) or own_address(request), quote(scope["root_path"].rstrip("/")) + "/ws"
    )


async def upgrade_required(request: Request) -> Response:
    """Answer a plain request to ``/ws`` with 426 (RFC 9110, section 15.5.22).

    It may be meant as a handshake: uvicorn heeds only the last of several ``Connection`` headers.
    """
    detail = (
        "This is a WebSocket: see /protocol. A proxy must send `Upgrade: websocket` and one `Connection: Upgrade`.\n"
    )
    return PlainTextResponse(detail, 426, {"Upgrade": "websocket", "Connection": "Upgrade"})


def _route(path: str, summary: str, build: Callable[[WebSocketUri], Representation], kind: type[Response]) -> APIRoute:
    async def serve(request: Request) -> Response:
        return build(websocket_uri(request)).respond(request, Content_Security_Policy=_POLICY)

    return APIRoute(path, serve, summary=summary, response_class=kind)


def render(contract: Object) -> str:
    """Return the page as one HTML document. ``contract``: the result of ``asyncapi.document``."""
    info, (server,), (channel,) = contract["info"], contract["servers"].values(), contract["channels"].values()
    schemas, messages = contract["components"]["schemas"], contract["components"]["messages"]
    received, sent = _directions(contract["operations"])
    inside = [name for name in schemas if name not in messages]
    limits = [
        (_code(one["name"]), _code(f"{one['value']:.15g}"), _inline(one["description"])) for one in channel["x-limits"]
    ]
    closes = [(_code(one["code"]), _inline(one["reason"])) for one in channel["x-close-codes"]]
    chapters = [
        (
            "Connection",
            [],
            f"<p>WebSocket at {_code(server['protocol'] + '://' + server['host'] + channel['address'])}.</p>\n"
            + _text(server["description"])
            + _table(("limit", "value", "meaning"), limits),
        ),
        (
            "From the client",
            received,
            "".join(_frame(messages[name], schemas[name], received[name]) for name in received),
        ),
        ("From the server", sent, "".join(_frame(messages[name], schemas[name]) for name in sent)),
        ("Inside the frames", inside, "".join(_schema(schemas[name]) for name in inside)),
        ("Close codes", [], _text(channel["description"]) + _table(("code", "cause"), closes)),
    ]
    title = escape(f"The protocol of {info['title']} {info['version']}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<nav aria-label="Contents">
<ul>
{"".join(_entry(name, parts) for name, parts, _ in chapters)}<li><a href="asyncapi.json">For programs</a></li>
</ul>
</nav>
</header>
<main>
{_text(info["description"])}{"".join(f"{_heading(2, name)}{body}" for name, _, body in chapters)}</main>
</body>
</html>
"""


def _directions(operations: Object) -> tuple[dict[str, list[str]], list[str]]:
    """Return the messages the server receives, each with the names of its answers, and the messages it sends."""
    received: dict[str, list[str]] = {}
    sent: list[str] = []
    for operation in operations.values():
        names = [_name(message) for message in operation["messages"]]
        if operation["action"] == "receive":
            answers = [_name(message) for message in operation["reply"]["messages"]]
            received.update(dict.fromkeys(names, answers))
            names = answers
        sent += names
    return received, list(dict.fromkeys(sent))


def _name(reference: Object) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


# The functions below return HTML and escape every text of the document.


def _frame(message: Object, schema: Object, answers: Iterable[str] = ()) -> str:
    names = " or ".join(_link(name) for name in answers)
    examples = [example["payload"] for example in message["examples"]]
    return (
        _schema(schema)
        + (f"<p>Answered by {names}.</p>\n" if names else "")
        + "".join(f"<pre>{_code(one if isinstance(one, str) else _json(one))}</pre>\n" for one in examples)
    )


def _schema(schema: Object) -> str:
    """Render one schema: its title, its description, and a table of its keys or codes."""
    keys = [
        (
            _code(key),
            _kind(field) + ("" if key in schema["required"] else ", optional"),
            _inline(field.get("description", "")),
        )
        for key, field in schema.get("properties", {}).items()
    ]
    codes = [(_code(one["code"]), _inline(one["cause"])) for one in schema.get("x-error-codes", ())]
    return (
        _heading(3, schema["title"])
        + _text(schema["description"])
        + (_table(("key", "value", "meaning"), keys) if keys else "")
        + (_table(("code", "cause"), codes) if codes else "")
    )


def _kind(field: Object) -> str:
    """Render the type of a value and its bounds: ``string, 1 to 64 characters``."""
    if "$ref" in field:
        return _link(_name(field))
    if "const" in field:
        return _code(_json(field["const"]))
    if "enum" in field:
        return " or ".join(_code(_json(one)) for one in field["enum"])
    if "anyOf" in field:
        return " or ".join(_kind(one) for one in field["anyOf"])
    if field["type"] == "array":
        return f"array: {_kind(field['items'])} each"
    bounds = escape(field["type"])
    if "minimum" in field:
        bounds += f" from {field['minimum']}"
    if "maxLength" in field:
        bounds += f", {field.get('minLength', 1)} to {field['maxLength']} characters"
    return bounds


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>\n'
        for first, *rest in rows
    )
    return f"<table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def _entry(chapter: str, parts: Iterable[str]) -> str:
    return f"<li>{', '.join(map(_link, [chapter, *parts]))}</li>\n"


def _heading(level: int, title: str) -> str:
    return f'<h{level} id="{_anchor(title)}">{escape(title)}</h{level}>\n'


def _link(title: str) -> str:
    return f'<a href="#{_anchor(title)}">{escape(title)}</a>'


def _anchor(title: str) -> str:
    return escape(title.replace(" ", "-"))


def _text(text: str) -> str:
    """Render paragraphs, which an empty line separates."""
    return "".join(f"<p>{_inline(one)}</p>\n" for one in text.split("\n\n"))


def _inline(text: str) -> str:
    return re.sub("``(.+?)``", r"<code>\1</code>", escape(text))


def _code(text: object) -> str:
    return f"<code>{escape(str(text))}</code>"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
