"""The page after a reload: it comes back into its rooms, once in each, however the page before it has ended."""

import json
from typing import Any, Callable

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.support.page.bot import Bot
from tests.support.page.browser import People, Person
from tests.support.page.stand_in import TOKEN, StandIn

Bots = Callable[..., Bot]

SILENT_END = """for (const name of ["pagehide", "visibilitychange"]) {
    addEventListener(name, (event) => event.stopImmediatePropagation(), true);
}"""  # as in a tab that is discarded or crashes
NO_LOCKS = "Object.defineProperty(Navigator.prototype, 'locks', { value: undefined })"  # http, another machine
BLOCKED = """Object.defineProperty(window, "sessionStorage", {
    get() { throw new DOMException("Access is denied for this document.", "SecurityError"); },
});"""
DENIED = """LockManager.prototype.request = () => Promise.reject(new DOMException("denied", "SecurityError"));"""
FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }"
STORED = "JSON.stringify({ ...sessionStorage })"


def yours(page: Page) -> Locator:
    return page.get_by_role("navigation", name="Your topics").get_by_role("button")


def serve_above(route: Route) -> None:
    """As a proxy does that takes the path ``/chat`` off."""
    route.fulfill(response=route.fetch(url=route.request.url.replace("/chat/", "/")))


def is_in_the_lobby(page: Page) -> None:
    expect(page.get_by_role("heading", name="Say it while it lasts.")).to_be_visible()


def scripted(people: People, *topics: str) -> tuple[Person, StandIn]:
    """Alice, reloaded after she was let into the topics; the server has not let her in again."""
    alice = people.person()
    server = StandIn(alice.page)
    alice.comes()
    for topic in topics:
        alice.enters("alice", topic)
    server.lets_in = False
    alice.page.reload()
    server.join(2 * len(topics))
    return alice, server


# How the page before has ended.


@pytest.mark.parametrize(
    "scripts",
    [(), (SILENT_END,), (NO_LOCKS,), (NO_LOCKS, SILENT_END), (BLOCKED,), (BLOCKED, DENIED, SILENT_END), (FULL,)],
    ids=["plain", "silent", "no locks", "no locks, silent", "blocked", "blocked, locks denied, silent", "full"],
)
def test_a_reload_comes_back_as_the_same_member(people: People, bots: Bots, scripts: tuple[str, ...]) -> None:
    topic = f"reload {len(scripts)} {sum(map(len, scripts))}"
    bob = bots("bob", topic)
    alice = people.person()
    for script in scripts:
        alice.page.add_init_script(script)
    alice.comes().enters("alice", topic)
    alice.enters("alice", f"{topic} too")
    alice.says("mine")
    yours(alice.page).first.click()
    alice.is_in(topic)
    alice.says("mine as well")
    expect(alice.message("mine as well")).to_have_attribute("data-state", "delivered")
    for _ in range(2):
        alice.page.reload()
        alice.is_in(topic)
        alice.sees("mine as well")
    expect(alice.message("mine as well").locator(".name")).to_have_text("you")
    expect(alice.room.locator(".me")).to_have_text("alice")
    expect(alice.room.locator(".count")).to_have_text("2 here")
    expect(yours(alice.page).locator(".topic")).to_have_text([topic, f"{topic} too"])
    expect(alice.page.get_by_label("Your name")).to_have_value("alice")
    bob.says("still here?")
    alice.sees("mine as well", "still here?")


@pytest.mark.parametrize("script", ["", NO_LOCKS], ids=["locks", "no locks"])
def test_a_tab_that_goes_elsewhere_and_returns_is_in_its_rooms(people: People, script: str) -> None:
    alice = people.person()
    alice.page.add_init_script(script)
    alice.comes().enters("alice", "returning")
    alice.page.goto("about:blank")
    alice.comes().is_in("returning")
    expect(alice.room.locator(".count")).to_have_text("1 here")


@pytest.mark.parametrize("script", ["", NO_LOCKS], ids=["locks", "no locks"])
def test_a_tab_that_is_duplicated_does_not_take_the_first_ones_place(people: People, script: str) -> None:
    alice = people.person()
    alice.context.add_init_script(script)
    alice.comes().enters("alice", "twice")
    alice.page.reload()
    alice.is_in("twice")
    with alice.page.expect_popup() as opened:
        alice.page.evaluate("() => void open(location.href)")  # which copies the session storage, as duplicating does
    duplicate = opened.value
    duplicate.wait_for_function("() => sessionStorage.length === 0")  # it has seen that the copy is not its own
    is_in_the_lobby(duplicate)
    expect(yours(duplicate)).to_have_count(0)
    expect(alice.status).to_have_text("")
    alice.says("still me")
    expect(alice.message("still me")).to_have_attribute("data-state", "delivered")
    duplicate.get_by_label("Your name").fill("twin")
    duplicate.get_by_label("Topic", exact=True).fill("twice")
    duplicate.keyboard.press("Enter")
    expect(duplicate.locator(".count")).to_have_text("2 here")
    duplicate.reload()
    expect(duplicate.locator(".count")).to_have_text("2 here")
    expect(duplicate.locator(".me")).to_have_text("twin")


def test_a_room_that_was_left_does_not_come_back(people: People) -> None:
    alice = people.person()
    alice.page.add_init_script(SILENT_END)
    alice.comes().enters("alice", "kept")
    alice.enters("alice", "left")
    alice.room.get_by_role("button", name="Leave").click()
    alice.is_in("kept")
    alice.page.reload()
    alice.is_in("kept")
    expect(yours(alice.page).locator(".topic")).to_have_text(["kept"])
    alice.room.get_by_role("button", name="Leave").click()
    is_in_the_lobby(alice.page)
    assert alice.page.evaluate(STORED) == "{}"


def test_another_server_below_a_path_of_the_same_origin_gets_nothing_of_it(people: People) -> None:
    alice = people.person()
    server = StandIn(alice.page)
    alice.page.route("**/chat/**", serve_above)
    alice.comes().enters("alice", "one")
    alice.page.goto(f"{alice.url}chat/")
    alice.page.wait_for_function("() => document.querySelector('#active-word').textContent")
    is_in_the_lobby(alice.page)
    alice.enters("alice", "two")
    alice.comes().is_in("one")
    alice.page.goto(f"{alice.url}chat/")
    alice.is_in("two")
    expect(yours(alice.page)).to_have_count(1)
    assert [one.frames[0]["topic"] for one in server.joins] == ["one", "two", "one", "two"]  # type: ignore[index]


# What comes back beside the rooms.


def test_a_text_that_was_not_sent_is_in_its_field_again(people: People, bots: Bots) -> None:
    bots("bob", "drafts")
    alice = people.person()
    alice.page.add_init_script(SILENT_END)
    alice.comes().enters("alice", "drafts")
    alice.field.fill("half a sen")
    alice.page.wait_for_function(f"() => {STORED}.includes('half a sen')")
    alice.page.reload()
    expect(alice.field).to_have_value("half a sen")
    alice.field.press("Enter")
    alice.sees("half a sen")
    alice.page.wait_for_function(f"() => !{STORED}.includes('half a sen')")
    alice.page.reload()
    alice.sees("half a sen")
    expect(alice.field).to_have_value("")


def test_a_name_that_the_server_gave_is_no_news_after_a_reload(people: People, bots: Bots) -> None:
    bots("alice", "numbers")
    alice = people.come().enters("alice", "numbers")
    alice.page.reload()
    expect(alice.room.locator(".count")).to_have_text("2 here")
    expect(alice.room.locator(".me")).to_have_text("alice#2")
    expect(alice.notes).to_have_count(0)


# What is stored is nonsense.


ROOM = {"username": "a", "name": "a", "topic": "t", "resume": "r", "ttl": 30, "draft": "", "isShown": True}
STATE = {"version": 2, "tab": "x", "isClosed": True, "token": "", "rooms": [ROOM]}


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        json.dumps({**STATE, "version": 1}),
        json.dumps({**STATE, "tab": None}),
        json.dumps({**STATE, "rooms": None}),
        json.dumps({**STATE, "rooms": [None]}),
        json.dumps({**STATE, "rooms": [{**ROOM, "resume": 5}]}),
        json.dumps({**STATE, "rooms": [{**ROOM, "ttl": "30"}]}),
        json.dumps({**STATE, "token": {}}),
    ],
)
def test_what_is_stored_and_cannot_be_read_brings_nothing_back(people: People, stored: str) -> None:
    alice = people.come()
    key = alice.page.evaluate("new URL('ws', location).href.replace('http', 'ws')")
    alice.page.evaluate("([key, stored]) => sessionStorage.setItem(key, stored)", [key, stored])
    alice.page.reload()
    alice.page.wait_for_function("() => sessionStorage.length === 0")
    is_in_the_lobby(alice.page)
    alice.enters("alice", "readable")


# Once in each room.


def test_a_join_by_hand_of_a_room_that_comes_back_shows_that_room(people: People) -> None:
    alice, server = scripted(people, "one café", "two")
    alice.joins("somebody else", " one \u00a0 cafe\u0301 ")
    alice.is_in("one café")
    for connection in server.joins[2:]:
        connection.answers_join()
    expect(alice.room.locator(".count")).to_have_text("1 here")
    expect(alice.room.locator(".me")).to_have_text("alice")
    expect(yours(alice.page).locator(".topic")).to_have_text(["one café", "two"])
    assert len(server.joins) == 4
    assert [one.frames[0]["username"] for one in server.joins] == ["alice"] * 4  # type: ignore[index]


def test_a_join_by_hand_waits_until_it_is_known_what_comes_back(people: People) -> None:
    alice, server = scripted(people, "one")
    server.lets_in = True
    slow = """
        const request = LockManager.prototype.request;
        LockManager.prototype.request = function (...all) {
            return new Promise((done) => (window.let = done)).then(() => request.apply(this, all));
        };
    """
    alice.page.add_init_script(slow)
    alice.page.reload()
    is_in_the_lobby(alice.page)
    alice.joins("alice", "one")
    expect(alice.page.get_by_role("button", name="Joining…")).to_be_visible()
    alice.page.evaluate("window.let()")
    alice.is_in("one")
    expect(alice.room.locator(".count")).to_have_text("1 here")
    expect(alice.page.get_by_role("button", name="Join", exact=True)).to_be_visible()
    assert len(server.joins) == 3
    assert server.joins[-1].frames[0]["resume"] == TOKEN  # type: ignore[index]


def test_a_topic_that_the_server_writes_as_another_is_that_one(people: People) -> None:
    alice = people.person()
    server = StandIn(alice.page)
    alice.comes().enters("alice", "one")
    alice.enters("alice", "two")
    server.lets_in = False
    alice.joins("alice", "ONE")
    server.join(3).answers_join(topic="one")
    alice.is_in("one")
    server.wait(lambda: server.joins[2].is_closed)
    assert not server.joins[0].is_closed
    expect(yours(alice.page)).to_have_count(2)


def test_two_rooms_that_come_back_as_one_topic_are_one_room(people: People) -> None:
    alice, server = scripted(people, "one", "ONE")
    server.join(3).answers_join()
    server.join(4).answers_join(topic="one")
    expect(yours(alice.page).locator(".topic")).to_have_text(["one"])
    alice.is_in("one")
    server.wait(lambda: server.joins[3].is_closed)
    assert not server.joins[2].is_closed


def test_a_room_can_be_left_while_it_comes_back(people: People) -> None:
    alice, server = scripted(people, "one")
    alice.room.get_by_role("button", name="Leave").click()
    is_in_the_lobby(alice.page)
    server.wait(lambda: server.joins[1].is_closed)
    alice.page.reload()
    is_in_the_lobby(alice.page)
    expect(yours(alice.page)).to_have_count(0)


def test_two_clicks_and_two_enters_are_one_join(people: People) -> None:
    alice = people.person()
    server = StandIn(alice.page)
    server.lets_in = False
    alice.comes()
    alice.page.get_by_label("Your name").fill("alice")
    alice.page.get_by_label("Topic", exact=True).fill("one")
    alice.page.get_by_role("button", name="Join", exact=True).dblclick()
    alice.page.get_by_label("Topic", exact=True).press("Enter")
    server.join(1).answers_join()
    alice.is_in("one")
    assert len(server.joins) == 1


# Coming back is refused, or does not work yet.


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({"error": "invalid_username", "detail": "choose another name"}, "choose another name."),
        ({"error": "invalid_topic", "detail": "choose another topic"}, "choose another topic."),
    ],
)
def test_a_room_that_is_refused_says_so_and_waits(people: People, error: dict[str, Any], words: str) -> None:
    alice, server = scripted(people, "one")
    server.join(2).says("error", **error)
    expect(alice.status).to_have_text(f"The server closed the connection: {words}")
    alice.room.get_by_role("button", name="Join again").click()
    server.join(3).answers_join()
    expect(alice.status).to_have_text("")


def test_a_room_that_another_window_has_says_so_and_waits(people: People) -> None:
    alice, server = scripted(people, "one")
    server.join(2).closes(4409)
    expect(alice.status).to_have_text("This topic is open in another window now.")
    expect(alice.room.get_by_role("button", name="Join again")).to_be_visible()
    assert len(server.joins) == 2


@pytest.mark.parametrize("is_full", [True, False], ids=["full", "restarting"])
def test_a_room_comes_back_once_the_server_can_take_it(people: People, is_full: bool) -> None:
    alice, server = scripted(people, "one")
    if is_full:
        server.join(2).says("error", error="server_full", detail="full")
    server.join(2).closes(1013)
    server.join(3).answers_join()
    expect(alice.room.locator(".count")).to_have_text("1 here")
    expect(alice.status).to_have_text("")
    assert server.joins[2].frames[0]["resume"] == TOKEN  # type: ignore[index]
