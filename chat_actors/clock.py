"""Time, injected: nothing in this package reads a clock or sets a timer but through here, so tests own time."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Callable, Protocol


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None:
        """Forget the call. No-op if it was made or cancelled before."""


class Clock:
    """``monotonic`` decides when something is over; ``wall`` is only ever shown. Both are in seconds."""

    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    wall: Callable[[], float] = staticmethod(time.time)
    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> Timer:
        """Call ``call(*args)`` in the running loop after so many seconds, unless the timer is cancelled."""
        return asyncio.get_running_loop().call_later(seconds, call, *args)
