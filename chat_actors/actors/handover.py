"""The handing over of a connection whose topic lives in another process of this machine: who acts, and what goes along.

``workers`` knows the ways to the other processes, ``connection`` has the travellers.
"""

from abc import ABC, abstractmethod
from typing import Callable, Optional

from msgspec import Struct

from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Window


class Luggage(Struct, array_like=True, frozen=True):
    """What goes with a connection to another process, besides its descriptor."""

    topic: str
    username: str
    window: Optional[Window]
    peer: str  # for the log
    source: Optional[str]  # what the connection is counted under
    tokens: float  # of its rate limit, at the time ``counted_at`` (monotonic seconds)
    counted_at: float
    unread: bytes  # that the peer sent behind its join


class Traveller(ABC):
    """Session that awaits the answer to its join, and may be sent to another process."""

    __slots__ = ()

    @abstractmethod
    def pack(self) -> Optional[tuple[int, Luggage]]:
        """Return the descriptor, and what goes with it; None if the connection has ended or cannot be sent.

        Each call that returns luggage must be followed by a call of one of the other methods.
        """

    @abstractmethod
    def arrived(self) -> Callable[[], None]:
        """End on this side, for the other process has taken the connection; return what to call once it is closed."""

    @abstractmethod
    def ask_again(self) -> None:
        """Ask the supervisor again: the other process has not taken the connection, and will not."""

    @abstractmethod
    def refuse(self, code: CloseCode, detail: str = "") -> None:
        """Close the connection with ``code``, whoever has it. ``detail``: as in ``JoinFailed``."""


class Elsewhere(Exception):
    """Error that ``Join.reply`` raises if the topic lives in another process: ``road`` takes a session there."""

    def __init__(self, road: Callable[[Traveller], None]) -> None:
        super().__init__()
        self.road = road
