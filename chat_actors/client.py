"""A client that stays in its topic: after a lost connection it resumes, without lost or doubled messages.

    async with connect("ws://127.0.0.1:8000/ws", "alice", "sports") as chat:
        await chat.send("Hello World")
        async for event in chat:
            if isinstance(event, Message):  # any other event is a Gap
                print(event.username, event.message)

To resume, the client sends the token, the epoch and the last id that it has seen, and sends an unacknowledged message
again with the same ref. The server remembers these for its window (30 seconds by default) and until it restarts. After
that the iteration yields a ``Gap`` for lost messages, and an unacknowledged message may appear twice: the client
prefers a doubled message to a lost one.
"""

import asyncio
import random
import secrets
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Any, Callable, Literal, Optional, Union

import msgspec
from msgspec import UNSET, Struct
from websockets.asyncio import client as websockets
from websockets.exceptions import ConnectionClosed

from chat_actors.clock import Clock
from chat_actors.protocol import frames as wire
from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.protocol.decoding import Refused, decode_next
from chat_actors.protocol.frames import Ack, ListCommand, Message, Topics

# A dead connection is detected within 20 seconds: that leaves time to resume within the window of 30 seconds.
OPTIONS = {"ping_interval": 10, "ping_timeout": 10, "close_timeout": 2, "max_size": 16 << 20, "compression": None}
LEFT, LOST = 1000, 1006  # RFC 6455, section 7.4.1
# After these codes the server would close the client again, does not understand it, or serves the member on another
# connection. After any other code the client reconnects.
FINAL = {CloseCode.TOO_MANY_REFUSED, CloseCode.FRAME_TOO_BIG, CloseCode.RESUMED_ELSEWHERE, 1002, 1003, 1007, 1010}

_decode_first = msgspec.json.Decoder(Union[wire.Joined, wire.Error]).decode
_decode_next = msgspec.json.Decoder(Union[Message, Ack, Topics, wire.Error]).decode


class Gap(Struct, frozen=True):
    """Range of lost messages, ``first`` to ``last`` by id, both inclusive.

    The range may include ids of the client's own messages, which are not lost. ``last`` is None if the topic has a new
    epoch: the end of the range is unknown, and ids begin again at 1. ``reason`` is "unread" if the client itself
    dropped the messages because too many were unread.
    """

    first: int
    last: Optional[int]
    reason: Literal["expired", "evicted", "restarted", "unread"]


class Disconnected(Exception):
    """End of the chat: a close code after which the client does not reconnect, or 1000 after the client has left.

    ``code`` and ``reason`` are those of the close frame (RFC 6455, section 7.4); 1006 if there was none.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Tuning(Struct, frozen=True):
    """Options of a client.

    ``backoff``: two limits, in seconds. The wait before an attempt to reconnect is random, up to a limit that starts at
    the first and doubles with each failure up to the second. A connection that lasts the second limit resets it.
    """

    replay: bool = False  # True: start with the messages that the server still stores
    longest: int = 4096  # characters of a message that the server takes; set it to the server's limit
    most_unread: int = 1000  # messages that may wait to be read
    backoff: tuple[float, float] = 0.5, 5.0
    random: Callable[[], float] = random.random
    clock: Clock = msgspec.field(default_factory=Clock)


class _Request(Struct, eq=False):
    """Request to the server, sent on each new connection until it is answered."""

    payload: str
    text: str  # of the message; empty for other requests
    answer: "asyncio.Future[Union[Ack, Topics, Exception]]"


class Chat:
    """Member of a topic, for the length of its ``async with`` block. Iterate over it for messages and gaps.

    ``async with`` makes one attempt to join. Later the client reconnects and resumes on its own.

    If ``most_unread`` messages wait, the client stops reading from the socket. If the connection ends because of that,
    the client reconnects once the messages are read. While ``send`` or ``topics`` waits for an answer, the client reads
    on, because the answer comes after the messages; messages over the limit are then dropped, and become a ``Gap`` with
    reason "unread".

    Args:
        url: Address of the server's WebSocket, such as ``ws://127.0.0.1:8000/ws``.
        username: Name to ask for. The server may give another: see the attribute ``username``.
        topic: Topic to join.
        tuning: Options of the client; the defaults if None.
        options: Passed to ``websockets.asyncio.client.connect``, such as ``additional_headers``.

    Attributes:
        username: Name that the server gave. It can change on a reconnect, if the name was taken meanwhile.

    Raises (on entering ``async with``):
        Refused: If the server refuses the join.
        Disconnected: If the server closes the connection.
        OSError: If the server cannot be reached.
        asyncio.TimeoutError: If the handshake takes too long.
        websockets.exceptions.WebSocketException: If the handshake fails.
    """

    def __init__(self, url: str, username: str, topic: str, tuning: Optional[Tuning] = None, **options: Any) -> None:
        self.username = username
        self._tuning = tuning or Tuning()
        # The connection, and the task that reads it and replaces it.
        self._url, self._options = url, {**OPTIONS, **options}
        self._join = wire.JoinFrame(username, topic, 0 if self._tuning.replay else UNSET, UNSET, "")  # sent next
        self._unanswered_joins = 0
        self._failures = 0  # in a row
        self._socket: Optional[websockets.ClientConnection] = None  # None until it has joined
        self._staying: asyncio.Task[None]
        self._ended: Optional[Exception] = None
        self._ended_at: Optional[TracebackType] = None
        # Requests, one at a time: an answer has no ref if it is an error, so only one request may wait for it.
        self._turn: asyncio.Lock  # created in ``__aenter__``: on Python 3.9 a lock belongs to the loop that runs then
        self._request: Optional[_Request] = None
        # Messages.
        self._seen = 0  # highest id seen, own messages included
        self._unread: deque[Union[Message, Gap]] = deque()
        self._suspects: list[Message] = []  # unread messages that may be our own: the ack of the request will tell
        self._changed: asyncio.Event  # set at each change that a method may wait for

    async def send(self, text: str) -> Ack:
        """Send a message and return its ack, once the topic has accepted the message.

        Concurrent calls are sent one by one, in order. Over a lost connection the call waits and sends the message
        again. Cancelling a call does not recall the message if its turn to be sent has come.

        Raises:
            Refused: If the message breaks a rule of the server. The topic has not accepted it then.
            Disconnected: If the chat is over.
            Exception: If another error ended the chat, that error.
        """
        try:
            payload = msgspec.json.encode(wire.SendFrame(text, secrets.token_hex(8))).decode()
        except UnicodeEncodeError as why:  # lone surrogates, as from a file name that is not UTF-8
            raise Refused(ErrorCode.INVALID_JSON, f"message has lone surrogates: remove them: {why}") from None
        if isinstance(decode_next(payload, self._tuning.longest), ListCommand):
            raise Refused(ErrorCode.UNKNOWN_COMMAND, "message is a command: call topics() for the list")
        ack: Ack = await self._ask(payload, text)
        return ack

    async def topics(self) -> Topics:
        """Return the active topics of the server, oldest first.

        Raises:
            Disconnected: If the chat is over.
            Exception: If another error ended the chat, that error.
        """
        topics: Topics = await self._ask("/list")
        return topics

    def __aiter__(self) -> "Chat":
        return self

    async def __anext__(self) -> Union[Message, Gap]:
        """Return the next message or gap, in the order of the topic.

        Own messages are left out. Cancelling a call loses no message.

        Raises:
            StopAsyncIteration: After the last event, if the client has left the ``async with`` block.
            Disconnected: After the last event, if the server ended the chat.
            Exception: If another error ended the chat, that error.
        """
        while not self._unread or self._unread[0] in self._suspects:
            if isinstance(self._ended, Disconnected) and self._ended.code == LEFT:
                raise StopAsyncIteration
            await self._change()
        self._changed.set()
        return self._unread.popleft()

    async def __aenter__(self) -> "Chat":
        self._turn, self._changed = asyncio.Lock(), asyncio.Event()
        self._staying = asyncio.create_task(self._stay())
        try:
            while self._join.epoch is UNSET:
                await self._change()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._staying.cancel()
        await asyncio.wait({self._staying})

    async def _ask(self, payload: str, text: str = "") -> Any:
        async with self._turn:
            while self._request is not None:  # of a call that was cancelled
                await self._change()
            self._raise_if_ended()
            self._request = request = _Request(payload, text, asyncio.get_running_loop().create_future())
            self._changed.set()
            await self._write()
            answer = await asyncio.shield(request.answer)
            if isinstance(answer, Exception):
                raise answer
            return answer

    async def _write(self) -> None:
        """Write the request to the connection, if there is one. Each new connection writes it again."""
        if self._request is not None and self._socket is not None:
            with suppress(ConnectionClosed):
                await self._socket.send(self._request.payload)

    def _settle(self, answer: Union[Ack, Topics, Exception]) -> None:
        if self._request is not None:
            self._request.answer.set_result(answer)
            self._request = None
        self._suspects.clear()
        self._changed.set()

    async def _change(self) -> None:
        """Wait for the next change. Raises the error that ended the chat if it is over."""
        self._raise_if_ended()
        self._changed.clear()
        await self._changed.wait()

    def _raise_if_ended(self) -> None:
        if self._ended is not None:
            raise self._ended.with_traceback(self._ended_at)  # reset, or each raise would make it longer

    async def _stay(self) -> None:
        """Reconnect after each lost connection, until one ends for good or this task is cancelled."""
        ended: Exception = Disconnected(LEFT, "left")
        first, most = self._tuning.backoff
        try:
            while True:
                self._raise_if_final(await self._converse())
                limit = min(most, first * 2 ** min(self._failures, 32))
                self._failures += 1
                await self._tuning.clock.sleep(self._tuning.random() * limit)
        except Exception as final:
            ended = final
        finally:
            self._ended, self._ended_at = ended, ended.__traceback__
            self._settle(ended)

    def _raise_if_final(self, lost: Exception) -> None:
        if isinstance(lost, Disconnected):
            final = lost.code in FINAL
            if lost.code == CloseCode.RESUMED_ELSEWHERE and self._unanswered_joins:
                self._unanswered_joins -= 1  # "elsewhere" may be our own earlier connection, whose join came late
                final = False
        elif isinstance(lost, Refused):
            final = lost.code is not ErrorCode.SERVER_FULL
        else:
            final = websockets.process_exception(lost) is not None  # type: ignore[attr-defined]  # though documented
        if final or self._join.epoch is UNSET:  # UNSET: the first join has not succeeded
            raise lost

    async def _converse(self) -> Exception:
        """Connect, join and take frames until the connection ends; return the reason as an exception."""
        try:
            socket = await websockets.connect(self._url, **self._options)
            began = self._tuning.clock.monotonic()
            try:
                self._unanswered_joins += 1
                with suppress(ConnectionClosed):  # frames sent before the close can still be read
                    await socket.send(msgspec.json.encode(self._join).decode())
                joined = _decode_first(await socket.recv())
                self._unanswered_joins -= 1
                if isinstance(joined, wire.Error):
                    raise Refused(joined.error, joined.detail)
                self._welcome(joined)
                self._socket = socket
                await self._write()
                while True:
                    await self._take(_decode_next(await socket.recv()))
            finally:
                self._socket = None
                if self._tuning.clock.monotonic() - began >= self._tuning.backoff[1]:
                    self._failures = 0
                await socket.close()  # with 1000; ``async with`` would close with 1011 on a cancellation
        except ConnectionClosed as closed:
            return Disconnected(closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else Disconnected(LOST, "")
        except Exception as why:
            return why

    def _welcome(self, joined: wire.Joined) -> None:
        if self._join.since is UNSET and joined.last_id is not UNSET:
            self._seen = joined.last_id
        if joined.gap is not UNSET:
            if joined.gap.to is None:
                self._suspects.clear()  # of an earlier epoch: no ack can have these ids
            self._seen = joined.gap.to or 0
            self._unread.append(Gap(joined.gap.from_, joined.gap.to, joined.gap.reason))
        self.username = joined.username
        self._join.epoch, self._join.resume, self._join.since = joined.epoch, joined.resume, self._seen
        self._changed.set()

    async def _take(self, frame: Union[Message, Ack, Topics, wire.Error]) -> None:
        if isinstance(frame, wire.Error):
            self._settle(Refused(frame.error, frame.detail))
        elif isinstance(frame, Message):
            if frame.id > self._seen:
                await self._take_message(frame)
        else:
            if isinstance(frame, Ack):
                if frame.duplicate is UNSET:
                    self._seen = frame.id  # the ack of our message takes the message's place
                for message in self._suspects:
                    if message.id == frame.id:
                        self._unread.remove(message)
            self._settle(frame)
        self._join.since = self._seen

    async def _take_message(self, message: Message) -> None:
        if len(self._unread) >= self._tuning.most_unread:
            await asyncio.sleep(0)  # ``recv`` does not yield while it has frames: let the reader run
        while len(self._unread) >= self._tuning.most_unread and self._request is None:
            await self._change()
        self._seen, newest = message.id, self._unread[-1] if self._unread else None
        self._changed.set()
        if len(self._unread) < self._tuning.most_unread:
            self._unread.append(message)
            if self._request is not None and self._request.text == message.message:
                self._suspects.append(message)
        elif isinstance(newest, Gap) and newest.reason == "unread":
            self._unread[-1] = Gap(newest.first, message.id, "unread")
        else:
            self._unread.append(Gap(message.id, message.id, "unread"))


connect = Chat  # for ``async with connect(…) as chat``
