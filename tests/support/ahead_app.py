"""A server whose clock a test can put forward: ``POST /ahead?seconds=30``.

``app`` has the fast lane, and ``wrapped`` the plain one, for a function of its own is around ``send``.
"""

import asyncio
import math
import time
from typing import Any, Callable, Optional

from chat_actors.application import create_app
from chat_actors.clock import Clock
from chat_actors.connection.asgi import Receive, Scope, Send
from chat_actors.connection.base import SWEEP_SECONDS
from chat_actors.operations.logs import configure_logging

TURNS = 20  # of the loop after each step: more than a sweep takes


class AheadTimer:
    """Scheduled call of ClockAhead: at its time on the machine, or sooner if the clock is put forward."""

    def __init__(self, clock: "ClockAhead", seconds: float, call: Callable[[], object]) -> None:
        self._clock = clock
        self._due = clock.monotonic() + seconds
        self._call = call
        self._handle: Optional[asyncio.TimerHandle] = None
        clock.timers.add(self)
        self.set()

    def set(self) -> None:
        """Ask the loop to ring when the time has come, by what the clock says now."""
        if self._handle is not None:
            self._handle.cancel()
        left = max(0.0, self._due - self._clock.monotonic())
        self._handle = asyncio.get_running_loop().call_later(left, self._ring)

    def cancel(self) -> None:
        self._clock.timers.discard(self)
        if self._handle is not None:
            self._handle.cancel()

    def _ring(self) -> None:
        self._clock.timers.discard(self)
        self._call()


class ClockAhead(Clock):
    """Clock of the machine, plus the seconds by which a test has put it forward."""

    def __init__(self) -> None:
        self.timers: set[AheadTimer] = set()
        self._ahead = 0.0
        self.monotonic = lambda: time.monotonic() + self._ahead
        self.wall = lambda: time.time() + self._ahead
        self.sleep = self._sleep

    async def put_forward(self, seconds: float) -> None:
        """Let so much time pass, one sweep at a time. In one jump it would count as a process that stood still."""
        for _ in range(math.ceil(seconds / SWEEP_SECONDS)):
            self._ahead += SWEEP_SECONDS
            for timer in list(self.timers):
                timer.set()
            for _ in range(TURNS):
                await asyncio.sleep(0)

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> AheadTimer:
        return AheadTimer(self, seconds, lambda: call(*args))

    async def _sleep(self, seconds: float) -> None:
        awake = asyncio.Event()
        timer = self.call_later(seconds, awake.set)
        try:
            await awake.wait()
        finally:
            timer.cancel()


configure_logging("INFO", as_json=False)
clock = ClockAhead()
app = create_app(clock=clock)


@app.post("/ahead")
async def ahead(seconds: float) -> None:
    await clock.put_forward(seconds)


async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, lambda event: send(event))
