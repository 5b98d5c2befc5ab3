"""The board: memory that all workers share. Each writes its own row, and reads those of the others.

So the limits on connections and topics hold for all workers together, without a message. A worker that takes a place in
the count writes first and reads then, so of two that take the last place at once both may be refused.
"""

import mmap
import os
import struct
from collections.abc import Mapping
from hashlib import blake2b
from typing import Optional

from chat_actors.connection.admission import Tally

ROWS = 256  # workers, at most, also while a reload has twice as many
_HEAD = mmap.PAGESIZE  # bytes
_BLOB = 1 << 15  # bytes of a worker's counters, at most
_CONNECTIONS, _TOPICS, _EDITION, _PUBLISHED, _SIZES = 0, 1, 2, 3, 4  # words of a row; the last are two
_WORD = 8  # bytes


class Board:
    """Rows of all workers. ``slot``, everywhere: the number of a worker's row.

    A row has its words, two places for its counters, which are written in turn, and a table of sources with open
    addressing: digest and count of each.
    """

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, 0)
        (self.sources,) = struct.unpack_from("Q", self._map)  # places in the table of a row
        self._row = _row_bytes(self.sources)
        self._words: memoryview[int] = memoryview(self._map).cast("Q")

    @staticmethod
    def create(connections: int) -> int:
        """Return the descriptor of a new board, for so many connections in all."""
        sources = max(mmap.PAGESIZE, 1 << (2 * connections).bit_length())  # whole pages
        descriptor = os.memfd_create("chat_actors-board")
        os.ftruncate(descriptor, _HEAD + ROWS * _row_bytes(sources))  # takes no memory until it is written to
        os.pwrite(descriptor, struct.pack("Q", sources), 0)
        return descriptor

    def clear(self, slot: int) -> None:
        """Make a row that of a worker which has nothing yet. Its counters stay: they only grow."""
        at = self._at(slot)
        for word in (_CONNECTIONS, _TOPICS, _EDITION):
            self._words[at + word] = 0
        self._map.madvise(mmap.MADV_REMOVE, self._table(slot) * _WORD, 2 * self.sources * _WORD)

    def connections(self, slot: int) -> int:
        """Return the open connections of a worker."""
        return self._words[self._at(slot) + _CONNECTIONS]

    def set_connections(self, slot: int, connections: int) -> None:
        """Write the open connections of this worker."""
        self._words[self._at(slot) + _CONNECTIONS] = connections

    def topics(self, slot: int) -> int:
        """Return the active topics of a worker."""
        return self._words[self._at(slot) + _TOPICS]

    def set_topics(self, slot: int, topics: int) -> None:
        """Write the active topics of this worker."""
        self._words[self._at(slot) + _TOPICS] = topics

    def edition(self, slot: int) -> int:
        """Return how often a worker has announced changes of its topics."""
        return self._words[self._at(slot) + _EDITION]

    def set_edition(self, slot: int, edition: int) -> None:
        """Write how often this worker has announced changes."""
        self._words[self._at(slot) + _EDITION] = edition

    def publish(self, slot: int, counters: bytes) -> None:
        """Write the counters of this worker, which outlive it. Raises ValueError if they are too long."""
        if len(counters) > _BLOB:
            raise ValueError(f"too long for the board: {len(counters)} bytes")
        at = self._at(slot)
        number = self._words[at + _PUBLISHED] + 1
        start = self._blob(slot, number % 2)
        self._map[start : start + len(counters)] = counters
        self._words[at + _SIZES + number % 2] = len(counters)
        self._words[at + _PUBLISHED] = number  # now they are valid

    def published(self, slot: int) -> bytes:
        """Return the counters of the last worker that had a row; empty if there was none."""
        at = self._at(slot)
        while True:
            number = self._words[at + _PUBLISHED]
            start = self._blob(slot, number % 2)
            counters = self._map[start : start + self._words[at + _SIZES + number % 2]]
            if self._words[at + _PUBLISHED] == number:  # else their place may have been written to meanwhile
                return counters

    def count(self, slot: int, digest: int) -> int:
        """Return the connections of a worker that come from a source."""
        place = self._find(slot, digest)
        return 0 if place is None else self._words[place + 1]

    def add(self, slot: int, digest: int, change: int) -> None:
        """Count connections of this worker in or out. No-op if the table has no place for a further source."""
        place = self._find(slot, digest)
        if place is None and change > 0:
            place = self._free(slot, digest)
            if place is not None:
                self._words[place + 1] = 0
                self._words[place] = digest
        if place is not None:
            self._words[place + 1] += change
            if not self._words[place + 1]:
                self._clean(slot, place)

    def _find(self, slot: int, digest: int) -> Optional[int]:
        table = self._table(slot)
        for step in range(self.sources):
            place: int = table + 2 * ((digest + step) % self.sources)
            if self._words[place] == digest:
                return place
            if not self._words[place]:
                break
        return None

    def _free(self, slot: int, digest: int) -> Optional[int]:
        table = self._table(slot)
        for step in range(self.sources):
            place: int = table + 2 * ((digest + step) % self.sources)
            if not self._words[place + 1]:
                return place
        return None

    def _clean(self, slot: int, place: int) -> None:
        """Free a place whose count is 0, and those before it, unless a search must still go on behind it."""
        table = self._table(slot)
        index, mask = (place - table) // 2, self.sources - 1
        if self._words[table + 2 * ((index + 1) & mask)]:
            return
        while self._words[table + 2 * index] and not self._words[table + 2 * index + 1]:
            self._words[table + 2 * index] = 0
            index = (index - 1) & mask

    def _at(self, slot: int) -> int:
        """Return the first word of a row."""
        return (_HEAD + slot * self._row) // _WORD

    def _blob(self, slot: int, which: int) -> int:
        return _HEAD + slot * self._row + _HEAD + which * _BLOB

    def _table(self, slot: int) -> int:
        """Return the first word of the table of a row."""
        return self._blob(slot, 2) // _WORD


class SharedTally(Tally):
    """Count of the open connections of all workers. ``others``: the slots of the other workers that are alive."""

    def __init__(self, board: Board, slot: int, others: Mapping[int, object]) -> None:
        super().__init__()
        self._board = board
        self._slot = slot
        self._others = others

    def enter(self, source: Optional[str]) -> tuple[int, int]:
        own, of_source = super().enter(source)
        self._board.set_connections(self._slot, own)
        if source is not None:
            digest = _digest(source)
            self._board.add(self._slot, digest, 1)
            of_source += sum(self._board.count(other, digest) for other in self._others)
        return self.total(), of_source

    def leave(self, source: Optional[str]) -> None:
        super().leave(source)
        self._board.set_connections(self._slot, self.connections)
        if source is not None:
            self._board.add(self._slot, _digest(source), -1)

    def total(self) -> int:
        return self.connections + sum(map(self._board.connections, self._others))


def _digest(source: str) -> int:
    """Return a number for a source, never 0."""
    return int.from_bytes(blake2b(source.encode(), digest_size=8).digest(), "big") or 1


def _row_bytes(sources: int) -> int:
    return _HEAD + 2 * _BLOB + 2 * _WORD * sources
