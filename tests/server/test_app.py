"""The application of a server process, in this process: what its module changes here is undone after each test."""

import gc
import json
import math
import resource
import runpy
import warnings
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from loguru import logger

from tests.support.logs import logging_restored

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer releases of Starlette would rather have httpx2
    from starlette.testclient import TestClient


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    threshold, descriptors = gc.get_threshold(), resource.getrlimit(resource.RLIMIT_NOFILE)
    with logging_restored():
        yield
    gc.set_threshold(*threshold)
    resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)


def load() -> FastAPI:
    """Run the module, as uvicorn does when it imports it."""
    app = runpy.run_module("chat_actors.app")["app"]
    assert isinstance(app, FastAPI)
    return app


def test_the_application_of_a_process_has_the_settings_of_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_MESSAGE_TTL", "2.5")
    with TestClient(load()) as host, host.websocket_connect("/ws") as alice:
        alice.send_json({"username": "alice", "topic": "sports"})
        assert alice.receive_json()["ttl"] == 2.5


def test_the_log_of_a_process_is_as_its_environment_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHAT_LOG_JSON", "1")
    monkeypatch.setenv("CHAT_LOG_LEVEL", "WARNING")
    monkeypatch.setenv("CHAT_CONNECTIONS", "10")  # for which every system has descriptors
    load()
    logger.info("too much")
    logger.warning("enough")
    logger.remove()  # writes what waits
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "enough"


def test_a_process_raises_its_limit_on_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    monkeypatch.setenv("CHAT_CONNECTIONS", "250")
    load()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 250


def test_a_process_looks_at_its_oldest_objects_seldom() -> None:
    before = math.prod(gc.get_threshold())  # new objects, until all objects are looked at
    load()
    assert math.prod(gc.get_threshold()) > 100 * before
