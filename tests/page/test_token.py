"""The page and the server's token: it is asked for by the error's code, and it comes back with a reload."""

import pytest
from playwright.sync_api import expect

from tests.support.page.browser import People, Person
from tests.support.page.stand_in import Connection, StandIn


def scripted(people: People) -> tuple[Person, StandIn]:
    alice = people.person()
    server = StandIn(alice.page)
    server.lets_in = False
    return alice.comes(), server


def refuse(connection: Connection, error: str = "unauthorized", detail: str = "say the word") -> None:
    connection.says("error", error=error, detail=detail)


def test_a_join_that_is_unauthorized_asks_for_the_token(people: People) -> None:
    alice, server = scripted(people)
    alice.joins("alice", "private")
    refuse(server.join(1))
    expect(alice.page.get_by_label("Access token")).to_be_focused()
    expect(alice.page.locator("#token-problem")).to_have_text("This server needs a token.")
    expect(alice.page.get_by_label("Topic", exact=True)).to_have_value("private")
    alice.joins("alice", "private", token="guess")
    refuse(server.join(2))
    expect(alice.page.locator("#token-problem")).to_have_text("Wrong token. Check it and try again.")
    alice.joins("alice", "private", token="secret")
    server.join(3).answers_join()
    alice.is_in("private")
    tokens = [one.frames[0].get("token") for one in server.joins]  # type: ignore[union-attr]
    assert tokens == [None, "guess", "secret"]


@pytest.mark.parametrize("error", ["invalid_join", "invalid_topic", "invalid_username"])
def test_another_error_does_not_ask_for_it_whatever_its_words(people: People, error: str) -> None:
    alice, server = scripted(people)
    alice.joins("alice", "token")
    refuse(server.join(1), error, "what you call a token is none")
    expect(alice.page.get_by_text("what you call a token is none")).to_be_visible()
    expect(alice.page.get_by_label("Access token")).to_be_hidden()


@pytest.mark.parametrize(("error", "asks"), [("unauthorized", True), ("not_joined", False)])
def test_a_list_that_needs_a_join_says_so_and_is_not_asked_again(people: People, error: str, asks: bool) -> None:
    alice = people.person()
    server = StandIn(alice.page)
    server.lists = False
    alice.page.clock.install()
    alice.comes()
    server.wait(lambda: any("/list" in one.frames for one in server.all))
    refuse(server.last, error)
    expect(alice.page.locator("#active-word")).to_have_text("Join a topic to see this list.")
    expect(alice.page.get_by_label("Access token")).to_be_visible(visible=asks)
    asked = server.last
    alice.page.clock.run_for(60_000)
    assert server.last is asked


def test_the_token_comes_back_with_a_reload_of_this_tab_and_is_nowhere_else(people: People) -> None:
    alice, server = scripted(people)
    alice.joins("alice", "private")
    refuse(server.join(1))
    alice.joins("alice", "private", token="secret")
    server.join(2).answers_join()
    alice.is_in("private")
    assert "secret" not in alice.page.evaluate("JSON.stringify([{...localStorage}, document.cookie])")
    alice.page.reload()
    assert server.join(3).frames[0]["token"] == "secret"  # type: ignore[index]
    server.join(3).answers_join()
    alice.is_in("private")
    alice.joins("alice", "private too")  # its field has it as well
    assert server.join(4).frames[0]["token"] == "secret"  # type: ignore[index]
    server.join(4).answers_join()
    for _ in range(2):
        alice.room.get_by_role("button", name="Leave").click()
    expect(alice.page.get_by_role("navigation", name="Your topics")).to_be_hidden()
    assert "secret" not in alice.page.evaluate("JSON.stringify({...sessionStorage})")


def test_a_room_whose_token_has_changed_asks_for_it_and_goes_on(people: People) -> None:
    alice, server = scripted(people)
    server.lets_in = True
    alice.enters("alice", "private")
    alice.field.fill("unfinished")
    server.lets_in = False
    alice.page.reload()
    refuse(server.join(2))
    expect(alice.page.get_by_label("Access token")).to_be_focused()
    expect(alice.page.get_by_label("Topic", exact=True)).to_have_value("private")
    alice.page.keyboard.type("new")
    alice.page.keyboard.press("Enter")
    assert server.join(3).frames[0]["token"] == "new"  # type: ignore[index]
    server.join(3).answers_join()
    expect(alice.room.locator(".count")).to_have_text("1 here")
    expect(alice.field).to_have_value("unfinished")
    expect(alice.status).to_have_text("")
