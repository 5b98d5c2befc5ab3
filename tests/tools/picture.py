"""A lively room to look at: ``python -m tests.tools.picture`` takes the README's picture of it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, expect

from tests.support.page.bot import Bot
from tests.support.page.browser import People, Person, chromium
from tests.support.server import APP, ROOT, Server

PICTURE = ROOT / "chat_actors" / "docs" / "page.png"
SETTLED = (
    "() => document.getAnimations().every((one) => one.animationName !== 'arrive' || one.playState === 'finished')"
)
SCRIPT = [  # who, what, and how many milliseconds before the next
    ("mira", "Did anyone see the fox by the canal this morning?", 3900),
    ("Jonas", "Yes! It sat on the lock gate as if it owned the place.", 4700),
    ("alice", "I have a photo, but it is mostly fog.", 3100),
    ("mira", "Fog is fine. Fog with ears is better.", 3600),
    ("حسين", "صباح الخير جميعا", 3200),
    (
        "Jonas",
        "Somebody bring bread next time.\nNot for the fox, for us: the bakery on the corner opens at eight, "
        "and the fox does not.",
        4200,
    ),
    ("alice", "Saturday, seven o'clock?", 2300),
    ("mira", "Saturday it is.", 900),
]


@contextmanager
def lively_room(browser: Browser, **options: Any) -> Iterator[Person]:
    """Alice before a room where people talk, in no time: her clock is moved on as if they had taken theirs."""
    server = Server(*APP)
    people = People(browser, f"http://127.0.0.1:{server.port}/")
    bots: dict[str, Bot] = {}
    try:
        for name in ("mira", "Jonas", "حسين", "Ottoline"):
            bots[name] = Bot(server.url, name, "foxes")
        for number, topic in enumerate(("allotments", "allotments", "film club", "night shift", "night shift")):
            bots[str(number)] = Bot(server.url, f"member {number}", topic)
        alice = people.person(**options)
        alice.page.clock.install()
        alice.comes().enters("alice", "foxes")
        for number, (name, text, pause) in enumerate(SCRIPT, start=1):
            if name == "alice":
                alice.says(text)
            else:
                bots[name].says(text)
            expect(alice.room.locator(".alive")).to_have_count(number)
            alice.page.clock.fast_forward(pause)
        # A fake clock moves no animations; but those of a room that is shown again begin where they should be.
        alice.enters("alice", "allotments")
        alice.page.keyboard.press("Alt+ArrowUp")
        alice.is_in("foxes")
        expect(alice.room.locator(".seen.alive").last).to_be_visible()
        alice.page.wait_for_function(SETTLED)
        yield alice
        assert people.troubles == []
    finally:
        people.go()
        for bot in bots.values():
            bot.goes()
        server.kill()


def main() -> None:
    """Take the picture."""
    with chromium() as browser, lively_room(browser, viewport={"width": 1120, "height": 680}) as alice:
        alice.page.screenshot(path=PICTURE)
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
