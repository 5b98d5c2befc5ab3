"""Members of a topic: their names and tokens, and the members that left recently enough to resume. No asyncio."""

import secrets
from collections.abc import Hashable
from typing import Generic, Optional, TypeVar

from msgspec import Struct

from chat_actors.protocol.frames import Window
from chat_actors.protocol.names import nickname_key
from chat_actors.room.history import Refs

Key = TypeVar("Key", bound=Hashable)  # identifies a connection; an actor uses the outbox


class Member(Struct, eq=False):
    """Member of a topic. ``events``, ``token`` and ``refs`` keep their defaults if it did not ask for the window."""

    username: str
    nickname: str  # the form in which the username is compared (RFC 8266)
    order: int = 0  # its place among the joins of the topic
    events: bool = False  # whether it gets the notices about other members and about expiry
    token: str = ""  # resumes this member
    refs: Optional[Refs] = None


class Members(Generic[Key]):
    """Members of one topic: those present, and those that left with a token at most ``window_seconds`` ago."""

    def __init__(self, window_seconds: float) -> None:
        self.present: dict[Key, Member] = {}
        self.watchers = 0  # members with ``events``
        self._window = window_seconds
        self._nicknames: set[str] = set()
        self._connected: dict[str, Key] = {}  # by token
        self._departed: dict[str, tuple[float, Member]] = {}  # by token: deadline (monotonic seconds); oldest first
        self._joins = 0

    def would_replace(self, window: Optional[Window]) -> bool:
        """Return whether a join with this window takes the place of a member that is present."""
        return window is not None and window.resume in self._connected

    def join(self, key: Key, username: str, window: Optional[Window], now: float) -> tuple[Member, Optional[Key]]:
        """Add a member, or resume one by the window's token.

        Return the member, and the key of the connection that it had until now, if it was still present.
        """
        member, replaced = None, None
        if window is not None and window.resume:
            replaced = self._connected.get(window.resume)
            if replaced is not None:
                member = self._remove(replaced)
            elif window.resume in self._departed:
                deadline, known = self._departed.pop(window.resume)
                member = known if now < deadline else None
        if member is None:
            member = Member("", "")
            if window is not None:
                member.token, member.refs = secrets.token_urlsafe(16), {}
        if not member.nickname or member.nickname in self._nicknames:  # new, or its name was taken meanwhile
            member.username, member.nickname = self._free_name(username)
        if replaced is None:
            self._joins += 1
            member.order = self._joins
        member.events = window is not None and window.events
        self._add(key, member)
        return member, replaced

    def leave(self, key: Key, now: float) -> Optional[Member]:
        """Remove a member and return it; None if the connection is not a member."""
        if key not in self.present:
            return None
        member = self._remove(key)
        if member.token:
            self._departed[member.token] = now + self._window, member
        return member

    def restore(self, key: Key, username: str, token: str, events: bool, refs: Optional[Refs]) -> Member:
        """Add a member of an earlier epoch of the topic, under its name or, if that is taken, another one."""
        self._joins += 1
        if token in self._departed:  # it is connected after all
            refs = self._departed.pop(token)[1].refs
        name, nickname = self._free_name(username)
        member = Member(name, nickname, self._joins, events, token, refs)
        self._add(key, member)
        return member

    def is_connected(self, token: str) -> bool:
        """Return whether the member with this token is present."""
        return token in self._connected

    def restore_departed(self, username: str, token: str, refs: Refs, deadline: float) -> None:
        """Add a member that left an earlier epoch and may resume until ``deadline`` (monotonic seconds)."""
        self._departed[token] = deadline, Member(username, nickname_key(username), token=token, refs=refs)

    def departed(self) -> list[tuple[float, Member]]:
        """Return the members that left and may resume, each with its deadline (monotonic seconds), oldest first."""
        return list(self._departed.values())

    def expire(self, now: float) -> None:
        """Forget the members that left and whose deadline is not after ``now`` (monotonic seconds)."""
        for token, (deadline, _) in list(self._departed.items()):
            if now < deadline:
                break
            del self._departed[token]

    def clear(self) -> None:
        """Remove all members, and forget those that left."""
        self.present.clear()
        self._departed.clear()

    @property
    def oldest_deadline(self) -> Optional[float]:
        """Deadline of the member that left first (monotonic seconds); None if there is none."""
        return next((deadline for deadline, _ in self._departed.values()), None)

    def names(self) -> list[str]:
        """Return the usernames of the members that are present, oldest member first."""
        return [member.username for member in sorted(self.present.values(), key=lambda member: member.order)]

    def _free_name(self, username: str) -> tuple[str, str]:
        """Return the username and its nickname; if taken, with the smallest free ``#n`` appended, n from 2."""
        nickname = nickname_key(username)
        name, free, suffix = username, nickname, 1
        while free in self._nicknames:
            suffix += 1
            name, free = f"{username}#{suffix}", f"{nickname}#{suffix}"
        return name, free

    def _add(self, key: Key, member: Member) -> None:
        self.present[key] = member
        self._nicknames.add(member.nickname)
        self.watchers += member.events
        if member.token:
            self._connected[member.token] = key

    def _remove(self, key: Key) -> Member:
        member = self.present.pop(key)
        self._nicknames.discard(member.nickname)
        self.watchers -= member.events
        self._connected.pop(member.token, None)
        return member
