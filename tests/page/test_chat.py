"""The page as people use it, in a real browser against a real server."""

import re
from typing import Callable

import pytest
from playwright.sync_api import expect

from tests.support.page.bot import Bot
from tests.support.page.browser import People, tab_to
from tests.support.page.line import Line
from tests.support.server import AHEAD_APP, APP, Server, put_forward

StartServer = Callable[..., Server]
Bots = Callable[..., Bot]


def page_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


# Chat.


def test_two_people_chat_and_a_sender_sees_to_how_many_it_was_delivered(people: People) -> None:
    alice = people.come().enters("alice", "chat")
    alice.says("Is anybody here?")
    expect(alice.message("Is anybody here?").locator(".state")).to_have_text("delivered to no one")
    bob = people.come().enters("bob", "chat")
    bob.sees("Is anybody here?")  # it is still there
    bob.says("I am.")
    alice.sees("Is anybody here?", "I am.")
    expect(alice.message("I am.").locator(".name")).to_have_text("bob")
    expect(bob.message("I am.").locator(".name")).to_have_text("you")
    expect(bob.message("I am.").locator(".state")).to_have_text("delivered to 1")
    expect(bob.field).to_have_value("")
    expect(bob.field).to_be_focused()


def test_a_message_is_sending_until_the_server_has_it(people: People, line: Line, bots: Bots) -> None:
    bots("bob", "slow")
    alice = people.come(line.url).enters("alice", "slow")
    line.stall()
    alice.says("one")
    alice.says("two")
    for text in ("one", "two"):
        expect(alice.message(text)).to_have_attribute("data-state", "sending")
        expect(alice.message(text).locator(".left")).to_have_text("")
    line.flow()
    for text in ("one", "two"):
        expect(alice.message(text).locator(".state")).to_have_text("delivered to 1")
        expect(alice.message(text).locator(".left")).to_have_text(re.compile("^(30|29)$"))


def test_a_taken_name_gets_a_number_and_everybody_sees_who_is_here(people: People) -> None:
    alice = people.come().enters("alice", "names")
    expect(alice.room.locator(".people summary")).to_have_text(re.compile(r"^1 here alice \(you\), no one else yet$"))
    again = people.come().enters("alice", "names")
    expect(again.room.locator(".people summary")).to_have_text("2 here alice#2 (you), alice")
    expect(alice.room.locator(".people summary")).to_have_text("2 here alice (you), alice#2")
    alice.room.locator(".people summary").click()
    expect(alice.room.locator(".everyone li")).to_have_text(["alice#2"])
    again.room.get_by_role("button", name="Leave").click()
    expect(alice.room.locator(".people summary")).to_have_text("1 here alice (you), no one else yet")


def test_a_topic_with_too_many_members_to_name_shows_their_number(
    people: People, start: StartServer, bots: Bots
) -> None:
    server = start(*APP, CHAT_PRESENCE_MEMBERS="2")
    alice = people.come(page_of(server)).enters("alice", "crowd")
    bots("bob", "crowd", server.url)
    expect(alice.room.locator(".people summary")).to_have_text("2 here alice (you), bob")
    carol = bots("carol", "crowd", server.url)
    expect(alice.room.locator(".people summary")).to_have_text("3 here alice (you), 2 others")
    dave = people.come(page_of(server)).enters("dave", "crowd")
    expect(dave.room.locator(".people summary")).to_have_text("4 here dave (you), 3 others")
    carol.goes()
    expect(alice.room.locator(".people summary")).to_have_text("3 here alice (you), 2 others")


def test_a_message_may_have_several_lines_and_enter_sends_it(people: People, bots: Bots) -> None:
    bob = bots("bob", "lines")
    alice = people.come().enters("alice", "lines")
    alice.page.keyboard.type("one")
    alice.page.keyboard.press("Shift+Enter")
    alice.page.keyboard.type("two")
    alice.page.keyboard.press("Enter")
    assert bob.hears("message")["message"] == "one\ntwo"
    expect(alice.message("one two").locator(".text")).to_have_js_property("innerText", "one\ntwo")


# Time.


RECORD = """() => {
    window.record = [];
    const look = () => {
        const message = document.querySelector(".alive.seen:not(.gone)");
        if (message) {
            const fuse = message.querySelector(".fuse");
            record.push([
                message.querySelector(".left").textContent,
                Number(getComputedStyle(message.querySelector(".text")).opacity),
                -new DOMMatrix(getComputedStyle(fuse, "::before").transform).e / fuse.clientWidth,
            ]);
        }
        requestAnimationFrame(look);
    };
    look();
}"""


def test_a_message_fades_counts_down_and_goes_when_the_server_deletes_it(people: People, start: StartServer) -> None:
    server = start(*APP, CHAT_MESSAGE_TTL="3")
    alice = people.come(page_of(server)).enters("alice", "time")
    expect(alice.room.get_by_text("Messages here disappear after 3 seconds.")).to_have_css("opacity", "1")
    alice.page.evaluate(RECORD)
    alice.says("short")
    expect(alice.message("short")).to_have_attribute("data-state", "delivered")
    alice.sees()
    expect(alice.room.get_by_text("Messages here disappear after 3 seconds.")).to_have_css("opacity", "1")
    # Of as many frames as a busy machine has drawn.
    left, ink, burnt = zip(*alice.page.evaluate("record"))
    seconds = list(dict.fromkeys(map(int, filter(None, left))))
    assert len(seconds) > 1 and seconds == sorted(seconds, reverse=True) and {*seconds} <= {*range(4)}
    assert list(burnt) == sorted(burnt) and 0 <= burnt[0] < burnt[-1] <= 1
    assert ink == pytest.approx([1 - (1 - 0.66) * share for share in burnt], abs=0.01)


def test_the_servers_word_takes_a_message_away_and_not_the_clock_of_the_page(people: People) -> None:
    alice = people.person()
    alice.page.clock.install()
    alice.comes().enters("alice", "clocks").says("still there")
    left = alice.message("still there").locator(".left")
    expect(left).to_have_text(re.compile("^(30|29)$"))
    alice.page.clock.fast_forward(28_000)
    expect(left).to_have_text(re.compile("^[12]$"))
    alice.page.clock.fast_forward(2_500)
    expect(left).to_have_text("0")
    expect(alice.message("still there")).not_to_have_class(re.compile("gone"))


# Topics.


def test_active_topics_are_listed_live_and_one_click_joins(people: People, bots: Bots) -> None:
    alice = people.person()
    alice.page.clock.install()
    alice.comes()
    listed = alice.page.get_by_role("region", name="Active now").get_by_role("listitem")
    bots("bob", "gardens")
    alice.page.clock.fast_forward(5_000)
    expect(listed.filter(has_text="gardens")).to_have_text("gardens1 here")
    eve = bots("eve", "gardens")
    alice.page.clock.fast_forward(5_000)
    expect(listed.filter(has_text="gardens")).to_have_text("gardens2 here")
    eve.goes()
    alice.page.clock.fast_forward(5_000)
    expect(listed.filter(has_text="gardens")).to_have_text("gardens1 here")
    listed.filter(has_text="gardens").get_by_role("button").click()
    expect(alice.page.locator("#username-problem")).to_have_text("Enter your name first.")
    expect(alice.page.get_by_label("Your name")).to_be_focused()
    alice.page.keyboard.type("alice")
    listed.filter(has_text="gardens").get_by_role("button").click()
    alice.is_in("gardens")
    expect(listed.filter(has_text="gardens")).to_have_count(0)  # it is among one's own now
    bots("bob", "lakes")
    alice.page.clock.fast_forward(5_000)
    expect(listed.filter(has_text="lakes")).to_have_text("lakes1 here")


def test_several_topics_at_once_each_with_what_is_new_in_it(people: People, bots: Bots, start: StartServer) -> None:
    server = start(*AHEAD_APP)
    alice = people.come(page_of(server)).enters("alice", "one")
    alice.enters("alice", "two")
    bob = bots("bob", "one", server.url)
    yours = alice.page.get_by_role("navigation", name="Your topics").get_by_role("button")
    expect(yours).to_have_text(["one2 here", "two1 here"])
    expect(yours.nth(1)).to_have_attribute("aria-current", "true")
    bob.says("news")
    expect(yours).to_have_text(["one1 new", "two1 here"])
    expect(alice.page).to_have_title("(1) two · chat_actors")
    alice.sees()
    put_forward(server, 30)
    expect(yours).to_have_text(["one2 here", "two1 here"])  # unseen, and gone
    bob.says("more")
    expect(yours).to_have_text(["one1 new", "two1 here"])
    yours.nth(0).click()
    alice.sees("more")
    expect(yours).to_have_text(["one2 here", "two1 here"])
    expect(alice.page).to_have_title("one · chat_actors")
    alice.room.get_by_role("button", name="Leave").click()
    alice.is_in("two")
    alice.room.get_by_role("button", name="Leave").click()
    expect(alice.page.get_by_role("heading", name="Say it while it lasts.")).to_be_visible()


@pytest.mark.parametrize(
    ("topic", "again"),
    [
        ("open café", "  open cafe\u0301 "),
        ("my open room", "my \u00a0 open\u3000room"),
        ("open 😀🏴", "open 😀\ufe0f🏴\ufe0f"),
        ("open ☎#", "open ☎\ufe0e#"),
    ],
    ids=["normalization", "spaces", "emoji", "text"],
)
def test_a_topic_that_is_open_already_is_not_joined_twice(people: People, bots: Bots, topic: str, again: str) -> None:
    bob = bots("bob", topic, events=True)
    alice = people.come().enters("alice", topic).enters("alice", "other")
    alice.joins("alice", again)
    alice.is_in(topic)
    expect(alice.room.locator(".count")).to_have_text("2 here")
    alice.says("done")
    bob.hears("message")
    assert [frame for frame in bob.frames if frame["type"] == "presence"] == [
        {"type": "presence", "joined": ["alice"], "users": 2}
    ]


def test_the_command_list_is_answered_in_the_room(people: People) -> None:
    alice = people.come().enters("alice", "asking")
    alice.says("/list")
    expect(alice.notes).to_contain_text(["- asking (1 user)"])


# What is refused.


def test_a_refused_name_shows_at_the_name(people: People) -> None:
    alice = people.come()
    alice.joins("a" * 33, "refusals")
    expect(alice.page.locator("#username-problem")).to_have_text("username must have 1 to 32 characters, not 33")
    name = alice.page.get_by_label("Your name")
    expect(name).to_be_focused()
    expect(name).to_have_attribute("aria-invalid", "true")
    expect(name).to_have_accessible_description("username must have 1 to 32 characters, not 33")
    expect(alice.page.get_by_label("Topic", exact=True)).to_have_value("refusals")
    alice.joins("alice", "refusals")
    alice.is_in("refusals")
    expect(name).to_have_attribute("aria-invalid", "false")


def test_a_refused_topic_shows_at_the_topic(people: People) -> None:
    alice = people.come()
    alice.joins("alice", "t" * 65)
    expect(alice.page.locator("#topic-problem")).to_have_text("topic must have 1 to 64 characters, not 65")
    expect(alice.page.get_by_label("Topic", exact=True)).to_be_focused()
    alice.joins("alice", " ")
    expect(alice.page.locator("#topic-problem")).to_have_text("Enter a topic, or choose an active one.")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x" * 4097, "message must have at most 4096 characters, not 4097"),
        ("/who", "unknown command: send /list, or a message that does not start with a slash"),
    ],
    ids=["too long", "no such command"],
)
def test_a_refused_message_comes_back_to_its_field(people: People, text: str, problem: str) -> None:
    alice = people.come().enters("alice", "refusals")
    alice.says(text)
    expect(alice.room.locator(".composer .problem")).to_have_text(problem)
    expect(alice.field).to_have_value(text)
    expect(alice.field).to_have_attribute("aria-invalid", "true")
    expect(alice.field).to_have_accessible_description(problem)
    alice.sees()
    alice.says("better")
    alice.sees("better")
    expect(alice.room.locator(".composer .problem")).to_have_text("")


def test_a_server_with_a_token_asks_for_it(people: People, start: StartServer) -> None:
    server = start(*APP, CHAT_TOKEN="secret")
    alice = people.come(page_of(server))
    alice.joins("alice", "private")
    token = alice.page.get_by_label("Access token")
    expect(token).to_be_focused()
    alice.joins("alice", "private", token="guess")
    expect(alice.page.locator("#token-problem")).to_have_text("Wrong token. Check it and try again.")
    alice.joins("alice", "private", token="secret")
    alice.is_in("private")
    alice.page.reload()
    expect(alice.room.locator(".count")).to_have_text("1 here")
    assert "secret" not in alice.page.evaluate("JSON.stringify([{...localStorage}, document.cookie])")


def test_a_hostile_message_is_text_and_stays_in_its_place(people: People, bots: Bots) -> None:
    alice = people.come(reduced_motion="reduce").enters("alice", "hostile")
    mallory = bots("mallory", "hostile")
    mallory.says("before")
    image = "<img src=x onerror=\"document.title='broken in'\"><script>document.title='broken in'</script>"
    piled = "Z" + "\u0301\u0489" * 2000
    turned = "\u202eolleh\u2066"
    tall = "\n" * 2000 + "end"
    wide = "w" * 4096
    for text in (image, piled, turned, tall, wide):
        mallory.says(text)
    mallory.says("after")
    last = alice.message("after")
    expect(last).to_be_in_viewport()
    texts = alice.room.locator(".message .text")
    expect(texts).to_have_count(7)
    assert texts.evaluate_all("all => all.map(text => text.textContent)") == [
        *("before", image, piled, turned, tall, wide, "after")
    ]
    assert texts.evaluate_all("all => all.every(text => text.childElementCount === 0)")
    assert all(height <= 18 * 16 for height in texts.evaluate_all("all => all.map(text => text.offsetHeight)"))
    assert alice.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert alice.room.locator(".log").evaluate("log => log.scrollWidth <= log.clientWidth")
    # The turned text turns nothing but itself, and the piled marks leave no trace on the lines beside them.
    assert last.locator(".name").evaluate("name => name.getBoundingClientRect().left") == alice.message(
        "before"
    ).locator(".name").evaluate("name => name.getBoundingClientRect().left")
    expect(alice.page).to_have_title(re.compile("hostile · chat_actors$"))
    tall_one = texts.nth(4)
    expect(tall_one).to_have_attribute("tabindex", "0")  # it can be scrolled by the keyboard
    assert tall_one.evaluate("text => (text.scrollTop = 50, text.scrollTop)") == 50
    assert texts.nth(5).evaluate("text => text.scrollWidth <= text.clientWidth")  # the wide one is broken


def test_marks_piled_high_do_not_touch_the_message_above(people: People, bots: Bots, start: StartServer) -> None:
    server = start(*APP, CHAT_MESSAGE_TTL="86400")  # so that nothing else changes
    alice = people.come(page_of(server), reduced_motion="reduce").enters("alice", "marks")
    mallory = bots("mallory", "marks", server.url)
    mallory.says("above")
    mallory.says("plain")
    text = alice.message("plain").locator(".text")
    expect(text).to_be_visible()
    before = alice.message("above").screenshot()
    text.evaluate("text => (text.textContent = 'p' + '\\u0301\\u0316\\u0489'.repeat(1300))")
    assert alice.message("above").screenshot() == before


def test_a_flood_is_cut_at_the_newest_and_says_so(people: People, bots: Bots) -> None:
    bob = bots("bob", "flood")
    alice = people.come().enters("alice", "flood")
    for number in range(510):
        bob.says(str(number))
    expect(alice.message("509")).to_be_in_viewport()
    expect(alice.room.locator(".message")).to_have_count(500)
    expect(alice.room.get_by_text("Older messages are not shown.")).to_have_count(1)
    expect(alice.room.locator(".cut")).not_to_have_attribute("hidden", "")


# Keys.


def test_the_keyboard_is_enough(people: People, bots: Bots) -> None:
    bob = bots("bob", "keys")
    alice = people.come()
    page = alice.page
    listed = page.get_by_role("region", name="Active now").get_by_role("button", name="keys")
    expect(listed).to_be_visible()
    expect(page.get_by_label("Your name")).to_be_focused()
    page.keyboard.type("alice")
    tab_to(page, listed)
    page.keyboard.press("Enter")
    alice.is_in("keys")
    expect(alice.field).to_be_focused()
    page.keyboard.type("by hand")
    page.keyboard.press("Enter")
    assert bob.hears("message")["message"] == "by hand"
    tab_to(page, page.get_by_label("Topic", exact=True))
    page.keyboard.type("locks")
    page.keyboard.press("Enter")
    alice.is_in("locks")
    expect(alice.field).to_be_focused()
    page.keyboard.press("Alt+ArrowUp")
    alice.is_in("keys")
    expect(alice.field).to_be_focused()
    page.keyboard.press("Alt+ArrowDown")
    alice.is_in("locks")
    tab_to(page, alice.room.locator(".people summary"))
    page.keyboard.press("Enter")
    expect(alice.room.locator(".people")).to_have_attribute("open", "")
    page.keyboard.press("Escape")
    expect(alice.room.locator(".people")).not_to_have_attribute("open", "")
    expect(alice.room.locator(".people summary")).to_be_focused()
    tab_to(page, alice.room.get_by_role("button", name="Leave"))
    page.keyboard.press("Enter")
    alice.is_in("keys")
    expect(alice.field).to_be_focused()


def test_who_reads_older_messages_is_not_moved_and_one_key_brings_the_newest(people: People, bots: Bots) -> None:
    bob = bots("bob", "long")
    alice = people.come(reduced_motion="reduce").enters("alice", "long")
    for number in range(40):
        bob.says(str(number))
    expect(alice.message("39")).to_be_in_viewport()
    alice.room.get_by_role("log").focus()
    alice.page.keyboard.press("Home")
    expect(alice.room.get_by_role("log")).to_have_js_property("scrollTop", 0)
    expect(alice.message("0")).to_be_in_viewport()
    before = alice.message("1").bounding_box()
    bob.says("newer")
    expect(alice.message("newer")).to_have_count(1)
    assert alice.message("1").bounding_box() == before
    alice.room.get_by_role("button", name="Newest").press("Enter")
    expect(alice.message("newer")).to_be_in_viewport()
    expect(alice.room.get_by_role("button", name="Newest")).to_be_hidden()
