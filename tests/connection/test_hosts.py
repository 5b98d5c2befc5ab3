"""The hosts that a request may name: no rebound name reaches a server on a loopback address."""

import socket
import warnings
from typing import Any, Optional

import pytest

from chat_actors.application import create_app
from chat_actors.connection.asgi import LocalAddress, local_address
from chat_actors.connection.hosts import Hosts
from chat_actors.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer releases of Starlette would rather have httpx2
    from starlette.testclient import TestClient

from starlette.websockets import WebSocketDisconnect

LOCAL = LocalAddress("127.0.0.1", 8000)


def hosts(listed: str = "") -> Hosts:
    return Hosts(Settings.model_validate({"allowed_hosts": listed}))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8000", True),
        ("LocalHost.:8000", True),
        ("chat.localhost:8000", True),
        ("127.0.0.1:8000", True),
        ("127.1:8000", True),
        ("0x7f.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("0.0.0.0:8000", True),  # as uvicorn prints it
        ("10.0.2.2:8000", True),  # as an emulator calls this machine; no DNS server answers for an address
        ("", True),
        ("chat.example", True),  # a public site: a proxy has taken the port
        ("chat.example:443", True),  # or gives its own
        ("chat.example:80", True),
        ("evil.example:9000", False),  # through ``ssh -L 9000:localhost:8000``
        ("evil.example:8000", False),
        ("localhost.evil.example:8000", False),
        ("127.0.0.1.evil.example:8000", False),
        ("notlocalhost:8000", False),
        ("evil.example:8000:8000", False),
        ("evil.example/:8000", False),
    ],
)
def test_a_loopback_address_takes_a_foreign_name_only_from_a_public_site(
    host: str, allowed: bool, address: str
) -> None:
    assert hosts().allows(host, LocalAddress(address, 8000)) is allowed


@pytest.mark.parametrize("port", [80, 443])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "evil.example:443"])
def test_a_server_on_a_default_port_takes_no_foreign_name(host: str, port: int) -> None:
    assert not hosts().allows(host, LocalAddress("127.0.0.1", port))
    assert hosts().allows("localhost", LocalAddress("127.0.0.1", port))


@pytest.mark.parametrize(
    "local", [("10.0.0.1", 8000), ("/run/chat.sock", None), ("testserver", 80), ("192.0.2.1", "8000"), None]
)
def test_elsewhere_every_host_is_allowed_without_a_list(local: Any) -> None:
    assert hosts().allows("chat.example:8000", local_address({"server": local}))


@pytest.mark.parametrize("port", [8000, "8000"])  # granian gives it as a text
def test_a_host_may_give_its_port_as_a_number_or_a_text(port: Any) -> None:
    local = local_address({"server": ["127.0.0.1", port]})
    assert local == LOCAL
    assert not hosts().allows("evil.example:8000", local)


def test_the_name_of_the_machine_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Box.local")
    assert hosts().allows("box.local:8000", LocalAddress("127.0.1.1", 8000))


@pytest.mark.parametrize("local", [LOCAL, LocalAddress("10.0.0.1", 8000), None])
def test_a_list_names_all_hosts_that_are_allowed_anywhere(local: Optional[LocalAddress]) -> None:
    listed = hosts(" chat.example,\n*.Friend.example ")
    allowed = ["chat.example:8000", "CHAT.example.", "a.friend.example", "localhost:8000", "10.0.0.7:8000", ""]
    assert all(listed.allows(host, local) for host in allowed)
    assert not any(listed.allows(host, local) for host in ("evil.example:443", "friend.example", "chat.example/"))


def test_a_star_allows_every_host() -> None:
    assert hosts("a.example, *").allows("evil.example:8000", LOCAL)


def test_a_request_for_another_host_gets_421_and_a_word_what_to_do() -> None:
    host = TestClient(create_app(Settings.model_validate({})), base_url="http://127.0.0.1:8000")
    assert host.get("/topics").status_code == 200
    refused = host.get("/topics", headers={"host": "evil.example:8000"})
    assert refused.status_code == 421
    assert "CHAT_ALLOWED_HOSTS" in refused.json()["detail"]


def test_a_handshake_for_another_host_is_refused() -> None:
    host = TestClient(create_app(Settings.model_validate({})), base_url="http://127.0.0.1:8000")
    rebound = {"host": "evil.example:8000", "origin": "http://evil.example:8000"}
    with pytest.raises(WebSocketDisconnect), host.websocket_connect("ws://127.0.0.1:8000/ws", headers=rebound):
        pass
    own = {"host": "localhost:8000", "origin": "http://localhost:8000"}
    with host.websocket_connect("ws://127.0.0.1:8000/ws", headers=own) as alice:
        alice.send_json({"username": "alice", "topic": "sports"})
        assert alice.receive_json()["type"] == "joined"
