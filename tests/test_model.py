"""A topic against a model that is too plain to be wrong: whatever is posted, each member sees what the model says."""

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, Callable, NamedTuple, Optional, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from loguru import logger
from msgspec import UNSET

from chat_actors.actor import CRASH_SECONDS, MOST_CRASHES
from chat_actors.protocol import CloseCode, Window
from chat_actors.topic import Join, Leave, Send, TopicEvent
from tests.fakes import POISON, FakeMember, Frame, settle
from tests.window import Room, held

T = TypeVar("T")

TTL = 30
KEPT = 6  # messages, at most
PLAIN: Frame = {"topic": "sports", "ttl": TTL}


class Person:
    """Someone whom the topic knows again, if ``refs`` is not None: the acks of his refs."""

    def __init__(self, name: str, asked: bool) -> None:
        self.name = name
        self.refs: Optional[dict[str, Frame]] = {} if asked else None
        self.events = False
        self.token = ""


class Stored(NamedTuple):
    """A message that can be replayed until its deadline, and whose ref it is."""

    deadline: float
    frame: Frame
    sender: Person
    ref: Optional[str]


class Model:
    """What each member must have seen, by the contract's own words."""

    def __init__(self) -> None:
        self.now = 0.0
        self.here: dict[FakeMember, Person] = {}  # oldest first
        self.gone: dict[Person, float] = {}  # known until then
        self.stored: list[Stored] = []
        self.lost: list[str] = []  # how message 1, 2, … was lost
        self.seen: dict[FakeMember, list[Frame]] = {}
        self.people: dict[FakeMember, Person] = {}
        self.closed: list[FakeMember] = []

    def join(self, member: FakeMember, username: str, window: Optional[Window], again: Optional[Person]) -> None:
        """``again``: whose token the join has."""
        old = [one for one, person in self.here.items() if person is again]
        back = again is not None and self.now < self.gone.pop(again, 0)
        person = again if again is not None and (old or back) else Person("", window is not None)
        if old:
            self.here = {member if one is old[0] else one: person for one, person in self.here.items()}
            self.closed += old
        else:
            names = {person.name for person in self.here.values()}
            free = [username, *(f"{username}#{number}" for number in range(2, 99))]
            person.name = next(name for name in [person.name or username, *free] if name not in names)
            self.here[member] = person
        self.people[member] = person
        person.events = window is not None and window.events
        joined = {**PLAIN, "type": "joined", "username": person.name, "users": len(self.here)}
        self.seen[member] = [joined]
        if window is not None:
            joined["epoch"], joined["last_id"] = "this", len(self.lost) + len(self.stored)
            if window.events:
                joined["members"] = [person.name for person in self.here.values()]
            if window.since is not UNSET:
                self.replay(member, joined, window.since, window.epoch)
        if not old:
            self.notice(
                {"type": "presence", "event": "joined", "username": person.name, "users": len(self.here)}, member
            )

    def replay(self, member: FakeMember, joined: Frame, since: int, epoch: object) -> None:
        lost = self.lost[since:]
        if epoch == "another":
            joined["gap"] = {"from": since + 1, "to": None, "reason": "restarted"}
            since = 0
        elif epoch == "this" and lost:
            reason = "evicted" if "evicted" in lost else "expired"
            joined["gap"] = {"from": since + 1, "to": len(self.lost), "reason": reason}
        self.seen[member] += [{**one.frame, "replayed": True} for one in self.stored if one.frame["id"] > since]

    def leave(self, member: FakeMember) -> None:
        person = self.here.pop(member, None)
        if person is not None:
            if person.refs is not None:
                self.gone[person] = self.now + TTL
            self.notice({"type": "presence", "event": "left", "username": person.name, "users": len(self.here)})

    def send(self, member: FakeMember, text: str, ref: Optional[str]) -> None:
        person = self.here.get(member)
        if person is None:
            return
        if person.refs is not None and ref in person.refs:
            self.seen[member].append({**person.refs[ref], "duplicate": True})
            return
        if text == POISON:
            return
        frame: Frame = {"id": len(self.lost) + len(self.stored) + 1, "timestamp": int(self.now)}
        ack = {**frame, "type": "ack", "status": "delivered", "recipients": len(self.here) - 1}
        frame = {**frame, "type": "message", "username": person.name, "message": text}
        if ref is not None:
            ack["ref"] = ref
            if person.refs is not None:
                person.refs[ref] = ack
        self.stored.append(Stored(self.now + TTL, frame, person, ref))
        for one in self.here:
            self.seen[one].append(ack if one is member else frame)

    def notice(self, frame: Frame, about: Optional[FakeMember] = None) -> None:
        for member, person in self.here.items():
            if person.events and member is not about:
                self.seen[member].append(frame)

    def delete(self, reason: str) -> None:
        """Delete what is too old, or too much."""
        before = len(self.lost)
        while self.stored and (self.stored[0].deadline <= self.now if reason == "expired" else len(self.stored) > KEPT):
            oldest = self.stored.pop(0)
            self.lost.append(reason)
            if oldest.sender.refs is not None and oldest.ref is not None:
                del oldest.sender.refs[oldest.ref]
        if len(self.lost) > before:
            self.notice({"type": "expired", "through": len(self.lost)})


windows = st.none() | st.builds(
    Window,
    since=st.just(UNSET) | st.integers(0, 15),
    epoch=st.sampled_from([UNSET, "this", "another"]),
    events=st.booleans(),
)
usernames = st.sampled_from(["ann", "bob"])


class TopicMachine(RuleBasedStateMachine):
    """Posts to a topic, in drains of any length, and tells the model the same."""

    members = Bundle("members")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.room = self.run(self.open())
        self.model = Model()
        self.mail: list[tuple[TopicEvent, Callable[[], None]]] = []  # what to post, and to tell the model
        self.tokens: set[str] = set()
        self.epoch = ""
        self.crashes: list[float] = []
        self.texts = 0

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    async def open(self) -> Room:
        room = Room(history_messages=KEPT)
        await settle()
        self.when_new = held(room.topic)
        return room

    @initialize(target=members)
    def somebody_is_there(self) -> FakeMember:
        member = self.post_join("eve", Window(events=True))
        self.run(self.deliver(0))
        self.epoch = member.frames[0]["epoch"]
        self.compare()
        return member

    def post_join(self, username: str, window: Optional[Window], again: Optional[Person] = None) -> FakeMember:
        async def new() -> FakeMember:
            return FakeMember()

        member = self.run(new())
        wire = window
        if window is not None:
            epoch = self.epoch if window.epoch == "this" else window.epoch
            wire = Window(window.since, epoch, again.token if again else window.resume, window.events)
        event = Join("sports", username, member, member.reply, wire)
        self.mail.append((event, lambda: self.model.join(member, username, window, again)))
        return member

    @rule(target=members, username=usernames, window=windows)
    def join(self, username: str, window: Optional[Window]) -> FakeMember:
        return self.post_join(username, window)

    @rule(target=members, member=members, username=usernames, window=windows.filter(bool))
    def resume(self, member: FakeMember, username: str, window: Window) -> FakeMember:
        person = self.model.people.get(member)
        return self.post_join(username, window, person if person and person.token else None)

    @rule(member=members)
    def leave(self, member: FakeMember) -> None:
        self.mail.append((Leave(member, "closed by peer"), lambda: self.model.leave(member)))

    @rule(member=members, ref=st.sampled_from([None, "r", "s"]))
    def send(self, member: FakeMember, ref: Optional[str], text: str = "") -> None:
        self.texts += 1
        text = text or str(self.texts)
        event = Send(member, text, UNSET if ref is None else ref)
        self.mail.append((event, lambda: self.model.send(member, text, ref)))

    @precondition(lambda self: len(self.crashes) < MOST_CRASHES)
    @rule(member=members, ref=st.sampled_from([None, "r"]))
    def send_what_fails(self, member: FakeMember, ref: Optional[str]) -> None:
        self.crashes.append(math.inf)  # not yet
        self.send(member, ref, POISON)

    @rule(seconds=st.sampled_from([0, 0, 1, 10, 29, 30, 31]))
    def wait(self, seconds: int) -> None:
        """Let all be handled that was posted, that much later."""
        self.run(self.deliver(seconds))
        self.compare()

    @rule()
    def all_leave_and_are_forgotten(self) -> None:
        for member in self.model.people:
            self.leave(member)
        self.wait(0)
        for member in list(self.model.here):  # those who joined meanwhile
            self.leave(member)
        self.wait(0)
        self.wait(TTL)
        assert held(self.room.topic) == self.when_new

    def teardown(self) -> None:
        async def end() -> None:
            self.room.topic.stop()
            await self.room.topic.task

        self.run(end())
        self.loop.close()

    async def deliver(self, seconds: int) -> None:
        for event, _ in self.mail:
            self.room.topic.post(event)
        await self.room.clock.advance(seconds)

    def compare(self) -> None:
        model, clock = self.model, self.room.clock
        model.now = clock.now
        for event, tell in self.mail:
            if type(event) is not Send:  # the bounds are looked at whenever something is written
                model.delete("evicted")
            tell()
        model.delete("evicted")
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
            assert frames == seen
            seen.clear()
            assert member.closed is (CloseCode.RESUMED_ELSEWHERE if member in model.closed else None)
        assert [told.outbox for told in self.room.told] == model.closed

    def check_token(self, person: Person, token: str) -> None:
        assert (token == person.token) if person.token else (token not in self.tokens)
        person.token = token
        self.tokens.add(token)


def test_whatever_is_posted_to_a_topic_each_member_sees_what_the_model_says() -> None:
    logger.disable("chat_actors")  # some ten thousand joins and leaves
    try:
        run_state_machine_as_test(
            TopicMachine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
        )
    finally:
        logger.enable("chat_actors")
