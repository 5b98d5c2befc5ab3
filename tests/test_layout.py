"""The layout of the package: which way its imports run, and that importing it changes nothing."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.server import ROOT

PACKAGE = ROOT / "chat_actors"
# From top to bottom. A module imports only from rows below its own, or within its own package.
ROWS: tuple[tuple[str, ...], ...] = (
    ("app", "__main__"),
    ("__init__",),
    ("application",),
    ("operations", "page"),
    ("server",),
    ("workers", "cluster"),
    ("http_semantics",),
    ("connection",),
    ("actors",),
    ("room",),
    ("client",),
    ("client_handshake",),
    ("protocol",),
    ("settings", "clock", "counters", "version"),
    ("origins",),
)
ROW = {name: row for row, names in enumerate(ROWS) for name in names}
CYCLIC = "cluster"  # until it is rewritten


def modules() -> list[str]:
    """Every module of the package by its dotted name; a package's own code is ``package.__init__``."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]


def imports(module: str) -> Iterator[str]:
    """The modules of the package that a module imports: at its top, in its functions and for type checkers alone."""
    known = set(modules())
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            candidates = name, f"{name}.__init__", name.rpartition(".")[0], f"{name.rpartition('.')[0]}.__init__"
            yield from [one for one in candidates if one in known][:1]


def part(module: str) -> str:
    """The file or package directly below ``chat_actors`` that a module belongs to."""
    return module.split(".")[1]


def test_every_part_of_the_package_has_its_row() -> None:
    assert {part(module) for module in modules()} == set(ROW)


@pytest.mark.parametrize("module", modules())
def test_imports_run_from_the_top_to_the_bottom(module: str) -> None:
    upward = [
        other for other in imports(module) if part(other) != part(module) and ROW[part(other)] <= ROW[part(module)]
    ]
    assert upward == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    waiting = {module: set(imports(module)) - {module} for module in modules() if part(module) != CYCLIC}
    while free := {module for module, needs in waiting.items() if not needs & waiting.keys()}:
        waiting = {module: needs for module, needs in waiting.items() if module not in free}
    assert waiting == {}


def test_only_the_cluster_imports_its_engine() -> None:
    engine = [
        module
        for module in modules()
        if part(module) != "cluster"
        and "import zenoh" in (ROOT / module.replace(".", "/")).with_suffix(".py").read_text("utf-8")
    ]
    assert engine == []


# A host with settings of its own, and everything about the process that an import could change.
LOOK = """
import asyncio, atexit, decimal, gc, locale, logging, mimetypes, os, random, resource, signal, socket, sys, threading
import warnings

from loguru import logger

lines = []
logger.remove()
logger.add(lines.append, format="{message}")
gc.set_threshold(701, 11, 11)
for name in ("uvicorn", "uvicorn.error", "uvicorn.access", ""):
    logging.getLogger(name).addHandler(logging.NullHandler())
    logging.getLogger(name).setLevel(logging.CRITICAL)
os.environ["CHAT_TOPICS"] = "no number"  # which nothing may read yet
seen = []
real_frame = sys._getframe


def walked(depth=0):
    caller = real_frame(1).f_globals.get("__name__", "")
    if caller.startswith("chat_actors"):
        seen.append(caller)
    return real_frame(depth + 1)


def state():
    logger.info("still here")
    loggers = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "")]
    return {
        "lines": len(lines) - state.looks,
        "sinks": sorted(logger._core.handlers),
        "loguru": [{**logger._core.levels}, {**logger._core.extra}, logger._core.patcher],
        "silenced": [*logger._core.activation_list],
        "handlers": [(one.name, [*map(id, one.handlers)], one.level, one.propagate, one.filters) for one in loggers],
        "gc": (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "threads": threading.active_count(),
        "environment": dict(os.environ),
        "hooks": [sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook],
        "streams": [sys.stdout, sys.stderr],
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE),
        "directory": os.getcwd(),
        "recursion": sys.getrecursionlimit(),
        "paths": [[*sys.path], [*sys.meta_path], [*sys.path_hooks]],
        "files": sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None,
        "warnings": [*warnings.filters, warnings.showwarning],
        "loops": [asyncio.events._event_loop_policy, sys.get_asyncgen_hooks()],
        "exits": atexit._ncallbacks(),
        "rules": [locale.setlocale(locale.LC_ALL), repr(decimal.getcontext()), mimetypes.inited],
        "chance": hash(random.getstate()),
        "sockets": socket.getdefaulttimeout(),
        "disabled": [logging.root.manager.disable, logging.getLoggerClass(), logging.getLogRecordFactory()],
    }


state.looks = 0
before = state()
state.looks = 1
sys._getframe = walked
IMPORT
sys._getframe = real_frame
after = state()
assert before == after, (before, after)
assert not seen, seen
"""
VALID = 'os.environ["CHAT_TOPICS"] = before["environment"]["CHAT_TOPICS"] = "8000"'


def changes(statement: str) -> str:
    """What a statement changes in a process of its own, in its own words; empty if nothing."""
    host = LOOK.replace("IMPORT", statement)
    process = subprocess.run([sys.executable, "-c", host], cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8")
    assert bool(process.returncode) == bool(process.stderr)
    return process.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "from chat_actors.application import create_app",
        "from chat_actors import create_app",
        f"{VALID}\nfrom chat_actors import create_app\ncreate_app()",
        "import chat_actors.server, chat_actors.client, chat_actors.workers.station, chat_actors.operations.logs",
    ],
    ids=["application", "package", "create_app", "modules"],
)
def test_an_import_changes_nothing_in_the_process(statement: str) -> None:
    assert changes(statement) == ""


def test_the_module_for_a_process_of_its_own_does_change_it() -> None:
    told = changes(f"{VALID}\nimport chat_actors.app")
    assert "AssertionError" in told and told.count("(701, 11, 11)") == 1  # the garbage collector's, before


def test_the_client_alone_loads_no_web_framework() -> None:
    look = "import chat_actors.client, sys; print(sorted({'fastapi', 'uvicorn', 'starlette'} & {*sys.modules}))"
    process = subprocess.run([sys.executable, "-c", look], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
    assert process.stdout.strip() == "[]"


def test_the_package_has_no_other_names() -> None:
    look = "import chat_actors; chat_actors.create_application"
    process = subprocess.run([sys.executable, "-c", look], cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8")
    assert "has no attribute 'create_application'" in process.stderr


def test_the_name_of_a_test_is_a_sentence_of_at_most_80_characters() -> None:
    names = [
        node.name
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name) > 80 or name.count("_") < 3] == []
    assert names


def test_no_test_module_is_imported_as_a_library() -> None:
    paths = [*(ROOT / "tests").rglob("*.py")]
    assert [str(path) for path in paths if re.search(r"^from tests\.\S*\btest_", path.read_text("utf-8"), re.M)] == []


def test_no_helper_imports_a_program() -> None:
    paths = [*(ROOT / "tests" / "support").rglob("*.py")]
    assert [str(path) for path in paths if re.search(r"^from tests\.tools\b", path.read_text("utf-8"), re.M)] == []


def test_the_folders_of_tests_are_those_of_the_package() -> None:
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders - packages == {"server", "support", "tools"}  # real servers, helpers, programs
    assert packages - folders == set()
