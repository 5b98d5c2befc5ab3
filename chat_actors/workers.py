"""The deployment that would go wrong without a word: several processes, each with topics of its own.

However a server was told to start several workers (option, variable, file, program), its own configuration knows; and
that stands on the stack while the server imports the application.
"""

import multiprocessing
import os
import signal
import sys
from types import FrameType
from typing import NoReturn, Optional

from chat_actors.settings import load_settings

STARTUP_FAILURE = 3  # tells uvicorn's and gunicorn's parent process not to try again


def workers_of_the_server() -> int:
    """How many processes the uvicorn or gunicorn that imports this application has; 1 if it is none of them."""
    frame: Optional[FrameType] = sys._getframe()
    while frame is not None:
        one = frame.f_locals.get("self")
        config = getattr(one, "cfg", one)  # gunicorn's is an attribute of all that it is made of
        server = type(config).__module__.partition(".")[0]
        # uvicorn ignores the number where it has started no other process.
        if server == "gunicorn" or (server == "uvicorn" and multiprocessing.parent_process() is not None):
            workers: Optional[int] = getattr(config, "workers", None)
            if workers is not None:
                return workers
        frame = frame.f_back
    return 1


def refuse_several_workers() -> None:
    """End this process, and the server that started it, where it is one of more workers than can be nodes.

    The same where it is one of several with a wrong setting: a server starts workers that end again and again.
    """
    nodes = len(list(filter(None, map(str.strip, os.environ.get("CHAT_CLUSTER", "").split(",")))))
    workers = workers_of_the_server()
    if workers > max(1, nodes):
        sys.stderr.write(  # and the end of the line with it, for each of the workers says it
            "chat_actors keeps its topics in the memory of one process: several workers would split every topic "
            "in parts that do not see each other. Start it with one worker, or with an endpoint in CHAT_CLUSTER for "
            "each of them.\n"
        )
        _end_the_server()
    if workers > 1:
        try:
            load_settings()
        except SystemExit:  # for a wrong value, and every next worker would do the same
            _end_the_server()


def _end_the_server() -> NoReturn:
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid == os.getppid():
        os.kill(parent.pid, signal.SIGTERM)  # older uvicorn starts a worker that failed again and again
    sys.exit(STARTUP_FAILURE)
