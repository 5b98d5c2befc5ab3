"""The check against several workers without a cluster, which would split every topic."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Callable

import pytest
import uvicorn

from chat_actors.workers import STARTUP_FAILURE, refuse_several_workers, workers_of_the_server
from tests.support.server import PATIENCE, ROOT, Server

PARENT = 4711
SENTENCE = "chat_actors keeps its topics in the memory of one process: several workers would split every topic."

PROGRAM = """
import uvicorn
if __name__ == "__main__":
    uvicorn.run("chat_actors.app:app", port=0, workers=2)
"""
UVICORN = "-m", "uvicorn", "chat_actors.app:app", "--port", "0"
GUNICORN = "-m", "gunicorn", "chat_actors.app:app", "--bind", "127.0.0.1:0"
WAYS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "uvicorn's option": ((*UVICORN, "--workers", "2"), {}),
    "uvicorn's variable": (UVICORN, {"UVICORN_WORKERS": "2"}),
    "a variable": (UVICORN, {"WEB_CONCURRENCY": "2"}),
    "a program of one's own": (("program.py",), {}),
    "gunicorn's option": ((*GUNICORN, "-w", "2"), {}),
    "gunicorn's variable": (GUNICORN, {"GUNICORN_CMD_ARGS": "-w 2"}),
    "gunicorn's file": ((*GUNICORN, "-c", "config.py"), {}),
    "gunicorn with the application loaded before": ((*GUNICORN, "-w", "2", "--preload"), {}),
    "two workers as one node": ((*UVICORN, "--workers", "2"), {"CHAT_CLUSTER": "tcp/127.0.0.1:7447"}),
    "three workers as two nodes": (
        (*UVICORN, "--workers", "3"),
        {"CHAT_CLUSTER": "tcp/127.0.0.1:7447, tcp/127.0.0.1:7448,"},
    ),
}


@pytest.mark.parametrize(("command", "variables"), WAYS.values(), ids=WAYS)
def test_a_server_with_two_workers_says_why_not_and_ends(
    command: tuple[str, ...], variables: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "config.py").write_text("workers = 2\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
    process = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(ROOT), **variables},
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=3 * PATIENCE,
    )
    assert SENTENCE in process.stderr
    assert "Traceback" not in process.stderr or "gunicorn" in command  # gunicorn's main process may show its own
    assert "Application startup complete" not in process.stderr


@pytest.mark.parametrize("option", [["--workers", "1"], ["--reload"]], ids=" ".join)
def test_a_server_with_one_worker_starts(start: Callable[..., Server], option: list[str]) -> None:
    server = start("uvicorn", "chat_actors.app:app", "--port", "0", *option)
    server.wait_for("Application startup complete")
    server.kill()


# The process that imports the application.


class Importing:
    """Stand-in for the object of a server that imports the application: it is on the stack."""

    def __init__(self, config: object) -> None:
        self.cfg = config

    def count(self) -> int:
        return workers_of_the_server()

    def refuse(self) -> None:
        refuse_several_workers()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """This process is a worker of a server. Returns the signals that it sends: process and number."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr("multiprocessing.parent_process", lambda: SimpleNamespace(pid=PARENT))
    return sent


def test_the_number_is_taken_from_the_server_that_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    config = uvicorn.Config("app", workers=3)
    assert workers_of_the_server() == 1
    assert Importing(SimpleNamespace(workers=3)).count() == 1  # no server's configuration
    assert Importing(config).count() == 1  # uvicorn ignores it in a process without a parent
    monkeypatch.setattr("multiprocessing.parent_process", lambda: SimpleNamespace(pid=PARENT))
    assert Importing(config).count() == 3
    assert Importing(uvicorn.Server(config)).count() == 1  # uvicorn's, but not a configuration


@pytest.mark.parametrize(("parent", "killed"), [(PARENT, [(PARENT, signal.SIGTERM)]), (1, [])])
def test_a_worker_ends_its_server_unless_that_has_ended(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    worker: list[tuple[int, int]],
    parent: int,
    killed: list[tuple[int, int]],
) -> None:
    monkeypatch.setattr("os.getppid", lambda: parent)  # 1: init has adopted it
    with pytest.raises(SystemExit) as ended:
        Importing(uvicorn.Config("app", workers=2)).refuse()
    assert ended.value.code == STARTUP_FAILURE
    assert worker == killed
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(SENTENCE)
    assert line.endswith("Start one worker, or list one endpoint for each worker in CHAT_CLUSTER.")


@pytest.mark.usefixtures("worker")
def test_the_refusal_is_a_single_write_because_each_worker_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("sys.stderr.write", written.append)
    with pytest.raises(SystemExit):
        Importing(uvicorn.Config("app", workers=2)).refuse()
    (line,) = written
    assert line.endswith("in CHAT_CLUSTER.\n")


@pytest.mark.usefixtures("worker")
def test_as_many_workers_as_endpoints_are_not_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHAT_CLUSTER", "tcp/127.0.0.1:7447, tcp/127.0.0.1:7448,")
    Importing(uvicorn.Config("app", workers=2)).refuse()
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit):
        Importing(uvicorn.Config("app", workers=3)).refuse()


@pytest.mark.usefixtures("worker")
def test_several_workers_with_a_wrong_setting_end_their_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHAT_CLUSTER", "localhost:7447,localhost:7448")
    with pytest.raises(SystemExit) as ended:
        Importing(uvicorn.Config("app", workers=2)).refuse()
    assert ended.value.code == STARTUP_FAILURE
    assert capsys.readouterr().err.startswith("CHAT_CLUSTER=localhost:7447,localhost:7448: ")


def test_a_single_process_is_not_refused(capsys: pytest.CaptureFixture[str]) -> None:
    refuse_several_workers()
    assert capsys.readouterr().err == ""
