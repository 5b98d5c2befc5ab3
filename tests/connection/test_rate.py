"""The token bucket that slows a sender down."""

import pytest

from chat_actors.connection.rate import Pace


def test_a_burst_goes_through_at_any_speed() -> None:
    pace = Pace(rate=20, burst=100, now=0)
    assert [pace.wait(0) for _ in range(100)] == [0.0] * 100


def test_past_the_burst_each_frame_waits_for_its_turn() -> None:
    pace = Pace(rate=20, burst=3, now=0)
    now, waits = 0.0, []
    for _ in range(6):
        wait = pace.wait(now)
        waits.append(wait)
        now += wait
    assert waits == pytest.approx([0, 0, 0, 0.05, 0.05, 0.05])


def test_silence_fills_the_bucket_but_never_beyond_the_burst() -> None:
    pace = Pace(rate=20, burst=3, now=0)
    for _ in range(3):
        pace.wait(0)
    assert [pace.wait(1000), pace.wait(1000), pace.wait(1000)] == [0, 0, 0]
    assert pace.wait(1000) == pytest.approx(0.05)
