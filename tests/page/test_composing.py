"""Keys of an input method are its own: the page acts on none of them."""

from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.support.page.browser import People, Person
from tests.support.page.stand_in import StandIn

PRESS = """(element, options) => {
    const event = new KeyboardEvent("keydown", { bubbles: true, cancelable: true, ...options });
    // As a browser does that takes such a key for its own: implicit submission (HTML, 4.10.21.2).
    if (element.dispatchEvent(event) && element.form && options.key === "Enter") element.form.requestSubmit();
}"""
WAYS = pytest.mark.parametrize(
    "composing",
    [
        {"isComposing": True, "keyCode": 229},
        {"isComposing": True, "keyCode": 13},
        {"isComposing": False, "keyCode": 229},  # Safari: the composition ends before the key comes
    ],
    ids=["composing", "composing, with the code of the key", "just after, as in Safari"],
)


def in_two_rooms(people: People) -> Person:
    alice = people.person()
    StandIn(alice.page)
    alice.comes().enters("alice", "movies").enters("alice", "sports")
    return alice


def press(target: Locator, key: str, **options: Any) -> None:
    target.evaluate(PRESS, {"key": key, **options})


@WAYS
def test_the_enter_that_ends_a_composition_sends_no_message(people: People, composing: dict[str, Any]) -> None:
    alice = in_two_rooms(people)
    alice.field.fill("にほんご")
    press(alice.field, "Enter", **composing)
    expect(alice.field).to_have_value("にほんご")
    alice.sees()
    alice.field.press("Enter")  # the next one does
    alice.sees("にほんご")


@WAYS
@pytest.mark.parametrize("label", ["Your name", "Topic", "Access token"])
def test_the_enter_that_ends_a_composition_joins_nothing(people: People, composing: dict[str, Any], label: str) -> None:
    alice = people.person()
    server = StandIn(alice.page)
    alice.comes()
    alice.page.get_by_label("Your name").fill("さくら")
    alice.page.get_by_label("Topic", exact=True).fill("映画")
    alice.page.evaluate("document.getElementById('token-row').hidden = false")
    field = alice.page.get_by_label(label, exact=True)
    press(field, "Enter", **composing)
    expect(alice.page.get_by_role("button", name="Join", exact=True)).to_be_visible()  # not "Joining…"
    assert server.joins == []
    field.press("Enter")
    alice.is_in("映画")


@WAYS
def test_arrows_and_escape_of_a_composition_move_nothing(people: People, composing: dict[str, Any]) -> None:
    alice = in_two_rooms(people)
    for key in ("ArrowUp", "ArrowDown"):
        press(alice.field, key, altKey=True, **composing)
        alice.is_in("sports")
    people_here = alice.room.locator(".people")
    people_here.locator("summary").click()
    press(people_here.locator("summary"), "Escape", **composing)
    expect(people_here).to_have_attribute("open", "")
    alice.page.keyboard.press("Escape")
    expect(people_here).not_to_have_attribute("open", "")
    alice.page.keyboard.press("Alt+ArrowUp")
    alice.is_in("movies")
