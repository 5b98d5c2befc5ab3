"""Who may come in, and how many: decided on headers and counts."""

from typing import Any

import pytest

from chat_actors.connection.admission import Door
from chat_actors.settings import Settings


def door(**settings: Any) -> Door:
    return Door(Settings.model_validate(settings))


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
    refusal = door(allowed_origins="https://other.example, https://friend.example").refusal(headers(origin=origin))
    assert refusal == ("origin not allowed" if refused else None)


def test_no_origin_is_the_same_origin_without_a_host() -> None:
    assert door().refusal([(b"origin", b"")]) == "origin not allowed"


def test_every_origin_comes_in_where_that_is_asked_for() -> None:
    assert door(allowed_origins="*").refusal(headers(origin="https://evil.example")) is None


def test_a_program_without_an_origin_comes_in_unless_one_is_required() -> None:
    assert door().refusal(headers()) is None
    assert door(require_origin=True).refusal(headers()) == "no origin"


@pytest.mark.parametrize("authorization", ["Bearer secret", "bearer   secret"])
def test_the_token_in_the_handshake_is_enough(authorization: str) -> None:
    guarded = door(token="secret")
    assert guarded.refusal(headers(authorization=authorization)) is None
    assert guarded.knows(headers(authorization=authorization))


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Basic secret", "secret", "Bearer", "Bearer secret2"])
def test_a_wrong_token_in_the_handshake_is_refused(authorization: str) -> None:
    assert door(token="secret").refusal(headers(authorization=authorization)) == "wrong token"


def test_a_token_beyond_ascii_is_compared_by_its_bytes() -> None:
    one = door(token="größe")
    assert one.refusal(headers(authorization="Bearer größe")) is None
    assert one.is_token("größe")
    assert one.refusal([(b"host", b"x"), (b"authorization", "Bearer größe".encode("latin-1"))]) == "wrong token"


def test_without_a_token_in_the_handshake_the_join_frame_has_to_give_it() -> None:
    guarded = door(token="secrét")
    assert guarded.refusal(headers()) is None
    assert not guarded.knows(headers())
    assert guarded.is_token("secrét")
    assert not any(guarded.is_token(wrong) for wrong in ("", "secre", "secrét ", "\ud800"))


def test_a_server_without_a_token_asks_nobody_for_one() -> None:
    assert door().knows(headers())
    assert door().refusal(headers(authorization="Bearer whatever")) is None


def test_connections_are_counted_in_and_out() -> None:
    small = door(connections=2)
    assert [small.enter("a"), small.enter("b"), small.enter("c")] == [True, True, False]
    small.leave("c")
    small.leave("a")
    assert small.enter("c")


def test_one_address_does_not_take_all_the_room() -> None:
    fair = door(connections_per_address=2)
    assert [fair.enter("a"), fair.enter("a"), fair.enter("a"), fair.enter("b")] == [True, True, False, True]
    for address in "aaab":
        fair.leave(address)
    assert fair.enter("a")
