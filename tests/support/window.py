"""What the tests of the window share: rooms whose joins ask for it, and frames in a word or two."""

from collections import deque
from typing import Any, Optional

from msgspec import Struct

from chat_actors.actors.events import Join
from chat_actors.connection.outbox import Outbox
from chat_actors.protocol.frames import Window, payloads
from tests.actors import test_supervisor, test_topic
from tests.support.fakes import FakeClock, FakeMember, Frame, settle


class Room(test_topic.Room):
    """A topic, and short words for joins that ask for the window."""

    def ask(self, username: str, **wants: Any) -> FakeMember:
        return self.join(username, Window(**wants))

    async def watcher(self) -> FakeMember:
        """A member with events, who has seen nothing yet."""
        member = self.ask("watcher", events=True)
        await settle()
        member.take()
        return member


class Chat(test_supervisor.Chat):
    """A supervisor, and short words for joins that ask for the window."""

    def ask(
        self, username: str, topic: str = "sports", member: Optional[FakeMember] = None, **wants: Any
    ) -> FakeMember:
        member = member or FakeMember()
        self.post(Join(topic, username, member, member.reply, Window(**wants)))
        return member

    async def entered(self, username: str, topic: str = "sports") -> FakeMember:
        member = self.ask(username, topic)
        await settle()
        return member


def joined(member: FakeMember) -> Frame:
    (frame,) = (frame for frame in member.frames if frame["type"] == "joined")
    return frame


def token(member: FakeMember) -> str:
    return str(joined(member)["resume"])


def texts(member: FakeMember) -> list[str]:
    """What it was sent, as it goes over the wire."""
    return [payload.decode() for write in member.writes for payload in payloads(write)]


def short(member: FakeMember) -> list[str]:
    """What it was sent, each frame in a word or two."""

    def word(frame: Frame) -> str:
        if frame["type"] == "message":
            return f"{frame['id']} {frame['message']}" + " again" * ("replayed" in frame)
        if frame["type"] == "ack":
            return f"{frame['id']} ack" + " duplicate" * ("duplicate" in frame)
        if frame["type"] == "presence":
            return f"{frame['username']} {frame['event']} {frame['users']}"
        return f"expired {frame['through']}" if frame["type"] == "expired" else str(frame["type"])

    return [word(frame) for frame in member.frames]


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
