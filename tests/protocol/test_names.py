"""The rules for names of users and topics, and which usernames are the same."""

import contextlib
import hashlib
import re
import sys
import unicodedata
from bisect import bisect_right
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precis_i18n import get_profile

from chat_actors.protocol.names import MAX_UNNORMALIZED, InvalidName, clean_topic, clean_username, nickname_key
from chat_actors.protocol.unicode_table import FLAGS, KINDS, NEWER, OLDEST, SEQUENCES, UNICODE
from tests.support.server import ROOT

nickname = get_profile("Nickname").enforce  # by the rules of the RFC as another implementation reads them


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
        ("\u1100\u1161", "\uac00"),  # Hangul, as a Mac composes the names of files
        ("\u2764\ufe0f", "\u2764"),
        ("1\ufe0f\u20e3", "1\u20e3"),
        ("\u845b\U000e0100", "\u845b"),
        ("\u0639\u0644\u06cc\u200c\u0631\u0636\u0627", "\u0639\u0644\u06cc\u0631\u0636\u0627"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\U0001f469"),
        ("\U0001f3f4\U000e0078\U000e0078\U000e007f", "\U0001f3f4"),  # the tags of no flag
        ("\U0001f3f4\U000e0075\U000e0073\U000e0074\U000e0078\U000e007f", "\U0001f3f4"),  # of one that few devices show
    ],
)
def test_names_that_look_alike_are_one(name: str, same: str) -> None:
    assert nickname_key(name) == nickname_key(same)


SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
WALES = "\U0001f3f4\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f"
OTHERS = [
    (SCOTLAND, WALES),
    (SCOTLAND, "\U0001f3f4"),
    ("\U0001f44b\U0001f3fb", "\U0001f44b\U0001f3ff"),
    ("\u2764", "\u2661"),
]


@pytest.mark.parametrize(
    ("name", "other"),
    [("alice", "alice2"), ("foo bar", "foobar"), ("amelie", "am\u00e9lie"), ("alice", "al\u0456ce"), *OTHERS],
)
def test_other_names_are_not(name: str, other: str) -> None:
    assert nickname_key(name) != nickname_key(other)


@given(name=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=12))
@settings(max_examples=500)
def test_the_short_way_to_a_plain_nickname_leads_where_the_rfc_does(name: str) -> None:
    if name.strip():
        assert nickname_key(name) == nickname(name)


@pytest.mark.parametrize("name", ["Alice", "ALICE", "Foo  Bar", "Ame\u0301lie", "\u265a", "alice#2", "李小龍", "<b>"])
def test_a_username_is_shown_as_it_was_given_without_the_spaces_around_it(name: str) -> None:
    assert clean_username(name) == clean_username(f" {name}\u3000 ") == name


@pytest.mark.parametrize(
    ("topic", "same"),
    [
        (" Cafe\u0301  ROOM\u00a0", "Caf\u00e9 ROOM"),
        ("\u2003a\u00a0\u3000b\u205f", "a b"),
        ("a  b", "a b"),
        ("\u231a\ufe0f", "\u231a"),  # a picture by default
        ("\u2764\ufe0e", "\u2764"),  # text by default
        ("\u1100\u1161\u11a8", "\uac01"),
        ("\U0001f9c0\ufe0e", "\U0001f9c0"),  # a picture that has no text form
        ("\U0001f9c0\ufe0f", "\U0001f9c0"),
        ("\U0001faff\ufe0f", "\U0001faff"),  # reserved for an emoji
        ("\u261d\ufe0f\U0001f3fd", "\u261d\U0001f3fd"),  # a skin tone asks for the picture
        ("\u231a\ufe0e\U0001f3fd", "\u231a\U0001f3fd"),
        ("\u2194\ufe0e\u0338", "\u21ae"),  # composed when the selector is gone
        ("room1\ufe0e", "room1"),  # a keycap base without the keycap
        ("room1\ufe0f", "room1"),
        ("#\ufe0fa", "#a"),
        ("1\ufe0e\u20e3", "1\u20e3"),
        ("\U0001f600\u200d\U0001f600", "\U0001f600\U0001f600"),  # no sequence
        ("\u2764\ufe0f\u200d\U0001f600", "\u2764\ufe0f\U0001f600"),
        ("\U0001f469\U0001f3fd\u200d\U0001f469\u200d\U0001f467", "\U0001f469\U0001f3fd\U0001f469\u200d\U0001f467"),
        ("\U0001f469\u200d\U0001f91d\u200d\U0001f468", "\U0001f469\U0001f91d\U0001f468"),  # only of two skin tones
        ("\U0001f600\u200d\u2764\u200d\U0001f525", "\U0001f600\u2764\ufe0f\u200d\U0001f525"),  # a part is one
        ("\u2764\u200d\U0001f525\u200d\U0001f525", "\u2764\ufe0f\u200d\U0001f525\U0001f525"),
        ("\u2764\u200d\U0001f525 \u2764\u200d\U0001f525", "\u2764\ufe0f\u200d\U0001f525 \u2764\ufe0f\u200d\U0001f525"),
        ("\U0001f441\u200d\U0001f5e8\ufe0f", "\U0001f441\ufe0f\u200d\U0001f5e8\ufe0f"),  # a selector is missing
        ("\U0001f3f4\U000e0078\U000e0078\U000e007f", "\U0001f3f4"),  # the tags of no flag
        ("\u6771\u4eac\ufe00", "\u6771\u4eac"),
        ("\u845b\U000e0100\u57ce", "\u845b\u57ce"),  # a form of the same ideograph
        ("\u5d19\ufe00", "\u5d19"),
        ("\U00020bb7\U000e0101\u91ce\u5bb6", "\U00020bb7\u91ce\u5bb6"),
        ("\u1019\ufe0d\u102c", "\u1019\u102c"),
        ("\u1025\ufe00\u102e", "\u1026"),  # composed when the selector is gone
        ("\u1000\ufe00", "\u1000"),
        ("\u182e\u180f\u1823", "\u182e\u1823"),
        ("\u182d\u180b\u1820", "\u182d\u1820"),
        ("\u0b95\u0bcd\u200d", "\u0b95\u0bcd"),  # no half letters in Tamil
        ("\u0b95\u0bcd\u200c", "\u0b95\u0bcd"),  # nothing behind that would join
        ("\u0915\u094d\u200c a", "\u0915\u094d a"),
        ("\u0915\u200d\u094d", "\u0915\u094d"),
    ],
    ids=ascii,
)
def test_topics_that_look_the_same_are_the_same(topic: str, same: str) -> None:
    assert clean_topic(topic) == clean_topic(same) == same


@pytest.mark.parametrize("sequence", SEQUENCES.split() + FLAGS.split())
def test_an_emoji_sequence_of_unicode_is_a_name_of_its_own(sequence: str) -> None:
    if sequence in FLAGS.split():
        text = "\U0001f3f4" + "".join(chr(0xE0000 + ord(tag)) for tag in sequence) + "\U000e007f"
    else:
        tones = {"t": "\U0001f3fd", "T": "\U0001f3ff", "-": "\u200d"}
        text = re.sub("[0-9A-F]+|.", lambda part: tones.get(part[0]) or chr(int(part[0], 16)), sequence)
    assert clean_username(text) == text
    for around in ("{}", "a {}b", "{0}{0}"):
        topic = clean_topic(around.format(text))
        assert topic.replace("\ufe0f", "") == around.format(text)
        assert clean_topic(topic) == topic


@pytest.mark.parametrize(
    "topic", ["\ufb01", "\u2764", "\u2764\ufe0f", "\u231a\ufe0e", "Sports", "sports", "1\ufe0f\u20e3"]
)
def test_topics_that_look_different_are_left_as_they_are(topic: str) -> None:
    assert clean_topic(topic) == topic


# Which characters a name may hold.

VISIBLE_SEQUENCES = {
    "Sinhala": "\u0dc1\u0dca\u200d\u0dbb\u0dd3",
    "Malayalam, at the end": "\u0d05\u0d28\u0d3f\u0d35\u0d30\u0d4d\u200d",
    "Devanagari, half a letter": "\u0930\u094d\u200d\u092f",
    "Devanagari, without a ligature": "\u0915\u094d\u200c\u0937",
    "Bengali, before the virama": "\u09b0\u200d\u09cd\u09af\u09be\u09ac",
    "Kannada, before the virama": "\u0cb8\u0cb0\u200d\u0ccd\u0c95\u0cbe\u0cb0",
    "Persian": "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
    "Persian with vowel marks": "\u0639\u0644\u06cc\u0651\u064e\u200c\u064e\u0631\u0636\u0627",
    "Persian, twice": "\u0645\u06cc\u200c\u0628\u200c\u0631",
    "Mongolian vowel separator": "\u182c\u1820\u182f\u182c\u180e\u1820",
    "Mongolian non-joiner": "\u182c\u200c\u1820",
    "Myanmar, stacked": "\u1019\u1014\u1039\u1010\u101c\u1031\u1038",
    "Myanmar, kinzi": "\u1021\u1004\u103a\u1039\u1002\u101c\u102d\u1015\u103a",
    "Khmer, stacked": "\u1781\u17d2\u1798\u17c2\u179a",
    "Tamil, without a ligature": "\u0b95\u0bcd\u200c\u0bb7",
    "Hangul jamo": "\u1112\u1161\u11ab",
    "heart": "alice \u2764\ufe0f",
    "sun": "\u2600\ufe0f",
    "text": "\u231a\ufe0e",
    "keycap": "#\ufe0f\u20e31\ufe0f\u20e3*\ufe0f\u20e3",
    "copyright": "\u00a9\ufe0f",
    "family": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "skin tones": "\U0001f469\U0001f3fd\u200d\u2764\ufe0f\u200d\U0001f48b\u200d\U0001f468\U0001f3fb",
    "detective": "\U0001f575\ufe0f\u200d\u2642\ufe0f",
    "heart on fire": "\u2764\ufe0f\u200d\U0001f525",
    "rainbow flag": "\U0001f3f3\ufe0f\u200d\U0001f308",
    "pirate flag": "\U0001f3f4\u200d\u2620\ufe0f",
    "Scotland": SCOTLAND,
    "flag of a country": "\U0001f1eb\U0001f1f7",
    "Unicode 15": "\U0001fae8",
    "Unicode 16": "\U0001fae9",
    "Unicode 17": "\U0001fac8",
    "reserved for an emoji": "\U0001faff",
    "middle dot": "Gal\u00b7la",
    "apostrophe": "O\u2019Neill",
}


@pytest.mark.parametrize("text", VISIBLE_SEQUENCES.values(), ids=VISIBLE_SEQUENCES)
def test_what_shows_may_be_in_a_name_of_a_user_or_a_topic(text: str) -> None:
    assert clean_username(text) == text
    assert clean_topic(text) == unicodedata.normalize("NFC", text)
    for form in ("al {} ice", "x{}", "{} x"):
        clean_username(form.format(text)), clean_topic(form.format(text))


FORMS = {
    "Mongolian": "\u182d\u180b\u1820",
    "Mongolian, before the vowel separator": "\u182d\u180b\u180e\u1820",
    "ideograph, IVS": "\u845b\U000e0100\u57ce",
    "ideograph, standardized": "\u5d19\ufe00",
    "Myanmar": "\u1000\ufe00",
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_a_username_is_shown_with_the_form_of_a_letter_that_it_asks_for(text: str) -> None:
    assert clean_username(text) == text
    assert clean_topic(text) != text


INVISIBLE = {
    "control": "\0\t\n\r\x1b\x1c\x7f\x85",
    "bidirectional control": "\u061c\u200e\u200f\u202a\u202e\u2066\u2069",
    "format": "\xad\u200b\u2060\u2061\u2064\u206a\ufeff\ufff9\U000e0001\U0001d173",
    "joiner": "\u200c\u200d",
    "variation selector": "\ufe00\ufe0e\ufe0f\u180b\u180f\U000e0100\U000e01ef",
    "tag": "\U000e0020\U000e0061\U000e007f",
    "Mongolian vowel separator": "\u180e",
    "filler": "\u115f\u1160\u3164\uffa0",
    "default-ignorable mark": "\u034f\u17b4\u17b5",
    "default-ignorable, unassigned": "\u2065\ufff0\U000e0080\U000e0fff",
    "blank": "\u2800\U0001d159\U00013441\ufffc",
    "line separator": "\u2028\u2029",
    "surrogate": "\ud800",
    "private use": "\ue000\U000f0000",
    "noncharacter": "\ufdd0\uffff\U0010ffff",
    "unassigned": "\u0378\U000a0000",
}


@pytest.mark.parametrize("character", "".join(INVISIBLE.values()), ids=ascii)
@pytest.mark.parametrize(
    "form", ["{}alice", "al{}ice", "alice{}", "{}", "\u65e5 {}", "\u0631{}\u0639", "\u0939{}\u0939"]
)
def test_what_is_not_seen_is_refused_wherever_it_stands(character: str, form: str) -> None:
    name = form.format(character)
    why = rf"must hold only characters that can be seen: remove U\+{ord(character):04X} \(character \d+\)$"
    with pytest.raises(InvalidName, match=f"^username {why}"):
        clean_username(name)
    with pytest.raises(InvalidName, match=f"^topic {why}"):
        clean_topic(name)


@pytest.mark.parametrize(
    "name",
    [
        "\u2764\ufe0f\ufe0f",  # a second selector
        "\u2764\ufe0f\ufe0f\u200d\U0001f525",
        "\U0001f469\U0001f3fd\U0001f3fd\u200d\U0001f680",  # a second skin tone
        "\u2764\u200d",  # nothing to join
        "\u200d\u2764",
        "\u2764\u200dx",
        "x\ufe0f",
        "\u3042\U000e0100",  # a kana is no ideograph
        "\U0001f3f4\U000e0067\U000e0062",  # tags without an end
        "\U0001f3f4\U000e007f",  # an end without tags
        "\U0001f600\U000e0067\U000e007f",  # not the base of a flag
        "\u0631\u200c\u0631",  # a letter that does not join to the next
        "\u0639\u200c",  # no letter behind
        "\u0639\u200c a",
        "\u0639\u200d\u0639",  # they join without it
        "\u0915\u094d\u200d\u200d",
        "\u200d\u094d",  # no letter before
        "\u1820\u180e",
        "general\u1039",  # a virama that only stacks
        "gene\u1039ral",
        "gene\u2d7fral",
        "general\u2d7f\u200d",
        "\u1000\u1039",
        "\u1000\u1039a",
        "general\u094d\u200d",
        "\u0301",  # a mark without a base
        " \u0301",
        "\u0301alice",
        "\u20e3",
        "\u093e",
    ],
    ids=ascii,
)
def test_what_changes_a_character_is_refused_without_that_character(name: str) -> None:
    for clean in (clean_username, clean_topic):
        with pytest.raises(InvalidName, match="must hold only characters that can be seen"):
            clean(name)


@pytest.mark.parametrize("name", ["", " ", "\u00a0\u2003\u3000"], ids=ascii)
def test_a_name_of_spaces_is_empty(name: str) -> None:
    for clean in (clean_username, clean_topic):
        with pytest.raises(InvalidName, match=r"not 0$"):
            clean(name)


def test_a_refusal_points_at_the_character() -> None:
    with pytest.raises(InvalidName, match=r"remove U\+200B \(character 3\)$"):
        clean_username(" al\u200bice")


# The table, and that it gives the same answers on every Python.


NEWER_AT = [int(word, 16) for word in NEWER.split()]


def is_newer(code: int) -> bool:
    return bisect_right(NEWER_AT, code) % 2 == 1


def test_the_table_agrees_with_this_python_about_what_both_know() -> None:
    starts, kinds = zip(*((int(word[:-1], 16), word[-1]) for word in KINDS.split()))
    expected = {"M": "mchyq", "Z": "_"}
    for code in range(sys.maxunicode + 1):
        kind, category = kinds[bisect_right(starts, code) - 1], unicodedata.category(chr(code))
        if kind not in "-NJEFVIGMTUS":
            if category == "Cn":
                assert kind == "x" or is_newer(code), hex(code)  # x: reserved for an emoji
            else:
                assert kind in expected.get(category[0], "bldrgvaiefpkxtw"), hex(code)


def test_what_the_oldest_python_knows_is_known_to_this_one() -> None:
    newer = {code for start, end in zip(NEWER_AT[::2], NEWER_AT[1::2]) for code in range(start, end)}
    unknown = {code for code in newer if unicodedata.category(chr(code)) == "Cn"}
    assert (unknown == newer) == (unicodedata.unidata_version == OLDEST)


def test_the_documentation_names_the_versions_of_unicode() -> None:
    page = (ROOT / "chat_actors" / "docs" / "protocol.md").read_text("utf-8")
    assert f"that Unicode {UNICODE[:-2]} does not have" in page
    assert f"newer than Unicode {OLDEST[:-2]} are" in page


BESIDE = (
    "a1\u0301\u20e3\u2764\u231a\U0001f9c0\U0001f469\U0001f525\U0001f3fd\u65e5\u1000\u1820\u0915\u094d\u0b95\u0bcd\u0639"
)


def test_every_python_gives_the_same_answers() -> None:
    """For every character: whether it may be in a name, its key and its topic, alone and beside others."""
    answers = hashlib.sha256()
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if not accepted(f"a{character}"):
            continue
        for text in (f"a{character}b", f"\u03a3{character}", f"A\u0327{character}\u0301"):
            answers.update(f"{nickname_key(text)}|{clean_topic(text)}\n".encode())
    for unseen, beside in product(INVISIBLE["joiner"] + INVISIBLE["variation selector"], BESIDE):
        for text in (f"{before}{unseen}{beside}" for before in BESIDE):
            if accepted(text):
                answers.update(f"{nickname_key(text)}|{clean_topic(text)}\n".encode())
    assert answers.hexdigest() == "35ab47a9670174a56d29e87e19a29fcd7aa70c9351bdd3fbb89f00ea350a1755"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("\U00010570", "\U00010597"),  # Vithkuqi, capital and small: Unicode 14
        ("\U00010d50", "\U00010d70"),  # Garay: Unicode 16
        ("\U0001e030", "\u0430"),  # a modifier letter: Unicode 15
    ],
)
def test_characters_that_the_oldest_python_does_not_know_are_compared_exactly(name: str, other: str) -> None:
    assert nickname_key(name) == name != nickname_key(other) == other
    assert nickname_key(f"A{name}B\ufb01") == f"a{name}bfi"


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


def test_a_topic_is_measured_with_the_selectors_that_it_gets() -> None:
    heart = "\u2764\u200d\U0001f525"
    assert len(clean_topic(heart * 16)) == 64
    with pytest.raises(InvalidName, match=r"not 68$"):
        clean_topic(heart * 17)


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
def test_names_are_compared_as_the_rfc_says(name: str) -> None:
    if not any(is_newer(ord(character)) for character in name):
        with contextlib.suppress(UnicodeEncodeError):  # more is a name here: an old Hangul letter, a middle dot
            assert nickname_key(name) == nickname(name)


@given(name=USERNAMES)
@settings(deadline=None)
def test_a_clean_username_stays_as_it_is(name: str) -> None:
    assert clean_username(name) == name


UNSEEN = st.text(
    st.sampled_from(BESIDE + SCOTLAND[1:])
    | st.sampled_from("".join(INVISIBLE["joiner"] * 9 + INVISIBLE["variation selector"])),
    min_size=1,
    max_size=9,
)


@given(name=UNSEEN)
@settings(deadline=None, max_examples=1000)
def test_a_clean_topic_stays_as_it_is_and_so_does_what_it_is_compared_with(name: str) -> None:
    if accepted(name):
        assert clean_topic(clean_topic(name)) == clean_topic(name)
        assert nickname_key(clean_topic(name)) == nickname_key(clean_username(name))


@given(name=USERNAMES)
@settings(deadline=None)
def test_a_key_is_its_own_key(name: str) -> None:
    assert nickname_key(nickname_key(name)) == nickname_key(name)


@given(name=USERNAMES, number=st.integers(min_value=2))
@settings(deadline=None)
def test_the_key_of_a_numbered_name_is_the_numbered_key(name: str, number: int) -> None:
    """A topic finds the smallest free number by the keys alone."""
    assert nickname_key(f"{name}#{number}") == f"{nickname_key(name)}#{number}"


@pytest.mark.parametrize(
    "text", ["a" + "\u0301\u0327" * 10_000, "\u00e9" * (MAX_UNNORMALIZED + 1)], ids=["marks", "letters"]
)
def test_a_topic_far_too_long_is_refused_before_it_is_normalized(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat_actors.protocol.names.unicodedata", None)
    with pytest.raises(InvalidName, match=f"topic must have 1 to 64 characters, not {len(text)}"):
        clean_topic(text)
