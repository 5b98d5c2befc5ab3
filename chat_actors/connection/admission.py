"""Admission: the decision about a handshake, and the limits on open connections. No asyncio, no I/O.

``Admission.decide`` checks the origin and the token together and returns one value. A session cannot be built without
that value, so no path to a session skips one of the two checks.
"""

import hmac
from collections.abc import Iterable
from typing import Union

from msgspec import Struct

from chat_actors.settings import Settings

Headers = Iterable[tuple[bytes, bytes]]  # as in an ASGI scope: names in lower case


class HandshakeRefused(Struct, frozen=True):
    """Refusal of a handshake: the server answers 403.

    ``reason``: a few words for the log. The peer does not see them.
    """

    reason: str


class Anonymous:
    """Caller that gave no token to a server that has one: its join frame must give the token."""

    __slots__ = ("_secret",)  # no ``repr``: it would show the secret in logs

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def may_join(self, token: str) -> bool:
        """Return whether ``token``, from the join frame, is right. The comparison takes constant time."""
        return hmac.compare_digest(_encode(token), self._secret)


class Authenticated:
    """Caller that needs no token in its join frame: the handshake gave it, or the server has none."""

    __slots__ = ()

    def may_join(self, token: str) -> bool:
        """Return True, with any token or none."""
        return True


Caller = Union[Anonymous, Authenticated]


class Admission:
    """Admission rules of one application, and the count of its open connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = _encode(settings.token)
        self._origins = {origin.strip().lower() for origin in settings.allowed_origins.split(",") if origin.strip()}
        self.connections = 0
        self._by_address: dict[str, int] = {}

    def decide(self, headers: Headers) -> Union[HandshakeRefused, Caller]:
        """Decide on a WebSocket handshake by its ``Origin`` (RFC 6455, section 10.2), then by its token.

        A browser always sends ``Origin`` (RFC 6454, section 7). A program may omit it unless ``require_origin`` is set.
        """
        given = {name.lower(): _text(value).lower() for name, value in headers}
        origin = given.get(b"origin")
        if origin is None:
            if self._settings.require_origin:
                return HandshakeRefused("no origin")
        elif not self._is_allowed(origin, given.get(b"host", "")):
            return HandshakeRefused("origin not allowed")
        return self.authenticate(headers)

    def authenticate(self, headers: Headers) -> Union[HandshakeRefused, Caller]:
        """Decide on the token alone, given as ``Authorization: Bearer …`` (RFC 6750, section 2.1).

        The name of the scheme is compared without case (RFC 9110, section 11.1). If the header comes more than once,
        as behind a proxy that adds its own, one with the right token is enough.
        """
        if not self._secret:
            return Authenticated()
        given = [_text(value) for name, value in headers if name.lower() == b"authorization"]
        if not given:
            return Anonymous(self._secret)
        return Authenticated() if any(map(self._is_right, given)) else HandshakeRefused("wrong token")

    def enter(self, address: str) -> bool:
        """Count a connection; return False if it exceeds a limit. Pair each call with a ``leave``, also after False."""
        self.connections += 1
        count = self._by_address[address] = self._by_address.get(address, 0) + 1
        per_address = self._settings.connections_per_address
        return self.connections <= self._settings.connections and (not per_address or count <= per_address)

    def is_full(self) -> bool:
        """Return whether ``enter`` would refuse the next connection, from whatever address."""
        return self.connections >= self._settings.connections

    def leave(self, address: str) -> None:
        """Stop counting a connection from ``address``."""
        self.connections -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def _is_right(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("latin-1")  # the header's own bytes
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self._secret)

    def _is_allowed(self, origin: str, host: str) -> bool:
        same = bool(host) and origin.partition("://")[2] == host
        return same or origin in self._origins or "*" in self._origins


def _encode(token: str) -> bytes:
    """Encode any string: a variable or a frame that is not UTF-8 gives lone surrogates."""
    return token.encode(errors="surrogatepass")


def _text(header: bytes) -> str:
    return header.decode("latin-1")
