"""The thread that writes log lines: whatever standard error does, nobody who logs waits for it.

Lines wait in a bounded queue. What does not fit, or cannot be written, is dropped and counted.
"""

import io
import os
import select
import sys
import threading
import time
import traceback
from contextlib import suppress
from datetime import datetime, timezone
from queue import SimpleQueue
from typing import TYPE_CHECKING, Callable, Optional, Union

from chat_actors.counters import Counters

if TYPE_CHECKING:
    from loguru import Record

Traceback = traceback.TracebackException
Line = tuple[datetime, str, str, dict[str, object], Optional[Traceback]]  # time, level, message, fields, exception

PLACES = 10_000  # in the queue: one for each line, and one more for each PLACE_CHARS of it
PLACE_CHARS = 1024
BATCH_BYTES = 4096  # of whole lines in one write: a pipe takes so much in one piece, whoever else writes to it (Linux)
FRAMES = 64  # innermost frames of a traceback that are shown
FRAME_CHARS = 256  # that one of these frames counts for
DRAIN_SECONDS = 2.0
PAUSE_SECONDS = 0.005  # after a write: to be woken for each line of many would cost more than to write it
_PLAIN = frozenset((str, int, float, bool, type(None)))  # types of values that cannot change while they wait


class LogWriter:
    """Sink of loguru: a queue of log lines, and a daemon thread that writes them to standard error.

    ``take`` must be the filter of this sink. It lets no record pass: behind the filter loguru takes a lock, and prints
    errors to standard error itself, so that its caller could wait. ``render`` returns the text of a line.
    """

    def __init__(self, render: Callable[[Line], str], counters: Counters) -> None:
        self._render = render
        self._counters = counters
        self._lock = threading.RLock()  # of the count; a destructor may log while its own thread holds it
        self._pid = 0  # process of the thread; 0: not started yet
        # Of the thread alone.
        self._batch: list[str] = []
        self._size = 0  # of the batch, in bytes
        self._torn = False  # True: the last write failed within a line
        self._reported = counters.lines_dropped  # as many of them have been said

    def _start(self) -> None:
        """Start the thread: with the first line, and again after a fork, where what was queued is the parent's."""
        self._lock = threading.RLock()  # the parent may have held it
        self._batch, self._size = [], 0
        self._queue: SimpleQueue[Union[Line, str, threading.Event, None]] = SimpleQueue()
        self._end = threading.Event()
        self._late = False  # True: the time to write what is queued is over
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        self._pid = os.getpid()

    # For those who log.

    def take(self, record: "Record") -> bool:
        """Queue a record, or drop it. Never waits, and raises no Exception. Returns False."""
        try:
            if record["process"].id != self._pid:
                self._start()
            if self._queue.qsize() < PLACES:
                self._put(record)
            else:
                self.drop()
        except Exception:  # a value that cannot be rendered
            self.drop()
        return False

    def _put(self, record: "Record") -> None:
        chars = len(record["message"])
        captured: Optional[Traceback] = None
        exception = record["exception"]
        if exception is not None and exception.value is not None:
            # Names and numbers only: the exception itself would keep its frames alive, and all that they hold. The
            # thread reads the lines of the source, which takes most of the time.
            captured = Traceback.from_exception(exception.value, limit=-FRAMES, lookup_lines=False)
            chars += FRAME_CHARS * len(captured.stack) + len(str(captured))
        line = (record["time"], record["level"].name, record["message"], record["extra"], captured)
        for value in record["extra"].values():
            if type(value) is str:
                chars += len(value)
            elif type(value) not in _PLAIN:
                self._put_entry(text := self._render(line), len(text))
                return
        self._put_entry(line, chars)

    def _put_entry(self, entry: Union[Line, str], chars: int) -> None:
        more = chars // PLACE_CHARS
        if self._queue.qsize() + more >= PLACES:
            self.drop()
            return
        self._queue.put(entry)
        for _ in range(more):
            self._queue.put(None)

    def drop(self, lines: int = 1) -> None:
        """Count lines that are not written."""
        with self._lock:
            self._counters.lines_dropped += lines

    def drain(self) -> None:
        """Wait until all that is queued is written, for DRAIN_SECONDS at most."""
        if self._pid == os.getpid():
            written = threading.Event()
            self._queue.put(written)
            written.wait(DRAIN_SECONDS)

    def stop(self) -> None:
        """Write what is queued within DRAIN_SECONDS, drop the rest, and end the thread. loguru calls this.

        It does so when the sink is removed, and at the exit of the process.
        """
        if self._pid == os.getpid():
            self._queue.put(self._end)
            self._thread.join(DRAIN_SECONDS)
            self._late = True

    # The thread.

    def _run(self) -> None:
        queue = self._queue
        entry: Union[Line, str, threading.Event, None] = None
        while entry is not self._end:
            entry = queue.get()
            if isinstance(entry, (tuple, str)):
                self._add(entry)
            if queue.empty() or isinstance(entry, threading.Event):
                self._write_batch()
                self._report()
            if isinstance(entry, threading.Event):
                entry.set()
            elif queue.empty():
                time.sleep(PAUSE_SECONDS)

    def _add(self, entry: Union[Line, str]) -> None:
        if self._late:  # nothing is rendered any more
            self.drop()
            return
        try:
            text = entry if isinstance(entry, str) else self._render(entry)
        except Exception:  # text that is not Unicode, as JSON
            self.drop()
            return
        size = len(_encode(text))
        if self._size + size > BATCH_BYTES:
            self._write_batch()
        self._batch.append(text)
        self._size += size

    def _write_batch(self) -> None:
        """Write the lines of the batch. If that fails, they count as dropped."""
        lines, self._batch, self._size = self._batch, [], 0
        try:
            self.write("".join(lines))
        except Exception:  # no reader, no space, no stream
            self.drop(len(lines))

    def _report(self) -> None:
        """Write how many lines were dropped since the last such line, whatever the level is."""
        dropped = self._counters.lines_dropped
        if dropped != self._reported:
            now = datetime.now(timezone.utc).astimezone()
            fields: dict[str, object] = {"lines": dropped - self._reported}
            with suppress(Exception):  # else again with the next batch
                self.write(self._render((now, "WARNING", "log lines dropped", fields, None)))
                self._reported = dropped

    def write(self, text: str) -> None:
        """Write whole lines to standard error, and wait until it has taken them. Raises an Exception if it does not."""
        descriptor = _descriptor()
        if descriptor is None:
            sys.stderr.write(text)
            return
        data = _encode("\n" + text if self._torn else text)
        while data:
            written = _write_some(descriptor, data)
            self._torn = data[written - 1 : written] != b"\n"
            data = data[written:]


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _descriptor() -> Optional[int]:
    """Return the descriptor of standard error; None if something else than a file has its place.

    A daemon thread must not wait within ``sys.stderr.write``: it would hold a lock that Python needs at its exit.
    """
    if isinstance(sys.stderr, io.TextIOWrapper):
        with suppress(io.UnsupportedOperation):
            return sys.stderr.fileno()
    return None


def _write_some(descriptor: int, data: bytes) -> int:
    """Wait until the descriptor takes some of the bytes; return how many. Raises OSError."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:  # another program with the same pipe has made it so
            select.select([], [descriptor], [])
