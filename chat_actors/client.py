"""A client that stays in its topic: after a lost connection it resumes, without lost or doubled messages.

    async with connect("ws://127.0.0.1:8000/ws", "alice", "sports") as chat:
        await chat.send("Hello World")
        async for event in chat:
            if isinstance(event, Message):  # any other event is a Gap; with events=True also Members and Renamed
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Callable, Literal, Optional, Union, cast, get_args

import msgspec
from loguru import logger
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from chat_actors import client_handshake
from chat_actors.clock import Clock, Timer
from chat_actors.protocol import frames as wire
from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.protocol.decoding import Refused, decode_next
from chat_actors.protocol.frames import Ack, ListCommand, Message, Renamed, Topics

LEFT, LOST = 1000, 1006  # RFC 6455, section 7.4.1
# After these codes the server would close the client again, does not understand it, or serves the member on another
# connection. After any other code the client reconnects.
FINAL = {CloseCode.TOO_MANY_REFUSED, CloseCode.FRAME_TOO_BIG, CloseCode.RESUMED_ELSEWHERE, 1002, 1003, 1007, 1010}


class _Error(Struct, tag_field="type", tag="error"):
    """``Error`` of the contract, whose code may be newer than this client."""

    error: str
    detail: str

    def refused(self) -> Refused:
        with suppress(ValueError):
            return Refused(ErrorCode(self.error), self.detail)
        return Refused(cast(ErrorCode, self.error), self.detail)


_Frame = Union[Message, Ack, Topics, wire.Presence, Renamed, wire.Expired, wire.Closing, _Error]


class _Envelope(Struct):
    """What every frame has, however new the server is."""

    type: str


_decode_first = msgspec.json.Decoder(Union[wire.Joined, _Error]).decode
_decode_next = msgspec.json.Decoder(_Frame).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_TYPES = {kind.__struct_config__.tag for kind in get_args(_Frame)}
_UNDECODABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


def _pass_newer(data: Union[str, bytes]) -> None:
    """Pass a frame that ``_decode_next`` refused if its type is newer than this client.

    Raises ConnectionError for any other: a client that skipped it might lose a message.
    """
    kind = ""
    with suppress(*_UNDECODABLE):
        kind = _decode_envelope(data).type
        if kind not in _TYPES:
            return
    logger.bind(type=kind).warning("frame not decodable: connecting again")
    raise ConnectionError(f"the server sent a frame that cannot be decoded, of type {kind!r}")


class Gap(Struct, frozen=True):
    """Range of lost messages, ``first`` to ``last`` by id, both inclusive.

    The range may include ids of the client's own messages, which are not lost. ``last`` is None if the topic has a new
    epoch: the end of the range is unknown, and ids begin again at 1. ``reason`` is "unread" if the client itself
    dropped the messages because too many were unread.
    """

    first: int
    last: Optional[int]
    reason: Literal["expired", "evicted", "restarted", "unread"]


class Members(Struct, frozen=True):
    """Who is in the topic, at each join and after each change.

    ``members``: all names, oldest member first, the client's own included; None if the server does not name them,
    because they are too many. ``joined`` and ``left``: the change since the last such event, empty if one of the two
    has no names. A member with another name is in both, with the new and the old one.
    """

    users: int
    members: Optional[tuple[str, ...]]
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def _without(names: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that are not among the others, in their order."""
    excluded = {*others}
    return tuple([name for name in names if name not in excluded])


Event = Union[Message, Gap, Members, Renamed]


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
    the first and doubles with each failure up to the second. A connection that lasts the second limit resets it. If the
    server or a proxy says how long to wait, this comes on top of that, and that counts up to 5 minutes.
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
    text: str  # of the message; empty for a list, as is its ref
    ref: str
    answer: "asyncio.Future[Union[Ack, Topics, Exception]]"


class Chat:
    """Member of a topic, for the length of its ``async with`` block. Iterate over it for messages and gaps.

    ``async with`` makes one attempt to join. Later the client reconnects and resumes on its own, after any error but
    these: a handshake answered 401 or 403, a refused join (unless the server is full), and the close codes in FINAL.

    Nothing waits without a bound. The handshake of an attempt takes at most the option ``open_timeout`` (10 seconds),
    the answer to the join as much again, and leaving ``close_timeout`` (2 seconds). A connection that does not answer
    a ping, a message or a list within ``ping_timeout`` (10 seconds) is lost. None for an option: no bound.

    A frame of a type that this client does not know is ignored: the server is newer. After any other frame that it
    cannot decode the connection is lost.

    If ``most_unread`` messages wait, the client stops reading from the socket. If the connection ends because of that,
    the client reconnects once the messages are read. While ``send`` or ``topics`` waits for an answer, the client reads
    on, because the answer comes after the messages; messages over the limit are then dropped, and become a ``Gap`` with
    reason "unread".

    Args:
        url: Address of the server's WebSocket, such as ``ws://127.0.0.1:8000/ws``.
        username: Name to ask for. The server may give another: see the attribute ``username``.
        topic: Topic to join.
        tuning: Options of the client; the defaults if None.
        token: The server's shared secret, for the join; white space around it does not count.
        events: Whether to iterate over ``Members`` and ``Renamed`` too.
        options: Passed to ``websockets.asyncio.client.connect``, such as ``additional_headers``. ``proxy`` is None by
            default if the server is on this machine, and the proxy of the environment otherwise.

    Attributes:
        username: Name that the server gave. It can change on a reconnect, if the name was taken meanwhile.
        users: Count of the members; without ``events``, at the last join.
        members: Their names, oldest member first. None if the server only counts them, and without ``events``.

    Raises (on entering ``async with``):
        Refused: If the server refuses the join.
        Disconnected: If the server closes the connection.
        OSError: If the server cannot be reached.
        asyncio.TimeoutError: If the handshake or the answer to the join takes too long.
        RuntimeError: If this chat was entered before: each ``async with`` needs a ``connect`` of its own.
        websockets.exceptions.WebSocketException: If the handshake fails.
    """

    def __init__(
        self,
        url: str,
        username: str,
        topic: str,
        tuning: Optional[Tuning] = None,
        *,
        token: Optional[str] = None,
        events: bool = False,
        **options: Any,
    ) -> None:
        self.username = username
        self.users = 0
        self._members: Optional[dict[str, None]] = None  # in order
        self._events = events
        self._tuning = tuning or Tuning()
        # The connection, and the task that reads it and replaces it.
        self._url, self._options = url, {**client_handshake.OPTIONS, **options}
        since = 0 if self._tuning.replay else UNSET
        self._join = wire.JoinFrame(username, topic, since, UNSET, "", True if events else UNSET)  # sent next
        secret = (token or "").strip() or UNSET
        self._token: Callable[[], Union[str, UnsetType]] = lambda: secret  # its repr does not show it
        self._was_in = False
        self._unanswered_joins = 0
        self._failures = 0  # in a row
        self._retry_after = 0.0  # seconds, as the server or a proxy asks
        self._socket: Optional[ClientConnection] = None  # None until it has joined
        self._staying: Optional[asyncio.Task[None]] = None
        self._left = False
        self._ended: Optional[Exception] = RuntimeError("not entered: use ``async with connect(…) as chat``")
        self._ended_at: Optional[TracebackType] = None
        # Requests, one at a time: an answer has no ref if it is an error, so only one request may wait for it.
        self._turn: asyncio.Lock  # created in ``__aenter__``: on Python 3.9 a lock belongs to the loop that runs then
        self._request: Optional[_Request] = None
        self._answer_due: Optional[Timer] = None  # of the request, on this connection
        # Messages.
        self._seen = 0  # highest id seen, own messages included
        self._unread: deque[Event] = deque()
        self._suspects: list[Message] = []  # unread messages that may be our own: the ack of the request will tell
        self._told: Optional[tuple[str, ...]] = None  # ``members`` of the last event of their kind that was read
        self._changed: asyncio.Event  # set at each change that a method may wait for

    @property
    def members(self) -> Optional[tuple[str, ...]]:
        return None if self._members is None else tuple(self._members)

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
            payload = msgspec.json.encode(wire.SendFrame(text, ref := secrets.token_hex(8))).decode()
        except UnicodeEncodeError as why:  # lone surrogates, as from a file name that is not UTF-8
            raise Refused(ErrorCode.INVALID_JSON, f"message has lone surrogates: remove them: {why}") from None
        if isinstance(decode_next(payload, self._tuning.longest), ListCommand):
            raise Refused(ErrorCode.UNKNOWN_COMMAND, "message is a command: call topics() for the list")
        ack: Ack = await self._ask(payload, text, ref)
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

    async def __anext__(self) -> Event:
        """Return the next event, in the order of the topic.

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
        event = self._unread.popleft()
        if isinstance(event, Members):
            former, self._told = self._told, event.members
            if former is not None and event.members is not None:
                left = _without(former, event.members)
                event = Members(event.users, event.members, _without(event.members, former), left)
        return event

    async def __aenter__(self) -> "Chat":
        if self._staying is not None:
            raise RuntimeError("entered before: call connect() again")
        self._turn, self._changed, self._ended = asyncio.Lock(), asyncio.Event(), None
        self._staying = asyncio.create_task(self._stay())
        try:
            while not self._was_in:
                await self._change()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._staying is not None
        self._left = True
        self._staying.cancel()
        try:
            await asyncio.wait({self._staying})
        finally:
            self._staying.cancel()  # if leaving is cancelled, the connection is cut

    async def _ask(self, payload: str, text: str = "", ref: str = "") -> Any:
        self._raise_if_ended()
        async with self._turn:
            while self._request is not None:  # of a call that was cancelled
                await self._change()
            self._raise_if_ended()
            self._request = request = _Request(payload, text, ref, asyncio.get_running_loop().create_future())
            self._changed.set()
            await self._write()
            answer = await asyncio.shield(request.answer)
            if isinstance(answer, Exception):
                raise answer
            return answer

    async def _write(self) -> None:
        """Write the request to the connection, if there is one. Each new connection writes it again.

        The connection is cut if the answer does not come in time, for a proxy may answer the pings of a server that is
        gone.
        """
        if self._request is not None and self._socket is not None:
            seconds, cut = self._options["ping_timeout"], self._socket.transport.abort
            self._answer_due = None if seconds is None else self._tuning.clock.call_later(seconds, cut)
            with suppress(ConnectionClosed):
                await self._socket.send(self._request.payload)

    def _expect_no_answer(self) -> None:
        if self._answer_due is not None:
            self._answer_due.cancel()
            self._answer_due = None

    @contextmanager
    def _bound(self, socket: ClientConnection, option: str, missing: str) -> Iterator[None]:
        """Cut the connection if the block takes longer than an option of ``websockets`` says, in seconds.

        Raises asyncio.TimeoutError, which names what is missing, if the block fails because of that.
        """
        seconds, late = self._options[option], False

        def cut() -> None:
            nonlocal late
            late = True
            socket.transport.abort()

        timer = None if seconds is None else self._tuning.clock.call_later(seconds, cut)
        try:
            yield
        except ConnectionClosed:
            if late:
                raise asyncio.TimeoutError(f"no {missing} within {seconds} seconds") from None
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _settle(self, answer: Union[Ack, Topics, Exception]) -> None:
        self._expect_no_answer()
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
                await self._tuning.clock.sleep(self._retry_after + self._tuning.random() * limit)
        except Exception as final:
            ended = final
        finally:
            self._ended, self._ended_at = ended, ended.__traceback__
            self._settle(ended)

    def _raise_if_final(self, lost: Exception) -> None:
        if self._left:  # a cancellation at the moment of a timeout ends as the timeout
            raise Disconnected(LEFT, "left")
        if isinstance(lost, Disconnected):
            final = lost.code in FINAL
            if lost.code == CloseCode.RESUMED_ELSEWHERE and self._unanswered_joins:
                self._unanswered_joins -= 1  # "elsewhere" may be our own earlier connection, whose join came late
                final = False
        elif isinstance(lost, Refused):
            final = lost.code is not ErrorCode.SERVER_FULL
        else:
            final = client_handshake.is_final(lost)
        if final or not self._was_in:
            raise lost

    async def _converse(self) -> Exception:
        """Connect, join and take frames until the connection ends; return the reason as an exception."""
        self._retry_after = 0.0
        try:
            socket = await client_handshake.shake_hands(self._url, self._options)
            began = self._tuning.clock.monotonic()
            try:
                self._welcome(await self._ask_to_join(socket))
                self._socket = socket
                await self._write()
                while True:
                    data = await socket.recv()
                    try:
                        frame = _decode_next(data)
                    except _UNDECODABLE:
                        _pass_newer(data)
                    else:
                        await self._take(frame)
            finally:
                self._socket = None
                self._expect_no_answer()
                if self._tuning.clock.monotonic() - began >= self._tuning.backoff[1]:
                    self._failures = 0
                try:
                    with self._bound(socket, "close_timeout", "close"):  # ``close`` itself does not bound its writing
                        await socket.close()  # with 1000; ``async with`` would close with 1011 on a cancellation
                finally:
                    socket.transport.abort()
        except ConnectionClosed as closed:
            return Disconnected(closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else Disconnected(LOST, "")
        except Exception as why:
            if (asked := client_handshake.retry_after(why, self._tuning.clock.wall())) > 0:
                self._retry_after = asked
            return why

    async def _ask_to_join(self, socket: ClientConnection) -> wire.Joined:
        """Send the join and return its answer. Raises Refused, or ConnectionError if another server answers."""
        self._unanswered_joins += 1
        with self._bound(socket, "open_timeout", "answer to the join"):
            with suppress(ConnectionClosed):  # frames sent before the close can still be read
                # In no variable, which a traceback might show: it holds the token.
                await socket.send(msgspec.json.encode(replace(self._join, token=self._token())).decode())
            answer = await socket.recv()
        try:
            joined: Union[wire.Joined, _Error] = _decode_first(answer)
        except _UNDECODABLE:
            raise ConnectionError("this is not a chat server: it answered the join with something else") from None
        self._unanswered_joins -= 1
        if isinstance(joined, _Error):
            raise joined.refused()
        if joined.epoch is UNSET:
            raise ConnectionError("this chat server does not know the window: its joined frame has no epoch")
        return joined

    def _welcome(self, joined: wire.Joined) -> None:
        if self._join.since is UNSET and joined.last_id is not UNSET:
            self._seen = joined.last_id
        if self._was_in and joined.username != self.username:
            self._tell(Renamed(self.username, joined.username))
        if joined.gap is not UNSET:
            if joined.gap.to is None:
                self._suspects.clear()  # of an earlier epoch: no ack can have these ids
            self._seen = joined.gap.to or 0
            self._unread.append(Gap(joined.gap.from_, joined.gap.to, joined.gap.reason))
        self._members = None if joined.members is UNSET else dict.fromkeys(joined.members)
        self._count(joined.users)
        self.username, self._was_in = joined.username, True
        self._join.epoch, self._join.resume, self._join.since = joined.epoch, joined.resume, self._seen
        self._changed.set()

    def _count(self, users: int) -> None:
        self.users = users
        self._tell(Members(users, self.members))

    async def _take(self, frame: _Frame) -> None:
        if isinstance(frame, Message):
            if frame.id > self._seen:
                await self._take_message(frame)
        elif isinstance(frame, _Error):
            self._settle(frame.refused())
        elif isinstance(frame, wire.Presence):
            self._take_presence(frame.users, frame.joined or [], frame.left or [])
        elif isinstance(frame, Renamed):
            self._take_name(frame)
        elif isinstance(frame, wire.Closing):
            self._retry_after = min(frame.retry_after_ms, client_handshake.RETRY_AFTER_MOST * 1000) / 1000
        elif not isinstance(frame, wire.Expired):
            self._take_answer(frame)
        self._join.since = self._seen

    def _take_answer(self, frame: Union[Ack, Topics]) -> None:
        ref = frame.ref if isinstance(frame, Ack) else ""
        if self._request is None or self._request.ref != ref:
            return  # nobody asked: it says nothing about what this client has seen
        if isinstance(frame, Ack):
            if frame.duplicate is UNSET:
                self._seen = frame.id  # the ack of our message takes the message's place
            for message in self._suspects:
                if message.id == frame.id:
                    self._unread.remove(message)
        self._settle(frame)

    def _take_presence(self, users: int, joined: list[str], left: list[str]) -> None:
        if not joined and not left:
            self._members = None  # too many to be named; the next join may name them again
        if self._members is not None:
            for name in left:
                self._members.pop(name, None)
            self._members.update(dict.fromkeys(joined))
        self._count(users)

    def _take_name(self, frame: Renamed) -> None:
        if frame.username == self.username:
            self.username = frame.renamed
            self._tell(frame)
        if self._members is not None and frame.username in self._members:
            names = [frame.renamed if name == frame.username else name for name in self._members]
            self._members = dict.fromkeys(names)
            self._count(self.users)

    def _tell(self, event: Union[Members, Renamed]) -> None:
        """Add an event to the unread ones. It is merged with the last of its kind if that is the last of all, or if too
        many are unread: so these events never add more than one of each kind over the limit."""
        if not self._events:
            return
        unread = self._unread
        places = range(len(unread)) if len(unread) >= self._tuning.most_unread else range(len(unread))[-1:]
        for place in reversed(places):
            earlier = unread[place]
            if isinstance(earlier, Members) and isinstance(event, Members):
                unread[place] = event
                break
            if isinstance(earlier, Renamed) and isinstance(event, Renamed):
                unread[place] = Renamed(earlier.username, event.renamed)
                break
        else:
            unread.append(event)
        self._changed.set()

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
