"""Time, as the actors see it: injected, so that tests own it."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Callable


class Clock:
    """``monotonic`` decides when something is over; ``wall`` is only ever shown (both in seconds)."""

    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    wall: Callable[[], float] = staticmethod(time.time)
    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)
