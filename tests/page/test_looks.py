"""The looks of the page: for eyes and assistive technology, light and dark, on a phone and on a desktop."""

import struct
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.page.browser import People
from tests.support.page.stand_in import StandIn
from tests.tools import picture

LIGHT: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}
DARK: dict[str, Any] = {**LIGHT, "color_scheme": "dark"}
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 640}, "is_mobile": True, "has_touch": True}
SCREENS = {"light": LIGHT, "dark": DARK, "phone": PHONE}
every_screen = pytest.mark.parametrize("options", SCREENS.values(), ids=SCREENS)


def violations(page: Page) -> str:
    """What axe-core finds, its best practices among it."""
    found = Axe().run(page)
    return str(found.generate_report()) if found.violations_count else ""


def at_rest(page: Page) -> None:
    page.wait_for_function(picture.SETTLED)


@every_screen
def test_axe_finds_nothing_in_the_lobby(people: People, options: dict[str, Any]) -> None:
    alice = people.come(**options)
    assert violations(alice.page) == ""
    alice.joins("a" * 33, "x")
    expect(alice.page.locator("#username-problem")).not_to_be_empty()
    assert violations(alice.page) == ""


@every_screen
def test_axe_finds_nothing_in_a_lively_room_and_it_can_be_pictured(chromium: Browser, options: dict[str, Any]) -> None:
    with picture.lively_room(chromium, **options) as alice:
        assert violations(alice.page) == ""
        content = alice.page.screenshot(scale="css")
        paper = alice.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert size(content) == tuple(options["viewport"].values())
        assert paper == ("rgb(22, 20, 18)" if options.get("color_scheme") == "dark" else "rgb(250, 248, 244)")
        alice.room.locator(".people summary").click()
        alice.says("/who")
        expect(alice.room.locator(".composer .problem")).not_to_be_empty()
        assert violations(alice.page) == ""


@every_screen
def test_axe_finds_nothing_in_a_room_in_trouble(people: People, options: dict[str, Any]) -> None:
    alice = people.person(**options)
    server = StandIn(alice.page)
    alice.comes().enters("alice", "sports")
    server.lets_in = False
    alice.says("may not have arrived")
    alice.says("\n".join("many lines" for _ in range(40)))
    server.join(1).closes(1011)
    server.join(2).answers_join(resume="t2", gap={"from": 1, "to": 3, "reason": "evicted"})
    expect(alice.message("may not have arrived").get_by_role("button")).to_have_count(2)
    server.join(2).closes(1011)
    expect(alice.status).not_to_be_empty()
    at_rest(alice.page)
    assert violations(alice.page) == ""
    server.join(3).closes(1008)
    expect(alice.room.get_by_role("button", name="Join again")).to_be_visible()
    assert violations(alice.page) == ""


def test_text_at_its_palest_can_still_be_read(people: People) -> None:
    for scheme in ("light", "dark"):
        alice = people.person(color_scheme=scheme)
        server = StandIn(alice.page)
        server.lets_in = False
        alice.comes().joins("alice", "sports")
        server.join(1).answers_join(last_id=1)
        then = alice.page.evaluate("Math.floor(Date.now() / 1000)") - 31
        server.join(1).says("message", id=1, username="bob", message="going", timestamp=then, replayed=True)
        expect(alice.message("going").locator(".left")).to_have_text("0")
        at_rest(alice.page)
        assert alice.message("going").locator(".text").evaluate("text => getComputedStyle(text).opacity") < "0.7"
        assert violations(alice.page) == ""


@pytest.mark.parametrize("width", [320, 360, 412, 768, 1024, 1280, 1920])
def test_nothing_is_wider_than_the_screen(people: People, width: int) -> None:
    alice = people.come(viewport={"width": width, "height": 640})
    fits = "() => document.documentElement.scrollWidth <= innerWidth && document.body.scrollWidth <= innerWidth"
    assert alice.page.evaluate(fits)
    alice.enters("w" * 32, "t" * 64)
    alice.says("w" * 4096)
    expect(alice.room.locator(".alive")).to_have_count(1)
    assert alice.page.evaluate(fits)
    expect(alice.field).to_be_in_viewport(ratio=1)
    expect(alice.room.get_by_role("button", name="Leave")).to_be_in_viewport(ratio=1)


def test_with_the_keyboard_of_a_phone_there_is_room_to_read_and_to_write(people: People) -> None:
    alice = people.come(**PHONE).enters("alice", "phones")
    for number in range(8):
        alice.says(f"line {number}")
    expect(alice.room.locator(".alive")).to_have_count(8)
    alice.page.set_viewport_size({"width": 360, "height": 300})
    expect(alice.field).to_be_in_viewport(ratio=1)
    expect(alice.message("line 7")).to_be_in_viewport(ratio=1)  # the newest stays in sight
    alice.page.set_viewport_size({"width": 360, "height": 640})
    expect(alice.message("line 7")).to_be_in_viewport(ratio=1)


def test_on_a_phone_topics_and_room_take_turns(people: People) -> None:
    alice = people.come(**PHONE).enters("alice", "turns")
    hero = alice.page.get_by_role("heading", name="Say it while it lasts.")
    expect(hero).to_be_hidden()
    expect(alice.page.get_by_label("Your name")).to_be_hidden()
    expect(alice.room.get_by_role("heading")).to_be_focused()  # the field would bring up the keyboard
    alice.room.get_by_role("button", name="All topics").tap()
    expect(hero).to_be_visible()
    expect(alice.room).to_have_count(0)
    alice.enters("alice", "turns too")
    bob = people.come().enters("bob", "turns")
    bob.says("news")
    expect(alice.room.get_by_role("button", name="All topics, 1 new")).to_contain_text("1 new")
    alice.room.get_by_role("button", name="All topics").tap()
    alice.page.get_by_role("navigation").get_by_role("button", name="turns 1 new").tap()
    alice.sees("news")


def test_who_wants_less_motion_gets_steps_and_no_more(people: People) -> None:
    calm = people.come(reduced_motion="reduce").enters("alice", "motion")
    lively = people.come().enters("bob", "motion")
    bob = lively.says
    bob("hello")
    style = """message => {
        const of = (element, pseudo) => getComputedStyle(element, pseudo);
        const fuse = of(message.querySelector(".fuse"), "::before");
        return [of(message).animationName, fuse.animationName, fuse.animationTimingFunction];
    }"""
    for one, expected in ((calm, ["none", "burn", "steps(6)"]), (lively, ["arrive", "burn", "linear"])):
        expect(one.room.locator(".message.seen.alive")).to_have_count(1)
        assert one.message("hello").evaluate(style) == expected


def test_the_policy_stops_what_is_not_the_pages_own(people: People) -> None:
    alice = people.come()
    alice.page.evaluate(
        "document.body.append(Object.assign(document.createElement('img'), {src: 'https://x.invalid/'}))"
    )
    alice.page.evaluate("document.body.setAttribute('style', 'color: red')")
    alice.page.evaluate(
        "document.body.append(Object.assign(document.createElement('iframe'), {src: 'https://x.invalid/'}))"
    )
    refused = alice.page.evaluate(
        "(() => { try { document.body.innerHTML = '<p>' } catch (error) { return error.name } })()"
    )
    assert refused == "TypeError"
    alice.page.wait_for_function("() => true")
    directives = {trouble.split()[0] for trouble in alice.troubles}
    assert directives == {"img-src", "style-src-attr", "frame-src", "require-trusted-types-for"}
    alice.troubles.clear()


def test_the_readmes_picture_is_there_and_small() -> None:
    content = picture.PICTURE.read_bytes()
    assert size(content) == (1120, 680)
    assert len(content) < 300_000


def size(png: bytes) -> tuple[int, int]:
    """Width and height, in pixels."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height
