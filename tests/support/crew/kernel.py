"""What the kernel does for workers: sockets with descriptors in flight, claims, and the end of a process."""

from collections import deque
from typing import TYPE_CHECKING, Optional

from chat_actors.workers.claims import Claims
from chat_actors.workers.crew import Line, Sibling
from chat_actors.workers.messages import Message

if TYPE_CHECKING:
    from tests.support.crew.process import Process, Seat


class Broken(Exception):
    """Error for a rule that does not hold."""


class Peer:
    """Client with one connection, which sends one join."""

    def __init__(self, number: int, topic: str, source: Optional[str]) -> None:
        self.number = number
        self.topic = topic
        self.source = source
        self.copies = 0  # of the descriptor of its connection, in processes and on their way
        self.code: Optional[int] = None  # of the close frame that it was sent
        self.joined = False
        self.ended = False  # its TCP connection has, from whichever side
        self.left = False  # it has ended the connection itself
        self.lost = False  # a process that had a copy has died
        self.seats: list[Seat] = []

    def drop(self) -> None:
        """Close a copy of the descriptor; the last one ends the connection."""
        self.copies -= 1
        if self.copies < 0:
            raise Broken(f"descriptor of peer {self.number} closed twice")
        if not self.copies:
            self.end()

    def end(self) -> None:
        """End the TCP connection. Each process that has it hears of it, in its own time."""
        if not self.ended:
            self.ended = True
            for seat in self.seats:
                seat.notice()

    def __str__(self) -> str:
        return f"peer {self.number} of {self.topic}"


Packet = tuple[Message, Optional[Peer]]


class Wire(Line):
    """One end of a Unix socket between two processes."""

    other: "Wire"  # the other end

    def __init__(self, owner: "Process", capacity: int) -> None:
        self.owner = owner
        self.sibling: Optional[Sibling] = None  # once it has said who it is
        self.open = True
        self.failed = False  # a write has
        self.kernel: deque[Packet] = deque()  # sent, and not read by the other end
        self.out: deque[Packet] = deque()  # for which the kernel has no room yet
        self._capacity = capacity

    def send(self, message: Message, descriptor: Optional[int] = None) -> None:
        if not self.open:
            return
        peer = None if descriptor is None else self.owner.descriptors[descriptor]
        if not self.other.open:
            self.failed = True
            return
        if peer is not None:
            peer.copies += 1
        self.out.append((message, peer))
        if len(self.out) == 1:
            self._push()

    def is_idle(self) -> bool:
        return not self.out

    def _push(self) -> None:
        while self.out and len(self.kernel) < self._capacity:
            self.kernel.append(self.out.popleft())

    def can_flush(self) -> bool:
        """Return whether what waits can go on."""
        return bool(self.out) and (len(self.kernel) < self._capacity or not self.other.open)

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        if not self.other.open:
            self.failed = True
            _discard(self.out, lost=False)
        self._push()
        if not self.out and self.sibling is not None:
            self.sibling.drained()

    def has_ended(self) -> bool:
        """Return whether the owner can see that the other end is closed."""
        return not self.other.open and (self.failed or not self.other.kernel)

    def close(self, dead: bool = False) -> None:
        """Close this end. ``dead``: because the process has ended."""
        if self.open:
            self.open = False
            _discard(self.out, lost=dead)
            _discard(self.other.kernel, lost=dead)
            self.owner.wires.remove(self)
            if self.sibling is not None and not dead:
                self.sibling.ended()


def _discard(packets: deque[Packet], lost: bool) -> None:
    while packets:
        _, peer = packets.popleft()
        if peer is not None:
            peer.lost = peer.lost or lost
            peer.drop()


class KernelClaims(Claims):
    """Claims of one process. ``held``: those of all, by topic."""

    def __init__(self, held: dict[str, int], process: int) -> None:
        self._held = held
        self._process = process

    def take(self, topic: str) -> Optional[int]:
        holder = self._held.setdefault(topic, self._process)
        return None if holder == self._process else holder

    def release(self, topic: str) -> None:
        if self._held.get(topic) == self._process:
            del self._held[topic]

    def free(self) -> None:
        """End all claims of the process: it has ended."""
        for topic in [topic for topic, holder in self._held.items() if holder == self._process]:
            del self._held[topic]
