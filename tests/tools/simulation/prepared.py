"""Stand-ins for the surroundings of the actors: a log, secrets, time and small limits."""

import gc
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, Optional
from unittest.mock import patch

from chat_actors.actors import base as actor
from chat_actors.actors import fanout, followers, topic
from chat_actors.connection import base as connection
from chat_actors.connection import plain, session
from chat_actors.protocol import names
from chat_actors.protocol.names import nickname_key
from chat_actors.room import members

BOUNDS = (
    (actor, "HIGH_WATER", 3),
    (actor, "TURN_EVENTS", 4),
    (followers, "PIECE_BYTES", 200),
    (followers, "MAX_PIECE_BYTES", 400),
    (topic, "REPLAY_BYTES", 400),
    (fanout, "MAX_FRAMES", 3),
    (fanout, "STRIDE_MEMBERS", 1),
)


class Boom(Exception):
    """Error that a test raises on purpose."""


class Log:
    """Stand-in for loguru: writes nothing, keeps the errors, and counts those about a Boom."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.crashes = 0
        self._exception: Optional[BaseException] = None

    def clear(self) -> None:
        self.errors.clear()
        self.crashes = 0

    def bind(self, **fields: Any) -> "Log":
        return self

    def opt(self, exception: BaseException) -> "Log":
        self._exception = exception
        return self

    def debug(self, message: str) -> None: ...

    info = warning = debug

    def error(self, message: str) -> None:
        exception, self._exception = self._exception, None
        if isinstance(exception, Boom):
            self.crashes += 1
        elif exception is not None:
            self.errors.append("".join([message, ":\n", *traceback.format_exception(None, exception, None)]))
        elif message != "topic removed after too many failures":
            self.errors.append(message)


class Secrets:
    """Stand-in for ``secrets``: the same values in every run of a schedule."""

    def __init__(self) -> None:
        self._made = 0

    def clear(self) -> None:
        self._made = 0

    def token_hex(self, size: int) -> str:
        self._made += 1
        return f"secret {self._made}"

    token_urlsafe = token_hex


LOG = Log()
SECRETS = Secrets()


@contextmanager
def prepared() -> Iterator[None]:
    """Schedules run in here: with bounds that a short program reaches, and garbage collected when they say so."""
    with ExitStack() as stack:
        for module, name, bound in BOUNDS:
            stack.enter_context(patch.object(module, name, bound))
        for module in (actor, fanout, connection, plain, session):
            stack.enter_context(patch.object(module, "logger", LOG))
        for module in (members, topic):
            stack.enter_context(patch.object(module, "secrets", SECRETS))
        known = lru_cache(nickname_key)  # otherwise a tenth of the time of a schedule
        for module in (members, names):
            stack.enter_context(patch.object(module, "nickname_key", known))
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            yield
        finally:
            gc.enable()
            gc.unfreeze()
