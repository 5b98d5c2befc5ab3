"""The application with a clock that a test puts forward: ``POST /ahead?seconds=30``, and so much time has passed."""

import asyncio
import time

from chat_actors.application import create_app
from chat_actors.clock import Clock


class ClockAhead(Clock):
    """The machine's time and what it was put forward by. Those who sleep wake when it is their time."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._moved = asyncio.Event()
        self.monotonic = lambda: time.monotonic() + self._ahead
        self.wall = lambda: time.time() + self._ahead
        self.sleep = self._sleep

    def put_forward(self, seconds: float) -> None:
        self._ahead += seconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def _sleep(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        while (left := until - self.monotonic()) > 0:
            try:
                await asyncio.wait_for(self._moved.wait(), left)
            except asyncio.TimeoutError:
                break


clock = ClockAhead()
app = create_app(clock=clock)


@app.post("/ahead")
async def ahead(seconds: float) -> None:
    clock.put_forward(seconds)
