"""What a user and a topic may be called, and when two user names are the same. No state, no asyncio.

A user name is shown as its owner wrote it and compared by the Nickname profile of PRECIS (RFC 8266, section 2),
so ``ALICE`` and ``alice`` are one name. A topic is compared exactly, after NFC.
"""

import unicodedata

from precis_i18n import get_profile

MAX_USERNAME = 32  # characters
MAX_TOPIC = 64  # characters
MAX_UNNORMALIZED = 1024  # more than any topic has before NFC, whose time grows with the square of combining marks

_NICKNAME = get_profile("Nickname")
_REFUSED = {  # by Unicode category: what could forge a line of a log or a list, or hide inside a name
    "Cc": "a control",
    "Cf": "a format",
    "Cs": "a surrogate",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}


class InvalidName(ValueError):
    """A name that cannot be used; the text is a sentence for the one who chose it."""


def clean_username(text: str) -> str:
    """The name as it is shown: ``text`` without the spaces around it.

    Raises InvalidName where it is empty, longer than 32 characters, or not a nickname by RFC 8266.
    """
    name = _clean("username", text, MAX_USERNAME)
    nickname_key(name)
    return name


def clean_topic(text: str) -> str:
    """The topic in NFC, without the spaces around it.

    Raises InvalidName where it is empty, longer than 64 characters, or holds a control or format character.
    """
    if len(text) > MAX_UNNORMALIZED:
        raise InvalidName(f"topic must have 1 to {MAX_TOPIC} characters, not {len(text)}")
    return _clean("topic", unicodedata.normalize("NFC", text), MAX_TOPIC)


def nickname_key(name: str) -> str:
    """What ``name`` is compared by (RFC 8266, section 2.3). Raises InvalidName where the profile refuses it."""
    try:
        key: str = _NICKNAME.enforce(name)
    except UnicodeEncodeError as refusal:
        raise InvalidName(f"username holds a character that a name cannot have ({refusal.reason}, RFC 8266)") from None
    return key


def _clean(what: str, text: str, longest: int) -> str:
    name = text.strip()
    if not 1 <= len(name) <= longest:
        raise InvalidName(f"{what} must have 1 to {longest} characters, not {len(name)}")
    for character in dict.fromkeys(text):  # of what was given: strip() takes line breaks off as well
        kind = unicodedata.category(character)
        if kind in _REFUSED:
            raise InvalidName(f"{what} must not hold {_REFUSED[kind]} character (U+{ord(character):04X})")
    return name
