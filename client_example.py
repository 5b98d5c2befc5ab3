"""A client of the chat server: try the server with it, or copy it for a client of your own.

It needs only the ``websockets`` package.

    python client_example.py                                    a demo: four people, two topics, every frame checked
    python client_example.py --username alice --topic sports    a chat: type to send, /list, /quit

``--url`` selects a server on another machine or port. The exit code is 0 if all went well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

PATIENCE = 10.0  # seconds to wait for an answer

Frame = dict[str, Any]  # every frame is one JSON object


class Trouble(Exception):
    """Error that ends the program. Its text is a sentence for the user."""


def main() -> None:
    parser = argparse.ArgumentParser(description="A demo of the chat server; with a username and a topic, a chat.")
    parser.add_argument("--url", default="ws://127.0.0.1:8000/ws", help="the server (default: %(default)s)")
    parser.add_argument("--username", help="name to ask for")
    parser.add_argument("--topic", help="the topic to join")
    options = parser.parse_args()
    if (options.username is None) != (options.topic is None):
        parser.error("--username and --topic go together")
    chatting = options.username is not None
    try:
        asyncio.run(chat(options.url, options.username, options.topic) if chatting else demo(options.url))
    except (Trouble, ConnectionClosed) as why:
        sys.exit(sentence(why))
    except KeyboardInterrupt:  # Ctrl-C leaves a chat
        sys.exit(0 if chatting else "The demo was interrupted.")


# The demo


async def demo(url: str) -> None:
    """Play a scene in two topics. Raises Trouble at the first unexpected frame.

    All frames of each person are compared, in order: so the demo also finds a frame that was meant for another person.
    """
    async with AsyncExitStack() as stack:
        alice, bob, alice2, carol = [
            Person(name, await stack.enter_async_context(await open_connection(url)))
            for name in ("alice", "bob", "alice", "carol")
        ]
        try:
            await alice.expect_topics({})
        except Trouble as trouble:
            raise Trouble(f"The demo needs a server without users. {trouble}") from None

        await alice.join("sports", given="alice", users=1)
        await bob.join("sports", given="bob", users=2)
        await alice2.join("sports", given="alice#2", users=3)
        await carol.join("movies", given="carol", users=1)
        await carol.expect_topics({"sports": 3, "movies": 1})

        await alice.say("Hello World", message_id=1, to=[bob, alice2])
        await bob.say("Hello alice, and alice!", message_id=2, to=[alice, alice2])
        await alice2.say("There are two of us?", message_id=3, to=[alice, bob])
        await carol.say("Is anybody here?", message_id=1, to=[])

        await bob.send("Hello?")
        await bob.expect({"type": "error", "error": "invalid_json", "detail": str})
        await bob.say("That was not JSON. Bye!", message_id=4, to=[alice, alice2])

        await bob.leave()
        await carol.expect_topics({"sports": 2, "movies": 1}, within=PATIENCE)
        await alice.say("Bye, bob", message_id=5, to=[alice2])
        await alice.leave()
        await alice2.leave()
        await carol.expect_topics({"movies": 1}, within=PATIENCE)
        await carol.leave()
    print("Everything came as expected.")


class Person:
    """Person in the demo, with one connection: prints each frame and compares it with the expected one."""

    def __init__(self, name: str, socket: ClientConnection) -> None:
        self._name = name
        self._socket = socket

    async def join(self, topic: str, given: str, users: int) -> None:
        """Join the topic. Expect ``given`` as the name there, and ``users`` members in total."""
        await self.send(json.dumps({"username": self._name, "topic": topic}))
        self._name = given
        await self.expect({"type": "joined", "username": given, "topic": topic, "users": users, "ttl": (int, float)})

    async def say(self, message: str, message_id: int, to: list[Person]) -> None:
        """Send a message and expect ``message_id`` in its ack. All other members are in ``to`` and must receive it."""
        ref = f"{self._name}-{message_id}"
        await self.send(json.dumps({"message": message, "ref": ref}))
        ack = {
            "type": "ack",
            "status": "delivered",
            "id": message_id,
            "ref": ref,
            "timestamp": int,
            "recipients": len(to),
        }
        timestamp = (await self.expect(ack))["timestamp"]
        if abs(timestamp - time.time()) > 24 * 60 * 60:
            raise Trouble(f"{self._name} expected the current time in Unix seconds, but received {timestamp}.")
        seen = {"type": "message", "id": message_id, "username": self._name, "message": message, "timestamp": timestamp}
        for person in to:
            await person.expect(seen)

    async def expect_topics(self, users: dict[str, int], within: float = 0) -> None:
        """Ask for the list of topics. Ask again for ``within`` seconds: the server notices a leave a moment later."""
        lines = [f"- {topic} ({count} user{'' if count == 1 else 's'})" for topic, count in users.items()] or ["(none)"]
        topics = [{"topic": topic, "users": count} for topic, count in users.items()]
        expected = {"type": "topics", "message": "\n".join(["Active Topics:", *lines]), "topics": topics}
        deadline = time.monotonic() + within
        while True:
            await self.send("/list")
            came = await self.receive(expected)
            if came == expected:
                return
            if came.get("type") != "topics" or time.monotonic() >= deadline:
                raise self.surprise(expected, came)
            await asyncio.sleep(0.1)

    async def leave(self) -> None:
        """Close the connection and expect no further frame in it."""
        await self._socket.close()
        async for data in self._socket:
            raise Trouble(f"{self._name} expected nothing more, but received {data!r}.")
        print(f"{self._name:>8} left")

    async def send(self, text: str) -> None:
        print(f"{self._name:>8} -> {text}")
        await self._socket.send(text)

    async def expect(self, expected: Frame) -> Frame:
        """Receive the next frame and compare it. A type in ``expected`` stands for any value of that type."""
        came = await self.receive(expected)
        known = {key: came.get(key) for key in expected} if expected["type"] == "joined" else came  # ignore other keys
        if known.keys() != expected.keys() or not all(fits(expected[key], known[key]) for key in known):
            raise self.surprise(expected, came)
        return came

    async def receive(self, expected: Frame) -> Frame:
        try:
            came = decode(await asyncio.wait_for(self._socket.recv(), PATIENCE))
        except (Trouble, ConnectionClosed, asyncio.TimeoutError) as why:
            raise Trouble(f"{self._name} expected {expected}. {sentence(why)}") from None
        print(f"{self._name:>8} <- {printable(json.dumps(came, ensure_ascii=False))}", flush=True)
        return came

    def surprise(self, expected: Frame, came: Frame) -> Trouble:
        return Trouble(f"{self._name} expected {expected}, but received {came}.")


def fits(expected: Any, value: Any) -> bool:
    return isinstance(value, expected) if isinstance(expected, (type, tuple)) else bool(value == expected)


# The chat


async def chat(url: str, username: str, topic: str) -> None:
    """Chat in the terminal until /quit or the end of the input. Raises ConnectionClosed if the server closes."""
    async with await open_connection(url) as socket:
        await socket.send(json.dumps({"username": username, "topic": topic}))
        try:
            joined = decode(await asyncio.wait_for(socket.recv(), PATIENCE))
        except asyncio.TimeoutError as why:
            raise Trouble(sentence(why)) from None
        if joined.get("type") != "joined":
            raise Trouble(f"The server did not let you join: {joined.get('detail')!r}")
        show(joined)
        answers: asyncio.Queue[Frame] = asyncio.Queue()
        incoming = asyncio.create_task(show_incoming(socket, answers))
        outgoing = asyncio.create_task(send_typed(socket, answers))
        try:
            ended, _ = await asyncio.wait({incoming, outgoing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            incoming.cancel()
            outgoing.cancel()
            write("\r\x1b[K")  # erase the prompt
        for task in ended:
            task.result()


async def show_incoming(socket: ClientConnection, answers: asyncio.Queue[Frame]) -> None:
    while True:
        frame = decode(await socket.recv())
        show(frame)
        if frame.get("type") in ("ack", "topics", "error"):
            answers.put_nowait(frame)


async def send_typed(socket: ClientConnection, answers: asyncio.Queue[Frame]) -> None:
    """Send each line after the answer to the line before: so every line is answered when the input ends."""
    write("> ")
    async for line in typed_lines():
        if line.strip() == "/quit":
            break
        if line.strip():
            await socket.send(json.dumps({"message": line}))
            with suppress(asyncio.TimeoutError):  # /quit must work although the server does not answer
                await asyncio.wait_for(answers.get(), PATIENCE)
        write("> ")


async def typed_lines() -> AsyncIterator[str]:
    """Yield the lines of standard input. A thread reads them, because not every system can await them."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def read() -> None:
        with open(sys.stdin.fileno(), errors="replace", closefd=False) as stdin, suppress(RuntimeError):  # loop closed
            for line in stdin:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()  # a daemon: its read cannot be interrupted
    while line := await lines.get():
        yield line.rstrip("\r\n")


TYPING = sys.stdin.isatty() and sys.stdout.isatty()  # input and output are one terminal
READABLE = {
    "joined": "You are {username} in {topic}, users: {users}.",
    "message": "{username}: {message}",
    "ack": "(delivered to {recipients})",
    "topics": "{message}",
    "error": "(refused: {detail})",
}


def show(frame: Frame) -> None:
    """Print a frame; in a terminal, above the line that the user is typing."""
    text = READABLE.get(str(frame.get("type")), "{type}").format_map(defaultdict(str, frame))
    columns = shutil.get_terminal_size().columns - 1
    # Further lines are indented, so that a line of a message cannot look like a message.
    for line in map(printable, text.replace("\n", "\n    ").split("\n")):
        if TYPING:
            width = max(1, columns if line.isascii() else columns // 2)  # other characters may be two columns wide
            for start in range(0, len(line), width):
                # Save the cursor, insert a row above it, write the row, restore the cursor.
                write(f"\x1b7\n\x1b[A\x1b[L{line[start : start + width]}\n\x1b8\x1b[B")
        else:
            print(line, flush=True)


def write(text: str) -> None:
    """Write text that only a user at a terminal needs, such as the prompt."""
    if TYPING:
        sys.stdout.write(text)
        sys.stdout.flush()


# For both


async def open_connection(url: str) -> ClientConnection:
    try:
        return await connect(url, proxy=None)  # a proxy from the environment cannot reach this machine
    except (OSError, asyncio.TimeoutError, WebSocketException, ValueError) as why:  # ValueError: a port of letters
        advice = "Start one with: uvicorn chat_actors.app:app"
        raise Trouble(printable(f"No chat server answers at {url} ({why}). {advice}")) from None


def decode(data: str | bytes) -> Frame:
    with suppress(ValueError):
        frame = json.loads(data)
        if isinstance(frame, dict):
            return frame
    raise Trouble(f"This is not a chat server: it sent {data!r}.")


def sentence(why: Exception) -> str:
    if isinstance(why, asyncio.TimeoutError):
        return "No answer came in time."
    if not isinstance(why, ConnectionClosed):
        return str(why)
    if why.rcvd is None:
        return "The connection to the server was lost."
    return f"The server closed the connection: {why.rcvd.code}, {printable(why.rcvd.reason) or 'no reason given'}."


def printable(text: str) -> str:
    """Escape the characters that control a terminal (also line ends, changes of direction) or that it cannot show."""
    controls = "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
    escaped = re.sub(controls, lambda found: found[0].encode("unicode_escape").decode(), text)
    return escaped.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding)


if __name__ == "__main__":
    main()
