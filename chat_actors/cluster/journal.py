"""How far a node has followed a topic, be it as the owner who speaks or as a relay that hears, and what it has kept."""

import secrets
from collections import deque
from collections.abc import Iterator
from typing import Callable, Optional

from chat_actors.cluster.backlog import Backlog, Ration
from chat_actors.cluster.gather import Legacy
from chat_actors.cluster.wire import Kept, Line, Parcel
from chat_actors.settings import Settings

MOST_ANCESTORS = 16  # lives of a topic before this one that a relay may come from and lose nothing


class Journal:
    """A line of parcels, and those of them that are within the window.

    ``now``: monotonic seconds; ``watch``: is told that there is something that will have to be forgotten.
    """

    def __init__(self, settings: Settings, now: Callable[[], float], watch: Callable[[Backlog], None]) -> None:
        self.line = Line()
        self.backlog = Backlog(settings.message_ttl, settings.history_bytes)
        self._now = now
        self._watch = watch
        self._born = now()

    @property
    def age(self) -> float:
        """Seconds since the topic was first joined."""
        return self._now() - self._born

    def told(self) -> Line:
        """The line as it is now, for another node."""
        line = self.line
        return Line(line.name, line.number, line.last_id, dict(line.ancestors), self.age)

    def kept(self, ration: Ration) -> list[Kept]:
        """The parcels, for another node; where that is too much, the newest."""
        return self.backlog.kept(self._now(), ration)

    def add(self, parcel: Parcel) -> None:
        """The next parcel."""
        self.line.number = parcel.number
        self.saw(parcel.last_id)
        self.backlog.add(parcel, self._now())
        self._watch(self.backlog)

    def saw(self, last_id: int) -> None:
        """The topic's messages go that far, as somebody knows."""
        self.line.last_id = max(self.line.last_id, last_id)

    def begin(self, legacy: Optional[Legacy] = None) -> None:
        """Begin a line, which goes on from another one or from nothing."""
        self.line = Line(secrets.token_hex(4))
        self.backlog.clear()
        now = self._born = self._now()
        if legacy is not None:
            before, line = legacy.line, self.line
            self._born -= before.age
            line.number, line.last_id = before.number, before.last_id
            older = list(before.ancestors.items())[1 - MOST_ANCESTORS :]
            line.ancestors = {**dict(older), before.name: before.number}
            for kept in legacy.parcels:
                self.backlog.restore(kept.parcel, now + kept.remaining)
            self._watch(self.backlog)

    def follow(self, line: Line, anew: bool) -> None:
        """Go on in a line from here, or ``anew`` from where that is."""
        if anew:
            self.backlog.clear()
            self.line.number = line.number
        self.line.name, self.line.ancestors = line.name, line.ancestors
        self.saw(line.last_id)
        self._born = self._now() - line.age


class Remains:
    """What relays that have ended had followed: for a moment, nobody else may have what an owner said last."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, str, str, Journal]] = deque()  # until when, topic, owner

    def add(self, topic: str, owner: str, journal: Journal, until: float) -> None:
        """Keep it until then (monotonic seconds)."""
        self._kept.append((until, topic, owner, journal))

    def expire(self, now: float) -> None:
        """Forget what is over."""
        while self._kept and self._kept[0][0] <= now:
            self._kept.popleft()

    def of_others_than(self, nodes: list[str]) -> Iterator[tuple[str, Journal]]:
        """By topic, what owners have said that are none of these nodes."""
        return ((topic, journal) for _, topic, owner, journal in self._kept if owner not in nodes)
