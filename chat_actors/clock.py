"""Clock and timers, injected: actors and connections use time only through a ``Clock``, so that tests control time."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Callable, Protocol


class Timer(Protocol):
    """Scheduled call."""

    def cancel(self) -> None:
        """Cancel the call. No-op if it was made or cancelled before."""


class Clock:
    """Source of time, in seconds: deadlines use ``monotonic``; ``wall`` is Unix time, only for people to read."""

    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    wall: Callable[[], float] = staticmethod(time.time)
    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> Timer:
        """Schedule ``call(*args)`` in the running loop after so many seconds, unless the timer is cancelled."""
        return asyncio.get_running_loop().call_later(seconds, call, *args)
