"""A topic and a supervisor without sockets, with short names for what is posted to them."""

from typing import Any, Optional, Union

from msgspec import UNSET, UnsetType

from chat_actors.actors.events import Join, Leave, Replaced, Send
from chat_actors.actors.supervisor import ListTopics, Supervisor, SupervisorEvent
from chat_actors.actors.topic import Topic
from chat_actors.counters import Counters
from chat_actors.protocol.frames import Window
from chat_actors.settings import Settings
from tests.support.fakes import FakeClock, FakeMember, settle


class TopicHarness:
    """Topic ``sports``, and short names for what is posted to it."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.told: list[Replaced] = []
        self.counters = Counters()
        self.topic = Topic("sports", Settings.model_validate(settings), self.clock, self.counters, self.told.append)

    def join(self, username: str, window: Optional[Window] = None) -> FakeMember:
        member = FakeMember()
        self.topic.post(Join("sports", username, member, member.reply, window))
        return member

    def send(self, member: FakeMember, *messages: str, ref: Union[str, UnsetType] = UNSET) -> None:
        for message in messages:
            self.topic.post(Send(member, message, ref))

    def leave(self, member: FakeMember) -> None:
        self.topic.post(Leave(member, "closed by peer"))

    async def enter(self, *usernames: str) -> list[FakeMember]:
        """Join, and forget what was sent on that occasion."""
        members = [self.join(username) for username in usernames]
        await settle()
        for member in members:
            member.take()
        return members

    def ask(self, username: str, **wants: Any) -> FakeMember:
        """Join with keys of the window."""
        return self.join(username, Window(**wants))

    async def watcher(self) -> FakeMember:
        """A member with events, who has seen nothing yet."""
        member = self.ask("watcher", events=True)
        await settle()
        member.take()
        return member


class SupervisorHarness:
    """Supervisor, and short names for what sessions post to it and to its topics."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.supervisor = Supervisor(Settings.model_validate(settings), self.clock, Counters())

    def post(self, event: SupervisorEvent) -> None:
        self.supervisor.mailbox.put_nowait(event)

    def join(self, username: str, topic: str = "sports", window: Optional[Window] = None) -> FakeMember:
        member = FakeMember()
        self.post(Join(topic, username, member, member.reply, window))
        return member

    def leave(self, *members: FakeMember) -> None:
        for member in members:
            self.post(Leave(member, "closed by peer"))

    def send(self, member: FakeMember, *messages: str) -> None:
        for message in messages:
            member.reply.result().put_nowait(Send(member, message))

    async def enter(self, *usernames: str, topic: str = "sports") -> list[FakeMember]:
        members = [self.join(username, topic) for username in usernames]
        await settle()
        return members

    async def listed(self) -> list[tuple[str, int]]:
        """The topics and their users, as they are told to someone who has not joined."""
        asker = FakeMember()
        self.post(ListTopics(asker))
        await settle()
        (answer,) = asker.frames
        return [(one["topic"], one["users"]) for one in answer["topics"]]

    def ask(
        self, username: str, topic: str = "sports", member: Optional[FakeMember] = None, **wants: Any
    ) -> FakeMember:
        """Join with keys of the window."""
        member = member or FakeMember()
        self.post(Join(topic, username, member, member.reply, Window(**wants)))
        return member

    async def entered(self, username: str, topic: str = "sports") -> FakeMember:
        member = self.ask(username, topic)
        await settle()
        return member
