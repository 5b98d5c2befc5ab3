"""A server that the test plays for the page: it sends and closes what the test wants."""

import json
import time
from typing import Any, Callable, Union

from playwright.sync_api import Page, WebSocketRoute

from tests.support.server import PATIENCE, Frame

TOKEN = "t1"
# Playwright before 1.65 cannot tell of a close without a code or a reason. Its own WebSocket is there by this event.
CLOSES_IN_FULL = """document.addEventListener("readystatechange", () => {
    const close = WebSocket.prototype.close;
    WebSocket.prototype.close = function (code = 1000, reason = "gone") { close.call(this, code, reason); };
}, { once: true });"""


class Connection:
    """WebSocket of the page. ``frames``: those that the page sent, ``/list`` as text. ``is_closed``: by the page."""

    def __init__(self, server: "StandIn", route: WebSocketRoute) -> None:
        self._server = server
        self._route = route
        self.frames: list[Union[Frame, str]] = []
        self.is_closed = False
        route.on_message(self._take)
        route.on_close(lambda code, reason: self._end())

    def says(self, kind: str, **rest: Any) -> None:
        self._route.send(json.dumps({"type": kind, **rest}))

    def closes(self, code: int) -> None:
        self._route.close(code=code, reason="closed")

    def answers_join(self, **rest: Any) -> None:
        """Say ``joined``. A key that is given as None is absent."""
        topic = self.frames[0]["topic"]  # type: ignore[index]
        joined = {"username": "alice", "topic": topic, "users": 1, "ttl": 30, "epoch": "e1", "last_id": 0}
        joined = {**joined, "resume": TOKEN, "members": ["alice"], **rest}
        self.says("joined", **{key: value for key, value in joined.items() if value is not None})

    def _end(self) -> None:
        self.is_closed = True

    @property
    def messages(self) -> list[Frame]:
        return [frame for frame in self.frames if isinstance(frame, dict) and "message" in frame]

    def _take(self, text: Union[str, bytes]) -> None:
        frame = json.loads(text) if str(text).startswith("{") else str(text)
        self.frames.append(frame)
        if frame == "/list" and self._server.lists:
            self.says("topics", message="Active Topics:\n(none)", topics=[])
        if isinstance(frame, dict) and "topic" in frame:
            self._server.joins.append(self)
            if self._server.lets_in:
                self.answers_join()


class StandIn:
    """Server that the test plays. ``all`` connections, and the ``joins`` among them, oldest first."""

    def __init__(self, page: Page) -> None:
        self.joins: list[Connection] = []
        self.lets_in = True  # whether a join is answered at once
        self.lists = True
        self.all: list[Connection] = []
        self._page = page
        page.add_init_script(CLOSES_IN_FULL)
        page.route_web_socket("**/ws", lambda route: self._open(route))

    def _open(self, route: WebSocketRoute) -> None:
        self.last = Connection(self, route)
        self.all.append(self.last)

    def join(self, number: int) -> Connection:
        """The connection of that join, counted from 1, once it has come."""
        self.wait(lambda: len(self.joins) >= number)
        return self.joins[number - 1]

    def wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < deadline
            self._page.wait_for_timeout(10)  # the way to let Playwright go on
