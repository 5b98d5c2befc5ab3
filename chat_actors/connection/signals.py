"""SIGINT and SIGTERM, handled before the host handles them.

On the fast lane uvicorn tells each connection of its end in time. On the plain lane a host closes every connection
first and ends the lifespan last: too late to send members a close frame with a code. So the chat ends first, then the
host's own handler runs. A second signal goes to the host at once.
"""

import asyncio
import signal
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any, Callable, Optional

Handler = Callable[[int, Optional[FrameType]], Any]


class ExitSignals:
    """Signal handlers that run ``end`` once, in the current event loop, before the host's own handlers.

    Only the main thread can set signal handlers: in any other thread, and for a host without handlers of its own, the
    signals stay as they are.
    """

    def __init__(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._ending: Optional[asyncio.Task[None]] = None
        self._over = False  # True after ``restore``
        self._host_handlers: dict[int, Handler] = {}
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                host = signal.getsignal(signum)
                if callable(host) and host is not signal.default_int_handler:  # the host ends gracefully
                    self._host_handlers[signum] = host
                    signal.signal(signum, self._on_signal)

    def restore(self) -> None:
        """Put the host's handlers back. Can be called twice.

        Another application of this process may have set its own handlers since: then these stay below them, and only
        pass a signal on.
        """
        self._over = True
        for signum, handler in self._host_handlers.items():
            if signal.getsignal(signum) == self._on_signal:
                signal.signal(signum, handler)

    def _on_signal(self, signum: int, frame: Optional[FrameType]) -> None:
        if self._over:
            self._host_handlers[signum](signum, frame)
        else:
            self._loop.call_soon_threadsafe(self._begin, signum)

    def _begin(self, signum: int) -> None:
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
            self._ending.add_done_callback(lambda _: self._host_handlers[signum](signum, None))
        else:
            self._host_handlers[signum](signum, None)
