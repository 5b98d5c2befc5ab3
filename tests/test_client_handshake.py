"""The client's opening handshake, as far as it needs no server."""

import logging
from typing import Optional

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidProxyStatus, InvalidStatus
from websockets.http11 import Response

from chat_actors.client_handshake import OPTIONS, RETRY_AFTER_MOST, _is_loopback, is_final, retry_after

NOW = 784_111_777  # the date below
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("7", 7),
        ("0", 0),
        ("9" * 5000, RETRY_AFTER_MOST),
        ("Sun, 06 Nov 1994 08:50:00 GMT", 23),
        ("Sunday, 06-Nov-94 08:50:00 GMT", 23),
        ("Sun Nov  6 08:50:00 1994", 23),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0),
        ("Sun, 06 Nov 99999 08:49:37 GMT", 0),
        ("Sun, 06 Nov , 08:49:37 GMT", 0),
        ("Feb ( , Sun,  GMT -1", 0),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_in_any_form(value: Optional[str], seconds: float) -> None:
    headers = Headers() if value is None else Headers({"Retry-After": value})
    for kind in (InvalidStatus, InvalidProxyStatus):
        assert retry_after(kind(Response(503, "x", headers)), NOW) == seconds
    assert retry_after(OSError(), NOW) == 0


def test_the_date_counts_from_that_of_the_server_whose_clock_may_differ() -> None:
    headers = Headers({"Retry-After": "Sun, 06 Nov 1994 08:50:00 GMT", "Date": DATE})
    assert retry_after(InvalidStatus(Response(503, "x", headers)), NOW + 1000) == 23
    headers["Retry-After"] = "9"  # a second value of a header
    assert retry_after(InvalidStatus(Response(503, "x", headers)), NOW) == 23


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0"]
)
def test_a_host_that_is_this_machine_is_loopback(host: str) -> None:
    assert _is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "example.org", "localhost.example.org", "notlocalhost", "10.0.0.1", "2001:db8::1"]
)
def test_a_host_elsewhere_is_not_loopback(host: str) -> None:
    assert not _is_loopback(host)


def test_a_bug_is_final_and_an_error_of_the_network_is_not() -> None:
    assert [is_final(error) for error in (TypeError(), ValueError(), OSError(), EOFError())] == [
        True,
        True,
        False,
        False,
    ]


def test_the_log_has_no_debug_level_because_that_shows_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logger = OPTIONS["logger"]
    assert isinstance(logger, logging.LoggerAdapter)
    assert [logger.isEnabledFor(level) for level in (logging.DEBUG, logging.INFO)] == [False, True]
