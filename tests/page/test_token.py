"""The page and the server's token: it is asked for by the error's code, and it comes back with a reload."""

from typing import Optional

import pytest
from playwright.sync_api import Locator, expect

from tests.support.page.browser import People, Person
from tests.support.page.stand_in import Connection, StandIn


def scripted(people: People) -> tuple[Person, StandIn]:
    alice = people.person()
    server = StandIn(alice.page)
    server.lets_in = False
    return alice.comes(), server


def refuse(connection: Connection, error: str = "unauthorized", detail: str = "say the word") -> None:
    connection.says("error", error=error, detail=detail)


def tokens_of(server: StandIn) -> list[Optional[str]]:
    """The token of each join so far; None if it had none."""
    return [one.frames[0].get("token") for one in server.joins]  # type: ignore[union-attr]


def enters_with(alice: Person, server: StandIn, token: str, *topics: str) -> None:
    """She enters these topics of a server that has a token."""
    for number, topic in enumerate(topics, start=1):
        alice.joins("alice", topic)
        if number == 1:
            refuse(server.join(1))
            alice.joins("alice", topic, token=token)
        server.join(number + 1).answers_join()
        alice.is_in(topic)


def yours(alice: Person) -> Locator:
    return alice.page.get_by_role("navigation", name="Your topics").get_by_role("button")


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
    assert tokens_of(server) == [None, "guess", "secret"]


def test_a_token_of_white_space_is_none_and_that_around_one_does_not_count(people: People) -> None:
    alice, server = scripted(people)
    alice.joins("alice", "private")
    refuse(server.join(1))
    alice.joins("alice", "private", token=" \t ")
    refuse(server.join(2))
    expect(alice.page.locator("#token-problem")).to_have_text("This server needs a token.")
    alice.joins("alice", "private", token="  secret ")
    server.join(3).answers_join()
    alice.is_in("private")
    assert tokens_of(server) == [None, None, "secret"]


@pytest.mark.parametrize("error", ["invalid_join", "invalid_topic", "invalid_username"])
def test_another_error_does_not_ask_for_it_whatever_its_words(people: People, error: str) -> None:
    alice, server = scripted(people)
    alice.joins("alice", "token")
    refuse(server.join(1), error, "what you call a token is none")
    expect(alice.page.get_by_text("what you call a token is none")).to_be_visible()
    expect(alice.page.get_by_label("Access token")).to_be_hidden()


def test_a_list_that_needs_a_join_says_so_and_is_not_asked_again(people: People) -> None:
    alice = people.person()
    server = StandIn(alice.page)
    server.lists = False
    alice.page.clock.install()
    alice.comes()
    server.wait(lambda: any("/list" in one.frames for one in server.all))
    refuse(server.last)
    expect(alice.page.locator("#active-word")).to_have_text("Join a topic to see this list.")
    expect(alice.page.get_by_label("Access token")).to_be_visible()
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


def test_a_new_token_is_for_every_room_that_was_refused(people: People) -> None:
    alice, server = scripted(people)
    enters_with(alice, server, "old", "one", "two", "three")
    alice.page.reload()
    server.join(7)
    assert tokens_of(server)[4:] == ["old"] * 3
    for connection in server.joins[4:]:
        refuse(connection)
    expect(alice.page.locator("#token-problem")).to_have_text("Wrong token. Check it and try again.")
    expect(alice.page.get_by_label("Topic", exact=True)).to_have_value("three")  # the one that was shown
    alice.page.get_by_label("Access token").fill("new")
    alice.page.keyboard.press("Enter")
    server.join(10)
    assert tokens_of(server)[7:] == ["new"] * 3
    for connection in server.joins[7:]:
        connection.answers_join()
    alice.is_in("three")
    expect(yours(alice).locator(".users")).to_have_text(["1 here"] * 3)
    alice.page.reload()
    server.join(13)
    assert tokens_of(server)[10:] == ["new"] * 3


def test_a_wrong_token_does_not_take_the_place_of_the_right_one(people: People) -> None:
    alice, server = scripted(people)
    enters_with(alice, server, "secret", "one")
    alice.joins("alice", "two", token="guess")
    server.join(3)
    server.join(2).closes(1011)
    refuse(server.join(4))  # it came back while the guess was not refused yet
    refuse(server.join(3))
    assert server.join(5).frames[0]["topic"] == "one"  # type: ignore[index]
    server.join(5).answers_join()
    expect(alice.page.locator("#token-problem")).to_have_text("Wrong token. Check it and try again.")
    expect(alice.status).to_have_text("")
    assert tokens_of(server) == [None, "secret", "guess", "guess", "secret"]
    alice.page.reload()
    server.join(6)
    assert tokens_of(server)[-1] == "secret"


def test_a_room_that_is_refused_elsewhere_disturbs_nobody(people: People) -> None:
    alice, server = scripted(people)
    server.lets_in = True
    alice.comes().enters("alice", "one").enters("alice", "two")
    alice.field.fill("half a sen")
    server.lets_in = False
    server.join(1).closes(1011)
    refuse(server.join(3))
    expect(yours(alice).locator(".users")).to_have_text(["not connected", "1 here"])
    expect(alice.field).to_be_focused()
    expect(alice.page.get_by_label("Topic", exact=True)).to_have_value("")
    expect(alice.page.get_by_label("Access token")).to_be_visible()


@pytest.mark.parametrize("code", [1008, 4409])
def test_a_token_opens_no_room_that_has_ended_for_another_reason(people: People, code: int) -> None:
    alice, server = scripted(people)
    enters_with(alice, server, "secret", "one", "two")
    server.join(2).closes(code)
    expect(yours(alice).locator(".users")).to_have_text(["not connected", "1 here"])
    alice.joins("alice", "one", token="secret")
    alice.is_in("one")
    expect(alice.room.get_by_role("button", name="Join again")).to_be_visible()
    alice.page.get_by_role("button", name="two").click()
    alice.is_in("two")
    assert len(server.joins) == 3


def test_a_token_that_is_entered_while_the_rooms_come_back_is_theirs(people: People) -> None:
    alice, server = scripted(people)
    enters_with(alice, server, "old", "one")
    alice.page.reload()
    server.join(3)
    alice.joins("alice", "two", token="new")
    refuse(server.join(3))
    server.join(5)
    assert [one.frames[0]["topic"] for one in server.joins[3:]] == ["two", "one"]  # type: ignore[index]
    assert tokens_of(server)[3:] == ["new", "new"]


def test_a_reload_while_a_token_is_tried_keeps_the_one_that_was_right(people: People) -> None:
    alice, server = scripted(people)
    enters_with(alice, server, "secret", "one")
    alice.joins("alice", "two", token="guess")
    server.join(3)
    alice.page.reload()
    server.join(4)
    assert tokens_of(server) == [None, "secret", "guess", "secret"]
