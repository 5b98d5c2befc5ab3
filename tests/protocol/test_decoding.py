"""The frames of a client: decoded, or refused with the right code. No event loop."""

import json
from typing import Any, Callable, Optional, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from chat_actors.protocol.decoding import Data, Refused, decode_first, decode_next, is_bigger, is_heartbeat
from chat_actors.protocol.frames import (
    Ack,
    Error,
    JoinFrame,
    ListCommand,
    Message,
    SendFrame,
    Window,
    finished,
    payloads,
)

LONGEST = 4096
DEEP = "[" * 10_000 + "]" * 10_000
DIGITS = "9" * 5_000

Decode = Callable[[Data], Union[JoinFrame, SendFrame, ListCommand]]


def decode_member(data: Data) -> Union[SendFrame, ListCommand]:
    return decode_next(data, LONGEST)


before_and_after_the_join = pytest.mark.parametrize("decode", [decode_first, decode_member])


def short(value: object) -> str:
    return ascii(value)[:40]


def extra(value: str) -> str:
    """A join before the join and a message after it, whatever the extra key holds: only that can be wrong."""
    return f'{{"username": "alice", "topic": "sports", "message": "Hello", "extra": {value}}}'


def join(username: str = '"alice"', topic: str = '"sports"') -> str:
    return f'{{"username": {username}, "topic": {topic}}}'


def message(value: str, ref: str = '"1"') -> str:
    return f'{{"message": {value}, "ref": {ref}}}'


def refusal(decode: Decode, data: Data) -> tuple[str, str]:
    """The code and the detail, as the client reads them: whatever its frame held, the answer can be sent."""
    with pytest.raises(Refused) as caught:
        decode(data)
    (payload,) = payloads(finished(Error(caught.value.code, caught.value.detail)))
    answer = json.loads(payload)
    assert answer["detail"]
    return answer["error"], answer["detail"]


# Before and after the join.


@before_and_after_the_join
@pytest.mark.parametrize("value", ["1", "null", '"x"', "[[]]", '{"a": 1}', DIGITS, '"\\ud83d\\ude00"'], ids=short)
def test_unknown_keys_are_ignored(decode: Decode, value: str) -> None:
    assert decode(extra(value)) == decode(extra(value).encode()) == decode(extra("0"))


NOT_JSON_VALUES = ["NaN", "Infinity", "-Infinity", "x", "'x'", '"\\ud800"', '"\\ude00\\ud83d"', '"\n"', "01", '"', DEEP]


@before_and_after_the_join
@pytest.mark.parametrize(
    "data",
    [
        *(extra(value) for value in NOT_JSON_VALUES),
        *(extra(value).encode() for value in NOT_JSON_VALUES),
        *("", " ", "hello", "{", '{"message": "Hello"', "{'message': 'Hello'}", '{"\\ud800": 1}'),
        *("null", "true", "17", "NaN", '"/list"', '["Hello"]', DIGITS, DEEP),
        *(message("NaN"), message('"\\ud800"'), message(DEEP), join("NaN"), join('"\\ud800"'), join(DEEP)),
        *(extra("0") + "x", extra("0") * 2, "\ufeff" + extra("0"), "\ufeff/list"),
        *(extra('"\ud800"'), "\ud800"),  # lone surrogates that are not escaped
        *(b"", b"\xff", extra('"\xff"').encode("latin-1"), extra("0").encode("utf-16"), b"/list\xff"),
    ],
    ids=short,
)
def test_a_frame_that_is_not_one_json_object_in_utf_8_is_refused(decode: Decode, data: Data) -> None:
    assert refusal(decode, data)[0] == "invalid_json"


@before_and_after_the_join
@pytest.mark.parametrize("text", ["/list", " /list\r\n", "\u2003/list", message('"/list"'), message('"\\t/list "')])
def test_the_list_command_comes_as_text_or_as_a_message(decode: Decode, text: str) -> None:
    assert decode(text) == decode(text.encode()) == ListCommand()


@before_and_after_the_join
@pytest.mark.parametrize("command", ["/", "/help", "/LIST", "/list all", "//list", " /\u00e9"])
def test_any_other_command_is_refused(decode: Decode, command: str) -> None:
    assert refusal(decode, command)[0] == "unknown_command"
    assert refusal(decode, json.dumps({"message": command}))[0] == "unknown_command"


# Before the join.


def test_a_join_is_read_with_its_names_cleaned() -> None:
    text = join('" Alice "', '" cafe\u0301 "')
    assert decode_first(text) == decode_first(text.encode()) == JoinFrame("Alice", "caf\u00e9")


REFUSED_BEFORE = {
    "invalid_join": [
        *("{}", '{"username": "alice"}', '{"topic": "sports"}', '{"username": "alice", "message": "Hello"}'),
        '{"Username": "alice", "Topic": "sports"}',
    ],
    "invalid_username": [
        *(join("17"), join("null", "null"), join('["alice"]'), join(DIGITS)),
        *(join('""'), join('" "'), join('"alice\\n"'), join(f'"{"x" * 33}"')),
    ],
    "invalid_topic": [
        *(join(topic="17"), join(topic="null"), join(topic="{}"), join(topic="-" + DIGITS)),
        *(join(topic='""'), join(topic='" "'), join(topic='"sports\\n"'), join(topic=f'"{"x" * 65}"')),
    ],
    "not_joined": [message('"Hello"'), message('""'), message('"Hello"', ref="17")],
    "invalid_message": [message("17"), message("null"), message(DIGITS)],
}


@pytest.mark.parametrize(("code", "text"), [(code, text) for code in REFUSED_BEFORE for text in REFUSED_BEFORE[code]])
def test_a_first_frame_that_is_no_join_is_refused(code: str, text: str) -> None:
    assert refusal(decode_first, text)[0] == refusal(decode_first, text.encode())[0] == code


# The keys of the window in a join.


def join_that_wants(wants: str) -> JoinFrame:
    frame = decode_first(f'{{"username": "alice", "topic": "sports"{wants}}}')
    assert isinstance(frame, JoinFrame)
    return frame


@pytest.mark.parametrize(
    "wants, window",
    [
        ("", None),
        (', "Since": 0, "resumes": "x", "event": true, "epochs": "x", "ref": "r"', None),
        (', "since": 0', Window(since=0)),
        (', "since": 9007199254740991', Window(since=2**53 - 1)),
        (', "epoch": ""', Window(epoch="")),
        (', "epoch": "x"', Window(epoch="x")),
        (', "resume": ""', Window()),
        (', "resume": "x"', Window(resume="x")),
        (', "events": false', Window()),
        (', "events": true', Window(events=True)),
        (', "since": 7, "epoch": "x", "resume": "y", "events": true', Window(7, "x", "y", True)),
    ],
)
def test_any_of_four_keys_asks_for_the_window(wants: str, window: Optional[Window]) -> None:
    assert join_that_wants(wants).window == window


ALICE = '{"username": "alice", "topic": "sports"'


@pytest.mark.parametrize("key", ["since", "epoch", "resume", "events", "token"])
def test_null_for_an_optional_key_of_a_join_is_as_an_absent_one(key: str) -> None:
    assert join_that_wants(f', "{key}": null').window is None
    others = {"since": 7, "epoch": "x", "resume": "y", "events": True, "token": "z"}
    del others[key]
    with_null, without = (
        decode_first(json.dumps({"username": "a", "topic": "t", **more})) for more in ({**others, key: None}, others)
    )
    assert isinstance(with_null, JoinFrame) and isinstance(without, JoinFrame)
    assert with_null.window == without.window
    assert (with_null.token or "") == (without.token or "")


def test_null_for_every_key_is_as_a_plain_join() -> None:
    assert join_that_wants("".join(f', "{key}": null' for key in JoinFrame.__struct_fields__[2:])).window is None


@pytest.mark.parametrize(
    ("number", "since"),
    [
        *(("5.0", 5), ("0.0", 0), ("-0.0", 0), ("-0", 0), ("1e2", 100), ("1.0E+3", 1000), ("25e-0", 25)),
        ("9007199254740991.0", 2**53 - 1),
    ],
)
def test_a_whole_number_is_an_integer_however_it_is_written(number: str, since: int) -> None:
    frame = join_that_wants(f', "since": {number}, "epoch": "x", "resume": null, "events": true')
    assert frame.window == Window(since, "x", "", True)
    assert type(frame.since) is int


@before_and_after_the_join
def test_of_a_key_that_is_there_twice_the_last_counts(decode: Decode) -> None:
    twice = '{"username": 17, "username": "alice", "topic": "a", "topic": "sports", "message": 17, "message": "Hello"}'
    assert decode(twice) in (JoinFrame("alice", "sports"), SendFrame("Hello"))


def test_null_for_the_keys_of_other_frames_is_ignored() -> None:
    def frame(**keys: Any) -> str:
        return json.dumps({"type": None, "username": None, "topic": None, "message": None, "ref": None, **keys})

    assert decode_first(frame(username="alice", topic="sports")) == JoinFrame("alice", "sports")
    assert decode_first(frame(message="/list")) == decode_member(frame(message="/list")) == ListCommand()
    assert refusal(decode_first, frame(message="Hello"))[0] == "not_joined"
    sent = decode_member(frame(message="Hello"))
    assert isinstance(sent, SendFrame) and sent.message == "Hello" and not sent.ref
    assert refusal(decode_member, frame(username="alice", topic="sports"))[0] == "already_joined"
    assert is_heartbeat(frame(type="ping"))


STRING, FLAG = "a string", "true or false"
WHOLE = f"an integer from 0 to {2**53 - 1}"
WRONG_VALUES = {
    ("since", WHOLE): [
        *("-1", "-1.0", "0.5", "5.5", "1e-3", "1e999", "true", '"1"', '"5.0"', "[]", "{}", "9007199254740992"),
        *("9007199254740992.0", "1e300", str(1 << 63), "9" * 5000),
    ],
    ("epoch", STRING): ["0", "false", "[]", "{}"],
    ("resume", STRING): ["0", "false", '["x"]', "{}"],
    ("events", FLAG): ["0", "1", "1.0", '"true"', "[true]", "{}"],
    ("token", STRING): ["0", "true", "[]", DIGITS],
}


@pytest.mark.parametrize(
    ("key", "form", "value"), [(*key, value) for key in WRONG_VALUES for value in WRONG_VALUES[key]], ids=short
)
def test_a_wrong_value_is_refused_with_its_key_and_the_form_that_is_expected(key: str, form: str, value: str) -> None:
    answer = refusal(decode_first, f'{ALICE}, "{key}": {value}}}')
    assert answer == ("invalid_join", f"{key} must be {form}, or absent")


@before_and_after_the_join
@pytest.mark.parametrize(
    "data",
    [
        *("", "{", "[]", "hello", "17", extra("NaN"), extra("0") + "x", extra('"\\ud800"'), extra(DEEP), b"\xff"),
        *(join("17"), join(topic="{}"), message("17"), message('"Hello"', ref="17"), "{}", "[" * 100),
        f'{ALICE}, "since": 1.5}}',
    ],
    ids=short,
)
def test_no_refusal_speaks_the_language_of_the_parser(decode: Decode, data: Data) -> None:
    _, detail = refusal(decode, data)
    for word in ("`", "$", "byte", "Expected", "malformed", "trailing", "truncated", "codec", "recursion", "Struct"):
        assert word not in detail


@pytest.mark.parametrize(("decode", "form"), [(decode_first, "username"), (decode_member, "message")])
def test_what_is_no_json_is_answered_with_an_example(decode: Decode, form: str) -> None:
    detail = refusal(decode, "{'message': 'Hello'}")[1]
    assert detail.startswith("a frame must be one JSON object in UTF-8")
    assert next(iter(json.loads(detail.partition("for example ")[2]))) == form


# After the join.


@pytest.mark.parametrize(
    "text", ["Hello", "h", "x" * LONGEST, " Hello /list ", "a/b", "\U0001f600", "a\x00b"], ids=short
)
@pytest.mark.parametrize("ref", ["1", "x" * 64, "/list"], ids=short)
def test_a_message_is_read_as_it_is(text: str, ref: str) -> None:
    with_ref = json.dumps({"message": text, "ref": ref})
    assert decode_member(with_ref) == decode_member(with_ref.encode()) == SendFrame(text, ref)
    assert decode_member(json.dumps({"message": text})) == SendFrame(text)
    sent = decode_member(json.dumps({"message": text, "ref": None}))
    assert isinstance(sent, SendFrame) and sent.message == text and not sent.ref


REFUSED_AFTER = {
    "invalid_message": [
        *("{}", '{"Message": "Hello"}', message("17"), message("null"), message('["Hello"]'), message(DIGITS)),
        *(message('"Hello"', ref=wrong) for wrong in ('""', f'"{"x" * 65}"', "17", "[]", DIGITS)),
    ],
    "empty_message": [message('""'), message('" "'), message('"\\r\\n\\t"'), message('"\u3000"')],
    "message_too_long": [message(f'"{one * (LONGEST + 1)}"') for one in ("x", " ", "/", "\U0001f600")],
    "already_joined": [join(), join("17"), '{"username": "alice"}', '{"topic": ""}'],
}


@pytest.mark.parametrize(("code", "text"), [(code, text) for code in REFUSED_AFTER for text in REFUSED_AFTER[code]])
def test_a_members_frame_that_is_no_message_is_refused(code: str, text: str) -> None:
    assert refusal(decode_member, text)[0] == refusal(decode_member, text.encode())[0] == code


def test_a_refusal_says_what_is_wrong_and_what_is_expected() -> None:
    assert refusal(decode_first, "{}")[1] == 'the first frame must be {"username": "…", "topic": "…"}'
    assert refusal(decode_first, join("17", '""'))[1] == "username must be a string"
    assert (
        refusal(decode_member, message('"Hello"', "17"))[1] == "ref must be a string of 1 to 64 characters, or absent"
    )
    assert refusal(decode_member, message(f'"{"x" * 4097}"'))[1].endswith("at most 4096 characters, not 4097")


@pytest.mark.parametrize(
    ("data", "size"),
    [(b"x" * 9, 9), ("x" * 9, 9), ("\u00e9" * 9, 18), ("x\u20ac", 4), ("\U0001f600", 4), ("\ud800", 3), ("", 0)],
)
def test_a_payload_is_measured_in_bytes_of_utf_8(data: Data, size: int) -> None:
    assert is_bigger(data, size - 1)
    assert not is_bigger(data, size)
    assert not is_bigger(data, 4 * size)


# Heartbeats.


@pytest.mark.parametrize(
    "text",
    [
        *("", " \r\n", "ping", "PONG", " heartbeat\n", '"ping"', '"Keep-Alive"', '""'),
        *('{"type": "ping"}', ' {"type":"Heartbeat","time":1690000000}', '{"id": null, "event": "keepalive"}'),
        '{"type": "ping"}'.ljust(128),
    ],
    ids=short,
)
def test_the_heartbeat_of_a_library_is_known(text: str) -> None:
    assert is_heartbeat(text) and is_heartbeat(text.encode())
    for decode in (decode_first, decode_member):
        refusal(decode, text)


@pytest.mark.parametrize(
    "data",
    [
        *("{", "hello", "pings", "ping ping", "null", "17", "['ping']", '["ping"]', '"', '{"ping": 1}', '{"ping"}'),
        *('{"type": ["ping"]}', '{"type": {"x": "ping"}}', '{"type": NaN, "x": "ping"}', DEEP),
        *('{"message": ""}', '{"username": "", "topic": ""}', '{"type": "pingpong"}', '{"type": "ping"}'.ljust(129)),
        *("ping\ud800", b"\xff", b'{"type": "ping\xff"}'),
    ],
    ids=short,
)
def test_any_other_refused_frame_is_no_heartbeat(data: Data) -> None:
    assert not is_heartbeat(data)


# Properties.

TEXTS = st.text(st.characters())  # with lone surrogates, which st.text() leaves out
KEYS = st.sampled_from(["username", "topic", "message", "ref"]) | TEXTS
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


@before_and_after_the_join
@given(data=TEXTS | st.binary() | JSON_VALUES.map(json.dumps) | TEXTS.map("/list".__add__))
@settings(deadline=None)
def test_any_input_is_a_frame_or_is_refused(decode: Decode, data: Data) -> None:
    try:
        frame = decode(data)
    except Refused:
        refusal(decode, data)
        is_heartbeat(data)
    else:
        assert isinstance(frame, (JoinFrame, SendFrame, ListCommand))


@given(
    text=st.text(min_size=1).filter(lambda text: text.strip()[:1] not in ("", "/")),
    ref=st.none() | st.text(min_size=1, max_size=64),
    escaped=st.booleans(),
)
@settings(deadline=None)
def test_a_message_arrives_as_it_was_sent(text: str, ref: Optional[str], escaped: bool) -> None:
    sent: dict[str, Any] = {"message": text} if ref is None else {"message": text, "ref": ref}
    frame = decode_member(json.dumps(sent, ensure_ascii=escaped))
    assert isinstance(frame, SendFrame)
    run = finished(Message(1, "alice", frame.message, 2)) + finished(
        Ack(id=1, ref=frame.ref or UNSET, timestamp=2, recipients=3)
    )
    received, acked = (json.loads(payload) for payload in payloads(run))
    assert received["message"] == text
    assert acked.get("ref") == ref
