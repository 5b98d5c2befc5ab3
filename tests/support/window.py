"""The frames of a member, in a word or two for each."""

from collections import deque

from msgspec import Struct

from chat_actors.actors.outbox import Outbox
from chat_actors.protocol.frames import payloads
from tests.support.fakes import FakeClock, FakeMember, Frame
from tests.support.presence import one_by_one


def joined(member: FakeMember) -> Frame:
    (frame,) = (frame for frame in member.frames if frame["type"] == "joined")
    return frame


def token(member: FakeMember) -> str:
    return str(joined(member)["resume"])


def texts(member: FakeMember) -> list[str]:
    """What it was sent, as it goes over the wire."""
    return [payload.decode() for write in member.writes for payload in payloads(write)]


def short(member: FakeMember) -> list[str]:
    """What it was sent, each frame in a word or two; presence in as many as it has names."""

    def words(frame: Frame) -> list[str]:
        if frame["type"] == "message":
            return [f"{frame['id']} {frame['message']}" + " again" * ("replayed" in frame)]
        if frame["type"] == "ack":
            return [f"{frame['id']} ack" + " duplicate" * ("duplicate" in frame)]
        if frame["type"] == "presence":
            named = [f"{name} {event} {users}" for event, name, users in one_by_one(frame)]
            return named or [f"users {frame['users']}"]
        return [f"expired {frame['through']}" if frame["type"] == "expired" else str(frame["type"])]

    return [word for frame in member.frames for word in words(frame)]


def held(thing: object) -> object:
    """The form of what is held: containers with what is in them, all else by its type."""
    if isinstance(thing, dict):
        return [(held(key), held(value)) for key, value in thing.items()]
    if isinstance(thing, (list, tuple, set, frozenset, deque)):
        return [held(one) for one in thing]
    if isinstance(thing, Struct):
        return type(thing), [held(getattr(thing, name)) for name in thing.__struct_fields__]
    if type(thing).__module__.startswith("chat_actors.") and not isinstance(thing, (Outbox, FakeClock)):
        # The moments of the last crashes are no part of what the members brought.
        return type(thing), [(name, held(value)) for name, value in vars(thing).items() if name != "_crashes"]
    return type(thing)
