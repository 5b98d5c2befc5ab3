"""The peer of one connection: a client, and what the server has of it, on either lane: a transport or ASGI events."""

import asyncio
import random
from collections import deque
from typing import Any, Optional

import msgspec

from chat_actors.connection.asgi import AsgiEvent
from chat_actors.protocol.frames import payloads
from tests.support.websocket.wire import CLOSE, FIN, PING, PONG, TEXT, frame, frames_in
from tests.tools.simulation.loop import ShuffledLoop

Frame = dict[str, Any]

_NO_MASK = b"\0\0\0\0"  # leaves the data as it is

decode = msgspec.json.Decoder(Frame).decode


class Peer(asyncio.Transport):
    """Client that reads every frame, answers pings and mostly the close, and goes when it is told to.

    To the server it is the transport of a connection on the fast lane, or ``receive`` and ``send`` of the plain lane.
    """

    def __init__(self, loop: ShuffledLoop, rng: random.Random, direct: bool) -> None:
        super().__init__()
        self.code: Optional[int] = None  # of the close frame that it was sent
        self.gone = False  # it has hung up, or was aborted
        self._loop = loop
        self._random = rng.random
        self._direct = direct
        # From it to the server.
        self._protocol: Any = None  # who is given the bytes it sends
        self._unread = b""  # by the server
        self._reading = True
        self._reset = False  # it has gone without an end of what it sent
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
        if self._direct:
            self._say(frame(FIN | TEXT, data, _NO_MASK))
        else:
            self._event({"type": "websocket.receive", "text": data.decode()})

    def hang_up(self) -> None:
        """Close the connection; what was sent before arrives before, unless the connection is reset."""
        if not self.gone:
            self.gone = True
            self._reset = self._random() < 0.3
            self._loop.call_soon(self._deliver)

    def _say(self, data: bytes) -> None:
        self._unread += data
        self._loop.call_soon(self._deliver)

    def _react(self, control: bytes) -> None:
        """Answer control frames."""
        for first, payload in frames_in(control):
            if self.gone:
                return
            if first == FIN | PING:
                self._say(frame(FIN | PONG, payload, _NO_MASK))
            elif first == FIN | CLOSE:
                self.code = int.from_bytes(payload[:2], "big")
                if self._random() < 0.8:
                    self._say(frame(FIN | CLOSE, payload[:2], _NO_MASK))
                elif self._random() < 0.5:
                    self.hang_up()

    def _deliver(self) -> None:
        if self._ended:
            return
        if not self._direct:
            if self.gone:
                self._ended = self._closed = True
                self._event({"type": "websocket.disconnect"})
            return
        if self._closed or self._reset:  # aborted by the server, or by the peer
            self._end()
        elif self._reading and self._unread:
            data, self._unread = self._unread, b""
            self._protocol.data_received(data)
            self._loop.call_soon(self._deliver)
        elif self._reading and self.gone:
            self._protocol.eof_received()
            self._end()

    def _end(self) -> None:
        self.gone = self._ended = self._closed = True
        self._loop.call_soon(self._protocol.connection_lost, None)

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

    # The transport.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        if not self._closed:
            if data[0] == FIN | TEXT:
                self._written.append(data)
            else:  # a control frame is written by itself
                self._loop.call_soon(self._react, data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._loop.call_soon(self.hang_up)

    def close(self) -> None:
        self._closed = True

    def abort(self) -> None:
        self._closed = True
        self._loop.call_soon(self._deliver)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._loop.call_soon(self._deliver)
