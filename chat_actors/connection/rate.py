"""How fast one sender may go on. No asyncio."""


class TokenBucket:
    """A limit of ``rate`` frames a second after a burst of ``burst`` at any speed: it slows down and never refuses."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Take a frame's token; returns the seconds to wait before the next frame is read, 0 if none."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._tokens / self._rate)
