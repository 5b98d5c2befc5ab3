"""The load generator: one thread on raw sockets, cheap enough that the server is what is measured.

It does not take frames apart. Deliveries and acks are counted by counting what every message and every ack holds and
nothing else does, in whatever a read returns; and of one read in SAMPLE, every message is timed.
"""

import gc
import select
import selectors
import socket
import time
from typing import NamedTuple, Union

from tests.tools.benchmark.cases import Case
from tests.tools.benchmark.servers import Process, usage
from tests.tools.benchmark.wire import KEEP, PING, STAMPED, join, message, pongs
from tests.tools.benchmark.wire import MARK as DELIVERY

ACK = b'"ack"'
ACK_FROM = KEEP + 1 - len(ACK)
READ_BYTES = 256 * 1024
SAMPLE = 31  # a prime, so as not to fall into step with the members
FIRST_SECONDS = 30.0  # until a first delivery, at most: a busy machine may need longer than the run
SETTLE_SECONDS = 0.3  # for the server to do what joins left to do, before its memory is read


class Result(NamedTuple):
    """Figures of one run; CPU time and memory are the server's."""

    deliveries: float
    cpu_us: float  # per delivery
    rate: float  # deliveries per second
    p50_ms: float
    p99_ms: float
    kib: float  # per member
    joins: float  # per second, one after the other
    join_us: float  # of CPU, for each of them
    closed: float  # connections that the server closed


def percentile(ordered: list[float], share: float) -> float:
    return ordered[int(len(ordered) * share)] if ordered else float("nan")


class _Selector:
    """Part of ``select.epoll`` that the load uses, for systems without it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int, _mask: int) -> None:
        self._selector.register(fd, selectors.EVENT_READ)

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, seconds: float, _most: int) -> list[tuple[int, int]]:
        return [(key.fd, mask) for key, mask in self._selector.select(seconds)]

    def close(self) -> None:
        self._selector.close()


class Load:
    """Members of a case, joined one after the other."""

    def __init__(self, server: Process, case: Case) -> None:
        self._server = server
        self._case = case
        self._socks: dict[int, socket.socket] = {}
        self._lost: set[int] = set()
        self._poller: Union[select.epoll, _Selector] = select.epoll() if hasattr(select, "epoll") else _Selector()
        self._buffer = bytearray(KEEP + READ_BYTES)
        self._into = memoryview(self._buffer)[KEEP:]

        before = usage(server.pid)
        started = time.perf_counter()
        for i in range(case.members):
            sock = join(server.port, f"u{i}", f"t{i % case.rooms}")
            self._socks[sock.fileno()] = sock
        self._joins = case.members / (time.perf_counter() - started)
        for fd, sock in self._socks.items():
            sock.setblocking(False)
            self._poller.register(fd, getattr(select, "EPOLLIN", 0))
        time.sleep(SETTLE_SECONDS)
        after = usage(server.pid)
        self._kib = (after.resident_kib - before.resident_kib) / case.members
        self._join_us = (after.cpu_seconds - before.cpu_seconds) * 1e6 / case.members

    def close(self) -> None:
        self._poller.close()
        for sock in self._socks.values():
            sock.close()

    def measure(self, seconds: float) -> Result:
        """Keep the load up for so long, or for FIRST_SECONDS at most until there is a first delivery."""
        self._forget_waiting()
        gc.collect()
        gc.disable()  # a collection would show as latency
        try:
            before, started = usage(self._server.pid), time.perf_counter()
            deliveries, latencies = self._run(started + seconds)
            took = time.perf_counter() - started
            cpu = usage(self._server.pid).cpu_seconds - before.cpu_seconds
        finally:
            gc.enable()
        latencies.sort()
        return Result(
            deliveries=deliveries,
            cpu_us=cpu * 1e6 / deliveries if deliveries else float("nan"),
            rate=deliveries / took,
            p50_ms=percentile(latencies, 0.50) / 1e6,
            p99_ms=percentile(latencies, 0.99) / 1e6,
            kib=self._kib,
            joins=self._joins,
            join_us=self._join_us,
            closed=len(self._lost),
        )

    def _run(self, end: float) -> tuple[int, list[float]]:
        """Send and read until ``end``, or longer without a delivery.

        Returns the count of deliveries, and the nanoseconds that a sample of them took.
        """
        case, buffer, into = self._case, self._buffer, self._into
        now, poll = time.perf_counter, self._poller.poll
        receive = {fd: sock.recv_into for fd, sock in self._socks.items()}
        kept = dict.fromkeys(self._socks, bytearray(KEEP))  # the end of what each read last
        senders = list(self._socks)[: case.senders * case.rooms]
        paced = case.rate is not None
        pause = 1 / case.rate if case.rate else 0.0
        refilled = set() if paced else set(senders)
        deliveries = reads = turn = 0
        latencies: list[float] = []

        for fd in refilled:
            for _ in range(case.window):
                self._send(fd)
        due = now()
        latest = max(end, due + FIRST_SECONDS)
        while now() < (end if deliveries or self._lost else latest):
            while paced and due <= now():
                self._send(senders[turn % len(senders)])
                turn += 1
                due += pause
            # A paced load does not sleep: to wake it would be the server's work.
            for fd, _ in poll(0 if paced else 0.05, 256):
                buffer[:KEEP] = kept[fd]
                try:
                    size = receive[fd](into)
                except BlockingIOError:
                    continue
                except ConnectionError:
                    size = 0
                if not size:
                    self._lose(fd)
                    continue
                stop = KEEP + size
                kept[fd] = buffer[size:stop]
                deliveries += buffer.count(DELIVERY, 0, stop)
                reads += 1
                if not reads % SAMPLE:
                    arrived = time.monotonic_ns()
                    latencies += [arrived - int(sent) for sent in STAMPED.findall(buffer, KEEP, stop)]
                if fd in refilled:
                    for _ in range(buffer.count(ACK, ACK_FROM, stop)):
                        self._send(fd)
                if buffer.find(PING, 0, stop) >= 0:
                    self._write(fd, pongs(bytes(buffer[:stop])))
        return deliveries, latencies

    def _send(self, fd: int) -> None:
        self._write(fd, message())

    def _write(self, fd: int, data: bytes) -> None:
        """Where the server does not read, nothing is sent, and that sender has one message less in flight."""
        try:
            if self._socks[fd].send(data) < len(data):
                self._lose(fd)  # half a frame: nothing that follows would be understood
        except BlockingIOError:
            pass
        except ConnectionError:
            self._lose(fd)

    def _lose(self, fd: int) -> None:
        if fd not in self._lost:
            self._lost.add(fd)
            self._poller.unregister(fd)

    def _forget_waiting(self) -> None:
        """Read what the joins left behind, for half a second at most."""
        until = time.perf_counter() + 0.5
        while time.perf_counter() < until:
            ready = self._poller.poll(0.1, 256)
            for fd, _ in ready:
                if not self._socks[fd].recv_into(self._into):
                    self._lose(fd)
            if not ready:
                break
