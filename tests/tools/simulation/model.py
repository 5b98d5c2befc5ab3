"""The frames that the members of one topic must receive, by the order of the events that the topic handled."""

from typing import Any, Optional, Union

from msgspec import UNSET, Struct, UnsetType

from chat_actors.actors.events import Expire, Join, Leave, Shutdown
from chat_actors.actors.outbox import Outbox
from chat_actors.actors.topic import MARGIN_SECONDS
from chat_actors.protocol.frames import Window
from chat_actors.settings import Settings


class Said(Struct, eq=False):
    """Send, as the topic handled it."""

    outbox: Outbox
    message: str
    ref: Union[str, UnsetType]


class Told(Struct, eq=False):
    """Fact that the topic is about to write ``joined`` to a newcomer."""

    outbox: Outbox


class TurnEnded(Struct, eq=False):
    """Fact that a turn of the topic has ended."""


Handled = Union[Said, Join, Leave, Expire, Shutdown, Told, TurnEnded]
Item = tuple[Any, ...]  # a frame in few words: its type, and what matters of it


class Member(Struct, eq=False):
    """Member of the model. ``refs``: the acks by ref; None if it did not ask for the window."""

    username: str
    number: int
    token: Optional[str]
    events: bool
    refs: Optional[dict[str, tuple[int, int]]]


class Stored(Struct):
    id: int
    username: str
    message: str
    deadline: float
    sender: Member
    ref: Union[str, UnsetType]


class Model:
    """Model of one epoch of a topic. ``tokens``: what each outbox was given to resume by.

    ``due`` has no presence: it is not certain how many joins and leaves one frame tells of, and where among the
    messages, nor which of them ``joined`` already counts: its names are one of the ``rosters`` since its own join.
    """

    def __init__(self, settings: Settings, epoch: str, tokens: dict[Outbox, str]) -> None:
        self.due: dict[Outbox, list[Item]] = {}  # for everyone who ever was a member
        self.present: dict[Outbox, Member] = {}
        self.closing: dict[Outbox, int] = {}  # the delay that each was told at the end
        self.replaced: set[Outbox] = set()
        self.watchers: set[Outbox] = set()  # all that ever joined with ``events``
        self.rosters: list[list[str]] = []  # the names after each join and leave, oldest member first
        self.joined_at: dict[Outbox, int] = {}  # place of each one's join among them
        self.accepted = 0  # messages; the newest one's id
        self._newcomers: dict[Outbox, tuple[Optional[Window], Member, int]] = {}  # with the newest id at the join
        self._settings = settings
        self._epoch = epoch
        self._tokens = tokens
        self._departed: dict[str, tuple[float, Member]] = {}
        self._stored: list[Stored] = []
        self._evicted = 0
        self._joins = 0

    def handle(self, event: Handled, now: float) -> None:
        if type(event) is Said:
            self._send(event, now)
        elif type(event) is Told:
            self._tell(event.outbox, now)
        elif type(event) is TurnEnded:
            self._newcomers.clear()
            while len(self._stored) > self._settings.history_messages:
                self._evicted = self._stored[0].id
                self._forget()
        elif type(event) is Join:
            self._join(event, now)
        elif type(event) is Leave:
            self._leave(event, now)
        elif type(event) is Expire:
            while self._stored and self._stored[0].deadline <= now:
                self._forget()
            self._departed = {token: known for token, known in self._departed.items() if now < known[0]}
        elif type(event) is Shutdown:
            for place, (outbox, member) in enumerate(self.present.items()):
                if member.events:
                    self.closing[outbox] = int(event.first + place * event.step)
            self.present.clear()

    def _send(self, event: Said, now: float) -> None:
        sender = self.present.get(event.outbox)
        if sender is None:
            return
        known = None if sender.refs is None or event.ref is UNSET else sender.refs.get(event.ref)
        if known is not None:
            self.due[event.outbox].append(("ack", *known, event.ref, True))
            return
        self.accepted += 1
        deadline = now + self._settings.message_ttl
        self._stored.append(Stored(self.accepted, sender.username, event.message, deadline, sender, event.ref))
        others = len(self.present) - 1
        if sender.refs is not None and event.ref is not UNSET:
            sender.refs[event.ref] = self.accepted, others
        for outbox in self.present:
            if outbox is event.outbox:
                self.due[outbox].append(("ack", self.accepted, others, event.ref, False))
            else:
                self.due[outbox].append(("message", self.accepted, sender.username, event.message, False))

    def _join(self, event: Join, now: float) -> None:
        window = event.window or Window()
        old = next((one for one, member in self.present.items() if member.token == window.resume), None)
        if old is None and 0 < self._settings.topic_members <= len(self.present):
            return
        until, member = self._departed.pop(window.resume, (now, None))
        if old is not None:
            member = self.present.pop(old)
            self.replaced.add(old)
        elif now >= until:
            member = None
        if member is None:
            token = None if event.window is None else self._tokens.get(event.outbox, f"unseen {self._joins}")
            member = Member("", 0, token, False, None if event.window is None else {})
        names = {one.username.casefold() for one in self.present.values()}
        if not member.username or member.username.casefold() in names:
            number = 1
            member.username = event.username
            while member.username.casefold() in names:
                number += 1
                member.username = f"{event.username}#{number}"
        if old is None:
            self._joins += 1
            member.number = self._joins
        member.events = window.events
        self.present[event.outbox] = member
        if window.events:
            self.watchers.add(event.outbox)
        self.joined_at[event.outbox] = len(self.rosters)
        self._note_names()
        self.due[event.outbox] = []  # what is said in the same turn
        self._newcomers[event.outbox] = event.window, member, self.accepted

    def _tell(self, outbox: Outbox, now: float) -> None:
        window, member, newest = self._newcomers[outbox]
        self.due[outbox] = [*self._welcome(window, member, newest, now), *self.due[outbox]]

    def _welcome(self, window: Optional[Window], member: Member, newest: int, now: float) -> list[Item]:
        if window is None:
            return [("joined", member.username, None, None)]
        since = window.since
        lost: Optional[tuple[int, Optional[int], str]] = None
        margin = min(MARGIN_SECONDS, self._settings.message_ttl / 10)
        kept = [one for one in self._stored if now + margin < one.deadline]
        through = kept[0].id - 1 if kept else self.accepted
        if since is UNSET:
            since = newest
        elif window.epoch not in (UNSET, self._epoch):
            since, lost = 0, (since + 1, None, "restarted")
        elif window.epoch is not UNSET and since < through:
            lost = since + 1, through, "evicted" if self._evicted > since else "expired"
        replay = [("message", one.id, one.username, one.message, True) for one in kept if since < one.id <= newest]
        return [("joined", member.username, newest, lost), *replay]

    def _leave(self, event: Leave, now: float) -> None:
        member = self.present.pop(event.outbox, None)
        if member is not None:
            if self._newcomers.pop(event.outbox, None) is not None:
                self.due[event.outbox] = []  # it has gone before it was told anything
            if member.token is not None:
                self._departed[member.token] = now + self._settings.message_ttl, member
            self._note_names()

    def _note_names(self) -> None:
        oldest_first = sorted(self.present.values(), key=lambda one: one.number)
        self.rosters.append([one.username for one in oldest_first])

    def _forget(self) -> None:
        one = self._stored.pop(0)
        if one.sender.refs is not None and one.ref is not UNSET:
            del one.sender.refs[one.ref]


def item(frame: dict[str, Any]) -> Optional[Item]:
    """A frame that someone was sent, in the same words; None for one that the model knows nothing of."""
    kind = frame["type"]
    if kind == "message":
        return kind, frame["id"], frame["username"], frame["message"], frame.get("replayed", False)
    if kind == "ack":
        ref, duplicate = frame.get("ref", UNSET), frame.get("duplicate", False)
        return kind, frame["id"], frame["recipients"], ref, duplicate
    if kind == "joined":
        lost = frame.get("gap")
        gap = None if lost is None else (lost["from"], lost["to"], lost["reason"])
        return kind, frame["username"], frame.get("last_id"), gap
    return None
