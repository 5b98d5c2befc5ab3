"""What has happened so far, in plain numbers: one meter for each application, read by ``metrics``. No asyncio.

The actors and connections of the application add to it, at most once for each turn or for each event that is rare.
"""

from collections import Counter

from chat_actors.protocol.codes import CloseCode, ErrorCode


class Histogram:
    """How often what was measured lay below each power of two, in units of ``unit``."""

    def __init__(self, unit: float, powers: int) -> None:
        self.unit = unit
        self.counts = [0] * (powers + 1)  # place k: below 2**k units and not below half of that; last: all above
        self.sum = 0.0
        self._most = powers

    def limit(self, power: int) -> float:
        """What everything in the place ``power`` lies below, or is at most where the unit is a whole number."""
        return float(2**power - 1 if self.unit == 1 else 2**power * self.unit)

    def add(self, value: float) -> None:
        """Note one measurement (not negative)."""
        power = int(value / self.unit).bit_length()
        self.counts[power if power < self._most else self._most] += 1
        self.sum += value


class Meter:
    """Numbers that only grow."""

    def __init__(self) -> None:
        self.accepted = 0  # messages, into the order of their topic
        self.delivered = 0  # messages, times those they were written to
        self.duplicates = 0  # messages known by their ref and not sent again
        self.expired = 0  # messages, at the end of the window
        self.evicted = 0  # messages, before it
        self.bytes_out = 0  # by connections that have ended
        self.slow = 0  # readers aborted
        self.refused: Counter[ErrorCode] = Counter()  # frames
        self.closed: Counter[CloseCode] = Counter()  # connections, by the server
        self.turns = Histogram(1, 9)  # events taken in one turn of a topic
        self.fan_outs = Histogram(1e-6, 24)  # seconds from the first to the last member of a fan-out
        self.lag = Histogram(1e-6, 24)  # seconds that the event loop was late
