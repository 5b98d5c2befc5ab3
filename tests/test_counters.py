"""Histogram: which bucket a measurement is counted in. Totals: what they keep of many topics."""

import pytest

from chat_actors.counters import Histogram, TopicStatistics, Totals


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
