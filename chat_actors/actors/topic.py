"""The actor of one topic: it orders messages, joins and leaves, and expires what is older than the window.

A turn takes the mail that waits, encodes each message once as a finished frame, and writes once to each member: under
load one system call carries a whole batch. Who comes and goes in a turn is told at its end, once for all of them. A
newcomer begins as a follower: it is told from the history what it is due, as it reads it, and then hears what all hear.
"""

import asyncio
import math
import secrets
from abc import abstractmethod
from functools import partial
from typing import Callable, Optional, Union

from msgspec import UNSET
from msgspec.structs import replace

from chat_actors.actors.base import Actor
from chat_actors.actors.events import Departed, Expire, Join, Leave, More, Replaced, Restore, Send, Shutdown, TopicEvent
from chat_actors.actors.fanout import STRIDE_BYTES, Audience, FanOut
from chat_actors.actors.followers import Follower, Replay
from chat_actors.actors.outbox import Outbox
from chat_actors.clock import Clock, Timer
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
    encoded_names,
    finished,
    finished_joined,
)
from chat_actors.room.history import History, Stored
from chat_actors.room.members import Member, Members
from chat_actors.settings import Settings

EXPIRY_GRAIN = 0.1  # seconds between two expiries of one topic, at least
STRIDE_CLOSES = 64  # members that are closed before other tasks run
COUNT_SECONDS = 1.0  # between two notices that only count the members, at least: each goes to very many
MARGIN_SECONDS = 1.0  # that a message must have left to be told to a newcomer, or a tenth of a shorter window
REPLAY_BYTES = 256 * 1024  # that one follower is told in one turn, at most


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

    def crashed(self, event: object, exception: Exception) -> None:
        super().crashed(event, exception)
        if type(event) is Join or type(event) is Restore:
            event.refuse(CloseCode.CRASHED)

    def undelivered(self, event: TopicEvent) -> None:
        if type(event) is Join:
            self.stranded.append(event)
        elif type(event) is Restore:
            event.refuse(CloseCode.CRASHED)


class Topic(TopicActor):
    """Actor that owns one topic: orders its messages, joins and leaves. Tells its supervisor of a replaced member.

    ``_members`` says who is a member. Each of them is in the audience, or a follower, or written to by the carrier.
    """

    def __init__(
        self, name: str, settings: Settings, clock: Clock, counters: Counters, tell: Callable[[Replaced], None]
    ) -> None:
        self._tell_supervisor = tell
        self._counters = counters
        self._ttl = settings.message_ttl
        self._margin = min(MARGIN_SECONDS, settings.message_ttl / 10)
        self._max_members = settings.topic_members
        self._max_named = settings.presence_members
        self._epoch = secrets.token_hex(4)  # of this lifetime of the topic
        self._members: Members[Outbox] = Members(settings.message_ttl)
        self._audience = Audience()
        self._followers: dict[Outbox, Follower] = {}
        self._history = History(settings.history_messages, settings.history_bytes)
        self._expiry: Optional[asyncio.Task[None]] = None
        self._count_after = -math.inf  # monotonic seconds until which no count of the members is told
        self._count_due = False  # one was put off until then; it is told even if the count is what it was before
        self._count_timer: Optional[Timer] = None  # for that
        # State of the current turn.
        self._fan_out = FanOut()
        self._ready: dict[Outbox, Follower] = {}  # followers to be told more: the newcomers, and those with room
        self._came: dict[str, None] = {}  # usernames; a dict for its order
        self._went: dict[str, None] = {}
        self._parting: dict[Outbox, tuple[Member, int]] = {}  # who went, after so many frames of this turn
        self._replaced: list[Outbox] = []  # of those, to be closed
        self._last: Union[Restore, Shutdown, None] = None  # to be handled when all else of the turn is told
        self._counted_id = 0  # messages up to this id are in the counters
        self._now = clock.monotonic()
        self._timestamp = 0
        super().__init__(name, clock)

    async def turn(self, event: TopicEvent) -> None:
        """Handle the mail that waits, in its order, then tell the members."""
        if not self.mailbox.empty():  # busy: let the other readable sockets post their messages first
            await asyncio.sleep(0)
        self._now = self._clock.monotonic()
        self._timestamp = int(self._clock.wall())
        self._counters.turns.add(self.drain(event, self._now))
        await self._tell()
        if self._last is not None:
            last, self._last = self._last, None
            try:
                if isinstance(last, Restore):
                    self._restore(last)
                else:
                    await self._dismiss(last.code, last.first, last.step)
            except Exception as exception:
                self.crashed(last, exception)
            await self._tell()
        self._await_expiry()

    def turn_is_full(self) -> bool:
        return self._fan_out.full() or self._last is not None

    def handle(self, event: TopicEvent) -> None:
        if type(event) is Send:
            self._send(event)
        elif type(event) is Join:
            self._join(event)
        elif type(event) is Leave:
            self._leave(event)
        elif type(event) is More:
            self._find_ready(event)
        elif type(event) is Expire:
            self._expire()
        elif type(event) is Restore or type(event) is Shutdown:
            self._last = event
        else:
            raise TypeError(f"not an event of a topic: {type(event)}")

    def crashed(self, event: object, exception: Exception) -> None:
        super().crashed(event, exception)
        if type(event) is Join or type(event) is Leave or type(event) is More:
            self._expel(event.outbox)
        elif event is self:  # a turn has failed: whoever is ready is told in the next
            self.post(Expire())

    def _send(self, event: Send) -> None:
        outbox, ref = event.outbox, event.ref
        member = self._members.present.get(outbox)
        if member is None:  # it has left, or another connection has resumed it
            return
        refs = None if ref is UNSET else member.refs
        if refs is not None and ref in refs:
            first = refs[ref]
            remaining_ms = self._history.remaining_ms(first.id, self._now)
            self._acknowledge(outbox, b"", finished(replace(first, duplicate=True, remaining_ms=remaining_ms)))
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
        self._acknowledge(outbox, frame, acknowledgment)

    def _acknowledge(self, sender: Outbox, frame: bytes, ack: bytes) -> None:
        """Add a message to this turn, for all but its sender, and the sender's ack. For a duplicate, no message."""
        self._fan_out.message(frame, sender, ack)
        follower = self._followers.get(sender) if self._followers else None
        if follower is not None:
            follower.acknowledge(self._history.last_id, ack, bool(frame))

    def _join(self, event: Join) -> None:
        outbox, window = event.outbox, event.window
        if event.reply.done():  # nobody waits for it any more; its leave is on its way
            return
        if 0 < self._max_members <= len(self._members.present) and not self._members.would_replace(window):
            event.refuse(CloseCode.OVERLOADED, f"topic full ({self._max_members} members): join another topic")
            return
        member, replaced = self._members.join(outbox, event.username, window, self._now)
        self._followers[outbox] = self._ready[outbox] = Follower.begin(event, member, self._history.last_id)
        if replaced is None:
            self._note(member, self._came, self._went)
        else:  # told before the reply: a /list of the new connection counts the member once
            self._replaced.append(replaced)
            self._part(replaced)
            self._tell_supervisor(Replaced(replaced))
        outcome = "member joined" if replaced is None else "member resumed"
        self._log.bind(username=member.username, users=len(self._members.present)).info(outcome)

    def _leave(self, event: Leave) -> None:
        outbox = event.outbox
        member = self._members.present.get(outbox)
        if member is None:
            return
        self._note(member, self._went, self._came)
        self._members.leave(outbox, self._now)
        self._part(outbox)
        self._log.bind(username=member.username, users=len(self._members.present), reason=event.reason).info(
            "member left"
        )

    def _note(self, member: Member, changed: dict[str, None], undone: dict[str, None]) -> None:
        """Note for the end of the turn that a member came or went; a change that is undone in the turn is none."""
        if member.username in undone:
            del undone[member.username]
        else:
            changed[member.username] = None

    def _part(self, outbox: Outbox) -> None:
        """Take a connection out of the audience; it hears what was said in this turn before."""
        member = self._audience.direct.get(outbox)
        if member is not None and self._fan_out:
            self._parting[outbox] = member, len(self._fan_out)
        self._audience.remove(outbox)
        self._forget_follower(outbox)

    def _forget_follower(self, outbox: Outbox) -> None:
        self._followers.pop(outbox, None)
        self._ready.pop(outbox, None)

    def _find_ready(self, event: More) -> None:
        follower = self._followers.get(event.outbox)
        if follower is not None:
            follower.grow()
            self._ready[event.outbox] = follower

    def _expel(self, outbox: Outbox) -> None:
        """Remove a member whose join or leave failed at some step, and make all that is known of the others agree."""
        member = self._members.present.get(outbox)
        if member is not None:
            self._note(member, self._went, self._came)
        self._members.repair(outbox)
        present = self._members.present
        lost = [one for one in (*self._audience.direct, *self._followers) if one not in present]
        for one in lost:
            known = self._audience.direct[one] if one in self._audience.direct else self._followers[one].member
            if one is not outbox and known.username not in self._members.names():
                self._note(known, self._went, self._came)
            self._audience.remove(one)
            self._forget_follower(one)
        for one in (outbox, *lost):
            one.close(CloseCode.CRASHED)

    def _restore(self, event: Restore) -> None:
        self._epoch = event.epoch or self._epoch
        self._history.restore(event.messages, event.last_id)
        self._counted_id = self._history.last_id
        for gone in event.departed:
            self._members.restore_departed(gone.username, gone.token, gone.refs, gone.until)
        renamed: dict[Outbox, str] = {}
        for known in event.members:
            if self._members.is_connected(known.token):  # it has resumed by another connection
                self._tell_supervisor(Replaced(known.outbox))
                known.outbox.close(CloseCode.RESUMED_ELSEWHERE)
                continue
            member = self._members.restore(known.outbox, known.username, known.token, known.events, known.refs)
            self._audience.add(known.outbox, member)
            if member.username != known.username:
                renamed[known.outbox] = member.username
        event.done(self._members.names(), renamed)
        users = len(self._members.present)
        self._log.bind(members=len(event.members), users=users, renamed=len(renamed)).info("members restored")

    # The end of a turn

    async def _tell(self) -> None:
        """Write what all members hear; then close the replaced connections, and tell the followers what is theirs."""
        try:
            await self._write()
        except Exception as exception:
            self.crashed(self._fan_out, exception)
        for outbox in self._replaced:
            outbox.close(CloseCode.RESUMED_ELSEWHERE)
        self._replaced.clear()
        if self._ready:
            await self._tell_followers()
            await self._write()  # what was deleted once they had been told

    async def _write(self) -> None:
        """Write the frames of this turn, and count its messages."""
        if self._came or self._went or (self._count_due and len(self._members.present) > self._max_named):
            self._note_presence()
        if not self._ready:  # a newcomer finds the messages of this turn in the history
            self._counters.evicted += self._note_deleted(self._history.evict())
        if not self._fan_out:
            return
        if self._parting:
            parting, self._parting = self._parting, {}
            for outbox, (member, place) in parting.items():
                data = self._fan_out.until(place, outbox, member)
                if data:
                    outbox.write(data)
        counters = self._counters
        fan_out, self._fan_out = self._fan_out, FanOut()
        accepted, self._counted_id = self._history.last_id - self._counted_id, self._history.last_id
        counters.accepted += accepted
        counters.delivered += accepted * (len(self._members.present) - 1)
        began = self._clock.monotonic()
        await fan_out.write(self._audience.direct, self._audience.carrier)
        if self._followers:
            notices = fan_out.notices()
            told = (one for one in self._followers.values() if one.join.accepted and one.member.events)
            watching = {one.join.outbox: one.member for one in told}
            await FanOut.of([notices], [], {}).write(watching)
        counters.fan_outs.add(self._clock.monotonic() - began)

    def _note_presence(self) -> None:
        """Add a notice of who came and went since the last one, if anybody is to be told."""
        users = len(self._members.present)
        newcomers = (one for one in self._ready.values() if not one.join.accepted)
        if self._members.watchers > sum(one.member.events for one in newcomers):
            presence = Presence(users=users)
            if users <= self._max_named:
                presence.joined, presence.left = list(self._came) or UNSET, list(self._went) or UNSET
            elif self._now < self._count_after:
                self._count_due = True
                if self._count_timer is None:
                    self._count_timer = self._clock.call_later(self._count_after - self._now, self._count_now)
                return
            else:
                self._count_after = self._now + COUNT_SECONDS
            self._fan_out.notice(finished(presence))
        self._came.clear()
        self._went.clear()
        self._count_due = False

    def _count_now(self) -> None:
        self._count_after, self._count_timer = -math.inf, None
        self.post(Expire())  # so that there is a turn

    async def _tell_followers(self) -> None:
        """Tell each that is ready, and let other tasks run between."""
        users, ready = len(self._members.present), self._ready
        watched = users <= self._max_named and any(one.member.events for one in ready.values())
        names = encoded_names(self._members.names()) if watched else b""
        replay, written = Replay(self._history), 0
        for outbox, follower in list(ready.items()):
            try:
                written += self._tell_follower(follower, names, replay)
            except Exception as exception:
                self.crashed(follower.join, exception)
            ready.pop(outbox, None)
            if written > STRIDE_BYTES:
                written = 0
                await asyncio.sleep(0)

    def _tell_follower(self, follower: Follower, names: bytes, replay: Replay) -> int:
        """Write ``joined`` to a newcomer, then what the follower has room for; return the bytes written.

        ``names``: of all members, encoded; empty if they are too many to be named.
        """
        join, history, outbox = follower.join, self._history, follower.join.outbox
        now, written = self._clock.monotonic(), 0
        fresh = not join.accepted
        if fresh:
            if join.reply.done():  # the session has ended; its leave is on its way
                return 0
            joined = self._joined(follower, names, now)
            outbox.write(joined)
            join.accepted = True
            written = len(joined)
        while True:
            if follower.seen >= follower.newest and not join.reply.done():  # from here on it may speak
                join.reply.set_result(self.mailbox)
            if follower.seen >= history.last_id:
                break
            if follower.seen < history.gone_through(now):
                self._forget_follower(outbox)
                outbox.drop_slow("replay not read in time")
                return written
            messages, frames = replay.piece(follower, now)
            if not messages:
                break
            follower.seen = messages[-1].id
            outbox.write_until(frames, messages[0].deadline)
            written += len(frames)
            waits = not outbox.has_room() or written > REPLAY_BYTES
            if fresh and follower.seen >= follower.newest:  # the rest is what was said in this turn: it is due at once
                continue
            if waits and outbox.carrier is None and follower.seen < history.last_id:
                outbox.when_room(partial(self.post, More(outbox)))
                return written
            now = self._clock.monotonic()
        self._followers.pop(outbox, None)
        self._audience.add(outbox, follower.member)
        if follower.acks:  # of duplicates
            outbox.write(b"".join(follower.acks.values()))
        return written

    def _joined(self, follower: Follower, names: bytes, now: float) -> bytes:
        """Return the ``joined`` of a newcomer, and decide from which id on it is told.

        What is about to expire counts as expired: a reader that begins slowly could not take it in time.
        """
        member, window = follower.member, follower.join.window
        ttl = int(self._ttl) if self._ttl == int(self._ttl) else self._ttl
        joined = Joined(member.username, self.name, len(self._members.present), ttl)
        if window is None:
            return finished(joined)
        joined.epoch, joined.last_id, joined.resume = self._epoch, follower.newest, member.token
        since = window.since
        if since is not UNSET:
            if window.epoch not in (UNSET, self._epoch):
                joined.gap, since = ReplayGap(since + 1, None, "restarted"), 0
            elif window.epoch is not UNSET:
                joined.gap = self._history.gap(since, now + self._margin) or UNSET
                if since and member.events:  # it has not heard what was deleted while it was away
                    joined.expired_through = self._history.deleted_through or UNSET
            gone = self._history.gone_through(now + self._margin)
            follower.seen = min(follower.newest, max(since, gone))
        return finished_joined(joined, names) if member.events and names else finished(joined)

    async def _dismiss(self, code: CloseCode, first: Optional[float] = None, step: float = 0) -> None:
        """Close every member with ``code``, and remove it; let other tasks run in between.

        ``first``, ``step``: as in ``Shutdown``; None if nobody is told when to come back.
        """
        for place, (outbox, member) in enumerate(list(self._members.present.items()), 1):
            if member.events and first is not None:
                outbox.write(finished(Closing(int(first + (place - 1) * step))))
            outbox.close(code)
            self._leave(Leave(outbox, code.name.lower()))
            if not place % STRIDE_CLOSES:
                await asyncio.sleep(0)

    def _expire(self) -> None:
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
        self._expiry = None
        self.post(Expire())

    def statistics(self) -> TopicStatistics:
        mail = self.mailbox.qsize()  # its oldest event is about as old as the current turn
        age = max(0.0, self._clock.monotonic() - self._now) if mail else 0.0
        return TopicStatistics(len(self._members.present), len(self._history), mail, age)

    def legacy(self) -> tuple[str, list[Departed]]:
        """Return what a later epoch needs to continue this one: the epoch, and the members that may resume."""
        until = self._clock.monotonic() + self._ttl
        here = [(until, member) for member in self._members.present.values() if member.token]
        known = [*self._members.departed(), *here]
        return self._epoch, [Departed(one.username, one.token, until, one.refs or {}) for until, one in known]

    async def ended(self) -> None:
        await self._dismiss(CloseCode.CRASHED)  # no member is left, unless too many failures stopped the actor
        self._members.clear()
        self._audience.clear()
        self._followers.clear()
        self._history.clear()
        if self._expiry is not None:
            self._expiry.cancel()
            await asyncio.wait({self._expiry})
        if self._count_timer is not None:
            self._count_timer.cancel()
