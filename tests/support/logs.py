"""Logging of this process as it was, after a test has set it up anew."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger

UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access")


@contextmanager
def logging_restored() -> Iterator[None]:
    """Give uvicorn's loggers and loguru back what they had before the block."""
    before = [(one, one.handlers, one.propagate, one.level) for one in map(logging.getLogger, UVICORN)]
    try:
        yield
    finally:
        for one, handlers, propagate, level in before:
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)
        logger.configure(handlers=[{"sink": sys.__stderr__ or sys.stderr}])  # as loguru starts
