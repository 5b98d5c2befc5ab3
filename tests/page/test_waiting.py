"""Nothing on the page waits for ever: each request has a limit, and what is old says so."""

from typing import Callable

from playwright.sync_api import expect

from tests.support.page.bot import Bot
from tests.support.page.browser import People, Person
from tests.support.page.line import Line
from tests.support.page.stand_in import Connection, StandIn
from tests.support.server import Server

Lines = Callable[[Server], Line]
Bots = Callable[..., Bot]


def scripted(people: People) -> tuple[Person, StandIn]:
    """Alice in the lobby; her clock can be put forward."""
    alice = people.person()
    server = StandIn(alice.page)
    alice.page.clock.install()
    alice.comes()
    expect(alice.page.locator("#active-word")).to_have_text("No topics yet. Enter one to start it.")
    return alice, server


def test_a_join_that_is_not_answered_ends_with_a_word(people: People) -> None:
    alice, server = scripted(people)
    server.lets_in = False
    alice.joins("alice", "silent")
    first = server.join(1)
    alice.page.clock.run_for(12_000)
    expect(alice.page.locator("#form-problem")).to_have_text("The server cannot be reached. Try again in a moment.")
    server.wait(lambda: first.is_closed)
    server.lets_in = True
    alice.page.get_by_role("button", name="Join", exact=True).click()
    alice.page.clock.run_for(100)
    alice.is_in("silent")


def test_a_handshake_that_never_ends_blocks_neither_list_nor_join(people: People, line: Line, bots: Bots) -> None:
    bots("bob", "reachable")
    alice = people.person(line.url)
    alice.page.clock.install()
    alice.comes()
    listed = alice.page.get_by_role("region", name="Active now").get_by_role("listitem")
    expect(listed.filter(has_text="reachable")).to_have_count(1)
    line.swallow()
    alice.page.clock.run_for(5_100)
    alice.joins("alice", "swallowed")
    expect(alice.page.get_by_role("button", name="Joining…")).to_be_visible()
    alice.page.clock.run_for(12_000)
    expect(alice.page.locator("#form-problem")).to_have_text("The server cannot be reached. Try again in a moment.")
    alice.page.clock.run_for(10_000)
    expect(alice.page.locator("#active-word")).to_have_text(
        "The server does not answer. This list may be old. Trying again…"
    )
    line.mend()
    alice.enters("alice", "swallowed")
    expect(alice.page.locator("#active-word")).to_have_text("")


def test_a_list_that_is_not_answered_is_asked_again(people: People) -> None:
    alice, server = scripted(people)
    server.lists = False
    alice.page.clock.run_for(5_100)
    server.wait(lambda: len(server.all) == 2 and "/list" in server.last.frames)
    alice.page.clock.run_for(8_100)
    expect(alice.page.locator("#active-word")).to_have_text("The server does not answer. Trying again…")
    server.wait(lambda: server.all[1].is_closed)
    server.lists = True
    alice.page.clock.run_for(3_000)
    server.wait(lambda: len(server.all) > 2)
    expect(alice.page.locator("#active-word")).to_have_text("No topics yet. Enter one to start it.")


def asked_twice(people: People) -> tuple[Person, StandIn, Connection]:
    """Alice, reloaded, in a room again; the list was asked for before, over a connection that gives no answer.

    Her clock stands still.
    """
    alice = people.person()
    server = StandIn(alice.page)
    alice.page.clock.install()
    alice.comes().enters("alice", "one")
    server.lets_in = server.lists = False
    before = len(server.all)
    alice.page.reload()
    joined = server.join(2)
    server.wait(lambda: len(server.all) == before + 2)
    (short,) = (one for one in server.all[before:] if one is not joined)
    server.wait(lambda: "/list" in short.frames)
    joined.answers_join()
    expect(alice.room.locator(".count")).to_have_text("1 here")
    alice.page.clock.pause_at(alice.page.evaluate("Date.now()") / 1000 + 1)
    return alice, server, short


def test_a_room_that_has_joined_is_asked_in_place_of_the_connection_before(people: People) -> None:
    alice, server, short = asked_twice(people)
    alice.page.clock.run_for(5_000)
    server.wait(lambda: "/list" in server.join(2).frames)
    server.wait(lambda: short.is_closed)
    alice.page.clock.run_for(4_000)  # more than the first one had for its answer
    expect(alice.page.locator("#active-word")).to_have_text("")


def test_the_end_of_the_connection_before_says_nothing_once_a_room_has_joined(people: People) -> None:
    alice, server, short = asked_twice(people)
    short.closes(1011)
    server.wait(lambda: "/list" in server.join(2).frames)
    alice.page.clock.run_for(100)
    expect(alice.page.locator("#active-word")).to_have_text("")
    server.join(2).says("topics", message="", topics=[{"topic": "other", "users": 1}])
    alice.page.clock.run_for(100)
    expect(alice.page.locator("#active li")).to_have_count(1)


def test_an_answer_over_a_room_ends_the_connection_before(people: People) -> None:
    alice, server, short = asked_twice(people)
    alice.says("/list")
    server.wait(lambda: "/list" in server.join(2).frames)
    server.join(2).says("topics", message="", topics=[])
    server.wait(lambda: short.is_closed)


def test_a_list_that_is_not_renewed_in_a_room_says_that_it_is_old(people: People) -> None:
    alice, server = scripted(people)
    server.lets_in = True
    alice.joins("alice", "one")
    alice.page.clock.run_for(100)
    alice.is_in("one")
    joined = server.join(1)
    joined.says("topics", message="", topics=[{"topic": "other", "users": 1}])
    server.lists = False
    alice.page.clock.run_for(100)
    expect(alice.page.locator("#active li")).to_have_count(1)
    alice.page.clock.run_for(5_100)
    server.wait(lambda: "/list" in joined.frames)
    alice.page.clock.run_for(8_100)
    expect(alice.page.locator("#active-word")).to_contain_text("This list may be old.")
    joined.says("topics", message="", topics=[{"topic": "other", "users": 1}])
    alice.page.clock.run_for(100)
    expect(alice.page.locator("#active-word")).to_have_text("")
