"""Rules for usernames and topics: which names are valid, and which are the same. No asyncio, no state.

A username is shown as its owner wrote it and compared by the Nickname profile of PRECIS (RFC 8266, section 2):
``ALICE`` and ``alice`` are one name. A topic is compared exactly, after Unicode normalization (NFC).
"""

import unicodedata

from precis_i18n import get_profile

MAX_USERNAME = 32  # characters
MAX_TOPIC = 64  # characters
MAX_UNNORMALIZED = 1024  # characters of a topic before NFC, which takes quadratic time for combining marks

_NICKNAME = get_profile("Nickname")
_REFUSED = {  # by Unicode category: characters that could forge a line of a log, or hide in a name
    "Cc": "a control",
    "Cf": "a format",
    "Cs": "a surrogate",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}


class InvalidName(ValueError):
    """Error for a name that breaks the rules. Its text is the error detail for the client."""


def clean_username(text: str) -> str:
    """Return the username to show: ``text`` without the white space around it.

    Raises InvalidName if the name is empty, has more than 32 code points or a control, format or surrogate character,
    or is no nickname by RFC 8266 (section 2.1).
    """
    name = _clean("username", text, MAX_USERNAME)
    nickname_key(name)
    return name


def clean_topic(text: str) -> str:
    """Return the topic in NFC, without the white space around it.

    Raises InvalidName if the topic is empty, has more than 64 code points or a control, format or surrogate character.
    """
    if len(text) > MAX_UNNORMALIZED:
        raise InvalidName(f"topic must have 1 to {MAX_TOPIC} characters, not {len(text)}")
    return _clean("topic", unicodedata.normalize("NFC", text), MAX_TOPIC)


def nickname_key(name: str) -> str:
    """Return the form in which ``name`` is compared (RFC 8266, section 2.4). Raises InvalidName if it has none."""
    if name.isascii() and name.isprintable() and not name.isspace():
        # What the rules come to, in a twentieth of the time: joins come in storms.
        return " ".join(name.split()).lower()
    try:
        key: str = _NICKNAME.enforce(name)
    except UnicodeEncodeError as refusal:
        raise InvalidName(f"username must hold only characters that RFC 8266 allows: {refusal.reason}") from None
    return key


def _clean(kind: str, text: str, max_chars: int) -> str:
    name = text.strip()
    if not 1 <= len(name) <= max_chars:
        raise InvalidName(f"{kind} must have 1 to {max_chars} characters, not {len(name)}")
    for character in dict.fromkeys(text):  # not of ``name``: strip() has removed line breaks
        category = unicodedata.category(character)
        if category in _REFUSED:
            raise InvalidName(f"{kind} must not hold {_REFUSED[category]} character (U+{ord(character):04X})")
    return name
