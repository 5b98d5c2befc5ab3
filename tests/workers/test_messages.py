"""What workers tell each other comes out of the encoding as it went in."""

import msgspec
import pytest

from chat_actors.actors.handover import Luggage
from chat_actors.protocol.frames import Window
from chat_actors.workers.messages import (
    Arrival,
    Ask,
    Gone,
    Hello,
    Leaving,
    Measured,
    Message,
    Returned,
    Taken,
    Topics,
    Welcome,
    decode,
    encode,
)

LUGGAGE = Luggage("topic", "alice", Window(3, "epoch", "token", True), "peer", None, -0.5, 1234.5, b"\x81\xff")


@pytest.mark.parametrize(
    "message",
    [
        Hello(3, wants_files=True),
        Welcome(63),
        Topics(7, [("a", 1 << 60, 2), ("b", 5, 0)]),
        Arrival(1, 99.5, LUGGAGE),
        Arrival(2, 99.5, msgspec.structs.replace(LUGGAGE, window=Window(), source="192.0.2.1")),
        Arrival(3, 99.5, msgspec.structs.replace(LUGGAGE, window=None)),
        Taken(4),
        Returned(5, full=False),
        Gone(5),
        Ask(6),
        Measured(7, b"statistics"),
        Leaving(),
    ],
)
def test_a_message_is_read_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("data", [b"", b"\xc1", encode(Taken(1))[:-1], msgspec.msgpack.encode(["Unknown", 1])])
def test_what_is_no_message_is_an_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(data)
