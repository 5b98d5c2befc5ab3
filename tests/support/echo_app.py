"""Echo, only for the tests: every message comes back as it came, by the server's own connection on the fast lane."""

import asyncio
from functools import cache

from loguru import logger
from websockets.frames import Frame, Opcode

from chat_actors.clock import Clock
from chat_actors.connection.asgi import Receive, Scope, Send
from chat_actors.connection.base import Connection, Receiver, Sweep
from chat_actors.connection.takeover import FastLane, Taken, accept
from chat_actors.connection.websocket import WebSocket
from chat_actors.counters import Counters
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.decoding import Data
from chat_actors.settings import Settings, load_settings


class Echo(Receiver):
    """Receiver that sends back what it receives."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._echoed = 0
        connection.receiver = self

    def receive(self, data: Data) -> None:
        self._echoed += 1
        frame = Frame(Opcode.TEXT, data.encode()) if isinstance(data, str) else Frame(Opcode.BINARY, data)
        self._connection.write(frame.serialize(mask=False))

    def refuse_big(self) -> None:
        self._connection.close(CloseCode.FRAME_TOO_BIG)

    def end(self, reason: str) -> None:
        logger.info("ended, echoed={}", self._echoed)


@cache
def _sweep() -> "tuple[Sweep, asyncio.Task[None]]":
    """Start the sweep of this process, once. A task that nobody refers to could be lost."""
    sweep = Sweep(load_settings(Settings), Clock(), Counters(), lambda: None)
    return sweep, asyncio.create_task(sweep.run())


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    taken = await accept(scope, send)
    assert isinstance(taken, Taken), taken
    Echo(WebSocket(taken.transport, taken.connections, _sweep()[0], lambda: None))


app = FastLane(_echo)
