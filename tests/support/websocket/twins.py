"""The events of a stream of bytes, by uvicorn alone or with the inbox in front of it. No socket."""

import asyncio
import logging
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple, Optional, Union

from uvicorn import Config
from uvicorn.server import ServerState

from chat_actors.connection.asgi import FindProtocol, Receive, Scope, Send, uvicorn_protocol
from chat_actors.connection.inbox import open_inbox
from tests.support.websocket.wire import CLOSE, DEFLATE, FIN, frames_in

IMPLEMENTATIONS = "websockets-sansio", "wsproto", "websockets"
LONGEST = 1024  # bytes of a message
TURNS = 50  # of the loop; more than anything here needs to end


class Heard(NamedTuple):
    """Result of a stream: the messages in order, and the close code of the connection if it was closed."""

    messages: list[Union[str, bytes]]
    code: Optional[int]


class Pipe(asyncio.Transport):
    """Transport with nothing behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.closing = False
        self.written = b""
        self.protocol: Any = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: Any) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: Optional[int] = None, low: Optional[int] = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


async def hear(
    implementation: Any, chunks: Iterable[bytes], direct: bool, turns: Iterable[int] = (), uvicorns_limit: int = LONGEST
) -> Heard:
    """Play a stream; ``direct``: by our inbox. ``turns``: of the loop, behind each chunk (1 where none is told)."""
    logging.disable()  # uvicorn logs each bad UTF-8
    try:
        return await _hear(implementation, chunks, direct, turns, uvicorns_limit)
    finally:
        logging.disable(logging.NOTSET)


async def _hear(
    implementation: Any, chunks: Iterable[bytes], direct: bool, turns: Iterable[int], uvicorns_limit: int
) -> Heard:
    messages: list[Union[str, bytes]] = []

    def take(text: str) -> bool:
        messages.append(text)
        return True

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        inbox = open_inbox(uvicorn_protocol(scope) if direct else None, receive, LONGEST)
        inbox.deliver_to(take)
        while (event := await inbox.receive())["type"] == "websocket.receive":
            messages.append(event["bytes"] if event.get("text") is None else event["text"])

    pipe = Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one implementation is deprecated
        config = Config(
            FindProtocol(app),
            ws=implementation,
            ws_max_size=uvicorns_limit,
            ws_ping_interval=None,
            log_config=None,
            lifespan="off",
        )
        config.load()
        protocol: Any = config.ws_protocol_class
        pipe.protocol = protocol(config=config, server_state=ServerState(), app_state={})
    pipe.protocol.connection_made(pipe)
    pipe.protocol.data_received(DEFLATE)
    await _turn(TURNS)
    waits = iter(turns)
    for chunk in chunks:
        for _ in range(TURNS):
            if pipe.reading or pipe.closing:
                break
            await asyncio.sleep(0)
        if pipe.closing:
            break
        pipe.protocol.data_received(chunk)
        await _turn(next(waits, 1))
    await _turn(TURNS)
    pipe.protocol.connection_lost(None)
    await _turn(TURNS)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    codes = [int.from_bytes(payload[:2], "big") for first, payload in _answers(pipe) if first == FIN | CLOSE]
    return Heard(messages, codes[0] if codes else None)


async def _turn(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def _answers(pipe: Pipe) -> Iterable[tuple[int, bytes]]:
    return frames_in(pipe.written.partition(b"\r\n\r\n")[2])
