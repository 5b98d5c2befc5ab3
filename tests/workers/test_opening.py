"""The opening of a server process: whether it joins others, runs alone, or ends with a sentence."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from chat_actors.settings import Settings
from chat_actors.workers import opening
from chat_actors.workers.opening import (
    CLUSTER,
    NOT_UVICORN,
    REFUSED,
    STARTUP_FAILURE,
    TLS,
    TOO_MANY,
    YOUNG_SECONDS,
    Workers,
    end_the_server,
    load_settings_or_end,
)
from chat_actors.workers.siblings import Meeting
from chat_actors.workers.station import Station
from tests.support.crew.meeting import bound
from tests.support.crew.stations import SETTINGS, FakeHost
from tests.support.fakes import in_clean_loop, settle

LIFESPAN: dict[str, Any] = {"type": "lifespan"}
REQUEST: dict[str, Any] = {"type": "http"}
NODE = Settings.model_validate({"cluster": "tcp/127.0.0.1:7447,tcp/127.0.0.1:7448"})


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit codes of this process, which goes on."""
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(opening, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(opening, "POLL_SECONDS", 0.01)
    return codes


class Lifespan:
    """Sends for a host. As uvicorn's, or as another one's."""

    def __init__(self, uvicorn: bool = True, tls: bool = False, workers: Optional[int] = 2) -> None:
        self.config = SimpleNamespace(is_ssl=tls, workers=workers, fd=3)
        kind = type("LifespanOn", (), {"send": lambda self, event: None, "config": self.config})
        kind.__module__ = "uvicorn.lifespan.on" if uvicorn else "granian.asgi"
        self.send = kind().send


class Process:
    """Process with its own ``Workers``."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.workers = Workers(settings)
        self.workers.host = FakeHost()

    async def open(self, send: Any = None, scope: "dict[str, Any]" = LIFESPAN) -> None:
        await self.workers.open(scope, send or Lifespan().send)

    async def close(self) -> None:
        if self.workers.station is not None:
            await self.workers.station.close()
        if self.workers._alone is not None:
            self.workers._alone.close()


@asynccontextmanager
async def processes(
    monkeypatch: pytest.MonkeyPatch, *settings: Settings, shared: bool = True
) -> AsyncIterator[list[Process]]:
    """Processes that have a listening socket in common with their parent, unless they are not ``shared``."""
    with bound() as sockets:
        monkeypatch.setattr(opening, "shared_sockets", lambda: sockets if shared else {})
        made = [Process(one) for one in settings]
        try:
            yield made
        finally:
            for process in made:
                await process.close()


# Alone.


@pytest.mark.parametrize("workers", [None, 1])
@in_clean_loop
async def test_a_process_without_siblings_opens_nothing(
    monkeypatch: pytest.MonkeyPatch, ends: list[int], workers: Optional[int]
) -> None:
    async with processes(monkeypatch, SETTINGS, shared=False) as (one,):
        await one.open(Lifespan(workers=workers).send)
        assert (one.workers.station, one.workers._alone, ends) == (None, None, [])


@pytest.mark.parametrize(
    ("settings", "send", "reason"),
    [
        (SETTINGS, Lifespan(uvicorn=False).send, NOT_UVICORN),
        (SETTINGS, print, NOT_UVICORN),
        (NODE, Lifespan().send, CLUSTER),
        (SETTINGS, Lifespan(tls=True).send, TLS),
    ],
)
@in_clean_loop
async def test_where_siblings_cannot_be_joined_one_worker_alone_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: Settings, send: Any, reason: str
) -> None:
    async with processes(monkeypatch, settings, settings, settings) as (one, other, late):
        await one.open(send)
        assert one.workers.station is None
        with pytest.raises(Ended):
            await other.open(send)
        assert capsys.readouterr().err == f"{REFUSED}{reason}\n"
        monkeypatch.setattr(opening, "WAIT_SECONDS", 30.0)
        opening_late = asyncio.ensure_future(late.open(send))  # as in a reload: the one before it ends meanwhile
        await settle()
        assert one.workers._alone is not None
        one.workers._alone.close()
        await opening_late
        assert late.workers._alone is not None


@in_clean_loop
async def test_a_uvicorn_that_opens_its_port_itself_looks_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent may have left it a listening socket of another server."""
    async with processes(monkeypatch, SETTINGS, NODE) as several:
        for one in several:
            send = Lifespan(workers=1)
            send.config.fd = None
            await one.open(send.send)
            assert (one.workers.station, one.workers._alone) == (None, None)


# With siblings.


@in_clean_loop
async def test_workers_of_uvicorn_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    async with processes(monkeypatch, SETTINGS, SETTINGS) as (one, other):
        await one.open()
        await other.open()
        stations = one.workers.station, other.workers.station
        assert [station and station.crew and {*station.crew.siblings} for station in stations] == [{1}, {0}]


@in_clean_loop
async def test_there_may_be_too_many_workers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Meeting, "listen", lambda *_: None)
    async with processes(monkeypatch, SETTINGS) as (one,):
        with pytest.raises(Ended):
            await one.open()
    assert capsys.readouterr().err == f"{REFUSED}{TOO_MANY}\n"


@in_clean_loop
async def test_a_worker_that_cannot_join_the_others_for_any_reason_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fails(*_: object) -> bool:
        raise MemoryError("no file can be made")

    monkeypatch.setattr(Station, "open", fails)
    async with processes(monkeypatch, SETTINGS) as (one,):
        with pytest.raises(Ended):
            await one.open()
    assert "The others cannot be joined: MemoryError('no file can be made')." in capsys.readouterr().err


@in_clean_loop
async def test_nothing_is_served_before_the_others_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without a lifespan: its first request opens, and those beside it wait."""
    opened: list[int] = []
    go = asyncio.Event()

    async def slow(*_: object) -> bool:
        opened.append(1)
        await go.wait()
        return True

    monkeypatch.setattr(Station, "open", slow)
    async with processes(monkeypatch, SETTINGS) as (one,):
        requests = [asyncio.ensure_future(one.open(scope=REQUEST)) for _ in range(3)]
        await settle()
        requests[0].cancel()  # its peer has gone: the others need what it has begun
        await settle()
        assert [request.done() for request in requests] == [True, False, False]
        go.set()
        await asyncio.gather(*requests[1:])
        await one.open(scope=REQUEST)
        assert opened == [1]
        await one.open(scope=LIFESPAN)
        assert opened == [1, 1]


# The end of a process that may not run.


@pytest.mark.parametrize(
    ("age", "code", "signals"),
    [(0.0, STARTUP_FAILURE, [signal.SIGTERM]), (YOUNG_SECONDS, 1, [])],
)
def test_a_young_server_is_ended_with_its_worker(
    monkeypatch: pytest.MonkeyPatch, ends: list[int], age: float, code: int, signals: list[int]
) -> None:
    """One that has run for long is not ended by a further worker."""
    sent: list[int] = []
    monkeypatch.setattr(opening, "_age", lambda _: age)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(pid=os.getppid()))
    with pytest.raises(Ended):
        end_the_server()
    assert (ends, sent) == ([code], signals)


@pytest.mark.parametrize("parent", [None, SimpleNamespace(pid=-1)])
def test_a_parent_that_is_not_uvicorns_gets_no_signal(
    monkeypatch: pytest.MonkeyPatch, ends: list[int], parent: Any
) -> None:
    monkeypatch.setattr(opening, "_age", lambda _: 0.0)
    monkeypatch.setattr(os, "kill", pytest.fail)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    with pytest.raises(Ended):
        end_the_server()
    assert ends == [STARTUP_FAILURE]


def test_the_age_of_a_process_is_known_whatever_its_name() -> None:
    assert 0.0 < opening._age(os.getpid()) < 86_400.0
    assert opening._age(-1) == 0.0


def test_an_age_with_any_name_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_text

    def renamed(self: Path, *arguments: Any) -> str:
        return real(self, *arguments).replace("(", "(a name) with (", 1)

    before = opening._age(os.getpid())
    monkeypatch.setattr(Path, "read_text", renamed)
    assert before <= opening._age(os.getpid()) < before + 60


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CHAT_TOPICS", "no number")
    yield


def test_right_settings_are_returned() -> None:
    assert isinstance(load_settings_or_end(), Settings)


@pytest.mark.parametrize("shared", [False, True])
def test_wrong_settings_of_a_worker_end_its_server_too(
    monkeypatch: pytest.MonkeyPatch, wrong: None, ends: list[int], shared: bool
) -> None:
    monkeypatch.setattr(opening, "shared_sockets", lambda: {1: 2} if shared else {})
    monkeypatch.setattr(opening, "_age", lambda _: YOUNG_SECONDS)
    with pytest.raises(Ended if shared else SystemExit):
        load_settings_or_end()
    assert ends == ([1] if shared else [])
