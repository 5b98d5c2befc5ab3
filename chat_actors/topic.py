"""One topic: its members, their names, its messages, their order and their end.

What lives here is touched by this actor alone. A turn takes all the mail that waits, makes each message into a
finished frame once, and writes once to each member: under load one system call carries a whole batch.
"""

import asyncio
from collections import deque
from typing import Optional, Union

from msgspec import UNSET, Struct, UnsetType

from chat_actors.actor import Actor, Mailbox
from chat_actors.clock import Clock
from chat_actors.names import nickname_key
from chat_actors.outbox import Outbox
from chat_actors.protocol import Ack, CloseCode, Joined, Message, finished

TURN_MESSAGES = 256  # of one fan-out, at most; what is left waits for the next turn
TURN_BYTES = 256 * 1024
STRIDE_MEMBERS = 128  # written to, or
STRIDE_BYTES = 256 * 1024  # written, before other tasks get their turn
EXPIRY_GRAIN = 0.1  # seconds: a topic expires what it has to at most this often


# What the actor receives.


class Join(Struct, eq=False):
    """Become a member. ``reply`` is set to the topic's mailbox once ``joined`` is on its way."""

    topic: str
    username: str
    outbox: Outbox
    reply: "asyncio.Future[Mailbox[TopicEvent]]"


class Leave(Struct, eq=False):
    """Be a member no more. Of an outbox that is not a member: nothing."""

    outbox: Outbox
    reason: str


class Send(Struct, eq=False, gc=False):
    """Give the topic a message."""

    outbox: Outbox
    message: str
    ref: Union[str, UnsetType] = UNSET


class Expire(Struct):
    """The oldest message has reached its end."""


TopicEvent = Union[Join, Leave, Send, Expire]


class JoinFailed(Exception):
    """What ``Join.reply`` raises where nobody became a member: the connection is to be closed with ``code``."""

    def __init__(self, code: CloseCode) -> None:
        super().__init__(code)
        self.code = code


class Limits(Struct, frozen=True):
    """How long (seconds) and how much a topic remembers."""

    message_ttl: float = 30.0
    history_messages: int = 10_000
    history_bytes: int = 8 * 1024 * 1024


class Member(Struct, eq=False):
    """``key`` is what the username is compared by."""

    username: str
    key: str


class Topic(Actor[TopicEvent]):
    """The actor. ``stranded``: joins that came behind its end, for the supervisor to place elsewhere."""

    def __init__(self, name: str, limits: Limits, clock: Clock) -> None:
        # Members, in the order in which they joined.
        self._members: dict[Outbox, Member] = {}
        self._keys: set[str] = set()
        # Messages, oldest first: (monotonic deadline, message, bytes of its frame).
        self._history: deque[tuple[float, Message, int]] = deque()
        self._history_bytes = 0
        self._last_id = 0
        self._expiry: Optional[asyncio.Task[None]] = None
        # The fan-out of this turn: the frames in order; for each sender its acks and where they stand.
        self._frames: list[bytes] = []
        self._frames_bytes = 0
        self._acks: dict[Outbox, list[tuple[int, bytes]]] = {}
        self._deadline = 0.0
        self._timestamp = 0

        self.name = name
        self.stranded: list[Join] = []
        self._limits = limits
        super().__init__(clock, topic=name)

    async def turn(self, event: TopicEvent) -> None:
        """Drain, then fan out. Joins, leaves and expiries take effect where they stand among the messages."""
        await asyncio.sleep(0)  # the other sockets that are readable now post theirs first
        self._deadline = self._clock.monotonic() + self._limits.message_ttl
        self._timestamp = int(self._clock.wall())
        following: Optional[TopicEvent] = event
        while following is not None:
            if type(following) is not Send:
                await self._fan_out()
            self.attempt(following)
            if (
                not self.running
                or len(self._frames) >= TURN_MESSAGES
                or self._frames_bytes >= TURN_BYTES
                or self.mailbox.empty()
            ):
                break
            following = self.mailbox.get_nowait()
        else:
            self.running = False
        await self._fan_out()

    def handle(self, event: TopicEvent) -> None:
        if type(event) is Send:
            self._send(event)
        elif type(event) is Join:
            self._join(event)
        elif type(event) is Leave:
            self._leave(event)
        else:
            self._expire()

    def _send(self, event: Send) -> None:
        outbox = event.outbox
        member = self._members.get(outbox)
        if member is None:  # posted behind its own leave, or after this actor gave it up
            return
        message = Message(self._last_id + 1, member.username, event.message, self._timestamp)
        frame = finished(message)
        ack = Ack(id=message.id, ref=event.ref, timestamp=self._timestamp, recipients=len(self._members) - 1)
        place = len(self._frames), finished(ack)
        # From here on nothing fails: the message is in the topic's order or it is not.
        self._last_id += 1
        self._frames.append(frame)
        self._frames_bytes += len(frame)
        own = self._acks.get(outbox)
        if own is None:
            self._acks[outbox] = [place]
        else:
            own.append(place)
        self._history.append((self._deadline, message, len(frame)))
        self._history_bytes += len(frame)

    async def _fan_out(self) -> None:
        """Write what this turn has so far to every member, once; senders get their acks in the frames' places."""
        frames, acks = self._frames, self._acks
        if not frames:
            return
        self._frames, self._acks, self._frames_bytes = [], {}, 0
        self._bound_history()
        joined_up = frames[0] if len(frames) == 1 else b"".join(frames)
        stride = max(1, min(STRIDE_MEMBERS, STRIDE_BYTES // len(joined_up)))
        for count, outbox in enumerate(self._members, 1):
            if outbox in acks:
                outbox.write(_with_acks(frames, acks[outbox]))
            else:
                outbox.write(joined_up)
            if not count % stride:
                await asyncio.sleep(0)  # safe: only this actor changes its members

    def _join(self, event: Join) -> None:
        key = nickname_key(event.username)
        username, free = event.username, key
        number = 1
        while free in self._keys:
            number += 1
            username, free = f"{event.username}#{number}", f"{key}#{number}"
        self._members[event.outbox] = Member(username, free)
        self._keys.add(free)
        ttl = self._limits.message_ttl
        users = len(self._members)
        event.outbox.write(finished(Joined(username, self.name, users, int(ttl) if ttl == int(ttl) else ttl)))
        if not event.reply.done():  # the session may be gone; its leave is on its way
            event.reply.set_result(self.mailbox)
        self._log.bind(username=username, users=users).info("joined")

    def _leave(self, event: Leave) -> None:
        member = self._members.pop(event.outbox, None)
        if member is not None:
            self._keys.discard(member.key)
            self._log.bind(username=member.username, users=len(self._members), reason=event.reason).info("left")

    def _bound_history(self) -> None:
        history, limits = self._history, self._limits
        while len(history) > limits.history_messages or self._history_bytes > limits.history_bytes:
            self._history_bytes -= history.popleft()[2]
        if history and self._expiry is None:
            self._expiry = asyncio.create_task(self._expire_at(history[0][0]))

    async def _expire_at(self, deadline: float) -> None:
        await self._clock.sleep(max(deadline - self._clock.monotonic(), EXPIRY_GRAIN))
        self.post(Expire())

    def _expire(self) -> None:
        """Forget what has reached its end, and wait for the next oldest, while there is one."""
        self._expiry = None
        history, now = self._history, self._clock.monotonic()
        while history and history[0][0] <= now:
            self._history_bytes -= history.popleft()[2]
        self._bound_history()

    def crashed(self, event: TopicEvent, exception: Exception) -> None:
        super().crashed(event, exception)
        if type(event) is Join and not event.reply.done():
            event.reply.set_exception(JoinFailed(CloseCode.CRASHED))

    def undelivered(self, event: TopicEvent) -> None:
        if type(event) is Join:
            self.stranded.append(event)

    async def ended(self) -> None:
        for outbox in self._members:  # none is left, unless the actor gave up
            outbox.close(CloseCode.CRASHED)
        self._members.clear()
        self._history.clear()
        if self._expiry is not None:
            self._expiry.cancel()
            await asyncio.wait({self._expiry})


def _with_acks(frames: list[bytes], acks: list[tuple[int, bytes]]) -> bytes:
    """The frames, with the sender's acks in the places of its own messages."""
    parts: list[bytes] = []
    start = 0
    for place, ack in acks:
        parts += frames[start:place]
        parts.append(ack)
        start = place + 1
    parts += frames[start:]
    return b"".join(parts)
