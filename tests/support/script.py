"""A server that the test plays: it answers, breaks and closes connections as a real server rarely does."""

import asyncio
import functools
import json
import socket
import struct
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Callable, Optional, Union

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from chat_actors.client import Chat, Tuning, connect
from chat_actors.clock import Clock
from tests.support.fakes import in_clean_loop, settle, tasks
from tests.support.server import PATIENCE, Frame

TIMESTAMP = 1_690_000_000
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time: closing sends a reset


def in_tidy_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an ``async`` test in a loop of its own. One that hangs, leaves a task or goes wrong unseen fails."""

    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        await asyncio.wait_for(test(*args, **kwargs), 3 * PATIENCE)
        await settle()
        assert tasks() == {asyncio.current_task()}

    return in_clean_loop(run)


def message(number: int, text: str = "hello", username: str = "bob", **more: Any) -> Frame:
    return {
        "type": "message",
        "id": number,
        "username": username,
        "message": text,
        "timestamp": TIMESTAMP,
        **more,
    }


class Naps(Clock):
    """A clock on which only sleep takes time, and ends at once; without ``wake`` it never ends.

    ``naps``: the seconds of each sleep.
    """

    def __init__(self, wake: bool = True) -> None:
        self.now = 1000.0
        self.naps: list[float] = []
        self.asleep = asyncio.Event()
        self._wake = wake
        self.monotonic = lambda: self.now
        self.sleep = self._sleep

    async def _sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds
        self.asleep.set()
        if not self._wake:
            await asyncio.get_running_loop().create_future()


class Peer:
    """Server's side of one connection."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.join: Frame = {}  # the client's first frame, once it is let in

    async def recv(self) -> Any:
        text = await self.connection.recv()
        return text if text == "/list" else json.loads(text)

    def send(self, *frames: Frame) -> None:
        """Send these in one packet."""
        for frame in frames:
            self.connection.protocol.send_text(json.dumps(frame).encode())
        self.connection.transport.write(b"".join(self.connection.protocol.data_to_send()))

    async def admit(self, **joined: Any) -> Frame:
        """Read the join and answer it; returns it."""
        join: Frame = await self.recv()
        self.join = join
        plain = {"username": join["username"], "topic": join["topic"], "users": 2, "ttl": 30}
        self.send({"type": "joined", **plain, "epoch": "epoch 1", "last_id": 0, "resume": "token 1", **joined})
        return join

    async def deliver(self, number: int, **more: Any) -> Frame:
        """Read a message and acknowledge it; returns it."""
        sent: Frame = await self.recv()
        self.ack(sent, number, **more)
        return sent

    def ack(self, sent: Frame, number: int, **more: Any) -> None:
        answer = {"type": "ack", "status": "delivered", "id": number, "ref": sent["ref"], "timestamp": TIMESTAMP}
        self.send({**answer, "recipients": 1, **more})

    async def close(self, code: int, reason: str = "") -> None:
        await self.connection.close(code, reason)

    def close_without_a_code(self) -> None:
        self.connection.transport.write(b"\x88\x00")

    def cut(self) -> None:
        """End the connection below WebSocket."""
        self.connection.transport.close()

    def reset(self) -> None:
        self.connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        self.connection.transport.abort()

    def cut_in_a_frame(self) -> None:
        self.connection.transport.write(b'\x81\x50{"type":"mess')
        self.connection.transport.close()


class Script:
    """Server that the test plays. ``refuse``: called for each handshake; may return an answer to refuse it with."""

    def __init__(self) -> None:
        self.url = ""
        self.handshakes = 0
        self.refuse: Callable[[], Union[HTTPStatus, Response, None]] = lambda: None
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()

    async def peer(self) -> Peer:
        """The next connection."""
        return await self._peers.get()

    async def admitted(self, **joined: Any) -> Peer:
        """The next connection, let in."""
        peer = await self.peer()
        await peer.admit(**joined)
        return peer

    async def readmitted(self, peer: Peer, **joined: Any) -> Peer:
        """Cut a connection and let the next one in."""
        peer.cut()
        return await self.admitted(**joined)

    async def keep(self, connection: ServerConnection) -> None:
        self._peers.put_nowait(Peer(connection))
        await connection.wait_closed()

    def judge(self, connection: ServerConnection, request: Request) -> Optional[Response]:
        self.handshakes += 1
        answer = self.refuse()
        return connection.respond(answer, "") if isinstance(answer, HTTPStatus) else answer


@asynccontextmanager
async def scripted(listener: Optional[socket.socket] = None) -> AsyncIterator[Script]:
    """The server on a free port of the loopback, or on a socket that listens already."""
    script = Script()
    place: dict[str, Any] = {"host": "127.0.0.1", "port": 0} if listener is None else {"sock": listener}
    settings: dict[str, Any] = {"process_request": script.judge, "compression": None, "ping_interval": None}
    async with serve(script.keep, **place, **settings) as server:
        script.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/ws"
        yield script


@asynccontextmanager
async def chatting(
    script: Script, tuning: Optional[Tuning] = None, joined: Optional[Frame] = None, **options: Any
) -> AsyncIterator[tuple[Chat, Peer]]:
    """Alice in ``sports``, and the server's side of her connection; her clock is one of ``Naps``."""
    admitting = asyncio.ensure_future(script.admitted(**(joined or {})))
    async with connect(script.url, "alice", "sports", tuning or Tuning(clock=Naps()), **options) as chat:
        yield chat, await admitting
