"""Claims: which worker a topic lives in. The kernel decides, so two workers never have the same one.

A claim is a lock on one byte of a file that all workers share (POSIX, ``fcntl``): it is taken or refused in one step,
says which process has it, and ends with that process. No message, no view of who is alive and no leader is needed.
"""

from abc import ABC, abstractmethod
from collections import Counter
from hashlib import blake2b
from typing import Optional

from chat_actors.workers.locks import holder, lock, unlock

FILES = 16  # the kernel looks through all the locks of a file, one by one: among 10,000 topics that takes 10 µs
_LAST = (1 << 62) - 1  # byte


class Claims(ABC):
    """What a worker asks before it opens a topic."""

    @abstractmethod
    def take(self, topic: str) -> Optional[int]:
        """Claim a topic, for this process; return None, or the process that has it."""

    @abstractmethod
    def release(self, topic: str) -> None:
        """Give up a claim. Raises ValueError if this process has not taken it."""


class Locks(Claims):
    """Claims of this process. ``files``: descriptors of the shared files, which must stay open."""

    def __init__(self, files: list[int]) -> None:
        self._files = files
        self._taken: Counter[int] = Counter()  # topics, by byte: two may have the same one

    def take(self, topic: str) -> Optional[int]:
        byte = _byte(topic)
        while not self._taken[byte] and not lock(self._file(byte), byte):
            process = holder(self._file(byte), byte)
            if process is not None:  # else it has just given it up
                return process
        self._taken[byte] += 1
        return None

    def release(self, topic: str) -> None:
        byte = _byte(topic)
        if not self._taken[byte]:
            raise ValueError(f"not claimed: {topic}")
        self._taken[byte] -= 1
        if not self._taken[byte]:
            del self._taken[byte]
            unlock(self._file(byte), byte)

    def _file(self, byte: int) -> int:
        return self._files[byte % len(self._files)]


def _byte(topic: str) -> int:
    return int.from_bytes(blake2b(topic.encode(errors="surrogatepass"), digest_size=8).digest(), "big") & _LAST
