"""Who is let in, and how many at a time. Decided on the handshake's headers and on counts: no asyncio.

``decide`` makes one decision for a handshake. It is a value that the session needs: nobody gets past the check of the
origin or of the token by asking in another order.
"""

import hmac
from collections.abc import Iterable
from typing import Union

from msgspec import Struct

from chat_actors.settings import Settings

Headers = Iterable[tuple[bytes, bytes]]  # as in an ASGI scope: names in lower case


class HandshakeRefused(Struct, frozen=True):
    """The connection is not accepted (403). ``reason``: a few words for the log."""

    reason: str


class Anonymous:
    """Accepted, but the server has a token and the handshake did not give it: the join frame has to."""

    __slots__ = ("_secret",)  # and no ``repr`` that shows it

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def may_join(self, token: str) -> bool:
        """Whether the join frame's token is right; the comparison takes the same time for every wrong one."""
        return hmac.compare_digest(token.encode(errors="surrogatepass"), self._secret)


class Authenticated:
    """Accepted, and nothing more is asked: the handshake gave the token, or the server has none."""

    __slots__ = ()

    def may_join(self, token: str) -> bool:
        """True: whatever the join frame says."""
        return True


Caller = Union[Anonymous, Authenticated]


class Admission:
    """The rules of one application for those who come, and the count of those who are here."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = settings.token.encode()
        self._origins = {origin.strip().lower() for origin in settings.allowed_origins.split(",") if origin.strip()}
        self.connections = 0
        self._by_address: dict[str, int] = {}

    def decide(self, headers: Headers) -> Union[HandshakeRefused, Caller]:
        """The decision on a WebSocket handshake. A browser always names the origin of its page; a program need not."""
        given = _by_name(headers)
        origin = given.get("origin")
        if origin is None:
            if self._settings.require_origin:
                return HandshakeRefused("no origin")
        elif not self._is_allowed(origin.lower(), given.get("host", "").lower()):
            return HandshakeRefused("origin not allowed")
        return self.authenticate(headers)

    def authenticate(self, headers: Headers) -> Union[HandshakeRefused, Caller]:
        """The decision on the token alone, given as ``Authorization: Bearer …`` (RFC 6750)."""
        if not self._secret:
            return Authenticated()
        authorization = _by_name(headers).get("authorization")
        if authorization is None:
            return Anonymous(self._secret)
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("latin-1")  # the header's own bytes
        if scheme.lower() == "bearer" and hmac.compare_digest(given, self._secret):
            return Authenticated()
        return HandshakeRefused("wrong token")

    def enter(self, address: str) -> bool:
        """Count a connection in; False if it is one too many. Pair each call with a ``leave``, whatever it returned."""
        self.connections += 1
        count = self._by_address[address] = self._by_address.get(address, 0) + 1
        per_address = self._settings.connections_per_address
        return self.connections <= self._settings.connections and (not per_address or count <= per_address)

    def leave(self, address: str) -> None:
        """Count a connection out."""
        self.connections -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def _is_allowed(self, origin: str, host: str) -> bool:
        same = bool(host) and origin.partition("://")[2] == host
        return same or origin in self._origins or "*" in self._origins


def _by_name(headers: Headers) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
