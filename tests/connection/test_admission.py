"""Admission: the decision on a handshake by its headers, and the limits on open connections."""

from typing import Any, Optional

import pytest

from chat_actors.connection.admission import Admission, Anonymous, Authenticated, HandshakeRefused, Headers
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


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Basic secret", "secret", "Bearer", "Bearer secret2"])
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
    assert not any(caller.may_join(wrong) for wrong in ("", "secre", "secrét ", "\ud800"))
    assert "secr" not in repr(caller)


def test_a_refused_origin_is_refused_whatever_the_token() -> None:
    guarded = admission(token="secret")
    for authorization in ("Bearer secret", "Bearer wrong"):
        given = headers(origin="https://evil.example", authorization=authorization)
        assert refusal(guarded, given) == "origin not allowed"


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Basic secret", ""])
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
    assert [small.enter("a"), small.enter("b"), small.enter("c")] == [True, True, False]
    small.leave("c")
    small.leave("a")
    assert small.enter("c")


def test_one_address_does_not_take_all_the_connections() -> None:
    fair = admission(connections_per_address=2)
    assert [fair.enter("a"), fair.enter("a"), fair.enter("a"), fair.enter("b")] == [True, True, False, True]
    for address in "aaab":
        fair.leave(address)
    assert fair.enter("a")
