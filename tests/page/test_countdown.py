"""The countdown of a message is the server's: no step of the wall clock moves it."""

import re
import time
from typing import Any, Callable

import pytest
from playwright.sync_api import expect

from tests.support.page.bot import Bot
from tests.support.page.browser import People, Person
from tests.support.page.line import Line
from tests.support.page.stand_in import StandIn
from tests.support.server import AHEAD_APP, Server, put_forward

HOUR = 3600
STEPS = pytest.mark.parametrize("step", [10, HOUR, -HOUR], ids=["10 s ahead", "an hour ahead", "an hour back"])
CLOCKS = "[Date.now() / 1000, performance.now()]"
DELAY = "element => parseFloat(getComputedStyle(element).getPropertyValue('--delay'))"  # milliseconds, of the fuse
GONE = re.compile(r"\bgone\b")


def in_room(people: People) -> tuple[Person, StandIn]:
    """Alice in ``sports``; both of her clocks stand still."""
    alice = people.person()
    server = StandIn(alice.page)
    alice.page.clock.install()
    alice.comes().enters("alice", "sports")
    alice.page.clock.pause_at(alice.page.evaluate("Date.now()") / 1000 + 1)
    return alice, server


def set_wall_clock(alice: Person, step: int) -> None:
    """Set her wall clock forward by ``step`` seconds. The monotonic clock stays."""
    wall, monotonic = alice.page.evaluate(CLOCKS)
    alice.page.clock.set_system_time(wall + step)
    assert alice.page.evaluate(CLOCKS) == [pytest.approx(wall + step, abs=1), monotonic]


def message(number: int, text: str, **rest: Any) -> dict[str, Any]:
    return {"id": number, "username": "bob", "message": text, "timestamp": int(time.time()), **rest}


def comes_back(alice: Person, server: StandIn, **joined: Any) -> None:
    """Her first connection ends; the server lets her in again with these keys of ``joined``."""
    server.lets_in = False
    server.join(1).closes(1011)
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    alice.page.clock.run_for(500)
    server.join(2).answers_join(**joined)
    expect(alice.status).to_have_text("")


@STEPS
def test_a_step_of_the_wall_clock_moves_no_countdown(people: People, step: int) -> None:
    alice, server = in_room(people)
    alice.says("/list")
    expect(alice.notes).to_have_count(1)
    server.join(1).says("message", **message(1, "replayed", replayed=True, remaining_ms=12_000))
    server.join(1).says("message", **message(2, "new"))
    for text, left in (("replayed", "12"), ("new", "30")):
        expect(alice.message(text).locator(".left")).to_have_text(left)
    set_wall_clock(alice, step)
    alice.page.clock.run_for(8_000)
    for text, left in (("replayed", "4"), ("new", "22")):
        expect(alice.message(text).locator(".left")).to_have_text(left)
        expect(alice.message(text)).not_to_have_class(GONE)
    expect(alice.notes).to_have_count(1)
    alice.page.clock.run_for(8_000)  # the server has not said that it deleted the first one
    alice.sees("new")
    alice.page.clock.run_for(15_000)
    expect(alice.notes).to_have_count(0)


@STEPS
def test_a_replayed_message_starts_with_what_remains_of_its_time(people: People, step: int) -> None:
    alice, server = in_room(people)
    set_wall_clock(alice, step)
    server.join(1).says("message", **message(1, "old", replayed=True, remaining_ms=12_000))
    old = alice.message("old")
    expect(old.locator(".left")).to_have_text("12")
    assert old.evaluate(DELAY) == pytest.approx(-18_000, abs=1)


@STEPS
def test_a_page_whose_clock_is_wrong_counts_as_the_server_does(
    people: People, start: Callable[..., Server], bots: Callable[..., Bot], step: int
) -> None:
    server = start(*AHEAD_APP)
    bots("bob", "clocks", server.url).says("said before")
    put_forward(server, 10)
    alice = people.person(f"http://127.0.0.1:{server.port}/")
    alice.page.add_init_script(f"{{ const now = Date.now; Date.now = () => now() + {step * 1000}; }}")
    alice.comes().enters("alice", "clocks")
    before = alice.message("said before")
    expect(before.locator(".left")).not_to_be_empty()
    assert -30_000 <= before.evaluate(DELAY) <= -10_000


@STEPS
def test_a_step_of_the_wall_clock_makes_no_message_unsure_or_doubled(people: People, step: int) -> None:
    alice, server = in_room(people)
    alice.says("sent")
    expect(alice.message("sent")).to_have_attribute("data-state", "sending")
    set_wall_clock(alice, step)
    comes_back(alice, server)
    expect(alice.message("sent")).to_have_attribute("data-state", "sending")
    assert server.join(2).messages == server.join(1).messages  # of the same reference
    set_wall_clock(alice, -step)
    server.join(2).says("closing", retry_after_ms=28_000)
    server.join(2).closes(1012)
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    alice.page.clock.run_for(28_000)
    server.join(3).answers_join()
    expect(alice.message("sent")).to_have_attribute("data-state", "unsure")
    assert server.join(3).messages == []


def test_after_a_sleep_in_which_her_clocks_stood_the_server_tells_what_is_over(
    people: People, start: Callable[..., Server], line_to: Callable[[Server], Line], bots: Callable[..., Bot]
) -> None:
    server = start(*AHEAD_APP)
    line = line_to(server)
    alice = people.person(line.url)
    alice.page.clock.install()
    alice.comes().enters("alice", "asleep")
    bob = bots("bob", "asleep", server.url, events=True)
    bob.says("long over")
    alice.sees("long over")
    alice.page.clock.pause_at(alice.page.evaluate("Date.now()") / 1000 + 1)
    put_forward(server, 20)
    bob.says("still there")
    alice.sees("long over", "still there")
    line.cut()
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    put_forward(server, 10)
    bob.hears("expired")
    line.mend()
    alice.page.clock.run_for(500)
    expect(alice.status).to_have_text("")
    expect(alice.message("long over")).to_have_class(GONE)
    alice.page.clock.run_for(1_000)
    alice.sees("still there")
    expect(alice.notes).to_have_count(0)  # she has missed nothing


def test_a_message_that_may_have_expired_in_a_sleep_is_not_sent_again_unasked(people: People) -> None:
    alice, server = in_room(people)
    server.join(1).says("message", **message(1, "before"))
    alice.sees("before")
    alice.says("sent")
    expect(alice.message("sent")).to_have_attribute("data-state", "sending")
    comes_back(alice, server, last_id=3, gap={"from": 2, "to": 2, "reason": "expired"}, expired_through=2)
    server.join(2).says("message", **message(3, "after", replayed=True, remaining_ms=20_000))
    expect(alice.message("before")).to_have_class(GONE)
    alice.page.clock.run_for(1_000)
    alice.sees("after", "sent")
    expect(alice.notes).to_have_text("1 message expired while you were away.")
    expect(alice.message("sent")).to_have_attribute("data-state", "unsure")  # it may have been the one that expired
    assert server.join(2).messages == []
