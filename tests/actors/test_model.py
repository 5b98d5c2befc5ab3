"""A topic compared with a model: after any events each member has received what the model says."""

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, Callable, Optional, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from loguru import logger
from msgspec import UNSET

from chat_actors.actors.base import CRASH_SECONDS, MAX_CRASHES
from chat_actors.actors.events import Join, Leave, Send, TopicEvent
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Window
from tests.support.fakes import POISON, FakeMember, settle
from tests.support.harness import TopicHarness
from tests.support.model import KEPT, TTL, Model, Person
from tests.support.window import held

T = TypeVar("T")

usernames = st.sampled_from(["ann", "bob"])
windows = st.builds(
    Window,
    since=st.just(UNSET) | st.integers(0, 9),
    epoch=st.sampled_from(["this", "this", "another", UNSET]),
    events=st.booleans(),
)
places = st.integers(0, 3)
refs = st.sampled_from([None, "r", "s"])
seconds = st.sampled_from([0, 1, 15, 29, 30])


class TopicMachine(RuleBasedStateMachine):
    """Machine that posts to a topic, in drains of any length, and tells the model the same."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.room = self.run(self.open())
        self.model = Model()
        self.mail: list[tuple[TopicEvent, Callable[[], None]]] = []  # what to post, and to tell the model
        self.members: list[FakeMember] = []  # all that ever joined, newest first
        self.connected: list[FakeMember] = []  # of them, those that have not left: as the other side knows
        self.tokens: set[str] = set()
        self.crashes: list[float] = []
        self.texts = 0
        self.agreed = True

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    async def open(self) -> TopicHarness:
        room = TopicHarness(history_messages=KEPT)
        await settle()
        self.when_new = held(room.topic)
        return room

    @initialize()
    def somebody_watches(self) -> None:
        self.join("eve", Window(events=True))
        self.run(self.deliver(0))
        self.epoch = self.members[0].frames[0]["epoch"]
        self.compare()

    @rule(username=usernames)
    def join_plain(self, username: str) -> None:
        self.join(username, None)

    @rule(username=usernames, window=windows)
    def join(self, username: str, window: Optional[Window], again: Optional[Person] = None) -> None:
        async def new() -> FakeMember:
            return FakeMember()

        member = self.run(new())
        wire = window
        if window is not None:
            epoch = self.epoch if window.epoch == "this" else window.epoch
            wire = Window(window.since, epoch, again.token if again else window.resume, window.events)
        event = Join("sports", username, member, member.reply, wire)
        self.mail.append((event, lambda: self.model.join(member, username, window, again)))
        self.members.insert(0, member)
        self.connected.insert(0, member)

    @rule(place=places, username=usernames, window=windows)
    def resume(self, place: int, username: str, window: Window) -> None:
        self.wait(0)  # until all know their tokens
        known = [person for person in dict.fromkeys(map(self.model.people.__getitem__, self.members)) if person.token]
        self.join(username, window, known[place % len(known)])

    @precondition(lambda self: self.connected)
    @rule(place=places, seconds=seconds, taken=st.booleans(), window=windows)
    def come_back(self, place: int, seconds: int, taken: bool, window: Window) -> None:
        """Leave, and resume some time later."""
        self.wait(0)
        person = self.model.people[self.connected[place % len(self.connected)]]
        self.leave(place, False)
        if taken:
            self.join_plain(person.name)
        self.wait(0)  # the leave comes before the time passes
        self.wait(seconds)
        self.join("ann", window, person if person.token else None)

    @precondition(lambda self: self.connected)
    @rule(place=places, sends_late=st.booleans())
    def leave(self, place: int, sends_late: bool) -> None:
        member = self.connected.pop(place % len(self.connected))
        self.mail.append((Leave(member, "closed by peer"), lambda: self.model.leave(member)))
        if sends_late:
            self.post_send(member, "too late", None)

    @precondition(lambda self: self.connected)
    @rule(place=places, refs=st.lists(refs, min_size=1, max_size=4))
    def send(self, place: int, refs: list[Optional[str]]) -> None:
        for ref in refs:
            self.texts += 1
            self.post_send(self.connected[place % len(self.connected)], str(self.texts), ref)

    @precondition(lambda self: self.connected)
    @rule(place=places, seconds=seconds)
    def send_again(self, place: int, seconds: int) -> None:
        """Send, and send the same ref some time later."""
        self.send(place, ["r"])
        self.wait(0)
        self.wait(seconds)
        self.send(place, ["r"])

    @precondition(lambda self: self.connected and len(self.crashes) < MAX_CRASHES)
    @rule(place=places, ref=refs)
    def send_what_fails(self, place: int, ref: Optional[str]) -> None:
        self.crashes.append(math.inf)  # not yet
        self.post_send(self.connected[place % len(self.connected)], POISON, ref)

    def post_send(self, member: FakeMember, text: str, ref: Optional[str]) -> None:
        event = Send(member, text, UNSET if ref is None else ref)
        self.mail.append((event, lambda: self.model.send(member, text, ref)))

    @rule(seconds=seconds)
    def wait(self, seconds: int) -> None:
        """Let all be handled that was posted, that much later."""
        self.run(self.deliver(seconds))
        self.compare()

    def all_leave_and_are_forgotten(self) -> None:
        while self.connected:
            self.leave(0, False)
        self.wait(0)
        self.wait(TTL)
        assert held(self.room.topic) == self.when_new

    def teardown(self) -> None:
        async def end() -> None:
            self.room.topic.stop()
            await self.room.topic.task

        try:
            if self.agreed:
                self.all_leave_and_are_forgotten()
        finally:
            self.run(end())
            self.loop.close()

    async def deliver(self, seconds: int) -> None:
        for event, _ in self.mail:
            self.room.topic.post(event)
        await settle()
        self.model.now = self.room.clock.now
        await self.room.clock.advance(seconds)

    def compare(self) -> None:
        model, clock = self.model, self.room.clock
        self.agreed = False  # not yet
        for _, tell in self.mail:
            tell()
        model.end_turn()
        model.now = clock.now
        model.delete("expired")
        self.mail.clear()
        self.crashes = [min(at, clock.now) for at in self.crashes if clock.now - at < CRASH_SECONDS]
        for member, seen in model.seen.items():
            frames = member.take()
            for frame in frames:
                if "timestamp" in frame:
                    frame["timestamp"] -= int(clock.wall_time) - int(clock.now)
                if "resume" in frame:
                    self.check_token(model.people[member], frame.pop("resume"))
                    assert frame["epoch"] == self.epoch
                    frame["epoch"] = "this"
            assert model.check_names(member, frames) == seen
            seen.clear()
            assert member.closed is (CloseCode.RESUMED_ELSEWHERE if member in model.closed else None)
        assert [told.outbox for told in self.room.told] == model.closed
        self.agreed = True

    def check_token(self, person: Person, token: str) -> None:
        assert (token == person.token) if person.token else (token not in self.tokens)
        person.token = token
        self.tokens.add(token)


def test_after_any_events_each_member_of_a_topic_sees_what_the_model_says() -> None:
    logger.disable("chat_actors")  # some ten thousand joins and leaves
    try:
        run_state_machine_as_test(
            TopicMachine, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
        )
    finally:
        logger.enable("chat_actors")
