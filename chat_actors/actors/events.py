"""Events that a topic receives, and the event that a topic sends to its supervisor. Plain data, no behaviour.

A sender needs these types and a mailbox, never the actor.
"""

import asyncio
from typing import Callable, Optional, Union

from msgspec import UNSET, Struct, UnsetType

from chat_actors.actors.base import Mailbox
from chat_actors.actors.outbox import Outbox
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Window
from chat_actors.room.history import Refs, Stored

# Events that a topic receives.


class JoinFailed(Exception):
    """Error that ``Join.reply`` raises if the join failed: the session must close the connection with ``code``.

    ``detail``: the error detail for the client if something is full; else empty.
    """

    def __init__(self, code: CloseCode, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class Join(Struct, eq=False):
    """Request to add a member.

    ``accepted``: whether ``joined`` is written. ``reply`` then gets the topic's mailbox, as soon as the replay is
    written too; or it raises JoinFailed, or Elsewhere. If it is done before, nobody waits for the join any
    more.
    """

    topic: str
    username: str
    outbox: Outbox
    reply: "asyncio.Future[Mailbox[TopicEvent]]"
    window: Optional[Window] = None  # None: the plain contract
    accepted: bool = False
    arrived: bool = False  # with a connection that another process has sent: the topic is here, or is to begin here

    def refuse(self, code: CloseCode, detail: str = "") -> None:
        """Make ``reply`` raise JoinFailed. No-op if it is done, for example because the session has ended."""
        if not self.reply.done():
            self.reply.set_exception(JoinFailed(code, detail))


class Leave(Struct, eq=False):
    """Request to remove a member. No-op if the outbox is not a member."""

    outbox: Outbox
    reason: str  # for the log


class Send(Struct, eq=False, gc=False):
    """Message of a member. No-op if the outbox is not a member."""

    outbox: Outbox
    message: str
    ref: Union[str, UnsetType] = UNSET


class More(Struct, eq=False):
    """Request for more of what was said before: the outbox has room. No-op if it is no follower."""

    outbox: Outbox


class Returning(Struct, eq=False):
    """Present member of an earlier epoch of the topic; ``token`` and ``refs`` are set if it asked for the window."""

    outbox: Outbox
    username: str
    token: str = ""
    events: bool = False
    refs: Optional[Refs] = None


class Departed(Struct, eq=False):
    """Member that left an earlier epoch of the topic, and may resume."""

    username: str
    token: str
    until: float  # monotonic seconds
    refs: Refs


class Restore(Struct, eq=False):
    """Request to continue an earlier epoch of the topic, or to add the members of another one.

    ``done``: called with the usernames of all members, oldest first, and the new names of those ``members`` whose name
    was taken.
    ``epoch``: the epoch to continue; empty if parts of it are unknown, so that the topic keeps its own.
    ``messages``: stored messages, oldest first.
    ``last_id``: the highest id that any member has seen.
    """

    topic: str
    members: list[Returning]
    done: Callable[[list[str], dict[Outbox, str]], None]
    epoch: str = ""
    messages: list[Stored] = []
    last_id: int = 0
    departed: list[Departed] = []

    def refuse(self, code: CloseCode) -> None:
        """Close the connections of all ``members``: the restore failed, and none of them is a member."""
        for member in self.members:
            member.outbox.close(code)


class Expire(Struct):
    """Timer event: something that the topic keeps has reached its deadline, or the topic is to have a turn."""


class Shutdown(Struct):
    """Request to close all members with ``code``. Members with ``events`` first get ``closing`` with a delay.

    ``first``, ``step``: the delay of the first member, and its increase from one member to the next, in milliseconds.
    """

    first: float
    step: float
    code: CloseCode = CloseCode.RESTARTING


TopicEvent = Union[Join, Leave, Send, More, Restore, Expire, Shutdown]


# The event that a topic sends to its supervisor.


class Replaced(Struct, eq=False):
    """Fact that another connection has resumed this outbox's member: its leave, without a notice to the others."""

    outbox: Outbox
