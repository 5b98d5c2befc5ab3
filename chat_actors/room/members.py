"""Members of a topic: their names and tokens, and the members that left recently enough to resume. No asyncio."""

import re
import secrets
from collections import OrderedDict
from collections.abc import Hashable
from copy import copy
from typing import Generic, Optional, TypeVar

from msgspec import Struct

from chat_actors.protocol.frames import Window
from chat_actors.protocol.names import nickname_key
from chat_actors.room.history import Refs
from chat_actors.room.numbering import Numbering

Key = TypeVar("Key", bound=Hashable)  # identifies a connection; an actor uses the outbox

_NUMBERED = re.compile(r"(.+)#([1-9][0-9]*)", re.DOTALL)


class Member(Struct, eq=False):
    """Member of a topic. ``events``, ``token`` and ``refs`` keep their defaults if it did not ask for the window."""

    username: str
    nickname: str  # the form in which the username is compared (RFC 8266)
    events: bool = False  # whether it gets the notices about other members and about expiry
    token: str = ""  # resumes this member
    refs: Optional[Refs] = None


class Members(Generic[Key]):
    """Members of one topic: those present, and those that left with a token at most ``window_seconds`` ago.

    ``present`` says who is a member. All else about them follows from it, and ``repair`` makes it so again.
    """

    def __init__(self, window_seconds: float) -> None:
        self.present: dict[Key, Member] = {}
        self.watchers = 0  # members with ``events``
        self._window = window_seconds
        self._usernames: dict[str, str] = {}  # by nickname, oldest member first
        self._numberings: dict[str, Numbering] = {}  # by the nickname without a number
        self._connected: dict[str, Key] = {}  # by token
        # By token, with a deadline (monotonic seconds), oldest first. A dict would look for its first item in what
        # was deleted before.
        self._departed: OrderedDict[str, tuple[float, Member]] = OrderedDict()

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
                before = self.present.pop(replaced)
                self.watchers -= before.events
                member = copy(before)  # it keeps its name, and its place among the names
            elif window.resume in self._departed:
                deadline, known = self._departed.pop(window.resume)
                member = known if now < deadline else None
        if member is None:
            member = Member("", "")
            if window is not None:
                member.token, member.refs = secrets.token_urlsafe(16), {}
        if replaced is None and (not member.nickname or member.nickname in self._usernames):
            member.username, member.nickname = self._free_name(username)
        member.events = window is not None and window.events
        self._add(key, member)
        return member, replaced

    def leave(self, key: Key, now: float) -> Optional[Member]:
        """Remove a member and return it; None if the connection is not a member."""
        member = self.present.pop(key, None)
        if member is None:
            return None
        del self._usernames[member.nickname]
        self._release_number(member.nickname)
        self.watchers -= member.events
        if member.token:
            del self._connected[member.token]
            self._departed[member.token] = now + self._window, member
        return member

    def repair(self, without: Key) -> None:
        """Remove a member for good, and derive all else from ``present`` anew: a step of its join or leave failed."""
        self.present.pop(without, None)
        usernames = {member.nickname: member.username for member in self.present.values()}
        in_order = {nickname: usernames[nickname] for nickname in self._usernames if nickname in usernames}
        self._usernames = {**in_order, **usernames}
        self._numberings = {}
        self._connected = {member.token: key for key, member in self.present.items() if member.token}
        self.watchers = sum(member.events for member in self.present.values())

    def restore(self, key: Key, username: str, token: str, events: bool, refs: Optional[Refs]) -> Member:
        """Add a member of an earlier epoch of the topic, under its name or, if that is taken, another one."""
        if token in self._departed:  # it is connected after all
            refs = self._departed.pop(token)[1].refs
        name, nickname = self._free_name(username)
        member = Member(name, nickname, events, token, refs)
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
        while self._departed:
            token, (deadline, _) = next(iter(self._departed.items()))
            if now < deadline:
                break
            del self._departed[token]

    def clear(self) -> None:
        """Remove all members, and forget those that left."""
        for known in (self.present, self._usernames, self._numberings, self._connected, self._departed):
            known.clear()
        self.watchers = 0

    @property
    def oldest_deadline(self) -> Optional[float]:
        """Deadline of the member that left first (monotonic seconds); None if there is none."""
        return next((deadline for deadline, _ in self._departed.values()), None)

    def names(self) -> list[str]:
        """Return the usernames of the members that are present, oldest member first."""
        return list(self._usernames.values())

    def _free_name(self, username: str) -> tuple[str, str]:
        """Return the username and its nickname; if taken, with the smallest free ``#n`` appended, n from 2."""
        nickname = nickname_key(username)
        if nickname not in self._usernames:
            return username, nickname
        numbering = self._numberings.get(nickname)
        if numbering is None:
            numbering = self._numberings[nickname] = Numbering(nickname)
        number = numbering.smallest(self._usernames)
        return f"{username}#{number}", f"{nickname}#{number}"

    def _release_number(self, nickname: str) -> None:
        numbered = _NUMBERED.fullmatch(nickname) if self._numberings else None
        if numbered is not None and numbered[1] in self._numberings:
            none_taken = self._numberings[numbered[1]].release(int(numbered[2]))
            if none_taken:
                del self._numberings[numbered[1]]

    def _add(self, key: Key, member: Member) -> None:
        self.present[key] = member
        self._usernames[member.nickname] = member.username
        self.watchers += member.events
        if member.token:
            self._connected[member.token] = key
