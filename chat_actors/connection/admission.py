"""Who may come in, and how many at a time. Decided on the handshake's headers and on counts: no asyncio."""

import hmac
from collections.abc import Iterable
from typing import Optional

from chat_actors.settings import Settings


class Door:
    """The door of one application: refuses before the upgrade (403), counts who is in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._origins = {origin.strip().lower() for origin in settings.allowed_origins.split(",") if origin.strip()}
        self.connections = 0
        self._by_address: dict[str, int] = {}

    def refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> Optional[str]:
        """Why this handshake is refused; None where it is not. A browser always names the origin of its page."""
        given = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
        origin = given.get("origin")
        if origin is None:
            if self._settings.require_origin:
                return "no origin"
        elif not self._is_allowed(origin.lower(), given.get("host", "").lower()):
            return "origin not allowed"
        if self._settings.token and "authorization" in given and not self._is_bearer(given["authorization"]):
            return "wrong token"
        return None

    def knows(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether no token is needed in the join frame: none is set, or the handshake had it."""
        return not self._settings.token or any(name.lower() == b"authorization" for name, _ in headers)

    def admits(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request gives the token as ``Authorization: Bearer``, or none is set."""
        given = [value.decode("latin-1") for name, value in headers if name.lower() == b"authorization"]
        return not self._settings.token or any(map(self._is_bearer, given))

    def is_token(self, token: str) -> bool:
        """Whether this is the shared secret; the comparison takes the same time for every wrong one."""
        return self._is_secret(token.encode(errors="surrogatepass"))

    def enter(self, address: str) -> bool:
        """Count a connection in; False where it is one too many. Pair each with a ``leave``, refused or not."""
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

    def _is_bearer(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and self._is_secret(token.strip().encode("latin-1"))  # the header's own bytes

    def _is_secret(self, given: bytes) -> bool:
        return hmac.compare_digest(given, self._settings.token.encode())

    def _is_allowed(self, origin: str, host: str) -> bool:
        same = bool(host) and origin.partition("://")[2] == host
        return same or origin in self._origins or "*" in self._origins
