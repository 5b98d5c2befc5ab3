"""Logging of this process as it was, after a test has set it up anew."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger

UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access")


@contextmanager
def logging_restored() -> Iterator[None]:
    """Give the loggers of uvicorn and of Python, its hooks and loguru back what they had before the block."""
    before = [(one, one.handlers, one.propagate, one.level) for one in map(logging.getLogger, (*UVICORN, None))]
    hook = sys.unraisablehook
    try:
        yield
    finally:
        sys.unraisablehook = hook
        logging.captureWarnings(False)
        for one, handlers, propagate, level in before:
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)
        logger.configure(handlers=[{"sink": sys.__stderr__ or sys.stderr}])  # as loguru starts


def drained() -> None:
    """See that everything logged so far is written: uvicorn's last line waits for that."""
    logging.getLogger("uvicorn.error").info("Finished server process [%d]", 17)
