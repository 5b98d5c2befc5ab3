"""How fast one sender may go on: a token bucket that slows down and never refuses. No asyncio."""


class Pace:
    """``rate`` frames a second, after a burst of ``burst`` at any speed."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def wait(self, now: float) -> float:
        """Take a frame's token; returns the seconds to wait before the next frame is read, 0 where there is none."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._tokens / self._rate)
