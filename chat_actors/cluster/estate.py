"""A topic that this node owns: who is attached to it from which node, and what they have been told.

To the ``Topic`` its voice is the carrier of all members, each of whom is a ``Seat``; of nodes the topic knows nothing.
"""

import asyncio
import secrets
from typing import TYPE_CHECKING, Optional

import msgspec
from msgspec import UNSET

from chat_actors.actor import Mailbox
from chat_actors.cluster.backlog import Backlog, acks_in
from chat_actors.cluster.gather import Legacy, last_message_id, linked, messages_of, missing, refs_of
from chat_actors.cluster.seats import Attachment, Seat, Tally
from chat_actors.cluster.wire import (
    Ask,
    Attach,
    Attached,
    Bequest,
    Carry,
    Depart,
    Gone,
    Let,
    Line,
    Names,
    Parcel,
    Refused,
    Renaming,
    Say,
    SeatState,
    Taken,
    ToOwner,
    Write,
    encoded,
)
from chat_actors.codes import CloseCode
from chat_actors.events import Departed, Join, JoinFailed, Leave, Restore, Returning, Send, TopicEvent
from chat_actors.outbox import Carrier, Outbox, Own
from chat_actors.topic import Topic

MOST_ANCESTORS = 16  # lives of a topic before this one that a relay may come from and lose nothing
TAKEN_SECONDS = 0.005  # that a topic waits for its parcel to be taken, at most: a slow node slows nobody else down

if TYPE_CHECKING:
    from chat_actors.cluster.node import Node


def _finish(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class Voice(Carrier):
    """What one life of a topic has to say; once there is another one, nobody is left who should hear it."""

    def __init__(self, estate: "Estate") -> None:
        self._estate = estate

    async def carry(self, frames: list[bytes], notices: list[int], own: Own) -> None:
        if self._estate.voice is self:
            await self._estate.carry(frames, notices, own)


class Estate:
    """One topic's members on all nodes. ``room``: the topic, while there is one; ``voice``: its own."""

    def __init__(self, node: "Node", topic: str, legacy: Optional[Legacy] = None) -> None:
        self.topic = topic
        self.room: Optional[Topic] = None
        self.voice = Voice(self)
        self.attachments: dict[tuple[str, int], Attachment] = {}  # by node and relay
        self._lives: dict[tuple[str, int], Attachment] = {}  # by node and life
        limits = node.limits
        self.backlog = Backlog(limits.message_ttl, limits.history_bytes)
        self._node = node
        self._on_their_way = 0  # events that go by way of the supervisor, behind which what is said has to stay
        # By node and number, of those whose node was lost, and until when (monotonic): it may come back.
        self._tallies: dict[tuple[str, int], tuple[float, Tally]] = {}
        self._taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # the last parcel, by all
        self._born = node.now()
        self._line = Line(secrets.token_hex(4))
        self._legacy = legacy
        self._pending = legacy  # until the topic has been given it
        if legacy is not None:
            now = node.now()
            line = legacy.line
            self._born -= line.age
            self._line.number, self._line.last_id = line.number, legacy.line.last_id
            older = list(line.ancestors.items())[1 - MOST_ANCESTORS :]
            self._line.ancestors = {**dict(older), line.name: line.number}
            for kept in legacy.parcels:
                self.backlog.restore(kept.parcel, now + kept.remaining)

    @property
    def age(self) -> float:
        """Seconds since the topic was first joined."""
        return self._node.now() - self._born

    def bind(self, room: Topic) -> None:
        """The topic has come to be; what was said in the one before, if there was one, has died with that."""
        if self.room is not None:
            self._renew()
        self.room, self.voice = room, Voice(self)

    def restored(self) -> None:
        """The topic has been given its members of before."""
        self._pending = None
        self.passed()

    def passed(self) -> None:
        """An event has come to the topic by way of the supervisor."""
        self._on_their_way -= 1

    def unbind(self, room: Topic) -> None:
        """That topic has ended; all that was said there with it."""
        if self.room is room:
            self.room = None
            self._renew()

    def _renew(self) -> None:
        self._line = Line(secrets.token_hex(4))
        self._born = self._node.now()
        self.backlog.clear()
        for attachment in self.attachments.values():
            attachment.send(Attached(attachment.life, self._line, True, {}))

    # What the topic says.

    async def carry(self, frames: list[bytes], notices: list[int], own: Own) -> None:
        """Send a parcel, and wait a moment until all have taken it: what is said meanwhile goes with the next."""
        line = self._line
        line.number += 1
        line.last_id = max(line.last_id, last_message_id(frames))
        pieces = []
        for outbox, replaced in own.items():
            if isinstance(outbox, Seat):
                tally = outbox.tally
                pieces.append((outbox.attachment.name, outbox.number, tally.acked, replaced, outbox.token or ""))
                for _, piece in replaced:
                    tally.acked += bool(piece)
        parcel = Parcel(line.name, line.number, line.last_id, frames, notices, pieces)
        self.backlog.add(parcel, self._node.now())
        self._node.watch(self.backlog)
        data: Optional[msgspec.Raw] = None
        for attachment in self.attachments.values():
            if attachment.name == self._node.me:
                attachment.send(Carry(attachment.life, parcel))
            else:
                if data is None:
                    data = encoded(parcel)
                attachment.send(Carry(attachment.life, data))  # type: ignore[arg-type]  # it is one, encoded
        if self.attachments:
            loop = asyncio.get_running_loop()
            taken = self._taken = loop.create_future()
            timer = loop.call_later(TAKEN_SECONDS, _finish, taken)
            await taken
            timer.cancel()

    def _see_if_taken(self) -> None:
        if all(attachment.taken >= self._line.number for attachment in self.attachments.values()):
            _finish(self._taken)

    # What the relays say.

    def take(self, node: str, item: ToOwner) -> None:
        """An item from the relay of a node."""
        if type(item) is Attach:
            self.attach([(node, item)], [])
            return
        attachment = self._lives.get((node, item.life))
        if attachment is None:  # of a time that is over
            return
        if type(item) is Taken:
            attachment.taken = item.number
            self._see_if_taken()
        elif type(item) is Say:
            self._say(attachment, item)
        elif type(item) is Ask:
            self._ask(attachment, item)
        elif type(item) is Depart:
            seat = attachment.seats.pop(item.number, None)
            if seat is not None:
                self._node.back.post(Leave(seat, item.reason))
        else:
            self._drop(attachment, "closed by peer")

    def knows(self, line: Line) -> bool:
        """Whether who has followed that line, if any, can go on here."""
        return not line.name or self._line.includes(line)

    def attach(self, items: list[tuple[str, Attach]], bequests: list[Bequest]) -> None:
        """Take in relays, with the members they bring, and tell them what they lack; of another line as well."""
        acked = self.backlog.acked() if any(item.seats for _, item in items) else {}
        returning: list[tuple[bool, SeatState, Seat]] = []
        for node, item in items:
            foreign = not self._line.includes(item.line)
            if not self.knows(item.line):
                self._node.log.bind(topic=self.topic, node=node, members=len(item.seats)).warning("views merged")
            self._line.last_id = max(self._line.last_id, item.line.last_id)
            before = self.attachments.get((node, item.relay))
            attachment = Attachment(self._node, node, item.life, item.line.name if foreign else "")
            attachment.taken = self._line.number
            self.attachments[node, item.relay] = self._lives[node, item.life] = attachment
            if foreign:
                behind = missing(item.line, [one for _, one in items], bequests)
                self._line.last_id = max([self._line.last_id, *(parcel.last_id for parcel in behind)])
            else:
                behind = self.backlog.after(item.line.number)
            coming = acks_in(behind)
            lost: dict[int, int] = {}
            for state in item.seats:
                member = node, state.number
                seat, known = self._seat_of(attachment, before, state)
                if not known:
                    returning.append((foreign, state, seat))
                # Messages count from the first one on, whoever the owner was.
                told = state.acked + coming[member]
                seat.tally.count(told if foreign else max(state.acked, acked.get(member, 0)))
                if seat.tally.acked > told:
                    lost[state.number] = seat.tally.acked - told
            if before is not None:
                self._cut(before, "closed by peer")
            attached = Attached(item.life, self._told_line(), foreign, lost)
            if not foreign:
                attachment.send(attached)
            for parcel in behind:
                attachment.send(Carry(item.life, parcel))
            if foreign:  # what it lacks was of the other line
                attachment.send(attached)
            for number, count in lost.items():
                last = attachment.seats[number].tally.acked
                acks = self.backlog.acks_of((node, number), last - count, count)
                attachment.send(Write(item.life, number, acks, False))
        if returning:
            self._restore(self._newest_of_each(returning))

    def _seat_of(self, attachment: Attachment, before: Optional[Attachment], state: SeatState) -> tuple[Seat, bool]:
        """A member's seat in an attachment, and whether it is the one that it had before."""
        seat = None if before is None else before.seats.pop(state.number, None)
        known = seat is not None
        if seat is None:
            _, tally = self._tallies.pop((attachment.name, state.number), (0.0, Tally()))
            seat = Seat(self, attachment, state.number, tally, state.token)
        seat.attachment, seat.said = attachment, state.acked
        attachment.seats[state.number] = seat
        return seat, known

    def _newest_of_each(self, returning: list[tuple[bool, SeatState, Seat]]) -> list[tuple[bool, SeatState, Seat]]:
        """Where somebody has resumed elsewhere and one of two connections was not told yet, the younger one counts."""
        returning.sort(key=lambda one: one[1].age)
        tokens: set[str] = set()
        newest = []
        for one in returning:
            _, state, seat = one
            if state.token and state.token in tokens:
                seat.close(CloseCode.RESUMED_ELSEWHERE)
            else:
                tokens.add(state.token)
                newest.append(one)
        return newest

    def _restore(self, returning: list[tuple[bool, SeatState, Seat]]) -> None:
        """Have the topic take in who was a member before; with what is known of its past, if it begins with it."""
        returning.sort(key=lambda one: (one[0], -one[1].age))  # oldest first, those of another line behind
        now = self._node.now()
        legacy, self._legacy = self._legacy, None
        parcels = [] if legacy is None else legacy.parcels
        messages = messages_of(parcels, now)
        refs = refs_of(parcels, messages)
        members = [
            Returning(
                seat,
                state.username,
                state.token,
                state.events,
                refs.get(state.token, {}) if state.token else None,
            )
            for _, state, seat in returning
        ]
        bequest = None if legacy is None else legacy.bequest
        departed = [
            Departed(gone.username, gone.token, now + gone.remaining, linked(gone.refs, messages))
            for gone in (bequest.departed if bequest is not None else [])
        ]

        def done(names: list[str], renamed: dict[Outbox, str]) -> None:
            changed = [(state, seat, renamed[seat]) for _, state, seat in returning if seat in renamed]
            for attachment in self.attachments.values():
                told = [
                    Renaming(state.number if seat.attachment is attachment else 0, state.username, name)
                    for state, seat, name in changed
                    if seat.attachment is attachment or "" != seat.attachment.came_from == attachment.came_from
                ]
                attachment.send(Names(attachment.life, names, told))
            for state, seat, name in changed:
                self._node.log.bind(
                    topic=self.topic, username=state.username, renamed=name, node=seat.attachment.name
                ).warning("member renamed")

        self._on_their_way += 1
        epoch = "" if bequest is None else bequest.epoch
        self._node.back.post(Restore(self.topic, members, done, epoch, messages, self._line.last_id, departed))

    def _say(self, attachment: Attachment, item: Say) -> None:
        for number, message, ref in item.messages:
            seat = attachment.seats.get(number)
            if seat is None:
                continue
            seat.said += 1
            if seat.said <= seat.tally.received:  # it came before, on another way
                continue
            seat.tally.received = seat.said
            event = Send(seat, message, UNSET if ref is None else ref)
            if self.room is None or self._on_their_way:
                self._on_their_way += 1
                self._node.back.pass_on(event)
            else:
                self.room.post(event)

    def _ask(self, attachment: Attachment, item: Ask) -> None:
        token = "" if item.window is None else None
        seat = attachment.seats[item.number] = Seat(self, attachment, item.number, Tally(), token)
        reply: asyncio.Future[Mailbox[TopicEvent]] = asyncio.get_running_loop().create_future()

        def answered(reply: "asyncio.Future[Mailbox[TopicEvent]]") -> None:
            failed = None if reply.cancelled() else reply.exception()
            if isinstance(failed, JoinFailed):
                attachment.seats.pop(item.number, None)
                attachment.send(Refused(attachment.life, item.number, int(failed.code), failed.detail))
                self._node.back.post(Leave(seat, "refused"))

        reply.add_done_callback(answered)
        self._node.back.post(Join(self.topic, item.username, seat, reply, item.window))

    # How it ends.

    def lose(self, node: str) -> None:
        """A node is gone, and its members with it."""
        until = self._node.now() + self._node.limits.message_ttl
        for attachment in [one for one in self.attachments.values() if one.name == node]:
            for number, seat in attachment.seats.items():
                self._tallies[node, number] = until, seat.tally
            self._drop(attachment, "node lost")

    def expire(self, now: float) -> None:
        """Forget those whose node has been gone for so long that what they said is over."""
        for member, (until, _) in list(self._tallies.items()):
            if until <= now:
                del self._tallies[member]

    def _drop(self, attachment: Attachment, reason: str) -> None:
        self.attachments = {key: one for key, one in self.attachments.items() if one is not attachment}
        self._cut(attachment, reason)
        if not self.attachments:
            self._node.estates.close(self)

    def _cut(self, attachment: Attachment, reason: str) -> None:
        """It is told nothing more, and its members leave."""
        attachment.cut = True
        self._see_if_taken()
        del self._lives[attachment.name, attachment.life]
        for seat in attachment.seats.values():
            attachment.leave(seat, reason)

    def abdicate(self) -> Optional[Bequest]:
        """Let go of everybody; what the next owner has to know, None where there is nothing."""
        bequest, now = None, self._node.now()
        window = self.backlog.kept(now, self._node.ration(self._node.owner(self.topic)))
        if self._pending is not None:
            heir = self._pending.bequest
            epoch, gone = ("", []) if heir is None else (heir.epoch, heir.departed)
            bequest = Bequest(self.topic, epoch, self._told_line(), window, gone)
        elif self.room is not None:
            epoch, departed = self.room.legacy()
            gone = [Gone(one.username, one.token, one.until - now, one.refs) for one in departed]
            bequest = Bequest(self.topic, epoch, self._told_line(), window, gone)
        for attachment in list(self.attachments.values()):
            attachment.send(Let(attachment.life))
            self._drop(attachment, "moved")
        return bequest

    def _told_line(self) -> Line:
        line = self._line
        return Line(line.name, line.number, line.last_id, dict(line.ancestors), self.age)
