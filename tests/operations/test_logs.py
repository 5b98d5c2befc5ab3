"""The log: one format for every line, on standard error, without message bodies."""

import json
import logging
import logging.config
import re
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Callable

import pytest
from loguru import logger
from uvicorn.config import LOGGING_CONFIG

from chat_actors.counters import Counters
from chat_actors.operations.logs import configure_logging
from tests.support.logs import UVICORN, logging_restored

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"

Lines = Callable[[], list[str]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """End the log and read its lines. Uvicorn has set up its own logging, as it does before it loads an application."""

    def read() -> list[str]:
        logger.remove()
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.split("\n")[:-1]

    with logging_restored():
        logging.config.dictConfig(LOGGING_CONFIG)
        yield read


def test_a_text_line_has_the_time_the_level_the_event_and_its_fields(lines: Lines) -> None:
    configure_logging("INFO", as_json=False)
    logger.bind(topic="sports", users=2).info("joined")
    logger.warning("alone")
    joined, alone = lines()
    assert re.fullmatch(rf"{TIME} INFO     joined topic='sports' users=2", joined)
    assert re.fullmatch(rf"{TIME} WARNING  alone", alone)


def test_a_json_line_has_the_same_as_one_object(lines: Lines) -> None:
    configure_logging("INFO", as_json=True)
    logger.bind(topic="sp\u00f6rts", users=2).info("joined")
    (line,) = lines()
    logged = json.loads(line)
    assert datetime.fromisoformat(logged.pop("time")).tzinfo is not None
    assert logged == {"level": "INFO", "message": "joined", "topic": "sp\u00f6rts", "users": 2}


as_text_and_as_json = pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])


@as_text_and_as_json
def test_lines_below_the_level_are_not_written(lines: Lines, as_json: bool) -> None:
    configure_logging("WARNING", as_json)
    logger.info("too much")
    logging.getLogger("uvicorn.error").info("too much")
    logger.warning("enough")
    logging.getLogger("uvicorn.error").warning("enough")
    assert ["enough" in line for line in lines()] == [True, True]


@as_text_and_as_json
def test_configured_again_each_line_is_logged_once(lines: Lines, as_json: bool) -> None:
    configure_logging("INFO", not as_json)
    configure_logging("INFO", as_json)
    logger.info("joined")
    logging.getLogger("uvicorn.error").info("started")
    assert [line.startswith("{") for line in lines()] == [as_json, as_json]


# Uvicorn's lines.


def test_uvicorns_lines_have_our_format(lines: Lines) -> None:
    configure_logging("INFO", as_json=False)
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 17)
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/{x}<red>", "1.1", 404)
    logging.getLogger("uvicorn").critical("about to end")
    logging.getLogger("uvicorn.error").log(25, "a level without a name")
    expected = [
        r"INFO     Started server process \[17\]",
        r'INFO     127\.0\.0\.1:1 - "GET /\{x\}<red> HTTP/1\.1" 404',
        r"CRITICAL about to end",
        r"Level 25 a level without a name",
    ]
    logged = lines()
    assert len(logged) == len(expected)
    for line, rest in zip(logged, expected):
        assert re.fullmatch(f"{TIME} {rest}", line)


@as_text_and_as_json
def test_uvicorns_lines_about_each_connection_are_dropped_and_with_them_the_query(lines: Lines, as_json: bool) -> None:
    configure_logging("TRACE", as_json)
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.info('%s - "WebSocket %s" [accepted]', "127.0.0.1:1", "/ws?token=secret")
    uvicorn.info('%s - "WebSocket %s" 403', "127.0.0.1:1", "/nowhere?token=secret")
    uvicorn.info("connection open")
    uvicorn.info("connection closed")
    assert lines() == []


@pytest.mark.parametrize(
    ("host", "protected", "warned"),
    [("0.0.0.0", False, True), ("::", False, True), ("127.0.0.1", False, False), ("0.0.0.0", True, False)],
)
def test_the_start_line_names_page_and_limits_and_an_open_server_is_warned_of(
    lines: Lines, host: str, protected: bool, warned: bool
) -> None:
    configure_logging("INFO", False, {"CHAT_TOPICS": 5}, protected)
    address = "%s://[%s]:%d" if ":" in host else "%s://%s:%d"
    running = f"Uvicorn running on {address} (Press CTRL+C to quit)"
    logging.getLogger("uvicorn.error").info(running, "https", host, 80)
    logging.getLogger("uvicorn.error").info("Uvicorn running on unix socket %s (Press CTRL+C to quit)", "/run/chat")
    started, *warnings, socket = lines()
    url = address % ("https", host, 80)
    assert started.endswith(f"INFO     Uvicorn running on {url} (Press CTRL+C to quit) page='{url}/' CHAT_TOPICS=5")
    assert ["server unprotected" in warning for warning in warnings] == [True] * warned
    assert "on unix socket /run/chat" in socket and "page" not in socket


def test_uvicorns_lines_are_shown_where_its_own_logging_is_off(lines: Lines) -> None:
    for name in UVICORN:  # as with log_config=None
        logging.getLogger(name).handlers = []
        logging.getLogger(name).setLevel(logging.NOTSET)
    configure_logging("INFO", as_json=False)
    logging.getLogger("uvicorn.error").info("Uvicorn running")
    (line,) = lines()
    assert re.fullmatch(f"{TIME} INFO     Uvicorn running", line)


def test_an_access_log_that_is_off_stays_off(lines: Lines) -> None:
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False  # as uvicorn --no-access-log does
    configure_logging("INFO", as_json=False)
    access.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/", "1.1", 404)
    assert lines() == []
    assert not access.hasHandlers()  # uvicorn looks whether it needs to log at all


# Python's own lines.


def log_of_asyncio() -> None:
    try:
        raise OSError("no buffer space")
    except OSError:
        logging.getLogger("asyncio").exception("Exception in callback write()\nhandle: <Handle write()>\n")


def test_the_lines_of_asyncio_have_our_format(lines: Lines) -> None:
    logging.getLogger().handlers = []  # else they are another handler's, as in these tests
    configure_logging("INFO", as_json=True)
    configure_logging("INFO", as_json=False)
    log_of_asyncio()
    first, *others, last = lines()
    assert re.fullmatch(f"{TIME} ERROR    Exception in callback write\\(\\)", first)
    assert others[:2] == ["handle: <Handle write()>", "Traceback (most recent call last):"]
    assert last == "OSError: no buffer space"


def test_records_of_others_below_warning_are_not_shown_whatever_the_root_level_is(lines: Lines) -> None:
    logging.getLogger().handlers = []
    logging.getLogger().setLevel(logging.DEBUG)
    configure_logging("TRACE", as_json=False)
    logging.getLogger("websockets.server").debug("< TEXT %s", "the secret")
    logging.getLogger("websockets.server").warning("shown")
    (line,) = lines()
    assert line.endswith("WARNING  shown")


def test_a_record_that_nobody_handles_is_logged_once_and_adds_no_handler(lines: Lines) -> None:
    logging.getLogger().handlers = []
    configure_logging("INFO", as_json=False)
    ours = [*logging.getLogger().handlers]
    logging.warning("from a library")
    assert logging.getLogger().handlers == ours
    (line,) = lines()
    assert re.fullmatch(f"{TIME} WARNING  from a library", line)


def test_a_host_that_handles_the_records_of_others_goes_on_to_do_so(lines: Lines) -> None:
    host = logging.NullHandler()
    logging.getLogger().handlers = [host]
    configure_logging("INFO", as_json=False)
    log_of_asyncio()
    assert logging.getLogger().handlers == [host]
    assert lines() == []


def test_a_warning_is_a_line(lines: Lines) -> None:
    logging.getLogger().handlers = []
    configure_logging("INFO", as_json=False)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("coroutine was never awaited", RuntimeWarning, stacklevel=1)
    line, *_ = lines()
    assert re.match(f"{TIME} WARNING  .*RuntimeWarning: coroutine was never awaited", line)


class Fragile:
    def __del__(self) -> None:
        raise ValueError("not closed")


def test_an_exception_that_nothing_can_catch_is_a_line_with_a_traceback(lines: Lines) -> None:
    configure_logging("INFO", as_json=False)
    Fragile()
    first, *_, last = lines()
    assert re.fullmatch(f"{TIME} ERROR    exception ignored", first)
    assert last == "ValueError: not closed"


def test_a_record_whose_arguments_do_not_fit_is_counted_and_does_no_harm(lines: Lines) -> None:
    logging.getLogger().handlers = []
    counters = Counters()
    configure_logging("INFO", as_json=False)
    configure_logging("INFO", as_json=False, counters=counters)
    logging.getLogger("asyncio").error("socket %d", "none")
    logging.getLogger("uvicorn.error").info("port %d", "http")
    logging.getLogger("uvicorn.access").info("no request")
    logging.getLogger("uvicorn.error").info("started")
    started, dropped = lines()
    assert started.endswith(" started") and dropped.endswith("log lines dropped lines=3")
    assert counters.lines_dropped == 3


# What a line must never hold.


def test_the_frames_that_the_websockets_package_logs_for_uvicorn_are_not_shown(lines: Lines) -> None:
    logging.getLogger("uvicorn.error").setLevel(logging.DEBUG)  # as uvicorn --log-level debug does
    configure_logging("TRACE", as_json=False)
    logging.getLogger("uvicorn.error").debug("< %s", 'TEXT \'{"message": "the secret"}\' [25 bytes]')
    assert lines() == []
    assert not logging.getLogger("uvicorn.error").isEnabledFor(logging.DEBUG)


@as_text_and_as_json
def test_a_field_cannot_make_a_second_line_nor_a_format(lines: Lines, as_json: bool) -> None:
    configure_logging("INFO", as_json)
    hostile = "a\nb\rc\x1b[31m\x00\x85\u2028{message}{0}<red>"
    logger.bind(reason=hostile, users=1).info("left")
    (line,) = lines()
    if as_json:
        assert json.loads(line)["reason"] == hostile
        assert not re.search(r"[\x00-\x1f]", line)
    else:
        assert line.endswith(f" left reason={hostile!r} users=1")
        assert line.isprintable()


BODY = "the secr\u00e9t"


def fail(body: str) -> None:
    body.encode("ascii")  # the values of variables would show the body, and so does the repr() of this exception


def log_a_failure() -> None:
    try:
        fail(BODY)
    except ValueError as failure:
        logger.opt(exception=failure).error("session failed")


def let_uvicorn_log_a_failure() -> None:
    try:
        fail(BODY)
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")


@pytest.mark.parametrize("log", [log_a_failure, let_uvicorn_log_a_failure])
def test_a_traceback_is_shown_without_the_values_of_variables(lines: Lines, log: Callable[[], None]) -> None:
    configure_logging("INFO", as_json=False)
    log()
    shown = lines()
    assert re.match(f"{TIME} ERROR ", shown[0])
    assert '    body.encode("ascii")' in "\n".join(shown)
    assert shown[-1].startswith("UnicodeEncodeError: ")
    assert "the secr" not in "\n".join(shown)


@pytest.mark.parametrize("log", [log_a_failure, let_uvicorn_log_a_failure])
def test_in_json_an_exception_is_a_field_without_the_values_of_variables(lines: Lines, log: Callable[[], None]) -> None:
    configure_logging("INFO", as_json=True)
    log()
    (line,) = lines()
    assert json.loads(line)["level"] == "ERROR"
    assert "UnicodeEncodeError: " in json.loads(line)["exception"]
    assert "the secr" not in line


def test_invalid_utf_8_is_the_peers_fault_and_leaves_one_plain_line(lines: Lines) -> None:
    configure_logging("INFO", as_json=False)
    try:
        b"\xff".decode()
    except UnicodeDecodeError:
        logging.getLogger("uvicorn.error").exception("Invalid UTF-8 sequence received from client.")
    (line,) = lines()
    assert re.fullmatch(rf"{TIME} INFO     frame refused code='invalid_utf8'", line)


def test_the_access_log_names_the_path_without_its_query(lines: Lines) -> None:
    configure_logging("INFO", as_json=False)
    words = ("127.0.0.1:1", "GET", "/docs?token=secret", "1.1", 200)
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', *words)
    (line,) = lines()
    assert line.endswith('127.0.0.1:1 - "GET /docs HTTP/1.1" 200')
