"""The start of a worker: what the log says of it, and which processes are workers of uvicorn."""

import logging
import multiprocessing
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chat_actors.settings import Settings
from chat_actors.workers import opening
from chat_actors.workers.opening import NOT_LINUX, Workers
from tests.support.server import in_loop

SEND = cast(Any, SimpleNamespace(__self__=SimpleNamespace(config=SimpleNamespace(workers=2))))


@pytest.mark.parametrize(("family", "host", "shown"), [("INET", "127.0.0.1", "127.0.0.1"), ("INET6", "::1", "[::1]")])
def test_the_first_worker_logs_the_address_like_uvicorn(
    monkeypatch: pytest.MonkeyPatch, family: str, host: str, shown: str
) -> None:
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "handle", records.append)
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "isEnabledFor", lambda _: True)
    with socket.socket(getattr(socket, f"AF_{family}")) as sock, socket.socket(socket.AF_UNIX) as unix:
        sock.bind((host, 0))
        unix.bind("")
        opening._log_start({1: sock.fileno(), 2: unix.fileno()})
        port = sock.getsockname()[1]
        assert unix.getsockname() is not None
    (record,) = records
    assert record.getMessage() == f"Uvicorn running on http://{shown}:{port}"
    assert cast(Any, record.args)[1] == host


@pytest.mark.parametrize("forked", [True, False])
@in_loop
async def test_a_worker_of_uvicorn_that_cannot_see_what_is_shared_is_refused(
    monkeypatch: pytest.MonkeyPatch, forked: bool
) -> None:
    refused: list[str] = []
    monkeypatch.setattr(opening, "shared_sockets", dict)
    monkeypatch.setattr(opening, "refuse", refused.append)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object() if forked else None)
    await Workers(Settings.model_validate({})).open({"type": "lifespan"}, SEND)
    # A program that runs a single server may have WEB_CONCURRENCY set.
    assert refused == ([NOT_LINUX] if forked else [])


@pytest.mark.parametrize("first", [True, False])
@in_loop
async def test_one_worker_alone_logs_the_start(monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    class Station:
        def __init__(self, host: object, settings: Settings) -> None:
            self.is_first = first
            self.all_replaced = False

        async def open(self, meeting: object) -> bool:
            return True

    logged: list[object] = []
    monkeypatch.setattr(opening, "shared_sockets", lambda: {1: 3})
    monkeypatch.setattr(opening, "is_uvicorn", lambda send: True)
    monkeypatch.setattr(opening, "opens_own_sockets", lambda send: False)
    monkeypatch.setattr(opening, "_log_start", logged.append)
    monkeypatch.setattr("chat_actors.workers.station.Station", Station)
    workers = Workers(Settings.model_validate({}))
    workers.host = cast(Any, object())
    await workers.open({"type": "lifespan"}, SEND)
    assert logged == ([{1: 3}] if first else [])
    assert cast(Any, workers.station).all_replaced  # for no parent of uvicorn's has started this process
