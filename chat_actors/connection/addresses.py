"""The address of a client: what counts as one, and whether it is only that of a proxy. No state."""

import ipaddress
import re
from typing import Optional, Union

from chat_actors.connection.asgi import Headers

_PROXIED = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-real-ip"))
_FOR = re.compile(r'for="?(\[[^\]]*\]|[^";,\s]*)', re.IGNORECASE)  # RFC 7239, section 4
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052, section 2.1

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


def customer(address: str) -> Optional[str]:
    """Return what connections from ``address`` are counted under; None if it is no address, as of a Unix socket.

    An IPv6 customer is a network of 64 bits (RFC 6177): one machine has as many addresses there as it likes. But all
    machines of a link share the one network of its link-local addresses.
    """
    ip = _parse(address)
    if isinstance(ip, ipaddress.IPv6Address) and not ip.is_link_local:
        return f"{ipaddress.IPv6Address(int(ip) >> 64 << 64)}/64"
    return None if ip is None else str(ip)


def is_loopback(address: str) -> bool:
    """Return whether only clients on this machine reach ``address``."""
    ip = _parse(address)
    return ip is not None and ip.is_loopback


def is_global(address: str) -> bool:
    """Return whether ``address`` is one of the public network."""
    ip = _parse(address)
    return ip is not None and ip.is_global


def stands_for_others(address: str, headers: Headers) -> bool:
    """Return whether the headers name clients in front of ``address``, and nobody has applied them.

    Who trusts a proxy has replaced its address by one of those that it names: by the first, or by the last that is no
    trusted proxy itself, which is not on this machine.
    """
    given = [(name, value.decode("latin-1")) for name, value in headers if name in _PROXIED]
    if not given:
        return False
    ip = _parse(address)
    if ip is None:
        return True
    for name, value in given:
        named = [_parse(one) for one in (_FOR.findall(value) if name == b"forwarded" else value.split(","))]
        if ip in (named[:1] if ip.is_loopback else named):
            return False
    return True


def _parse(text: str) -> Optional[Address]:
    """Return an address, without brackets, port and scope; an IPv4 address that is written as IPv6 as itself."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        return ip.ipv4_mapped or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip)
    return ip
