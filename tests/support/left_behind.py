"""A check after each test: a process, descriptor, thread or file that the test leaves behind makes it fail.

Fixtures of the session, the module or the class exist before ``nothing_left_behind`` looks for the first time. So what
they hold does not count, unless they made it while the test ran.
"""

import ctypes
import gc
import importlib
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from tests.support.server import ROOT, free_ports

PATIENCE = 10.0  # seconds; only a test that leaves something behind waits so long
CACHES = re.compile(r"\.coverage|\.hypothesis$|\.pytest_cache$|__pycache__$")  # of the test runner
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary folder for this process and its children, so that a new file in it is from these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session", autouse=True)
def made_once() -> None:
    """Make what lasts as long as this process: its ports, Python's resource tracker, and uvloop's pipe for signals."""
    free_ports(1)
    with suppress(ImportError):
        importlib.import_module("uvloop").new_event_loop().close()
    if os.name == "posix":
        resource_tracker.ensure_running()


@pytest.fixture(scope="session", autouse=True)
def orphans_are_ours() -> None:
    """Make this process the parent of every orphan below it, so that none escapes the check (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@pytest.fixture(autouse=True)
def nothing_left_behind(own_temporary_folder: None, made_once: None, orphans_are_ours: None) -> Iterator[None]:
    before = set(traces())
    yield
    left = left_since(before)
    if left:
        gc.collect()  # Python warns of what was never closed, and says where it was opened
        deadline = time.monotonic() + PATIENCE
        while (left := left_since(before)) and time.monotonic() < deadline:
            _reap(left)
            time.sleep(0.01)
    assert not left, f"the test leaves behind: {', '.join(sorted(left))}"


def _reap(left: "set[str]") -> None:
    """Wait for orphans that have ended: no other parent does."""
    for one in left:
        kind, name = one.split()[:2]
        if kind == "process":
            with suppress(ChildProcessError):
                os.waitpid(int(name), os.WNOHANG)


def left_since(before: "set[str]") -> "set[str]":
    return set(traces()) - before


def traces() -> Iterator[str]:
    """Describe everything that exists now, in a few words each."""
    yield from (f"thread {one.name} {one.ident}" for one in threading.enumerate() if not one.name.startswith("Dummy-"))
    for folder in (tempfile.gettempdir(), str(ROOT)):
        yield from (f"file {folder}/{name}" for name in os.listdir(folder) if not CACHES.match(name))
    if sys.platform == "linux":
        yield from _processes()
        yield from _descriptors()


def _processes() -> Iterator[str]:
    for thread in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError):  # the thread has ended
            for pid in Path(f"/proc/self/task/{thread}/children").read_text().split():
                yield f"process {pid}"


def _descriptors() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            target = os.readlink(f"/proc/self/fd/{number}")
            if not target.startswith(("anon_inode:", "/dev/")):
                yield f"descriptor {target}"
