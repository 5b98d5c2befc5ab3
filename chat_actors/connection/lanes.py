"""The two lanes of outgoing frames: the fast lane under uvicorn, the plain lane under any other ASGI server.

On the fast lane finished frames are written straight to the connection's transport. On the plain lane a task sends
``websocket.send`` events from a queue. Only this module and ``inbox`` know that there are two lanes.
"""

import asyncio
import socket
from typing import Any, Optional, Union

from chat_actors.clock import Timer
from chat_actors.connection.asgi import AsgiEvent, Receive, Send, UvicornProtocol
from chat_actors.connection.handshake import close_event, send_events
from chat_actors.connection.outbox import ConnectionOutbox, StallWatch
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import payloads

# Unsent bytes that the kernel may buffer for one connection. By default it buffers megabytes: then a slow but steady
# reader would seem to make no progress for longer than the stall timeout, and messages would outlive their window.
UNSENT_BYTES = 64 * 1024
_NOTSENT_LOWAT: Optional[int] = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # on Linux and macOS
CLOSE_SECONDS = 2.0  # that a peer gets to read the last frames and the close frame before it is aborted


class TransportOutbox(ConnectionOutbox):
    """Outbox on the fast lane: writes finished frames to the transport. All members of a fan-out share the bytes."""

    __slots__ = "_closing", "_lingering", "_measure_at", "_transport"

    def __init__(self, watch: "StallWatch", receive: Receive, send: Send, transport: asyncio.Transport) -> None:
        super().__init__(watch, receive, send)
        self._transport = transport
        self._measure_at = 0  # measure the transport's buffer again once ``_written`` is above this
        self._closing: Optional[asyncio.Task[bool]] = None
        self._lingering: Optional[Timer] = None
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX and _NOTSENT_LOWAT is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT_BYTES)

    def write(self, frames: bytes) -> None:
        transport = self._transport
        if self.reason is not None or transport.is_closing():
            return
        if self._written > self._measure_at:
            free = self._max_bytes - transport.get_write_buffer_size()
            if free < 0:
                self.drop_slow("outbox full")
                return
            self._measure_at = self._written + free
        self._written += len(frames)
        try:  # noqa: SIM105  # contextlib.suppress costs a tenth of the write, for each member
            transport.write(frames)
        except RuntimeError:  # uvloop raises it if the transport was closed since the check above
            pass

    def is_open(self) -> bool:
        return super().is_open() or self.buffered() > 0

    def check(self, now: float) -> None:
        if not self._transport.is_closing():
            super().check(now)
        else:  # uvicorn is closing it, and may end the session only after the peer has read everything
            self._linger()

    async def finish(self) -> None:
        await super().finish()
        if self._closing is not None:
            await asyncio.wait({self._closing})
        self._linger()

    def _linger(self) -> None:
        """Abort the peer if it has not read everything after CLOSE_SECONDS: a closing transport waits without limit."""
        if self._lingering is None and self.buffered():
            self._lingering = self._watch.clock.call_later(CLOSE_SECONDS, self._abort_unread)

    def _begin_close(self, code: CloseCode) -> None:
        closing = self._closing = asyncio.create_task(send_events(self._send, close_event(code)))
        deadline = self._watch.clock.call_later(CLOSE_SECONDS, self._give_up, closing)
        closing.add_done_callback(lambda _: deadline.cancel())

    def _give_up(self, closing: "asyncio.Task[bool]") -> None:
        self.abort()
        closing.cancel()

    def buffered(self) -> int:
        try:
            return self._transport.get_write_buffer_size()
        except AttributeError:  # asyncio raises it for a TLS transport that was closed twice
            return 0

    def abort(self) -> None:
        self._transport.abort()

    def _abort_unread(self) -> None:
        if self.buffered():
            self._transport.abort()


class PlainOutbox(ConnectionOutbox):
    """Outbox on the plain lane: a task sends the JSON text of each frame, in order."""

    __slots__ = "_asgi_receive", "_queue", "_receiving", "_sender", "_waiting"

    def __init__(self, watch: "StallWatch", receive: Receive, send: Send) -> None:
        super().__init__(watch, self._receive_or_end, send)
        self._asgi_receive = receive
        self._receiving: Optional[asyncio.Future[AsgiEvent]] = None
        self._queue: asyncio.Queue[Union[bytes, CloseCode]] = asyncio.Queue()
        self._waiting = 0  # bytes in the queue
        self._sender = asyncio.create_task(self._send_in_turn())

    def write(self, frames: bytes) -> None:
        if self.reason is not None or self._sender.done():
            return
        if self._waiting > self._max_bytes:
            self.drop_slow("outbox full")
            return
        for payload in payloads(frames):
            self._written += len(payload)
            self._waiting += len(payload)
            self._queue.put_nowait(payload)

    async def finish(self) -> None:
        await super().finish()
        if self.reason is not None:
            deadline = self._watch.clock.call_later(CLOSE_SECONDS, self._sender.cancel)
            await asyncio.wait({self._sender})
            deadline.cancel()
        self._sender.cancel()
        await asyncio.wait({self._sender})
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.wait({self._receiving})
            if not self._receiving.cancelled():
                self._receiving.exception()  # retrieved, or asyncio would log it as never retrieved

    async def _send_in_turn(self) -> None:
        while True:
            item = await self._queue.get()
            if isinstance(item, CloseCode):
                await send_events(self._send, close_event(item))
                return
            if not await send_events(self._send, {"type": "websocket.send", "text": item.decode()}):
                return
            self._waiting -= len(item)
            del item

    async def _receive_or_end(self) -> AsgiEvent:
        """Return the next event, or a disconnect once sending has failed: some servers report it to ``send`` only."""
        if self._receiving is None:
            self._receiving = asyncio.ensure_future(self._asgi_receive())
        ends: set[asyncio.Future[Any]] = {self._receiving, self._sender}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not self._receiving.done():
            return {"type": "websocket.disconnect"}
        received, self._receiving = self._receiving, None
        return received.result()

    def buffered(self) -> int:
        return self._waiting

    def _begin_close(self, code: CloseCode) -> None:
        self._queue.put_nowait(code)

    def abort(self) -> None:
        self._sender.cancel()


def open_outbox(
    watch: StallWatch, protocol: Optional[UvicornProtocol], receive: Receive, send: Send
) -> ConnectionOutbox:
    """Return the outbox of an accepted connection: on the fast lane under uvicorn, else on the plain lane."""
    if protocol is None:
        return PlainOutbox(watch, receive, send)
    return TransportOutbox(watch, receive, send, protocol.transport)
