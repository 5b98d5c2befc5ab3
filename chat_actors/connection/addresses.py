"""The address of a client: what counts as one, and whether it is only that of a proxy. No state."""

import ipaddress
import re
from collections.abc import Iterable
from typing import Optional, Union

_PROXIED = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-real-ip"))
_FIRST_FOR = re.compile(r'for="?(\[[^\]]*\]|[^";,\s]*)', re.IGNORECASE)  # RFC 7239, section 4

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


def customer(address: str) -> Optional[str]:
    """Return what connections from ``address`` are counted under; None if it is no address, as of a Unix socket.

    An IPv6 customer is a network of 64 bits (RFC 6177): one machine has as many addresses there as it likes.
    """
    ip = _parse(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return f"{ipaddress.IPv6Address(int(ip) >> 64 << 64)}/64"
    return None if ip is None else str(ip)


def is_proxy(address: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether ``address`` is that of a proxy which stands for many clients, because nobody trusts its headers.

    The headers then name a client in front of it. From a global address they are a client's own word and mean nothing.
    """
    given = [(name, value.decode("latin-1")) for name, value in headers if name in _PROXIED]
    ip = _parse(address) if given else None
    if not given or (ip is not None and ip.is_global):
        return False
    return ip is None or all(_parse(_first(name, value)) != ip for name, value in given)


def _first(name: bytes, value: str) -> str:
    if name == b"forwarded":
        match = _FIRST_FOR.search(value)
        return match[1] if match else ""
    return value.partition(",")[0].strip()


def _parse(text: str) -> Optional[Address]:
    """Return an address, without brackets, port and scope; an IPv4 address that is mapped to IPv6 as itself."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip
