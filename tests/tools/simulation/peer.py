"""The peer of one connection: uvicorn and a client in one, on either lane."""

import asyncio
import random
from collections import deque
from typing import Any, Optional

import msgspec

from chat_actors.connection.asgi import AsgiEvent
from chat_actors.protocol.frames import payloads
from tests.tools.simulation.loop import ShuffledLoop

Frame = dict[str, Any]

decode = msgspec.json.Decoder(Frame).decode


class Peer(asyncio.Transport):
    """Client, and the server's side of its socket: ASGI's ``receive`` and ``send`` and, on the fast lane, uvicorn's
    protocol and its transport in one. It reads every frame, and closes when it is told to go."""

    def __init__(self, loop: ShuffledLoop, rng: random.Random, direct: bool) -> None:
        super().__init__()
        self.transport = self
        self.code: Optional[int] = None  # of the close frame that it was sent
        self.gone = False  # it has hung up, or was aborted
        self._loop = loop
        self._random = rng.random
        self._direct = direct
        # From it to the server.
        self._protocol: Any = self  # who is given the bytes it sends; on the fast lane an inbox, from the accept on
        self._unread = b""  # by the server
        self._reading = True
        self._ended = False  # the server knows that it is gone
        self._closed = False  # nothing can be sent to it any more
        self._events: deque[AsgiEvent] = deque()
        self._receiver: Optional[asyncio.Future[None]] = None
        # From the server to it.
        self._written: list[bytes] = []
        self._payloads: list[bytes] = []
        self._frames: list[Frame] = []  # decoded so far

    # The client.

    @property
    def frames(self) -> list[Frame]:
        """What it was sent, except the close frame."""
        if self._written:
            self._payloads += payloads(b"".join(self._written))
            self._written.clear()
        if len(self._frames) < len(self._payloads):
            self._frames += [decode(payload) for payload in self._payloads[len(self._frames) :]]
        return self._frames

    def say(self, data: bytes) -> None:
        """Send a text frame."""
        if self.gone:
            return
        if not self._direct:
            self._event({"type": "websocket.receive", "text": data.decode()})
            return
        size = len(data)
        length = b"%c" % (0x80 | size) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        self._unread += b"\x81%b\0\0\0\0%b" % (length, data)  # a mask of zeros leaves the data as it is
        self._loop.call_soon(self._deliver)

    def hang_up(self) -> None:
        """Close the connection; what was sent before arrives before."""
        if not self.gone:
            self.gone = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        if self._unread and self._reading and self._protocol is not self and not self._ended:
            data, self._unread = self._unread, b""
            self._protocol.data_received(data)
        if self.gone and not self._ended:
            self._ended = self._closed = True
            self._protocol.connection_lost(None)

    # ASGI.

    async def receive(self) -> AsgiEvent:
        while not self._events:
            self._receiver = self._loop.create_future()
            await self._receiver
        return self._events.popleft()

    async def send(self, event: AsgiEvent) -> None:
        if self._random() < 0.5:
            await asyncio.sleep(0)
        if self._closed:
            raise ConnectionError("the peer is gone")
        if event["type"] == "websocket.close":
            self.code = event["code"]
            self.hang_up()
        else:
            self._payloads.append(event["text"].encode())

    def _event(self, event: AsgiEvent) -> None:
        self._events.append(event)
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    # uvicorn's protocol: it gets what the session does not take itself.

    def data_received(self, data: bytes) -> None:
        while data:
            size, at = data[1] - 0x80, 6
            if size == 126:
                size, at = int.from_bytes(data[2:4], "big"), 8
            self._event({"type": "websocket.receive", "text": data[at : at + size].decode()})
            data = data[at + size :]

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._event({"type": "websocket.disconnect"})

    def eof_received(self) -> Optional[bool]:
        raise NotImplementedError

    def pause_writing(self) -> None:
        raise NotImplementedError

    def resume_writing(self) -> None:
        raise NotImplementedError

    # Its transport.

    def write(self, data: Any) -> None:
        self._written.append(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closed

    def abort(self) -> None:
        self._unread = b""
        self._closed = True
        self.hang_up()

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol
        self._loop.call_soon(self._deliver)

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._loop.call_soon(self._deliver)
