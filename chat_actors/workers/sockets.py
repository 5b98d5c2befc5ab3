"""The listening sockets that a process has in common with its parent: by them it knows that it may have siblings."""

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress


def shared_sockets() -> dict[int, int]:
    """Return the descriptors of the stream sockets that this process may listen on and has from its parent, by inode.

    Empty if it was started alone, for then it opens its own; and where the system is not Linux.
    """
    if sys.platform != "linux":
        return {}
    own = {inode: fd for fd, inode in _bound_sockets()}
    if not own:
        return {}
    parents: set[str] = set()
    folder = f"/proc/{os.getppid()}/fd"
    try:
        for entry in os.listdir(folder):
            with suppress(OSError):
                parents.add(os.readlink(f"{folder}/{entry}"))
    except OSError:  # the parent is another user's, as that of gunicorn's workers with ``--user``
        return own
    return {inode: fd for inode, fd in own.items() if f"socket:[{inode}]" in parents}


def _bound_sockets() -> Iterator[tuple[int, int]]:
    """Return descriptor and inode of each stream socket of this process with an address and without a peer."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the descriptor of the directory is closed again
            status = os.fstat(fd)
            if stat.S_ISSOCK(status.st_mode) and _is_bound(fd):
                yield fd, status.st_ino


def _is_bound(fd: int) -> bool:
    sock = socket.socket(fileno=fd)
    try:
        if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            return False
        name = sock.getsockname()
        if not (name[1] if isinstance(name, tuple) else name):
            return False
        sock.getpeername()
    except OSError as failed:
        return failed.errno == errno.ENOTCONN
    finally:
        sock.detach()  # without closing it
    return False
