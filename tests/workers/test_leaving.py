"""The beginning of a worker's end: does the whole server end, or this worker alone?"""

import asyncio
from typing import Any, cast

import pytest

from chat_actors.counters import Counters
from chat_actors.settings import Settings
from chat_actors.workers.station import LEAVE_POLL_SECONDS, LEAVE_POLLS, Station
from tests.support.fakes import FakeClock, settle
from tests.support.server import in_loop


class Crew:
    """The others: how often they have been told that this worker ends, and whether they end too."""

    def __init__(self) -> None:
        self.told = 0
        self.last = False
        self.replaced = False

    def leave(self) -> None:
        self.told += 1

    def is_last(self) -> bool:
        return self.last


class Host:
    counters = Counters()


@pytest.fixture
def crew() -> Crew:
    return Crew()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def station(crew: Crew, clock: FakeClock) -> Station:
    one = Station(cast(Any, Host()), Settings.model_validate({}), clock)
    one.crew = cast(Any, crew)
    return one


@in_loop
async def test_a_worker_waits_until_the_others_have_said_that_they_end_too(
    station: Station, crew: Crew, clock: FakeClock
) -> None:
    leaving = asyncio.ensure_future(station.leave())
    await settle()
    await clock.advance(LEAVE_POLL_SECONDS)
    assert crew.told == 1 and not leaving.done()
    crew.last = True
    await clock.advance(LEAVE_POLL_SECONDS)
    assert leaving.done()


@in_loop
async def test_others_that_say_nothing_stay(station: Station, crew: Crew, clock: FakeClock) -> None:
    leaving = asyncio.ensure_future(station.leave())
    await settle()
    for _ in range(LEAVE_POLLS):
        assert not leaving.done()
        await clock.advance(LEAVE_POLL_SECONDS)
    assert leaving.done()


@in_loop
async def test_a_worker_without_others_waits_for_nobody(station: Station) -> None:
    station.crew = None
    await station.leave()


@pytest.mark.parametrize(("all_replaced", "listens"), [(True, True), (True, False), (False, True)])
@in_loop
async def test_workers_that_a_listening_parent_replaces_send_their_members_to_the_next(
    station: Station, crew: Crew, monkeypatch: pytest.MonkeyPatch, all_replaced: bool, listens: bool
) -> None:
    crew.last = True
    station.all_replaced = all_replaced
    monkeypatch.setattr("chat_actors.workers.station.shared_sockets", lambda: {1: 3} if listens else {})
    await station.leave()
    assert crew.replaced == (all_replaced and listens)
