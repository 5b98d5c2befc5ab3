"""The two lanes on real servers: clients of uvicorn receive the same bytes as clients of any other ASGI server."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional, Union

import pytest
from websockets.asyncio.client import ClientConnection

from tests.support.server import Client, Server, Visit, in_loop

StartServer = Callable[..., Server]

LANE_APP = "tests.support.lane_app:app"
HYPERCORN = "hypercorn", LANE_APP, "--bind", "127.0.0.1:0", "--graceful-timeout", "0"  # by itself it waits 3 s

# uvicorn's WebSocket implementations and both event loops. ``auto`` is another one in each version of uvicorn.
IMPLEMENTATIONS = "auto", "websockets", "websockets-sansio", "wsproto"
UVICORNS = [(loop, ws) for loop in ("asyncio", "uvloop") for ws in IMPLEMENTATIONS]
TROUBLE = re.compile("Traceback|ERROR|CRITICAL")  # a warning tells of the plain lane

# The conversation: who sends what, and who then gets how many frames. A list of frames is sent in one go; a list of
# strings inside it is one message in fragments.
CLIENTS = "ann", "bob", "cat"
Frames = list[Union[str, bytes, list[str]]]
ANN_JOINS = '{"username": "ann", "topic": "sports"}'
BOB_JOINS = '{"username": "Ann", "topic": "sports"}'
CAT_JOINS = '{"username": "ann", "topic": "café"}'
SCRIPT: list[tuple[str, Frames, dict[str, int]]] = [
    ("ann", ["/list"], {"ann": 1}),
    ("ann", ['{"message": "too early"}'], {"ann": 1}),
    ("ann", [ANN_JOINS], {"ann": 1}),
    ("bob", [BOB_JOINS.encode()], {"bob": 1}),
    ("cat", [CAT_JOINS], {"cat": 1}),
    ("ann", ['{"message": "hello", "ref": "r-1"}'], {"ann": 1, "bob": 1}),
    ("bob", ["/list", '{"message": " /list "}', b"/list"], {"bob": 3}),
    ("bob", ["{", "[]", '{"message": ""}', b"\xff", "/help", ANN_JOINS, '{"message": "\\ud800"}'], {"bob": 7}),
    (
        "ann",
        [json.dumps({"message": "x" * size}) for size in range(30, 70)],
        {"ann": 40, "bob": 40},
    ),  # around 126 bytes
    ("ann", [json.dumps({"message": "x" * 4000})], {"ann": 1, "bob": 1}),
    ("ann", [json.dumps({"message": "\x01" * 4096})], {"ann": 1, "bob": 1}),
    ("ann", [json.dumps({"message": "😀" * 4096}, ensure_ascii=False)], {"ann": 1, "bob": 1}),
    ("cat", ['{"message": "nobody hears"}'], {"cat": 1}),
    ("cat", ["x" * 65_000], {"cat": 1}),
    ("bob", [f'{{"message": "{number}", "ref": "{number}"}}' for number in range(50)], {"ann": 50, "bob": 50}),
    # Text, binary and fragments take different ways in; they must not overtake each other.
    (
        "bob",
        ['{"message": "1"}', b'{"message": "2"}', ['{"mess', 'age": "3"}'], '{"message": "4"}'] * 5,
        {"ann": 20, "bob": 20},
    ),
    ("bob", ["{"] * 20, {"bob": 20}),  # and is closed
]


class Tapped(ClientConnection):
    """Client that keeps all bytes from the server."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wire = b""

    def data_received(self, data: bytes) -> None:
        self.wire += data
        super().data_received(data)


class Conversation(NamedTuple):
    """Frames that each client received."""

    texts: dict[str, list[str]]  # of all frames
    wires: dict[str, str]  # all the bytes behind the handshake
    compressed: set[bool]


async def converse(server: Server, compression: Optional[str] = None) -> Conversation:
    """Play the script."""
    async with Visit(server) as visit:
        options = {"create_connection": Tapped, "compression": compression}
        clients = {name: await visit.connect(**options) for name in CLIENTS}
        for sender, frames, receivers in SCRIPT:
            for frame in frames:
                await clients[sender].connection.send(frame)
            for name, count in receivers.items():
                for _ in range(count):
                    await clients[name].recv()
        assert await clients["bob"].close_code() == 1008
        return Conversation(
            {name: [same_time(text) for text in client.texts] for name, client in clients.items()},
            {name: same_time(frames_of(client)) for name, client in clients.items()},
            {bool(client.connection.protocol.extensions) for client in clients.values()},
        )


def frames_of(client: Client) -> str:
    """All the bytes that the server sent behind the handshake, each as one character."""
    assert isinstance(client.connection, Tapped)
    return client.connection.wire.partition(b"\r\n\r\n")[2].decode("latin-1")


def same_time(text: str) -> str:
    """Timestamps have ten digits each, but they are not the same from one run to the next."""
    return re.sub(r'"timestamp":\d{10}\b', '"timestamp":1690000000', text)


@pytest.fixture(scope="module", params=UVICORNS, ids=" ".join)
def uvicorn(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each of uvicorn's WebSocket implementations on each event loop."""
    loop, ws = request.param
    yield from serve("uvicorn", LANE_APP, "--port", "0", "--loop", loop, "--ws", ws)


@pytest.fixture(scope="module")
def hypercorn() -> Iterator[Server]:
    yield from serve(*HYPERCORN, status=0)


def serve(*command: str, status: int = -signal.SIGTERM) -> Iterator[Server]:
    server = Server(*command)
    try:
        yield server
        server.terminate(status, trouble=TROUBLE)
    finally:
        server.kill()


@pytest.fixture(scope="module")
def plain(hypercorn: Server) -> Conversation:
    """The conversation on the plain lane."""
    return asyncio.run(converse(hypercorn))


def lane(server: Server) -> str:
    """The lane of all the connections so far."""
    lines = server.wait_for("endpoint returned", count=len(CLIENTS))
    (found,) = {line.rpartition("lane=")[2].strip("'") for line in lines}
    return found


def test_another_server_has_the_plain_lane_and_says_so_once(hypercorn: Server, plain: Conversation) -> None:
    assert lane(hypercorn) == "plain"
    assert len(plain.texts["bob"]) == sum(receivers.get("bob", 0) for _, _, receivers in SCRIPT)
    (line,) = hypercorn.lines("fast lane not used")
    assert "uvicorn not found" in line


def test_every_uvicorn_has_the_fast_lane_and_the_bytes_of_the_plain_lane(uvicorn: Server, plain: Conversation) -> None:
    assert asyncio.run(converse(uvicorn)) == plain
    assert lane(uvicorn) == "fast"
    assert not uvicorn.lines("fast lane not used")


def test_compression_is_not_negotiated_under_uvicorn(uvicorn: Server, plain: Conversation) -> None:
    told = asyncio.run(converse(uvicorn, "deflate"))
    assert (told.texts, told.compressed) == (plain.texts, {False})


def test_a_client_that_negotiated_compression_reads_every_frame_on_the_plain_lane(
    hypercorn: Server, plain: Conversation
) -> None:
    told = asyncio.run(converse(hypercorn, "deflate"))
    assert (told.texts, told.compressed) == (plain.texts, {True})


@pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="newer: hypercorn waits for its connections before it says so",
)
@in_loop
async def test_the_end_of_another_server_closes_every_member(start: StartServer) -> None:
    server = start(*HYPERCORN)
    async with Visit(server) as visit:
        members = [await visit.join("alice", topic) for topic in ("sports", "sports", "movies")]
        await members[0].ask({"message": "hello"})
        codes = asyncio.gather(*[member.close_code() for member in members])
        # Asyncio's word on each connection that hypercorn cuts is, on newer Pythons, an error with a traceback.
        trouble = re.compile("CRITICAL|ERROR(?! +Exception in callback StreamReaderProtocol)")
        await asyncio.to_thread(server.terminate, status=0, trouble=trouble)
        assert await codes == [1012] * 3
    assert len(server.lines(" left ", "reason='restarting'")) == 3
