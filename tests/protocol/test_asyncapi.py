"""The AsyncAPI document: valid, complete, and true of the frames that a server sends and accepts."""

import asyncio
import copy
import enum
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any, Callable, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from chat_actors.protocol import codes
from chat_actors.protocol import frames as protocol
from chat_actors.protocol.asyncapi import WebSocketUri, document
from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.protocol.decoding import Data, Refused, decode_first, decode_next
from chat_actors.protocol.frames import (
    ClientFrame,
    Closing,
    Presence,
    Renamed,
    ServerFrame,
    Topics,
    TopicUsers,
    finished,
    payloads,
)
from chat_actors.protocol.names import MAX_TOPIC, MAX_USERNAME
from chat_actors.settings import Settings
from tests.support.contract import Contract
from tests.support.server import APP, ROOT, Client, Frame, Server, Visit, in_loop

SCHEMA = ROOT / "tests" / "support" / "asyncapi_schema" / "3.0.0.json"
OFFICIAL = Draft7Validator(json.loads(SCHEMA.read_text("utf-8")))
DEFAULTS = Settings.model_validate({})
URI = WebSocketUri("ws", "localhost:8000", "/ws")
DOCUMENT = document(DEFAULTS, URI)
CONTRACT = Contract(DOCUMENT)
SCHEMAS = DOCUMENT["components"]["schemas"]
LONGEST = DEFAULTS.message_chars


def inside(value: object) -> Iterator[Any]:
    """A value of JSON, and all that is in it."""
    yield value
    if isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from inside(one)


# The document.


@pytest.mark.parametrize("token", ["", "s3cret"])
def test_the_document_is_valid_asyncapi(token: str) -> None:
    OFFICIAL.validate(document(Settings.model_validate({"token": token}), URI))


@pytest.mark.parametrize(
    "path",
    [
        *("asyncapi", "info.title", "servers.here.host", "operations.join.action", "operations.send.reply.messages.0"),
        *("channels.chat.address", "components.schemas.Joined.required", "components.messages.Ack.examples.0"),
    ],
)
def test_a_document_that_is_wrong_in_one_place_is_not(path: str) -> None:
    wrong = copy.deepcopy(DOCUMENT)
    *above, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
    place: Any = wrong
    for key in above:
        place = place[key]
    place[last] = 17
    assert not OFFICIAL.is_valid(wrong)


def test_every_reference_points_at_something_and_has_nothing_beside_it() -> None:
    references = [value for value in inside(DOCUMENT) if isinstance(value, dict) and "$ref" in value]
    assert len(references) > 50
    for reference in references:
        assert list(reference) == ["$ref"]
        place = DOCUMENT
        for key in reference["$ref"].split("/")[1:]:
            place = place[key]


def test_it_has_every_struct_frame_and_code_of_the_protocol() -> None:
    things = [*vars(protocol).values(), *vars(codes).values()]
    own = [thing for thing in things if getattr(thing, "__module__", "") in (protocol.__name__, codes.__name__)]
    structs = {thing.__name__ for thing in own if isinstance(thing, type) and issubclass(thing, msgspec.Struct)}
    assert structs - {"Window"} == SCHEMAS.keys() - {"ErrorCode", "ListText"}  # Window never leaves the process
    frames = {frame.__name__ for frame in (*get_args(ClientFrame), *get_args(ServerFrame))}
    assert frames == CONTRACT.channel["messages"].keys() - {"ListText"}
    enums = {thing for thing in own if isinstance(thing, type) and issubclass(thing, enum.Enum)}
    assert enums == {ErrorCode, CloseCode}
    assert {*SCHEMAS["ErrorCode"]["enum"]} == {code.value for code in ErrorCode}
    assert all(code.cause for code in ErrorCode)
    assert {one["code"]: one["cause"] for one in SCHEMAS["ErrorCode"]["x-error-codes"]} == {
        code.value: code.cause for code in ErrorCode
    }
    assert {one["code"]: one["reason"] for one in CONTRACT.channel["x-close-codes"]} == {
        code.value: code.reason for code in CloseCode
    }


def test_every_message_is_in_an_operation_and_its_examples_are_nothing_else() -> None:
    in_operations = json.dumps(DOCUMENT["operations"])
    for name, message in DOCUMENT["components"]["messages"].items():
        assert f'"#/channels/chat/messages/{name}"' in in_operations
        assert message["summary"] and message["examples"]
        assert [CONTRACT.kinds(one["payload"]) for one in message["examples"]] == [[name]] * len(message["examples"])


def test_a_join_a_message_and_a_list_have_their_answers() -> None:
    def names(messages: list[Frame]) -> list[str]:
        return [message["$ref"].rpartition("/")[2] for message in messages]

    operations = DOCUMENT["operations"]
    asked = {name: operation for name, operation in operations.items() if operation["action"] == "receive"}
    assert {name: (names(one["messages"]), names(one["reply"]["messages"])) for name, one in asked.items()} == {
        "join": (["JoinFrame"], ["Joined", "Error"]),
        "send": (["SendFrame"], ["Ack", "Error"]),
        "list": (["ListCommand", "ListText"], ["Topics", "Error"]),
    }
    unasked = operations.keys() - asked
    assert unasked == {"message", "replayed", "presence", "renamed", "expired", "closing", "error"}
    assert {operations[name]["action"] for name in unasked} == {"send"}


def test_a_docstring_explains_the_fields_it_names_and_is_shown_without_them() -> None:
    join = SCHEMAS["JoinFrame"]
    assert all(field["description"] for field in join["properties"].values())
    assert join["properties"]["events"]["description"].startswith("whether to receive")
    assert join["description"].startswith("Join a topic") and "whether to receive" not in join["description"]
    assert not [text for text in inside(SCHEMAS) if isinstance(text, str) and "\n  " in text]


@pytest.mark.parametrize(
    ("frame", "kinds"),
    [
        ({"since": None, "epoch": None, "resume": None, "events": None, "token": None}, ["JoinFrame"]),
        ({"since": 5.0}, ["JoinFrame"]),
        *(({"since": wrong}, []) for wrong in (5.5, -1.0, "5", 2**53)),
        ({"events": 1.0}, []),
    ],
)
def test_null_and_whole_numbers_are_in_the_schema_of_a_join(frame: Frame, kinds: list[str]) -> None:
    assert CONTRACT.kinds({"username": "alice", "topic": "sports", **frame}) == kinds


def test_null_for_a_ref_is_in_the_schema_of_a_message() -> None:
    assert CONTRACT.kinds({"message": "Hello", "ref": None}) == ["SendFrame"]


def test_limits_are_those_in_force() -> None:
    settings = Settings.model_validate({"message_chars": 7, "frame_bytes": 2048, "presence_members": 9})
    small = document(settings, URI)
    schemas = small["components"]["schemas"]
    assert schemas["SendFrame"]["properties"]["message"]["maxLength"] == 7
    assert schemas["JoinFrame"]["properties"]["username"]["maxLength"] == MAX_USERNAME
    assert schemas["JoinFrame"]["properties"]["topic"]["maxLength"] == MAX_TOPIC
    limits = {one["name"]: one["value"] for one in Contract(small).channel["x-limits"]}
    assert [limits[name] for name in ("message_chars", "frame_bytes", "presence_members")] == [7, 2048, 9]


def test_the_document_asks_for_the_token_and_never_shows_it() -> None:
    with_token = document(Settings.model_validate({"token": "s3cret"}), URI)
    (scheme,) = with_token["servers"]["here"]["security"]
    assert scheme["$ref"] == "#/components/securitySchemes/token"
    assert "s3cret" not in json.dumps(with_token)
    assert "security" not in DOCUMENT["servers"]["here"] and "securitySchemes" not in DOCUMENT["components"]


def test_a_python_that_strips_docstrings_starts_all_the_same() -> None:
    subprocess.run([sys.executable, "-OO", "-c", "import chat_actors.app"], check=True, timeout=60)


# What a server says.


async def fetch(server: Server) -> Contract:
    def read() -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/asyncapi.json") as response:
            return json.load(response)

    return Contract(await asyncio.to_thread(read))


async def converse(server: Server) -> list[Frame]:
    """Have every kind of frame sent; ``server`` keeps two messages and one topic."""
    clients: list[Client] = []
    async with Visit(server) as visit:

        async def join(username: str, topic: str = "sports", **window: Any) -> Client:
            clients.append(await visit.connect())
            await clients[-1].ask({"username": username, "topic": topic, **window})
            return clients[-1]

        alice, bob = await join("alice", events=True), await join("Alice")
        await alice.recv()  # presence
        for _ in range(3):
            await bob.ask({"message": "Hello World"})
            await alice.recv()
        await alice.recv()  # expired
        for _ in range(2):
            await alice.ask({"message": "Hello World", "ref": "r1"})
        await alice.recv()  # expired, once more
        for wrong in ("{", "/who", {"message": ""}, {"message": 17}, {"username": "a", "topic": "b"}):
            await alice.ask(wrong)
        await alice.ask("/list")
        again = await join("again", since=1, epoch=alice.joined["epoch"], events=True)
        other = await join("again", since=9, epoch="another")
        for one in (again, again, other, other):
            await one.recv()  # replayed
        late = await join("late", topic="another")
        assert await late.close_code() == CloseCode.OVERLOADED
    rest: list[ServerFrame] = [
        Presence(left=["bob", "carol"], users=3),
        Presence(users=1502),
        Closing(1500),
        Renamed("alice", "alice#2"),
        Topics.of([TopicUsers("sports", 1)], partial=True),
    ]
    told = [json.loads(text) for one in rest for text in payloads(finished(one))]
    return [json.loads(text) for client in clients for text in client.texts] + told


@in_loop
async def test_a_server_sends_exactly_the_frames_of_its_document(start: Callable[..., Server]) -> None:
    server = start(*APP, CHAT_HISTORY_MESSAGES="2", CHAT_TOPICS="1")
    contract = await fetch(server)
    (place,) = contract.document["servers"].values()
    assert server.url == f"{place['protocol']}://{place['host']}{contract.channel['address']}"
    frames = await converse(server)
    kinds = [contract.kinds(frame) for frame in frames]
    assert {len(some) for some in kinds} == {1}
    assert {kind for (kind,) in kinds} == {frame.__name__ for frame in get_args(ServerFrame)}
    window = {"epoch", "last_id", "resume", "gap", "expired_through", "members", "joined", "left"}
    optional = {*window, "ref", "duplicate", "partial"}  # all of them were seen
    assert not optional - {key for frame in frames for key in frame}
    assert [frame for frame in frames if "duplicate" in frame and "remaining_ms" in frame]
    for frame, (kind,) in zip(frames, kinds):
        for key in frame:
            assert contract.kinds({**frame, key: {}}) == []
            less = {name: value for name, value in frame.items() if name != key}
            assert (kind in contract.kinds(less)) == (key in optional or (kind, key) == ("Ack", "remaining_ms"))


# What a server takes.


anything: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "a" * 64, "a" * 65]) | st.just([])
)


def names(longest: int) -> st.SearchStrategy[Any]:
    fitting = st.text("ab/é ", max_size=3) | st.just("a" * longest) | st.just("a" * (longest + 1))
    # The document shows a name without the spaces around it, which the server takes off.
    return fitting.filter(lambda name: name == name.strip()) | anything


texts = st.text("ab/é \t\u2003", max_size=4) | st.sampled_from(["/list", "a" * LONGEST, "a" * (LONGEST + 1)])
joins = st.fixed_dictionaries(
    {},
    optional={
        "username": names(MAX_USERNAME),
        "topic": names(MAX_TOPIC),
        **dict.fromkeys(("since", "epoch", "resume", "events", "token"), anything),
    },
)
sends = st.fixed_dictionaries({}, optional={"message": texts | anything, "ref": anything}).filter(
    # The document shows the command alone, without a ref or white space around it, which the server does not look at.
    lambda frame: str(frame.get("message")).strip() != "/list" or frame == {"message": "/list"}
)


def taken(decode: Callable[[Data], object], frame: Frame) -> list[str]:
    """What the server reads it as; nothing if it refuses it."""
    try:
        return [type(decode(json.dumps(frame))).__name__]
    except Refused:
        return []


@settings(deadline=None)
@given(joins)
@example({"username": "alice", "topic": "sports", "since": 0, "epoch": "", "resume": "", "events": False, "token": ""})
@example({"username": "é" * 32, "topic": "é" * 64})
@example({"username": "é" * 33, "topic": "é"})
@example({"username": "é", "topic": "é" * 65})
@example({"username": "", "topic": "é"})
@example({"username": "é", "topic": ""})
def test_a_join_is_right_by_the_document_exactly_where_the_server_takes_it(frame: Frame) -> None:
    assert CONTRACT.kinds(frame) == taken(decode_first, frame)


@settings(deadline=None)
@given(sends)
@example({"message": "/list"})
@example({"message": "é" * LONGEST, "ref": "é" * 64})
@example({"message": "é" * (LONGEST + 1)})
@example({"message": "é", "ref": "é" * 65})
@example({"message": "é", "ref": ""})
def test_a_message_is_right_by_the_document_exactly_where_the_server_takes_it(frame: Frame) -> None:
    assert CONTRACT.kinds(frame) == taken(lambda data: decode_next(data, LONGEST), frame)


def test_a_command_is_right_as_text_too() -> None:
    assert CONTRACT.kinds("/list") == ["ListText"]
    assert CONTRACT.kinds("/who") == CONTRACT.kinds("Hello World") == []
