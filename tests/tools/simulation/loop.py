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

Call = Callable[..., Any]

MOST_STEPS = 20_000  # of one schedule; more means that it goes round in circles

# An exponent on a number from 0 to 1, which then says where in the queue of those that are ready the next one is
# taken: 1 is anywhere alike; above it the oldest comes first, mostly; below it the oldest is kept waiting.
SKEWS = (1.0, 1.0, 4.0, 0.3, 0.1)


class Stuck(Exception):
    """Error for a program that cannot end: nothing is ready and no timer is set, or it runs in circles."""


class ShuffledLoop(asyncio.AbstractEventLoop):
    """Event loop that runs one coroutine to its end, under the schedule that ``rng`` decides."""

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
            ready, some, skew = self._ready, self._random, self._skew
            while not task.done():
                if ready:
                    handle = ready.pop(int(len(ready) * some() ** skew))
                    if not handle._cancelled:
                        self._begin_step(handle)
                        handle._run()
                else:
                    self._go_on()
            task.result()
        finally:
            asyncio._set_running_loop(None)

    def abandon(self) -> None:
        """After a failure: end what still runs, so that it does not disturb anything later."""
        asyncio._set_running_loop(self)
        for _ in range(100):
            for task in asyncio.all_tasks(self):
                task.cancel()
            ready = self._ready.copy()
            self._ready.clear()
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

    def timers(self) -> int:
        """How many wait for time to pass."""
        return sum(not timer.cancelled() for _, _, timer in self._timers)

    def _begin_step(self, handle: asyncio.Handle) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Stuck("the schedule goes round in circles")
        if self.trace is not None:
            self.trace.append(f"{self._now:.3f} {_handle_name(handle)}")

    def _go_on(self) -> None:
        """Nothing is ready: have something become ready."""
        timers = self._timers
        if self._idle is not None:
            idle, self._idle = self._idle, None
            if not idle.done():
                idle.set_result(None)
        elif timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        elif timers:
            self.pass_time(max(0.0, timers[0][0] - self._now))
        else:
            raise Stuck("nothing more will ever happen")

    # What asyncio's tasks, futures and timers call.

    def call_soon(self, callback: Call, *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Call, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Call, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
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


def task_name(task: "asyncio.Task[Any]") -> str:
    """What a task runs, in words that are the same in every run."""
    coroutine: Any = task.get_coro()
    return str(coroutine.__qualname__)


def _handle_name(handle: asyncio.Handle) -> str:
    callback: Any = handle._callback  # type: ignore[attr-defined]
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return task_name(task)
    return str(getattr(callback, "__qualname__", type(callback).__name__))
