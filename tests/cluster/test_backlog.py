"""The parcels of a topic's window: kept in order, with bounds of time and size, for the next owner."""

from math import inf

import pytest

from chat_actors.cluster.backlog import Backlog, Ration, acks_in
from chat_actors.cluster.wire import Kept, Parcel

ACK, NOTHING = b"an ack", b""


def parcel(number: int, *frames: bytes) -> Parcel:
    return Parcel("line", number, number, list(frames), [], [])


def numbers(backlog: Backlog) -> list[int]:
    return [one.number for one in backlog.after(0)]


def test_it_keeps_parcels_in_order_with_the_seconds_that_are_left_of_them() -> None:
    backlog = Backlog(30.0, 1000)
    first, second = parcel(1, b"a"), parcel(2, b"b")
    backlog.add(first, 100.0)
    backlog.add(second, 110.0)
    assert backlog.kept(120.0, Ration(inf)) == [Kept(10.0, first), Kept(20.0, second)]
    assert len(backlog) == 2


def test_a_parcel_from_elsewhere_is_kept_as_long_as_it_is_said_to_be() -> None:
    backlog = Backlog(30.0, 1000)
    backlog.restore(parcel(7), 105.0)
    backlog.add(parcel(8), 100.0)
    assert [kept.remaining for kept in backlog.kept(100.0, Ration(inf))] == [5.0, 30.0]
    backlog.expire(105.0)
    assert numbers(backlog) == [8]


@pytest.mark.parametrize("now, left", [(129.9, [1, 2, 3]), (130.0, [2, 3]), (131.0, [3]), (140.0, [])])
def test_what_is_over_is_forgotten_oldest_first(now: float, left: list[int]) -> None:
    backlog = Backlog(30.0, 1000)
    for number, moment in ((1, 100.0), (2, 101.0), (3, 102.0)):
        backlog.add(parcel(number, b"x"), moment)
    backlog.expire(now)
    assert numbers(backlog) == left and len(backlog) == len(left)


@pytest.mark.parametrize("sizes, left", [([4, 3, 3], [1, 2, 3]), ([4, 3, 4], [2, 3]), ([1, 1, 10], [3]), ([1, 11], [])])
def test_no_more_bytes_are_kept_than_may_be(sizes: list[int], left: list[int]) -> None:
    backlog = Backlog(30.0, 10)
    for number, size in enumerate(sizes, 1):
        backlog.add(parcel(number, b"y" * (size - 1), b"y"), 100.0)
    assert numbers(backlog) == left


def test_the_newest_parcels_go_to_another_node_within_one_ration_for_all_backlogs() -> None:
    backlogs = [Backlog(30.0, 1000), Backlog(30.0, 1000)]
    for number, backlog in enumerate(backlogs):
        for size in (1, 2, 3):
            backlog.add(parcel(10 * number + size, b"x" * size), 100.0)
    for most, left in ((12, [[1, 2, 3], [11, 12, 13]]), (9, [[1, 2, 3], [13]]), (4, [[3], []]), (0, [[], []])):
        ration = Ration(most)
        kept = [backlog.kept(100.0, ration) for backlog in backlogs]
        assert [[one.parcel.number for one in of_one] for of_one in kept] == left


def test_what_is_too_much_for_a_ration_leaves_nothing_of_it() -> None:
    ration = Ration(10)
    assert ration.grants(9) and ration.grants(1) and ration.grants(0)
    assert not ration.grants(1) and not ration.grants(0)


def test_what_was_forgotten_makes_room() -> None:
    backlog = Backlog(30.0, 10)
    backlog.add(parcel(1, b"z" * 10), 100.0)
    backlog.expire(130.0)
    backlog.add(parcel(2, b"z" * 10), 130.0)
    assert numbers(backlog) == [2]
    backlog.clear()
    assert not backlog and backlog.kept(130.0, Ration(inf)) == []
    backlog.add(parcel(3, b"z" * 10), 130.0)
    assert numbers(backlog) == [3]


@pytest.mark.parametrize("number, left", [(0, [4, 5, 6]), (4, [5, 6]), (6, []), (9, [])])
def test_it_says_what_comes_behind_a_number(number: int, left: list[int]) -> None:
    backlog = Backlog(30.0, 1000)
    for one in (4, 5, 6):
        backlog.add(parcel(one), 100.0)
    assert [one.number for one in backlog.after(number)] == left


def test_it_knows_how_many_acks_each_member_has_had_and_counts_no_notices() -> None:
    backlog = Backlog(30.0, 1000)
    first, second = parcel(1), parcel(2)
    first.own = [("here", 1, 5, [(0, ACK), (1, NOTHING)], ""), ("there", 1, 0, [(2, ACK)], "")]
    second.own = [("here", 1, 6, [(0, ACK), (1, ACK)], ""), ("here", 2, 3, [(2, NOTHING)], "")]
    backlog.add(first, 100.0)
    backlog.add(second, 100.0)
    assert backlog.acked() == {("here", 1): 8, ("there", 1): 1, ("here", 2): 3}
    assert acks_in([first, second]) == {("here", 1): 3, ("there", 1): 1, ("here", 2): 0}


@pytest.mark.parametrize("had, through, acks", [(5, 2, b"fgh"), (6, 2, b"gh"), (7, 2, b"h"), (8, 2, b""), (5, 1, b"f")])
def test_it_has_the_acks_after_those_that_a_member_has_had(had: int, through: int, acks: bytes) -> None:
    backlog = Backlog(30.0, 1000)
    first, second = parcel(1), parcel(2)
    first.own = [("here", 1, 5, [(0, b"f"), (1, NOTHING)], ""), ("there", 1, 0, [(2, ACK)], "")]
    second.own = [("here", 1, 6, [(0, b"g"), (1, b"h")], "")]
    backlog.add(first, 100.0)
    backlog.add(second, 100.0)
    assert backlog.acks_behind({("here", 1): had, ("here", 2): 0}, through).get(("here", 1), b"") == acks
    assert backlog.acks_behind({}, through) == {}
