"""``python -m chat_actors``: uvicorn with safe options."""

import asyncio
import os
import runpy
import sys
from typing import Any, Callable, Optional

import pytest
import uvicorn

from chat_actors import __version__
from chat_actors.__main__ import main
from chat_actors.settings import CommandSettings
from tests.support.server import APP, Server, Visit, in_loop

SAFE: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 8000,
    "ws": "websockets-sansio",
    "timeout_graceful_shutdown": 10,
    "proxy_headers": False,
    "access_log": False,
    "log_config": None,
    "workers": 1,
}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options with which uvicorn would have run, for each time it would."""
    runs: list[dict[str, Any]] = []

    def run(app: str, **options: Any) -> None:
        assert app == "chat_actors.app:app"  # a name, not an object: uvicorn sets up its logging before it loads it
        runs.append(options)

    monkeypatch.setattr(uvicorn, "run", run)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "")  # so that it is undone
    monkeypatch.delenv("FORWARDED_ALLOW_IPS")
    for field in ("HOST", "PORT", "WORKERS", "SHUTDOWN_TIMEOUT", "PROXY_HEADERS"):
        monkeypatch.delenv(f"CHAT_{field}", raising=False)
    return runs


def test_the_command_runs_uvicorn_with_the_safe_options(runs: list[dict[str, Any]]) -> None:
    main([])
    assert runs == [SAFE]


def test_the_module_is_the_command(runs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "chat_actors.__main__")
    monkeypatch.setattr(sys, "argv", ["chat-actors"])
    runpy.run_module("chat_actors", run_name="__main__")
    assert runs == [SAFE]
    runpy.run_module("chat_actors.__main__", run_name="imported")
    assert runs == [SAFE]


def test_the_options_follow_the_settings(runs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_HOST", "::1")
    monkeypatch.setenv("CHAT_PORT", "9000")
    monkeypatch.setenv("CHAT_WORKERS", "4")
    monkeypatch.setenv("CHAT_SHUTDOWN_TIMEOUT", "5")
    monkeypatch.setenv("CHAT_PROXY_HEADERS", "1")
    main([])
    changed = {"host": "::1", "port": 9000, "workers": 4, "timeout_graceful_shutdown": 5, "proxy_headers": True}
    assert runs == [{**SAFE, **changed}]


@pytest.mark.parametrize(
    ("headers", "given", "trusted"),
    [
        ("0", None, ""),
        ("0", "10.0.0.0/8", ""),
        ("1", None, "127.0.0.1,::1"),  # in every version of uvicorn
        ("1", " \n", "127.0.0.1,::1"),
        ("1", "10.0.0.0/8\n", "10.0.0.0/8"),
    ],
)
def test_the_proxies_on_this_machine_are_trusted_unless_others_are_named(
    runs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, headers: str, given: Optional[str], trusted: str
) -> None:
    monkeypatch.setenv("CHAT_PROXY_HEADERS", headers)
    if given is not None:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", given)
    main([])
    assert os.environ["FORWARDED_ALLOW_IPS"] == trusted


def test_an_option_sets_its_variable(runs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    for field in ("PORT", "WORKERS", "SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(f"CHAT_{field}", "5")  # so that it is undone
    monkeypatch.setenv("CHAT_TOPICS", "6")
    main(["--port", "9000", "--workers", "3", "--shutdown-timeout", "30", "--topics", "7"])
    assert runs == [{**SAFE, "port": 9000, "workers": 3, "timeout_graceful_shutdown": 30}]
    assert os.environ["CHAT_TOPICS"] == "7"  # where the application looks


def test_the_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    help_ = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    for name, field in CommandSettings.model_fields.items():
        assert f"--{name.replace('_', '-')} … {field.description} (CHAT_{name.upper()}; default: " in help_


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"chat_actors {__version__}\n"


@in_loop
async def test_a_start_says_in_one_line_where_it_is_and_which_limits_are_not_the_defaults(
    start: Callable[..., Server],
) -> None:
    server = start("chat_actors", "--port", "0", "--message-ttl", "2", CHAT_TOKEN="secret", CHAT_TOPICS="5")
    (line,) = server.lines("unning on")
    address = f"http://127.0.0.1:{server.port}"
    assert f"{address} " in line and f"page='{address}/'" in line
    assert line.endswith(" CHAT_MESSAGE_TTL=2.0 CHAT_RATE_LIMIT=0.0 CHAT_TOPICS=5")
    assert not server.lines("secret")


@pytest.mark.parametrize(("setting", "trusted"), [({}, "none"), ({"CHAT_PROXY_HEADERS": "1"}, "127.0.0.1,::1")])
@in_loop
async def test_a_start_says_which_proxies_are_trusted(
    start: Callable[..., Server], setting: dict[str, str], trusted: str
) -> None:
    server = start("chat_actors", CHAT_PORT="0", **setting)
    assert server.lines("unning on", f"trusted_proxies='{trusted}'")


@pytest.mark.parametrize(
    ("given", "said"),
    [({}, "as the host is set; uvicorn's default: 127.0.0.1"), ({"FORWARDED_ALLOW_IPS": "10.0.0.0/8"}, "10.0.0.0/8")],
)
@in_loop
async def test_a_start_under_another_command_says_what_is_known_of_them(
    start: Callable[..., Server], given: dict[str, str], said: str
) -> None:
    assert start(*APP, **given).lines("unning on", "trusted_proxies=", said)


@in_loop
async def test_the_command_serves_with_several_workers_as_one_chat(start: Callable[..., Server]) -> None:
    server = start("chat_actors", "--workers", "3", CHAT_PORT="0")
    await server.logged("worker ready", count=3)
    async with Visit(server) as visit:
        members = [await visit.join("alice", "sports") for _ in range(12)]
        assert [one.joined["username"] for one in members] == ["alice", *(f"alice#{n}" for n in range(2, 13))]
        assert (await members[0].ask("/list"))["topics"] == [{"topic": "sports", "users": 12}]
    await asyncio.to_thread(server.terminate, 0)


@in_loop
async def test_it_serves_until_a_signal_ends_it(start: Callable[..., Server]) -> None:
    server = start("chat_actors", CHAT_PORT="0")
    async with Visit(server) as visit:
        alice = await visit.join("alice", "sports")
        assert not alice.connection.protocol.extensions  # no deflate, though the client offers it
        await asyncio.to_thread(server.terminate)
        assert await alice.close_code() == 1012
    assert server.lines("Started server process") and server.lines("Finished server process")
