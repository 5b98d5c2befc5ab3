"""Servers for the tests on real sockets."""

import signal
from collections.abc import Iterator
from typing import Any, Callable

import hypothesis
import pytest
from playwright.sync_api import Browser

from tests.support.left_behind import made_once, nothing_left_behind, orphans_are_ours, own_temporary_folder
from tests.support.page import browser
from tests.support.page.bot import Bot
from tests.support.page.browser import People
from tests.support.page.line import Line
from tests.support.server import APP, Pair, Server, Workers

__all__ = ["made_once", "nothing_left_behind", "orphans_are_ours", "own_temporary_folder"]  # for every test

hypothesis.settings.register_profile("tests", deadline=None)  # no test is decided by time
hypothesis.settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "chromium" in item.fixturenames:
            item.add_marker("browser")


@pytest.fixture
def default_signals() -> Iterator[None]:
    """No signal is ignored, in this process and in the servers that it starts.

    Else some are where the tests run in the background of a shell (QUIT) or under nohup (HUP).
    """
    ignored = [one for one in (signal.SIGHUP, signal.SIGQUIT) if signal.getsignal(one) is signal.SIG_IGN]
    for one in ignored:
        signal.signal(one, signal.SIG_DFL)
    yield
    for one in ignored:
        signal.signal(one, signal.SIG_IGN)


@pytest.fixture(scope="session", params=[Server, Workers, Pair], ids=["one process", "two workers", "two nodes"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server as a user starts it: alone, with several workers, and as a cluster.

    Tests share it; each leaves it empty (see ``Visit``).
    """
    shared: Server = request.param(*APP)
    try:
        yield shared
        shared.terminate()
    finally:
        shared.kill()


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Start servers of the test's own, as ``Server`` is made. What still runs then must end clean."""
    servers: list[Server] = []

    def start_server(*command: str, kind: type[Server] = Server, **options: Any) -> Server:
        servers.append(kind(*command, **options))
        return servers[-1]

    try:
        yield start_server
        for one in servers:
            if one.running:
                one.terminate()
    finally:
        for one in servers:
            one.kill()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser; it goes with its module, for while it is there no other event loop runs in this thread."""
    with browser.chromium() as started:
        yield started


@pytest.fixture(scope="module")
def page_server(chromium: Browser) -> Iterator[Server]:
    """A server for the tests of the page; each has topics of its own."""
    one = Server(*APP)
    try:
        yield one
        one.terminate()
    finally:
        one.kill()


@pytest.fixture
def people(chromium: Browser, page_server: Server) -> Iterator[People]:
    """People with browsers, at the page of ``page_server`` unless they are told otherwise."""
    everybody = People(chromium, f"http://127.0.0.1:{page_server.port}/")
    try:
        yield everybody
        assert everybody.troubles == []
    finally:
        everybody.go()


@pytest.fixture
def bots(page_server: Server) -> Iterator[Callable[..., Bot]]:
    """Members without browsers: ``bots(username, topic, url=…, **wants)``."""
    all_of_them: list[Bot] = []

    def enter(username: str, topic: str, url: str = "", **wants: object) -> Bot:
        all_of_them.append(Bot(url or page_server.url, username, topic, **wants))
        return all_of_them[-1]

    try:
        yield enter
    finally:
        for bot in all_of_them:
            bot.goes()


@pytest.fixture
def line_to() -> Iterator[Callable[[Server], Line]]:
    """Lines to servers, which can be cut."""
    lines: list[Line] = []

    def lay(server: Server) -> Line:
        lines.append(Line(server.port))
        return lines[-1]

    try:
        yield lay
    finally:
        for one in lines:
            one.end()


@pytest.fixture
def line(page_server: Server, line_to: Callable[[Server], Line]) -> Line:
    """A line to ``page_server``."""
    return line_to(page_server)
