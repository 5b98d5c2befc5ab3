"""Admission: the decision on a handshake by its headers, and the limits on open connections."""

from typing import Any, Optional

import pytest

from chat_actors.connection.admission import Admission, Anonymous, Authenticated, HandshakeRefused
from chat_actors.connection.asgi import Headers, LocalAddress
from chat_actors.settings import Settings


def admission(**settings: Any) -> Admission:
    return Admission(Settings.model_validate(settings))


def refusal(admission: Admission, headers: Headers) -> Optional[str]:
    """Return the reason for the refusal of a handshake; None if it is not refused."""
    decision = admission.decide(headers)
    return decision.reason if isinstance(decision, HandshakeRefused) else None


def anonymous(admission: Admission) -> Anonymous:
    """Return the caller of a handshake without a token, on a server that has one."""
    decision = admission.decide(headers())
    assert isinstance(decision, Anonymous)
    return decision


def headers(**named: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"chat.example:8000"), *((name.encode(), value.encode()) for name, value in named.items())]


@pytest.mark.parametrize(
    ("origin", "refused"),
    [
        ("http://chat.example:8000", False),  # the server's own pages
        ("https://CHAT.example:8000", False),  # behind a proxy that speaks TLS; host names have no case
        ("https://friend.example", False),  # listed
        ("https://friend.example:444", True),
        ("http://friend.example", True),
        ("https://evil.example", True),
        ("https://chat.example:8000.evil.example", True),
        ("null", True),  # a page in a sandbox
        ("", True),
        ("http://[", True),  # which is no address at all
        ("chat.example:8000", True),
    ],
)
def test_a_browser_comes_in_from_the_same_or_a_listed_origin(origin: str, refused: bool) -> None:
    listed = admission(allowed_origins="https://other.example, https://friend.example")
    assert refusal(listed, headers(origin=origin)) == ("origin not allowed" if refused else None)


@pytest.mark.parametrize(
    ("origin", "host", "port", "same"),
    [
        ("https://h", "h:443", 8000, True),
        ("http://h", "h:80", 8000, True),
        ("https://h:443", "h", 8000, True),
        ("http://h:80", "h", 80, True),
        ("https://h.", "H.:443", 8000, True),
        ("http://[::1]:8000", "[0:0::1]:8000", 8000, True),
        ("wss://h", "h:443", 8000, True),
        ("http://h:8081", "h", 8000, True),  # a proxy has taken the port from the host
        ("http://h:8081", "h", None, True),  # as it does in front of a Unix socket
        ("http://h:8081", "h", 80, False),
        ("https://h", "h:80", 8000, False),
        ("https://h", "h:8443", 8000, False),
        ("https://h:8443", "h:443", 8000, False),
        ("https://h", "h:99999", 8000, False),
        ("https://h", "[::g]", 8000, False),
        ("https://[1:2]", "[1:2]:443", 8000, False),
        ("https://h", 400 * "h", 8000, False),
        ("https://" + 600 * "h", "h", 8000, False),
        ("app://h", "h", 8000, False),
        ("https://h/", "h", 8000, False),
        ("https://me@h", "h", 8000, False),
        ("null", "null", 8000, False),
    ],
)
def test_an_origin_is_a_place_and_its_default_port_is_none(
    origin: str, host: str, port: Optional[int], same: bool
) -> None:
    given = [(b"host", host.encode()), (b"origin", origin.encode())]
    decision = admission().decide(given, LocalAddress("10.0.0.1", port))
    assert isinstance(decision, HandshakeRefused) is not same


@pytest.mark.parametrize(
    ("listed", "origin"),
    [
        ("https://friend.example:443", "https://friend.example"),
        ("HTTPS://Friend.example/", "https://friend.example"),
        ("\n https://a.example,\nhttp://friend.example:80\n,", "http://friend.example"),
        ("https://a.example\nwss://friend.example\n", "https://friend.example"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("*", "null"),
    ],
)
def test_a_listed_origin_is_the_same_however_it_is_written(listed: str, origin: str) -> None:
    assert refusal(admission(allowed_origins=listed), headers(origin=origin)) is None


def test_a_refused_header_is_told_with_the_reason() -> None:
    decision = admission().decide(headers(origin="https://evil.example"))
    assert isinstance(decision, HandshakeRefused)
    assert decision.seen == {"origin": "https://evil.example", "host": "chat.example:8000"}


def test_a_rebound_name_is_refused_although_its_origin_fits() -> None:
    given = [(b"host", b"evil.example:8000"), (b"origin", b"http://evil.example:8000")]
    assert admission().decide(given, LocalAddress("127.0.0.1", 8000)) == HandshakeRefused(
        "host not allowed", {"host": "evil.example:8000"}
    )


def test_no_origin_is_the_same_origin_without_a_host() -> None:
    assert refusal(admission(), [(b"origin", b"")]) == "origin not allowed"


def test_every_origin_comes_in_where_that_is_asked_for() -> None:
    assert refusal(admission(allowed_origins="*"), headers(origin="https://evil.example")) is None


def test_a_program_without_an_origin_comes_in_unless_one_is_required() -> None:
    assert refusal(admission(), headers()) is None
    assert refusal(admission(require_origin=True), headers()) == "no origin"


@pytest.mark.parametrize("authorization", ["Bearer secret", "bearer   secret"])
def test_the_token_in_the_handshake_is_enough(authorization: str) -> None:
    caller = admission(token="secret").decide(headers(authorization=authorization))
    assert isinstance(caller, Authenticated)
    assert caller.may_join("")


@pytest.mark.parametrize("authorization", ["Bearer wrong", "BEARER wrong", "Bearer secret2"])
def test_a_wrong_token_in_the_handshake_is_refused(authorization: str) -> None:
    assert refusal(admission(token="secret"), headers(authorization=authorization)) == "wrong token"


def test_a_token_beyond_ascii_is_compared_by_its_bytes() -> None:
    one = admission(token="größe")
    assert refusal(one, headers(authorization="Bearer größe")) is None
    assert anonymous(one).may_join("größe")
    assert refusal(one, [(b"host", b"x"), (b"authorization", "Bearer größe".encode("latin-1"))]) == "wrong token"


def test_a_token_that_is_not_utf_8_lets_the_server_start() -> None:
    """Python reads such a byte of a variable as a lone surrogate."""
    one = admission(token="gr\udcf6\udcdfe")
    assert refusal(one, [(b"host", b"x"), (b"authorization", b"Bearer gr\xf6\xdfe")]) == "wrong token"
    assert not anonymous(one).may_join("größe")
    assert anonymous(one).may_join("gr\udcf6\udcdfe")


def test_without_a_token_in_the_handshake_the_join_frame_has_to_give_it() -> None:
    caller = anonymous(admission(token="secrét"))
    assert caller.may_join("secrét")
    assert not any(caller.may_join(wrong) for wrong in ("", "secre", "\ud800"))
    assert "secr" not in repr(caller)


@pytest.mark.parametrize("token", [" secret\n", "\ufeffsecret\r\n", "secret"])
def test_white_space_around_a_token_does_not_count(token: str) -> None:
    caller = anonymous(admission(token=token))
    assert caller.may_join("secret") and caller.may_join("secret\n")


@pytest.mark.parametrize("token", ["", " ", "\n", "\ufeff"])
def test_an_empty_token_is_none(token: str) -> None:
    assert isinstance(admission(token=token).decide(headers()), Authenticated)


def test_a_token_whose_last_byte_looks_like_a_space_is_whole() -> None:
    given = [(b"authorization", b"Bearer " + "voilà".encode())]
    assert isinstance(admission(token="voilà").authenticate(given), Authenticated)


def test_a_refused_origin_is_refused_whatever_the_token() -> None:
    guarded = admission(token="secret")
    for authorization in ("Bearer secret", "Bearer wrong"):
        given = headers(origin="https://evil.example", authorization=authorization)
        assert refusal(guarded, given) == "origin not allowed"


@pytest.mark.parametrize(
    "authorization", ["Basic secret", "secret", "", "Negotiate YII=", "Bearers secret", "Bearer", "bearer \t"]
)
def test_credentials_that_are_no_token_leave_it_to_the_join_frame(authorization: str) -> None:
    guarded = admission(token="secret")
    for decide in (guarded.decide, guarded.authenticate):
        assert isinstance(decide(headers(authorization=authorization)), Anonymous)


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Bearer x"])
def test_a_wrong_token_is_refused_in_every_request(authorization: str) -> None:
    given = headers(authorization=authorization)
    for decide in (admission(token="secret").decide, admission(token="secret").authenticate):
        assert isinstance(decide(given), HandshakeRefused)


@pytest.mark.parametrize("credentials", [("Bearer secret", "Basic eDp5"), ("Basic eDp5", "Bearer secret")])
def test_of_two_credentials_one_right_token_is_enough(credentials: tuple[str, str]) -> None:
    given = [one for credential in credentials for one in headers(authorization=credential)]
    guarded = admission(token="secret")
    for decide in (guarded.decide, guarded.authenticate):
        assert isinstance(decide(given), Authenticated)
    wrong = [*headers(authorization="Bearer wrong"), *headers(authorization="Basic secret")]
    for decide in (guarded.decide, guarded.authenticate):
        assert isinstance(decide(wrong), HandshakeRefused)


def test_a_server_without_a_token_asks_no_caller_for_one() -> None:
    for given in (headers(), headers(authorization="Bearer whatever")):
        assert isinstance(admission().decide(given), Authenticated)


def test_connections_are_counted_in_and_out() -> None:
    small = admission(connections=2)
    places = [small.enter(None) for _ in range(3)]
    assert [place.within for place in places] == [True, True, False]
    for place in places[:2]:
        place.leave()
    assert small.tally.connections == 1
    assert small.enter(None).within


def test_a_source_is_counted_unless_it_is_unknown_or_a_proxy_or_nothing_is_limited() -> None:
    fair = admission(connections_per_address=2)
    assert fair.source("192.0.2.1", headers()) == ("192.0.2.1", False)
    assert fair.source("unknown", headers()) == (None, False)
    assert fair.source("10.0.0.1", [(b"x-forwarded-for", b"192.0.2.1")]) == (None, True)
    assert fair.source("8.8.8.8", [(b"x-forwarded-for", b"192.0.2.1")]) == ("8.8.8.8", False)
    assert admission().source("192.0.2.1", headers()) == (None, False)


def test_one_address_does_not_take_all_the_connections() -> None:
    fair = admission(connections_per_address=2)
    places = [fair.enter(address) for address in "aaab"]
    assert [place.within for place in places] == [True, True, False, True]
    for place in places:
        place.leave()
    assert fair.enter("a").within
