"""The pages about the protocol: complete, self-contained, escaped, cached; and true of where they are asked for."""

import base64
import gc
import hashlib
import json
import re
import warnings
import weakref
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any, Optional

import pytest
from fastapi import FastAPI
from jsonschema import Draft7Validator
from starlette.requests import Request

from chat_actors.application import create_app
from chat_actors.http_semantics import Representation
from chat_actors.page.reference import render, websocket_uri
from chat_actors.protocol.asyncapi import WebSocketUri, document
from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.settings import Settings
from tests.support.server import ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer releases of Starlette would rather have httpx2
    from starlette.testclient import TestClient

DEFAULTS = Settings.model_validate({})
DOCUMENT = document(DEFAULTS, WebSocketUri("ws", "testserver", "/ws"))
OFFICIAL = Draft7Validator(json.loads((ROOT / "tests/support/asyncapi_schema/3.0.0.json").read_text("utf-8")))
PATHS = "/asyncapi.json", "/protocol"
VOID = {"meta"}


@pytest.fixture(scope="module")
def host() -> Iterator[TestClient]:
    with TestClient(create_app(DEFAULTS)) as client:
        yield client


class Page(HTMLParser):
    """Parsed page. Every element that is not void must be closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Optional[str]]]] = []
        self.texts: list[tuple[str, str]] = []  # the element around it, and the text
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def values(self, name: str) -> list[str]:
        """What the attributes of that name are."""
        return [str(attributes[name]) for _, attributes in self.tags if name in attributes]

    def in_(self, tag: str) -> list[str]:
        """The texts right inside elements of that kind."""
        return [text for around, text in self.texts if around == tag]


PAGE = Page(render(DOCUMENT))


def test_the_page_names_every_frame_key_and_code() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert sorted(PAGE.in_("h3")) == sorted(schemas)
    codes = PAGE.in_("code")
    for schema in schemas.values():
        assert not schema.get("properties", {}).keys() - set(codes)
    assert not {code.value for code in ErrorCode} - set(codes)
    assert not {str(code.value) for code in CloseCode} - set(codes)
    assert {code.reason for code in CloseCode} < set(PAGE.in_("td"))
    for name in ("string, 1 to 32 characters", "string, 1 to 4096 characters", "integer from 0, optional"):
        assert name in PAGE.in_("td")
    assert {"30", "65536", "1048576"} < set(codes)
    assert '{"type":"joined","username":"alice#2","topic":"sports","users":2,"ttl":30}' in codes


def test_its_links_lead_into_itself_and_to_the_document_alone() -> None:
    ids = PAGE.values("id")
    assert len(ids) == len(set(ids))
    links = PAGE.values("href")
    assert [link for link in links if not link.startswith("#")] == ["asyncapi.json"]
    assert not {link[1:] for link in links if link.startswith("#")} - set(ids)
    for part in ("#ReplayGap", "#TopicUsers", "#ErrorCode"):
        assert links.count(part) == 2  # in the contents, and in the frame that has it


def test_it_loads_nothing_and_runs_nothing(host: TestClient) -> None:
    elements = {tag for tag, _ in PAGE.tags}
    assert not elements & {"link", "script", "img", "iframe", "object", "embed", "form", "base", "svg"}
    attributes = {name for _, some in PAGE.tags for name in some}
    assert attributes == {"lang", "charset", "name", "content", "id", "href", "scope", "aria-label"}
    (style,) = PAGE.in_("style")
    assert "url(" not in style and "@import" not in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = host.get("/protocol").headers["content-security-policy"].split("; ")
    assert policy[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]


def test_readers_and_assistive_programs_find_their_way() -> None:
    elements = [tag for tag, _ in PAGE.tags]
    assert [elements.count(tag) for tag in ("h1", "main", "nav", "title")] == [1, 1, 1, 1]
    assert ("html", {"lang": "en"}) in PAGE.tags
    levels = [int(tag[1]) for tag in elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))
    assert {attributes.get("scope") for tag, attributes in PAGE.tags if tag == "th"} == {"col", "row"}
    assert "prefers-color-scheme: dark" in PAGE.in_("style")[0]


def spoiled(value: Any, key: str = "") -> Any:
    """The document, with what would be markup in every text that is only shown."""
    if isinstance(value, dict):
        return {name: spoiled(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [spoiled(one) for one in value]
    if isinstance(value, str) and not (key in ("$ref", "action") or value == "array"):
        return value + '<b title="\'">&amp;'
    return value


def test_no_text_of_the_document_becomes_markup() -> None:
    names = json.loads(json.dumps(DOCUMENT).replace("Gap", "Gap<i>").replace("Joined", "Joined<i>"))
    page = Page(render(spoiled(names)))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in PAGE.tags]
    assert {name for _, some in page.tags for name in some} == {name for _, some in PAGE.tags for name in some}
    assert [text for _, text in page.texts if text.count("&amp;")]


# Over HTTP.


def test_both_are_served_with_their_types(host: TestClient) -> None:
    machines, people = host.get("/asyncapi.json"), host.get("/protocol")
    assert machines.json() == DOCUMENT
    assert machines.headers["content-type"] == "application/json"
    assert people.text == render(DOCUMENT)
    assert people.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("path", PATHS)
def test_who_has_the_current_one_is_told_so(host: TestClient, path: str) -> None:
    first = host.get(path)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (tag, f'W/{tag}, "another"', "*"):
        again = host.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert host.get(path, headers={"If-None-Match": '"another"'}).content == first.content
    with TestClient(create_app(Settings.model_validate({"message_chars": 7}))) as other:
        changed = other.get(path, headers={"If-None-Match": tag})
        assert (changed.status_code, changed.headers["etag"] == tag) == (200, False)


def asked_at(url: str, app: Any = None, root_path: str = "", **headers: str) -> tuple[str, str, str]:
    """The URI of the WebSocket in the document that is asked for there; the page must name the same."""
    client = TestClient(app or create_app(DEFAULTS), root_path=root_path)
    contract = client.get(f"{url}/asyncapi.json", headers=headers).json()
    OFFICIAL.validate(contract)
    server, channel = contract["servers"]["here"], contract["channels"]["chat"]
    page = Page(client.get(f"{url}/protocol", headers=headers).text)
    assert f"{server['protocol']}://{server['host']}{channel['address']}" in page.in_("code")
    return server["protocol"], server["host"], channel["address"]


@pytest.mark.parametrize("place", ["127.0.0.1:9000", "chat.example", "[::1]:8000", "my_service:8080"])
def test_both_say_where_they_were_asked(place: str) -> None:
    assert asked_at("http://testserver", Host=place) == ("ws", place, "/ws")
    assert asked_at("https://testserver", Host=place) == ("wss", place, "/ws")


def test_both_know_the_path_that_a_host_has_given_the_application() -> None:
    outer = FastAPI()
    outer.mount("/chat", create_app(DEFAULTS))
    assert asked_at("http://chat.example/chat", outer) == ("ws", "chat.example", "/chat/ws")
    assert asked_at("http://chat.example/all/chat", outer, "/all") == ("ws", "chat.example", "/all/chat/ws")
    assert asked_at("http://chat.example/all", root_path="/all")[2] == "/all/ws"
    by_tenant = FastAPI()
    by_tenant.mount("/{tenant}", create_app(DEFAULTS))
    assert asked_at("http://chat.example/%3Ci%3E", by_tenant)[2] == "/%3Ci%3E/ws"


@pytest.mark.parametrize("wrong", ["", "a b", "a/b", "<script>", "user@a", "a:b", "a:123456", "é", "[::1", "a" * 256])
def test_a_host_that_is_none_gets_into_neither(wrong: str) -> None:
    for address, named in ((["10.0.0.1", 80], "10.0.0.1:80"), (["::1", 80], "[::1]:80"), (None, "localhost")):
        scope = {"type": "http", "scheme": "http", "root_path": "", "server": address}
        headers = [(b"host", wrong.encode("latin-1"))]
        assert websocket_uri(Request({**scope, "headers": headers})) == ("ws", named, "/ws")
        assert websocket_uri(Request({**scope, "headers": []})) == ("ws", named, "/ws")
    assert websocket_uri(Request({**scope, "server": ["/run/chat.sock", None], "headers": []})).host == "localhost"


def test_a_document_of_another_place_is_another_one(host: TestClient) -> None:
    tag = host.get("/asyncapi.json").headers["etag"]
    answer = host.get("/asyncapi.json", headers={"Host": "chat.example", "If-None-Match": tag})
    assert (answer.status_code, answer.headers["etag"] == tag) == (200, False)


def test_hosts_that_clients_make_up_do_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    built: weakref.WeakSet[Any] = weakref.WeakSet()

    class Noted(Representation):
        def __init__(self, content: bytes, media_type: str) -> None:
            super().__init__(content, media_type)
            built.add(self)

    monkeypatch.setattr("chat_actors.page.reference.Representation", Noted)
    client = TestClient(create_app(DEFAULTS))
    for number in range(40):
        client.get("/asyncapi.json", headers={"Host": f"host-{number}"})
    gc.collect()
    assert 0 < len(built) < 20


def test_a_plain_request_to_the_websocket_is_told_what_is_missing(host: TestClient) -> None:
    for method in ("GET", "HEAD"):
        answer = host.request(method, "/ws", headers={"Accept": "text/html"})
        assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
        assert answer.headers["connection"] == "Upgrade"
    assert "Connection: Upgrade" in host.get("/ws").text
    for wrong in ("h2c", "TLS/1.0"):
        assert host.get("/ws", headers={"Upgrade": wrong, "Connection": "Upgrade"}).status_code == 426


def test_the_description_of_the_http_side_tells_of_them(host: TestClient) -> None:
    paths = host.get("/openapi.json").json()["paths"]
    assert {path: list(paths[path]["get"]["responses"]["200"]["content"]) for path in PATHS} == {
        "/asyncapi.json": ["application/json"],
        "/protocol": ["text/html"],
    }
