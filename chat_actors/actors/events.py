"""What is posted to a topic, and what a topic tells: plain data, so that who posts it needs no more than an address."""

import asyncio
from typing import Callable, Optional, Union

from msgspec import UNSET, Struct, UnsetType

from chat_actors.actors.base import Mailbox
from chat_actors.actors.outbox import Outbox
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Window
from chat_actors.room.history import Refs, Stored

# What a topic receives.


class JoinFailed(Exception):
    """What ``Join.reply`` raises where nobody became a member: the connection is to be closed with ``code``.

    ``detail``: a sentence for the client where the server is full; empty otherwise.
    """

    def __init__(self, code: CloseCode, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class Join(Struct, eq=False):
    """Become a member. ``reply`` is set to the topic's mailbox once ``joined`` is on its way."""

    topic: str
    username: str
    outbox: Outbox
    reply: "asyncio.Future[Mailbox[TopicEvent]]"
    window: Optional[Window] = None  # what the joiner wants beyond the plain contract

    def refuse(self, code: CloseCode, detail: str = "") -> None:
        """Answer that nobody became a member; the session may be gone."""
        if not self.reply.done():
            self.reply.set_exception(JoinFailed(code, detail))


class Leave(Struct, eq=False):
    """Be a member no more. Of an outbox that is not a member: nothing."""

    outbox: Outbox
    reason: str


class Send(Struct, eq=False, gc=False):
    """Give the topic a message."""

    outbox: Outbox
    message: str
    ref: Union[str, UnsetType] = UNSET


class Returning(Struct, eq=False):
    """A member of an earlier life of the topic; ``token`` and ``refs`` if it asked for the window."""

    outbox: Outbox
    username: str
    token: str = ""
    events: bool = False
    refs: Optional[Refs] = None


class Departed(Struct, eq=False):
    """Someone who has left an earlier life of the topic, and may come back until then (monotonic seconds)."""

    username: str
    token: str
    until: float
    refs: Refs


class Restore(Struct, eq=False):
    """Go on where an earlier life of the topic has ended, or take in members of another.

    ``epoch``: that of the life that goes on; empty where not all of it is known.
    ``messages``: oldest first; ``last_id``: the highest id that anybody has seen.
    ``done`` is told the usernames of all members, oldest first, and who of ``members`` had to get which other name.
    """

    topic: str
    members: list[Returning]
    done: Callable[[list[str], dict[Outbox, str]], None]
    epoch: str = ""
    messages: list[Stored] = []
    last_id: int = 0
    departed: list[Departed] = []

    def refuse(self, code: CloseCode) -> None:
        """Close them all, for none of them is a member now."""
        for member in self.members:
            member.outbox.close(code)


class Expire(Struct):
    """Something that is remembered has reached its end."""


class Shutdown(Struct):
    """The server ends: every member is closed, and has left; those with ``events`` are told when to come back.

    ``first``, ``step``: milliseconds until the first member may, and between one and the next.
    """

    first: int
    step: int
    code: CloseCode = CloseCode.RESTARTING


TopicEvent = Union[Join, Leave, Send, Restore, Expire, Shutdown]


# What a topic tells the one who made it.


class Replaced(Struct, eq=False):
    """This outbox is a member no more: another connection has taken its place, without a leave and a join."""

    outbox: Outbox
