"""A simple model of a topic: lists that are searched from one end to the other."""

from collections import defaultdict
from typing import NamedTuple, Optional

from msgspec import UNSET

from chat_actors.actors.topic import MARGIN_SECONDS
from chat_actors.protocol.frames import Window
from tests.support.fakes import POISON, FakeMember, Frame
from tests.support.presence import Names

TTL = 30
KEPT = 4  # messages, at most


class Person:
    """Member of the model. ``refs``: the acks by ref; None if it did not ask for the window."""

    def __init__(self, name: str, asked: bool) -> None:
        self.name = name
        self.refs: Optional[dict[str, Frame]] = {} if asked else None
        self.events = False
        self.token = ""


class Stored(NamedTuple):
    """Message that can be replayed until its deadline, with its sender and ref."""

    deadline: float
    frame: Frame
    sender: Person
    ref: Optional[str]


class Model:
    """Model of a topic: the frames that each member must have received, by the words of the contract.

    ``seen`` has no presence: it is not certain how many joins and leaves one frame tells of, and where among the
    messages, nor which of them ``joined`` already counts. ``check_names`` says what is certain.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.here: dict[FakeMember, Person] = {}  # oldest first
        self.gone: dict[Person, float] = {}  # known until then
        self.stored: list[Stored] = []
        self.lost: list[str] = []  # how message 1, 2, … was lost
        self.seen: dict[FakeMember, list[Frame]] = {}
        self.people: dict[FakeMember, Person] = {}
        self.closed: list[FakeMember] = []
        self.names: dict[FakeMember, Names] = defaultdict(Names)  # by the frames of each member
        self.rosters: list[list[str]] = []  # the names after each join and leave
        self.joined_at: dict[FakeMember, int] = {}  # place of each member's join among them
        self.watchers: set[FakeMember] = set()  # all that ever joined with ``events``
        self.newcomers: set[FakeMember] = set()  # of this turn

    def join(self, member: FakeMember, username: str, window: Optional[Window], again: Optional[Person]) -> None:
        """``again``: whose token the join has."""
        old = [one for one, person in self.here.items() if person is again]
        back = again is not None and self.now < self.gone.pop(again, 0)
        person = again if again is not None and (old or back) else Person("", window is not None)
        if old:
            self.here = {member if one is old[0] else one: person for one, person in self.here.items()}
            self.closed += old
        else:
            names = {person.name for person in self.here.values()}
            free = [username, *(f"{username}#{number}" for number in range(2, 99))]
            person.name = next(name for name in [person.name or username, *free] if name not in names)
            self.here[member] = person
        self.newcomers.add(member)
        self.people[member] = person
        person.events = window is not None and window.events
        if person.events:
            self.watchers.add(member)
        self.joined_at[member] = len(self.rosters)
        self.note_names()
        joined: Frame = {"topic": "sports", "ttl": TTL, "type": "joined", "username": person.name}
        self.seen[member] = [joined]
        if window is not None:
            joined["epoch"], joined["last_id"] = "this", len(self.lost) + len(self.stored)
            if window.since is not UNSET:
                self.replay(member, joined, window.since, window.epoch)

    def replay(self, member: FakeMember, joined: Frame, since: int, epoch: object) -> None:
        gone = ["expired" for one in self.stored if one.deadline <= self.now + MARGIN_SECONDS]
        lost = [*self.lost, *gone]
        through, lost = len(lost), lost[since:]
        if epoch == "another":
            joined["gap"] = {"from": since + 1, "to": None, "reason": "restarted"}
            since = 0
        elif epoch == "this" and lost:
            reason = "evicted" if "evicted" in lost else "expired"
            joined["gap"] = {"from": since + 1, "to": through, "reason": reason}
        if epoch == "this" and since and self.lost and member in self.watchers:
            joined["expired_through"] = len(self.lost)
        since = max(since, through)
        replay = [one for one in self.stored if one.frame["id"] > since]
        self.seen[member] += [{**one.frame, "replayed": True, **self.remaining(one)} for one in replay]

    def remaining(self, stored: Stored) -> Frame:
        return {"remaining_ms": round((stored.deadline - self.now) * 1000)}

    def leave(self, member: FakeMember) -> None:
        person = self.here.pop(member, None)
        if person is not None:
            if person.refs is not None:
                self.gone[person] = self.now + TTL
            self.note_names()
            if member in self.newcomers:  # it has gone before it was told anything
                self.newcomers.remove(member)
                self.seen[member].clear()

    def end_turn(self) -> None:
        """Delete what is too much; before that the newcomers are told what they are due."""
        self.newcomers.clear()
        self.delete("evicted")

    def note_names(self) -> None:
        self.rosters.append([person.name for person in self.here.values()])

    def check_names(self, member: FakeMember, frames: list[Frame]) -> list[Frame]:
        """Check what a member's new frames say of who is here. Return the frames as they are in ``seen``.

        Raises AssertionError if it does not know all who are here now, or was told what was not so after its join.
        """
        watches, names = member in self.watchers, self.names[member]
        rosters = self.rosters[self.joined_at[member] :]
        for frame in frames:
            names.take(frame)
            if frame["type"] == "joined":
                assert ("members" in frame) == watches
                assert frame.pop("members", None) in (None, *rosters)
                assert frame.pop("users") in map(len, rosters)
            assert watches or frame["type"] != "presence"
        if watches and member in self.here:
            assert names.names is not None and sorted(names.names) == sorted(self.rosters[-1])
        return [frame for frame in frames if frame["type"] != "presence"]

    def send(self, member: FakeMember, text: str, ref: Optional[str]) -> None:
        person = self.here.get(member)
        if person is None:
            return
        if person.refs is not None and ref in person.refs:
            first = person.refs[ref]
            (stored,) = (one for one in self.stored if one.frame["id"] == first["id"])
            self.seen[member].append({**first, "duplicate": True, **self.remaining(stored)})
            return
        if text == POISON:
            return
        frame: Frame = {"id": len(self.lost) + len(self.stored) + 1, "timestamp": int(self.now)}
        ack = {**frame, "type": "ack", "status": "delivered", "recipients": len(self.here) - 1}
        frame = {**frame, "type": "message", "username": person.name, "message": text}
        if ref is not None:
            ack["ref"] = ref
            if person.refs is not None:
                person.refs[ref] = ack
        self.stored.append(Stored(self.now + TTL, frame, person, ref))
        for one in self.here:
            self.seen[one].append(ack if one is member else frame)

    def delete(self, reason: str) -> None:
        """Delete what is too old, or too much."""
        before = len(self.lost)
        while self.stored and (self.stored[0].deadline <= self.now if reason == "expired" else len(self.stored) > KEPT):
            oldest = self.stored.pop(0)
            self.lost.append(reason)
            if oldest.sender.refs is not None and oldest.ref is not None:
                del oldest.sender.refs[oldest.ref]
        if len(self.lost) > before:
            for member, person in self.here.items():
                if person.events:
                    self.seen[member].append({"type": "expired", "through": len(self.lost)})
