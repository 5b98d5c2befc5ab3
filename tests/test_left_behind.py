"""Whatever a test leaves behind fails it, and nothing else does."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.server import PATIENCE, ROOT

TESTS = '''
import asyncio, os, socket, subprocess, sys, tempfile, threading
import pytest
from tests.support import left_behind

left_behind.PATIENCE = 0.0
WAITER = [sys.executable, "-c", "input()"]  # for the end of its input, which is at the latest that of the tests
kept = []

@pytest.fixture(scope="module")
def shared():
    with socket.socket() as listener, subprocess.Popen(WAITER, stdin=subprocess.PIPE) as process:
        yield
        process.kill()

@pytest.fixture
def input_of_another():
    """It is there before the test, and goes behind it."""
    reading, writing = os.pipe()
    kept.append(writing)
    yield reading
    os.close(reading)

def test_tidy(shared, tmp_path):
    (tmp_path / "file").touch()
    with socket.socket(), tempfile.TemporaryDirectory(), open(__file__):
        subprocess.run([sys.executable, "-c", ""], check=True)
    asyncio.run(asyncio.to_thread(print))

def test_process():
    kept.append(subprocess.Popen(WAITER, stdin=subprocess.PIPE))

def test_orphan(input_of_another):
    parent = f"import subprocess; subprocess.Popen({WAITER})"
    subprocess.run([sys.executable, "-c", parent], stdin=input_of_another, check=True)

def test_socket():
    kept.append(socket.socket())

def test_file():
    kept.append(tempfile.mkdtemp())

def test_open_file():
    kept.append(open(__file__))

def test_thread():
    kept.append(threading.Thread(target=threading.Event().wait, daemon=True))
    kept[-1].start()

def test_loop():
    kept.append(asyncio.new_event_loop())

def test_tidy_behind_them(shared):
    pass
'''


def test_processes_sockets_files_and_threads_that_a_test_leaves_behind_fail_it(tmp_path: Path) -> None:
    (tmp_path / "test_them.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.left_behind", "-p", "no:cacheprovider", "-rA"]
    run = subprocess.run(
        [*command, "--basetemp", str(tmp_path / "temporary"), "test_them.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "", "COLUMNS": "500"},
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    errors = re.findall(
        r"^ERROR test_them.py::test_(\w+) - AssertionError: the test leaves behind: (.*)$", run.stdout, re.M
    )
    assert {test: {one.split()[0] for one in left.split(", ")} for test, left in errors} == {
        "process": {"process", "descriptor"},
        "orphan": {"process", "descriptor"},
        "socket": {"descriptor"},
        "file": {"file"},
        "open_file": {"descriptor"},
        "thread": {"thread"},
        "loop": {"descriptor"},
    }, run.stdout
    assert "9 passed, 7 errors" in run.stdout
