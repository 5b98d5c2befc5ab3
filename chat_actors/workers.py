"""The one deployment that would go wrong without a word: several processes, each with topics of its own."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping

STARTUP_FAILURE = 3  # tells uvicorn's and gunicorn's parent process not to try again


def workers_asked_for(argv: list[str], environ: Mapping[str, str]) -> int:
    """How many processes uvicorn or gunicorn was told to start, by option or by variable; 1 if not told."""
    count = environ.get("WEB_CONCURRENCY", "1")
    words = environ.get("GUNICORN_CMD_ARGS", "").split() + argv
    for word, following in zip(words, [*words[1:], ""]):
        if word in ("--workers", "-w"):
            count = following
        elif word.startswith("--workers="):
            count = word.partition("=")[2]
        elif word.startswith("-w"):
            count = word[2:]
    return int(count) if count.isdecimal() else 1


def refuse_several_workers() -> None:
    """End this process, and the server that started it, where it is one of several workers."""
    server = os.path.basename(sys.argv[0])
    parent = multiprocessing.parent_process()
    if parent is None and "gunicorn" not in server:
        return
    if workers_asked_for(sys.argv, os.environ) > 1:
        print(
            "chat_actors keeps its topics in the memory of one process: several workers would split every topic "
            "in parts that do not see each other. Start it with one worker.",
            file=sys.stderr,
        )
        if parent is not None and parent.pid == os.getppid():
            os.kill(parent.pid, signal.SIGTERM)  # older uvicorn starts a worker that failed again and again
        sys.exit(STARTUP_FAILURE)
