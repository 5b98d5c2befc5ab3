"""The settings: each has a default and a variable, and a wrong value is reported in a sentence."""

import os
import subprocess
import sys
from typing import Union

import pytest
from pydantic import ValidationError

from chat_actors.settings import CommandSettings, Settings, load_settings

Value = Union[str, int, float, bool]

# For each field: its default, a value for its variable, and what that value gives.
FIELDS: dict[str, tuple[Value, str, Value]] = {
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
    "host": ("127.0.0.1", "0.0.0.0", "0.0.0.0"),
    "port": (8000, "0", 0),
    "workers": (1, "4", 4),
    "shutdown_timeout": (10, "3", 3),
    "proxy_headers": (False, "true", True),
}

# A host is whatever the system resolves, a token or a path is any text; every other field has values that are wrong.
WRONG: dict[str, list[str]] = {
    "log_level": ["info", "LOUD"],
    "log_json": ["maybe", "2"],
    "message_ttl": ["0", "-1", "nan", "86401", "30s"],
    "message_chars": ["0", "65537", "many"],
    "frame_bytes": ["1023", "1048577", "64K"],
    "join_timeout": ["0", "-1", "nan", "inf"],
    "refused_frames": ["0", "x"],
    "rate_limit": ["-1", "fast", "nan", "inf"],
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
    "stall_timeout": ["0", "-1", "nan", "inf", "1e308"],
    "ping_interval": ["0", "-1", "nan", "inf", "1e308"],
    "idle_timeout": ["-1", "nan", "inf", "86401", "1m"],
    "cluster": ["h1:7447", "tcp/h1", "tcp/h1:7447;tcp/h2:7447"],
    "cluster_quorum": ["maybe"],
    "port": ["abc", "-1", "65536", "80.5"],
    "workers": ["0", "65", "auto"],
    "shutdown_timeout": ["2", "0.5", "x"],
    "proxy_headers": ["maybe"],
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("CHAT_"):
            monkeypatch.delenv(name)


def test_without_variables_every_setting_has_its_default() -> None:
    assert load_settings(CommandSettings).model_dump() == {field: default for field, (default, _, _) in FIELDS.items()}


@pytest.mark.parametrize("field", FIELDS)
def test_a_variable_sets_its_field_and_no_other(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default, text, value = FIELDS[field]
    defaults = load_settings(CommandSettings).model_dump()
    assert value != default
    monkeypatch.setenv(f"CHAT_{field.upper()}", text)
    assert load_settings(CommandSettings).model_dump() == {**defaults, field: value}
    monkeypatch.delenv(f"CHAT_{field.upper()}")
    monkeypatch.setenv(field.upper(), text)  # without the prefix it is somebody else's
    assert load_settings(CommandSettings).model_dump()[field] == default


@pytest.mark.parametrize(("field", "text"), [(field, text) for field in WRONG for text in WRONG[field]])
def test_a_wrong_value_ends_the_start_with_a_sentence_that_names_the_variable(
    field: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"CHAT_{field.upper()}", text)
    with pytest.raises(SystemExit) as ended:
        load_settings(CommandSettings)
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
        load_settings(CommandSettings)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("=")[0] for line in lines] == [f"CHAT_{field.upper()}" for field in WRONG]
    assert {*FIELDS} - {*WRONG} == {"host", "token", "cluster_config"}  # no other field is left out


def test_each_sentence_is_a_single_write_for_several_workers_say_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("sys.stderr.write", written.append)
    for field, wrong in WRONG.items():
        monkeypatch.setenv(f"CHAT_{field.upper()}", wrong[0])
    with pytest.raises(SystemExit):
        load_settings(CommandSettings)
    assert len(written) == len(WRONG)
    assert all(piece.endswith(".\n") for piece in written)


@pytest.mark.parametrize("blank", ["", " \r\n", "\ufeff"], ids=["empty", "white", "byte order mark"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_blank_variable_sets_nothing(field: str, blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"CHAT_{field.upper()}", blank)  # as of ``${CHAT_X:-}`` in a file of compose
    assert load_settings(CommandSettings).model_dump()[field] == FIELDS[field][0]


# What a container has in its environment beside a Kubernetes Service of the name ``chat``, or linked to one by Docker.
LINKS = {
    "CHAT_SERVICE_HOST": "10.96.0.7",
    "CHAT_SERVICE_PORT": "8000",
    "CHAT_SERVICE_PORT_HTTP": "8000",
    "CHAT_PORT": "tcp://10.96.0.7:8000",
    "CHAT_PORT_8000_TCP": "tcp://10.96.0.7:8000",
    "CHAT_PORT_8000_TCP_PROTO": "tcp",
    "CHAT_PORT_8000_TCP_PORT": "8000",
    "CHAT_PORT_8000_TCP_ADDR": "10.96.0.7",
    "CHAT_NAME": "/web/chat",
    "CHAT_ENV_TOPICS": "x",
}
# Services of other names begin with ``CHAT_``, too: ``chat-topics``, ``chat-host``, ``chat-shutdown-timeout``, …
SERVICES = ["CHAT", *(f"CHAT_{field.upper()}" for field in FIELDS)]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("scheme", ["tcp", "udp", "sctp"])
def test_the_variables_of_an_orchestrator_are_no_settings(
    service: str, scheme: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name.replace("CHAT", service, 1), value.replace("tcp", scheme))
    assert load_settings(Settings) == Settings.model_validate({})
    assert capsys.readouterr().err == ""  # the application has no port
    assert load_settings(CommandSettings).model_dump() == {field: one[0] for field, one in FIELDS.items()}
    lines = capsys.readouterr().err.splitlines()
    ignored = f"CHAT_PORT={scheme}://10.96.0.7:8000: ignored, an address of Kubernetes or Docker is no port."
    assert lines == [ignored] * (service == "CHAT")


@pytest.mark.parametrize("variables", [{}, LINKS], ids=["alone", "beside a service"])
def test_a_value_that_is_given_comes_first_and_must_be_right(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings(CommandSettings, {"port": "9000"}).port == 9000
    for wrong in "tcp://10.96.0.7:8000", "":
        with pytest.raises(SystemExit):
            load_settings(CommandSettings, {"port": wrong})
        assert f"CHAT_PORT={wrong}: Input should be " in capsys.readouterr().err


def test_the_limits_that_were_changed_are_told_and_no_secret_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(CommandSettings).changed_limits() == {}
    for field, (_, text, _) in FIELDS.items():
        monkeypatch.setenv(f"CHAT_{field.upper()}", text)
    told = load_settings(CommandSettings).changed_limits()
    limits = [field for field, (default, _, _) in FIELDS.items() if type(default) in (int, float)]
    assert told == {f"CHAT_{field.upper()}": FIELDS[field][2] for field in limits}


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(load_settings(CommandSettings), "port", 80)  # noqa: B010 - a plain assignment does not even pass the type check


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in CommandSettings.model_fields.values())


def start_with(*command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, **variables}
    return subprocess.run([sys.executable, *command], env=environ, capture_output=True, encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (("-c", "import chat_actors.app"), "CHAT_TOPICS"),
        (("-m", "chat_actors"), "CHAT_TOPICS"),
        (("-m", "chat_actors"), "CHAT_PORT"),
    ],
)
def test_a_server_does_not_start_with_a_wrong_value(command: tuple[str, ...], wrong: str) -> None:
    process = start_with(*command, **{wrong: "abc"})
    assert process.returncode == 2
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"{wrong}=abc: ")


def test_the_application_reads_no_variable_of_the_command() -> None:
    wrong = {f"CHAT_{field.upper()}": "://" for field in {*CommandSettings.model_fields} - {*Settings.model_fields}}
    of_command = {"CHAT_HOST", "CHAT_PORT", "CHAT_WORKERS", "CHAT_SHUTDOWN_TIMEOUT", "CHAT_PROXY_HEADERS"}
    assert wrong.keys() == of_command
    process = start_with("-c", "import chat_actors.app", **wrong)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.parametrize("field", FIELDS)
def test_white_space_around_a_value_does_not_count(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text, value = FIELDS[field]
    monkeypatch.setenv(f"CHAT_{field.upper()}", f"\ufeff \t{text}\r\n")
    assert load_settings(CommandSettings).model_dump()[field] == value


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
        load_settings(CommandSettings)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(": https://b.example/page is none.")
