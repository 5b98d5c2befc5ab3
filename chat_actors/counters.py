"""Counters, histograms and snapshots of one application: plain values that ``operations.metrics`` reads.

Each application has one ``Counters``. Actors and connections update it at most once in a turn, or at rare events.
"""

import operator
from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec import Struct


class Histogram:
    """Histogram of measurements, with a bucket for each power of two of ``unit``."""

    def __init__(self, unit: float, powers: int) -> None:
        self.unit = unit
        self.counts = [0] * (powers + 1)  # index k: from half of 2**k units to less than 2**k; last index: all above
        self.sum = 0.0
        self._last = powers

    def limit(self, power: int) -> float:
        """Return the upper bound of ``counts[power]``: exclusive, or inclusive if ``unit`` is 1."""
        return float(2**power - 1 if self.unit == 1 else 2**power * self.unit)

    def add(self, value: float) -> None:
        """Count one measurement; it must not be negative."""
        power = int(value / self.unit).bit_length()
        self.counts[power if power < self._last else self._last] += 1
        self.sum += value


class Counters:
    """Counters and histograms of one application. They only grow.

    All are updated in the event loop, but ``lines_dropped``: by ``operations.log_writer``, in any thread.
    """

    def __init__(self) -> None:
        self.accepted = 0  # messages that a topic has taken
        self.delivered = 0  # messages, once for each member that they were written to
        self.duplicates = 0  # messages whose ref was known, so that they were not sent again
        self.expired = 0  # messages deleted at the end of the window
        self.evicted = 0  # messages deleted before it, by the bounds of the history
        self.bytes_out = 0  # of connections that have ended
        self.slow = 0  # readers that were aborted
        self.lines_dropped = 0  # of the log
        self.refused: Counter[str] = Counter()  # frames, by the value of their ErrorCode
        self.closed: Counter[int] = Counter()  # connections that the server closed, by close code
        self.turns = Histogram(1, 9)  # events in one turn of a topic
        self.fan_outs = Histogram(1e-6, 24)  # seconds from the first to the last member of a fan-out
        self.lag = Histogram(1e-6, 24)  # seconds that the event loop was late

    def values(self) -> dict[str, Any]:
        """Return all values, by name: a histogram's are its counts and its sum."""
        return {
            name: [value.counts, value.sum] if isinstance(value, Histogram) else value
            for name, value in vars(self).items()
        }

    def add(self, values: dict[str, Any]) -> None:
        """Add the values of other counters."""
        for name, value in values.items():
            own = getattr(self, name)
            if isinstance(own, Histogram):
                counts, total = value
                own.counts = [*map(operator.add, own.counts, counts)]
                own.sum += total
            elif isinstance(own, Counter):
                own.update(value)
            else:
                setattr(self, name, own + value)


class TopicStatistics(Struct, frozen=True):
    """Snapshot of one topic."""

    users: int
    messages: int  # stored
    mail: int  # events that wait in the mailbox
    mail_age: float  # seconds that they have waited


class Totals(Struct):
    """Totals and maxima of topics. No topic is named: a name is what users made of it."""

    topics: int = 0
    users: int = 0
    mail: int = 0  # events that wait in the mailboxes
    mail_age: float = 0.0  # seconds, the longest
    max_users: int = 0
    max_messages: int = 0
    max_mail: int = 0

    def add_all(self, other: "Totals") -> None:
        """Add the topics of another process."""
        for name in self.__struct_fields__:
            combine = max if name.startswith("max_") or name == "mail_age" else operator.add
            setattr(self, name, combine(getattr(self, name), getattr(other, name)))

    def add(self, some: Iterable[TopicStatistics]) -> None:
        """Add topics to those so far."""
        for one in some:
            self.topics += 1
            self.users += one.users
            self.mail += one.mail
            self.mail_age = max(self.mail_age, one.mail_age)
            self.max_users = max(self.max_users, one.users)
            self.max_messages = max(self.max_messages, one.messages)
            self.max_mail = max(self.max_mail, one.mail)


class Statistics(Struct):
    """Snapshot of one application."""

    connections: int
    totals: Totals  # of the topics
    max_waiting: int  # bytes that wait for one connection, at most
    mail: int  # events that wait in the supervisor's mailbox
    bytes_out: int  # since the start

    def add(self, other: "Statistics") -> None:
        """Add what another process of the same server has."""
        self.connections += other.connections
        self.totals.add_all(other.totals)
        self.max_waiting = max(self.max_waiting, other.max_waiting)
        self.mail += other.mail
        self.bytes_out += other.bytes_out


class Measurements(Struct):
    """What is measured of a server, in all of its processes."""

    statistics: Statistics
    counters: Counters
    processes: dict[int, int] = {}  # of a server with several, by worker: those whose own metrics are to be shown
