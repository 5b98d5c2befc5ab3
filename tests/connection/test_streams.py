"""Random byte streams: both lanes answer as a model of RFC 6455 says, on every kind of server, cut in any way.

``python -m tests.tools.streams`` plays as many as it is told to.
"""

import asyncio
import itertools
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Optional, Union

import pytest

from tests.support.server import ROOT
from tests.support.websocket.wire import CLOSE, CONT, FIN, PING, TEXT, frame, text
from tests.tools.streams.model import AT_ONCE, DIFFERENCES, PINGS, SUPERVISOR, TOPIC, Observed, difference, expect
from tests.tools.streams.play import Place
from tests.tools.streams.run import FAST, IMPLEMENTATIONS, LOOPS, compare, servers
from tests.tools.streams.streams import LIMIT, REFUSED, Do, Last, Stream, stream

SEED = 1
SHARE = 63  # streams for each kind of server, of 500
KINDS = list(itertools.product(LOOPS, IMPLEMENTATIONS, (False, True)))


def need_openssl() -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")


@pytest.mark.parametrize("share", range(len(KINDS)), ids=["-".join(map(str, kind)) for kind in KINDS])
def test_both_lanes_answer_a_random_stream_as_the_model_does(share: int) -> None:
    loop, ws, tls = KINDS[share]
    if tls:
        need_openssl()
    counts: Counter[str] = Counter()
    streams = (stream(SEED, number) for number in range(share * SHARE, (share + 1) * SHARE))
    with servers(loop, ws, tls) as places:
        found = asyncio.run(compare(places, streams, counts))
    assert not found, found[0]
    assert counts["streams"] == SHARE


def test_a_seed_and_a_number_name_the_same_stream_in_every_process() -> None:
    program = "from tests.tools.streams.streams import stream\nfor n in range(50): print(stream(3, n))"
    same = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert same.stdout == "".join(f"{stream(3, number)}\n" for number in range(50))


# Streams of which one once went wrong.


def by_hand(*script: Union[bytes, Do], last: Last = Last.WAIT, take: int = 0) -> Stream:
    topic = f"topic {take}"
    return Stream("by hand", topic, [join(topic), Do.AWAIT, *script], last, False, [])


def join(topic: str) -> bytes:
    return text(json.dumps({"username": "sender", "topic": topic}))


HELLO = text('{"message": "hello"}')
PING_WITH_LONG_LENGTH = frame(FIN | PING, b"ping", width=2)
BY_HAND: dict[str, list[Union[bytes, Do]]] = {
    "messages right before the close": [HELLO * 2 + frame(FIN | CLOSE, b"\x03\xe8")],
    "a ping with a long length, in two pieces": [
        PING_WITH_LONG_LENGTH[:8],
        PING_WITH_LONG_LENGTH[8:],
        frame(FIN | CLOSE),
    ],
    "an unknown opcode without its payload": [frame(FIN | 0x3, b"hello")[:6]],
    "a message above the limit, and one that is not UTF-8": [
        frame(FIN | TEXT, b" " * (LIMIT + 1)) + frame(FIN | TEXT, b"\xff")
    ],
    "a text of the limit": [frame(FIN | TEXT, b'{"message": "1"}'.ljust(LIMIT)) + frame(FIN | CLOSE)],
    "a text above the limit": [frame(FIN | TEXT, b'{"message": "1"}'.ljust(LIMIT + 1)) + frame(FIN | CLOSE)],
    "a message of the limit in fragments": [
        frame(TEXT, b'{"message": "1"}') + frame(FIN | CONT, b" " * (LIMIT - 16)) + frame(FIN | CLOSE)
    ],
    "a message above the limit in fragments": [
        frame(TEXT, b'{"message": "1"}') + frame(FIN | CONT, b" " * (LIMIT - 15)) + frame(FIN | CLOSE)
    ],
}


@pytest.fixture(scope="module", params=[False, True], ids=["TCP", "TLS"])
def places(request: pytest.FixtureRequest) -> Iterator[dict[str, Place]]:
    if request.param:
        need_openssl()
    with servers(LOOPS[0], IMPLEMENTATIONS[0], tls=request.param) as places:
        yield places


@pytest.mark.parametrize("last", [Last.WAIT, Last.EOF])
@pytest.mark.parametrize("name", BY_HAND)
def test_both_lanes_answer_a_known_stream_as_the_model_does(places: dict[str, Place], name: str, last: Last) -> None:
    streams = [by_hand(*BY_HAND[name], last=last, take=take) for take in range(5)]
    found = asyncio.run(compare(places, streams, Counter()))
    assert not found, found[0]


# The judge: what it looks for, done to it.

CHAT = by_hand(
    text("/list") + text('{"message": "hello"}') + text("{") + frame(FIN | PING, b"?") + text('{"message": "bye"}'),
    Do.AWAIT,
    frame(FIN | CLOSE, b"\x03\xe8"),
)
SEEN = Observed(
    [
        (TOPIC, "joined sender 2"),
        (AT_ONCE, "error invalid_json"),
        (PINGS, b"?".hex()),
        (SUPERVISOR, "topics [2]"),
        (TOPIC, "ack 1 None 1"),
        (TOPIC, "ack 2 None 1"),
    ],
    [],
    b"\x03\xe8",
    ["joined sender", "message 1 sender hello", "message 2 sender bye", "left sender"],
)


def judged(seen: Observed, host: str = FAST, one: Stream = CHAT) -> str:
    return difference(seen, expect(one, host, tls=False), host) or ""


@pytest.mark.parametrize("host", DIFFERENCES)
def test_the_judge_takes_what_the_model_says(host: str) -> None:
    assert judged(SEEN, host) == ""


@pytest.mark.parametrize("host", DIFFERENCES)
@pytest.mark.parametrize("place", range(len(SEEN.answers)))
def test_the_judge_sees_an_answer_that_is_lost_or_doubled(host: str, place: int) -> None:
    answers = SEEN.answers
    assert judged(SEEN._replace(answers=answers[:place] + answers[place + 1 :]), host)
    assert judged(SEEN._replace(answers=answers[:place] + answers[place : place + 1] + answers[place:]), host)


@pytest.mark.parametrize("host", DIFFERENCES)
def test_the_judge_sees_answers_in_another_order(host: str) -> None:
    joined, error, pong, topics, first, second = SEEN.answers
    assert judged(SEEN._replace(answers=[error, joined, pong, topics, first, second]), host)
    assert judged(SEEN._replace(answers=[joined, error, pong, topics, second, first]), host)
    assert judged(SEEN._replace(answers=[joined, topics, first, second, error, pong]), host) == ""


@pytest.mark.parametrize("host", DIFFERENCES)
@pytest.mark.parametrize("end", [None, b"", b"\x03\xe9", b"\x03\xe8bye"])
def test_the_judge_sees_another_end(host: str, end: Optional[bytes]) -> None:
    assert judged(SEEN._replace(end=end), host)


@pytest.mark.parametrize("host", DIFFERENCES)
def test_the_judge_sees_what_comes_behind_the_close(host: str) -> None:
    assert judged(SEEN._replace(late=SEEN.answers[-1:]), host)


@pytest.mark.parametrize("host", DIFFERENCES)
@pytest.mark.parametrize("place", range(len(SEEN.heard)))
def test_the_judge_sees_what_the_witness_does_not_hear(host: str, place: int) -> None:
    heard = SEEN.heard
    assert judged(SEEN._replace(heard=heard[:place] + heard[place + 1 :]), host)
    assert judged(SEEN._replace(heard=heard[:place] + heard[place : place + 1] + heard[place:]), host)


def test_answers_may_be_missing_only_where_the_end_came_before_them() -> None:
    said = text('{"message": "hello"}') + text("{")
    ended = by_hand(said + frame(FIN | CLOSE))
    joined, error, _, _, ack, _ = SEEN.answers
    seen = Observed([joined, error], [], b"", ["joined sender", "message 1 sender hello", "left sender"])
    assert judged(seen, FAST, ended) == ""
    assert judged(seen._replace(answers=[joined, error, ack]), FAST, ended) == ""
    assert judged(seen._replace(answers=[joined, ack]), FAST, ended)  # an error is written at once
    assert judged(seen._replace(heard=["joined sender", "left sender"]), FAST, ended)


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (frame(FIN | TEXT, b"hello", None), 1002),
        (frame(FIN | 0x40 | TEXT, b"hello"), 1002),
        (frame(FIN | 0xB), 1002),
        (frame(FIN | CONT), 1002),
        (frame(PING), 1002),
        (frame(FIN | PING, bytes(126)), 1002),
        (frame(TEXT) + frame(TEXT), 1002),
        (frame(TEXT) + frame(FIN | CLOSE), 1002),
        (frame(FIN | CLOSE, b"\x03"), 1002),
        (frame(FIN | CLOSE, b"\x03\xed"), 1002),
        (frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(FIN | TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xc3") + frame(FIN | CONT, b"("), 1007),
        (frame(FIN | TEXT, bytes(LIMIT + 1))[:14], 1009),
        (frame(TEXT, bytes(LIMIT)) + frame(FIN | CONT, b"x"), 1009),
        (text("{") * REFUSED, 1008),
    ],
    ids=str,
)
def test_the_model_knows_what_ends_a_connection(broken: bytes, code: int) -> None:
    expected = expect(by_hand(broken), FAST, tls=False)
    assert expected.closes
    (end,) = expected.ends
    assert code == (int.from_bytes(end[:2], "big") if isinstance(end, bytes) else end)
