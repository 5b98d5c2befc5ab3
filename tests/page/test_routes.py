"""The files of the page over HTTP: their headers, and none is missing."""

import re
import warnings
from configparser import ConfigParser
from importlib.resources import files
from pathlib import PurePath

import pytest

from chat_actors.application import create_app
from chat_actors.settings import Settings
from tests.support.server import ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer releases of Starlette would rather have httpx2
    from starlette.testclient import TestClient

host = TestClient(create_app(Settings.model_validate({})), base_url="http://chat.example:8000")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' ws://chat.example:8000 wss://chat.example:8000; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def names() -> list[str]:
    return [entry.name for entry in files("chat_actors.page").iterdir() if PurePath(entry.name).suffix in TYPES]


def path(name: str) -> str:
    return "/" if name == "index.html" else f"/page/{name}"


@pytest.mark.parametrize("name", names())
def test_every_file_is_served_with_its_type_and_under_the_policy(name: str) -> None:
    answer = host.get(path(name))
    assert answer.status_code == 200
    assert answer.content == files("chat_actors.page").joinpath(name).read_bytes()
    assert answer.headers["content-type"].partition(";")[0] == TYPES[PurePath(name).suffix]
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"


def test_the_package_ships_every_file() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    shipped = [glob.strip() for glob in setup["options.package_data"]["chat_actors.page"].split(",")]
    assert {f"*{PurePath(name).suffix}" for name in names()} == set(shipped)


def test_whatever_a_file_of_the_page_names_is_there() -> None:
    named = set(re.findall(r'(?:src|href)="([^"]+)"', host.get("/").text))
    for name in names():
        if name.endswith(".js"):
            named |= {f"page/{other}" for other in re.findall(r'from "\./([^"]+)"', host.get(path(name)).text)}
    assert named == {f"page/{name}" for name in names() if name != "index.html"}


def test_a_file_that_the_browser_has_is_not_sent_again() -> None:
    first = host.get("/")
    etag = first.headers["etag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        again = host.get("/", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        assert again.headers["content-security-policy"] == POLICY
    assert host.get("/", headers={"If-None-Match": '"other"'}).content == first.content


def test_each_file_has_a_tag_of_its_own() -> None:
    assert len({host.get(path(name)).headers["etag"] for name in names()}) == len(names())


def test_a_head_has_the_headers_and_no_content() -> None:
    answer = host.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["etag"] == host.get("/").headers["etag"]


@pytest.mark.parametrize("host_header", ["chat.example", "127.0.0.1:8000", "[::1]:8000"])
def test_the_policy_names_the_websocket_of_the_host_that_was_asked(host_header: str) -> None:
    policy = host.get("/", headers={"Host": host_header}).headers["content-security-policy"]
    assert f"connect-src 'self' ws://{host_header} wss://{host_header}; " in policy


@pytest.mark.parametrize("host_header", ["*", "a; script-src *", "a b", "a/b", ""])
def test_a_host_that_is_none_cannot_widen_the_policy(host_header: str) -> None:
    policy = host.get("/", headers={"Host": host_header}).headers["content-security-policy"]
    assert "connect-src 'self'; " in policy
    assert "*" not in policy


def test_nothing_else_is_served_from_the_package() -> None:
    for wrong in ("/page/__init__.py", "/page/../app.py", "/page/", "/index.html"):
        assert host.get(wrong).status_code == 404
