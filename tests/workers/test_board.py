"""The board: each worker's row, as the others read it in memory of their own."""

import os
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from chat_actors.workers import board
from chat_actors.workers.board import ROWS, Board, SharedTally
from tests.support.crew.child import Child


@pytest.fixture
def file() -> Iterator[int]:
    made = Board.create(8)
    yield made
    os.close(made)


def crowded(file: int) -> Board:
    """A board whose tables have few places, in which every search meets others."""
    made = Board(file)
    made.sources = 8
    return made


def test_what_a_worker_writes_another_process_reads(file: int) -> None:
    own = Board(file)

    def write() -> None:
        far = Board(file)
        far.set_connections(1, 3)
        far.set_topics(1, 4)
        far.set_edition(1, 5)
        far.publish(1, b"counters")
        far.add(1, 77, 2)

    with Child(write) as child:
        child.step()
    assert (own.connections(1), own.topics(1), own.edition(1)) == (3, 4, 5)
    assert own.published(1) == b"counters"
    assert own.count(1, 77) == 2


@pytest.mark.parametrize("slot", [0, 1, ROWS - 1])
def test_each_row_is_its_workers_alone(file: int, slot: int) -> None:
    own = Board(file)
    own.set_connections(slot, 1)
    own.set_topics(slot, 2)
    own.set_edition(slot, 3)
    own.publish(slot, b"x" * 100)
    own.add(slot, 7, 1)
    for other in {0, 1, 2, ROWS - 2, ROWS - 1} - {slot}:
        assert (own.connections(other), own.topics(other), own.edition(other), own.count(other, 7)) == (0, 0, 0, 0)
        assert own.published(other) == b""


def test_a_cleared_row_keeps_its_counters_alone(file: int) -> None:
    own = Board(file)
    for slot in (2, 3):
        own.set_connections(slot, 1)
        own.set_topics(slot, 2)
        own.set_edition(slot, 3)
        own.add(slot, 7, 1)
        own.publish(slot, b"counters")
    own.clear(2)
    assert (own.connections(2), own.topics(2), own.edition(2), own.count(2, 7)) == (0, 0, 0, 0)
    assert (own.connections(3), own.topics(3), own.edition(3), own.count(3, 7)) == (1, 2, 3, 1)
    assert own.published(2) == own.published(3) == b"counters"


def test_counters_are_replaced_and_never_half_written(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Board(file)
    own.publish(0, b"first, and long")
    own.publish(0, b"second")
    assert own.published(0) == b"second"

    class Dies:
        """Memory of a process that is killed while it writes the counters."""

        def __setitem__(self, place: slice, data: bytes) -> None:
            memory[place] = data
            raise KeyboardInterrupt

    memory = own._map
    own._map = Dies()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        own.publish(0, b"third")
    assert Board(file).published(0) == b"second"


def test_counters_that_are_replaced_while_they_are_read_are_read_again(file: int) -> None:
    own, other = Board(file), Board(file)
    other.publish(0, b"first")
    memory = own._map

    class Meanwhile:
        """Memory to which its owner writes twice while another process reads it."""

        def __getitem__(self, place: slice) -> bytes:
            own._map = memory
            read = memory[place]
            other.publish(0, b"second")
            other.publish(0, b"third")
            return read

    own._map = Meanwhile()  # type: ignore[assignment]
    assert own.published(0) == b"third"


def test_counters_that_are_too_long_are_an_error(file: int) -> None:
    own = Board(file)
    own.publish(0, b"x" * board._BLOB)
    with pytest.raises(ValueError, match="too long for the board: 32769 bytes"):
        own.publish(0, b"y" * (board._BLOB + 1))
    assert own.published(0) == b"x" * board._BLOB


def test_sources_are_counted_like_in_a_dictionary(file: int) -> None:
    """Also where all of them are crowded together, and come and go."""
    small = crowded(file)
    rng, counts = Random(0), Counter[int]()
    for _ in range(5_000):
        digest = rng.choice((8, 16, 24, 1, 9, 15, 23))
        if counts[digest] and rng.random() < 0.55:
            small.add(0, digest, -1)
            counts[digest] -= 1
        else:
            small.add(0, digest, 1)
            counts[digest] += 1
        assert {one: small.count(0, one) for one in counts} == dict(counts)
    for digest in [*counts.elements()]:
        small.add(0, digest, -1)
    words = small._words[small._table(0) : small._table(0) + 16]
    assert [*words] == [0] * 16


def test_a_source_without_a_place_is_not_counted_and_hurts_nobody(file: int) -> None:
    small = crowded(file)
    for digest in range(1, 9):
        small.add(0, digest, 1)
    small.add(0, 9, 1)
    small.add(0, 9, -1)
    assert [small.count(0, digest) for digest in range(1, 10)] == [1] * 8 + [0]


def test_a_tally_counts_the_connections_of_all_workers(file: int) -> None:
    one, other = SharedTally(Board(file), 0, {1: "alive"}), SharedTally(Board(file), 1, {0: "alive"})
    assert one.enter("192.0.2.1") == (1, 1)
    assert other.enter("192.0.2.1") == (2, 2)
    assert other.enter("192.0.2.2") == (3, 1)
    assert one.enter(None) == (4, 0)
    assert (one.connections, one.total(), other.total()) == (2, 4, 4)
    other.leave("192.0.2.1")
    one.leave(None)
    assert one.enter("192.0.2.1") == (3, 2)
    assert (one.total(), other.total()) == (3, 3)


def test_a_tally_does_not_count_a_worker_that_has_ended(file: int) -> None:
    alive = {1: "alive"}
    one, other = SharedTally(Board(file), 0, alive), SharedTally(Board(file), 1, {0: "alive"})
    other.enter("192.0.2.1")
    assert one.enter("192.0.2.1") == (2, 2)
    del alive[1]
    assert one.total() == 1
    assert one.enter("192.0.2.1") == (2, 2)


def test_no_source_has_the_digest_of_an_empty_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "blake2b", lambda *_, **__: ZERO)
    assert board._digest("192.0.2.1") == 1


class ZERO:
    @staticmethod
    def digest() -> bytes:
        return bytes(8)


@pytest.mark.parametrize("connections", [1, 8, 10_000])
def test_a_table_has_places_for_more_sources_than_there_may_be_connections(connections: int) -> None:
    made = Board.create(connections)
    try:
        assert Board(made).sources > connections
    finally:
        os.close(made)
