"""The signals that end the server, heard before the host acts on them.

A host such as uvicorn closes every connection first and ends the lifespan last, so that nobody could be told anything.
Here the chat ends first, and then the host's own handler is called. A second signal goes there at once.
"""

import asyncio
import signal
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any, Callable, Optional

Handler = Callable[[int, Optional[FrameType]], Any]


class ExitSignals:
    """Runs ``end`` in the loop that runs now, once, before SIGINT or SIGTERM reach whoever handles them."""

    def __init__(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._ending: Optional[asyncio.Task[None]] = None
        self._hosts: dict[int, Handler] = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere there are no signals to be heard
            for signum in (signal.SIGINT, signal.SIGTERM):
                host = signal.getsignal(signum)
                if callable(host) and host is not signal.default_int_handler:  # a host that ends with some grace
                    self._hosts[signum] = host
                    signal.signal(signum, self._heard)

    def let_go(self) -> None:
        """Give the signals back to the host."""
        for signum, host in self._hosts.items():
            if signal.getsignal(signum) == self._heard:
                signal.signal(signum, host)

    def _heard(self, signum: int, frame: Optional[FrameType]) -> None:
        self._loop.call_soon_threadsafe(self._begin, signum)

    def _begin(self, signum: int) -> None:
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
            self._ending.add_done_callback(lambda _: self._hosts[signum](signum, None))
        else:
            self._hosts[signum](signum, None)
