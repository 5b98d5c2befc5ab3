"""Listening sockets that stand for those which workers have from their parent, and places where they meet."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional, cast

from chat_actors.workers.siblings import Found, Meeting


@contextmanager
def bound(family: int = socket.AF_INET) -> Iterator[dict[int, int]]:
    """A bound socket, as ``shared_sockets`` returns it: its descriptor by its inode."""
    with socket.socket(family) as sock:
        sock.bind(("127.0.0.1", 0) if family == socket.AF_INET else "")
        yield {os.fstat(sock.fileno()).st_ino: sock.fileno()}


def find(meeting: Meeting, own: Optional[int] = None) -> list[Found]:
    """The other workers that are there; none of them lets this one wait."""
    search = meeting.find(own)
    try:
        search.send(None)
    except StopIteration as end:
        return cast("list[Found]", end.value)
    search.close()
    raise AssertionError("a worker is crowded")
