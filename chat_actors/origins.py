"""Origins and hosts, parsed: where a page comes from (RFC 6454), and the place that a request asks for (RFC 9110).

Both are a peer's words, so nothing here raises on a header.
"""

import ipaddress
import re
from typing import NamedTuple, Optional

DEFAULT_PORTS = {"http": 80, "https": 443}
_WEB = {"ws": "http", "wss": "https"}  # a WebSocket's URL has the origin of its page's scheme
_LONGEST = 320  # characters: a scheme, the longest name of the DNS (253) and a port

_NAME = r"(\[[0-9a-f:.]+(?:%[\w.~-]+)?\]|[a-z0-9_-][a-z0-9_.-]*)"
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://{_NAME}(?::(\d{{1,5}}))?", re.ASCII)
_HOST = re.compile(rf"{_NAME}(?::(\d{{0,5}}))?", re.ASCII)


class Host(NamedTuple):
    """Host and port that a request names.

    ``name``: in lower case, without the dot of the DNS's root; an IPv6 address in brackets, in its shortest form.
    ``port``: None if it is the default of a scheme that only the client knows.
    """

    name: str
    port: Optional[int]

    def is_address(self) -> bool:
        """Return whether the name is an IP address, which no DNS server answers for.

        As a browser decides: a name that ends in a number is an IPv4 address (URL standard, "ends in a number").
        """
        last = self.name.rpartition(".")[2]
        return last.endswith("]") or last.isdigit() or re.fullmatch("0x[0-9a-f]*", last) is not None


class Origin(NamedTuple):
    """Origin of a page. ``port``: that of the URL, or the default of its scheme; None if the scheme has none."""

    scheme: str
    name: str  # as in ``Host``
    port: Optional[int]

    def is_place(self, host: Host, own_port: Optional[int]) -> bool:
        """Return whether ``host``, of a request on a socket with ``own_port``, is the place that the page came from.

        The scheme is the origin's: behind a proxy that speaks TLS the server does not know its own. A host without a
        port, on a port that is nobody's default, has lost it to a proxy: then the names alone decide.
        """
        default = DEFAULT_PORTS.get(self.scheme)
        if default is None or self.name != host.name:
            return False
        if host.port is None and own_port not in DEFAULT_PORTS.values():
            return True
        return self.port == (host.port or default)


def parse_origin(text: str) -> Optional[Origin]:
    """Return the origin, such as ``https://chat.example``; None if the text is none (``null`` among others)."""
    match = _ORIGIN.fullmatch(text.lower()) if len(text) <= _LONGEST else None
    if match is None:
        return None
    scheme = _WEB.get(match[1], match[1])
    name, port = _canonical(match[2]), int(match[3]) if match[3] else DEFAULT_PORTS.get(scheme)
    return Origin(scheme, name, port) if name and (port is None or 0 < port < 65536) else None


def parse_host(text: str) -> Optional[Host]:
    """Return the value of a ``Host`` header; None if the text is none. A colon without a port is no port."""
    match = _HOST.fullmatch(text.lower()) if len(text) <= _LONGEST else None
    if match is None:
        return None
    name, port = _canonical(match[1]), int(match[2]) if match[2] else None
    return Host(name, port) if name and (port is None or 0 < port < 65536) else None


def _canonical(name: str) -> str:
    """Return the one way in which a name is written here; empty if it is no address in its brackets."""
    if not name.startswith("["):
        return name[:-1] if name.endswith(".") else name
    try:
        return f"[{ipaddress.IPv6Address(name[1:-1].partition('%')[0]).compressed}]"
    except ValueError:
        return ""
