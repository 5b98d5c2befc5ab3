"""The thread that writes log lines: nobody waits for it, and every line is written or counted."""

import errno
import gc
import io
import os
import re
import select
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Callable, Optional, TextIO

import pytest
from loguru import logger

from chat_actors.counters import Counters
from chat_actors.operations import log_writer
from chat_actors.operations.log_writer import BATCH_BYTES, PLACE_CHARS, PLACES
from chat_actors.operations.logs import configure_logging
from tests.support.logs import drained, logging_restored
from tests.support.server import ROOT

MORE_THAN_A_PIPE = "x" * 200_000


class Pipe:
    """Text log to a pipe as standard error; its reader reads when the test says so."""

    def __init__(self, counters: Counters) -> None:
        self._reader, self.writer = os.pipe()
        self._text = b""
        self._before, sys.stderr = sys.stderr, os.fdopen(self.writer, "w")
        configure_logging("INFO", as_json=False, counters=counters)

    def read_to(self, last: str) -> list[str]:
        """Read up to a line that holds those words; return all lines since the last call."""
        while not re.search(rf"{re.escape(last)}.*\n", self._text.decode(errors="replace")):
            self._text += os.read(self._reader, 65536)
        text, self._text = self._text, b""
        return text.decode().splitlines()

    def read_some(self) -> None:
        """Wait until some of a line has come."""
        self._text += os.read(self._reader, 1)

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, *failure: object) -> None:
        os.close(self._reader)  # so that a thread that waits ends
        logger.remove()
        sys.stderr.close()
        sys.stderr = self._before


@pytest.fixture
def counters() -> Iterator[Counters]:
    with logging_restored():
        yield Counters()


def fill(counters: Counters, text: str = "noise") -> int:
    """Log until a line is dropped; the first one keeps the thread. Returns how many lines were logged behind it."""
    logger.info(MORE_THAN_A_PIPE)
    count = 0
    while not counters.lines_dropped:
        logger.bind(number=count).info(text)
        count += 1
    return count


# A reader that does not read.


def test_a_line_is_written_or_counted_and_the_count_is_said(counters: Counters) -> None:
    with Pipe(counters) as pipe:
        count = fill(counters)
        assert PLACES - len(MORE_THAN_A_PIPE) // PLACE_CHARS <= count <= PLACES + 2
        for _ in range(4):
            logger.info("noise")
        lines = pipe.read_to("log lines dropped")
        assert re.search(r"WARNING  log lines dropped lines=5$", lines[-1])
        assert [int(line.rpartition("=")[2]) for line in lines[1:-1]] == list(range(count - 1))  # whole and in order
        assert counters.lines_dropped == 5
        logger.info("on")
        assert len(pipe.read_to("on")) == 1  # said once


def test_a_long_line_takes_the_place_of_many_short_ones(counters: Counters) -> None:
    with Pipe(counters):
        count = fill(counters, "x" * (PLACE_CHARS * PLACES // 10))
        assert count <= 12  # one that the thread has, ten that wait, and the one that is dropped
        logger.bind(field="x" * PLACE_CHARS).info("short")
        assert counters.lines_dropped == 1
        logger.bind(field="x" * PLACE_CHARS * PLACES).info("long")
        assert counters.lines_dropped == 2


class Held:
    """An object that a frame holds."""


def fail() -> "weakref.ref[Held]":
    held = Held()
    try:
        raise ValueError("broken")
    except ValueError as failure:
        logger.opt(exception=failure).error("handler failed")
    return weakref.ref(held)


def test_a_traceback_that_waits_keeps_no_object_alive(counters: Counters) -> None:
    with Pipe(counters) as pipe:
        logger.info(MORE_THAN_A_PIPE)
        held = fail()
        gc.collect()
        assert held() is None
        lines = pipe.read_to("ValueError")
        assert lines[-1] == "ValueError: broken" and "Traceback (most recent call last):" in lines


def down(depth: int) -> None:
    if depth:
        up(depth)
    raise ValueError("deep")


def up(depth: int) -> None:
    down(depth - 1)


def test_a_traceback_shows_a_bounded_number_of_frames(counters: Counters) -> None:
    with Pipe(counters) as pipe:
        try:
            down(200)
        except ValueError as failure:
            logger.opt(exception=failure).error("handler failed")
        lines = pipe.read_to("ValueError")
        assert 30 < sum(line.startswith("  File ") for line in lines) < 100
        assert "in down" in lines[-3] or "in down" in lines[-4]  # the innermost ones


def deep_failure() -> ValueError:
    try:
        down(200)
    except ValueError as failure:
        return failure
    raise AssertionError("it did not fail")


@pytest.mark.parametrize(
    ("failure", "most"), [(ValueError("x" * PLACE_CHARS * 1000), 11), (deep_failure(), 1000)], ids=["message", "frames"]
)
def test_a_long_traceback_takes_the_place_of_many_lines(counters: Counters, failure: ValueError, most: int) -> None:
    with Pipe(counters):
        logger.info(MORE_THAN_A_PIPE)
        count = 0
        while not counters.lines_dropped:
            logger.opt(exception=failure).error("handler failed")
            count += 1
        assert 5 < count <= most


def test_what_is_not_written_in_time_at_the_end_is_dropped(counters: Counters, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pipe(counters) as pipe:
        monkeypatch.setattr(log_writer, "DRAIN_SECONDS", 0)
        logger.info(MORE_THAN_A_PIPE)
        pipe.read_some()  # from here on the thread waits to write the rest
        for _ in range(10):
            logger.info("next")
        (thread,) = (one for one in threading.enumerate() if one.name == "log")
        logger.remove()
        begun, said = pipe.read_to("log lines dropped")
        assert begun.endswith(MORE_THAN_A_PIPE) and said.endswith(" lines=10")
        thread.join()


def test_a_field_is_shown_as_it_was_when_it_was_logged(counters: Counters) -> None:
    with Pipe(counters) as pipe:
        logger.info(MORE_THAN_A_PIPE)
        field = [1]
        logger.bind(field=field, text="a").info("noted")
        field.append(2)
        assert pipe.read_to("noted")[-1].endswith("noted field=[1] text='a'")


def test_a_pipe_that_does_not_block_takes_whole_lines(counters: Counters, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()
    wait = select.select

    def noted(*args: Any) -> object:
        waits.set()
        return wait(*args)

    with Pipe(counters) as pipe:
        os.set_blocking(pipe.writer, False)
        monkeypatch.setattr("select.select", noted)
        logger.info(MORE_THAN_A_PIPE)
        logger.info("next")
        waits.wait()
        first, second = pipe.read_to("next")
        assert first.endswith(f" {MORE_THAN_A_PIPE}") and second.endswith(" next")
        assert counters.lines_dropped == 0


def test_one_write_holds_whole_lines_and_no_more_than_a_pipe_takes_in_one_piece(
    counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pipe(counters) as pipe:
        writes: list[bytes] = []
        write = os.write

        def noted(descriptor: int, data: bytes) -> int:
            writes.append(bytes(data))
            return write(descriptor, data)

        monkeypatch.setattr("os.write", noted)
        for number in range(500):
            logger.bind(number=number, smile="\U0001f642" * 20).info("noise")
        pipe.read_to("number=499")
        assert {one[-1:] for one in writes} == {b"\n"}
        assert max(map(len, writes)) <= BATCH_BYTES
        assert len(writes) < 400


# A standard error that takes nothing.


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise RuntimeError("the device is not ready")


def closed_stream() -> TextIO:
    with open_device("/dev/null") as stream:
        return stream


def closed_descriptor() -> TextIO:
    stream = open_device("/dev/null")
    os.close(stream.fileno())
    return stream


def pipe_without_reader() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def open_device(path: str) -> TextIO:
    return os.fdopen(os.open(path, os.O_WRONLY), "w")


FAILING: dict[str, Callable[[], Optional[TextIO]]] = {
    "no stream": lambda: None,
    "a closed stream": closed_stream,
    "a closed descriptor": closed_descriptor,
    "a pipe without a reader": pipe_without_reader,
    "a full disk": lambda: open_device("/dev/full"),
    "a broken stream": Broken,
}


@pytest.mark.parametrize("make", FAILING.values(), ids=FAILING)
def test_a_line_that_cannot_be_written_is_counted_and_the_log_goes_on(
    counters: Counters, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Optional[TextIO]]
) -> None:
    configure_logging("INFO", as_json=False, counters=counters)
    stream, better = make(), io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        logger.info("lost")
        drained()  # logs a line itself
    assert counters.lines_dropped == 2
    if stream is not None:
        with suppress(OSError):
            stream.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", better)
        logger.info("on")
        drained()
    on, *_, dropped = better.getvalue().splitlines()
    assert on.endswith(" on") and dropped.endswith("WARNING  log lines dropped lines=2")


def test_a_line_after_a_torn_one_begins_anew(counters: Counters, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pipe(counters) as pipe:
        write = os.write
        room = [30]

        def half(descriptor: int, data: bytes) -> int:
            if not room:
                raise OSError(errno.ENOSPC, "no space")
            return write(descriptor, data[: room.pop()])

        with monkeypatch.context() as patch:
            patch.setattr("os.write", half)
            logger.info("torn apart")
            drained()
        logger.info("whole")
        torn, whole, _ = pipe.read_to("log lines dropped")
        assert len(torn) == 30 and re.fullmatch(r"\d{4}-.* INFO     whole", whole)


# A line that cannot be made.


class Unreadable:
    def __repr__(self) -> str:
        raise RuntimeError("no text for this")


@pytest.mark.parametrize(
    ("as_json", "message", "fields"),
    [(False, "noted", {"field": Unreadable()}), (True, "noted", {"field": Unreadable()}), (True, "\ud800", {})],
    ids=["text", "JSON", "not Unicode"],
)
def test_a_line_that_cannot_be_made_is_counted_and_its_logger_goes_on(
    counters: Counters, capsys: pytest.CaptureFixture[str], as_json: bool, message: str, fields: dict[str, object]
) -> None:
    configure_logging("INFO", as_json, counters=counters)
    logger.bind(**fields).info(message)
    logger.info("on")
    logger.remove()
    on, dropped = capsys.readouterr().err.splitlines()
    assert "on" in on and "log lines dropped" in dropped
    assert counters.lines_dropped == 1


def test_text_that_is_not_unicode_is_shown_escaped(counters: Counters) -> None:
    with Pipe(counters) as pipe:
        logger.info("half of a pair: \ud83d, noted")
        assert pipe.read_to("noted")[-1].endswith(r"half of a pair: \ud83d, noted")


# The ends of a process, and its children.


def test_at_the_end_everything_is_written_though_nobody_has_read_yet(counters: Counters) -> None:
    with Pipe(counters) as pipe:
        for number in range(100):
            logger.bind(number=number).info("noise")
        logger.remove()
        assert len(pipe.read_to("number=99")) == 100


def test_a_log_without_a_line_does_not_hold_up_the_end(counters: Counters) -> None:
    configure_logging("ERROR", as_json=False, counters=counters)
    drained()
    logger.remove()
    assert counters.lines_dropped == 0


PROGRAM = """
import os, sys
from loguru import logger
from chat_actors.operations.logs import configure_logging
configure_logging("INFO", False)
EARLY
child = os.fork()
logger.info("child" if child == 0 else "parent")
if child:
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("early", ["", 'logger.info("early")'], ids=["the first line", "a later line"])
def test_each_process_of_a_fork_writes_its_own_lines_once(early: str) -> None:
    program = PROGRAM.replace("EARLY", early)
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8", check=True
    )
    logged = sorted(line.split()[-1] for line in process.stderr.splitlines())
    assert logged == sorted(["child", "parent", *(["early"] if early else [])])
