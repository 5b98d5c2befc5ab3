"""Users of the page: Chromium of the system, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from tests.support.server import PATIENCE

UNWANTED = (
    # Pages of the browser's own, which it draws for each window: a third of its work.
    "WebUIOmniboxPopup",
    "WebUIOmniboxAimPopup",
    # What Playwright switches off, whose flag is hidden by another of that name.
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsUpgrades",
    "MediaRouter",
    "OptimizationHints",
    "PaintHolding",
    "ThirdPartyStoragePartitioning",
)
FLAGS = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--disable-features={','.join(UNWANTED)}",
)
NAMES = "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"
WATCH = (
    "addEventListener('securitypolicyviolation', (event) => report(`${event.violatedDirective} ${event.blockedURI}`))"
)
RUSH = "Math.random = () => 0.05"  # of what a wait before an attempt may be

expect.set_options(timeout=PATIENCE * 1000)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; where there is none the test is skipped, but under CI it fails."""
    path = next((found for found in map(shutil.which, NAMES) if found), None)
    if path is None:
        missing = "there is no Chromium, which these tests drive: apt-get install chromium-headless-shell"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Person:
    """User of one browser context with the page open: does and sees what a person can."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.troubles: list[str] = []  # errors of scripts, and what the policy had to stop
        context.expose_function("report", lambda trouble: self.troubles.append(trouble))
        context.add_init_script(WATCH)
        context.add_init_script(RUSH)
        context.on("weberror", lambda error: self.troubles.append(str(error.error)))
        self.url = url
        self.page = context.new_page()

    def comes(self) -> "Person":
        self.page.goto(self.url)
        return self

    def joins(self, username: str, topic: str, token: str = "") -> None:
        """Fill in the form; whether it works is to be seen."""
        back = self.room.get_by_role("button", name="All topics")
        if back.is_visible():  # on a phone
            back.click()
        self.page.get_by_label("Your name").fill(username)
        self.page.get_by_label("Topic", exact=True).fill(topic)
        if token:
            self.page.get_by_label("Access token").fill(token)
        self.page.get_by_role("button", name="Join", exact=True).click()

    def is_in(self, topic: str) -> None:
        expect(self.page.get_by_role("heading", name=topic, exact=True)).to_be_visible()

    def enters(self, username: str, topic: str) -> "Person":
        self.joins(username, topic)
        self.is_in(topic)
        return self

    def says(self, text: str) -> None:
        self.field.fill(text)
        self.field.press("Enter")

    def sees(self, *texts: str) -> None:
        """Wait until these are the messages of the room shown, in this order."""
        expect(self.room.locator(".message .text")).to_have_text(list(texts))

    @property
    def room(self) -> Locator:
        return self.page.locator(".room:not([hidden])")

    @property
    def field(self) -> Locator:
        return self.room.get_by_role("textbox")

    @property
    def status(self) -> Locator:
        return self.room.get_by_role("status")

    @property
    def notes(self) -> Locator:
        return self.room.locator(".note")

    def message(self, text: str) -> Locator:
        """The message with that text."""
        return self.room.locator(".message").filter(has=self.page.get_by_text(text, exact=True))


class People:
    """Users of one test. At the end no page may have had an error or have violated the policy."""

    def __init__(self, browser: Browser, url: str = "") -> None:
        self._browser = browser
        self._url = url
        self._all: list[Person] = []

    def person(self, url: Optional[str] = None, **options: Any) -> Person:
        """Somebody with a browser; ``options`` are those of Playwright's ``new_context``."""
        context = self._browser.new_context(**options)
        context.set_default_timeout(PATIENCE * 1000)
        self._all.append(Person(context, url or self._url))
        return self._all[-1]

    def come(self, url: Optional[str] = None, **options: Any) -> Person:
        return self.person(url, **options).comes()

    def go(self) -> None:
        for person in self._all:
            person.context.close()

    @property
    def troubles(self) -> list[str]:
        return [trouble for person in self._all for trouble in person.troubles]


def tab_to(page: Page, target: Locator, most: int = 30) -> None:
    """Press Tab until the focus is there."""
    for _ in range(most):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{target} cannot be reached by {most} times Tab")
