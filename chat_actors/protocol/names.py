"""Rules for usernames and topics: which names are valid, and which are the same. No asyncio, no state.

A username is shown as its owner wrote it and compared as the Nickname profile of PRECIS does (RFC 8266, section 2):
``ALICE`` and ``alice`` are one name. A topic is compared exactly, after Unicode normalization (NFC).

One rule says which characters a name may hold: those that can be seen. It is decided by a table of Unicode's own
properties, so that it is the same on every Python. What cannot be seen is taken only where it changes what is seen:

- a joiner beside a virama, and a non-joiner between letters that would join (RFC 5892, appendix A.1 and A.2);
- in emoji, the joiner of a sequence, a presentation selector, and the tags of a flag (UTS #51);
- a variation selector behind a letter that has variants: an ideograph, a Mongolian or a Myanmar letter.
"""

import re
import unicodedata
from bisect import bisect_right
from typing import Callable

from chat_actors.protocol import unicode_table

MAX_USERNAME = 32  # characters
MAX_TOPIC = 64  # characters
MAX_UNNORMALIZED = 1024  # characters of a name before NFC, which takes quadratic time for combining marks

_SPACES = " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"

# The kinds of characters, each a letter of ``unicode_table``. Those in small letters are seen:
#   b  any other letter, number, symbol or punctuation       i  ideograph
#   l d r  letter that joins to the left, both, the right    g  Mongolian letter (it joins to both)
#   v  Myanmar letter                                        _  space
#   m c  combining mark: without a width, with one           h  virama
#   e f  emoji, shown as a picture or as text by default     k  keycap base: # * 0 to 9
#   w  black flag, a base of tags                            t  skin tone
#   x  pictograph that is no emoji, or is reserved for one   -  character that is refused
#   N  zero width non-joiner        J  zero width joiner     E F  text and emoji presentation selector
#   V I  variation selector         G M  variation selector and vowel separator of Mongolian
#   T U  tag, and the end of tags
_STARTS = [int(word[:-1], 16) for word in unicode_table.KINDS.split()]
_KINDS = "".join(word[-1] for word in unicode_table.KINDS.split())

_VISIBLE = re.compile(
    r"(?![mchJ])"  # a mark needs a base
    r"(?:"
    r"[efwx][Ft]{0,2}J(?=[efwx])"
    r"|wT+U"
    r"|[efkw][EF]"
    r"|i[VI]"
    r"|vV"
    r"|gG?M(?=g)"
    r"|gG"
    r"|[ldg][mh]*N(?=[mh]*[rdg])"
    r"|hN"
    r"|hJ"
    r"|J(?=h)"
    r"|[a-z_]"
    r")*"
)
_REDUNDANT = re.compile(r"(?<=[ew])F|(?<=f)E")  # selectors that ask for what is shown without them

_NEWER = [chr(int(word, 16)) for word in unicode_table.NEWER.split()]
_NEWER_RUN = re.compile(
    "([" + "".join(f"{start}-{chr(ord(end) - 1)}" for start, end in zip(_NEWER[::2], _NEWER[1::2])) + "]+)"
)
# What is not seen in a valid name: joiners and variation selectors.
_UNSEEN = dict.fromkeys([0x200C, 0x200D, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])


class InvalidName(ValueError):
    """Error for a name that breaks the rules. Its text is the error detail for the client."""


def clean_username(text: str) -> str:
    """Return the username to show: ``text`` without the spaces around it.

    Raises InvalidName if the name is empty, has more than 32 code points or a character that cannot be seen.
    """
    return _clean("username", text, MAX_USERNAME)


def clean_topic(text: str) -> str:
    """Return the topic in NFC, without the spaces around it, so that topics that look the same are the same.

    Spaces within it become one plain space, and an emoji loses a selector that asks for the presentation it has anyway.
    Raises InvalidName if the topic is empty, has more than 64 code points or a character that cannot be seen.
    """
    if text.isascii():
        name = _clean("topic", text, MAX_TOPIC)
    else:
        if len(text) > MAX_UNNORMALIZED:
            raise InvalidName(_wrong_length("topic", MAX_TOPIC, len(text)))
        name = _clean("topic", _each_known(_nfc, text), MAX_TOPIC)
        kept = _REDUNDANT.sub("-", _kinds(name))
        name = "".join([character for character, kind in zip(name, kept) if kind != "-"])
    return " ".join(name.split())


def nickname_key(name: str) -> str:
    """Return the form in which a valid username is compared (RFC 8266, section 2.4).

    Joiners and variation selectors do not count: they are allowed where they show, but the names still look alike.
    Characters that the oldest supported Python does not know are compared exactly, on every Python.
    """
    if name.isascii():
        # What the rules come to, in a twentieth of the time: joins come in storms.
        return " ".join(name.split()).lower()
    key, name = name, ""
    while key != name:  # RFC 8264, section 7: until it is stable
        name, key = key, _each_known(_fold, " ".join(key.translate(_UNSEEN).split()))
    return key


def _clean(kind: str, text: str, max_chars: int) -> str:
    name = text.strip(_SPACES)
    if not 1 <= len(name) <= max_chars:
        raise InvalidName(_wrong_length(kind, max_chars, len(name)))
    if not (name.isascii() and name.isprintable()):
        visible = _VISIBLE.match(_kinds(name))
        at = visible.end() if visible else 0
        if at < len(name):
            wrong = f"U+{ord(name[at]):04X} (character {at + 1})"
            raise InvalidName(f"{kind} must hold only characters that can be seen: remove {wrong}")
    return name


def _wrong_length(kind: str, max_chars: int, chars: int) -> str:
    return f"{kind} must have 1 to {max_chars} characters, not {chars}"


def _kinds(name: str) -> str:
    return "".join([_KINDS[bisect_right(_STARTS, ord(character)) - 1] for character in name])


def _each_known(change: Callable[[str], str], text: str) -> str:
    """Change the parts of a text whose characters are known to every Python that is supported, to the same on each."""
    parts = _NEWER_RUN.split(text)
    parts[::2] = map(change, parts[::2])
    return "".join(parts)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text.lower())
