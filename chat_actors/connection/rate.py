"""The rate limit of one connection. No asyncio, no clock of its own."""


class TokenBucket:
    """Token bucket that slows a sender down and never refuses a frame.

    ``rate``: frames per second. ``burst``: frames that may come at any speed before the rate applies. ``now``, here and
    in ``take``: monotonic seconds. ``tokens`` are what is left of the burst at the time ``at``.
    """

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self.tokens = float(burst)
        self.at = now

    def take(self, now: float) -> float:
        """Take the token of one frame; return the seconds to wait before the next read, 0 for none."""
        self.tokens = min(self._burst, self.tokens + (now - self.at) * self._rate) - 1
        self.at = now
        return max(0.0, -self.tokens / self._rate)
