"""The wire contract as an AsyncAPI 3.0 document, generated from the types of ``protocol``. No I/O, no state.

The frames, fields and codes and their descriptions live in ``frames`` and ``codes``, the lengths of names in ``names``,
the limits in ``settings``. Only two things live here: which frame answers which, and an example of each frame.
"""

import re
from collections.abc import Iterable
from inspect import cleandoc
from typing import Any, NamedTuple, get_args

import msgspec
from msgspec import Struct

from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.protocol.frames import (
    LIST,
    Ack,
    ClientFrame,
    Closing,
    Error,
    Expired,
    Joined,
    JoinFrame,
    ListCommand,
    Message,
    Presence,
    Renamed,
    Replayed,
    ReplayGap,
    SendFrame,
    ServerFrame,
    Topics,
    TopicUsers,
)
from chat_actors.protocol.names import MAX_TOPIC, MAX_USERNAME
from chat_actors.settings import Settings
from chat_actors.version import __version__

Object = dict[str, Any]  # a JSON object

_OVERVIEW = """\
A chat with topic rooms. The document takes the server's side: a client sends what the server receives.

Each frame is one JSON object in a WebSocket text frame; the server reads a binary frame in the same way. The first
frame joins a topic. After ``joined`` the connection is a member of that topic until it closes. Another topic needs
another connection.

Every frame of the server has a ``type``; a ``message`` with ``replayed`` is a stored one. The server ignores unknown
keys, and a client must do the same. An optional key of a client's frame may be null, which is the same as absent. A
client gets only what it asks for: after a join with ``username`` and ``topic``
alone it receives ``joined``, ``message``, ``ack``, ``topics`` and ``error``, without the keys of the window.

Acks arrive in the order of the connection's messages, and messages in the order of their ids. Lengths of texts are
counted in Unicode code points."""

_SERVER = """\
The host that was asked for this document, over ``wss`` if it was asked over ``https``. The server answers a handshake
with 403 if its host or its origin is not allowed or its token is wrong."""

_TOKEN = "The server's shared secret: in the handshake, or as ``token`` in the join frame."

# The name of each operation, and the frames that answer it. The server sends all other frames unasked.
_ANSWERS: dict[type, tuple[str, tuple[type, ...]]] = {
    JoinFrame: ("join", (Joined, Error)),
    SendFrame: ("send", (Ack, Error)),
    ListCommand: ("list", (Topics, Error)),
}
_ALSO_UNASKED = Error  # if the server is full

# The limits that a client can reach.
_LIMITS = (
    *("message_ttl", "message_chars", "frame_bytes", "join_timeout", "refused_frames"),
    *("rate_limit", "rate_burst", "outbox_bytes", "stall_timeout", "presence_members"),
)

_TIME, _EPOCH, _RESUME = 1690000000, "5f2c9e1a", "nW1d0ZT8vXo2mQeYkR4uLg"
_EXAMPLES: tuple[Struct, ...] = (
    JoinFrame("alice", "sports"),
    JoinFrame("alice", "sports", since=17, epoch=_EPOCH, resume=_RESUME, events=True),
    SendFrame("Hello World"),
    SendFrame("Hello World", ref="m1"),
    ListCommand(),
    Joined("alice#2", "sports", 2, 30),
    Joined("alice", "sports", 2, 30, _EPOCH, 23, _RESUME, ReplayGap(18, 20, "expired"), 20, ["bob", "alice"]),
    Joined("alice", "sports", 1, 30, _EPOCH, 0, _RESUME, ReplayGap(18, None, "restarted")),
    Message(17, "alice", "Hello World", _TIME),
    Replayed(id=17, username="alice", message="Hello World", timestamp=_TIME, remaining_ms=12345),
    Presence(joined=["bob", "carol"], left=["dan"], users=3),
    Presence(left=["bob"], users=1),
    Presence(users=1502),
    Renamed("alice", "alice#2"),
    Expired(17),
    Closing(1200),
    Ack(id=17, ref="m1", timestamp=_TIME, recipients=3),
    Ack(id=17, ref="m1", timestamp=_TIME, recipients=3, duplicate=True, remaining_ms=12345),
    Topics.of([TopicUsers("sports", 2), TopicUsers("movies", 1)]),
    Topics.of([]),
    Topics.of([TopicUsers("sports", 2)], partial=True),
    Error(ErrorCode.EMPTY_MESSAGE, "message must not be empty: send more than white space"),
)

_CHANNEL = {"$ref": "#/channels/chat"}
_LIST_TEXT = "ListText"
# In a docstring: the description of one field, from its name and a colon to the next field or an empty line.
_FIELD = re.compile(r"^``(\w+)``: (.+(?:\n(?!``\w+``: ).+)*)\n?", re.MULTILINE)


class WebSocketUri(NamedTuple):
    """URI of the WebSocket as a client sees it (RFC 6455, section 3)."""

    scheme: str  # ws or wss
    host: str  # with the port, unless it is the scheme's own
    path: str


def document(settings: Settings, uri: WebSocketUri) -> Object:
    """Return the AsyncAPI document of a server with these settings, as an object that can be encoded as JSON."""
    frames = *get_args(ClientFrame), *get_args(ServerFrame)
    components: Object = {
        "messages": {frame.__name__: _message(frame) for frame in frames},
        "schemas": _schemas(settings),
    }
    _add_list_text(**components)
    server: Object = {"host": uri.host, "protocol": uri.scheme, "description": _SERVER}
    if settings.token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "description": _TOKEN}}
        server["security"] = [{"$ref": "#/components/securitySchemes/token"}]
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "chat_actors", "version": __version__, "description": _OVERVIEW},
        "defaultContentType": "application/json",
        "servers": {"here": server},
        "channels": {"chat": _channel(uri.path, components["messages"], settings)},
        "operations": _operations(),
        "components": components,
    }


def _add_list_text(messages: Object, schemas: Object) -> None:
    """Add the one frame that is not JSON."""
    summary = f"``{LIST}`` as bare text."
    messages[_LIST_TEXT] = {
        "summary": summary,
        "contentType": "text/plain",
        "payload": _schema_ref(_LIST_TEXT),
        "examples": [{"payload": LIST}],
    }
    schemas[_LIST_TEXT] = {"title": _LIST_TEXT, "description": summary, "type": "string", "const": LIST}


def _channel(address: str, messages: Iterable[str], settings: Settings) -> Object:
    limits = Settings.model_fields
    return {
        "address": address,
        "description": _doc(CloseCode),
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
        "x-close-codes": [{"code": int(one), "name": one.name.lower(), "reason": one.reason} for one in CloseCode],
        "x-limits": [
            {"name": name, "value": getattr(settings, name), "description": limits[name].description}
            for name in _LIMITS
        ],
    }


def _operations() -> Object:
    """Return the operations: each frame that the server receives, with its answers, and each that it sends unasked."""
    operations: Object = {}
    answers: set[type] = set()
    for frame in get_args(ClientFrame):
        name, replies = _ANSWERS[frame]
        reply = {"channel": _CHANNEL, "messages": [_message_ref(one.__name__) for one in replies]}
        operations[name] = {**_operation("receive", frame), "reply": reply}
        answers.update(replies)
    operations["list"]["messages"].append(_message_ref(_LIST_TEXT))
    for frame in get_args(ServerFrame):
        if frame not in answers or frame is _ALSO_UNASKED:
            operations[frame.__name__.lower()] = _operation("send", frame)
    return operations


def _operation(action: str, frame: type) -> Object:
    return {"action": action, "channel": _CHANNEL, "messages": [_message_ref(frame.__name__)]}


def _schema_ref(name: str) -> Object:
    return {"$ref": f"#/components/schemas/{name}"}


def _message_ref(name: str) -> Object:
    return {"$ref": f"#/channels/chat/messages/{name}"}


def _message(frame: type[Struct]) -> Object:
    message: Object = {
        "summary": _doc(frame).partition("\n\n")[0],
        "payload": _schema_ref(frame.__name__),
        "examples": [{"payload": msgspec.to_builtins(one)} for one in _EXAMPLES if type(one) is frame],
    }
    if "ref" in frame.__struct_fields__:
        message["correlationId"] = {"location": "$message.payload#/ref"}
    return message


def _schemas(settings: Settings) -> Object:
    """Return the schemas of the payloads. A client's frames allow no other keys, so that each matches one schema."""
    client, server = get_args(ClientFrame), get_args(ServerFrame)
    template = "#/components/schemas/{name}"
    _, of_clients = msgspec.json.schema_components(client, ref_template=template)
    _, of_servers = msgspec.json.schema_components(server, ref_template=template)
    for schema in of_clients.values():
        schema["additionalProperties"] = False
    for schema in of_servers.values():
        for name, field in schema.get("properties", {}).items():
            if "default" in field:  # the server always sends it
                del field["default"]
                schema["required"].append(name)
    of_servers[Message.__name__]["not"] = {"required": ["replayed"]}
    of_servers[ErrorCode.__name__]["x-error-codes"] = [{"code": one.value, "cause": one.cause} for one in ErrorCode]
    schemas: Object = {**of_clients, **of_servers}
    for schema in schemas.values():
        text = cleandoc(schema.get("description", ""))
        for name, description in _FIELD.findall(text):
            schema["properties"][name]["description"] = description
        schema["description"] = _FIELD.sub("", text).strip()
        for field in schema.get("properties", {}).values():
            if len(field.get("enum", ())) == 1:
                field.update(type="string", const=field.pop("enum")[0])
    join, send = (schemas[frame.__name__]["properties"] for frame in (JoinFrame, SendFrame))
    join["username"].update(minLength=1, maxLength=MAX_USERNAME)
    join["topic"].update(minLength=1, maxLength=MAX_TOPIC)
    send["message"].update(pattern=r"^\s*[^\s/]", maxLength=settings.message_chars)
    return schemas


def _doc(thing: type) -> str:
    return cleandoc(thing.__doc__ or "")
