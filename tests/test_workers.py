"""Several workers would split every topic: the one deployment that is refused."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Callable

import pytest

from chat_actors.workers import STARTUP_FAILURE, refuse_several_workers, workers_asked_for
from tests.server import PATIENCE, ROOT, Server

PARENT = 4711
SENTENCE = "chat_actors keeps its topics in the memory of one process: several workers would split every topic"


@pytest.mark.parametrize(
    ("argv", "environ", "count"),
    [
        ("uvicorn app", {}, 1),
        ("uvicorn app --workers 2", {}, 2),
        ("uvicorn --workers=3 app", {}, 3),
        ("gunicorn -w 4 app", {}, 4),
        ("gunicorn -w4 app", {}, 4),
        ("uvicorn app", {"WEB_CONCURRENCY": "5"}, 5),
        ("gunicorn app", {"GUNICORN_CMD_ARGS": "--bind=127.0.0.1 --workers=6"}, 6),
        ("gunicorn app", {"GUNICORN_CMD_ARGS": "-w 7"}, 7),
        # An option beats a variable, the later one the earlier.
        ("uvicorn app --workers 1", {"WEB_CONCURRENCY": "5"}, 1),
        ("gunicorn app -w 1", {"GUNICORN_CMD_ARGS": "-w 7", "WEB_CONCURRENCY": "5"}, 1),
        ("gunicorn app", {"GUNICORN_CMD_ARGS": "-w 7", "WEB_CONCURRENCY": "5"}, 7),
        ("gunicorn -w 2 --workers=8 app", {}, 8),
        # What is not a number is for the server to refuse.
        ("uvicorn app --workers many", {}, 1),
        ("uvicorn app --workers", {}, 1),
        ("uvicorn app", {"WEB_CONCURRENCY": ""}, 1),
    ],
)
def test_the_number_of_workers_is_found_where_uvicorn_and_gunicorn_look_for_it(
    argv: str, environ: dict[str, str], count: int
) -> None:
    assert workers_asked_for(argv.split(), environ) == count


class Process:
    """This process as it may find itself; what it would kill is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.killed: list[tuple[int, int]] = []
        self._patch = monkeypatch
        monkeypatch.setattr("os.kill", lambda pid, number: self.killed.append((pid, number)))
        monkeypatch.setattr("os.getppid", lambda: PARENT)
        for name in ("WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"):
            monkeypatch.delenv(name, raising=False)

    def is_started(self, argv: str, by_multiprocessing: bool) -> None:
        parent = SimpleNamespace(pid=PARENT) if by_multiprocessing else None
        self._patch.setattr("sys.argv", argv.split())
        self._patch.setattr("multiprocessing.parent_process", lambda: parent)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(monkeypatch)


@pytest.mark.parametrize(
    ("argv", "by_multiprocessing"),
    [
        ("/bin/uvicorn app", False),
        ("/bin/uvicorn app --reload", True),  # the reloader is a parent of one
        ("/bin/uvicorn app --workers 1", True),
        ("/bin/gunicorn app -k uvicorn_worker.UvicornWorker", False),  # a fork: multiprocessing knows no parent
        ("pytest -w 2", False),  # another program's own option
    ],
)
def test_one_process_may_start(process: Process, argv: str, by_multiprocessing: bool) -> None:
    process.is_started(argv, by_multiprocessing)
    refuse_several_workers()
    assert process.killed == []


@pytest.mark.parametrize(
    ("argv", "by_multiprocessing", "killed"),
    [
        ("/bin/uvicorn app --workers 2", True, [(PARENT, signal.SIGTERM)]),
        ("/lib/uvicorn/__main__.py app --workers=2", True, [(PARENT, signal.SIGTERM)]),
        ("/bin/gunicorn app -w 2", False, []),  # ends by itself when a worker ends so
    ],
)
def test_one_of_several_workers_ends_with_a_sentence_and_ends_its_server(
    process: Process,
    argv: str,
    by_multiprocessing: bool,
    killed: list[tuple[int, int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    process.is_started(argv, by_multiprocessing)
    with pytest.raises(SystemExit) as ended:
        refuse_several_workers()
    assert ended.value.code == STARTUP_FAILURE
    assert process.killed == killed
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(SENTENCE)
    assert line.endswith("Start it with one worker.")


def test_a_worker_whose_server_has_ended_ends_nobody_else(
    process: Process, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process.is_started("/bin/uvicorn app --workers 2", by_multiprocessing=True)
    monkeypatch.setattr("os.getppid", lambda: 1)  # init has adopted it
    with pytest.raises(SystemExit):
        refuse_several_workers()
    assert process.killed == []
    assert capsys.readouterr().err.startswith(SENTENCE)


def test_uvicorn_with_two_workers_says_why_not_and_ends() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "uvicorn", "chat_actors.app:app", "--port", "0", "--workers", "2"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("CHAT_")},
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=3 * PATIENCE,
    )
    assert SENTENCE in process.stderr
    assert "Traceback" not in process.stderr
    assert "Application startup complete" not in process.stderr


def test_uvicorn_with_one_worker_starts(start: Callable[..., Server]) -> None:
    server = start("uvicorn", "chat_actors.app:app", "--port", "0", "--workers", "1")
    server.wait_for("Application startup complete")
    server.terminate()
