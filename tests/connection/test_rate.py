"""The token bucket that slows a sender down."""

import pytest

from chat_actors.connection.rate import TokenBucket


def test_a_burst_goes_through_at_any_speed() -> None:
    bucket = TokenBucket(rate=20, burst=100, now=0)
    assert [bucket.take(0) for _ in range(100)] == [0.0] * 100


def test_past_the_burst_each_frame_waits_for_its_turn() -> None:
    bucket = TokenBucket(rate=20, burst=3, now=0)
    now, waits = 0.0, []
    for _ in range(6):
        wait = bucket.take(now)
        waits.append(wait)
        now += wait
    assert waits == pytest.approx([0, 0, 0, 0.05, 0.05, 0.05])


def test_silence_fills_the_bucket_but_never_beyond_the_burst() -> None:
    bucket = TokenBucket(rate=20, burst=3, now=0)
    for _ in range(3):
        bucket.take(0)
    assert [bucket.take(1000), bucket.take(1000), bucket.take(1000)] == [0, 0, 0]
    assert bucket.take(1000) == pytest.approx(0.05)
