"""The fairness of the server: whether a huge busy topic slows down a pair in a quiet topic.

The crowd's load runs in a process of its own, which gives way to the pair's where they share a core. So what the pair
waits for is the server, not a load generator that is busy with the crowd.
"""

import os
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

from tests.tools.benchmark.cases import Case
from tests.tools.benchmark.load import Load, percentile
from tests.tools.benchmark.servers import Process, usage
from tests.tools.benchmark.wire import MARK, PING, join, message, more, pongs

CROWD = Case("crowd", members=2000, senders=16, window=4)
CROWD_NICENESS = 3
LEAD_SECONDS = 1.0  # of the crowd alone, before the pair is measured and after
PAUSE = 0.01  # seconds from one message of the pair to the next


class Fairness(NamedTuple):
    """Latencies of the pair beside a silent and beside a busy crowd, and the server's rate for the busy one."""

    idle_p50_ms: float
    idle_p99_ms: float
    busy_p50_ms: float
    busy_p99_ms: float
    crowd_rate: float  # deliveries per second
    server_share: float  # of one core


def measure_fairness(server: Process, seconds: float, crowd: Case = CROWD) -> Fairness:
    """The pair for so long while the crowd is silent, and again while it is not."""
    speaker, listener = (join(server.port, name, "quiet") for name in ("alice", "bob"))
    with speaker, listener, ProcessPoolExecutor(1, get_context("spawn")) as crowds_process:
        crowds_process.submit(_join_crowd, server, crowd).result()
        idle = _chat(speaker, listener, seconds)
        saturating = crowds_process.submit(_saturate, seconds + 2 * LEAD_SECONDS)
        time.sleep(LEAD_SECONDS)
        before, started = usage(server.pid), time.perf_counter()
        busy = _chat(speaker, listener, seconds)
        share = (usage(server.pid).cpu_seconds - before.cpu_seconds) / (time.perf_counter() - started)
        crowd_rate = saturating.result()
        crowds_process.submit(_leave).result()
    return Fairness(
        percentile(idle, 0.50),
        percentile(idle, 0.99),
        percentile(busy, 0.50),
        percentile(busy, 0.99),
        crowd_rate,
        share,
    )


def _chat(speaker: socket.socket, listener: socket.socket, seconds: float) -> list[float]:
    """The two in turn, a message every PAUSE: how long each took to arrive, in milliseconds, in ascending order."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        speaker.sendall(message())
        _hear(listener)
        took = time.perf_counter() - started
        # What should have been said while this one was on its way would have waited for the rest of that time.
        latencies += [(took - late * PAUSE) * 1e3 for late in range(int(took / PAUSE) + 1)]
        speaker, listener = listener, speaker
        time.sleep(max(0.0, started + PAUSE - time.perf_counter()))
    return sorted(latencies)


def _hear(listener: socket.socket) -> None:
    """Read up to the next message."""
    data = b""
    while MARK not in data:
        data += more(listener)
    if PING in data:
        listener.sendall(pongs(data))


# What the crowd's process does.

_crowd: Load


def _join_crowd(server: Process, case: Case) -> None:
    global _crowd
    os.nice(CROWD_NICENESS)
    _crowd = Load(server, case)


def _saturate(seconds: float) -> float:
    return _crowd.measure(seconds).rate


def _leave() -> None:
    _crowd.close()
