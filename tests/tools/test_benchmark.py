"""The benchmark: it runs and counts. These tests do not judge any speed."""

import re
import select
import sys

import pytest

from tests.tools.benchmark import fairness
from tests.tools.benchmark.__main__ import main, measure
from tests.tools.benchmark.cases import CASES, Case
from tests.tools.benchmark.servers import WORKERS, Server, ServerFailed, find_servers, running
from tests.tools.benchmark.wire import KEEP, frame, pongs

TINY = Case("tiny", members=3)
OURS = find_servers(None, None)[0][0]


def test_a_case_compares_this_server_with_the_naive_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CASES, TINY.name, TINY)

    main(["--case", "tiny", "--server", "ours", "--server", "naive", "--rounds", "1", "--seconds", "0.2"])

    _, heading, *lines = capsys.readouterr().out.splitlines()
    head, *rows = (re.split(" {2,}", line) for line in lines)
    costs = {row[0]: row[head.index("CPU us/delivery")] for row in rows}
    assert heading == "tiny: one room of 3, one sender, 1 in flight"
    assert list(costs) == ["ours", "naive"]
    assert "-" not in costs.values()  # as it stands without a delivery


def test_the_load_runs_without_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll", raising=False)

    assert measure(TINY, 0.2, OURS).deliveries > 0


def test_a_pair_is_measured_beside_a_silent_and_a_busy_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "LEAD_SECONDS", 0.1)

    with running(OURS) as server:
        result = fairness.measure_fairness(server, 0.1, crowd=TINY)

    assert min(result.idle_p50_ms, result.busy_p50_ms, result.crowd_rate) > 0


def test_a_server_that_does_not_start_is_reported_with_what_it_said() -> None:
    broken = Server("broken", "a broken server", (sys.executable, "-c", "print('no such thing')"))

    with pytest.raises(ServerFailed, match=r"broken did not start(?s:.)*no such thing"):
        measure(TINY, 0.1, broken)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(SystemExit, match="No server neither here"):
        main(["--server", "neither"])


def test_pings_are_answered_between_other_frames() -> None:
    length_like_a_ping = b"\x81\x7e\x00\x89" + b"x" * 0x89
    assert pongs(b"\x89\x04ping" + length_like_a_ping + b"\x89\x02hi") == frame(b"ping", 10) + frame(b"hi", 10)


def test_a_ping_that_is_not_there_to_its_end_waits_for_the_next_read() -> None:
    ping = b"\x89\x04ping"
    assert [pongs(ping[:size]) for size in range(len(ping))] == [b""] * len(ping)
    assert len(ping) <= KEEP


def test_two_workers_are_measured_together() -> None:
    (workers,) = (server for server in find_servers(None, None)[0] if server.name == WORKERS)

    result = measure(TINY, 0.2, workers)

    assert result.deliveries > 0 and result.cpu_us >= 0  # 0 within one tick; without /proc not-a-number
