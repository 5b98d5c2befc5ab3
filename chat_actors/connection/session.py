"""One socket's conversation: read, decode, post; and the ``finally`` that leaves.

A session owns no state of the chat. It holds the supervisor's mailbox, after its join the topic's as well, and
posts events to them; everything it sends goes through its outbox.
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
    """The conversation with one peer, from its first frame to its leave."""

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
        self._inbox = inbox
        self._outbox = outbox
        self._supervisor = supervisor
        self._settings = settings
        self._counters = counters
        self._clock = clock
        self._caller = caller
        rate = settings.rate_limit
        self._bucket = TokenBucket(rate, settings.rate_burst, clock.monotonic()) if rate else None
        self._refused = 0  # frames in a row
        self._posted_join = False
        self._deadline: Timer  # of the join, then of its answer
        self._log = logger.bind(peer=peer)

    async def run(self) -> None:
        """Converse until the connection ends, whoever ends it. Leaves exactly once, if it ever asked to join."""
        outbox = self._outbox
        self._deadline = self._later(outbox.close, CloseCode.NO_JOIN)
        self._inbox.guard(self._keep_pace, self._refuse_big)
        try:
            topic = await self._join()
            if topic is not None:
                self._deadline.cancel()
                await self._chat(topic)
        except JoinFailed as failed:
            if failed.detail:
                self._refuse(Refused(ErrorCode.SERVER_FULL, failed.detail))
            outbox.close(failed.code)
        except asyncio.CancelledError:  # by the server: its time to end gracefully is over
            outbox.close(CloseCode.RESTARTING)
            raise
        except Exception as exception:
            self._crash(exception)
        finally:
            self._deadline.cancel()
            reason = outbox.reason or "closed by peer"
            if self._posted_join:
                self._supervisor.put_nowait(Leave(outbox, reason))
            else:
                self._log.bind(reason=reason).info("ended before it joined")
            await outbox.finish()

    async def _join(self) -> Optional[Mailbox[TopicEvent]]:
        """Read up to the first good join and wait for the topic's address; None where the connection ended."""
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
                    raise Refused(ErrorCode.NOT_JOINED, "this server has a token: join with it first")
                self._refused = 0
                self._supervisor.put_nowait(ListTopics(self._outbox))
            except Refused as refusal:
                if not self._go_on_after(refusal):
                    return None
            brake = self._brake(self._supervisor)
            if brake is not None:
                await brake
        self._refused = 0
        reply: asyncio.Future[Mailbox[TopicEvent]] = asyncio.get_running_loop().create_future()
        join = Join(frame.topic, frame.username, self._outbox, reply, frame.window)
        self._deadline.cancel()
        self._deadline = self._later(join.refuse, CloseCode.OVERLOADED, "nobody could answer the join in time")
        self._posted_join = True
        self._supervisor.put_nowait(join)
        return await reply

    def _later(self, call: Callable[..., None], *args: Any) -> Timer:
        return self._clock.call_later(self._settings.join_timeout, call, *args)

    async def _chat(self, topic: Mailbox[TopicEvent]) -> None:
        """Post what comes until the connection ends. While it waits, no name here keeps the last message alive."""
        receive = self._inbox.receive
        self._inbox.take_at_once(partial(self._take, topic))
        while self._post(topic, self._payload(await receive())):
            brake = self._brake(topic)
            if brake is not None:
                await brake

    def _take(self, topic: Mailbox[TopicEvent], text: str) -> bool:
        """The same for a message that the inbox has read itself; the connection's end comes by ``_chat`` alone."""
        try:
            brake = self._brake(topic)
            if brake is not None:
                self._inbox.hold(brake)
            return self._outbox.reason is None and self._post(topic, text)
        except Exception as exception:
            self._crash(exception)
            return False

    def _brake(self, actor: "Mailbox[Any]") -> Optional["asyncio.Future[None]"]:
        """What a sender waits for before its next frame is read: its own pace, or an actor that has much to do."""
        return self._keep_pace() or (actor.drained() if actor.crowded() else None)

    def _keep_pace(self) -> Optional["asyncio.Future[None]"]:
        """Count a frame; what to wait for before the next one where this peer is above its rate."""
        seconds = 0.0 if self._bucket is None else self._bucket.take(self._clock.monotonic())
        return asyncio.ensure_future(self._clock.sleep(seconds)) if seconds else None

    def _check_token(self, frame: JoinFrame) -> None:
        if not self._caller.may_join("" if frame.token is UNSET else frame.token):
            raise Refused(ErrorCode.INVALID_JOIN, "this server has a token, and the join frame must give it")

    def _post(self, topic: Mailbox[TopicEvent], data: Optional[Data]) -> bool:
        """Post what a member's frame asks for; False where the conversation is over."""
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
        """What a frame holds; None where the conversation is over, whichever side has ended it."""
        if self._outbox.reason is not None:
            return None
        data: Optional[Data] = event.get("text")
        if data is None:
            data = event.get("bytes")
            if data is None:  # a disconnect: its code is unreliable, so it is not looked at
                return None
        if is_bigger(data, self._settings.frame_bytes):
            self._refuse_big()
            return None
        return data

    def _go_on_after(self, refusal: Refused) -> bool:
        """Answer a frame that breaks the contract; False where it was one too many."""
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

    def _crash(self, exception: Exception) -> None:
        self._log.opt(exception=exception).error("session crashed")
        self._outbox.close(CloseCode.CRASHED)
