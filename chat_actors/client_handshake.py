"""The client's opening handshake, on that of ``websockets``: its proxies, redirects and log, and what a failure means.

No state. What follows the handshake is in ``client``; the server's limits on headers are in ``connection.handshake``.
"""

import asyncio
import calendar
import logging
import re
from contextlib import suppress
from email.utils import parsedate
from ipaddress import ip_address
from typing import Any, Optional, Union

from websockets.asyncio import client as websockets
from websockets.exceptions import InvalidProxy, InvalidProxyStatus, InvalidStatus, InvalidURI, WebSocketException
from websockets.uri import parse_uri

RETRY_AFTER_MOST = 300.0  # seconds. A proxy under maintenance may ask for an hour, and be back in a minute
_FORBIDDEN = {401, 403}
# Errors of the network and of what stands between client and server. Any other error is a bug.
_PASSING = (OSError, EOFError, asyncio.TimeoutError, WebSocketException)


class _Discreet(logging.LoggerAdapter):  # type: ignore[type-arg]  # subscripts need Python 3.11
    """The log of ``websockets`` without its debug level, which shows messages, tokens and passwords."""

    def isEnabledFor(self, level: int) -> bool:
        return level > logging.DEBUG and super().isEnabledFor(level)


# A dead connection is detected within 20 seconds: that leaves time to resume within the window of 30 seconds.
OPTIONS = {
    "open_timeout": 10,
    "ping_interval": 10,
    "ping_timeout": 10,
    "close_timeout": 2,
    "max_size": 16 << 20,
    "compression": None,
    "logger": _Discreet(logging.getLogger("websockets.client"), {}),
}


class _Connect(websockets.connect):
    """Connection that follows a redirect only within its origin: headers, tokens and messages go nowhere else."""

    def process_redirect(self, exc: Exception) -> Union[Exception, str]:
        with suppress(InvalidURI, ValueError, LookupError):  # a Location that is no address of a WebSocket, or several
            target = super().process_redirect(exc)
            if isinstance(target, str) and _origin(target) == _origin(self.uri):
                return target
        return exc


def _origin(url: str) -> tuple[bool, str, int]:
    parsed = parse_uri(url)
    return parsed.secure, parsed.host, parsed.port


async def shake_hands(url: str, options: dict[str, Any]) -> websockets.ClientConnection:
    """Open a connection; ``options`` are those of ``websockets.asyncio.client.connect``.

    A server on this machine is reached directly, unless ``options`` name a proxy. Raises what ``websockets`` raises,
    without the password of a wrong URL.
    """
    try:
        host = parse_uri(url).host
    except InvalidURI as why:
        raise InvalidURI(_without_password(url), why.msg) from None
    except ValueError:  # its text may hold a part of the password
        raise InvalidURI(_without_password(url), "host or port is wrong, or user or password needs quoting") from None
    if _is_loopback(options.get("host") or host):
        options = {"proxy": None, **options}
    try:
        return await _Connect(url, **options)
    except InvalidProxy as why:
        raise InvalidProxy(_without_password(why.proxy), why.msg) from None


def _without_password(url: str) -> str:
    """Hide what stands before the last @: in a wrong URL the password may hold any character."""
    return re.sub("^([a-zA-Z0-9+.-]+://)?.*@", r"\1…@", url, flags=re.DOTALL)


def _is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its name (RFC 6761, section 6.3) or address."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def is_final(error: Exception) -> bool:
    """Return whether an error of an attempt to connect, or of its connection, would come again each time.

    Any HTTP status but 401 and 403 may be that of a proxy whose server is away, and so may be an error of TLS.
    """
    if isinstance(error, InvalidStatus):
        return error.response.status_code in _FORBIDDEN
    return not isinstance(error, _PASSING)


def retry_after(error: Exception, now: float) -> float:
    """Return the seconds that a refused handshake asks to wait (RFC 9110, section 10.2.3), up to RETRY_AFTER_MOST.

    0 if it asks for none. ``now``: Unix time. A date counts from the ``Date`` of the same answer, if that has one.
    """
    if not isinstance(error, (InvalidStatus, InvalidProxyStatus)):
        return 0.0
    headers = error.response.headers
    seconds = 0.0
    for value in headers.get_all("Retry-After")[:1]:
        if value.isascii() and value.isdigit():
            seconds = float(value)
        else:
            until = _unix_time(value)
            dates = [date for date in map(_unix_time, headers.get_all("Date")) if date is not None]
            seconds = 0.0 if until is None else until - (dates[0] if dates else now)
    return min(max(seconds, 0.0), RETRY_AFTER_MOST)


def _unix_time(date: str) -> Optional[int]:
    """Return the Unix time of an HTTP-date in any of its forms (RFC 9110, section 5.6.7); None if it is none."""
    try:
        parsed = parsedate(date)
        return None if parsed is None else calendar.timegm(parsed)
    except (ValueError, OverflowError, IndexError):  # IndexError: up to Python 3.9
        return None
