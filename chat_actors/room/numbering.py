"""Numbers for a name that several members ask for: ``#2``, ``#3`` … No asyncio."""

import heapq
from collections.abc import Container

FIRST = 2  # the member without a number is the first


class Numbering:
    """Numbers of one name, by its nickname. Each join and leave costs the same, however many members have the name.

    A nickname with a number may also be asked for as it is: so a number below ``_next`` may be taken or free, and the
    free ones are known.
    """

    def __init__(self, nickname: str) -> None:
        self._nickname = nickname
        self._next = FIRST  # all numbers from here on are untouched
        self._free: list[int] = []  # a heap of those below
        self._freed: set[int] = set()  # the same

    def smallest(self, taken: Container[str]) -> int:
        """Return the smallest number whose nickname is not in ``taken``; it is taken from now on."""
        while self._free:
            number = heapq.heappop(self._free)
            self._freed.discard(number)
            if f"{self._nickname}#{number}" not in taken:
                return number
        while f"{self._nickname}#{self._next}" in taken:
            self._next += 1
        self._next += 1
        return self._next - 1

    def release(self, number: int) -> bool:
        """Take back a number; return whether none is taken any more."""
        if FIRST <= number < self._next and number not in self._freed:
            self._freed.add(number)
            heapq.heappush(self._free, number)
        return len(self._freed) == self._next - FIRST
