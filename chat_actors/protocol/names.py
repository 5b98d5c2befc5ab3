"""Rules for usernames and topics: which names are valid, and which are the same. No asyncio, no state.

A username is shown as its owner wrote it and compared as the Nickname profile of PRECIS does (RFC 8266, section 2):
``ALICE`` and ``alice`` are one name. A topic has one form, in which it is compared exactly.

One rule says which characters a name may hold: those that can be seen. It is decided by a table of Unicode's own
properties, so that it is the same on every Python. What cannot be seen is taken only where it can change what is seen:

- a joiner beside a virama, and a non-joiner between letters that would join (RFC 5892, appendix A.1 and A.2);
- a virama that only stacks letters, between them;
- in emoji, the joiner of a sequence, a presentation selector, and the tags of a flag (UTS #51);
- a variation selector behind a letter that has variants: an ideograph, a Mongolian or a Myanmar letter.

A topic keeps it only where Unicode says that it does change what is seen, and loses it elsewhere: so no two topics look
the same because something unseen is in one. In the comparison of usernames it never counts, but for the tags of a flag.
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
#   a  letter or number of a script that has a virama        v  Myanmar letter (so has this one)
#   m c  combining mark: without a width, with one           _  space
#   h y  virama; one that forms conjuncts by itself          S  virama that only stacks, and is not seen
#   f  emoji, shown as text by default                       k q  keycap base: # * 0 to 9; the keycap
#   e p  emoji, shown as a picture; with or without a text   t  skin tone
#   w  black flag, a base of tags                            -  character that is refused
#   x  pictograph that is no emoji, or is reserved for one
#   N  zero width non-joiner        J  zero width joiner     E F  text and emoji presentation selector
#   V I  variation selector         G M  variation selector and vowel separator of Mongolian
#   T U  tag, and the end of tags
_STARTS = [int(word[:-1], 16) for word in unicode_table.KINDS.split()]
_KINDS = "".join(word[-1] for word in unicode_table.KINDS.split())

_VISIBLE = re.compile(
    r"(?![mchyqJ])"  # a mark needs a base
    r"(?:"
    r"[efpwx]F?t?J(?=[efpwx])"
    r"|wT+U"
    r"|[efpwxk][EF]"
    r"|i[VI]"
    r"|gG?M(?=g)"
    r"|gG"
    r"|[ldg][mc]*N(?=[mc]*[rdg])"
    r"|(?:a|vV?)[mchyq]*(?:[hy][NJ]|J(?=[hy])|S(?=[av]))"
    r"|vV"
    r"|[a-z_]"
    r")*"
)

# What a topic loses: it asks for a form of the same letter, for what is shown anyway, or for what Unicode has not.
_NEEDLESS = re.compile(
    r"[VIG]"
    r"|(?<!e)E|E(?=t)"
    r"|(?<=[epwx])F|F(?=t)|(?<=k)F(?!q)"
    r"|(?<=[hy])N(?![av])|(?<=h)J(?![av])|J(?=[hy](?![av]))"
)
_JOINED = re.compile(r"[efpwx]F?t?(?:J[efpwx]F?t?)+")
_SEQUENCES = frozenset(re.sub("[0-9A-F]+", lambda code: chr(int(code[0], 16)), unicode_table.SEQUENCES).split())
_LONGEST = 1 + max(sequence.count("-") for sequence in _SEQUENCES)
_TONE = re.compile("[\U0001f3fb-\U0001f3ff]")
_TAGS = "[\U000e0020-\U000e007e]+\U000e007f"
_FLAGS = {"".join(chr(0xE0000 + ord(tag)) for tag in flag) + "\U000e007f" for flag in unicode_table.FLAGS.split()}

_NEWER = [chr(int(word, 16)) for word in unicode_table.NEWER.split()]
_NEWER_RUN = re.compile(
    "([" + "".join(f"{start}-{chr(ord(end) - 1)}" for start, end in zip(_NEWER[::2], _NEWER[1::2])) + "]+)"
)
# What is not seen in a valid name: joiners, variation selectors, the vowel separator and tags.
_UNSEEN = re.compile(f"[\u200c\u200d\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]|{_TAGS}")


class InvalidName(ValueError):
    """Error for a name that breaks the rules. Its text is the error detail for the client."""


def clean_username(text: str) -> str:
    """Return the username to show: ``text`` without the spaces around it.

    Raises InvalidName if the name is empty, has more than 32 code points or a character that cannot be seen.
    """
    return _clean("username", text, MAX_USERNAME)


def clean_topic(text: str) -> str:
    """Return the one form of the topic, so that topics that look the same are the same.

    It is in NFC, without the spaces around it and with one plain space for those within it. Of what is not seen it has
    only what changes what is seen, and all that a joined emoji should have. It is a clean topic of that form itself.
    Raises InvalidName if the topic is empty, has more than 64 code points or a character that cannot be seen.
    """
    if text.isascii():
        name = _clean("topic", text, MAX_TOPIC)
    else:
        if len(text) > MAX_UNNORMALIZED:
            raise InvalidName(_wrong_length("topic", MAX_TOPIC, len(text)))
        name = _clean("topic", _each_known(_nfc, text), MAX_TOPIC)
        needed = _needed(name) if _UNSEEN.search(name) else name
        if needed != name:
            name = _each_known(_nfc, needed)
            if len(name) > MAX_TOPIC:  # with the selectors that were missing
                raise InvalidName(_wrong_length("topic", MAX_TOPIC, len(name)))
    return " ".join(name.split())


def nickname_key(name: str) -> str:
    """Return the form in which a valid username is compared (RFC 8266, section 2.4).

    Joiners and variation selectors do not count: they are allowed where they show, but the names still look alike. Tags
    count where they make a flag of Unicode.
    Characters that the oldest supported Python does not know are compared exactly, on every Python.
    """
    if name.isascii():
        # What the rules come to, in a twentieth of the time: joins come in storms.
        return " ".join(name.split()).lower()
    key, name = name, ""
    while key != name:  # RFC 8264, section 7: until it is stable
        name, key = key, _each_known(_fold, " ".join(_UNSEEN.sub(_flag, key).split()))
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


def _needed(name: str) -> str:
    """Return a valid name without what is not seen in it, where that does not change what is seen."""
    kept = _NEEDLESS.sub("-", _kinds(name))
    name = "".join([character for character, kind in zip(name, kept) if kind != "-"])
    if "\u200d" in name:
        for run in reversed([*_JOINED.finditer(_kinds(name))]):
            name = name[: run.start()] + _joined(name[run.start() : run.end()]) + name[run.end() :]
    return re.sub(_TAGS, _flag, name)


def _joined(run: str) -> str:
    """Return emoji without the joiners that make no sequence, and with the presentation selectors of those that do."""
    emoji, shown = run.split("\u200d"), []
    while emoji:
        count = next((count for count in range(_LONGEST, 1, -1) if _skeleton(emoji[:count]) in _SEQUENCES), 1)
        shown.append("\u200d".join(map(_qualified, emoji[:count])) if count > 1 else emoji[0])
        del emoji[:count]
    return "".join(shown)


def _skeleton(emoji: list[str]) -> str:
    text = "-".join(emoji).replace("\ufe0f", "")
    tone = _TONE.search(text)
    return _TONE.sub("T", text.replace(tone[0], "t")) if tone else text


def _qualified(emoji: str) -> str:
    """Return one emoji of a sequence as UTS #51 wants it: with the selector if it is shown as text by default."""
    emoji = emoji.replace("\ufe0f", "")
    return emoji + "\ufe0f" if _kinds(emoji) == "f" else emoji


def _flag(unseen: "re.Match[str]") -> str:
    return unseen[0] if unseen[0] in _FLAGS else ""


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
