"""The limit on descriptors: how far it is raised, the bound on connections that follows, and the warning."""

from typing import Optional

import pytest

from chat_actors.connection.descriptors import RESERVE, Shortage, fit_to_descriptors, lingerers, log_shortage
from chat_actors.settings import Settings
from tests.support.fakes import log_lines

INFINITY = -1


class FakeSystem:
    """Limits of a process. ``most``: the soft limit that the system allows, whatever the hard one says."""

    RLIMIT_NOFILE = 7
    RLIM_INFINITY = INFINITY

    def __init__(self, soft: int, hard: int, most: Optional[int] = None, error: Optional[Exception] = None) -> None:
        self.limits = soft, hard
        self._most = most
        self._error = error or ValueError()

    def getrlimit(self, resource: int, /) -> tuple[int, int]:
        assert resource == self.RLIMIT_NOFILE
        return self.limits

    def setrlimit(self, resource: int, limits: tuple[int, int], /) -> None:
        assert resource == self.RLIMIT_NOFILE
        soft, hard = limits
        assert soft >= self.limits[0] and hard == self.limits[1], "a limit was lowered, or the hard one changed"
        assert hard == INFINITY or soft <= hard
        if self._most is not None and soft > self._most:
            raise self._error
        self.limits = limits


def fit(connections: int, system: Optional[FakeSystem]) -> tuple[int, Optional[Shortage]]:
    """The bound on connections, and the shortage. No other setting changes."""
    settings = Settings.model_validate({"connections": connections, "topics": 5})
    fitted, shortage = fit_to_descriptors(settings, system)
    assert fitted.model_dump() == {**settings.model_dump(), "connections": fitted.connections}
    return fitted.connections, shortage


@pytest.mark.parametrize("hard", [10_000 + RESERVE, 1 << 20, INFINITY])
def test_the_soft_limit_is_raised_to_what_is_needed_and_no_further(hard: int) -> None:
    system = FakeSystem(1024, hard)
    assert fit(10_000, system) == (10_000, None)
    assert system.limits == (10_000 + RESERVE, hard)


@pytest.mark.parametrize("soft", [10_000 + RESERVE, 1 << 20, INFINITY])
def test_a_limit_that_is_high_enough_stays(soft: int) -> None:
    system = FakeSystem(soft, INFINITY)
    assert fit(10_000, system) == (10_000, None)
    assert system.limits == (soft, INFINITY)


def test_under_a_hard_limit_that_is_too_low_the_bound_is_what_remains() -> None:
    system = FakeSystem(256, 4096)
    assert fit(10_000, system) == (3072, Shortage(10_000 + RESERVE, 4096, 3072))
    assert system.limits == (4096, 4096)
    assert fit(100_000, FakeSystem(20_000, 20_000))[0] == 20_000 - RESERVE


@pytest.mark.parametrize(("limit", "bound"), [(1024, 768), (256, 192), (200, 136), (128, 64), (64, 32), (1, 1)])
def test_under_a_low_limit_both_connections_and_the_rest_have_their_part(limit: int, bound: int) -> None:
    assert fit(10_000, FakeSystem(limit, limit))[0] == bound
    assert fit(bound, FakeSystem(limit, limit)) == (bound, None)  # nobody misses a reserve that is not whole


@pytest.mark.parametrize("error", [ValueError("current limit exceeds maximum limit"), OSError(22, "Invalid argument")])
@pytest.mark.parametrize("most", [256, 257, 10_240, 12_047])
def test_where_the_system_allows_less_than_the_hard_limit_all_of_it_is_taken(most: int, error: Exception) -> None:
    system = FakeSystem(256, INFINITY, most, error)
    connections, shortage = fit(10_000, system)
    assert system.limits == (most, INFINITY)
    assert shortage == Shortage(10_000 + RESERVE, most, connections) if connections < 10_000 else shortage is None


def test_where_there_is_no_such_limit_nothing_changes() -> None:
    assert fit(10_000, None) == (10_000, None)


def test_a_shortage_is_one_warning_with_the_numbers_and_what_to_do() -> None:
    with log_lines() as lines:
        log_shortage(None)
        log_shortage(Shortage(12_048, 256, 192))
    (line,) = lines
    assert line.startswith("WARNING too few descriptors: raise the hard limit (LimitNOFILE, ulimit -Hn) or lower CHAT_")
    assert "{'wanted': 12048, 'allowed': 256, 'connections': 192}" in line


@pytest.mark.parametrize("limit", [64, 128, 256, 1024, 4096, 20_000, 1 << 20])
def test_those_that_are_turned_away_leave_half_of_the_reserve_to_the_rest(limit: int) -> None:
    connections, _ = fit(1 << 20, FakeSystem(limit, limit))
    assert 8 <= lingerers(connections) <= (limit - connections) // 2
