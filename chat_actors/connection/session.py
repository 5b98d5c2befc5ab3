"""The session of one connection: read a frame, decode it, post an event; at the end, post the leave.

A session owns no state of the chat. It posts events to the supervisor's mailbox and, after the join, to the topic's.
Everything it sends goes through its outbox.
"""

import asyncio
from functools import partial
from typing import Any, Callable, Optional

from loguru import logger
from msgspec import UNSET

from chat_actors.actors.base import Mailbox
from chat_actors.actors.events import Join, JoinFailed, Leave, Send, TopicEvent
from chat_actors.actors.supervisor import ListTopics, SupervisorEvent
from chat_actors.clock import Clock, Timer
from chat_actors.connection.admission import Anonymous, Caller
from chat_actors.connection.asgi import AsgiEvent
from chat_actors.connection.inbox import Inbox
from chat_actors.connection.outbox import ConnectionOutbox
from chat_actors.connection.rate import TokenBucket
from chat_actors.counters import Counters
from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.protocol.decoding import Data, Refused, decode_first, decode_next, is_bigger
from chat_actors.protocol.frames import Error, JoinFrame, SendFrame, finished
from chat_actors.settings import Settings


class Session:
    """Session of one peer, from its first frame to its leave."""

    def __init__(
        self,
        inbox: Inbox,
        outbox: ConnectionOutbox,
        supervisor: Mailbox[SupervisorEvent],
        settings: Settings,
        counters: Counters,
        clock: Clock,
        caller: Caller,
        peer: str,
    ) -> None:
        # Of the application.
        self._supervisor = supervisor
        self._settings = settings
        self._counters = counters
        self._clock = clock
        # Of the connection.
        self._inbox = inbox
        self._outbox = outbox
        self._caller = caller
        self._log = logger.bind(peer=peer)
        # Of the session itself.
        rate = settings.rate_limit
        self._bucket = TokenBucket(rate, settings.rate_burst, clock.monotonic()) if rate else None
        self._refused = 0  # refused frames in a row
        self._posted_join = False
        self._deadline: Timer  # of the join frame, then of the supervisor's reply

    async def run(self) -> None:
        """Serve the connection until either side ends it. Posts exactly one leave if it has posted a join.

        If cancelled, closes the connection with 1012, posts the leave and raises CancelledError.
        """
        outbox = self._outbox
        self._deadline = self._later(outbox.close, CloseCode.NO_JOIN)
        self._inbox.guard(self._throttle, self._refuse_big)
        try:
            topic = await self._join()
            if topic is not None:
                self._deadline.cancel()
                await self._chat(topic)
        except JoinFailed as failed:
            if failed.detail:
                self._refuse(Refused(ErrorCode.SERVER_FULL, failed.detail))
            outbox.close(failed.code)
        except asyncio.CancelledError:  # by the server, when its time for a graceful end is over
            outbox.close(CloseCode.RESTARTING)
            raise
        except Exception as exception:
            self._fail(exception)
        finally:
            self._deadline.cancel()
            reason = outbox.reason or "closed by peer"
            if self._posted_join:
                self._supervisor.put_nowait(Leave(outbox, reason))
            else:
                self._log.bind(reason=reason).info("connection closed before join")
            await outbox.finish()

    async def _join(self) -> Optional[Mailbox[TopicEvent]]:
        """Read frames up to the first valid join; return the topic's mailbox, or None if the connection ended first.

        Raises JoinFailed if the supervisor or the topic refuses the join, or does not reply within the join timeout.
        """
        while True:
            data = self._payload(await self._inbox.receive())
            if data is None:
                return None
            try:
                frame = decode_first(data)
                if type(frame) is JoinFrame:
                    self._check_token(frame)
                    break
                if isinstance(self._caller, Anonymous):
                    raise Refused(ErrorCode.NOT_JOINED, "token required: first join with `token` in the join frame")
                self._refused = 0
                self._supervisor.put_nowait(ListTopics(self._outbox))
            except Refused as refusal:
                if not self._go_on_after(refusal):
                    return None
            until = self._backpressure(self._supervisor)
            if until is not None:
                await until
        self._refused = 0
        reply: asyncio.Future[Mailbox[TopicEvent]] = asyncio.get_running_loop().create_future()
        join = Join(frame.topic, frame.username, self._outbox, reply, frame.window)
        self._deadline.cancel()
        self._deadline = self._later(join.refuse, CloseCode.OVERLOADED, "join not answered in time: try again later")
        self._posted_join = True
        self._supervisor.put_nowait(join)
        return await reply

    def _later(self, call: Callable[..., None], *args: Any) -> Timer:
        return self._clock.call_later(self._settings.join_timeout, call, *args)

    async def _chat(self, topic: Mailbox[TopicEvent]) -> None:
        """Post the member's frames to the topic until the connection ends.

        No local variable holds a message while this waits: an expired message must leave the memory.
        """
        receive = self._inbox.receive
        self._inbox.deliver_to(partial(self._take, topic))
        while self._post(topic, self._payload(await receive())):
            until = self._backpressure(topic)
            if until is not None:
                await until

    def _take(self, topic: Mailbox[TopicEvent], text: str) -> bool:
        """Post a message that the fast lane delivers; return False to stop delivery.

        The end of the connection does not come here: ``_chat`` receives it as an event.
        """
        try:
            until = self._backpressure(topic)
            if until is not None:
                self._inbox.hold(until)
            return self._outbox.reason is None and self._post(topic, text)
        except Exception as exception:
            self._fail(exception)
            return False

    def _backpressure(self, actor: "Mailbox[Any]") -> Optional["asyncio.Future[None]"]:
        """Return the future to wait for before the next frame is read; None if there is none.

        A peer above its rate waits until it is within the rate again; otherwise it waits while the mailbox is crowded.
        """
        return self._throttle() or (actor.drained() if actor.crowded() else None)

    def _throttle(self) -> Optional["asyncio.Future[None]"]:
        """Count one frame; return the future to wait for if this peer is above its rate."""
        seconds = 0.0 if self._bucket is None else self._bucket.take(self._clock.monotonic())
        return asyncio.ensure_future(self._clock.sleep(seconds)) if seconds else None

    def _check_token(self, frame: JoinFrame) -> None:
        token = "" if frame.token is UNSET else frame.token
        if not self._caller.may_join(token):
            wrong = "wrong token: correct `token` in the join frame"
            raise Refused(ErrorCode.INVALID_JOIN, wrong if token else "token required: add `token` to the join frame")

    def _post(self, topic: Mailbox[TopicEvent], data: Optional[Data]) -> bool:
        """Decode one frame of the member and post its event; return False if the session is over."""
        if data is None:
            return False
        try:
            frame = decode_next(data, self._settings.message_chars)
        except Refused as refusal:
            return self._go_on_after(refusal)
        self._refused = 0
        if type(frame) is SendFrame:
            topic.put_nowait(Send(self._outbox, frame.message, frame.ref))
        else:
            self._supervisor.put_nowait(ListTopics(self._outbox))
        return True

    def _payload(self, event: AsgiEvent) -> Optional[Data]:
        """Return the payload of a frame; None if the session is over, by either side."""
        if self._outbox.reason is not None:
            return None
        data: Optional[Data] = event.get("text")
        if data is None:
            data = event.get("bytes")
            if data is None:  # websocket.disconnect; its code is unreliable, so it is ignored
                return None
        if is_bigger(data, self._settings.frame_bytes):
            self._refuse_big()
            return None
        return data

    def _go_on_after(self, refusal: Refused) -> bool:
        """Answer a refused frame with an error; close and return False if too many were refused in a row."""
        self._refuse(refusal)
        self._refused += 1
        if self._refused < self._settings.refused_frames:
            return True
        self._outbox.close(CloseCode.TOO_MANY_REFUSED)
        return False

    def _refuse(self, refusal: Refused) -> None:
        self._counters.refused[refusal.code.value] += 1
        self._log.bind(code=refusal.code.value).info("frame refused")
        self._outbox.write(finished(Error(refusal.code, refusal.detail)))

    def _refuse_big(self) -> None:
        self._log.bind(code=CloseCode.FRAME_TOO_BIG.name.lower()).info("frame refused")
        self._outbox.close(CloseCode.FRAME_TOO_BIG)

    def _fail(self, exception: Exception) -> None:
        self._log.opt(exception=exception).error("session failed")
        self._outbox.close(CloseCode.CRASHED)
