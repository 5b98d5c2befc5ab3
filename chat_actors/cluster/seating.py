"""Who is attached to a topic from which node, and who sits there: the owner's side of all relays."""

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Optional

import msgspec

from chat_actors.actors.outbox import Outbox
from chat_actors.cluster.backlog import Acks
from chat_actors.cluster.journal import Journal
from chat_actors.cluster.returning import Return
from chat_actors.cluster.seats import Attachment, Seat, Tally
from chat_actors.cluster.wire import Attached, Carry, Let, Names, Parcel, Renaming, SeatState, Write, encoded

if TYPE_CHECKING:
    from chat_actors.cluster.estate import Estate
    from chat_actors.cluster.node import Node


class Seating:
    """``attachments``: by node and relay."""

    def __init__(self, estate: "Estate", node: "Node", journal: Journal) -> None:
        self.attachments: dict[tuple[str, int], Attachment] = {}
        self._lives: dict[tuple[str, int], Attachment] = {}  # by node and life
        # By node and number, of those whose node was lost, and until when (monotonic): it may come back.
        self._tallies: dict[tuple[str, int], tuple[float, Tally]] = {}
        self._estate = estate
        self._node = node
        self._journal = journal

    def find(self, node: str, life: int) -> Optional[Attachment]:
        """A node's relay, attached; None if that time is over."""
        return self._lives.get((node, life))

    # Who comes.

    def seat(self, attachment: Attachment, states: list[SeatState], coming: Acks, acked: Acks) -> list[Return]:
        """Give a relay's members their seats; those that the topic has to take in.

        ``coming``: acks that are on their way to them; ``acked``: that they have had, as far as can be seen here.
        """
        node, foreign = attachment.name, attachment.foreign
        before = self.attachments.get((node, attachment.relay))
        self.attachments[node, attachment.relay] = self._lives[node, attachment.life] = attachment
        known = {} if before is None else before.seats
        returns: list[Return] = []
        for state in states:
            member = node, state.number
            seat = known.get(state.number)
            tally = self._tallies.pop(member, (0.0, Tally()))[1] if seat is None else seat.tally
            if seat is None or foreign:  # then it has been in another topic of that name meanwhile, and left this one
                seat = Seat(self._estate, attachment, state.number, tally, state.token)
                returns.append(Return(foreign, state, seat))
            else:
                del known[state.number]
            seat.attachment, seat.said = attachment, state.acked
            attachment.seats[state.number] = seat
            # Messages count from the first one on, whoever the owner was.
            told = state.acked + coming.get(member, 0)
            tally.count(told if foreign else max(state.acked, acked.get(member, 0)))
            attachment.heard[state.number] = state.acked, told
        if before is not None:
            self._cut(before, "closed by peer")
        return returns

    def let_in(self, attachment: Attachment, behind: Sequence[Parcel] = ()) -> None:
        """From here on a relay hears what all others hear; nothing if it does already.

        ``behind``: what it lacks of this line.
        """
        if not attachment.outside:
            return
        attachment.outside = False
        attachment.taken = self._journal.line.number
        missed: dict[int, int] = {}
        had: Acks = {}
        for number, (acked, told) in attachment.heard.items():
            seat = attachment.seats.get(number)
            if seat is not None and seat.tally.acked > told:
                missed[number] = seat.tally.acked - told
                had[attachment.name, number] = told if attachment.foreign else acked
        attachment.send(Attached(attachment.life, self._journal.told(), attachment.foreign, missed))
        through = behind[0].number - 1 if behind else inf
        for (_, number), acks in self._journal.backlog.acks_behind(had, through).items():
            attachment.send(Write(attachment.life, number, acks, False))
        self.supply(attachment, behind)

    def supply(self, attachment: Attachment, parcels: Sequence[Parcel]) -> None:
        """Send parcels to one relay."""
        for parcel in parcels:
            attachment.send(Carry(attachment.life, parcel))

    # What all of them hear.

    def carry(self, parcel: Parcel) -> None:
        """Send a parcel to all, encoded once for all nodes."""
        data: Optional[msgspec.Raw] = None
        for attachment in self.attachments.values():
            if attachment.outside:
                continue
            if attachment.name == self._node.me:
                attachment.send(Carry(attachment.life, parcel))
            else:
                if data is None:
                    data = encoded(parcel)
                attachment.send(Carry(attachment.life, data))  # type: ignore[arg-type]  # it is one, encoded

    def have_taken(self, number: int) -> bool:
        """Whether all have passed on the parcels through that number."""
        return all(one.outside or one.taken >= number for one in self.attachments.values())

    def renew(self) -> None:
        """The topic has begun anew, and so does what is heard of it."""
        for attachment in self.attachments.values():
            attachment.outside = False
            attachment.send(Attached(attachment.life, self._journal.told(), True, {}))

    def tell_names(
        self, outside: list[Attachment], returns: list[Return], names: list[str], renamed: dict[Outbox, str]
    ) -> None:
        """The topic has taken them in: tell every relay who is a member now, and who is called otherwise."""
        for attachment in outside:
            self.let_in(attachment)
        changed = [(one.state, one.seat, renamed[one.seat]) for one in returns if one.seat in renamed]
        for attachment in self.attachments.values():
            if attachment.outside:  # it will be told with its own members
                continue
            told = [
                Renaming(state.number if seat.attachment is attachment else 0, state.username, name)
                for state, seat, name in changed
                if seat.attachment is attachment or "" != seat.attachment.came_from == attachment.came_from
            ]
            attachment.send(Names(attachment.life, names, told))
        for state, seat, name in changed:
            self._node.log.bind(
                topic=self._estate.topic, username=state.username, renamed=name, node=seat.attachment.name
            ).warning("member renamed")

    # Who goes.

    def lose(self, node: str) -> None:
        """A node is gone, and its members with it."""
        until = self._node.now() + self._node.settings.message_ttl
        for attachment in [one for one in self.attachments.values() if one.name == node]:
            for number, seat in attachment.seats.items():
                self._tallies[node, number] = until, seat.tally
            self.drop(attachment, "node lost")

    def expire(self, now: float) -> None:
        """Forget those whose node has been gone for so long that what they said is over."""
        for member, (until, _) in list(self._tallies.items()):
            if until <= now:
                del self._tallies[member]

    def drop(self, attachment: Attachment, reason: str) -> None:
        """A relay is not attached any more."""
        self.attachments = {key: one for key, one in self.attachments.items() if one is not attachment}
        self._cut(attachment, reason)
        if not self.attachments:
            self._node.estates.close(self._estate)

    def _cut(self, attachment: Attachment, reason: str) -> None:
        """It is told nothing more, and its members leave."""
        attachment.cut = True
        self._estate.see_if_taken()
        del self._lives[attachment.name, attachment.life]
        for seat in attachment.seats.values():
            attachment.leave(seat, reason)

    def let_go(self) -> None:
        """The topic is another node's now."""
        for attachment in list(self.attachments.values()):
            attachment.send(Let(attachment.life))
            self.drop(attachment, "moved")
