"""Random input: frames for the decoder, and bytes for a connection, legal and broken, in pieces of any size."""

import json
import zlib
from typing import Callable, TypeVar

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from chat_actors.protocol.decoding import Data
from tests.support.websocket.wire import BINARY, CLOSE, CONT, FIN, PING, PONG, RSV1, TEXT, frame, header

T = TypeVar("T")

# For the decoder.

_KEYS = st.sampled_from(("username", "topic", "message", "ref", "since", "epoch", "resume", "events", "token", "x"))
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=40)
_VALUES = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3))
_OBJECTS = st.dictionaries(_KEYS, _LEAVES | _VALUES, max_size=5)
_JOINS = st.fixed_dictionaries({"username": st.text(max_size=40), "topic": st.text(max_size=70)})
_SENDS = st.fixed_dictionaries({"message": st.text(max_size=80)}, optional={"ref": st.text(max_size=70)})
_JSON = st.builds(json.dumps, _VALUES | _OBJECTS | _JOINS | _SENDS, ensure_ascii=st.booleans())


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """A frame with some bytes replaced, or missing."""
    data = draw(_JSON).encode(errors="surrogatepass")
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]


FRAMES: st.SearchStrategy[Data] = st.one_of(_JSON, _damaged(), st.text(st.characters()), st.binary())

# For a connection.

_TEXTS = st.text(max_size=200).map(str.encode)


def deflated(payload: bytes) -> bytes:
    """The payload of a compressed message."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


_MASKS = st.binary(min_size=4, max_size=4)
_CONTROLS = st.builds(frame, st.sampled_from((FIN | PING, FIN | PONG)), st.binary(max_size=125), _MASKS)


@st.composite
def _fragmented(draw: st.DrawFn) -> bytes:
    """A message in fragments, cut anywhere, with control frames between them."""
    kind, payload = draw(st.tuples(st.just(TEXT), _TEXTS) | st.tuples(st.just(BINARY), st.binary(max_size=50)))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), min_size=1, max_size=4)))
    parts = [payload[start:end] for start, end in zip([0, *cuts], [*cuts, len(payload)])]
    frames = [
        frame(kind if not i else CONT, part) + draw(_CONTROLS | st.just(b"")) for i, part in enumerate(parts[:-1])
    ]
    return b"".join(frames) + frame(FIN | CONT, parts[-1])


LEGAL = st.one_of(
    st.builds(frame, st.just(FIN | TEXT), _TEXTS, _MASKS),
    st.builds(frame, st.just(FIN | TEXT), _TEXTS.map(bytes.upper), _MASKS),
    st.builds(frame, st.just(FIN | BINARY), st.binary(max_size=200), _MASKS),
    _CONTROLS,
    _fragmented(),
)
BROKEN = st.one_of(
    st.builds(frame, st.integers(0, 255), st.binary(max_size=130), _MASKS),
    st.builds(frame, st.integers(0, 255), st.binary(min_size=4, max_size=130), st.none()),
    st.builds(frame, st.just(FIN | TEXT), st.binary(min_size=1, max_size=10), _MASKS),
    st.builds(frame, st.just(FIN | CLOSE), st.binary(max_size=10), _MASKS),
    st.builds(frame, st.sampled_from((TEXT, BINARY, CONT, FIN | CONT)), st.binary(max_size=10), _MASKS),
    st.builds(frame, st.just(FIN | RSV1 | TEXT), _TEXTS.map(deflated), _MASKS),
    st.just(header(FIN | TEXT, 1 << 63)),
)
ANYTHING = st.lists(LEGAL | BROKEN | st.binary(max_size=100), max_size=10).map(b"".join)
# One that breaks comes last, if any does, or with a good one behind it.
_LAST = BROKEN | st.just(b"") | st.builds(bytes.__add__, BROKEN, st.just(frame(FIN | TEXT, b"behind")))
STREAMS = st.builds(lambda legal, last: b"".join(legal) + last, st.lists(LEGAL, max_size=12), _LAST)


@st.composite
def chunks(draw: st.DrawFn, streams: st.SearchStrategy[bytes] = STREAMS) -> list[bytes]:
    """A stream as it may be read from a socket: in pieces of any size."""
    data = draw(streams)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=20)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)])]


BATCH = 5000  # examples; what Hypothesis remembers of them grows


def check_many(count: int, strategy: st.SearchStrategy[T], check: Callable[[T], None]) -> int:
    """Check so many random inputs, other ones at each call; returns how many there were."""
    done = 0

    def count_and_check(value: T) -> None:
        nonlocal done
        done += 1
        check(value)

    batch = 0
    while done < count:
        size = min(BATCH, count - done)
        run = settings(max_examples=size, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        seed(batch)(run(given(strategy)(count_and_check)))()
        batch += 1
    return done
