"""The page after lost connections: it resumes, loses and doubles no message, and shows gaps."""

import re
from typing import Any, Callable

import pytest
from playwright.sync_api import Locator, expect

from tests.support.page.bot import Bot
from tests.support.page.browser import People, Person
from tests.support.page.line import Line
from tests.support.page.stand_in import TOKEN, StandIn
from tests.support.server import AHEAD_APP, APP, Server, free_ports, put_forward

StartServer = Callable[..., Server]
Bots = Callable[..., Bot]
Lines = Callable[[Server], Line]


def page_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


# A real server, a real line.


def test_a_server_that_restarts_under_the_page_is_found_again(people: People, start: StartServer) -> None:
    again = (*APP, "--port", str(*free_ports(1)))
    server = start(*again)
    alice = people.come(page_of(server)).enters("alice", "sports")
    bob = people.come(page_of(server)).enters("bob", "sports")
    alice.says("before")
    bob.sees("before")
    server.terminate()
    for one in (alice, bob):
        expect(one.status).to_have_text(re.compile("^Connection lost. Trying again"))
        expect(one.room.locator(".count")).to_have_text("not connected")
    alice.says("between")
    expect(alice.message("between").locator(".state")).to_have_text("waiting for the connection")
    start(*again)
    expect(bob.status).to_have_text("")
    expect(alice.status).to_have_text("")
    expect(alice.message("between")).to_have_attribute("data-state", "delivered")
    expect(alice.notes).to_have_text([re.compile("This topic restarted while you were away")])
    alice.sees("between")
    bob.sees("between")


def test_what_was_said_while_the_network_was_cut_is_there_once(people: People, line: Line, bots: Bots) -> None:
    alice = people.come(line.url).enters("alice", "cut")
    bob = bots("bob", "cut")
    bob.says("one")
    alice.sees("one")
    line.cut()
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    bob.says("two")
    alice.says("three")
    alice.says("four")
    bob.says("five")
    line.mend()
    alice.sees("one", "two", "five", "three", "four")
    expect(alice.status).to_have_text("")
    expect(alice.notes).to_have_count(0)
    assert [bob.hears("message")["message"] for _ in range(2)] == ["three", "four"]
    alice.says("six")
    assert bob.hears("message")["message"] == "six"
    assert bob.heard == ["three", "four", "six"]
    expect(alice.room.locator(".people summary")).to_have_text("2 here alice (you), bob")


def test_a_message_whose_ack_was_lost_is_sent_again_and_not_doubled(people: People, line: Line, bots: Bots) -> None:
    bob = bots("bob", "acks")
    alice = people.come(line.url).enters("alice", "acks")
    bob.says("first")
    alice.sees("first")
    line.lose_answer()
    alice.says("once")
    assert bob.hears("message")["message"] == "once"
    bob.says("last")
    expect(alice.message("once")).to_have_attribute("data-state", "delivered")
    alice.sees("first", "once", "last")  # where its id belongs
    assert bob.heard == ["once"]


def test_messages_that_are_lost_are_counted_at_the_gap(
    people: People, start: StartServer, line_to: Lines, bots: Bots
) -> None:
    server = start(*APP, CHAT_HISTORY_MESSAGES="2")
    line = line_to(server)
    alice = people.come(line.url).enters("alice", "gaps")
    bob = bots("bob", "gaps", server.url)
    bob.says("0")
    alice.sees("0")
    line.cut()
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    for number in range(1, 6):
        bob.says(str(number))
    line.mend()
    expect(alice.notes).to_have_text(["3 messages lost while you were away: this topic was too busy."])
    alice.sees("0", "4", "5")
    rows = alice.room.locator(".messages > li").evaluate_all("all => all.map(row => row.classList[0])")
    assert rows == ["message", "note", "message", "message"]


def test_messages_that_lived_and_died_meanwhile_are_counted(
    people: People, start: StartServer, line_to: Lines, bots: Bots
) -> None:
    server = start(*AHEAD_APP)
    line = line_to(server)
    alice = people.person(line.url)
    alice.page.clock.install()
    alice.comes().enters("alice", "gaps")
    bob = bots("bob", "gaps", server.url, events=True)
    line.cut()
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    bob.says("unheard")
    put_forward(server, 30)
    bob.hears("expired")
    line.mend()
    expect(alice.notes).to_have_text(["1 message expired while you were away."])
    alice.page.clock.fast_forward(31_000)
    expect(alice.notes).to_have_count(0)  # nor does the note last


def test_without_the_server_a_message_goes_by_the_clock(people: People, line: Line, bots: Bots) -> None:
    bob = bots("bob", "fallback")
    alice = people.person(line.url)
    alice.page.clock.install()
    alice.comes().enters("alice", "fallback")
    bob.says("forgotten")
    alice.sees("forgotten")
    line.cut()
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    alice.page.clock.fast_forward(33_000)
    alice.sees()


def test_a_connection_that_says_nothing_is_given_up_in_time(people: People, line: Line, bots: Bots) -> None:
    bob = bots("bob", "silence")
    alice = people.person(line.url)
    alice.page.clock.install()
    alice.comes().enters("alice", "silence")
    line.stall()
    for _ in range(10):  # 20 seconds, in which it asks and hears nothing
        alice.page.clock.run_for(2_000)
    bob.says("missed?")
    alice.page.clock.run_for(5_000)
    alice.sees("missed?")
    line.flow()


# A server made up for the test.

ALICE = {"username": "alice", "topic": "sports", "epoch": "e1", "resume": TOKEN, "events": True}  # as she comes back


def with_stand_in(people: People, **options: Any) -> tuple[Person, StandIn]:
    alice = people.person(**options)
    return alice, StandIn(alice.page)


def in_room(people: People, wait: float = 1.0) -> tuple[Person, StandIn]:
    """Alice in ``sports``; her clock stands still, and her every wait is that part of what it may be."""
    alice, server = with_stand_in(people)
    alice.page.add_init_script(f"Math.random = () => {wait}")
    alice.page.clock.install()
    alice.comes().enters("alice", "sports")
    alice.page.clock.pause_at(alice.page.evaluate("Date.now()") + 1000)
    return alice, server


def drop(alice: Person, server: StandIn) -> None:
    """Her first connection ends, and she comes back."""
    server.join(1).closes(1011)
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    alice.page.clock.run_for(500)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1008, "The server closed the connection: it refused too many messages in a row."),
        (1009, "The server closed the connection: your message was too big. Make it shorter."),
        (4409, "This topic is open in another window now."),
    ],
)
def test_after_a_final_code_it_comes_back_only_when_told_to(people: People, code: int, words: str) -> None:
    alice, server = in_room(people)
    alice.says("unanswered")
    server.join(1).closes(code)
    expect(alice.status).to_have_text(words)
    expect(alice.field).to_have_value("unanswered")  # given back
    alice.sees()
    alice.page.clock.run_for(60_000)
    assert len(server.joins) == 1
    alice.room.get_by_role("button", name="Join again").click()
    assert server.join(2).frames[0] == {**ALICE, "since": 0}
    expect(alice.status).to_have_text("")
    expect(alice.room.get_by_role("button", name="Join again")).to_be_hidden()


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 4408])
def test_after_any_other_code_it_comes_back_by_itself(people: People, code: int) -> None:
    alice, server = in_room(people)
    server.join(1).says("message", id=7, username="bob", message="hello", timestamp=1)
    alice.sees("hello")
    server.join(1).closes(code)
    expect(alice.status).to_have_text("Connection lost. Trying again…")
    alice.page.clock.run_for(500)
    assert server.join(2).frames[0] == {**ALICE, "since": 7}
    expect(alice.status).to_have_text("")


def test_the_waits_double_up_to_five_seconds_and_each_is_a_random_part(people: People) -> None:
    alice, server = in_room(people, wait=0.5)
    server.lets_in = False
    for number, limit in enumerate((500, 1000, 2000, 4000, 5000, 5000), start=1):
        server.join(number).closes(1011)
        expect(alice.status).to_have_text(re.compile("^Connection lost"))
        alice.page.clock.run_for(limit // 2 - 50)
        assert len(server.joins) == number
        alice.page.clock.run_for(100)
        server.join(number + 1)


def test_the_server_says_when_to_come_back(people: People) -> None:
    alice, server = in_room(people)
    server.join(1).says("closing", retry_after_ms=8_000)
    server.join(1).closes(1012)
    expect(alice.status).to_have_text("Connection lost. Trying again in 8 s.")
    alice.page.evaluate("dispatchEvent(new Event('online'))")  # which is no reason to come sooner
    alice.page.clock.run_for(7_900)
    assert len(server.joins) == 1
    alice.page.clock.run_for(200)
    server.join(2)
    expect(alice.status).to_have_text("")


def test_when_the_network_is_back_it_does_not_wait(people: People) -> None:
    alice, server = in_room(people)
    server.join(1).closes(1011)
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    alice.page.evaluate("dispatchEvent(new Event('online'))")
    server.join(2)
    expect(alice.status).to_have_text("")


def test_a_full_server_is_named_and_tried_again(people: People) -> None:
    alice, server = in_room(people)
    server.lets_in = False
    drop(alice, server)
    server.join(2).says("error", error="server_full", detail="server full: try again later")
    server.join(2).closes(1013)
    expect(alice.status).to_have_text(re.compile(r"^Not connected \(server full: try again later\)\."))
    server.lets_in = True
    alice.page.clock.run_for(1_000)
    server.join(3)
    expect(alice.status).to_have_text("")


def test_a_message_that_may_have_arrived_is_not_sent_again_unasked(people: People) -> None:
    alice, server = in_room(people)
    server.lets_in = False
    alice.says("sent")
    alice.says("not yet")
    drop(alice, server)
    server.join(2).answers_join(resume="t2")  # another member: the server knows none of our references
    sent = alice.message("sent")
    expect(sent.locator(".state")).to_have_text("may not have arrived")
    expect(alice.message("not yet")).to_have_attribute("data-state", "sending")
    (not_yet,) = server.join(2).messages
    assert not_yet["message"] == "not yet"
    sent.get_by_role("button", name="Send again").click()
    server.join(2).says("ack", status="delivered", id=1, ref=not_yet["ref"], timestamp=1, recipients=0)
    expect(alice.message("not yet")).to_have_attribute("data-state", "delivered")
    alice.page.wait_for_function("() => true")
    assert [frame["message"] for frame in server.join(2).messages] == ["not yet", "sent"]
    assert server.join(2).messages[1]["ref"] != server.join(1).messages[0]["ref"]
    alice.sees("not yet", "sent")


def test_a_message_that_may_have_arrived_can_be_discarded(people: People) -> None:
    alice, server = in_room(people)
    server.lets_in = False
    alice.says("sent")
    drop(alice, server)
    server.join(2).answers_join(resume="t2")
    alice.message("sent").get_by_role("button", name="Discard").click()
    alice.sees()
    assert server.join(2).messages == []


def test_a_member_resends_with_the_same_reference_until_that_is_forgotten(people: People) -> None:
    alice, server = in_room(people)
    server.lets_in = False
    alice.says("sent")
    drop(alice, server)
    server.join(2).answers_join()
    alice.page.wait_for_function("() => true")
    assert server.join(2).messages == server.join(1).messages
    server.join(2).says("closing", retry_after_ms=28_000)
    server.join(2).closes(1012)
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    alice.page.clock.run_for(28_000)
    server.join(3).answers_join()
    expect(alice.message("sent").locator(".state")).to_have_text("may not have arrived")
    assert server.join(3).messages == []


def test_anothers_message_of_the_same_name_and_text_is_not_taken_for_ours(people: People) -> None:
    alice, server = in_room(people)
    server.lets_in = False
    alice.says("hi")
    drop(alice, server)
    server.join(2).answers_join(last_id=1)
    now = alice.page.evaluate("Math.floor(Date.now() / 1000)")
    server.join(2).says("message", id=1, username="alice", message="hi", timestamp=now, replayed=True)
    alice.page.wait_for_function("() => true")
    (again,) = server.join(2).messages
    alice.sees("hi")  # it may be ours: the ack will tell
    server.join(2).says("ack", status="delivered", id=2, ref=again["ref"], timestamp=now, recipients=0)
    alice.sees("hi", "hi")


def test_a_late_join_of_our_own_is_not_taken_for_another_window(people: People) -> None:
    alice, server = in_room(people)
    server.lets_in = False
    drop(alice, server)
    server.join(2).closes(1011)  # its join may still be on its way
    for _ in range(200):  # nothing on the page says that it has seen the close
        if len(server.joins) == 3:
            break
        alice.page.clock.run_for(100)
    server.join(3).answers_join()
    expect(alice.status).to_have_text("")
    server.join(3).closes(4409)
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    alice.page.clock.run_for(5_000)
    server.join(4).answers_join()
    server.join(4).closes(4409)
    expect(alice.status).to_have_text("This topic is open in another window now.")


def test_a_message_that_comes_twice_is_shown_once(people: People) -> None:
    alice, server = in_room(people)
    for _ in range(2):
        server.join(1).says("message", id=1, username="bob", message="hello", timestamp=1)
    server.join(1).says("message", id=2, username="bob", message="bye", timestamp=1)
    alice.sees("hello", "bye")


def test_every_silent_connection_is_tested_with_a_request(people: People) -> None:
    alice, server = in_room(people)
    alice.enters("alice", "movies")
    alice.page.clock.run_for(14_000)  # the list itself is asked for over the first one
    assert server.join(2).frames[1:] == ["/list"]


def test_another_name_after_coming_back_is_told(people: People) -> None:
    alice, server = in_room(people)
    server.lets_in = False
    drop(alice, server)
    server.join(2).answers_join(username="alice#2", users=2, members=["alice", "alice#2"], resume="t2")
    expect(alice.notes).to_have_text(["Your name here is now alice#2."])
    alice.page.clock.run_for(100)
    expect(alice.room.locator(".people summary")).to_have_text("2 here alice#2 (you), alice")


def test_a_former_member_of_our_name_is_not_us(people: People) -> None:
    alice, server = with_stand_in(people)
    server.lets_in = False
    alice.comes().joins("alice", "sports")
    server.join(1).answers_join(last_id=1)
    now = alice.page.evaluate("Math.floor(Date.now() / 1000)")
    server.join(1).says("message", id=1, username="alice", message="hello", timestamp=now, replayed=True)
    expect(alice.message("hello").locator(".name")).to_have_text("alice")


def test_the_ack_of_a_message_that_was_sent_twice_is_no_news(people: People) -> None:
    alice, server = in_room(people)
    server.lets_in = False
    alice.says("mine")
    drop(alice, server)
    server.join(2).answers_join(last_id=2)
    now = alice.page.evaluate("Math.floor(Date.now() / 1000)")
    for number, username, text in ((1, "alice", "mine"), (2, "bob", "next")):
        server.join(2).says("message", id=number, username=username, message=text, timestamp=now - 10, replayed=True)
    alice.sees("next", "mine")
    (again,) = server.join(2).messages
    ack = {"status": "delivered", "id": 1, "ref": again["ref"], "timestamp": now - 10, "recipients": 1}
    server.join(2).says("ack", **ack, duplicate=True, remaining_ms=20_000)
    alice.sees("mine", "next")
    expect(alice.message("mine").locator(".left")).to_have_text(re.compile("^(20|19)$"))
    server.join(2).says("closing", retry_after_ms=500)
    server.join(2).closes(1012)
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    alice.page.clock.run_for(500)
    frame = server.join(3).frames[0]
    assert isinstance(frame, dict)
    assert frame["since"] == 2


def summary(alice: Person) -> Locator:
    return alice.room.locator(".people summary")


def told(alice: Person, server: StandIn, kind: str, **frame: Any) -> None:
    """The page has taken a frame."""
    number = alice.room.locator(".message").count() + 1
    server.join(1).says(kind, **frame)
    server.join(1).says("message", id=number, username="bob", message=f"after {number}", timestamp=1)
    expect(alice.message(f"after {number}")).to_have_count(1)


def test_joins_and_leaves_are_shown_at_once_and_announced_together(people: People) -> None:
    alice, server = in_room(people)
    news = alice.room.locator(".news")
    expect(news).to_have_attribute("aria-live", "polite")
    told(alice, server, "presence", joined=["bob", "carol"], users=3)
    told(alice, server, "presence", joined=["dave", "erin", "frank"], left=["bob"], users=5)
    alice.page.clock.run_for(100)
    expect(summary(alice)).to_have_text("5 here alice (you), carol, dave, erin, frank")
    expect(news).to_have_text("")
    alice.page.clock.run_for(1_000)
    expect(news).to_have_text("carol, dave and 2 others joined.")  # bob came and went
    for frame, words in (
        ({"joined": ["gina"], "left": ["dave", "erin", "frank"]}, "gina joined. dave, erin and frank left."),
        ({"left": ["carol", "gina"]}, "carol and gina left."),
        ({"joined": ["bob"]}, "bob joined."),
    ):
        told(alice, server, "presence", **frame, users=2)
        alice.page.clock.run_for(1_100)
        expect(news).to_have_text(words)
    expect(summary(alice)).to_have_text("2 here alice (you), bob")


def test_where_names_are_not_told_any_more_the_number_takes_their_place(people: People) -> None:
    alice, server = in_room(people)
    summary(alice).click()

    def shows(text: str, *names: str) -> None:
        alice.page.clock.run_for(1_100)
        expect(summary(alice)).to_have_text(text)
        expect(alice.room.locator(".everyone li")).to_have_text(list(names))

    told(alice, server, "presence", joined=["bob"], users=2)
    shows("2 here alice (you), bob", "bob")
    expect(alice.room.locator(".news")).to_have_text("bob joined.")
    told(alice, server, "presence", joined=["carol"], users=3)  # too late to be announced
    told(alice, server, "presence", users=1502)
    shows("1502 here alice (you), 1501 others")
    told(alice, server, "renamed", username="alice", renamed="alice#2")
    shows("1502 here alice#2 (you), 1501 others")
    told(alice, server, "presence", joined=["carol"], users=2)  # a name for those who joined later than alice
    shows("2 here alice#2 (you), 1 other")
    told(alice, server, "presence", left=["bob"], users=1)
    shows("1 here alice#2 (you), no one else yet")
    expect(alice.room.locator(".news")).to_have_text("bob joined.")
    server.lets_in = False
    drop(alice, server)
    server.join(2).answers_join(users=3, members=["bob", "carol", "alice"])
    expect(alice.status).to_have_text("")
    shows("3 here alice (you), bob, carol", "bob", "carol")


def test_a_join_that_names_nobody_shows_the_number(people: People) -> None:
    alice, server = in_room(people)
    server.lets_in = False
    drop(alice, server)
    server.join(2).answers_join(users=1502, members=None)
    expect(alice.status).to_have_text("")
    alice.page.clock.run_for(100)
    expect(summary(alice)).to_have_text("1502 here alice (you), 1501 others")


def test_members_drawn_after_the_connection_is_lost_do_not_hide_that(people: People) -> None:
    alice, server = in_room(people)
    told(alice, server, "presence", joined=["bob"], users=2)
    server.join(1).closes(1011)
    expect(alice.status).to_have_text(re.compile("^Connection lost"))
    alice.page.clock.run_for(100)
    expect(summary(alice)).to_have_text("not connected alice (you), bob")


def test_nothing_moves_when_a_message_goes(people: People) -> None:
    alice, server = with_stand_in(people, reduced_motion="reduce")
    alice.comes().enters("alice", "sports")
    for number in (1, 2, 3):
        server.join(1).says("message", id=number, username="bob", message=str(number), timestamp=1)
    alice.sees("1", "2", "3")
    before = alice.message("3").bounding_box()
    server.join(1).says("expired", through=2)
    alice.sees("3")
    assert alice.message("3").bounding_box() == before


def test_a_server_that_is_not_there_is_named(people: People, line: Line) -> None:
    alice = people.person(line.url)
    alice.page.clock.install()
    alice.comes()
    line.cut()
    alice.page.clock.fast_forward(5_000)  # to where it asks again
    expect(alice.page.locator("#active-word")).to_have_text("The server cannot be reached. Trying again…")
    alice.joins("alice", "sports")
    expect(alice.page.locator("#form-problem")).to_have_text("The server cannot be reached. Try again in a moment.")
    expect(alice.page.get_by_role("button", name="Join", exact=True)).to_have_text("Join")
