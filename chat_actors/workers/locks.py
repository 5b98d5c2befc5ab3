"""Locks on single bytes (POSIX, ``fcntl``): the kernel gives each to one process, and takes it back at its end.

They belong to the process, not to a descriptor: to close any descriptor of a file gives up all locks on it.
"""

import fcntl
import os
import struct
from typing import Optional

_LOCK = struct.Struct("hhqqi")  # struct flock: type, whence, start, length, process


def lock(descriptor: int, byte: int) -> bool:
    """Lock a byte; return False if another process has it. Raises OSError if the system cannot."""
    return _set(descriptor, byte, fcntl.F_WRLCK)


def unlock(descriptor: int, byte: int) -> None:
    """Give up a lock. Raises OSError if the system cannot."""
    _set(descriptor, byte, fcntl.F_UNLCK)


def holder(descriptor: int, byte: int) -> Optional[int]:
    """Return the other process that has a byte; None if there is none. Raises OSError if the system cannot say."""
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    kind, _, _, _, process = _LOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else process


def _set(descriptor: int, byte: int, kind: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLK, _LOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True
