"""The histogram: which bucket a measurement is counted in."""

import pytest

from chat_actors.counters import Histogram


@pytest.mark.parametrize(("value", "place"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (255, 8), (256, 9), (10**6, 9)])
def test_a_histogram_counts_by_powers_of_two(value: int, place: int) -> None:
    histogram = Histogram(1, 9)
    histogram.add(value)
    assert histogram.counts == [int(at == place) for at in range(10)]
    assert histogram.sum == value
