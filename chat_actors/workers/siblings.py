"""How the workers of one server find each other: by the listening sockets that they have in common with their parent.

Each worker listens on a Unix socket with an abstract name, made of those sockets, of a slot, which is a small number of
its own while it lives, and of chance. Other servers have other sockets, so their workers have other names. Other users
may read the names, crowd them and invent some. But what they say is not read, nobody can take a name before it is made,
and they cannot lock bytes of the listening socket: by such a lock a worker is known to be there before it answers.
Linux only: other systems have neither abstract names nor ``/proc``.
"""

import asyncio
import os
import re
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, Optional

from chat_actors.workers.board import ROWS
from chat_actors.workers.locks import holder, lock, unlock

POLL_SECONDS = 0.01
_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group
_NAMED = re.compile(r"(?<=@)(chat_actors\.\d+\.\w+)\.(\d+)\.\w+$")  # as /proc/net/unix shows it
_LISTENS = " 00010000 "  # flag of a socket there that takes connections
_WAITING = 256  # workers that may wait to be accepted


class Found(NamedTuple):
    """Connected socket to another worker."""

    slot: int
    process: int
    sock: socket.socket


class Meeting:
    """Place where the workers of one server meet. ``sockets``: as ``shared_sockets`` returns them."""

    def __init__(self, sockets: dict[int, int]) -> None:
        digest = blake2b(",".join(map(str, sorted(sockets))).encode(), digest_size=8)
        self._name = f"chat_actors.{os.geteuid()}.{digest.hexdigest()}"
        self._locked = sockets[min(sockets)]
        # Byte of that socket which a worker locks while it begins; those of the slots come behind it. The socket may be
        # another server's too, which has further ones and so other bytes.
        self._gate = int.from_bytes(digest.digest(), "big") >> 2

    async def begin(self) -> None:
        """Wait until no other worker is between ``begin`` and ``go``: each finds those that were before it.

        A worker that ends in between lets the next one in. Nothing may close a shared socket in between. Raises OSError
        if the system has no locks on sockets.
        """
        while not lock(self._locked, self._gate):
            await asyncio.sleep(POLL_SECONDS)

    def go(self) -> None:
        """Let the next worker begin."""
        with suppress(OSError):
            unlock(self._locked, self._gate)

    async def find(self, own: Optional[int] = None) -> list[Found]:
        """Connect to every other worker that is there. ``own``: the slot of this one, if it has one."""
        found: dict[int, Found] = {}
        while True:
            for slot, address in self._names():
                if slot != own and slot not in found:
                    one = _connect(slot, address)
                    if one is not None:
                        found[slot] = one
            if all(slot == own or slot in found or self.holder(slot) is None for slot in range(ROWS)):
                return [*found.values()]
            await asyncio.sleep(POLL_SECONDS)  # others crowd it: nothing begins without it

    def _names(self) -> Iterator[tuple[int, str]]:
        """Return the names of workers that there seem to be, with the slot of each."""
        for line in Path("/proc/net/unix").read_text("utf-8", "replace").splitlines():
            name = _NAMED.search(line) if _LISTENS in line else None
            if name and name[1] == self._name and int(name[2]) < ROWS:
                yield int(name[2]), f"\0{name[0]}"

    def holder(self, slot: int) -> Optional[int]:
        """Return the other process that has a slot; None if there is none, or it is not known."""
        try:
            return holder(self._locked, self._gate + 1 + slot)
        except OSError:  # the host has closed the listening socket, at its end
            return None

    def reach(self, slot: int) -> Optional[Found]:
        """Try once to connect to the worker that has a slot."""
        reached = (_connect(slot, address) for named, address in self._names() if named == slot)
        return next(filter(None, reached), None)

    def listen(self, found: list[Found]) -> Optional[tuple[int, socket.socket]]:
        """Take the lowest free slot; return it and a listening socket, or None if none is free.

        ``found``: the other workers.
        """
        taken = {one.slot for one in found}
        for slot in range(ROWS):
            if slot not in taken and lock(self._locked, self._gate + 1 + slot):
                sock = _unix_socket()
                sock.bind(f"\0{self._name}.{slot}.{secrets.token_hex(8)}")
                sock.listen(_WAITING)
                return slot, sock
        return None

    def take_alone(self) -> Optional[socket.socket]:
        """Take the place of an only worker; return what holds it, or None if it is taken.

        By a name, not by a lock: other hosts than uvicorn may close a copy of the listening socket, and the locks go.
        """
        sock = _unix_socket()
        try:
            sock.bind(f"\0{self._name}.only")
        except OSError:
            sock.close()
            return None
        return sock


def _connect(slot: int, address: str) -> Optional[Found]:
    """Connect to a worker; None if it has ended, is crowded, or is another user's."""
    sock = _unix_socket()
    with suppress(OSError):
        sock.connect(address)
        process = friend(sock)
        if process is not None:
            return Found(slot, process, sock)
    sock.close()
    return None


def friend(sock: socket.socket) -> Optional[int]:
    """Return the process at the other end of a Unix socket; None if it is another user's."""
    process, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return process if user == os.geteuid() else None


def _unix_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock
