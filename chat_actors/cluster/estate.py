"""A topic that this node owns: what it says, what comes for it, and how it moves to another node.

To the ``Topic`` its voice is the carrier of all members, each of whom is a ``Seat``; of nodes the topic knows nothing.
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Optional, Union

from msgspec import UNSET

from chat_actors.actors.base import Mailbox
from chat_actors.actors.events import Join, JoinFailed, Leave, Restore, Send, TopicEvent
from chat_actors.actors.outbox import Carrier, Overrides
from chat_actors.actors.topic import Topic
from chat_actors.cluster.backlog import acks_in
from chat_actors.cluster.gather import Legacy, last_message_id, missing
from chat_actors.cluster.journal import Journal
from chat_actors.cluster.returning import Return, newest_of_each, restoration
from chat_actors.cluster.seating import Seating
from chat_actors.cluster.seats import Attachment, Seat, Tally
from chat_actors.cluster.wire import (
    Ask,
    Attach,
    Bequest,
    Depart,
    Gone,
    JoinRefused,
    Line,
    Parcel,
    Say,
    Taken,
    ToOwner,
)

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

    async def carry(self, frames: list[bytes], notices: list[int], overrides: Overrides) -> None:
        if self._estate.voice is self:
            await self._estate.carry(frames, notices, overrides)


class Estate:
    """One topic's members on all nodes. ``room``: the topic, while there is one; ``voice``: its own."""

    def __init__(self, node: "Node", topic: str) -> None:
        self.topic = topic
        self.room: Optional[Topic] = None
        self.voice = Voice(self)
        self.journal = Journal(node.settings, node.now, node.watch)
        self.seating = Seating(self, node, self.journal)
        self._node = node
        self._on_their_way = 0  # events that go by way of the supervisor, behind which what is said has to stay
        self._taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # the last parcel, by all
        self._legacy: Optional[Legacy] = None  # until the topic has it
        self.journal.begin()

    def bind(self, room: Topic) -> None:
        """The topic has come to be; what was said in the one before, if there was one, has died with that."""
        if self.room is not None:
            self._renew()
        self.room, self.voice = room, Voice(self)

    def _pass_on(self, event: Union[Send, Restore]) -> None:
        """Post an event to the topic by way of the supervisor."""
        self._on_their_way += 1
        self._node.back.pass_on(event)

    def passed(self) -> None:
        """An event has come to the topic by way of the supervisor."""
        self._on_their_way -= 1

    def restored(self) -> None:
        """The same for the topic's members of before: what it has to know is on its way to it."""
        self._legacy = None
        self.passed()

    def unbind(self, room: Topic) -> None:
        """That topic has ended; all that was said there with it."""
        if self.room is room:
            self.room = None
            self._renew()

    def _renew(self) -> None:
        self.journal.begin()
        self.seating.renew()

    # What the topic says.

    async def carry(self, frames: list[bytes], notices: list[int], overrides: Overrides) -> None:
        """Send a parcel, and wait a moment until all have taken it: what is said meanwhile goes with the next."""
        pieces = []
        for outbox, replaced in overrides.items():
            if isinstance(outbox, Seat):
                tally = outbox.tally
                pieces.append((outbox.attachment.name, outbox.number, tally.acked, replaced, outbox.token or ""))
                for _, piece in replaced:
                    tally.acked += bool(piece)
        line = self.journal.line
        last_id = max(line.last_id, last_message_id(frames))
        parcel = Parcel(line.name, line.number + 1, last_id, frames, notices, pieces)
        self.journal.add(parcel)
        self.seating.carry(parcel)
        if self.seating.attachments:
            taken = self._taken = asyncio.get_running_loop().create_future()
            timer = self._node.clock.call_later(TAKEN_SECONDS, _finish, taken)
            await taken
            timer.cancel()

    def see_if_taken(self) -> None:
        """Go on if nobody has anything to do with the last parcel any more."""
        if self.seating.have_taken(self.journal.line.number):
            _finish(self._taken)

    # What the relays say.

    def take(self, node: str, item: ToOwner) -> None:
        """An item from the relay of a node."""
        if type(item) is Attach:
            self.attach([(node, item)], [], None)
            return
        attachment = self.seating.find(node, item.life)
        if attachment is None:  # of a time that is over
            return
        if type(item) is Taken:
            attachment.taken = item.number
            self.see_if_taken()
        elif type(item) is Say:
            self._say(attachment, item)
        elif type(item) is Ask:
            self._ask(attachment, item)
        elif type(item) is Depart:
            seat = attachment.seats.pop(item.number, None)
            if seat is not None:
                self._node.back.post(Leave(seat, item.reason))
        else:
            self.seating.drop(attachment, "closed by peer")

    def knows(self, line: Line) -> bool:
        """Whether who has followed that line, if any, can go on here."""
        return not line.name or self.journal.line.includes(line)

    def attach(self, items: list[tuple[str, Attach]], bequests: list[Bequest], legacy: Optional[Legacy]) -> None:
        """Take in relays, with the members they bring, and tell them what they lack.

        ``legacy``: the topic's past, where it begins with it; ``bequests``: what may be of another line than that.
        """
        if legacy is not None:
            self._legacy = legacy
            self.journal.begin(legacy)
        backlog = self.journal.backlog
        acked = backlog.acked() if any(item.seats for _, item in items) else {}
        returns: list[Return] = []
        outside: list[Attachment] = []
        for node, item in items:
            if not self.knows(item.line):
                self._node.log.bind(topic=self.topic, node=node, members=len(item.seats)).warning("views merged")
            foreign = not self.journal.line.includes(item.line)
            if foreign:
                behind = missing(item.line, [one for _, one in items], bequests)
            else:
                behind = backlog.after(item.line.number)
            for last_id in (item.line.last_id, *(parcel.last_id for parcel in behind)):
                self.journal.saw(last_id)
            attachment = Attachment(self._node, node, item, foreign)
            returns += self.seating.seat(attachment, item.seats, acks_in(behind), acked)
            if foreign:
                self.seating.supply(attachment, behind)
                behind = []
            if foreign and item.seats:
                outside.append(attachment)  # they may have heard higher ids than the topic's, until it takes them in
            else:
                self.seating.let_in(attachment, behind)
        if returns:
            returns = newest_of_each(returns)
            last_id, now = self.journal.line.last_id, self._node.now()
            tell = partial(self.seating.tell_names, outside, returns)
            self._pass_on(restoration(self.topic, returns, legacy, last_id, now, tell))

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
                self._pass_on(event)
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
                attachment.send(JoinRefused(attachment.life, item.number, int(failed.code), failed.detail))
                self._node.back.post(Leave(seat, "refused"))

        reply.add_done_callback(answered)
        self._node.back.post(Join(self.topic, item.username, seat, reply, item.window))

    # How it ends.

    def abdicate(self) -> Optional[Bequest]:
        """Let go of everybody; what the next owner has to know, None where there is nothing."""
        try:
            past = self._past()
            if past is None:
                return None
            epoch, departed = past
            window = self.journal.kept(self._node.ration(self._node.owner(self.topic)))
            return Bequest(self.topic, epoch, self.journal.told(), window, departed)
        finally:
            self.seating.let_go()

    def _past(self) -> Optional[tuple[str, list[Gone]]]:
        """The epoch, and who may come back or is here; None where there is no topic."""
        if self._legacy is not None:  # on its way to the topic
            bequest = self._legacy.bequest
            return ("", []) if bequest is None else (bequest.epoch, bequest.departed)
        if self.room is not None:
            epoch, departed = self.room.legacy()
            now = self._node.now()
            return epoch, [Gone(one.username, one.token, one.until - now, one.refs) for one in departed]
        return None
