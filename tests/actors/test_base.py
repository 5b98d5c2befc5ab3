"""The base of every actor, tested with an actor that notes what it handles."""

import asyncio
import weakref
from typing import Optional

import pytest

from chat_actors.actors.base import CRASH_SECONDS, HIGH_WATER, MAX_CRASHES, Actor
from tests.support.fakes import FakeClock, in_clean_loop, log_lines, settle

FAIL = "fail"


class Notes(Actor[str]):
    """Actor that notes the events it handled, the undelivered events, and its end, in order."""

    def __init__(self, clock: Optional[FakeClock] = None) -> None:
        self.notes: list[str] = []
        super().__init__(clock or FakeClock(), actor="notes")

    def handle(self, event: str) -> None:
        if event == FAIL:
            raise ValueError
        self.notes.append(event)

    def undelivered(self, event: str) -> None:
        self.notes.append(f"undelivered {event}")

    async def ended(self) -> None:
        self.notes.append("ended")


def post(actor: Notes, *events: str) -> None:
    for event in events:
        actor.mailbox.put_nowait(event)


@in_clean_loop
async def test_events_are_handled_in_the_order_in_which_they_were_posted() -> None:
    actor = Notes()
    post(actor, "1", "2")
    await settle()
    post(actor, "3")
    await settle()
    assert actor.notes == ["1", "2", "3"]


@in_clean_loop
async def test_an_event_that_fails_costs_itself_alone() -> None:
    actor = Notes()
    post(actor, "1", FAIL, "2")
    with log_lines() as lines:
        await settle()
    assert actor.notes == ["1", "2"]
    (line,) = lines
    assert line.startswith("ERROR handler failed {'actor': 'notes', 'event': 'str', 'outcome': 'event skipped'}")
    assert "ValueError" in line


@in_clean_loop
async def test_a_turn_that_fails_costs_its_event_alone() -> None:
    class Turning(Notes):
        async def turn(self, event: str) -> None:
            self.handle(event)

    actor = Turning()
    post(actor, "1", FAIL, "2")
    await settle()
    assert actor.notes == ["1", "2"]


@in_clean_loop
async def test_the_sixth_crash_within_thirty_seconds_ends_the_actor() -> None:
    clock = FakeClock()
    actor = Notes(clock)
    post(actor, *[FAIL] * MAX_CRASHES, "1")
    await settle()
    assert actor.notes == ["1"]
    await clock.advance(CRASH_SECONDS - 0.5)
    post(actor, FAIL, "2")
    with log_lines() as lines:
        await actor.task
    assert actor.notes == ["1", "undelivered 2", "ended"]
    assert [line.partition("'outcome': ")[2].partition("}")[0] for line in lines] == ["'actor stopped'"]


@in_clean_loop
async def test_crashes_that_are_further_apart_never_end_the_actor() -> None:
    clock = FakeClock()
    actor = Notes(clock)
    for _ in range(20):
        post(actor, FAIL)
        await clock.advance(CRASH_SECONDS / MAX_CRASHES)  # so the sixth comes 30 s after the first
    post(actor, "1")
    await settle()
    assert actor.notes == ["1"]


@in_clean_loop
async def test_mail_before_the_end_is_handled_and_mail_behind_it_is_undelivered() -> None:
    actor = Notes()
    post(actor, "1", "2")
    actor.stop()
    actor.stop()
    post(actor, "3")
    assert actor.running
    await actor.task
    assert not actor.running
    actor.post("4")
    assert actor.notes == ["1", "2", "undelivered 3", "ended", "undelivered 4"]


@in_clean_loop
async def test_an_actor_that_is_cancelled_ends_as_others_do() -> None:
    actor = Notes()
    await settle()
    post(actor, "1")
    actor.task.cancel()
    await asyncio.wait({actor.task})
    assert not actor.running
    assert actor.notes == ["undelivered 1", "ended"]


@in_clean_loop
async def test_an_actor_that_waits_does_not_keep_the_last_event_alive() -> None:
    class Letter:
        pass

    class Reader(Actor[Letter]):
        def handle(self, event: Letter) -> None:
            pass

    actor = Reader(FakeClock())
    letter = Letter()
    gone = weakref.ref(letter)
    actor.post(letter)
    del letter
    await settle()
    assert gone() is None


@in_clean_loop
async def test_a_mailbox_is_crowded_from_1024_events_on_until_the_actor_has_caught_up() -> None:
    class Slow(Notes):
        async def turn(self, event: str) -> None:
            await asyncio.sleep(0)
            self.handle(event)

    actor = Slow()
    post(actor, *["1"] * 1023)
    assert not actor.mailbox.crowded()
    post(actor, "1")
    assert actor.mailbox.crowded()
    post(actor, *["1"] * 8)
    drained = actor.mailbox.drained()
    impatient = actor.mailbox.drained()
    impatient.cancel()  # the other senders are not affected
    await drained
    assert 9 <= len(actor.notes) < 1024
    assert not actor.mailbox.crowded()


@pytest.mark.parametrize("cancel", [False, True])
@in_clean_loop
async def test_senders_that_wait_go_on_when_the_actor_ends(cancel: bool) -> None:
    actor = Notes()
    await settle()
    drained = actor.mailbox.drained()
    if cancel:
        actor.task.cancel()
    else:
        actor.stop()
    await drained
    assert not actor.running


@in_clean_loop
async def test_mail_after_the_end_is_undelivered_and_no_sender_waits() -> None:
    actor = Notes()
    actor.stop()
    await actor.task
    for number in range(HIGH_WATER + 1):  # senders still hold the mailbox
        actor.mailbox.put_nowait(str(number))
    actor.stop()
    assert actor.notes == ["ended", *(f"undelivered {number}" for number in range(HIGH_WATER + 1))]
    assert not actor.mailbox.crowded()
