"""Who is in a topic, under which name, and who left so recently that he may come back as himself. No asyncio."""

import secrets
from typing import Optional

from msgspec import Struct

from chat_actors.connection.outbox import Carrier, Outbox
from chat_actors.protocol.frames import Window
from chat_actors.protocol.names import nickname_key
from chat_actors.room.history import Refs


class Member(Struct, eq=False):
    """``key``: what the username is compared by. The rest is for a member that asked for the window."""

    username: str
    key: str
    number: int = 0  # of the join, in the topic's order
    events: bool = False  # whether it wants notices of what happens to others
    token: str = ""  # what it may resume by; empty if it did not ask
    refs: Optional[Refs] = None  # its references within the window


class Members:
    """The members of one topic, and those who left within the window and asked to be known again."""

    def __init__(self, window_seconds: float) -> None:
        self.present: dict[Outbox, Member] = {}
        self.near: dict[Outbox, Member] = {}  # of them, those who are written to one by one
        self.carrier: Optional[Carrier] = None  # of the others
        self.watchers = 0  # members with ``events``
        self._window = window_seconds
        self._keys: set[str] = set()
        self._connected: dict[str, Outbox] = {}  # by token
        self._departed: dict[str, tuple[float, Member]] = {}  # by token; until when (monotonic), oldest first
        self._joins = 0

    def is_here(self, window: Optional[Window]) -> bool:
        """Whether who joins with this takes the place of a member that is present."""
        return window is not None and window.resume in self._connected

    def join(
        self, outbox: Outbox, username: str, window: Optional[Window], now: float
    ) -> tuple[Member, Optional[Outbox]]:
        """The new member, or the one that comes back; and the outbox of its old connection, if that is still here."""
        member, replaced = None, None
        if window is not None and window.resume:
            replaced = self._connected.get(window.resume)
            if replaced is not None:
                member = self._remove(replaced)
            elif window.resume in self._departed:
                until, known = self._departed.pop(window.resume)
                member = known if now < until else None
        if member is None:
            member = Member("", "")
            if window is not None:
                member.token, member.refs = secrets.token_urlsafe(16), {}
        if not member.key or member.key in self._keys:  # a name is not held back for someone who left
            member.username, member.key = self._free_name(username)
        if replaced is None:
            self._joins += 1
            member.number = self._joins
        member.events = window is not None and window.events
        self._add(outbox, member)
        return member, replaced

    def leave(self, outbox: Outbox, now: float) -> Optional[Member]:
        """The member that has left; None if it was none."""
        if outbox not in self.present:
            return None
        member = self._remove(outbox)
        if member.token:
            self._departed[member.token] = now + self._window, member
        return member

    def restore(self, outbox: Outbox, username: str, token: str, events: bool, refs: Optional[Refs]) -> Member:
        """Someone who was a member before this life of the topic, under its name unless that is taken by now."""
        self._joins += 1
        if token in self._departed:  # it was thought gone
            refs = self._departed.pop(token)[1].refs
        name, key = self._free_name(username)
        member = Member(name, key, self._joins, events, token, refs)
        self._add(outbox, member)
        return member

    def has_returned(self, token: str) -> bool:
        """Whether this member has a connection."""
        return token in self._connected

    def restore_departed(self, username: str, token: str, refs: Refs, until: float) -> None:
        """Someone who had left before this life of the topic, and may come back until then (monotonic seconds)."""
        self._departed[token] = until, Member(username, nickname_key(username), token=token, refs=refs)

    def departed(self) -> list[tuple[float, Member]]:
        """Who may come back, and until when, oldest first."""
        return list(self._departed.values())

    def forget(self, now: float) -> None:
        """Forget those who left so long ago that they cannot come back as themselves."""
        for token, (until, _) in list(self._departed.items()):
            if now < until:
                break
            del self._departed[token]

    def clear(self) -> None:
        """Forget all."""
        self.present.clear()
        self.near.clear()
        self._departed.clear()

    @property
    def oldest_deadline(self) -> Optional[float]:
        """When the next of those who left has to be forgotten; None where there is none."""
        return next((until for until, _ in self._departed.values()), None)

    def names(self) -> list[str]:
        """The usernames, oldest member first."""
        return [member.username for member in sorted(self.present.values(), key=lambda member: member.number)]

    def _free_name(self, username: str) -> tuple[str, str]:
        """The name and its key; where it is taken, with the smallest number from 2 that makes it free."""
        key = nickname_key(username)
        name, free, number = username, key, 1
        while free in self._keys:
            number += 1
            name, free = f"{username}#{number}", f"{key}#{number}"
        return name, free

    def _add(self, outbox: Outbox, member: Member) -> None:
        self.present[outbox] = member
        if outbox.carrier is None:
            self.near[outbox] = member
        else:
            self.carrier = outbox.carrier
        self._keys.add(member.key)
        self.watchers += member.events
        if member.token:
            self._connected[member.token] = outbox

    def _remove(self, outbox: Outbox) -> Member:
        member = self.present.pop(outbox)
        self.near.pop(outbox, None)
        self._keys.discard(member.key)
        self.watchers -= member.events
        self._connected.pop(member.token, None)
        return member
