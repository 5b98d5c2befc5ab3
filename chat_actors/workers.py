"""The check against several workers: without a cluster each process would have topics of its own, without an error.

uvicorn and gunicorn take the count of workers from options, variables, files or programs. Only their configuration
object knows the result, and it is on the stack while they import the application: this module reads it there.
"""

import multiprocessing
import os
import signal
import sys
from types import FrameType
from typing import NoReturn, Optional

from chat_actors.settings import Settings, load_settings

STARTUP_FAILURE = 3  # exit code that tells the parent process of uvicorn and gunicorn not to start it again


def workers_of_the_server() -> int:
    """Return the count of workers of the uvicorn or gunicorn that imports the application; 1 under any other host."""
    frame: Optional[FrameType] = sys._getframe()
    while frame is not None:
        one = frame.f_locals.get("self")
        config = getattr(one, "cfg", one)  # each object of gunicorn has its configuration as ``cfg``
        server = type(config).__module__.partition(".")[0]
        # uvicorn ignores ``workers`` if it has started no other process.
        if server == "gunicorn" or (server == "uvicorn" and multiprocessing.parent_process() is not None):
            workers: Optional[int] = getattr(config, "workers", None)
            if workers is not None:
                return workers
        frame = frame.f_back
    return 1


def refuse_several_workers() -> None:
    """End this process and the server that started it if there are more workers than endpoints in ``CHAT_CLUSTER``.

    Also end both if a setting is wrong and there are several workers: otherwise the server would restart failed workers
    for ever. Raises SystemExit with STARTUP_FAILURE.
    """
    nodes = len(list(filter(None, map(str.strip, os.environ.get("CHAT_CLUSTER", "").split(",")))))
    workers = workers_of_the_server()
    if workers > max(1, nodes):
        sys.stderr.write(  # one write, line end included: all workers write at once
            "chat_actors keeps its topics in the memory of one process: several workers would split every topic. "
            "Start one worker, or list one endpoint for each worker in CHAT_CLUSTER.\n"
        )
        _end_the_server()
    if workers > 1:
        try:
            load_settings(Settings)
        except SystemExit:  # a wrong value: every other worker would fail, too
            _end_the_server()


def _end_the_server() -> NoReturn:
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid == os.getppid():
        os.kill(parent.pid, signal.SIGTERM)  # older uvicorn restarts a failed worker for ever
    sys.exit(STARTUP_FAILURE)
