"""A member without a browser, to chat with the page."""

import json
from contextlib import ExitStack
from typing import Any

from websockets.sync.client import connect

from tests.support.server import PATIENCE, Frame


class Bot:
    """Member without a browser. ``frames``: all frames that it has received so far."""

    def __init__(self, url: str, username: str, topic: str, **wants: Any) -> None:
        self._stack = ExitStack()
        self._connection = self._stack.enter_context(connect(url, compression=None))
        self.frames: list[Frame] = []
        self._send({"username": username, "topic": topic, **wants})
        self.joined = self.hears("joined")

    def says(self, text: str) -> None:
        self._send({"message": text})
        self.hears("ack")

    def hears(self, kind: str) -> Frame:
        """The next frame of that type."""
        while True:
            self.frames.append(json.loads(self._connection.recv(PATIENCE)))
            if self.frames[-1]["type"] == kind:
                return self.frames[-1]

    @property
    def heard(self) -> list[str]:
        """The others' messages so far."""
        return [frame["message"] for frame in self.frames if frame["type"] == "message"]

    def goes(self) -> None:
        self._stack.close()

    def _send(self, frame: Frame) -> None:
        self._connection.send(json.dumps(frame))
