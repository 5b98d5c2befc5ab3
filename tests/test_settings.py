"""The settings: each has a default and a variable, and a wrong value is reported in a sentence."""

import os
import subprocess
import sys
from typing import Union

import pytest
from pydantic import ValidationError

from chat_actors.settings import Settings, load_settings

Value = Union[str, int, float, bool]

# For each field: its default, a value for its variable, and what that value gives.
FIELDS: dict[str, tuple[Value, str, Value]] = {
    "host": ("127.0.0.1", "0.0.0.0", "0.0.0.0"),
    "port": (8000, "0", 0),
    "log_level": ("INFO", "DEBUG", "DEBUG"),
    "log_json": (False, "1", True),
    "message_ttl": (30.0, "0.5", 0.5),
    "message_chars": (4096, "280", 280),
    "frame_bytes": (65536, "1024", 1024),
    "join_timeout": (10.0, "2.5", 2.5),
    "refused_frames": (20, "1", 1),
    "rate_limit": (20.0, "0", 0.0),
    "rate_burst": (100, "1", 1),
    "connections": (10_000, "1", 1),
    "connections_per_address": (0, "5", 5),
    "topics": (10_000, "1", 1),
    "topic_members": (0, "5", 5),
    "presence_members": (1000, "0", 0),
    "allowed_origins": ("", "https://a.example", "https://a.example"),
    "allowed_hosts": ("", "chat.example", "chat.example"),
    "require_origin": (False, "1", True),
    "token": ("", "secret", "secret"),
    "topics_page": (True, "0", False),
    "history_messages": (10_000, "0", 0),
    "history_bytes": (8 * 1024 * 1024, "0", 0),
    "outbox_bytes": (1024 * 1024, "2048", 2048),
    "stall_timeout": (10.0, "60", 60.0),
    "ping_interval": (20.0, "0.5", 0.5),
    "idle_timeout": (75.0, "0", 0.0),
    "cluster": ("", "tcp/h1:7447, tls/h2:7447#x=y", "tcp/h1:7447, tls/h2:7447#x=y"),
    "cluster_config": ("", "zenoh.json5", "zenoh.json5"),
    "cluster_quorum": (False, "1", True),
    "shutdown_timeout": (10, "3", 3),
    "proxy_headers": (False, "true", True),
}

# A host is whatever the system resolves, a token or a path is any text; every other field has values that are wrong.
WRONG: dict[str, list[str]] = {
    "port": ["abc", "", "-1", "65536", "80.5"],
    "log_level": ["info", "LOUD", ""],
    "log_json": ["maybe", "2"],
    "message_ttl": ["0", "-1", "nan", "86401", "30s"],
    "message_chars": ["0", "65537", "many"],
    "frame_bytes": ["1023", "1048577", "64K"],
    "join_timeout": ["0", "-1", "nan"],
    "refused_frames": ["0", "x"],
    "rate_limit": ["-1", "fast", "nan"],
    "rate_burst": ["0", "x"],
    "connections": ["0", "x"],
    "connections_per_address": ["-1", "x"],
    "topics": ["0", "x"],
    "topic_members": ["-1", "x"],
    "presence_members": ["-1", "x"],
    "allowed_origins": [
        "chat.example",
        "https://chat.example/page",
        "https://chat.example//",
        "https://a.example,b.example",
        "https://",
        "https:///",
        "https://a.example:0",
        "https://a.example:65536",
        "https://a.example:",
        "https://me@a.example",
        "https://[::g]",
        "https://[1:2]",
        "https://bücher.example",
        "https://" + 321 * "a",
        "null",
    ],
    "allowed_hosts": ["chat.example:8000", "https://chat.example", "a.example,/", "*.", "chat.*", "[::g]"],
    "require_origin": ["maybe"],
    "topics_page": ["maybe"],
    "history_messages": ["-1", "x"],
    "history_bytes": ["-1", "8M"],
    "outbox_bytes": ["1023", "1M"],
    "stall_timeout": ["0", "-1", "nan"],
    "ping_interval": ["0", "-1", "nan"],
    "idle_timeout": ["-1", "nan", "1m"],
    "cluster": ["h1:7447", "tcp/h1", "tcp/h1:7447;tcp/h2:7447"],
    "cluster_quorum": ["maybe"],
    "shutdown_timeout": ["2", "0.5", "x"],
    "proxy_headers": ["maybe", ""],
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("CHAT_"):
            monkeypatch.delenv(name)


def test_without_variables_every_setting_has_its_default() -> None:
    assert load_settings().model_dump() == {field: default for field, (default, _, _) in FIELDS.items()}


@pytest.mark.parametrize("field", FIELDS)
def test_a_variable_sets_its_field_and_no_other(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default, text, value = FIELDS[field]
    defaults = load_settings().model_dump()
    assert value != default
    monkeypatch.setenv(f"CHAT_{field.upper()}", text)
    assert load_settings().model_dump() == {**defaults, field: value}
    monkeypatch.delenv(f"CHAT_{field.upper()}")
    monkeypatch.setenv(field.upper(), text)  # without the prefix it is somebody else's
    assert load_settings().model_dump()[field] == default


@pytest.mark.parametrize(("field", "text"), [(field, text) for field in WRONG for text in WRONG[field]])
def test_a_wrong_value_ends_the_start_with_a_sentence_that_names_the_variable(
    field: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"CHAT_{field.upper()}", text)
    with pytest.raises(SystemExit) as ended:
        load_settings()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"CHAT_{field.upper()}={text}: Input should be ")
    assert line.endswith(".")


def test_each_wrong_variable_has_its_own_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for field, wrong in WRONG.items():
        monkeypatch.setenv(f"CHAT_{field.upper()}", wrong[0])
    with pytest.raises(SystemExit):
        load_settings()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("=")[0] for line in lines] == [f"CHAT_{field.upper()}" for field in WRONG]
    assert {*FIELDS} - {*WRONG} == {"host", "token", "cluster_config"}  # no other field is left out


def test_each_sentence_is_a_single_write_for_several_workers_say_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("sys.stderr.write", written.append)
    for field, wrong in WRONG.items():
        monkeypatch.setenv(f"CHAT_{field.upper()}", wrong[0])
    with pytest.raises(SystemExit):
        load_settings()
    assert len(written) == len(WRONG)
    assert all(piece.endswith(".\n") for piece in written)


def test_the_limits_that_were_changed_are_told_and_no_secret_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().changed_limits() == {}
    for field, (_, text, _) in FIELDS.items():
        monkeypatch.setenv(f"CHAT_{field.upper()}", text)
    told = load_settings().changed_limits()
    limits = [field for field, (default, _, _) in FIELDS.items() if type(default) in (int, float) and field != "port"]
    assert told == {f"CHAT_{field.upper()}": FIELDS[field][2] for field in limits}


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(load_settings(), "port", 80)  # noqa: B010 - a plain assignment does not even pass the type check


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_application_does_not_start_with_a_wrong_value() -> None:
    process = subprocess.run(
        [sys.executable, "-c", "import chat_actors.app"],
        env={**os.environ, "CHAT_PORT": "abc"},
        capture_output=True,
        encoding="utf-8",
    )
    assert process.returncode == 2
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("CHAT_PORT=abc: ")


@pytest.mark.parametrize("field", FIELDS)
def test_white_space_around_a_value_does_not_count(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text, value = FIELDS[field]
    monkeypatch.setenv(f"CHAT_{field.upper()}", f"\ufeff \t{text}\r\n")
    assert load_settings().model_dump()[field] == value


def test_the_entries_of_a_list_may_stand_on_lines_of_their_own() -> None:
    listed = Settings.model_validate({"cluster": "tcp/h1:7447\n\ntcp/h2:7447,\n"})
    assert listed.endpoints == ["tcp/h1:7447", "tcp/h2:7447"]


@pytest.mark.parametrize("field", ["allowed_origins", "allowed_hosts"])
def test_the_sentence_about_a_list_is_one_line_and_names_the_wrong_entry(
    field: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = "https://a.example" if field == "allowed_origins" else "a.example"
    monkeypatch.setenv(f"CHAT_{field.upper()}", f"{right},\nhttps://b.example/page\n{right}")
    with pytest.raises(SystemExit):
        load_settings()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(": https://b.example/page is none.")
