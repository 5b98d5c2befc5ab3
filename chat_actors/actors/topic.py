"""The actor of one topic: it orders messages, joins and leaves, and expires what is older than the window.

A turn takes the mail that waits, encodes each message once as a finished frame, and writes once to each member: under
load one system call carries a whole batch.
"""

import asyncio
import secrets
from abc import abstractmethod
from typing import Callable, Optional

from msgspec import UNSET
from msgspec.structs import replace

from chat_actors.actors.base import Actor
from chat_actors.actors.events import Departed, Expire, Join, Leave, Replaced, Restore, Send, Shutdown, TopicEvent
from chat_actors.actors.fanout import Audience, FanOut
from chat_actors.actors.outbox import Outbox
from chat_actors.clock import Clock
from chat_actors.counters import Counters, TopicStatistics
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import (
    Ack,
    Closing,
    Expired,
    Joined,
    Message,
    Presence,
    ReplayGap,
    Window,
    finished,
    replayed,
)
from chat_actors.room.history import History, Stored
from chat_actors.room.members import Member, Members
from chat_actors.settings import Settings

TURN_EVENTS = 256  # that one turn takes from the mailbox, at most, before other tasks run
EXPIRY_GRAIN = 0.1  # seconds between two expiries of one topic, at least


class TopicActor(Actor[TopicEvent]):
    """Base of the actors that a supervisor runs for a topic.

    ``stranded``: joins that came after the end of the topic; the supervisor forwards them to a new one.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.stranded: list[Join] = []
        super().__init__(clock, topic=name)

    @abstractmethod
    def statistics(self) -> TopicStatistics:
        """Return a snapshot of the topic; may be called at any time."""

    @abstractmethod
    def username(self, outbox: Outbox) -> Optional[str]:
        """Return the username of an outbox; None if it is not a member."""

    def crashed(self, event: TopicEvent, exception: Exception) -> None:
        super().crashed(event, exception)
        if type(event) is Join or type(event) is Restore:
            event.refuse(CloseCode.CRASHED)

    def undelivered(self, event: TopicEvent) -> None:
        if type(event) is Join:
            self.stranded.append(event)
        elif type(event) is Restore:
            event.refuse(CloseCode.CRASHED)


class Topic(TopicActor):
    """Actor that owns one topic: orders its messages, joins and leaves. Tells its supervisor of a replaced member."""

    def __init__(
        self, name: str, settings: Settings, clock: Clock, counters: Counters, tell: Callable[[Replaced], None]
    ) -> None:
        self._tell = tell
        self._counters = counters
        self._ttl = settings.message_ttl
        self._max_members = settings.topic_members
        self._max_named = settings.presence_members
        self._epoch = secrets.token_hex(4)  # of this lifetime of the topic
        self._members: Members[Outbox] = Members(settings.message_ttl)
        self._audience = Audience()
        self._history = History(settings.history_messages, settings.history_bytes)
        self._expiry: Optional[asyncio.Task[None]] = None
        # State of the current turn.
        self._fan_out = FanOut()
        self._counted_id = 0  # messages up to this id are in the counters
        self._now = 0.0
        self._timestamp = 0
        super().__init__(name, clock)

    async def turn(self, event: TopicEvent) -> None:
        """Handle the mail that waits, then fan out. Joins, leaves and expiries keep their order among the messages."""
        if not self.mailbox.empty():  # busy: let the other readable sockets post their messages first
            await asyncio.sleep(0)
        self._now = self._clock.monotonic()
        self._timestamp = int(self._clock.wall())
        taken = 1
        following: Optional[TopicEvent] = event
        while following is not None:
            if type(following) is not Send:
                await self._write()
            self.attempt(following)
            if not self.running or taken == TURN_EVENTS or self._fan_out.full() or self.mailbox.empty():
                break
            if type(following) is Join:  # its replay may be long
                break
            following = self.mailbox.get_nowait()
            taken += 1
        else:
            self.running = False
        self._counters.turns.add(taken)
        await self._write()
        self._await_expiry()

    def handle(self, event: TopicEvent) -> None:
        if type(event) is Send:
            self._send(event)
        elif type(event) is Join:
            self._join(event)
        elif type(event) is Leave:
            self._leave(event)
        elif type(event) is Restore:
            self._restore(event)
        elif type(event) is Expire:
            self._expire()
        elif type(event) is Shutdown:
            self._shut_down(event)
        else:
            raise TypeError(f"not an event of a topic: {type(event)}")

    def _send(self, event: Send) -> None:
        outbox, ref = event.outbox, event.ref
        member = self._members.present.get(outbox)
        if member is None:  # it has left, or another connection has resumed it
            return
        refs = None if ref is UNSET else member.refs
        if refs is not None and ref in refs:
            self._fan_out.message(b"", outbox, finished(replace(refs[ref], duplicate=True)))
            self._counters.duplicates += 1
            return
        message_id = self._history.last_id + 1
        message = Message(message_id, member.username, event.message, self._timestamp)
        ack = Ack(id=message_id, ref=ref, timestamp=self._timestamp, recipients=len(self._members.present) - 1)
        frame, acknowledgment = finished(message), finished(ack)
        # Nothing below can fail: either all of the state has the message, or none.
        stored = Stored(message_id, frame, self._now + self._ttl)
        if refs is not None and ref is not UNSET:
            stored.refs, stored.ref = refs, ref
            refs[ref] = ack
        self._history.add(stored)
        self._fan_out.message(frame, outbox, acknowledgment)

    def _join(self, event: Join) -> None:
        outbox, window = event.outbox, event.window
        if 0 < self._max_members <= len(self._members.present) and not self._members.would_replace(window):
            event.refuse(CloseCode.OVERLOADED, f"topic full ({self._max_members} members): join another topic")
            return
        member, replaced = self._members.join(outbox, event.username, window, self._now)
        if replaced is not None:
            self._audience.remove(replaced)
        self._audience.add(outbox, member)
        users = len(self._members.present)
        ttl = int(self._ttl) if self._ttl == int(self._ttl) else self._ttl
        joined = Joined(member.username, self.name, users, ttl)
        replay = b"" if window is None else self._open_window(window, member, joined)
        if replaced is not None:  # posted before the reply: a /list of the new connection counts the member once
            self._tell(Replaced(replaced))
            replaced.close(CloseCode.RESUMED_ELSEWHERE)
        elif self._members.watchers:
            self._fan_out.notice(self._presence(users, joined=[member.username]), outbox)
        outbox.write(finished(joined))
        if replay:
            outbox.write_answer(replay)
        if not event.reply.done():  # the session may be gone; its leave is on its way
            event.reply.set_result(self.mailbox)
        outcome = "member joined" if replaced is None else "member resumed"
        self._log.bind(username=member.username, users=users).info(outcome)

    def _presence(self, users: int, **names: list[str]) -> bytes:
        """Return the notice of a join or a leave."""
        return finished(Presence(users=users, **names) if users <= self._max_named else Presence(users=users))

    def _open_window(self, window: Window, member: Member, joined: Joined) -> bytes:
        """Add the keys of the window to ``joined``, and return the frames to replay."""
        joined.epoch, joined.last_id, joined.resume = self._epoch, self._history.last_id, member.token
        if window.events and joined.users <= self._max_named:
            joined.members = self._members.names()
        since = window.since
        if since is UNSET:
            return b""
        if window.epoch not in (UNSET, self._epoch):
            joined.gap, since = ReplayGap(since + 1, None, "restarted"), 0
        elif window.epoch is not UNSET:
            joined.gap = self._history.gap(since) or UNSET
        return b"".join(replayed(message.frame) for message in self._history.after(since))

    def _leave(self, event: Leave) -> None:
        member = self._members.leave(event.outbox, self._now)
        if member is None:
            return
        self._audience.remove(event.outbox)
        users = len(self._members.present)
        if self._members.watchers:
            self._fan_out.notice(self._presence(users, left=[member.username]))
        self._log.bind(username=member.username, users=users, reason=event.reason).info("member left")

    def _restore(self, event: Restore) -> None:
        self._epoch = event.epoch or self._epoch
        self._history.restore(event.messages, event.last_id)
        self._counted_id = self._history.last_id
        for gone in event.departed:
            self._members.restore_departed(gone.username, gone.token, gone.refs, gone.until)
        renamed: dict[Outbox, str] = {}
        for known in event.members:
            if self._members.is_connected(known.token):  # it has resumed by another connection
                self._tell(Replaced(known.outbox))
                known.outbox.close(CloseCode.RESUMED_ELSEWHERE)
                continue
            member = self._members.restore(known.outbox, known.username, known.token, known.events, known.refs)
            self._audience.add(known.outbox, member)
            if member.username != known.username:
                renamed[known.outbox] = member.username
        event.done(self._members.names(), renamed)
        users = len(self._members.present)
        self._log.bind(members=len(event.members), users=users, renamed=len(renamed)).info("members restored")

    async def _write(self) -> None:
        """Write the frames of this turn so far, and count its messages."""
        if not self._fan_out:
            return
        counters = self._counters
        counters.evicted += self._note_deleted(self._history.evict())
        fan_out, self._fan_out = self._fan_out, FanOut()
        accepted, self._counted_id = self._history.last_id - self._counted_id, self._history.last_id
        counters.accepted += accepted
        counters.delivered += accepted * (len(self._members.present) - 1)
        began = self._clock.monotonic()
        await fan_out.write(self._audience.direct, self._audience.carrier)
        counters.fan_outs.add(self._clock.monotonic() - began)

    def _shut_down(self, event: Shutdown) -> None:
        for place, (outbox, member) in enumerate(self._members.present.items()):
            if member.events:
                outbox.write(finished(Closing(event.first + place * event.step)))
        self._dismiss(event.code)

    def _dismiss(self, code: CloseCode) -> None:
        """Close every member with ``code``, and remove it."""
        for outbox in list(self._members.present):
            outbox.close(code)
            self._leave(Leave(outbox, code.name.lower()))

    def _expire(self) -> None:
        self._expiry = None
        self._counters.expired += self._note_deleted(self._history.expire(self._now))
        self._members.expire(self._now)

    def _note_deleted(self, count: int) -> int:
        """Notify the members with ``events`` if messages were deleted; return their count unchanged."""
        if count and self._members.watchers:
            self._fan_out.notice(finished(Expired(self._history.deleted_through)))
        return count

    def _await_expiry(self) -> None:
        """Schedule an Expire at the next deadline, unless one is scheduled."""
        if self._expiry is None:
            deadlines = self._history.oldest_deadline, self._members.oldest_deadline
            oldest = min((deadline for deadline in deadlines if deadline is not None), default=None)
            if oldest is not None:
                self._expiry = asyncio.create_task(self._expire_at(oldest))

    async def _expire_at(self, deadline: float) -> None:
        await self._clock.sleep(max(deadline - self._clock.monotonic(), EXPIRY_GRAIN))
        self.post(Expire())

    def statistics(self) -> TopicStatistics:
        mail = self.mailbox.qsize()  # its oldest event is about as old as the current turn
        age = max(0.0, self._clock.monotonic() - self._now) if mail else 0.0
        return TopicStatistics(self.name, len(self._members.present), len(self._history), mail, age)

    def username(self, outbox: Outbox) -> Optional[str]:
        member = self._members.present.get(outbox)
        return None if member is None else member.username

    def legacy(self) -> tuple[str, list[Departed]]:
        """Return what a later epoch needs to continue this one: the epoch, and the members that may resume."""
        until = self._clock.monotonic() + self._ttl
        here = [(until, member) for member in self._members.present.values() if member.token]
        known = [*self._members.departed(), *here]
        return self._epoch, [Departed(one.username, one.token, until, one.refs or {}) for until, one in known]

    async def ended(self) -> None:
        self._dismiss(CloseCode.CRASHED)  # no member is left, unless too many failures stopped the actor
        self._members.clear()
        self._audience.clear()
        self._history.clear()
        if self._expiry is not None:
            self._expiry.cancel()
            await asyncio.wait({self._expiry})
