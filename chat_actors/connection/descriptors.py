"""The limit on descriptors: each connection takes one, and a process that has none left resets whoever knocks.

So the limit is raised at the start, and the bound on connections stays below it by a reserve for everything else: then
a connection too many can be accepted, told that the server is full, and closed.
"""

import sys
from typing import NamedTuple, Optional, Protocol

from loguru import logger

from chat_actors.settings import Settings

try:
    import resource
except ImportError:  # pragma: no cover  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

# Descriptors for everything but connections within the bound. Half is for connections that are turned away, for each of
# them lives a while. The rest: HTTP requests, connections before their handshake, and what the process itself needs (14
# alone, 34 as one of three nodes, more with more nodes). 2,048 is the backlog of uvicorn's socket: so many peers
# may come in one turn of the loop, before any of them is answered.
RESERVE = 2048
LEAST_RESERVE = 64  # under a low limit the reserve is a quarter of it, but so many if that is not more than half


class Resource(Protocol):
    """What is used of the module ``resource``."""

    RLIMIT_NOFILE: int
    RLIM_INFINITY: int

    def getrlimit(self, resource: int, /) -> tuple[int, int]: ...
    def setrlimit(self, resource: int, limits: tuple[int, int], /) -> None: ...


class Shortage(NamedTuple):
    """Shortage of descriptors, in the words of its log line."""

    wanted: int  # descriptors, for the connections of the settings and the reserve
    allowed: int  # descriptors
    connections: int  # the bound that follows


def fit_to_descriptors(
    settings: Settings, system: Optional[Resource] = resource
) -> tuple[Settings, Optional[Shortage]]:
    """Raise the soft limit of this process as far as its connections need it and the system allows it.

    Return the settings, with ``connections`` lowered if that is too little, and the shortage then. ``system``: None
    where there is no such limit. Changes the process: only ``app`` may call it.
    """
    if system is None:
        return settings, None
    wanted = settings.connections + RESERVE
    allowed = _raise_soft_limit(system, wanted)
    bound = allowed - min(RESERVE, max(allowed // 4, min(allowed // 2, LEAST_RESERVE)))
    if bound >= settings.connections:
        return settings, None
    return settings.model_copy(update={"connections": bound}), Shortage(wanted, allowed, bound)


def log_shortage(shortage: Optional[Shortage]) -> None:
    """Log a warning if there is a shortage."""
    if shortage is not None:
        logger.bind(**shortage._asdict()).warning(
            "too few descriptors: raise the hard limit (LimitNOFILE, ulimit -Hn) or lower CHAT_CONNECTIONS"
        )


def lingerers(connections: int) -> int:
    """Return how many connections may linger that were turned away, at such a bound: half the reserve at most."""
    return max(8, min(connections // 8, RESERVE // 2))


def _raise_soft_limit(system: Resource, wanted: int) -> int:
    """Raise the soft limit to ``wanted`` or as near to it as the system allows; return the limit then."""
    limits = system.getrlimit(system.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if limit == system.RLIM_INFINITY else limit for limit in limits)
    goal = min(wanted, hard)
    step = goal - soft
    while soft < goal and step:
        target = min(soft + step, goal)
        try:
            system.setrlimit(system.RLIMIT_NOFILE, (target, limits[1]))
        except (OSError, ValueError):  # macOS allows less than its hard limit says; a sandbox may allow nothing
            step //= 2
        else:
            soft = target
    return soft
