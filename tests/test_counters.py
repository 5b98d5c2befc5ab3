"""Histogram: which bucket a measurement is counted in. Counters and snapshots: what several make together."""

import msgspec
import pytest

from chat_actors.counters import Counters, Histogram, Statistics, TopicStatistics, Totals


@pytest.mark.parametrize(("value", "place"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (255, 8), (256, 9), (10**6, 9)])
def test_a_histogram_counts_by_powers_of_two(value: int, place: int) -> None:
    histogram = Histogram(1, 9)
    histogram.add(value)
    assert histogram.counts == [int(at == place) for at in range(10)]
    assert histogram.sum == value


def test_totals_are_the_same_whether_topics_are_added_at_once_or_one_by_one() -> None:
    topics = [TopicStatistics(place, place % 3, place, float(place)) for place in range(1, 40)]
    at_once, one_by_one = Totals(), Totals()
    at_once.add(topics)
    for topic in topics:
        one_by_one.add([topic])
    assert at_once == one_by_one
    assert (at_once.topics, at_once.users, at_once.mail, at_once.mail_age) == (39, 780, 780, 39.0)
    assert (at_once.max_users, at_once.max_messages, at_once.max_mail) == (39, 2, 39)


def test_counters_add_the_values_of_others_to_their_own() -> None:
    own, other = Counters(), Counters()
    own.accepted, own.refused["invalid_json"] = 2, 1
    other.accepted, other.refused["invalid_json"], other.closed[1013] = 3, 4, 5
    for seconds in (0.1, 0.2):
        own.lag.add(seconds)
        other.lag.add(seconds)
    counts, total = [*own.lag.counts], own.lag.sum
    own.add(msgspec.msgpack.decode(msgspec.msgpack.encode(other.values())))  # as it comes from another process
    assert (own.accepted, own.refused, own.closed) == (5, {"invalid_json": 5}, {1013: 5})
    assert (own.lag.counts, own.lag.sum) == ([2 * count for count in counts], 2 * total)
    assert other.values() != Counters().values() == Counters().values()


def test_statistics_of_two_processes_are_sums_and_the_largest_of_each() -> None:
    one = Statistics(10, Totals(2, 20, 5, 0.5, 15, 7, 3), max_waiting=100, mail=1, bytes_out=1000)
    other = Statistics(1, Totals(1, 2, 1, 2.0, 2, 9, 1), max_waiting=300, mail=2, bytes_out=10)
    one.add(other)
    assert one == Statistics(11, Totals(3, 22, 6, 2.0, 15, 9, 3), max_waiting=300, mail=3, bytes_out=1010)
