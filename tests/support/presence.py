"""Presence as a client with ``events`` keeps it, whatever number of joins and leaves one frame tells of."""

from collections.abc import Iterator
from typing import Optional

from tests.support.fakes import Frame


class Names:
    """Names of a topic's members by the frames that one member was sent. ``names``: None while they are not told."""

    def __init__(self) -> None:
        self.names: Optional[list[str]] = None
        self.users = 0  # by the newest frame that counts them

    def take(self, frame: Frame) -> None:
        """Apply a frame. Raises AssertionError if it does not fit the frames before it."""
        if frame["type"] == "joined":
            self.names = None if "members" not in frame else list(frame["members"])
            self._count(frame)
        elif frame["type"] == "presence":
            assert frame.get("joined") != [] and frame.get("left") != [], f"an empty list: {frame}"
            if "joined" not in frame and "left" not in frame:
                self.names = None
            elif self.names is not None:
                joined, left = frame.get("joined", []), frame.get("left", [])
                assert {*left} <= {*self.names} and not {*joined} & {*self.names}, f"{frame}, known: {self.names}"
                self.names = [name for name in self.names if name not in left] + joined
            self._count(frame)
        elif frame["type"] == "renamed" and self.names is not None and frame["username"] in self.names:
            self.names[self.names.index(frame["username"])] = frame["renamed"]

    def _count(self, frame: Frame) -> None:
        self.users = frame["users"]
        assert self.names is None or self.users == len({*self.names}) == len(self.names), f"{frame}: {self.names}"


def one_by_one(frame: Frame) -> Iterator[tuple[str, str, int]]:
    """The joins and leaves of a presence frame, each with its name and the users after it, leaves first."""
    joined, left = frame.get("joined", []), frame.get("left", [])
    users = frame["users"] - len(joined) + len(left)
    for name in left:
        users -= 1
        yield "left", name, users
    for name in joined:
        users += 1
        yield "joined", name, users
