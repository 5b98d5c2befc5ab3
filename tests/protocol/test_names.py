"""The rules for names of users and topics, and which usernames are the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precis_i18n import get_profile

from chat_actors.protocol.names import InvalidName, clean_topic, clean_username, nickname_key


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("ALICE", "alice"),
        ("Ａｌｉｃｅ", "alice"),  # noqa: RUF001 - fullwidth
        ("ﬁona", "fiona"),  # a ligature
        ("Foo  Bar", "foo bar"),
        ("foo\u3000\u00a0bar", "foo bar"),
        ("Richard \u2163", "richard iv"),  # a Roman numeral, an example of RFC 8266
        ("\u03a3\u03c3", "\u03c3\u03c3"),  # sigmas
        ("Ame\u0301lie", "am\u00e9lie"),
        ("A\u030angstro\u0308m", "\u212bngstr\u00f6m"),  # the letter, composed in two ways
    ],
)
def test_names_that_look_alike_are_one(name: str, same: str) -> None:
    assert nickname_key(name) == nickname_key(same)


@pytest.mark.parametrize(
    ("name", "other"), [("alice", "alice2"), ("foo bar", "foobar"), ("amelie", "am\u00e9lie"), ("alice", "al\u0456ce")]
)
def test_other_names_are_not(name: str, other: str) -> None:
    assert nickname_key(name) != nickname_key(other)


@given(name=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=12))
@settings(max_examples=500)
def test_the_short_way_to_a_plain_nickname_leads_where_the_rfc_does(name: str) -> None:
    if name.strip():
        assert nickname_key(name) == get_profile("Nickname").enforce(name)


@pytest.mark.parametrize("name", ["Alice", "ALICE", "Foo  Bar", "Ame\u0301lie", "\u265a", "alice#2", "李小龍", "<b>"])
def test_a_username_is_shown_as_it_was_given_without_the_spaces_around_it(name: str) -> None:
    assert clean_username(name) == clean_username(f" {name}\u3000 ") == name


def test_a_topic_is_trimmed_and_in_nfc_and_else_as_it_was_given() -> None:
    assert clean_topic(" Cafe\u0301  ROOM\u00a0") == "Caf\u00e9  ROOM"
    assert clean_topic("\ufb01") == "\ufb01"  # not NFKC: a ligature stays one


@pytest.mark.parametrize(
    ("character", "kind"),
    [
        *((one, "control") for one in "\0\t\n\r\x1b\x1c\x7f\x85"),
        *((one, "format") for one in "\xad\u200b\u200d\u202e\u2066\ufeff"),
        ("\ud800", "surrogate"),
        ("\u2028", "line separator"),
        ("\u2029", "paragraph separator"),
    ],
)
@pytest.mark.parametrize("form", ["{}alice", "al{}ice", "alice{}"])
def test_characters_that_forge_a_line_or_hide_in_a_name_are_refused(character: str, kind: str, form: str) -> None:
    name = form.format(character)
    why = rf"must not hold a {kind} character \(U\+{ord(character):04X}\)"
    with pytest.raises(InvalidName, match=rf"^username {why}$"):
        clean_username(name)
    with pytest.raises(InvalidName, match=rf"^topic {why}$"):
        clean_topic(name)


@pytest.mark.parametrize("character", ["\ue000", "\u0378", "\ufdd0", "\u1100", "\u00b7"])
def test_a_username_holds_only_what_a_nickname_may(character: str) -> None:
    """Neither private use, nor what is unassigned, nor an old Hangul letter, nor a middle dot between other letters."""
    with pytest.raises(InvalidName, match=r"^username must hold only characters that RFC 8266 allows"):
        clean_username(f"a{character}b")


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\U0001f600"])
def test_a_name_has_1_to_32_characters_and_a_topic_1_to_64(letter: str) -> None:
    for clean, longest in ((clean_username, 32), (clean_topic, 64)):
        assert clean(letter) == letter
        assert clean(f" {letter * longest} ") == letter * longest
        for wrong in (0, longest + 1):
            with pytest.raises(InvalidName, match=f"must have 1 to {longest} characters, not {wrong}$"):
                clean(f" {letter * wrong} ")


def test_a_topic_is_measured_in_nfc() -> None:
    assert clean_topic("e\u0301" * 64) == "\u00e9" * 64


def accepted(text: str) -> bool:
    try:
        clean_username(text)
    except InvalidName:
        return False
    return True


# Any character, and often one whose case, width or composition is a special one.
CHARACTERS = st.characters(exclude_categories=("C", "Zl", "Zp")) | st.sampled_from(
    " \u00a0\u3000ΣσςİıſßẞǅﬁﷺℌⅣ²½¨´;\u0301\u0338\u0345\u1161가・〮ーא1"  # noqa: RUF001
)
USERNAMES = st.text(CHARACTERS, min_size=1, max_size=32).filter(accepted).map(clean_username)


@given(name=USERNAMES)
@settings(deadline=None)
def test_a_clean_username_stays_as_it_is(name: str) -> None:
    assert clean_username(name) == name


@given(name=USERNAMES)
@settings(deadline=None)
def test_a_key_is_its_own_key(name: str) -> None:
    assert nickname_key(nickname_key(name)) == nickname_key(name)


@given(name=USERNAMES, number=st.integers(min_value=2))
@settings(deadline=None)
def test_the_key_of_a_numbered_name_is_the_numbered_key(name: str, number: int) -> None:
    """A topic finds the smallest free number by the keys alone."""
    assert nickname_key(f"{name}#{number}") == f"{nickname_key(name)}#{number}"


def test_a_topic_of_thousands_of_combining_marks_is_refused_before_it_is_normalized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chat_actors.protocol.names.unicodedata", None)
    with pytest.raises(InvalidName, match="topic must have 1 to 64 characters, not 20001"):
        clean_topic("a" + "\u0301\u0327" * 10_000)
