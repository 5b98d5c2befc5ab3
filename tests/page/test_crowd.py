"""The page in a room of thousands: no turn's work grows with the room, or with what comes at once."""

import re
from typing import Any

from playwright.sync_api import Locator, expect

from tests.support.page.browser import People, Person
from tests.support.page.stand_in import StandIn

LISTED = 1000  # names in the list
SHOWN = 500  # messages
PORTION = 100  # messages that are drawn at once, in PERIOD milliseconds
PERIOD = 100

COUNT = """(list) => {
    window.changed = { added: 0, removed: 0 };
    const count = (records) => {
        for (const { addedNodes, removedNodes } of records) {
            changed.added += addedNodes.length;
            changed.removed += removedNodes.length;
        }
    };
    window.observer?.disconnect();
    window.observer = new MutationObserver(count);
    observer.observe(list, { childList: true });
}"""

TOGGLE = """(people) => new Promise((done) => {
    people.addEventListener("toggle", done, { once: true });
    people.firstElementChild.click();
})"""


class Crowd:
    """Alice in a room with ``count`` others, in a browser whose clocks stand still."""

    def __init__(self, people: People, count: int) -> None:
        self.alice: Person = people.person()
        self.server = StandIn(self.alice.page)
        self.server.lets_in = False
        self.alice.page.clock.install()
        self.alice.comes().joins("alice", "sports")
        self.list = self.alice.room.locator(".everyone")
        self.listed = self.list.locator("li")
        self.messages = self.alice.room.locator(".messages")
        self.names = [f"m{number}" for number in range(count)]
        self.server.join(1).answers_join(users=count + 1, members=["alice", *self.names])
        self.alice.is_in("sports")
        self.alice.page.clock.pause_at(self.alice.page.evaluate("Date.now()") / 1000 + 1)

    def opens_the_list(self) -> None:
        self.alice.room.locator(".people").evaluate(TOGGLE)

    closes_the_list = opens_the_list

    def tells(self, **presence: Any) -> None:
        self.server.join(1).says("presence", **presence)

    def floods(self, first: int, last: int, **rest: Any) -> None:
        """Messages with these ids come, and the page has taken them."""
        self.alice.says(f"before {first}")
        mine = self.alice.message(f"before {first}")
        expect(mine).to_have_attribute("data-state", "sending")
        for number in range(first, last):
            message = {"id": number, "username": "bob", "message": str(number), "timestamp": 1, **rest}
            self.server.join(1).says("message", **message)
        self.server.join(1).says("ack", status="delivered", id=last, timestamp=1, recipients=1)
        expect(mine).to_have_attribute("data-state", "delivered")

    def changes(self, target: Locator, milliseconds: int = 100) -> dict[str, int]:
        """How many elements come and go in ``target`` when so much time goes by."""
        target.evaluate(COUNT)
        self.alice.page.clock.run_for(milliseconds)
        changed: dict[str, int] = self.alice.page.evaluate("changed")
        return changed

    @property
    def last_listed(self) -> list[str]:
        return self.listed.all_inner_texts()[-2:]


def test_who_comes_and_goes_touches_no_other_name_in_the_list(people: People) -> None:
    crowd = Crowd(people, 600)
    crowd.opens_the_list()
    crowd.list.evaluate("list => { for (const item of list.children) item.isOld = true; }")
    crowd.tells(joined=["new 1", "new 2"], left=["m0", "m300"], users=601)
    crowd.tells(joined=["m0"], left=["m599"], users=601)  # comes again, as the last one
    crowd.floods(1, 1)
    assert crowd.changes(crowd.list) == {"added": 3, "removed": 0}  # those that left are gone already
    assert crowd.listed.all_inner_texts() == [*crowd.names[1:300], *crowd.names[301:599], "new 1", "new 2", "m0"]
    assert crowd.list.evaluate("list => [...list.children].filter((item) => !item.isOld).length") == 3
    assert crowd.changes(crowd.list) == {"added": 0, "removed": 0}


def test_many_frames_of_presence_at_once_are_drawn_once(people: People) -> None:
    crowd = Crowd(people, 0)
    crowd.opens_the_list()
    for number in range(300):
        crowd.tells(joined=[f"m{number}"], users=number + 2)
        if number % 2:
            crowd.tells(left=[f"m{number}"], users=number + 1)
    crowd.floods(1, 1)
    assert crowd.changes(crowd.list) == {"added": 150, "removed": 0}
    assert crowd.listed.all_inner_texts() == [f"m{number}" for number in range(0, 300, 2)]


def test_a_list_that_is_closed_has_no_elements(people: People) -> None:
    crowd = Crowd(people, 50)
    crowd.opens_the_list()
    expect(crowd.listed).to_have_count(50)
    crowd.closes_the_list()
    expect(crowd.listed).to_have_count(0)
    crowd.tells(joined=["new"], users=52)
    crowd.floods(1, 1)
    assert crowd.changes(crowd.list) == {"added": 0, "removed": 0}


def test_the_list_is_bounded_and_says_how_many_more_are_here(people: People) -> None:
    crowd = Crowd(people, 5000)
    crowd.opens_the_list()
    expect(crowd.listed).to_have_count(LISTED + 1)
    assert crowd.last_listed == ["m999", "and 4000 more"]
    crowd.tells(left=crowd.names[:1500], users=3501)
    crowd.floods(1, 1)
    assert crowd.changes(crowd.list) == {"added": LISTED, "removed": 0}
    assert crowd.last_listed == ["m2499", "and 2500 more"]
    names = ", ".join(crowd.names[1500:1520])
    expect(crowd.alice.room.locator(".people summary")).to_have_text(f"3501 here alice (you), {names}")
    crowd.tells(joined=[f"new {number}" for number in range(1500)], users=5001)
    crowd.floods(2, 2)
    assert crowd.changes(crowd.list) == {"added": 0, "removed": 0}
    assert crowd.last_listed == ["m2499", "and 4000 more"]
    crowd.tells(left=crowd.names[1500:], users=1501)
    crowd.floods(3, 3)
    crowd.alice.page.clock.run_for(100)
    assert crowd.last_listed == ["new 999", "and 500 more"]
    crowd.tells(left=["new 999", *(f"new {number}" for number in range(1000, 1500))], users=1000)
    crowd.floods(4, 4)
    crowd.alice.page.clock.run_for(100)
    assert crowd.last_listed == ["new 997", "new 998"]


def test_a_flood_of_messages_is_drawn_in_portions(people: People) -> None:
    crowd = Crowd(people, 1)
    own = 1
    crowd.messages.evaluate(COUNT)
    crowd.floods(1, 2001, replayed=True, remaining_ms=20_000)
    assert crowd.alice.page.evaluate("changed.added") == PORTION + own
    expect(crowd.alice.room.get_by_text("Older messages are not shown.")).to_be_visible()
    for _ in range(SHOWN // PORTION):
        assert crowd.changes(crowd.messages, PERIOD)["added"] == PORTION
    assert crowd.changes(crowd.messages, PERIOD) == {"added": 0, "removed": 0}
    shown = crowd.alice.room.locator(".message .text").all_inner_texts()
    assert shown == [*map(str, range(2002 - SHOWN, 2001)), "before 1"]
    crowd.floods(2002, 2003)  # the flood is over: it is shown at once
    expect(crowd.alice.message("2002")).to_have_count(1)


def test_the_notice_of_older_messages_goes_in_a_later_epoch_too(people: People) -> None:
    crowd = Crowd(people, 1)
    notice = crowd.alice.room.get_by_text("Older messages are not shown.")
    crowd.floods(1, 2001)
    expect(notice).to_be_visible()
    crowd.server.join(1).closes(1011)
    expect(crowd.alice.status).to_have_text(re.compile("^Connection lost"))
    crowd.alice.page.clock.run_for(500)
    gap = {"from": 2002, "to": None, "reason": "restarted"}
    crowd.server.join(2).answers_join(epoch="e2", resume="t2", gap=gap)
    expect(notice).to_be_hidden()
    for number in range(1, 1001):
        message = {"id": number, "username": "bob", "message": f"new {number}", "timestamp": 1}
        crowd.server.join(2).says("message", **message)
    expect(notice).to_be_visible()
    crowd.server.join(2).says("expired", through=999)
    expect(notice).to_be_hidden()


def test_what_expires_in_a_flood_is_never_drawn(people: People) -> None:
    crowd = Crowd(people, 1)
    crowd.floods(1, 301)
    crowd.server.join(1).says("expired", through=250)
    crowd.floods(302, 302)
    crowd.alice.page.clock.run_for(1_000)
    crowd.alice.sees(*map(str, range(251, 301)), "before 1", "before 302")
