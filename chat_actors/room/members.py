"""Who is in a topic, under which name, and who left so recently that he may come back as himself. No asyncio."""

import secrets
from collections.abc import Hashable
from typing import Generic, Optional, TypeVar

from msgspec import Struct

from chat_actors.protocol.frames import Window
from chat_actors.protocol.names import nickname_key
from chat_actors.room.history import Refs

Key = TypeVar("Key", bound=Hashable)  # what stands for a connection: its outbox, where an actor asks


class Member(Struct, eq=False):
    """``nickname``: what the username is compared by. The rest is for a member that asked for the window."""

    username: str
    nickname: str
    order: int = 0  # its place among the joins of the topic
    events: bool = False  # whether it wants notices of what happens to others
    token: str = ""  # what it may resume by; empty if it did not ask
    refs: Optional[Refs] = None  # its references within the window


class Members(Generic[Key]):
    """The members of one topic, and those who left within the window and asked to be known again."""

    def __init__(self, window_seconds: float) -> None:
        self.present: dict[Key, Member] = {}
        self.watchers = 0  # members with ``events``
        self._window = window_seconds
        self._nicknames: set[str] = set()
        self._connected: dict[str, Key] = {}  # by token
        self._departed: dict[str, tuple[float, Member]] = {}  # by token; until when (monotonic), oldest first
        self._joins = 0

    def is_here(self, window: Optional[Window]) -> bool:
        """Whether who joins with this takes the place of a member that is present."""
        return window is not None and window.resume in self._connected

    def join(self, key: Key, username: str, window: Optional[Window], now: float) -> tuple[Member, Optional[Key]]:
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
        if not member.nickname or member.nickname in self._nicknames:  # a name is not held back for someone who left
            member.username, member.nickname = self._free_name(username)
        if replaced is None:
            self._joins += 1
            member.order = self._joins
        member.events = window is not None and window.events
        self._add(key, member)
        return member, replaced

    def leave(self, key: Key, now: float) -> Optional[Member]:
        """The member that has left; None if it was none."""
        if key not in self.present:
            return None
        member = self._remove(key)
        if member.token:
            self._departed[member.token] = now + self._window, member
        return member

    def restore(self, key: Key, username: str, token: str, events: bool, refs: Optional[Refs]) -> Member:
        """Someone who was a member before this life of the topic, under its name unless that is taken by now."""
        self._joins += 1
        if token in self._departed:  # it was thought gone
            refs = self._departed.pop(token)[1].refs
        name, nickname = self._free_name(username)
        member = Member(name, nickname, self._joins, events, token, refs)
        self._add(key, member)
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
        self._departed.clear()

    @property
    def oldest_deadline(self) -> Optional[float]:
        """When the next of those who left has to be forgotten; None where there is none."""
        return next((until for until, _ in self._departed.values()), None)

    def names(self) -> list[str]:
        """The usernames, oldest member first."""
        return [member.username for member in sorted(self.present.values(), key=lambda member: member.order)]

    def _free_name(self, username: str) -> tuple[str, str]:
        """The name and its key; where it is taken, with the smallest number from 2 that makes it free."""
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
