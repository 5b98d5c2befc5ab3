"""The stored messages of a topic. No event loop."""

from itertools import product
from typing import Optional

import pytest

from chat_actors.protocol.frames import REPLAYED_BYTES, Ack, ReplayGap
from chat_actors.room.history import History, Refs, Stored

MANY = 1000
BYTES = 8 << 20


def message(number: int, deadline: float, size: int = 1, refs: Optional[Refs] = None, ref: str = "") -> Stored:
    return Stored(number, bytes(size), deadline, refs, ref)


def history(count: int, evicted: int = 0, expired: int = 0) -> History:
    """Messages 1 to ``count``, each with its id as its deadline; first so many are evicted, then so many expire."""
    remembered = History(count - evicted if evicted else MANY, BYTES)
    for number in range(1, count + 1):
        remembered.add(message(number, number, 1))
    remembered.evict()
    remembered.expire(evicted + expired)
    return remembered


def ids(remembered: History, since: int = 0) -> list[int]:
    """The ids above ``since``, read piece by piece, of two messages and more."""
    read: list[int] = []
    while True:
        piece = remembered.after(max([since, *read]), 2 * (1 + REPLAYED_BYTES))
        if not piece:
            return read
        read += [one.id for one in piece]


def test_a_new_history_is_empty() -> None:
    new = History(MANY, BYTES)
    assert (new.last_id, new.deleted_through, new.oldest_deadline, ids(new), new.gap(0, 0)) == (0, 0, None, [], None)


@pytest.mark.parametrize("evicted, expired, since", [*product([0, 1, 3], [0, 1, 2], range(9))])
def test_replay_and_gap_together_cover_all_messages_after_since(evicted: int, expired: int, since: int) -> None:
    remembered = history(5, evicted, expired)
    gap = remembered.gap(since, 0)
    lost = [] if gap is None else [*range(gap.from_, (gap.to or 0) + 1)]
    assert lost == [number for number in range(since + 1, 6) if number <= evicted + expired]
    assert ids(remembered, since) == [number for number in range(since + 1, 6) if number > evicted + expired]


@pytest.mark.parametrize(
    "evicted, expired, since, gap",
    [
        (0, 0, 0, None),
        (0, 2, 0, ReplayGap(1, 2, "expired")),
        (0, 2, 1, ReplayGap(2, 2, "expired")),
        (0, 2, 2, None),
        (2, 0, 0, ReplayGap(1, 2, "evicted")),
        (2, 0, 2, None),
        (2, 2, 1, ReplayGap(2, 4, "evicted")),  # both: of the two, the one that the bounds brought about
        (2, 2, 2, ReplayGap(3, 4, "expired")),
        (2, 3, 0, ReplayGap(1, 5, "evicted")),
        (0, 5, 3, ReplayGap(4, 5, "expired")),
        (0, 5, 5, None),
        (0, 5, 6, None),
    ],
)
def test_a_gap_has_the_ids_that_are_lost_and_the_reason(
    evicted: int, expired: int, since: int, gap: Optional[ReplayGap]
) -> None:
    assert history(5, evicted, expired).gap(since, 0) == gap


@pytest.mark.parametrize("now, gone", [(0, 1), (1.9, 1), (2, 2), (3.5, 3), (5, 5), (9, 5)])
def test_a_message_at_its_deadline_is_lost_before_it_is_deleted(now: float, gone: int) -> None:
    remembered = history(5, expired=1)
    assert remembered.gone_through(now) == gone
    assert remembered.gap(0, now) == ReplayGap(1, gone, "expired")
    assert remembered.gap(gone, now) is None


@pytest.mark.parametrize(
    "since, max_bytes, piece",
    [(0, 0, [1]), (0, 99, [1]), (0, 299, [1, 2]), (2, 300, [3, 4, 5]), (3, 1000, [4, 5]), (5, 1000, [])],
)
def test_a_piece_has_as_many_messages_as_its_bytes_allow_and_at_least_one(
    since: int, max_bytes: int, piece: list[int]
) -> None:
    remembered = History(MANY, BYTES)
    for number in range(1, 6):
        remembered.add(message(number, number, 100 - REPLAYED_BYTES))
    assert [one.id for one in remembered.after(since, max_bytes)] == piece


@pytest.mark.parametrize(
    "now, remaining_ms",
    [(0, 30_000), (0.25, 29_750), (29.9984, 2), (29.999, 1), (29.9999, 1), (30, 1), (31, 1)],
)
def test_a_message_remains_until_its_deadline_and_for_a_millisecond_at_least(now: float, remaining_ms: int) -> None:
    assert message(1, 30.0).remaining_ms(now) == remaining_ms


@pytest.mark.parametrize("message_id, remaining_ms", [(1, 1), (2, 1), (3, 2_500), (5, 1), (6, 5_500), (7, 1)])
def test_only_a_message_that_is_stored_remains(message_id: int, remaining_ms: int) -> None:
    remembered = history(3, expired=2)
    remembered.restore([], last_id=5)
    remembered.add(message(6, 6.0))
    assert remembered.remaining_ms(message_id, 0.5) == remaining_ms


def test_a_message_is_forgotten_when_its_deadline_has_come_and_not_before() -> None:
    remembered = history(3)
    remembered.expire(1.75)
    assert (ids(remembered), remembered.oldest_deadline, remembered.deleted_through) == ([2, 3], 2, 1)
    remembered.expire(2)
    assert (ids(remembered), remembered.oldest_deadline, remembered.deleted_through) == ([3], 3, 2)
    remembered.expire(50)
    assert (ids(remembered), remembered.oldest_deadline, remembered.deleted_through) == ([], None, 3)


@pytest.mark.parametrize(
    "messages, size, kept",
    [
        (3, BYTES, [3, 4, 5]),
        (5, BYTES, [1, 2, 3, 4, 5]),
        (0, BYTES, []),
        (MANY, 500, [1, 2, 3, 4, 5]),
        (MANY, 499, [2, 3, 4, 5]),
        (MANY, 99, []),
        (4, 250, [4, 5]),
    ],
)
def test_within_the_bounds_the_newest_are_kept(messages: int, size: int, kept: list[int]) -> None:
    remembered = History(messages, size)
    for number in range(1, 6):
        remembered.add(message(number, number, 100))
    remembered.evict()
    assert ids(remembered) == kept
    assert remembered.deleted_through == 5 - len(kept)


@pytest.mark.parametrize("by_expiry", [True, False])
def test_bytes_that_are_forgotten_make_room_again(by_expiry: bool) -> None:
    remembered = History(MANY, 300)
    for number in range(1, 50):
        remembered.add(message(number, number, 100))
        remembered.expire(number - 3 if by_expiry else 0)
        remembered.evict()
        assert ids(remembered) == [*range(max(1, number - 2), number + 1)]
    assert (remembered.gap(0, 0) == ReplayGap(1, 46, "expired")) is by_expiry  # then the bound was never passed


def test_ids_go_on_where_all_has_been_forgotten() -> None:
    remembered = history(5, expired=5)
    assert (remembered.last_id, remembered.deleted_through) == (5, 5)
    remembered.add(message(6, 6, 1))
    assert (remembered.last_id, remembered.deleted_through, ids(remembered)) == (6, 5, [6])


@pytest.mark.parametrize("evict", [True, False])
def test_a_ref_is_forgotten_with_its_message_alone(evict: bool) -> None:
    ack = Ack(id=1, timestamp=0, recipients=0)
    alice: Refs = {"a": ack, "b": ack}
    bob: Refs = {"a": ack}
    remembered = History(2, BYTES)
    remembered.add(message(1, 1, 1, alice, "a"))
    remembered.add(message(2, 2, 1))
    if evict:
        remembered.add(message(3, 3, 1, alice, "b"))
        remembered.evict()
    else:
        remembered.add(message(3, 3, 1, alice, "b"))
        remembered.expire(1)
    assert (list(alice), list(bob)) == (["b"], ["a"])


def test_a_cleared_history_holds_no_message() -> None:
    remembered = history(3)
    remembered.clear()
    assert (ids(remembered), remembered.oldest_deadline) == ([], None)
    remembered.add(message(4, 4, BYTES))  # nor does it count one
    remembered.evict()
    assert ids(remembered) == [4]


def test_a_history_continues_another_and_takes_no_message_twice() -> None:
    remembered = history(2)
    remembered.restore([message(2, 9.0), message(3, 9.0)], last_id=7)
    assert (ids(remembered), remembered.last_id) == ([1, 2, 3], 7)


@pytest.mark.parametrize(
    "since, replayed", [(0, [1, 2, 6, 7]), (2, [6, 7]), (4, [6, 7]), (5, [6, 7]), (6, [7]), (7, [])]
)
def test_messages_after_unused_ids_are_replayed_too(since: int, replayed: list[int]) -> None:
    remembered = history(2)
    remembered.restore([], last_id=5)
    for number in (6, 7):
        remembered.add(message(number, 9.0))
    assert ids(remembered, since) == replayed
