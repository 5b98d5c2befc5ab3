"""The hosts that a request may name: the guard against DNS rebinding, for handshakes and for HTTP.

A page whose name is rebound to this machine sends its own name as ``Host`` and as ``Origin``: each looks right beside
the other. Its port is the server's own, or that of a tunnel to it (``ssh -L``).
"""

import socket
from typing import Optional

from starlette.responses import JSONResponse

from chat_actors.connection.addresses import is_loopback
from chat_actors.connection.asgi import App, LocalAddress, Receive, Scope, Send, local_address
from chat_actors.origins import DEFAULT_PORTS, parse_host
from chat_actors.settings import Settings, entries

_MISDIRECTED = {"detail": "this Host is not served here: use localhost, or add the name to CHAT_ALLOWED_HOSTS"}
_PUBLIC_PORTS = (None, *DEFAULT_PORTS.values())  # None: a default port, or a proxy has taken it


class Hosts:
    """Rule of one application for ``Host`` headers.

    Loopback names, IP addresses and the name of the machine are always allowed: nobody can rebind them.
    """

    def __init__(self, settings: Settings) -> None:
        listed = [entry.lower() for entry in entries(settings.allowed_hosts)]
        self._any = "*" in listed
        self._listed = bool(listed)
        self._suffixes = (".localhost", *(entry[1:].rstrip(".") for entry in listed if entry.startswith("*.")))
        plain = [parse_host(entry) for entry in ("localhost", socket.gethostname(), *listed)]
        self._names = {host.name for host in plain if host is not None}

    def allows(self, header: str, local: Optional[LocalAddress]) -> bool:
        """Return whether a request with this ``Host`` is for this server. ``header``: empty if the request has none.

        Without a list every host is allowed, except on a loopback address. There a host must be allowed by its name,
        unless it is a public site behind a proxy: it names a default port of the web, which is not the server's own.
        """
        if self._any or not header or not (self._listed or (local is not None and is_loopback(local.address))):
            return True
        host = parse_host(header)
        if host is None:
            return False
        if not self._listed and local is not None and local.port not in _PUBLIC_PORTS and host.port in _PUBLIC_PORTS:
            return True
        return host.name in self._names or host.name.endswith(self._suffixes) or host.is_address()


class HostGuard:
    """ASGI middleware that answers an HTTP request for another host with 421 (RFC 9110, section 15.5.20).

    Handshakes pass: ``Admission`` refuses them, with a line in the log.
    """

    def __init__(self, app: App, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = next((value for name, value in scope["headers"] if name == b"host"), b"")
            if not self._hosts.allows(host.decode("latin-1"), local_address(scope)):
                await JSONResponse(_MISDIRECTED, 421)(scope, receive, send)
                return
        await self._app(scope, receive, send)
