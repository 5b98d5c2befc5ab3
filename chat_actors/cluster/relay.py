"""What stands for a topic on a node that has members in it, whoever owns the topic.

What a member sends goes to the owner, with all else of the same turn, and is kept until it is acknowledged; what the
owner says comes once and is fanned out here. When the owner changes, the relay attaches to the next one and says again
what is not acknowledged: nothing is lost or doubled, and the members' connections notice nothing.
"""

from collections import deque
from typing import TYPE_CHECKING, Any, Optional, cast

import msgspec
from msgspec import UNSET

from chat_actors.actors.base import HIGH_WATER
from chat_actors.actors.events import Join, Leave, Send, Shutdown
from chat_actors.actors.fanout import FanOut
from chat_actors.actors.outbox import Outbox, Overrides
from chat_actors.actors.topic import TopicActor
from chat_actors.cluster.backlog import acks_among
from chat_actors.cluster.guests import Deliver, Guest, Hand, RelayMailbox, Shut
from chat_actors.cluster.journal import Journal
from chat_actors.cluster.roster import Roster, counted
from chat_actors.cluster.wire import (
    Ask,
    Attach,
    Attached,
    Carry,
    Close,
    Depart,
    Detach,
    JoinRefused,
    Let,
    Names,
    Parcel,
    Say,
    SeatState,
    Taken,
    ToGuest,
    ToRelay,
    Write,
)
from chat_actors.counters import TopicStatistics
from chat_actors.protocol.codes import CloseCode, close_code
from chat_actors.protocol.frames import Closing, Joined, finished, payloads
from chat_actors.room.members import Member

if TYPE_CHECKING:
    from chat_actors.cluster.node import Node

_joined = msgspec.json.Decoder(Joined)


class Relay(TopicActor):
    """The actor."""

    def __init__(self, name: str, node: "Node") -> None:
        self.number = node.new_number()
        self.owner = ""
        self._node = node
        self._life = 0
        self._lives: dict[str, int] = {}  # by owner, the last one there: it may not have seen that another one came
        self._journal = Journal(node.settings, node.now, node.watch)
        self._guests: dict[int, Guest] = {}
        self._numbers: dict[Outbox, int] = {}
        self._near: dict[Outbox, Member] = {}  # those who have been handed their ``joined``
        self._watchers = 0  # guests with ``events``
        self._roster: Optional[Roster] = None  # while there is somebody with ``events`` who knows the names
        self._says: list[tuple[int, str, Optional[str]]] = []  # of this turn
        super().__init__(name, node.clock)
        self.mailbox: RelayMailbox = RelayMailbox(self._send)
        node.add(self)

    # To the owner.

    def attach(self, owner: str) -> None:
        """Turn to an owner, with the members there are and all that is not answered yet."""
        node = self._node
        node.forget_life(self._life)
        now = node.now()
        self._life, self.owner = node.new_life(self), owner
        self._lives = {other: life for other, life in self._lives.items() if other in node.view}
        self._lives[owner] = self._life
        guests = self._guests.values()
        seats = [
            SeatState(one.number, one.username, one.token, one.events, one.acked, now - one.joined_at)
            for one in guests
            if one.asked is None
        ]
        window = self._journal.kept(node.ration(owner))
        node.send(owner, Attach(self.name, self._life, self.number, self._journal.told(), seats, window))
        for guest in guests:
            if guest.asked is not None:
                self._ask(guest, guest.asked)
        self._says.clear()  # they are among the unacknowledged
        again = [(guest.number, message, ref) for guest in guests for message, ref in guest.unacked]
        if again:
            node.send(owner, Say(self.name, self._life, again))

    async def turn(self, event: Any) -> None:
        self.mailbox.busy = True
        try:
            await self._turn(event)
        finally:
            self.mailbox.busy = False

    async def _turn(self, event: Any) -> None:
        following: Any = event
        taken = 0
        while following is not None:
            taken += 1
            if type(following) is Deliver:
                await following.fan_out.write(self._near)
                if following.number:
                    self._node.send(self.owner, Taken(self.name, self._life, following.number))
            else:
                self.attempt(following)
            if not self.running or taken == HIGH_WATER or self.mailbox.empty():
                break
            following = self.mailbox.get_nowait()
        else:
            self.running = False

    def flush(self) -> None:
        """Send what was said in this turn of the loop."""
        if self._says:
            says, self._says = self._says, []
            self._node.send(self.owner, Say(self.name, self._life, says))

    def handle(self, event: Any) -> None:
        if type(event) is Send:
            self._send(event)
        elif type(event) is Join:
            self._join(event)
        elif type(event) is Leave:
            self._leave(event)
        elif type(event) is Hand:
            self._hand(event)
        elif type(event) is Shut:
            self._near.pop(event.guest.outbox, None)
            event.guest.outbox.close(event.code)
        elif type(event) is Shutdown:
            self._shut_down(event)
        else:
            raise TypeError(f"not an event of a relay: {type(event)}")

    def _send(self, event: Send) -> None:
        guest = self._guests.get(self._numbers.get(event.outbox, 0))
        if guest is None:  # posted behind its own leave, or its place was taken
            return
        message = event.message, None if event.ref is UNSET else event.ref
        guest.unacked.append(message)
        self.mailbox.unacked += 1
        if not self._says:
            self._node.flush_later(self)
        self._says.append((guest.number, *message))

    def _join(self, event: Join) -> None:
        guest = Guest(
            username=event.username,
            nickname="",
            number=self._node.new_number(),
            events=event.window is not None and event.window.events,
            outbox=event.outbox,
            asked=event,
            unacked=deque(),
        )
        self._guests[guest.number] = guest
        self._watchers += guest.events
        self._numbers[guest.outbox] = guest.number
        self._ask(guest, event)

    def _ask(self, guest: Guest, event: Join) -> None:
        self._node.send(self.owner, Ask(self.name, self._life, guest.number, event.username, event.window))

    def _leave(self, event: Leave) -> None:
        number = self._numbers.pop(event.outbox, 0)
        guest = self._guests.get(number)
        self._near.pop(event.outbox, None)
        if guest is None:
            return
        self._let_go(guest)
        self.flush()  # what it has said comes before
        self._node.send(self.owner, Depart(self.name, self._life, number, event.reason))

    def _let_go(self, guest: Guest) -> None:
        del self._guests[guest.number]
        self.mailbox.unacked -= len(guest.unacked)
        guest.unacked.clear()
        self._watchers -= guest.events
        if not self._watchers:
            self._roster = None

    # From the owner. What changes what is known happens at once, so that an attachment in between tells it all; what
    # goes to the members takes its turn.

    def take(self, item: ToRelay) -> None:
        """An item of this attachment."""
        if type(item) is Carry:
            self._carry(item.parcel)
        elif type(item) is Attached:
            self._attached(item)
        elif type(item) is Names:
            self._names(item)
        elif type(item) is Let:
            self.attach(self._node.owner(self.name) or self._node.me)
        else:
            self._take_for_guest(cast(ToGuest, item))

    def _take_for_guest(self, item: ToGuest) -> None:
        guest = self._guests.get(item.number)
        if guest is None:
            return
        if type(item) is Write:
            self._write(guest, item)
        elif type(item) is Close:
            self._let_go(guest)
            self._post(Shut(guest, close_code(item.code)))
        elif type(item) is JoinRefused and guest.asked is not None:
            asked, guest.asked = guest.asked, None
            self._let_go(guest)
            asked.refuse(close_code(item.code), item.detail)

    def _post(self, event: object) -> None:
        self.mailbox.put_nowait(event)  # type: ignore[arg-type]  # of this actor's own kinds

    def _attached(self, item: Attached) -> None:
        self._journal.follow(item.line, item.foreign)
        for number, count in item.missed.items():
            guest = self._guests.get(number)
            if guest is not None:
                self._acknowledge(guest, count)

    def _carry(self, parcel: Parcel) -> None:
        self._journal.add(parcel)
        overrides: Overrides = {}
        for node, number, _, pieces, _ in parcel.own:
            guest = self._guests.get(number) if node == self._node.me else None
            if guest is not None:
                overrides[guest.outbox] = pieces
                self._acknowledge(guest, len(acks_among(pieces)))
        if not self.mailbox.crowded():
            self.mailbox.release_senders()
        for place in parcel.notices:
            if self._roster is not None and not self._roster.note(parcel.frames[place]):
                self._roster = None
        self._deliver(FanOut.of(parcel.frames, parcel.notices, overrides), parcel.number)

    def _acknowledge(self, guest: Guest, count: int) -> None:
        """The oldest messages of a member are in the topic."""
        for _ in range(min(count, len(guest.unacked))):
            guest.unacked.popleft()
            guest.acked += 1
            self.mailbox.unacked -= 1

    def _deliver(self, fan_out: FanOut, number: int = 0) -> None:
        if self.mailbox.idle() and fan_out.is_short(len(self._near)):
            for _ in fan_out.strides(self._near):
                pass
            if number:
                self._node.send(self.owner, Taken(self.name, self._life, number))
        else:
            self._post(Deliver(fan_out, number))

    def _write(self, guest: Guest, item: Write) -> None:
        asked, guest.asked = guest.asked, None
        if asked is not None:
            joined = _joined.decode(next(iter(payloads(item.frames))))
            guest.username = joined.username
            guest.token = joined.resume or ""
            guest.joined_at = self._node.now()
            if joined.members is not UNSET:
                self._roster = Roster(list(joined.members))
            if not asked.reply.done():
                asked.reply.set_result(self.mailbox)
        self._post(Hand(guest, item.frames, item.answer, asked is not None))

    def _hand(self, event: Hand) -> None:
        outbox = event.guest.outbox
        if event.joined and self._guests.get(event.guest.number) is event.guest:
            self._near[outbox] = event.guest
        if event.answer:
            outbox.write_answer(event.frames)
        else:
            outbox.write(event.frames)

    def _names(self, item: Names) -> None:
        """Tell those with ``events`` what has changed while nobody could see all members."""
        for renaming in item.renamed:
            guest = self._guests.get(renaming.number)
            if guest is not None:
                guest.username = renaming.after
        if len(item.members) > self._node.settings.presence_members:
            self._roster = None
        notices: list[bytes] = []
        if self._roster is not None:
            notices = self._roster.change(item.members, item.renamed)
        elif self._watchers:
            notices = counted(len(item.members), item.renamed)
        if notices:
            fan_out = FanOut()
            for notice in notices:
                fan_out.notice(notice)
            self._deliver(fan_out)

    # Its end.

    def _shut_down(self, event: Shutdown) -> None:
        for place, guest in enumerate(list(self._guests.values())):
            if guest.events and guest.asked is None:
                guest.outbox.write(finished(Closing(int(event.first + place * event.step))))
        self._dismiss(event.code)

    def _dismiss(self, code: CloseCode) -> None:
        for guest in list(self._guests.values()):
            if guest.asked is not None:
                guest.asked.refuse(code)
            guest.outbox.close(code)
            self._leave(Leave(guest.outbox, code.name.lower()))

    async def ended(self) -> None:
        self._dismiss(CloseCode.CRASHED)  # nobody is left, unless the actor gave up
        self._near.clear()
        for owner, life in self._lives.items():
            self._node.send(owner, Detach(self.name, life))
        self._node.remove(self, self._life, self._journal)

    def statistics(self) -> TopicStatistics:
        return TopicStatistics(len(self._near), 0, self.mailbox.qsize(), 0.0)
