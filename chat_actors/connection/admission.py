"""Admission: the decision about a handshake, and the limits on open connections. No asyncio, no I/O.

``Admission.decide`` checks the host, the origin and the token together and returns one value. A session cannot be built
without that value, so no path to a session skips one of the checks.
"""

import hmac
from functools import lru_cache
from typing import Optional, Union

from msgspec import Struct

from chat_actors.connection.addresses import customer, is_global, stands_for_others
from chat_actors.connection.asgi import Headers, LocalAddress
from chat_actors.connection.hosts import Hosts
from chat_actors.origins import parse_host, parse_origin
from chat_actors.settings import Settings, entries, without_slash

LOGGED = 200  # characters of a header in a log line
_CACHED = 512  # bytes of the longest headers whose verdict is kept


class HandshakeRefused(Struct, frozen=True):
    """Refusal of a handshake: the server answers 403.

    ``reason``: a few words for the log and the peer. ``seen``: the headers that did not fit, for the log, by name:
    short, and without control characters.
    """

    reason: str
    seen: dict[str, str] = {}


class Anonymous:
    """Caller that gave no token to a server that has one: its join frame must give the token."""

    __slots__ = ("_secret",)  # no ``repr``: it would show the secret in logs

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def may_join(self, token: str) -> bool:
        """Return whether ``token``, from the join frame, is right. The comparison takes constant time.

        White space around it does not count, as around the server's own: both may come from files.
        """
        return hmac.compare_digest(_encode(token.strip()), self._secret)


class Authenticated:
    """Caller that needs no token in its join frame: the handshake gave it, or the server has none."""

    __slots__ = ()

    def may_join(self, token: str) -> bool:
        """Return True, with any token or none."""
        return True


Caller = Union[Anonymous, Authenticated]


class Tally:
    """Count of the open connections, in all and by where they come from; a subclass may count those of others too."""

    def __init__(self) -> None:
        self.connections = 0  # of this process
        self._by_source: dict[str, int] = {}

    def enter(self, source: Optional[str]) -> tuple[int, int]:
        """Count a connection; return how many there are then, and how many from its source (0 if that is None)."""
        self.connections += 1
        if source is None:
            return self.connections, 0
        count = self._by_source[source] = self._by_source.get(source, 0) + 1
        return self.connections, count

    def leave(self, source: Optional[str]) -> None:
        """Stop counting a connection from ``source``."""
        self.connections -= 1
        if source is not None:
            self._by_source[source] -= 1
            if not self._by_source[source]:
                del self._by_source[source]

    def total(self) -> int:
        """Return how many connections there are."""
        return self.connections


class Place:
    """Place of one connection in the count, from its handshake until its descriptor is closed, by whatever process.

    ``source``: what it is counted under, as ``Admission.source`` returns it. ``within``: whether it is within limits.
    """

    __slots__ = ("_tally", "source", "within")

    def __init__(self, tally: Tally, source: Optional[str], within: bool) -> None:
        self.source = source
        self.within = within
        self._tally = tally

    def leave(self) -> None:
        """Stop counting the connection. Call it once."""
        self._tally.leave(self.source)


class Admission:
    """Admission rules of one application. ``tally``: the count of its open connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = _encode(settings.token)
        self.hosts = Hosts(settings)
        listed = entries(settings.allowed_origins)
        self._any_origin = "*" in listed
        self._origins = {parse_origin(without_slash(origin)) for origin in listed if origin != "*"}
        self._judge_cached = lru_cache(256)(self._judge)  # in a storm of joins all name the same two
        self.tally = Tally()

    def decide(self, headers: Headers, local: Optional[LocalAddress] = None) -> Union[HandshakeRefused, Caller]:
        """Decide on a WebSocket handshake by its ``Host``, its ``Origin`` (RFC 6455, section 10.2), then its token.

        A browser always sends ``Origin`` (RFC 6454, section 7). A program may omit it unless ``require_origin`` is set.
        ``local``: this end of the connection, if it is known.
        """
        host, origin = b"", None
        for name, value in headers:
            name = name.lower()
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        judge = self._judge if len(host) + len(origin or b"") > _CACHED else self._judge_cached
        return judge(host, origin, local) or self.authenticate(headers)

    def authenticate(self, headers: Headers) -> Union[HandshakeRefused, Caller]:
        """Decide on the token alone, given as ``Authorization: Bearer …`` (RFC 6750, section 2.1).

        Credentials of another scheme are somebody else's, as of a proxy that asks for a password: they say nothing
        about the token. The name of the scheme is compared without case (RFC 9110, section 11.1). Of several tokens,
        as behind a proxy that adds its own, one that is right is enough.
        """
        if not self._secret:
            return Authenticated()
        tokens = [
            value[6:].strip()  # bytes: of a text, ``strip`` would take the last byte of a token such as "voilà"
            for name, value in headers
            if name.lower() == b"authorization" and value[:7].rstrip().lower() == b"bearer"
        ]
        given = [*filter(None, tokens)]
        if not given:
            return Anonymous(self._secret)
        right = any(hmac.compare_digest(token, self._secret) for token in given)
        return Authenticated() if right else HandshakeRefused("wrong token")

    def source(self, address: str, headers: Headers) -> tuple[Optional[str], bool]:
        """Return what the connections of a client are counted under, and whether it is a proxy that is not trusted.

        None: they are not counted. So a proxy, a Unix socket or a limit of 0 makes no two clients one. From a global
        address the headers of a proxy may be a client's own word: such a client is counted.
        """
        proxy = stands_for_others(address, headers) and not is_global(address)
        counted = not proxy and self._settings.connections_per_address
        return customer(address) if counted else None, proxy

    def enter(self, source: Optional[str]) -> Place:
        """Return the place of a new connection. ``source``: as ``source`` returns it."""
        connections, count = self.tally.enter(source)
        of_source = source is None or count <= self._settings.connections_per_address
        return Place(self.tally, source, connections <= self._settings.connections and of_source)

    def is_full(self) -> bool:
        """Return whether the next connection would not be within limits, wherever it comes from."""
        return self.tally.total() >= self._settings.connections

    def _judge(self, host: bytes, origin: Optional[bytes], local: Optional[LocalAddress]) -> Optional[HandshakeRefused]:
        place = _text(host)
        if not self.hosts.allows(place, local):
            return HandshakeRefused("host not allowed", {"host": _shown(place)})
        if origin is None:
            return HandshakeRefused("no origin") if self._settings.require_origin else None
        page = _text(origin)
        if self._is_allowed(page, place, None if local is None else local.port):
            return None
        return HandshakeRefused("origin not allowed", {"origin": _shown(page), "host": _shown(place)})

    def _is_allowed(self, origin: str, host: str, own_port: Optional[int]) -> bool:
        if self._any_origin:
            return True
        page, place = parse_origin(origin), parse_host(host)
        if page is None:
            return False
        return page in self._origins or (place is not None and page.is_place(place, own_port))


def _encode(token: str) -> bytes:
    """Encode any string: a variable or a frame that is not UTF-8 gives lone surrogates."""
    return token.encode(errors="surrogatepass")


def _text(header: bytes) -> str:
    return header.decode("latin-1")


def _shown(header: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in header[:LOGGED])
