"""The plain lane: a connection under any ASGI server, by ASGI events.

The host does the framing and judges the frames. A task sends ``websocket.send`` events from a queue, and the endpoint
receives until the connection is over.
"""

import asyncio
from typing import Any, Callable, Optional, Union

from loguru import logger

from chat_actors.connection.asgi import AsgiEvent, Receive, Send
from chat_actors.connection.base import OPEN, Connection, Sweep
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.decoding import Data, is_bigger
from chat_actors.protocol.frames import payloads


class PlainConnection(Connection):
    """Connection by ASGI events, after the handshake."""

    __slots__ = (
        "_asgi_receive",
        "_asgi_send",
        "_cut_off",
        "_gone",
        "_held",
        "_host_pings",
        "_on_room",
        "_queue",
        "_sender",
        "_waiting",
    )

    def __init__(
        self, receive: Receive, send: Send, host_pings: bool, sweep: Sweep, closed: Callable[[], None]
    ) -> None:
        """``host_pings``: whether the host itself finds out that a silent peer is gone."""
        super().__init__(sweep, closed)
        self._asgi_receive = receive
        self._asgi_send = send
        self._host_pings = host_pings
        self._held: Optional[asyncio.Future[None]] = None  # done when the next message may be received
        self._cut_off: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue: asyncio.Queue[Union[bytes, CloseCode]] = asyncio.Queue()
        self._waiting = 0  # bytes in the queue
        self._on_room: Optional[Callable[[], None]] = None  # to be called when that is 0
        self._gone = False  # the host has said that the connection is over
        self._sender = asyncio.create_task(self._send_in_turn())
        self._sender.add_done_callback(_retrieve)

    async def serve(self) -> None:
        """Deliver the peer's messages until the connection is over.

        If cancelled, closes the connection with 1012 and raises CancelledError. Raises what the host raises if it
        refuses to close a connection that is open: the host must do so then.
        """
        try:
            self._gone = await self._receive_in_turn()
        except asyncio.CancelledError:  # by the host, when its time for a graceful end is over
            self.close(CloseCode.RESTARTING)
            raise
        finally:
            try:
                if self._state is OPEN:
                    self._sender.cancel()
                await asyncio.wait({self._sender, self._cut_off}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._sender.cancel()
                self._finish()
        if not self._gone and self._sender.done() and not self._sender.cancelled():
            self._sender.result()

    # The sending side

    def write(self, frames: bytes) -> None:
        if self._state is not OPEN or self._sender.done():
            return
        if self._waiting > self._max_bytes:
            self.drop_slow("outbox full")
            return
        for payload in payloads(frames):
            self._written += len(payload)
            self._waiting += len(payload)
            self._queue.put_nowait(payload)

    def buffered(self) -> int:
        return self._waiting

    def when_room(self, call: Callable[[], None]) -> None:
        if self.has_room():
            call()
        else:
            self._on_room = call

    def _send_close(self, code: CloseCode) -> None:
        self._queue.put_nowait(code)
        self.release()

    def _cut(self) -> None:
        self._waiting = 0
        self._sender.cancel()
        if not self._cut_off.done():
            self._cut_off.set_result(None)
        self.release()

    async def _send_in_turn(self) -> None:
        """Send until the close, or until the host says that the peer is gone. Raises if the host refuses the close."""
        while True:
            item = await self._queue.get()
            if isinstance(item, CloseCode):
                await self._send_last(item)
                return
            try:
                await self._asgi_send({"type": "websocket.send", "text": item.decode()})
            except Exception as lost:  # each ASGI server raises its own exception for a lost peer
                logger.bind(error=repr(lost)).debug("event not sent")
                self._waiting = 0
                self._tell_room()
                return
            self._waiting -= len(item)
            del item
            if not self._waiting:
                self._tell_room()

    def _tell_room(self) -> None:
        call, self._on_room = self._on_room, None
        if call is not None:
            call()

    async def _send_last(self, code: CloseCode) -> None:
        event = {"type": "websocket.close", "code": int(code), "reason": code.reason}
        try:
            await self._asgi_send(event)
        except Exception as failed:
            if self._gone or isinstance(failed, OSError):  # OSError: the peer is gone (ASGI, WebSocket 2.4)
                logger.bind(error=repr(failed)).debug("event not sent")
                return
            await self._asgi_send({**event, "code": 1000})  # some hosts allow only 1000 and codes from 3000 up
            logger.bind(code=int(code), error=repr(failed)).info("close code refused by the host")

    # The receiving side

    def hold(self) -> None:
        if self._held is None and self._state is OPEN:
            self._held = asyncio.get_running_loop().create_future()

    def release(self) -> None:
        held, self._held = self._held, None
        if held is not None and not held.done():
            held.set_result(None)

    async def _receive_in_turn(self) -> bool:
        """Deliver messages until the end; return whether the host has told of it."""
        receiving: Optional[asyncio.Future[AsgiEvent]] = None
        try:
            while True:
                receiving = asyncio.ensure_future(self._asgi_receive())
                ends: set[asyncio.Future[Any]] = {receiving, self._cut_off, self._sender}
                while not receiving.done():
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    if self._cut_off.done():
                        return False
                    if self._sender.done() and self._state is OPEN and not receiving.done():
                        return False  # some hosts tell of a lost peer to ``send`` only; what they have read comes first
                    ends.discard(self._sender)  # it has sent the close: the peer's answer is next
                lost = receiving.exception()
                if lost is not None:  # uvicorn's receive fails on a TLS transport whose peer is gone
                    logger.bind(error=repr(lost)).debug("event not received")
                    return True
                event, receiving = receiving.result(), None
                data: Optional[Data] = event.get("text")
                if data is None:
                    data = event.get("bytes")
                if data is None:  # websocket.disconnect; its code is unreliable, so it is ignored
                    return True
                self._heard = True
                if is_bigger(data, self._sweep.max_message):
                    self.receiver.refuse_big()
                else:
                    self.receiver.receive(data)
                del event, data  # an expired message must leave the memory
                if self._held is not None:
                    await self._held
        finally:
            if receiving is not None:
                receiving.cancel()
                await asyncio.wait({receiving})
                _retrieve(receiving)

    # The sweep

    def _check_silence(self, silent: int) -> None:
        if self._held is not None or self._host_pings:
            self._silent = 0
        elif silent >= self._sweep.idle_ticks:
            self.reason = "silent: nothing heard"
            self.close(CloseCode.RESTARTING)  # of all codes the one after which a client that lives comes again


def _retrieve(ended: "asyncio.Future[Any]") -> None:
    """Look at how a task has ended, or asyncio would log that nobody did."""
    if not ended.cancelled():
        ended.exception()
