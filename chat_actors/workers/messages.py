"""What workers tell each other. Plain data, encoded as MessagePack."""

from typing import Union

import msgspec
from msgspec import Struct

from chat_actors.actors.handover import Luggage


class Hello(Struct, tag=True, array_like=True):
    """First message of a worker that has started, to each that was there before.

    ``wants_files``: whether it needs the files that all workers share.
    """

    slot: int
    wants_files: bool


class Welcome(Struct, tag=True, array_like=True):
    """Answer to it. If they are wanted, the descriptors of the board and of the files for claims go with it."""

    slot: int


class Topics(Struct, tag=True, array_like=True):
    """Topics of a worker that have changed: name, when it became active (monotonic nanoseconds), and users (0: gone).

    ``edition``: how many changes the worker has announced, these included.
    """

    edition: int
    changed: list[tuple[str, int, int]]


class Arrival(Struct, tag=True, array_like=True):
    """Connection whose topic is the other worker's, or is to be. Its descriptor goes with it.

    ``number``: for the answer. ``sent``: when, in monotonic seconds.
    """

    number: int
    sent: float
    luggage: Luggage


class Taken(Struct, tag=True, array_like=True):
    """Answer to an arrival: the connection is the answering worker's now."""

    number: int


class Returned(Struct, tag=True, array_like=True):
    """Answer to an arrival: the connection is not taken.

    ``full``: for lack of descriptors or of time, else because of the end.
    """

    number: int
    full: bool


class Gone(Struct, tag=True, array_like=True):
    """Fact that a connection is closed which was taken."""

    number: int


class Ask(Struct, tag=True, array_like=True):
    """Request for the measurements of a worker."""

    number: int


class Measured(Struct, tag=True, array_like=True):
    """Answer to it. ``statistics``: encoded; the counters are on the board by then."""

    number: int
    statistics: bytes


class Leaving(Struct, tag=True, array_like=True):
    """Last words of a worker that ends: it takes no more connections."""


Message = Union[Hello, Welcome, Topics, Arrival, Taken, Returned, Gone, Ask, Measured, Leaving]

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Message).decode
