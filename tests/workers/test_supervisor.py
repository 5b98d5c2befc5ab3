"""The supervisor of a worker: topics with claims, and the list of all workers. The crew is real, its lines are not."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any, Optional

import pytest

from chat_actors.actors.events import Join, JoinFailed, Leave
from chat_actors.actors.handover import Elsewhere
from chat_actors.actors.supervisor import RETRY_MS, RETRY_STEP_MS, ListTopics
from chat_actors.counters import Counters
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Window
from chat_actors.settings import Settings
from chat_actors.workers.board import Board
from chat_actors.workers.crew import Crew, Home, Line, Sibling, Where
from chat_actors.workers.messages import Leaving, Message, Topics
from chat_actors.workers.supervisor import LIST_SECONDS, RETRY_SECONDS, RETURN_MS, WorkerSupervisor
from tests.support.crew.kernel import KernelClaims
from tests.support.fakes import FakeClock, FakeMember, in_clean_loop, settle


class FakeLine(Line):
    """Line that nobody reads."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message, descriptor: Optional[int] = None) -> None:
        self.sent.append(message)

    def is_idle(self) -> bool:
        return True


class FakeHome(Home):
    """Own side that passes on what the supervisor should hear."""

    def __init__(self) -> None:
        self.supervisor: Optional[WorkerSupervisor] = None

    def hear(self) -> None:
        if self.supervisor is not None:
            self.supervisor.hear()

    take = discard = measure = NotImplemented


class Chat:
    """Supervisor of process 100 in slot 0, and another worker, process 101 in slot 1, which the test plays."""

    def __init__(self, file: int, **settings: Any) -> None:
        self.clock = FakeClock()
        self.claims: dict[str, int] = {}
        self.board = Board(file)
        self.line = FakeLine()
        home = FakeHome()
        self.crew = Crew(0, self.board, KernelClaims(self.claims, 100), lambda: self.clock.now, home)
        self.supervisor = WorkerSupervisor(self.crew, Settings.model_validate(settings), self.clock, Counters())
        home.supervisor = self.supervisor
        self.other = self.crew.add(1, 101, self.line)

    def join(self, username: str, topic: str, arrived: bool = True, window: Optional[Window] = None) -> FakeMember:
        """Join; by default as a connection that another worker has sent, so that the topic is to begin here."""
        member = FakeMember()
        self.post(Join(topic, username, member, member.reply, window, arrived=arrived))
        return member

    def post(self, event: Any) -> None:
        self.supervisor.mailbox.put_nowait(event)

    async def enter(self, username: str, topic: str) -> FakeMember:
        member = self.join(username, topic)
        await settle()
        assert member.username == username
        return member

    def announce(self, topic: str, born: int, users: int) -> None:
        """The other worker announces a topic, and this one hears of it."""
        self.board.set_edition(1, self.other.edition + 1)
        self.other.receive(Topics(self.other.edition + 1, [(topic, born, users)]), [])

    def ask(self) -> FakeMember:
        asker = FakeMember()
        self.post(ListTopics(asker))
        return asker

    async def listed(self) -> list[tuple[str, int]]:
        asker = self.ask()
        await settle()
        return lists(asker)[-1]

    def told(self) -> list[tuple[str, int]]:
        """The topics and their users as the other worker was told, in order."""
        sent, self.line.sent = self.line.sent, []
        return [(topic, users) for one in sent if isinstance(one, Topics) for topic, _, users in one.changed]

    async def end(self) -> None:
        self.supervisor.stop()
        await self.supervisor.task


def lists(asker: FakeMember) -> list[list[tuple[str, int]]]:
    return [[(one["topic"], one["users"]) for one in frame["topics"]] for frame in asker.frames if "topics" in frame]


def failure(member: FakeMember) -> JoinFailed:
    with pytest.raises(JoinFailed) as failed:
        member.reply.result()
    return failed.value


@pytest.fixture
def file() -> Iterator[int]:
    made = Board.create(8)
    yield made
    os.close(made)


# A topic, and the claim of it.


@in_clean_loop
async def test_a_topic_has_a_claim_from_its_first_join_to_its_last_leave(file: int) -> None:
    chat = Chat(file)
    alice = await chat.enter("alice", "sports")
    assert (chat.claims, chat.board.topics(0)) == ({"sports": 100}, 1)
    assert chat.told() == [("sports", 1)]
    bob = await chat.enter("bob", "sports")
    assert chat.told() == [("sports", 2)]
    for member in (alice, bob):
        chat.post(Leave(member, "closed by peer"))
    await settle()
    assert (chat.claims, chat.board.topics(0)) == ({}, 0)
    assert chat.told() == [("sports", 0)]
    await chat.end()


@in_clean_loop
async def test_a_join_of_a_topic_that_is_elsewhere_goes_there(file: int) -> None:
    chat = Chat(file)
    chat.announce("sports", 1, 1)
    member = chat.join("alice", "sports", arrived=False)
    await settle()
    with pytest.raises(Elsewhere) as elsewhere:
        member.reply.result()
    assert elsewhere.value.road == chat.other.road
    assert (chat.claims, await chat.listed()) == ({}, [("sports", 1)])
    await chat.end()


@in_clean_loop
async def test_a_join_waits_until_it_is_known_where_its_topic_is(file: int) -> None:
    chat = Chat(file)
    chat.claims["sports"] = 109
    member = chat.join("alice", "sports")
    for _ in range(3):
        await settle()
        assert not member.reply.done()
        await chat.clock.advance(RETRY_SECONDS)
    del chat.claims["sports"]
    await chat.clock.advance(RETRY_SECONDS)
    assert member.username == "alice"
    await chat.end()


@in_clean_loop
async def test_the_limit_on_topics_is_one_of_all_workers(file: int) -> None:
    chat = Chat(file, topics=3)
    chat.board.set_topics(1, 2)
    await chat.enter("alice", "sports")
    refused = chat.join("bob", "movies")
    await settle()
    assert failure(refused).code is CloseCode.OVERLOADED
    assert (chat.claims, chat.board.topics(0)) == ({"sports": 100}, 1)
    await chat.enter("bob", "sports")
    chat.board.set_topics(1, 1)
    await chat.enter("carol", "movies")
    await chat.end()


@in_clean_loop
async def test_the_end_gives_up_all_claims_and_tells_the_others(file: int) -> None:
    chat = Chat(file)
    member = await chat.enter("alice", "sports")
    await chat.enter("bob", "movies")
    chat.told()
    await chat.end()
    assert member.closed is CloseCode.RESTARTING
    assert (chat.claims, chat.board.topics(0)) == ({}, 0)
    assert sorted(chat.told()) == [("movies", 0), ("sports", 0)]


@in_clean_loop
async def test_members_come_back_soon_if_other_workers_stay(file: int) -> None:
    chat = Chat(file)
    assert chat.supervisor.retry() == (RETRY_MS, RETRY_STEP_MS)
    for number in range(3):
        await chat.enter(f"member {number}", "sports")
    assert chat.supervisor.retry() == (RETURN_MS, RETRY_STEP_MS)
    chat.other.receive(Leaving(), [])
    assert chat.supervisor.retry() == (RETRY_MS, RETRY_STEP_MS)
    await chat.end()


# The list.


@in_clean_loop
async def test_topics_of_all_workers_are_listed_oldest_first(file: int) -> None:
    chat = Chat(file)
    chat.announce("oldest", 1, 5)
    await chat.enter("alice", "sports")
    chat.announce("newest", 1 << 62, 6)
    assert await chat.listed() == [("oldest", 5), ("sports", 1), ("newest", 6)]
    chat.announce("oldest", 1, 0)
    assert await chat.listed() == [("sports", 1), ("newest", 6)]
    await chat.end()


@in_clean_loop
async def test_the_list_waits_for_what_another_worker_has_announced(file: int) -> None:
    chat = Chat(file)
    chat.board.set_edition(1, 1)
    asker = chat.ask()
    await settle()
    assert asker.frames == []
    chat.announce("sports", 1, 2)
    await settle()
    assert lists(asker) == [[("sports", 2)]]
    await chat.end()


@in_clean_loop
async def test_the_list_waits_for_a_second_at_most(file: int) -> None:
    chat = Chat(file)
    chat.board.set_edition(1, 1)
    one = chat.ask()
    await settle()
    await chat.clock.advance(LIST_SECONDS / 2)
    other = chat.ask()
    await settle()
    assert one.frames == other.frames == []
    await chat.clock.advance(LIST_SECONDS / 2)
    assert lists(one) == lists(other) == [[]]
    late = chat.ask()
    await settle()
    assert late.frames == []
    await chat.end()


@in_clean_loop
async def test_the_list_comes_before_the_join_that_was_sent_behind_it(file: int) -> None:
    """Else the connection would leave for another worker, and the answer would be lost."""
    chat = Chat(file)
    chat.board.set_edition(1, 1)
    asker = chat.ask()
    other = chat.join("bob", "sports")
    chat.post(Join("sports", "alice", asker, asker.reply, None, arrived=True))
    await settle()
    assert (asker.frames, other.username) == ([], "bob")
    chat.announce("movies", 1, 2)
    await settle()
    assert [frame["type"] for frame in asker.frames] == ["topics", "joined"]
    await chat.end()


@in_clean_loop
async def test_a_join_behind_a_list_that_waits_is_refused_at_the_end(file: int) -> None:
    chat = Chat(file)
    chat.board.set_edition(1, 1)
    asker = chat.ask()
    chat.post(Join("sports", "alice", asker, asker.reply, None, arrived=True))
    await settle()
    await chat.end()
    assert failure(asker).code is CloseCode.RESTARTING


@in_clean_loop
async def test_the_page_of_topics_waits_like_the_list(file: int) -> None:
    chat = Chat(file)
    assert await chat.supervisor.current()
    chat.board.set_edition(1, 1)
    asking = asyncio.ensure_future(chat.supervisor.current())
    await settle()
    chat.announce("sports", 1, 2)
    await chat.clock.advance(RETRY_SECONDS)
    assert asking.done() and asking.result()
    assert b"sports" in chat.supervisor.topics_json()
    chat.board.set_edition(1, 2)
    asking = asyncio.ensure_future(chat.supervisor.current())
    await settle()
    for _ in range(round(LIST_SECONDS / RETRY_SECONDS)):
        assert not asking.done()
        await chat.clock.advance(RETRY_SECONDS)
    assert asking.done() and not asking.result()
    await chat.end()


@in_clean_loop
async def test_a_server_is_full_if_no_topic_of_any_worker_has_a_place(file: int) -> None:
    chat = Chat(file, topics=2, topic_members=1)
    await chat.enter("alice", "sports")
    assert not chat.supervisor.is_full()
    chat.announce("movies", 1, 1)
    chat.board.set_topics(1, 1)
    assert chat.supervisor.is_full()
    chat.announce("movies", 1, 0)
    chat.announce("music", 1, 1)
    assert chat.supervisor.is_full()
    await chat.end()
    unlimited = Chat(file, topics=1)
    assert not unlimited.supervisor.is_full()
    await unlimited.end()


@in_clean_loop
async def test_a_server_with_room_in_a_topic_of_another_worker_is_not_full(file: int) -> None:
    chat = Chat(file, topics=2, topic_members=2)
    for name in ("alice", "bob"):
        await chat.enter(name, "sports")
    chat.announce("movies", 1, 1)
    chat.board.set_topics(1, 1)
    assert not chat.supervisor.is_full()
    await chat.end()


def test_a_place_is_no_sibling() -> None:
    assert not isinstance(Where.HERE, Sibling)
