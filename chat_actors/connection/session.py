"""The session of one connection: decode each frame, post an event; at the end, post the leave.

A session has no task: its connection calls it, and it never waits. Where the peer must wait, for the answer to its
join or because it is too fast, the session holds the connection. It owns no state of the chat: it posts events to the
supervisor's mailbox and, after the join, to the topic's. Everything it sends goes through its connection.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Callable, Optional

from loguru import logger
from msgspec import UNSET

from chat_actors.actors.base import Mailbox
from chat_actors.actors.events import Join, JoinFailed, Leave, Send, TopicEvent
from chat_actors.actors.handover import Elsewhere, Luggage, Traveller
from chat_actors.actors.supervisor import ListTopics, SupervisorEvent
from chat_actors.clock import Clock, Timer
from chat_actors.connection.admission import Anonymous, Caller
from chat_actors.connection.base import Connection, Receiver
from chat_actors.connection.rate import TokenBucket
from chat_actors.counters import Counters
from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.protocol.decoding import Data, Refused, decode_first, decode_next, is_heartbeat
from chat_actors.protocol.frames import Error, JoinFrame, SendFrame, Window, finished
from chat_actors.settings import Settings

if TYPE_CHECKING:
    from loguru import Logger

FORGET_SECONDS = 10.0  # after which a refused frame does not count any more


class Session(Receiver, Traveller):
    """Session of one peer, from its first frame to its leave. Posts a leave at its end if it has posted a join."""

    __slots__ = (
        "_bucket",
        "_caller",
        "_clock",
        "_connection",
        "_counters",
        "_join",
        "_peer",
        "_refused",
        "_refused_at",
        "_settings",
        "_source",
        "_supervisor",
        "_timer",
        "_topic",
    )

    def __init__(
        self,
        connection: Connection,
        supervisor: Mailbox[SupervisorEvent],
        settings: Settings,
        counters: Counters,
        clock: Clock,
        caller: Caller,
        peer: str,
        source: Optional[str],
    ) -> None:
        """``peer``: for the log. ``source``: what the connection is counted under."""
        # Of the application.
        self._supervisor = supervisor
        self._settings = settings
        self._counters = counters
        self._clock = clock
        # Of the connection.
        self._connection = connection
        self._caller = caller
        self._peer = peer
        self._source = source
        # Of the session itself.
        rate = settings.rate_limit
        self._bucket = TokenBucket(rate, settings.rate_burst, clock.monotonic()) if rate else None
        self._timer: Optional[Timer] = None  # of a peer above its rate
        self._refused = 0.0  # refused frames in a row, less those that are forgotten
        self._refused_at = 0.0  # monotonic seconds of the last
        self._join: Optional[Join] = None  # posted to the supervisor
        self._topic: Optional[Mailbox[TopicEvent]] = None  # once the join is answered
        connection.receiver = self
        connection.set_deadline(settings.join_timeout)

    @property
    def _log(self) -> "Logger":
        return logger.bind(peer=self._peer)

    # Receiver

    def receive(self, data: Data) -> None:
        try:
            topic = self._topic
            if topic is not None:
                self._take_next(topic, data)
                self._brake(topic)
            elif self._take_first(data):
                self._brake(self._supervisor)
        except Exception as exception:
            self._log.opt(exception=exception).error("session failed")
            self._connection.close(CloseCode.CRASHED)

    def count_frame(self) -> None:
        self._throttle()

    def refuse_big(self) -> None:
        self._log.bind(code=CloseCode.FRAME_TOO_BIG.name.lower()).info("frame refused")
        self._connection.close(CloseCode.FRAME_TOO_BIG)

    def overdue(self) -> None:
        if self._join is None:
            self._connection.close(CloseCode.NO_JOIN)
        elif not self._join.accepted:
            self.refuse(CloseCode.OVERLOADED, "join not answered in time: try again later")

    def end(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._join is None:
            self._log.bind(reason=reason).info("connection closed before join")
        else:
            self._join.reply.cancel()  # nobody waits for it any more
            self._supervisor.put_nowait(Leave(self._connection, reason))

    # The join

    def _take_first(self, data: Data) -> bool:
        """Take a frame of a peer that has not joined; return False if it is a join, whose answer the peer awaits."""
        try:
            frame = decode_first(data)
            if type(frame) is JoinFrame:
                self._check_token(frame)
                self._ask_to_join(frame)
                return False
            if isinstance(self._caller, Anonymous):
                raise Refused(ErrorCode.UNAUTHORIZED, "token required: first join with `token` in the join frame")
        except Refused as refusal:
            self._answer(refusal, data)
        else:
            self._refused = 0
            self._supervisor.put_nowait(ListTopics(self._connection))
        return True

    def _check_token(self, frame: JoinFrame) -> None:
        token = frame.token or ""
        if not self._caller.may_join(token):
            wrong = "wrong token: correct `token` in the join frame"
            raise Refused(
                ErrorCode.UNAUTHORIZED, wrong if token.strip() else "token required: add `token` to the join frame"
            )

    def _ask_to_join(self, frame: JoinFrame) -> None:
        self._refused = 0
        self._connection.hold()
        self._post_join(frame.topic, frame.username, frame.window)

    def _post_join(self, topic: str, username: str, window: Optional[Window], arrived: bool = False) -> None:
        reply: asyncio.Future[Mailbox[TopicEvent]] = asyncio.get_running_loop().create_future()
        reply.add_done_callback(self._take_reply)
        self._join = Join(topic, username, self._connection, reply, window, arrived=arrived)
        self._connection.set_deadline(self._settings.join_timeout)
        self._supervisor.put_nowait(self._join)

    def _take_reply(self, reply: "asyncio.Future[Mailbox[TopicEvent]]") -> None:
        """Go on as a member, or close the connection if the join failed. No-op if the connection has ended."""
        failed = None if reply.cancelled() else reply.exception()
        if self._connection.receiver is not self:
            return
        if isinstance(failed, JoinFailed):
            self.refuse(failed.code, failed.detail)
        elif isinstance(failed, Elsewhere):
            self._connection.when_room(lambda: failed.road(self))
        else:
            self._topic = reply.result()
            self._connection.clear_deadline()
            self._connection.release()

    # Traveller

    def arrive(self, luggage: Luggage) -> None:
        """Go on with what another process has begun: the peer's join, and what it sent behind it."""
        if self._bucket is not None:
            self._bucket.tokens, self._bucket.at = luggage.tokens, luggage.counted_at
        self._connection.hold()
        self._post_join(luggage.topic, luggage.username, luggage.window, arrived=True)

    def pack(self) -> Optional[tuple[int, Luggage]]:
        join, bucket = self._join, self._bucket
        given = self._connection.give()
        if given is None or join is None:
            if self._connection.receiver is self:
                self._log.error("connection of another worker's topic, and not on the fast lane")
                self.refuse(CloseCode.OVERLOADED, "join not possible here: try again later")
            return None
        descriptor, unread = given
        tokens, at = (0.0, 0.0) if bucket is None else (bucket.tokens, bucket.at)
        source = self._source
        return descriptor, Luggage(join.topic, join.username, join.window, self._peer, source, tokens, at, unread)

    def arrived(self) -> Callable[[], None]:
        return self._connection.forget()

    def ask_again(self) -> None:
        self._connection.take_back()
        if self._connection.receiver is self and self._join is not None:
            self._post_join(self._join.topic, self._join.username, self._join.window)

    def refuse(self, code: CloseCode, detail: str = "") -> None:
        self._connection.take_back()
        if self._connection.receiver is self:
            if detail:
                self._refuse(Refused(ErrorCode.SERVER_FULL, detail))
            self._connection.close(code)

    # The member

    def _take_next(self, topic: Mailbox[TopicEvent], data: Data) -> None:
        """Decode one frame of the member, and post its event."""
        try:
            frame = decode_next(data, self._settings.message_chars)
        except Refused as refusal:
            self._answer(refusal, data)
            return
        self._refused = 0
        if type(frame) is SendFrame:
            topic.put_nowait(Send(self._connection, frame.message, frame.ref or UNSET))
        else:
            self._supervisor.put_nowait(ListTopics(self._connection))

    def _brake(self, actor: "Mailbox[Any]") -> None:
        """Count a frame; hold a peer above its rate, and any other while the mailbox is crowded."""
        if not self._throttle() and actor.crowded() and self._connection.receiver is self:
            self._connection.hold()
            actor.drained().add_done_callback(lambda _: self._connection.release())

    def _throttle(self) -> bool:
        """Count a frame; if the peer is above its rate, hold it until it is within it again, and return True."""
        seconds = 0.0 if self._bucket is None else self._bucket.take(self._clock.monotonic())
        if not seconds or self._connection.receiver is not self:  # the frame may have ended the session
            return False
        self._connection.hold()
        self._timer = self._clock.call_later(seconds, self._connection.release)
        return True

    # Refusals

    def _answer(self, refusal: Refused, data: Data) -> None:
        """Answer a refused frame with an error; close if too many were refused within a short time."""
        self._refuse(refusal)
        if is_heartbeat(data):
            return
        now = self._clock.monotonic()
        self._refused = max(0.0, self._refused - (now - self._refused_at) / FORGET_SECONDS) + 1
        self._refused_at = now
        if self._refused > self._settings.refused_frames - 1:
            self._connection.close(CloseCode.TOO_MANY_REFUSED)

    def _refuse(self, refusal: Refused) -> None:
        self._counters.refused[refusal.code.value] += 1
        self._log.bind(code=refusal.code.value).info("frame refused")
        self._connection.write(finished(Error(refusal.code, refusal.detail)))
