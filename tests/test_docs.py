"""README and the pages of ``chat_actors/docs``: short, linked, and true of the code that they describe."""

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import uvicorn
from prometheus_client import ProcessCollector
from websockets import http11

from chat_actors.__main__ import main
from chat_actors.client import FINAL, Tuning
from chat_actors.counters import Counters, Statistics, Totals
from chat_actors.operations.metrics import registry
from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.protocol.decoding import decode_first, decode_next
from chat_actors.protocol.frames import ServerFrame
from chat_actors.settings import CommandSettings, variable
from chat_actors.workers import opening
from tests.support.server import ROOT

PACKAGE = ROOT / "chat_actors"
DOCS = PACKAGE / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
MOST_LINES = 160  # of README: two screens
FOREIGN_CODES = {1002, 1007}  # close codes that answer a broken frame: the WebSocket protocol's own

SOURCE = "\n".join(path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py")))

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))


def text(page: Path) -> str:
    return page.read_text("utf-8")


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text(page), flags=re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """What stands in backticks within the prose."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its head."""
    (_, section) = text(DOCS / page).split(f"\n{heading}\n", 1)
    lines = section[section.index("\n|") + 1 :].splitlines()
    table = [line.strip("|").split("|") for line in lines[: [*map(bool, lines), False].index(False)]]
    return [[cell.strip() for cell in row] for row in table[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def anchors(page: Path) -> set[str]:
    """What a link may name behind its ``#``: the headings, as code hosts spell them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# The pages.


def test_readme_fits_two_screens() -> None:
    assert len(text(README).splitlines()) <= MOST_LINES


@pytest.mark.parametrize("mark", ["run", "test"])
def test_readme_has_the_commands_that_others_extract(mark: str) -> None:
    assert re.search(rf"^<!-- {mark} -->\n```sh\n[^`\n]+\n```$", text(README), re.MULTILINE)


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            other = (page.parent / path).resolve() if path else page
            assert other.is_file(), target
            assert not anchor or anchor in anchors(other), target


def test_readme_leads_to_every_page_and_picture() -> None:
    linked = {DOCS / Path(target).name for page in PAGES for target in re.findall(r"\]\(([^)#]+)", prose(page))}
    assert {*DOCS.iterdir()} <= linked
    assert all(f"](chat_actors/docs/{page.name})" in text(README) for page in PAGES if page != README)


@each_page
def test_every_file_that_is_named_exists(page: Path) -> None:
    folders = ROOT, PACKAGE, PACKAGE / page.stem  # the page of the cluster names the cluster's own files
    for name in spans(page):
        if re.fullmatch(r"[\w.][\w./]*(\.(py|cfg|toml|md|png)|/)", name):
            assert any((folder / name).exists() for folder in folders), name


def test_every_test_that_is_named_exists_in_its_file() -> None:
    for _, _, cell in rows("reliability.md", "## The edge"):
        for part in cell.split("; "):
            file, *tests = names(part)
            assert tests
            for test in tests:
                assert f"def {test}(" in text(ROOT / file), test


@each_page
def test_every_command_that_is_named_exists_and_has_its_options(page: Path) -> None:
    for module, options in re.findall(r"python -m (tests\.tools[\w.]*)((?: [\w.-]+)*)", text(page)):
        path = ROOT / module.replace(".", "/")
        source = text(path / "__main__.py" if path.is_dir() else path.with_suffix(".py"))
        for option in re.findall(r"--[\w-]+", options):
            assert f'"{option}"' in source, (module, option)


@each_page
def test_every_example_in_python_compiles_and_imports_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        tree = compile(block, page.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names)


def methods() -> set[str]:
    """The methods of the package, each as ``Class.method``."""
    classes = [
        node
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(text(path)))
        if isinstance(node, ast.ClassDef)
    ]
    functions = ast.FunctionDef, ast.AsyncFunctionDef
    return {f"{one.name}.{node.name}" for one in classes for node in one.body if isinstance(node, functions)}


@each_page
def test_every_method_that_is_named_exists(page: Path) -> None:
    assert {name for name in spans(page) if re.fullmatch(r"[A-Z]\w*[a-z]\w*\.\w+", name)} <= methods()


# The protocol.


def examples(page: Path) -> Iterator[str]:
    yield from (span for span in spans(page) if span.startswith('{"'))
    if page.name == "protocol.md":
        for block in blocks(page, "json"):
            yield from block.splitlines()


def is_frame(example: str) -> bool:
    """Whether this is a frame of the contract, without any key that no frame has."""
    given: dict[str, Any] = json.loads(example)
    if "type" not in given:
        frame = (decode_first if "username" in given else lambda data: decode_next(data, len(data)))(example)
        return bool(msgspec.to_builtins(frame) == given)
    kinds = [kind for kind in get_args(ServerFrame) if kind.__struct_config__.tag == given["type"]]
    return any(msgspec.to_builtins(msgspec.convert(given, kind)) == given for kind in kinds)


@each_page
def test_every_frame_that_is_shown_is_one(page: Path) -> None:
    assert [example for example in examples(page) if not is_frame(example)] == []


@each_page
def test_an_error_that_is_shown_has_the_servers_own_words(page: Path) -> None:
    shown = [json.loads(example) for example in examples(page)]
    details = [frame["detail"].rstrip("…") for frame in shown if frame.get("type") == "error"]
    assert [detail for detail in details if detail not in SOURCE] == []


def test_every_kind_of_frame_is_shown() -> None:
    shown = {json.loads(example).get("type", "") for example in examples(DOCS / "protocol.md")}
    assert shown - {""} == {kind.__struct_config__.tag for kind in get_args(ServerFrame)}


def test_every_error_code_has_its_row() -> None:
    assert [names(code) for code, *_ in rows("protocol.md", "## Errors")] == [[code.value] for code in ErrorCode]


def test_every_close_code_has_its_row_and_says_what_the_client_does() -> None:
    told = {int(code): back for code, _, back in rows("protocol.md", "## Close codes")}
    assert told.keys() == {*map(int, CloseCode)} | FOREIGN_CODES
    assert told == {code: "no" if code in FINAL else "yes" for code in told}


def test_the_tuning_of_the_client_has_its_defaults() -> None:
    told = {name.strip("`"): default.strip("`") for name, default, _ in rows("client.md", "### Tuning")}
    defaults = {name: getattr(Tuning(), name) for name in told}
    assert told == {name: str(value).strip("()") for name, value in defaults.items()}


# The settings.


def default_of(field: str) -> str:
    value = CommandSettings.model_fields[field].default
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def test_every_setting_has_its_row_with_its_default() -> None:
    told = re.findall(r"^\| `(CHAT_\w+)` \| *([^|]*?) *\|", text(DOCS / "configuration.md"), re.MULTILINE)
    assert len(told) == len({*told})
    assert dict(told) == {variable(field): default_of(field) for field in CommandSettings.model_fields}


@each_page
def test_no_page_names_a_variable_that_does_not_exist(page: Path) -> None:
    assert {*re.findall(r"CHAT_\w*[A-Z]", text(page))} <= {*map(variable, CommandSettings.model_fields)}


def test_every_option_that_the_command_gives_to_uvicorn_has_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: given.update(options))
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "")  # so that it is undone
    main([])
    told = [name for option, *_ in rows("configuration.md", "## Options of chat-actors") for name in names(option)]
    assert sorted(told) == sorted(given)


# The workers.


def test_every_reason_against_several_workers_has_its_row() -> None:
    told = [names(reason)[0] for reason, _ in rows("configuration.md", "### Workers that are refused")]
    reasons = [opening.NOT_UVICORN, opening.TLS, opening.CLUSTER, opening.NOT_LINUX, opening.TOO_MANY]
    assert (told, names(prose(DOCS / "configuration.md")).count(opening.REFUSED.strip())) == (reasons, 1)


# The hosts.


def reasons_for_the_plain_lane() -> set[str]:
    """What the code may say of a connection that has not got the fast lane."""
    strings: list[ast.expr] = []
    for node in ast.walk(ast.parse(text(PACKAGE / "connection" / "takeover.py"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "NotTaken":
            strings.append(node.args[0])
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "why":
            strings.append(node.value)
    return {one.value for one in strings if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value}


def test_every_reason_for_the_plain_lane_has_its_row_with_its_remedy() -> None:
    told = [reason.strip("`") for reason, _ in rows("hosts.md", "### Without the fast lane")]
    assert sorted(told) == sorted(reasons_for_the_plain_lane())


def test_every_option_of_uvicorn_that_is_named_is_one() -> None:
    known = {option for parameter in uvicorn.main.params for option in parameter.opts}
    told = {word for span in spans(DOCS / "hosts.md") for word in span.split() if word.startswith("--")}
    assert told and told <= known


def test_every_variable_of_the_package_websockets_is_one() -> None:
    told = {*re.findall(r"WEBSOCKETS_\w+", text(DOCS / "hosts.md"))}
    assert told and all(f'"{name}"' in text(Path(http11.__file__)) for name in told)


# The log and the metrics.


def test_every_reason_for_a_leave_is_one() -> None:
    told = [name for reasons, _ in rows("operations.md", "### Reasons for a leave") for name in names(reasons)]
    others = [name for name in told if name.upper() not in CloseCode.__members__]
    assert others
    assert [name for name in others if f'"{name}"'.replace('…"', "") not in SOURCE] == []


def test_every_log_event_that_is_named_is_one() -> None:
    told = [name for events, *_ in rows("operations.md", "## Logs") for name in names(events)]
    assert told
    assert [name for name in told if f'"{name}"' not in SOURCE] == []


def metrics() -> set[str]:
    """The families as Prometheus names them."""
    process = ProcessCollector(registry=None).collect()
    families = registry(Statistics(0, Totals(), 0, 0, 0), Counters(), process).collect()
    return {f"{one.name}_total" if one.type == "counter" else one.name for one in families}


def test_every_metric_has_its_row() -> None:
    told = [name for table in ("## Metrics", "The process itself:") for name, *_ in rows("operations.md", table)]
    assert sorted(told) == sorted(f"`{name}`" for name in metrics())


@each_page
def test_no_page_names_a_metric_that_does_not_exist(page: Path) -> None:
    assert {*re.findall(r"\b(?:chat|process)_[a-z_]+\b", prose(page))} - {"chat_actors"} <= metrics()


# The architecture.


def layout() -> list[list[str]]:
    """The rows of ``tests/test_layout.py``, from top to bottom."""
    for node in ast.parse(text(ROOT / "tests" / "test_layout.py")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ROWS" and node.value is not None:
            return [[*row] for row in ast.literal_eval(node.value)]
    raise AssertionError("tests/test_layout.py has no ROWS")


def test_the_packages_stand_in_the_order_of_their_imports() -> None:
    told = [names(part) for part, *_ in rows("architecture.md", "## Packages")]
    assert [[re.sub(r"\.py$|/$", "", name) for name in row] for row in told] == layout()


def test_every_module_is_named_once() -> None:
    told = [name for part, *_ in rows("architecture.md", "## Packages") for name in names(part) if ".py" in name]
    told += [name for file, *_ in rows("architecture.md", "## Files") for name in names(file)]
    told += [f"cluster/{name}" for file, *_ in rows("cluster.md", "## How it works") for name in names(file)]
    files = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    assert sorted(told) == sorted(str(file) for file in files if file.name != "__init__.py" or len(file.parts) == 1)


@pytest.mark.parametrize("way", ["## The way of a message", "## Workers"])
def test_every_step_of_a_message_is_a_function_of_its_file(way: str) -> None:
    steps = rows("architecture.md", way)
    assert [step[0] for step in steps] == [str(number) for number in range(1, len(steps) + 1)]
    for _, file, function, _ in steps:
        names_here: list[ast.stmt] = ast.parse(text(PACKAGE / file.strip("`"))).body
        for name in function.strip("`").split("."):
            found = [
                node
                for node in names_here
                if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name
            ]
            assert found, (file, function)
            names_here = found[0].body
