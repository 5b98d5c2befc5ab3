"""What has happened so far and what there is now, in plain numbers: written by those who act, read by ``metrics``.

One ``Counters`` for each application. The actors and connections add to it at most once a turn, or at rare events.
"""

from collections import Counter

from msgspec import Struct


class Histogram:
    """How often a measurement lay below each power of two, in units of ``unit``."""

    def __init__(self, unit: float, powers: int) -> None:
        self.unit = unit
        self.counts = [0] * (powers + 1)  # place k: below 2**k units and not below half of that; last: all above
        self.sum = 0.0
        self._most = powers

    def limit(self, power: int) -> float:
        """The bound of the place ``power``: exclusive, or inclusive where the unit is a whole number."""
        return float(2**power - 1 if self.unit == 1 else 2**power * self.unit)

    def add(self, value: float) -> None:
        """Count one measurement (not negative)."""
        power = int(value / self.unit).bit_length()
        self.counts[power if power < self._most else self._most] += 1
        self.sum += value


class Counters:
    """Numbers that only grow."""

    def __init__(self) -> None:
        self.accepted = 0  # messages, into the order of their topic
        self.delivered = 0  # messages, times the members they were written to
        self.duplicates = 0  # messages known by their ref and not sent again
        self.expired = 0  # messages, at the end of the window
        self.evicted = 0  # messages, before it
        self.bytes_out = 0  # by connections that have ended
        self.slow = 0  # readers aborted
        self.refused: Counter[str] = Counter()  # frames, by the value of their ErrorCode
        self.closed: Counter[int] = Counter()  # connections that the server closed, by CloseCode
        self.turns = Histogram(1, 9)  # events taken in one turn of a topic
        self.fan_outs = Histogram(1e-6, 24)  # seconds from the first to the last member of a fan-out
        self.lag = Histogram(1e-6, 24)  # seconds that the event loop was late


class TopicStatistics(Struct, frozen=True):
    """One topic at one moment. ``messages``: of the window; ``mail``: events that wait, for ``mail_age`` seconds."""

    topic: str
    users: int
    messages: int
    mail: int
    mail_age: float


class ReaderStatistics(Struct, frozen=True):
    """A member and the bytes that wait for it."""

    topic: str
    username: str
    waiting: int


class Statistics(Struct, frozen=True):
    """One application at one moment. ``mail``: events that wait for the supervisor; ``bytes_out``: since the start."""

    connections: int
    topics: list[TopicStatistics]  # oldest first
    slowest: list[ReaderStatistics]  # those for whom most waits, if anything does
    mail: int
    bytes_out: int
