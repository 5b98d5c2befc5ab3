"""The signals that end a process, handled before the host handles them.

On the fast lane uvicorn tells each connection of its end in time. On the plain lane a host closes every connection
first and ends the lifespan last: too late to send members a close frame with a code. And most signals besides SIGINT
and SIGTERM end a process at once, so that no connection is told. So the chat ends first, then the host's own handler
runs. A second signal goes to the host at once. Where other workers take the newcomers, so does the first one: the host
closes its listening sockets while the chat ends.
"""

import asyncio
import re
import signal
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Optional

Handler = Callable[[int, Optional[FrameType]], Any]

# A host's own handler for one of these ends the process.
_HANDLED_BY_HOSTS = signal.SIGINT, signal.SIGTERM, signal.SIGQUIT
# Without a handler these end a process, and they come from outside: a terminal that closes (HUP), its Ctrl-\ (QUIT),
# the stop signals of supervisord, runit and Docker (HUP, QUIT, USR1, USR2, ALRM), a container's power switch (PWR), a
# limit on CPU time (XCPU).
_HANDLED_BY_NOBODY = tuple(
    getattr(signal, name)
    for name in ("SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPWR", "SIGXCPU")
    if hasattr(signal, name)
)


class ExitSignals:
    """Signal handlers that run ``end`` once, in the current event loop, before the host's own handlers.

    A signal that no handler waits for ends the process as SIGTERM does: the host's handler for SIGTERM gets its number.
    Ignored signals stay ignored, as SIGHUP under ``nohup``. Only the main thread can set signal handlers: in any other
    thread, and for a host without handlers of its own, SIGINT and SIGTERM stay as they are.

    ``waits``: whether the host's handler runs after ``end``; else it runs at once, beside it.
    """

    def __init__(self, end: Callable[[], Coroutine[Any, Any, None]], waits: bool = True) -> None:
        self._end = end
        self._waits = waits
        self._loop = asyncio.get_running_loop()
        self._ending: Optional[asyncio.Task[None]] = None
        self._over = False  # True after ``restore``
        self._before: dict[int, Any] = {}  # what the host has set for a signal
        if threading.current_thread() is threading.main_thread():
            hosts = [signum for signum in _HANDLED_BY_HOSTS if _ends_gracefully(signal.getsignal(signum))]
            for signum in {*hosts, *filter(_has_no_handler, _HANDLED_BY_NOBODY)}:
                self._before[signum] = signal.signal(signum, self._on_signal)

    def restore(self) -> None:
        """Put back what the host has set. Can be called twice.

        Another application of this process may have set its own handlers since: then these stay below them, and only
        pass a signal on.
        """
        self._over = True
        for signum in self._before:
            self._restore(signum)

    def _restore(self, signum: int) -> None:
        if signal.getsignal(signum) == self._on_signal:
            signal.signal(signum, self._before[signum])

    def _on_signal(self, signum: int, frame: Optional[FrameType]) -> None:
        if self._over:
            self._pass_on(signum)
        else:
            self._loop.call_soon_threadsafe(self._begin, signum)

    def _begin(self, signum: int) -> None:
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
            if self._waits:
                self._ending.add_done_callback(lambda _: self._pass_on(signum))
                return
        self._pass_on(signum)

    def _pass_on(self, signum: int) -> None:
        """End the process as the host ends it at this signal."""
        before = self._before[signum]
        if signum in (signal.SIGINT, signal.SIGTERM) or (callable(before) and not _is_of_a_loop(before)):
            before(signum, None)
            return
        self._restore(signum)  # a host that raises the signal again at its end gets the usual exit status
        terminate = self._before.get(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        if not callable(terminate):
            signal.raise_signal(signum)
        elif _is_of_a_loop(terminate):
            signal.raise_signal(signal.SIGTERM)
        else:
            terminate(signum, None)


def _ends_gracefully(handler: Any) -> bool:
    return callable(handler) and handler is not signal.default_int_handler


def _is_of_a_loop(handler: Any) -> bool:
    """Return whether ``loop.add_signal_handler`` has set a handler.

    Such a handler does nothing when called: the event loop hears of the signal itself, by its wakeup descriptor.
    """
    return str(getattr(handler, "__module__", "")).startswith(("asyncio.", "uvloop."))


def _has_no_handler(signum: int) -> bool:
    """Return whether a signal has its default effect, or ends another application of this process first."""
    handler = signal.getsignal(signum)
    if isinstance(getattr(handler, "__self__", None), ExitSignals):
        return True
    if signum == signal.SIGQUIT and _is_of_a_loop(handler):
        return True
    return handler is signal.SIG_DFL and not _is_caught(signum)


def _is_caught(signum: int) -> bool:
    """Return whether code that is not Python's handles a signal, as ``faulthandler.register`` does. Linux only."""
    with suppress(OSError):
        caught = re.search(r"^SigCgt:\s*(\w+)", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
        return caught is not None and bool(int(caught[1], 16) >> (signum - 1) & 1)
    return False
