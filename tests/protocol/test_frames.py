"""The frames of the server, byte for byte, and the codes."""

from typing import Any

import pytest
from websockets.frames import Close, Frame, Opcode

from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.protocol.frames import (
    REPLAYED_BYTES,
    Ack,
    Error,
    Joined,
    Message,
    Replayed,
    ServerFrame,
    Topics,
    TopicUsers,
    finished,
    payloads,
    replayed,
)

LONGEST_MS = 86_400_000  # of the longest window that the settings allow

# What goes out.


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (
            Joined("alice#2", "sports", 2, 30),
            '{"type":"joined","username":"alice#2","topic":"sports","users":2,"ttl":30}',
        ),
        (Joined("\u00e9", "t", 1, 0.5), '{"type":"joined","username":"\u00e9","topic":"t","users":1,"ttl":0.5}'),
        (
            Message(17, "alice", "Hello World", 1690000000),
            '{"type":"message","id":17,"username":"alice","message":"Hello World","timestamp":1690000000}',
        ),
        (
            Ack(id=17, ref="r-1", timestamp=1690000000, recipients=3),
            '{"type":"ack","status":"delivered","id":17,"ref":"r-1","timestamp":1690000000,"recipients":3}',
        ),
        (
            Ack(id=1, timestamp=1690000000, recipients=0),
            '{"type":"ack","status":"delivered","id":1,"timestamp":1690000000,"recipients":0}',
        ),
        (
            Replayed(id=17, username="alice", message="Hello World", timestamp=1690000000, remaining_ms=12345),
            '{"type":"message","id":17,"username":"alice","message":"Hello World","timestamp":1690000000,'
            '"replayed":true,"remaining_ms":12345}',
        ),
        (
            Ack(id=17, ref="r-1", timestamp=1690000000, recipients=3, duplicate=True, remaining_ms=12345),
            '{"type":"ack","status":"delivered","id":17,"ref":"r-1","timestamp":1690000000,"recipients":3,'
            '"duplicate":true,"remaining_ms":12345}',
        ),
        (
            Topics.of([TopicUsers("sports", 2), TopicUsers("movies", 1)]),
            '{"type":"topics","message":"Active Topics:\\n- sports (2 users)\\n- movies (1 user)",'
            '"topics":[{"topic":"sports","users":2},{"topic":"movies","users":1}]}',
        ),
        (Topics.of([]), '{"type":"topics","message":"Active Topics:\\n(none)","topics":[]}'),
        (Error(ErrorCode.NOT_JOINED, "join first"), '{"type":"error","error":"not_joined","detail":"join first"}'),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_frame_goes_out_exactly_as_the_contract_shows_it(frame: ServerFrame, text: str) -> None:
    assert finished(frame) == Frame(Opcode.TEXT, text.encode()).serialize(mask=False)


@pytest.mark.parametrize("size", [100, 124, 125, 126, 127, 65534, 65535, 65536, 65537])
def test_a_finished_frame_is_what_a_websocket_library_makes_of_its_payload(size: int) -> None:
    bare = '{"type":"error","error":"not_joined","detail":""}'
    detail = "x" * (size - len(bare))
    payload = bare.replace('""', f'"{detail}"').encode()
    assert len(payload) == size
    assert finished(Error(ErrorCode.NOT_JOINED, detail)) == Frame(Opcode.TEXT, payload).serialize(mask=False)


@pytest.mark.parametrize("remaining_ms", [1, 12_345, LONGEST_MS])
@pytest.mark.parametrize("size", [1, 5, 20, 40, 41, 60, 100, 32_700, 32_730, 65_400, 65_500])
def test_a_stored_frame_is_replayed_as_if_it_had_been_made_for_that(size: int, remaining_ms: int) -> None:
    words: dict[str, Any] = {"id": 7, "username": "alice", "message": '\\"}' + "ä" * size, "timestamp": 1690000000}
    stored = finished(Message(**words))
    assert replayed(stored, remaining_ms) == finished(Replayed(**words, remaining_ms=remaining_ms))


def test_a_replayed_frame_is_longer_by_a_bounded_number_of_bytes() -> None:
    stored = (finished(Message(7, "alice", "x" * size, 1690000000)) for size in (1, *range(50), *range(65_350, 65_500)))
    assert max(len(replayed(frame, LONGEST_MS)) - len(frame) for frame in stored) == REPLAYED_BYTES


def test_the_payloads_in_a_run_of_frames_are_found_again() -> None:
    run = [b"x" * size for size in (0, 1, 125, 126, 127, 0, 65535, 65536, 2, 65537)]
    assert list(payloads(b"".join(Frame(Opcode.TEXT, one).serialize(mask=False) for one in run))) == run
    assert list(payloads(b"")) == []


def test_the_codes_are_those_of_the_contract() -> None:
    errors = "invalid_json invalid_join unauthorized invalid_username invalid_topic invalid_message empty_message"
    assert [*ErrorCode] == [
        *errors.split(),
        "message_too_long",
        "unknown_command",
        "already_joined",
        "not_joined",
        "server_full",
    ]
    assert [*CloseCode] == [1008, 1009, 1011, 1012, 1013, 4408, 4409]


@pytest.mark.parametrize("code", CloseCode)
def test_a_close_code_has_a_cause_that_fits_its_frame(code: CloseCode) -> None:
    Close(code, code.reason).check()  # raises where the protocol does not allow the code
    assert 1 <= len(code.reason.encode()) <= 123
