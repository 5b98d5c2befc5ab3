"""``client_example.py`` as its user runs it: the demo, and the chat through pipes and in a terminal."""

import asyncio
import functools
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, Callable

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server as WebSocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import client_example
from tests.support.server import APP, PATIENCE, ROOT, Frame, Server, Visit, in_loop
from tests.support.terminal import Terminal

COMMAND = (sys.executable, str(ROOT / "client_example.py"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server for these tests alone: the demo needs one without users."""
    own = Server(*APP)
    try:
        yield own
        own.terminate()
    finally:
        own.kill()


@pytest.fixture(autouse=True)
def leave_nobody(server: Server) -> Iterator[None]:
    """After each test, wait until the server knows of no one."""
    yield
    asyncio.run(until_empty(server))


async def until_empty(server: Server) -> None:
    async with connect(server.url) as client:
        topics = None
        while topics != []:
            await client.send("/list")
            topics = json.loads(await client.recv())["topics"]


def run(*arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    """The program from its start to its end."""
    return subprocess.run([*COMMAND, *arguments], input=typed, capture_output=True, encoding="utf-8", timeout=PATIENCE)


# The demo


def test_the_demo_finds_everything_as_expected(server: Server) -> None:
    demo = run("--url", server.url)
    assert (demo.returncode, demo.stderr) == (0, "")
    lines = demo.stdout.splitlines()
    assert lines[-1] == "Everything came as expected."
    received = [line.split(" <- ") for line in lines if " <- " in line]
    told = [(name.strip(), json.loads(frame)) for name, frame in received]
    assert [name for name, frame in told if frame["type"] == "joined"] == ["alice", "bob", "alice#2", "carol"]
    assert [name for name, frame in told if frame["type"] == "message" and frame["id"] == 1] == ["bob", "alice#2"]
    assert [frame["recipients"] for _, frame in told if frame["type"] == "ack"] == [2, 2, 2, 0, 2, 1]
    assert [frame["error"] for _, frame in told if frame["type"] == "error"] == ["invalid_json"]
    lists = [frame["message"] for _, frame in told if frame["type"] == "topics"]
    assert lists[:2] == ["Active Topics:\n(none)", "Active Topics:\n- sports (3 users)\n- movies (1 user)"]
    assert lists[-1] == "Active Topics:\n- movies (1 user)"
    assert [line.split()[0] for line in lines if line.endswith(" left")] == ["bob", "alice", "alice#2", "carol"]


@in_loop
async def test_the_demo_does_not_start_among_other_users(server: Server) -> None:
    async with Visit(server) as visit:
        await visit.join("dave", "sports")
        demo = await asyncio.to_thread(run, "--url", server.url)
    assert demo.returncode == 1
    assert demo.stderr.startswith("The demo needs a server without users.")
    assert "- sports (1 user)" in demo.stderr


@pytest.mark.parametrize("chat", [(), ("--username", "alice", "--topic", "sports")], ids=["demo", "chat"])
def test_without_a_server_a_sentence_says_so(chat: tuple[str, ...]) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}/ws"
        ended = run("--url", url, *chat)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(f"No chat server answers at {url} .*\n", ended.stderr)


@pytest.mark.parametrize("half", [("--username", "alice"), ("--topic", "sports")])
def test_a_username_needs_a_topic_and_a_topic_a_username(half: tuple[str, str]) -> None:
    ended = run(*half)
    assert ended.returncode == 2
    assert ended.stderr.endswith("--username and --topic go together\n")


# The demo finds what is wrong: a relay between the demo and the server lies.

Lie = Callable[[Frame], "list[Any]"]  # what the demo receives in place of a frame of the server


@asynccontextmanager
async def relay(server: Server, lie: Lie) -> AsyncIterator[str]:
    async def converse(client: ServerConnection) -> None:
        async def answer() -> None:
            with suppress(ConnectionClosed):
                async for data in upstream:
                    for frame in lie(json.loads(data)):
                        await client.send(json.dumps(frame))

        async with connect(server.url) as upstream:
            answering = asyncio.create_task(answer())
            async for data in client:
                await upstream.send(data)
        await answering

    async with serve(converse, "127.0.0.1", 0) as listening:
        yield address(listening)


def address(listening: WebSocketServer) -> str:
    (listener,) = listening.sockets
    return f"ws://127.0.0.1:{listener.getsockname()[1]}/ws"


def changed(kind: str, key: str, change: Callable[[Any], Any]) -> Lie:
    return lambda frame: [{**frame, key: change(frame.get(key))} if frame["type"] == kind else frame]


def followed(kind: str, by: str, stray: Frame) -> Lie:
    """A stray frame behind those of a kind that name that user."""
    return lambda frame: [frame, stray] if frame["type"] == kind and by in json.dumps(frame) else [frame]


STRAY = {"type": "message", "id": 1, "username": "alice", "message": "Hello World", "timestamp": 1690000000}


@pytest.mark.parametrize(
    ("lie", "finding"),
    [
        (changed("joined", "username", lambda _: "alice"), "bob expected .*'username': 'bob'.* received .*'alice'"),
        (changed("joined", "users", lambda _: 1), "bob expected .*'users': 2.* received .*'users': 1"),
        (changed("joined", "ttl", lambda _: None), "alice expected .*'ttl': .* received .*'ttl': None"),
        (changed("ack", "id", lambda old: old + 1), "alice expected .*'id': 1.* received .*'id': 2"),
        (changed("ack", "ref", lambda _: "mine"), "alice expected .*'ref': 'alice-1'.* received .*'ref': 'mine'"),
        (changed("ack", "timestamp", lambda old: old * 1000), "alice expected .*in Unix seconds, but received"),
        (changed("ack", "new", lambda _: True), "alice expected .* received .*'new': True"),
        (changed("message", "message", lambda _: "Bye"), "bob expected .*'Hello World'.* received .*'Bye'"),
        (changed("message", "timestamp", lambda old: old - 1), "bob expected .* received "),
        (changed("topics", "message", lambda _: ""), "without users. alice expected .*none.* received .*''"),
        (changed("error", "error", lambda _: "bad"), "bob expected .*'invalid_json'.* received .*'bad'"),
        (followed("ack", "alice", STRAY), "alice expected .*'id': 2.* received .*'id': 1"),
        (followed("ack", "carol", STRAY), "carol expected .*'topics'.* received .*'Hello World'"),
        (followed("ack", '"id": 5', STRAY), "alice expected nothing more, but received .*Hello World"),
        (followed("message", "bob", STRAY), "alice#2 expected .*'ack'.* received .*'Hello World'"),
        (lambda frame: ["pong"] if frame["type"] == "ack" else [frame], "alice expected .* it sent .*pong"),
    ],
)
@in_loop
async def test_the_demo_says_what_it_expected_and_what_came(server: Server, lie: Lie, finding: str) -> None:
    async with relay(server, lie) as url:
        with pytest.raises(client_example.Trouble, match=finding):
            await client_example.demo(url)


OLD_LIST = {
    "type": "topics",
    "message": "Active Topics:\n- sports (3 users)\n- movies (1 user)",
    "topics": [{"topic": "sports", "users": 3}, {"topic": "movies", "users": 1}],
}


@in_loop
async def test_the_demo_does_not_wait_for_ever_for_an_ack(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_acks(frame: Frame) -> list[Any]:
        if "3 users" in str(frame):  # behind which the first ack is what it waits for
            monkeypatch.setattr(client_example, "PATIENCE", 0.1)
        return [] if frame["type"] == "ack" else [frame]

    async with relay(server, no_acks) as url:
        with pytest.raises(client_example.Trouble, match=r"alice expected .*'ack'.* No answer came in time."):
            await client_example.demo(url)


@in_loop
async def test_the_demo_does_not_ask_for_ever_for_a_list_that_shows_a_leave(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing = itertools.count(0.0, client_example.PATIENCE / 4)  # so much time from one look at the clock to the next
    monkeypatch.setattr(client_example, "time", SimpleNamespace(time=time.time, monotonic=lambda: next(passing)))
    asked = 0

    def old_list(frame: Frame) -> list[Any]:
        nonlocal asked
        asked += "(2 users)" in str(frame)
        return [OLD_LIST] if "(2 users)" in str(frame) else [frame]

    async with relay(server, old_list) as url:
        with pytest.raises(client_example.Trouble, match=r"carol expected .*2 user.*received .*3 user"):
            await client_example.demo(url)
    assert asked > 1


@in_loop
async def test_a_demo_that_fails_ends_with_one_sentence(server: Server) -> None:
    async with relay(server, changed("ack", "recipients", lambda old: old + 1)) as url:
        demo = await asyncio.to_thread(run, "--url", url)
    assert demo.returncode == 1
    assert re.fullmatch("alice expected .*'recipients': 2.* received .*'recipients': 3}.\n", demo.stderr)
    assert "Everything" not in demo.stdout


# The chat, through pipes


class Chat:
    """Process of the example client in a chat."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process, self._typed, self._shown = process, process.stdin, process.stdout

    def type(self, line: str) -> None:
        self._typed.write(line.encode() + b"\n")

    async def lines(self, count: int) -> list[str]:
        return [(await self._shown.readline()).decode().rstrip("\n") for _ in range(count)]

    async def end(self) -> tuple[int, str, str]:
        """End its input and wait for its end: exit code, the rest of what it shows, and its last words."""
        shown, last_words = await self.process.communicate(b"")
        assert self.process.returncode is not None
        return self.process.returncode, shown.decode(), last_words.decode()


@asynccontextmanager
async def chatting(url: str, username: str) -> AsyncIterator[Chat]:
    process = await start_chat(url, username, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        yield Chat(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def start_chat(url: str, username: str, **options: Any) -> asyncio.subprocess.Process:
    command = [*COMMAND, "--url", url, "--username", username, "--topic", "games"]
    # Who starts the tests in the background may have them ignore Ctrl-C, and what they start as well.
    hear_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return await asyncio.create_subprocess_exec(*command, preexec_fn=hear_ctrl_c, **options)


@in_loop
async def test_two_people_chat_through_pipes(server: Server) -> None:
    async with chatting(server.url, "alice") as alice:
        assert await alice.lines(1) == ["You are alice in games, users: 1."]
        async with chatting(server.url, "Alice") as other:
            assert await other.lines(1) == ["You are Alice#2 in games, users: 2."]
            alice.type("Hello")
            assert await other.lines(1) == ["alice: Hello"]
            assert await alice.lines(1) == ["(delivered to 1)"]
            other.type("/list")
            other.type("")
            other.type("/dance")
            other.type("Hi")
            assert await other.lines(2) == ["Active Topics:", "    - games (2 users)"]
            assert [line.partition(":")[0] for line in await other.lines(2)] == ["(refused", "(delivered to 1)"]
            assert await alice.lines(1) == ["Alice#2: Hi"]
            other.type("/quit")
            other.type("This is not sent any more.")
            assert await other.end() == (0, "", "")
        assert await alice.end() == (0, "", "")  # the end of the input is a way to leave, too


def test_lines_from_a_pipe_are_answered_before_the_end(server: Server) -> None:
    ended = run("--url", server.url, "--username", "alice", "--topic", "games", typed="one\n/list\ntwo")
    assert (ended.returncode, ended.stderr) == (0, "")
    answers = ["(delivered to 0)", "Active Topics:", "    - games (1 user)", "(delivered to 0)"]
    assert ended.stdout.splitlines() == ["You are alice in games, users: 1.", *answers]


@in_loop
async def test_ctrl_c_leaves_without_a_word(server: Server) -> None:
    async with Visit(server) as visit, chatting(server.url, "alice") as alice:
        await alice.lines(1)
        bob = await visit.join("bob", "games")
        await bob.ask({"message": "hello"})
        await alice.lines(1)  # so that she is past her own beginning, and waits
        alice.process.send_signal(signal.SIGINT)
        await alice.process.wait()
        assert await alice.end() == (0, "", "")


@in_loop
async def test_a_message_cannot_command_the_terminal_or_forge_another(server: Server) -> None:
    async with Visit(server) as visit, chatting(server.url, "alice") as alice:
        await alice.lines(1)
        mallory = await visit.join("mallory", "games")
        await mallory.ask({"message": "\x1b[2J\x07\x9b1m\x7f\r\u202e😀\nbob: I am bob"})
        assert await alice.lines(2) == [r"mallory: \x1b[2J\x07\x9b1m\x7f\r\u202e😀", "    bob: I am bob"]


def test_a_join_that_is_refused_ends_with_a_sentence(server: Server) -> None:
    ended = run("--url", server.url, "--username", "al\nice", "--topic", "games")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(
        "The server did not let you join: .*username must hold only characters that can be seen.*\n", ended.stderr
    )


@pytest.mark.parametrize(
    ("close", "last_words"),
    [
        (
            lambda client: client.close(1012, "back\x1b[5m soon"),
            r"The server closed the connection: 1012, back\x1b[5m soon.",
        ),
        (lambda client: client.close(1011), "The server closed the connection: 1011, no reason given."),
        (lambda client: client.transport.abort(), "The connection to the server was lost."),
    ],
)
@in_loop
async def test_a_connection_that_the_server_ends_is_reported(
    close: Callable[[ServerConnection], Any], last_words: str
) -> None:
    async def join_and_close(client: ServerConnection) -> None:
        await client.recv()
        await client.send('{"type": "joined", "username": "alice", "topic": "games", "users": 1, "ttl": 30}')
        closing = close(client)
        if closing is not None:
            await closing

    async with serve(join_and_close, "127.0.0.1", 0) as listening, chatting(address(listening), "alice") as alice:
        await alice.process.wait()
        assert await alice.end() == (1, "You are alice in games, users: 1.\n", last_words + "\n")


@in_loop
async def test_a_server_that_does_not_answer_the_join_ends_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_example, "PATIENCE", 0.1)
    async with serve(ServerConnection.wait_closed, "127.0.0.1", 0) as listening:
        with pytest.raises(client_example.Trouble, match=r"No answer came in time\."):
            await client_example.chat(address(listening), "alice", "games")


@in_loop
async def test_an_address_that_is_none_ends_with_a_sentence() -> None:
    for url in ("ws://127.0.0.1:port/ws", "127.0.0.1:8000", "ws://[::1/ws"):
        with pytest.raises(client_example.Trouble, match="No chat server answers at"):
            await client_example.chat(url, "alice", "games")


# The chat, in a terminal


@in_loop
async def test_a_frame_is_printed_above_a_half_typed_line(server: Server) -> None:
    async with Visit(server) as visit, chatting_in_a_terminal(server.url, "al") as terminal:
        await terminal.shows("You are al in games, users: 1.", ">")
        bob = await visit.join("bob", "games")
        terminal.type("half a li")
        await terminal.shows("You are al in games, users: 1.", "> half a li")
        await bob.ask({"message": "a line that is longer than the screen is wide"})
        long = ("bob: a line that is longer than t", "he screen is wide")
        await terminal.shows("You are al in games, users: 1.", *long, "> half a li")
        await bob.ask({"message": "and one"})
        await bob.ask({"message": "that scrolls"})  # away goes the first line
        await terminal.shows(*long, "bob: and one", "bob: that scrolls", "> half a li")
        terminal.type("ne\n")
        await terminal.shows("bob: and one", "bob: that scrolls", "> half a line", "(delivered to 1)", ">")
        assert (await bob.recv())["message"] == "half a line"
        terminal.type("\x04")
        await terminal.shows("bob: and one", "bob: that scrolls", "> half a line", "(delivered to 1)")


@asynccontextmanager
async def chatting_in_a_terminal(url: str, username: str) -> AsyncIterator[Terminal]:
    """The program in a terminal, until its good end."""
    with Terminal(columns=34, rows=5) as terminal:
        process = await start_chat(url, username, stdin=terminal.fd, stdout=terminal.fd, env=terminal.environ)
        try:
            yield terminal
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
