"""A client that stays in its topic: when its connection drops it comes back, and nothing is missed or doubled.

    async with connect("ws://127.0.0.1:8000/ws", "alice", "sports") as chat:
        await chat.send("Hello World")
        async for event in chat:
            if isinstance(event, Message):  # the other kind of event is a Gap
                print(event.username, event.message)

It resumes by the token, the epoch and the last id it was given, and sends again, with the same ref, what was not
acknowledged. The server knows these for its window (30 seconds), and until it restarts. What is lost after that comes
out as a ``Gap``, and a message whose ack was lost is sent again all the same: rather twice than never.
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

# A dead connection is found within 20 s, so that there is time left to come back within the window.
OPTIONS = {"ping_interval": 10, "ping_timeout": 10, "close_timeout": 2, "max_size": 16 << 20, "compression": None}
LEFT, LOST = 1000, 1006  # RFC 6455, section 7.4.1
# The server would close this client again, or does not understand it (1002 …); after any other code it comes back.
FINAL = {CloseCode.TOO_MANY_REFUSED, CloseCode.FRAME_TOO_BIG, CloseCode.RESUMED_ELSEWHERE, 1002, 1003, 1007, 1010}

_decode_first = msgspec.json.Decoder(Union[wire.Joined, wire.Error]).decode
_decode_next = msgspec.json.Decoder(Union[Message, Ack, Topics, wire.Error]).decode


class Gap(Struct, frozen=True):
    """The messages from ``first`` to ``last`` are lost (but for our own, whose ids may be among these). None: nobody
    knows to which, and the ids begin again at 1."""

    first: int
    last: Optional[int]
    reason: Literal["expired", "evicted", "restarted", "unread"]


class Disconnected(Exception):
    """The chat is over: the server closed it with a code after which there is no coming back, or we left (1000)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Tuning(Struct, frozen=True):
    """What can be set beside who joins what. ``backoff``: the wait (seconds) before an attempt is anything up to a
    limit, the first, that doubles with each failure up to the second; a connection that lasts that long resets it."""

    replay: bool = False  # begin with the messages that the server still has
    longest: int = 4096  # characters of a message that the server takes
    most_unread: int = 1000  # messages that may wait to be read
    backoff: tuple[float, float] = 0.5, 5.0
    random: Callable[[], float] = random.random
    clock: Clock = msgspec.field(default_factory=Clock)


class _Request(Struct, eq=False):
    """What is asked of the server, over as many connections as it takes until it is answered."""

    payload: str
    text: str  # of the message; empty if it is none
    answer: "asyncio.Future[Union[Ack, Topics, Exception]]"


class Chat:
    """A member of a topic, for the length of its ``async with`` block; iterate over it for what happens there.

    Entering it is one attempt to get in: it raises Refused if the server refuses the join, Disconnected if it closes,
    and OSError, asyncio.TimeoutError or an exception of ``websockets`` if there is no such server. Later it comes back
    by itself.

    Where as many messages wait as may, the socket is not read either; if the connection ends of that, the next one
    comes when they are read. But while somebody waits for an answer, which stands behind all that is to come, it is
    read, and messages that find no room become a Gap ("unread").
    """

    def __init__(self, url: str, username: str, topic: str, tuning: Optional[Tuning] = None, **options: Any) -> None:
        """``options`` are those of ``websockets``' own ``connect``, such as ``additional_headers``."""
        self.username = username  # as the server gave it; another one if it was taken while we were away
        self._tuning = tuning or Tuning()
        # The connection, and the task that reads it and replaces it.
        self._url, self._options = url, {**OPTIONS, **options}
        self._join = wire.JoinFrame(username, topic, 0 if self._tuning.replay else UNSET, UNSET, "")  # the next one's
        self._unanswered_joins = 0
        self._failures = 0  # in a row
        self._socket: Optional[websockets.ClientConnection] = None  # once it has joined
        self._staying: asyncio.Task[None]
        self._ended: Optional[Exception] = None
        self._ended_at: Optional[TracebackType] = None
        # One request at a time: so an answer, or an error, which has no ref, can only mean the one that waits.
        self._turn: asyncio.Lock  # made in ``__aenter__``: on Python 3.9 it belongs to the loop that runs then
        self._request: Optional[_Request] = None
        # What came.
        self._seen = 0  # the highest id, our own included
        self._unread: deque[Union[Message, Gap]] = deque()
        self._suspects: list[Message] = []  # of the unread: one may be our own, which the answer to our request tells
        self._changed: asyncio.Event  # set at any change that something in here may wait for

    async def send(self, text: str) -> Ack:
        """Send a message; returns when it is in the topic. Several at once go one by one, in order.

        Raises Refused if the server does not take such a message, and what ended the chat if it is over. Cancelling it
        only ends the waiting: a message whose turn had come is sent all the same.
        """
        try:
            payload = msgspec.json.encode(wire.SendFrame(text, secrets.token_hex(8))).decode()
        except UnicodeEncodeError as why:  # as in a file name or a line of input that was not UTF-8
            raise Refused(ErrorCode.INVALID_JSON, f"a message cannot hold lone surrogates: {why}") from None
        if isinstance(decode_next(payload, self._tuning.longest), ListCommand):
            raise Refused(ErrorCode.UNKNOWN_COMMAND, "a message cannot be a command; there is topics()")
        ack: Ack = await self._ask(payload, text)
        return ack

    async def topics(self) -> Topics:
        """The active topics, oldest first. Raises what ended the chat if it is over."""
        topics: Topics = await self._ask("/list")
        return topics

    def __aiter__(self) -> "Chat":
        return self

    async def __anext__(self) -> Union[Message, Gap]:
        """The next event, in the topic's order; behind the last one the iteration stops if we have left, and what else
        ended the chat is raised.

        Our own messages are left out: the server sends them in a replay only, and there they have the ids of our acks.
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
            while self._request is not None:  # who asked was cancelled
                await self._change()
            self._raise_if_over()
            self._request = request = _Request(payload, text, asyncio.get_running_loop().create_future())
            self._changed.set()
            await self._write()
            answer = await asyncio.shield(request.answer)
            if isinstance(answer, Exception):
                raise answer
            return answer

    async def _write(self) -> None:
        """Write the request to the connection; if there is none, or it ends, the next one gets it."""
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
        """Wait for a change; when the chat is over there is none to come."""
        self._raise_if_over()
        self._changed.clear()
        await self._changed.wait()

    def _raise_if_over(self) -> None:
        if self._ended is not None:
            raise self._ended.with_traceback(self._ended_at)  # which each raise would make longer

    async def _stay(self) -> None:
        """Have connection after connection, until one has ended for good."""
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
                self._unanswered_joins -= 1  # "elsewhere" may be a connection that we gave up, whose join came late
                final = False
        elif isinstance(lost, Refused):
            final = lost.code is not ErrorCode.SERVER_FULL
        else:
            final = websockets.process_exception(lost) is not None  # type: ignore[attr-defined]  # though documented
        if final or self._join.epoch is UNSET:  # or we have never been in
            raise lost

    async def _converse(self) -> Exception:
        """Connect, join, and take what comes; returns why that ended."""
        try:
            socket = await websockets.connect(self._url, **self._options)
            began = self._tuning.clock.monotonic()
            try:
                self._unanswered_joins += 1
                with suppress(ConnectionClosed):  # what the server said before it closed is read all the same
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
                await socket.close()  # with 1000; ``async with`` would take our leave, a cancellation, for an error
        except ConnectionClosed as closed:
            return Disconnected(closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else Disconnected(LOST, "")
        except Exception as why:
            return why

    def _welcome(self, joined: wire.Joined) -> None:
        if self._join.since is UNSET and joined.last_id is not UNSET:
            self._seen = joined.last_id
        if joined.gap is not UNSET:
            if joined.gap.to is None:
                self._suspects.clear()  # of an earlier life of the topic: by these ids no answer can mean them
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
                    self._seen = frame.id  # it stands in the message's place
                for message in self._suspects:
                    if message.id == frame.id:
                        self._unread.remove(message)
            self._settle(frame)
        self._join.since = self._seen

    async def _take_message(self, message: Message) -> None:
        if len(self._unread) >= self._tuning.most_unread:
            await asyncio.sleep(0)  # ``recv`` does not yield while it has frames: so who reads has had a turn
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


connect = Chat  # it reads better: ``async with connect(…) as chat``
