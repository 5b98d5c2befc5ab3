"""An event loop whose order and time come from a seed.

asyncio runs what is ready in the order in which it became ready. Here anything that is ready may run next, so one
seed is one schedule out of all that the code could meet. Time is virtual: it passes when nothing is ready, or when a
test says so. There is no I/O, and of asyncio's interface only what tasks, futures and timers use.
"""

import asyncio
import heapq
import random
from collections.abc import Coroutine
from typing import Any, Callable, Optional

MOST_STEPS = 20_000  # of one schedule; more means that it goes round in circles

# An exponent on a number from 0 to 1, which then says where in the queue of those that are ready the next one is
# taken: 1 is anywhere alike; above it the oldest comes first, mostly; below it the oldest is kept waiting.
SKEWS = (1.0, 1.0, 4.0, 0.3, 0.1)


class Stuck(Exception):
    """Nothing is ready, nobody waits for time to pass, and the end has not come; or it never will."""


class ShuffledLoop(asyncio.AbstractEventLoop):
    """Runs one coroutine to its end, under the schedule that ``rng`` decides."""

    def __init__(self, rng: random.Random) -> None:
        self.steps = 0  # callbacks run
        self.complaints: list[str] = []  # what asyncio would log: exceptions nobody retrieved, tasks that were lost
        self.trace: Optional[list[str]] = None  # a list here is given a line for each step
        self._random = rng.random
        self._skew = rng.choice(SKEWS)
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []  # a heap; the number decides between equals
        self._set = 0  # timers
        self._now = 0.0
        self._idle: Optional[asyncio.Future[None]] = None

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run ``main`` to its end. Raises what it raises, or Stuck."""
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not task.done():
                self._step()
            task.result()
        finally:
            asyncio._set_running_loop(None)

    def abandon(self) -> None:
        """After a failure: end what still runs, so that it does not disturb anything later."""
        asyncio._set_running_loop(self)
        for _ in range(100):
            for task in asyncio.all_tasks(self):
                task.cancel()
            ready, self._ready = self._ready, []
            for handle in ready:
                handle._run()
        asyncio._set_running_loop(None)

    async def idle(self) -> None:
        """Wait until all has happened that can happen without time passing (for one task at a time)."""
        self._idle = self.create_future()
        await self._idle

    def pass_time(self, seconds: float) -> None:
        """Let time pass at once, whatever is ready: a machine may be slow."""
        self._now += seconds
        while self._timers and self._timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(self._timers)[2])

    def _step(self) -> None:
        ready, timers = self._ready, self._timers
        if ready:
            handle = ready.pop(int(len(ready) * self._random() ** self._skew))
            if not handle._cancelled:
                self.steps += 1
                if self.trace is not None:
                    self.trace.append(f"{self._now:.3f} {_named(handle)}")
                handle._run()
                if self.steps > MOST_STEPS:
                    raise Stuck("the schedule goes round in circles")
        elif self._idle is not None:
            idle, self._idle = self._idle, None
            if not idle.done():
                idle.set_result(None)
        elif timers:
            if timers[0][2].cancelled():
                heapq.heappop(timers)
            else:
                self.pass_time(max(0.0, timers[0][0] - self._now))
        else:
            raise Stuck("nothing more will ever happen")

    # What asyncio's tasks, futures and timers call.

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._set += 1
        heapq.heappush(self._timers, (when, self._set, timer))
        return timer

    def time(self) -> float:
        return self._now

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(coro, loop=self, **options)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context['message']}: {context.get('exception')!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    def get_debug(self) -> bool:
        return False


def _named(handle: asyncio.Handle) -> str:
    """What a handle runs, in words that are the same in every run."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return str(task.get_coro().__qualname__)  # type: ignore[union-attr]
    return str(getattr(callback, "__qualname__", type(callback).__name__))
