"""Where a topic goes on after its owner has gone: what its relays and its last owner know, put together. No asyncio."""

import re
from collections.abc import Iterable
from typing import Optional

import msgspec
from msgspec import UNSET, Struct

from chat_actors.cluster.wire import Attach, Bequest, Kept, Line, Parcel
from chat_actors.protocol.frames import Ack, payloads
from chat_actors.room.history import Refs, Stored

# A finished frame's header and beginning.
_MESSAGE = re.compile(rb'\x81(?:[^~\x7f]|~..|\x7f.{8})\{"type":"message","id":(\d+),', re.DOTALL)
_ack = msgspec.json.Decoder(Ack)


def message_id(frame: bytes) -> int:
    """The id in the finished frame of a message; 0 for any other frame."""
    found = _MESSAGE.match(frame)
    return int(found[1]) if found else 0


class Legacy(Struct):
    """What is known of a topic. ``parcels``: the newest, none missing between, each with its remaining seconds.

    ``line``: that they belong to, through the last of them; its ``last_id`` is the highest that anybody has seen.
    ``bequest``: its last owner's, if that has seen the end of the line.
    """

    line: Line
    parcels: list[Kept]
    bequest: Optional[Bequest] = None


def gathered(attaches: Iterable[Attach], bequests: Iterable[Bequest]) -> Legacy:
    """Choose the line that most members have followed, and take all parcels of it that are to be had."""
    attaches, bequests = list(attaches), list(bequests)
    known: list[tuple[Line, list[Kept], int]] = [(one.line, one.window, len(one.seats)) for one in attaches]
    known += [(one.line, one.window, 0) for one in bequests]
    lines = [line for line, _, _ in known if line.name]
    best = max(lines, key=lambda line: _weight(line, known), default=Line())
    number = max((line.number for line, _, _ in known if best.includes(line)), default=0)
    parcels: dict[int, Kept] = {}
    for line, window, _ in known:
        if line.name and best.includes(line):
            for kept in window:
                parcels.setdefault(kept.parcel.number, kept)
    tail: list[Kept] = []
    for place in range(number, 0, -1):
        if place not in parcels:
            break
        tail.append(parcels[place])
    age = max((line.age for line, _, _ in known), default=0.0)
    last_id = max((line.last_id for line, _, _ in known), default=0)
    owners = [one for one in bequests if one.epoch and one.line.name == best.name and one.line.number == number]
    return Legacy(Line(best.name, number, last_id, dict(best.ancestors), age), tail[::-1], next(iter(owners), None))


def missing(line: Line, attaches: Iterable[Attach], bequests: Iterable[Bequest]) -> list[Parcel]:
    """What somebody has of a line behind what was followed of it, none missing between.

    Where several lines go on from there, that of them which goes furthest; the name decides between equals.
    """
    windows = [(one.line, one.window) for one in attaches] + [(one.line, one.window) for one in bequests]
    behind = [(other, window) for other, window in windows if other.includes(line)]
    best = max((other for other, _ in behind), key=lambda other: (other.number, other.name), default=line)
    known = {kept.parcel.number: kept.parcel for other, window in behind if best.includes(other) for kept in window}
    parcels: list[Parcel] = []
    while line.number + len(parcels) + 1 in known:
        parcels.append(known[line.number + len(parcels) + 1])
    return parcels


def _weight(line: Line, known: list[tuple[Line, list[Kept], int]]) -> tuple[int, int, str]:
    """How many members can go on in a line, and how far it goes; the name decides between equals."""
    return sum(seats for other, _, seats in known if line.includes(other)), line.number, line.name


def messages_of(parcels: list[Kept], now: float) -> list[Stored]:
    """The messages in parcels, oldest first, as a topic stores them."""
    stored: list[Stored] = []
    for kept in parcels:
        for frame in kept.parcel.frames:
            number = message_id(frame)
            if number and (not stored or number > stored[-1].id):
                stored.append(Stored(number, frame, now + kept.remaining))
    gap = next((place for place in range(len(stored) - 1, 0, -1) if stored[place].id != stored[place - 1].id + 1), 0)
    return stored[gap:]


def refs_of(parcels: list[Kept], stored: list[Stored]) -> dict[str, Refs]:
    """By token, whose references within the window were acknowledged, and how; each is forgotten with its message."""
    messages = {message.id: message for message in stored}
    known: dict[str, Refs] = {}
    for kept in parcels:
        for *_, pieces, token in kept.parcel.own:
            for _, piece in pieces if token else ():
                ack = _acknowledgment(piece)
                if ack is None or ack.ref is UNSET or ack.duplicate is not UNSET:
                    continue
                message = messages.get(ack.id)
                if message is not None:
                    refs = known.setdefault(token, {})
                    refs[ack.ref] = ack
                    message.refs, message.ref = refs, ack.ref
    return known


def linked(refs: Refs, stored: list[Stored]) -> Refs:
    """Those of a member's references whose messages are stored; each is forgotten with its message."""
    messages = {message.id: message for message in stored}
    known: Refs = {}
    for ref, ack in refs.items():
        message = messages.get(ack.id)
        if message is not None:
            known[ref] = ack
            message.refs, message.ref = known, ref
    return known


def _acknowledgment(piece: bytes) -> Optional[Ack]:
    if b'"type":"ack"' not in piece:
        return None
    (payload,) = payloads(piece)
    return _ack.decode(payload)


def last_message_id(parcel_frames: list[bytes]) -> int:
    """The highest id among the frames; 0 where none is a message."""
    for frame in reversed(parcel_frames):
        number = message_id(frame)
        if number:
            return number
    return 0
