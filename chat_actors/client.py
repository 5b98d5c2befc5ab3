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
import logging
import random
from collections import deque
from contextlib import suppress
from itertools import count
from typing import Any, Callable, Literal, Optional, Union

import msgspec
from msgspec import UNSET, Struct
from websockets.asyncio import client as websockets
from websockets.exceptions import ConnectionClosed

from chat_actors import protocol
from chat_actors.clock import Clock
from chat_actors.protocol import Ack, CloseCode, ErrorCode, Joined, JoinFrame, Refused, SendFrame, Topics

# A dead connection is found within 20 s, so that there is time left to come back within the window.
OPTIONS = {"ping_interval": 10, "ping_timeout": 10, "close_timeout": 2, "max_size": 16 << 20, "compression": None}
LEFT, LOST = 1000, 1006  # RFC 6455, section 7.4.1
# The server would close this client again, or does not understand it (1002 …); after any other code it comes back.
FINAL = {CloseCode.TOO_MANY_REFUSED, CloseCode.FRAME_TOO_BIG, CloseCode.RESUMED_ELSEWHERE, 1002, 1003, 1007, 1010}

_log = logging.getLogger(__name__)


class Message(Struct, frozen=True, tag_field="type", tag="message"):
    """Somebody else's message. ``id`` counts 1, 2, 3 …; ``timestamp``: Unix seconds; ``replayed``: from the past."""

    id: int
    username: str
    message: str
    timestamp: int
    replayed: bool = False


class Gap(Struct, frozen=True):
    """The messages from ``first`` to ``last`` are lost. None: nobody knows to which, and the ids begin again at 1."""

    first: int
    last: Optional[int]
    reason: Literal["expired", "evicted", "restarted", "unread"]


class Disconnected(Exception):
    """The chat is over: the server closed it with a code after which there is no coming back, or we left (1000)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    @classmethod
    def by(cls, closed: ConnectionClosed) -> "Disconnected":
        return cls(LOST, "") if closed.rcvd is None else cls(closed.rcvd.code, closed.rcvd.reason)


class _Request(Struct, eq=False):
    """What is asked of the server, over as many connections as it takes until it is answered."""

    payload: str
    text: str  # of the message; empty if it is none
    answer: "asyncio.Future[Union[Ack, Topics, Exception]]"

    def has_sent(self, message: Message) -> bool:
        """Whether this message, which was replayed, is its own; known once it has been answered."""
        ack = self.answer.result()
        return isinstance(ack, Ack) and ack.duplicate is True and ack.id == message.id


_decode_first = msgspec.json.Decoder(Union[Joined, protocol.Error]).decode
_decode_next = msgspec.json.Decoder(Union[Message, Ack, Topics, protocol.Error]).decode


class Chat:
    """A member of a topic, for the length of its ``async with`` block; iterate over it for what happens there.

    Entering it is one attempt to get in: it raises Refused if the server refuses the join, Disconnected if it closes,
    and OSError or an exception of ``websockets`` if there is no such server. Later it comes back by itself. Before an
    attempt it waits for anything up to ``backoff[0]`` seconds, a limit that doubles with every failure to at most
    ``backoff[1]``, and starts anew when a connection has lasted for that long.

    At most ``most_unread`` messages wait to be read; then the socket is not read either. But while somebody waits for
    an answer, which stands behind all that is to come, it is, and messages without room become a Gap ("unread").

    ``replay``: begin with what the server still has. ``longest``: characters of a message that the server takes.
    ``options``: of ``websockets``' own ``connect``, such as ``additional_headers``.
    """

    def __init__(
        self,
        url: str,
        username: str,
        topic: str,
        *,
        replay: bool = False,
        longest: int = 4096,
        most_unread: int = 1000,
        backoff: tuple[float, float] = (0.5, 5.0),
        random: Callable[[], float] = random.random,
        clock: Clock = Clock(),  # noqa: B008  # it has no state
        **options: Any,
    ) -> None:
        self.username = username  # as the server gave it; another one if it was taken while we were away
        self._url, self._options = url, {**OPTIONS, **options}
        self._longest, self._most_unread = longest, most_unread
        self._backoff, self._random, self._clock = backoff, random, clock
        # The connection, and the task that reads it and replaces it.
        self._join = JoinFrame(username, topic, 0 if replay else UNSET, UNSET, "")  # as the next one has to send it
        self._unanswered_joins = 0
        self._failures = 0  # in a row
        self._socket: Optional[websockets.ClientConnection] = None
        self._staying: asyncio.Task[None]
        self._ended: Optional[Exception] = None
        # One request at a time: so an answer, or an error, which has no ref, can only mean the one that waits.
        self._turn = asyncio.Lock()
        self._request: Optional[_Request] = None
        self._numbers = count(1)
        # What waits to be read, each with the request that may turn out to have sent it.
        self._unread: deque[tuple[Union[Message, Gap], Optional[_Request]]] = deque()
        self._seen = 0  # messages up to this id are in there, or have been, or are our own
        self._changed = asyncio.Event()  # set at any change that something in here may wait for

    async def send(self, text: str) -> Ack:
        """Send a message; returns when it is in the topic. Several at once go one by one, in order.

        Raises Refused if the server does not take such a message, and what ended the chat if it is over. Cancelling it
        only ends the waiting: a message whose turn had come is sent all the same.
        """
        payload = msgspec.json.encode(SendFrame(text, str(next(self._numbers)))).decode()
        if type(protocol.decode_next(payload, self._longest)) is not SendFrame:
            raise Refused(ErrorCode.UNKNOWN_COMMAND, "a message cannot be a command; there is topics()")
        ack: Ack = await self._ask(payload, text)
        return ack

    async def topics(self) -> list[protocol.TopicUsers]:
        """The active topics, oldest first. Raises what ended the chat if it is over."""
        answer: Topics = await self._ask("/list")
        return answer.topics

    def __aiter__(self) -> "Chat":
        return self

    async def __anext__(self) -> Union[Message, Gap]:
        """The next event, in the topic's order; behind the last one what ended the chat is raised.

        Our own messages are left out. The server sends them in a replay only, and there their acks tell them.
        """
        while True:
            if self._unread:
                event, request = self._unread[0]
                if request is None or request.answer.done():
                    self._unread.popleft()
                    self._changed.set()
                    if request is None or isinstance(event, Gap) or not request.has_sent(event):
                        return event
                    continue
            elif self._ended is not None:
                raise self._ended
            await self._change()

    async def __aenter__(self) -> "Chat":
        try:
            socket = await self._open()
        except ConnectionClosed as closed:
            raise Disconnected.by(closed) from None
        self._staying = asyncio.create_task(self._stay(socket))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._staying.cancel()
        await asyncio.wait({self._staying})

    async def _ask(self, payload: str, text: str = "") -> Any:
        async with self._turn:
            if self._request is not None:  # who asked was cancelled
                await asyncio.shield(self._request.answer)
            if self._ended is not None:
                raise self._ended
            self._request = request = _Request(payload, text, asyncio.get_running_loop().create_future())
            self._changed.set()
            await self._write()
            answer = await asyncio.shield(request.answer)
            if isinstance(answer, Exception):
                raise answer
            return answer

    async def _write(self) -> None:
        """Write the request to the connection; if either is missing, the next connection gets it."""
        if self._request is not None and self._socket is not None:
            with suppress(ConnectionClosed):
                await self._socket.send(self._request.payload)

    def _settle(self, answer: Union[Ack, Topics, Exception]) -> None:
        if self._request is not None:
            self._request.answer.set_result(answer)
            self._request = None
            self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _stay(self, socket: websockets.ClientConnection) -> None:
        """Read connection after connection, until one has ended for good."""
        ended: Exception = Disconnected(LEFT, "left")
        try:
            while True:
                lost = await self._read(socket)
                socket = await self._come_back(lost)
        except Exception as final:
            ended = final
        finally:
            self._ended = ended
            self._settle(ended)
            self._changed.set()

    async def _come_back(self, lost: Exception) -> websockets.ClientConnection:
        """A connection that has joined, after as many attempts as it takes. Raises what ends the chat for good."""
        while True:
            self._raise_if_final(lost)
            first, most = self._backoff
            delay = self._random() * min(most, first * 2 ** min(self._failures, 32))
            self._failures += 1
            _log.info("connection lost (%r), next attempt in %.1f s", lost, delay)
            await self._clock.sleep(delay)
            try:
                return await self._open()
            except Exception as why:
                lost = why

    def _raise_if_final(self, lost: Exception) -> None:
        if isinstance(lost, ConnectionClosed):
            disconnected = Disconnected.by(lost)
            if disconnected.code == CloseCode.RESUMED_ELSEWHERE and self._unanswered_joins:
                self._unanswered_joins -= 1  # one that we had given up on may have come late: each resumes once
            elif disconnected.code in FINAL:
                raise disconnected from lost
        elif not (isinstance(lost, Refused) and lost.code is ErrorCode.SERVER_FULL):
            final = websockets.process_exception(lost)  # type: ignore[attr-defined]  # documented, not in __all__
            if final is not None:
                raise final

    async def _open(self) -> websockets.ClientConnection:
        """Connect and join, once."""
        socket = await websockets.connect(self._url, **self._options)
        try:
            await socket.send(msgspec.json.encode(self._join).decode())
            self._unanswered_joins += 1
            joined = _decode_first(await socket.recv())
            self._unanswered_joins -= 1
            if isinstance(joined, protocol.Error):
                raise Refused(joined.error, joined.detail)
        except BaseException:
            socket.transport.abort()
            raise
        self.username = joined.username
        if self._join.since is UNSET and joined.last_id is not UNSET:
            self._seen = joined.last_id
        if joined.gap is not UNSET:
            self._seen = joined.gap.to or 0
            self._unread.append((Gap(joined.gap.from_, joined.gap.to, joined.gap.reason), None))
            self._changed.set()
        self._join.epoch, self._join.resume = joined.epoch, joined.resume
        return socket

    async def _read(self, socket: websockets.ClientConnection) -> Exception:
        """Take what comes on a connection that has joined; returns why it ended."""
        self._socket, began = socket, self._clock.monotonic()
        try:
            await self._write()
            while True:
                await self._take(_decode_next(await socket.recv()))
        except Exception as why:
            return why
        finally:
            self._socket, self._join.since = None, self._seen
            if self._clock.monotonic() - began >= self._backoff[1]:
                self._failures = 0
            await socket.close()

    async def _take(self, frame: Union[Message, Ack, Topics, protocol.Error]) -> None:
        if isinstance(frame, protocol.Error):
            self._settle(Refused(frame.error, frame.detail))
        elif not isinstance(frame, Message):
            if isinstance(frame, Ack) and frame.duplicate is UNSET:
                self._seen = frame.id  # it stands in the message's place
            self._settle(frame)
        elif frame.id > self._seen:
            suspect = self._request if self._request and self._request.text == frame.message else None
            while len(self._unread) >= self._most_unread and self._request is None:
                await self._change()
            self._seen = frame.id
            if len(self._unread) < self._most_unread:
                self._unread.append((frame, suspect if frame.replayed else None))
            else:
                self._lose(frame.id)
            self._changed.set()

    def _lose(self, number: int) -> None:
        newest, _ = self._unread[-1]
        first = number
        if isinstance(newest, Gap) and newest.reason == "unread":
            first = newest.first
            self._unread.pop()
        self._unread.append((Gap(first, number, "unread"), None))


connect = Chat  # it reads better: ``async with connect(…) as chat``
