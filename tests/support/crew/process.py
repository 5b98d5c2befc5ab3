"""One worker of the simulation: a crew, and a small house that opens topics as ``WorkerSupervisor`` does."""

import random
from collections import deque
from typing import Any, Callable, Optional, Union

from chat_actors.actors.handover import Luggage, Traveller
from chat_actors.connection.admission import Admission, Place
from chat_actors.protocol.codes import CloseCode
from chat_actors.settings import Settings
from chat_actors.workers.board import Board
from chat_actors.workers.crew import Change, Crew, Home, Where
from chat_actors.workers.messages import Hello, Message, Welcome
from chat_actors.workers.station import WELCOME_SECONDS
from chat_actors.workers.supervisor import RETRY_SECONDS
from tests.support.crew.kernel import Broken, KernelClaims, Peer, Wire

Mail = tuple[str, "Seat", bool]


class Surroundings:
    """What all processes of one schedule share."""

    def __init__(self, rng: random.Random, board: Board, settings: Settings) -> None:
        self.rng = rng
        self.board = board
        self.settings = settings
        self.now = 100.0  # monotonic seconds
        self.claims: dict[str, int] = {}  # processes, by topic
        self.processes: list[Process] = []  # that live
        self.number = 0  # of the last descriptor, or moment

    def next(self) -> int:
        """Return a number that nothing else has."""
        self.number += 1
        return self.number


class Seat(Traveller):
    """Session of a peer in one process: does what ``Session`` does."""

    def __init__(self, process: "Process", peer: Peer, descriptor: int, place: Place) -> None:
        self.peer = peer
        self.member = False
        self.moving = False
        self.over = False
        self._process = process
        self._descriptor = descriptor
        self._place = place
        process.seats[self] = None
        peer.seats.append(self)
        if peer.ended:
            self.notice()

    def notice(self) -> None:
        """Hear, in a later step, that the connection has ended; not while another process may have it."""
        if not self.moving and not self.over:
            self._process.soon.append(self.end)

    def end(self) -> None:
        """End the session: the peer has gone."""
        if not self.over and not self.moving:
            self._finish()
            self._process.mail.append(("leave", self, False))

    def _finish(self) -> None:
        self._place.leave()
        self._forget()

    def _forget(self) -> None:
        self.over = True
        self._process.seats.pop(self, None)
        self._process.discard(self._descriptor)

    def close(self, code: CloseCode) -> None:
        """Send a close frame, and end the connection."""
        if not self.over:
            if self.moving:
                raise Broken(f"{self.peer} written to while it is on its way")
            if self.peer.code is None and not self.peer.ended:
                self.peer.code = int(code)
            self._finish()
            self.peer.end()

    def land(self) -> None:
        """Begin in the process that has taken the connection."""
        if self._process.stopping:
            self.close(CloseCode.RESTARTING)
        else:
            self.ask(arrived=True)

    def ask(self, arrived: bool) -> None:
        """Ask the house to join."""
        self._process.mail.append(("join", self, arrived))

    # Traveller

    def pack(self) -> Optional[tuple[int, Luggage]]:
        if self.over:
            return None
        if self.moving or self.member:
            raise Broken(f"{self.peer} sent away twice")
        self.moving = True
        peer = self.peer
        return self._descriptor, Luggage(peer.topic, "name", None, "peer", peer.source, 0.0, 0.0, b"")

    def arrived(self) -> Callable[[], None]:
        if self.over:
            return lambda: None
        self._forget()
        return self._place.leave

    def ask_again(self) -> None:
        if self._is_back():
            self.ask(arrived=False)

    def refuse(self, code: CloseCode, detail: str = "") -> None:
        if self._is_back():
            self.close(code)

    def _is_back(self) -> bool:
        if not self.over:
            was_moving, self.moving = self.moving, False
            if was_moving and self.peer.ended:
                self.notice()
        return not self.over


class Process(Home):
    """Worker process. It begins to join the others at once."""

    def __init__(self, around: Surroundings, number: int, slot: int, capacity: int) -> None:
        self.around = around
        self.number = number
        self.slot = slot
        self.alive = True
        self.awake = True
        self.stopping = False
        self.ready = False
        self.ticks = False  # a tick is due
        self.crew: Optional[Crew] = None
        self.wires: list[Wire] = []
        self.descriptors: dict[int, Peer] = {}
        self.seats: dict[Seat, None] = {}  # in order, so that a seed is one schedule
        self.topics: dict[str, list[Seat]] = {}
        self.announced: dict[str, int] = {}  # users, by topic
        self.mail: deque[Mail] = deque()
        self.soon: deque[Callable[[], None]] = deque()
        self.timers: list[tuple[float, Mail]] = []
        self.admission = Admission(around.settings)
        self.claims = KernelClaims(around.claims, number)
        self.unanswered = 0  # questions to others
        self._born: dict[str, int] = {}
        self.changed: set[str] = set()
        self._to_greet: deque[Wire] = deque()
        self._greeted: Optional[Wire] = None
        self._until = around.now
        for other in around.processes:
            own, far = Wire(self, capacity), Wire(other, capacity)
            own.other, far.other = far, own
            self.wires.append(own)
            other.wires.append(far)
            self._to_greet.append(own)

    # The beginning, as of ``Station``

    def can_begin(self) -> bool:
        """Return whether the beginning can go on."""
        if self.ready:
            return False
        if self._greeted is not None:
            return self.crew is not None or not self._greeted.open or self.around.now >= self._until
        if self.crew is None and self.wires and not self._to_greet:
            return False
        return bool(self._to_greet) or self.around.now >= self._until or self._has_met_all()

    def begin(self) -> None:
        """Go on with the beginning."""
        now = self.around.now
        if self._to_greet:
            self._greeted = self._to_greet.popleft()
            self._greeted.send(Hello(self.slot, wants_files=self.crew is None))
            self._until = now + WELCOME_SECONDS
        elif self._greeted is not None:
            self._greeted = None
            self._until = now + WELCOME_SECONDS
        else:
            if self.crew is None:
                self._make_crew()
            self.ready = self._has_met_all() or now >= self._until

    def _has_met_all(self) -> bool:
        return all(wire.sibling is not None for wire in self.wires)

    def _make_crew(self) -> None:
        board = self.around.board
        board.clear(self.slot)
        self.crew = Crew(self.slot, board, self.claims, lambda: self.around.now, self)
        self.admission.tally = self.crew.tally

    def _meet(self, wire: Wire, message: Message) -> None:
        if isinstance(message, Welcome) and self.crew is None:
            self._make_crew()
        newer = self.wires[self.wires.index(wire) + 1 :]
        if self.crew is None or not isinstance(message, (Hello, Welcome)):
            raise Broken(f"{type(message).__name__} as the first message")
        if any(one.sibling is not None and one.sibling.slot == message.slot for one in newer):
            wire.close()  # its worker has ended, for another has its slot
            return
        if isinstance(message, Hello):
            wire.send(Welcome(self.slot))
        wire.sibling = self.crew.add(message.slot, wire.other.owner.number, wire)

    # What the kernel has for it

    def own(self, peer: Peer) -> int:
        """Have a new copy of a descriptor."""
        descriptor = self.around.next()
        self.descriptors[descriptor] = peer
        peer.copies += 1
        return descriptor

    def read(self, wire: Wire, without: bool = False) -> None:
        """Take the next message, or the end, of a wire. ``without``: no descriptor is left in this process."""
        if wire.has_ended():
            wire.close()
            return
        message, peer = wire.other.kernel.popleft()
        descriptors = [] if peer is None or without else [self.own(peer)]
        if peer is not None:
            peer.drop()
        if wire.sibling is None:
            self._meet(wire, message)
        else:
            wire.sibling.receive(message, descriptors)

    def tick(self) -> None:
        """Check what is overdue. An event loop looks at the sockets first."""
        self.ticks = False
        for wire in [*self.wires]:
            while wire.open and (wire.other.kernel or wire.has_ended()):
                self.read(wire)
        if self.crew is not None:
            self.crew.tick()

    def die(self) -> None:
        """End at once. The kernel closes and frees all that the process had."""
        self.alive = False
        self.around.processes.remove(self)
        self.claims.free()
        for seat in self.seats:
            seat.over = True
        for wire in [*self.wires]:
            wire.close(dead=True)
        for peer in self.descriptors.values():
            peer.lost = True
            peer.drop()

    # Home

    def take(self, luggage: Luggage, descriptor: int, place: Place) -> bool:
        peer = self.descriptors[descriptor]
        if self.stopping:
            return False
        if peer.code is not None:
            raise Broken(f"{peer} was closed, and is taken")
        self.soon.append(lambda: Seat(self, peer, descriptor, place).land())
        return True

    def discard(self, descriptor: int) -> None:
        self.descriptors.pop(descriptor).drop()

    def measure(self, answer: Callable[[bytes], None]) -> None:
        self.soon.append(lambda: answer(b"statistics"))

    def hear(self) -> None: ...

    def ask(self, slot: int) -> None:
        """Ask another worker for its statistics."""
        assert self.crew is not None
        self.unanswered += 1
        self.crew.siblings[slot].ask(self._answered)

    def _answered(self, _: Optional[bytes]) -> None:
        self.unanswered -= 1

    # The house

    def connect(self, peer: Peer) -> None:
        """Accept a peer, and read its join."""
        descriptor, place = self.own(peer), self.admission.enter(peer.source)
        seat = Seat(self, peer, descriptor, place)
        if not place.within:
            seat.close(CloseCode.OVERLOADED)
        else:
            seat.ask(arrived=False)

    def turn(self, most: int) -> None:
        """Handle mail. The turn ends with ``announce``: other processes may do something in between."""
        for _ in range(min(most, len(self.mail))):
            kind, seat, arrived = self.mail.popleft()
            if kind == "leave":
                self._leave(seat)
            elif self.stopping:
                seat.refuse(CloseCode.RESTARTING)
            elif not seat.over:
                self._join(seat, arrived)

    def _join(self, seat: Seat, arrived: bool) -> None:
        crew, topic = self.crew, seat.peer.topic
        assert crew is not None
        if topic not in self.topics:
            where: Union[Where, Any] = crew.find(topic, arrived)
            if where is Where.LATER:
                self.timers.append((self.around.now + RETRY_SECONDS, ("join", seat, arrived)))
                return
            if where is not Where.HERE:
                self.soon.append(lambda: where.road(seat))
                return
            crew.count_topics(len(self.topics) + 1)
            if crew.all_topics() > self.around.settings.topics:
                crew.release(topic)
                crew.count_topics(len(self.topics))
                seat.refuse(CloseCode.OVERLOADED)
                return
            self._open(topic)
        if seat.peer.joined:
            raise Broken(f"{seat.peer} joins twice")
        seat.peer.joined = seat.member = True
        self.topics[topic].append(seat)
        self.changed.add(topic)

    def _open(self, topic: str) -> None:
        for other in self.around.processes:
            if topic in other.topics:
                raise Broken(f"two owners of {topic}: {other} and {self}")
        self.topics[topic] = []
        self._born[topic] = self.around.next()

    def _leave(self, seat: Seat) -> None:
        topic = seat.peer.topic
        if seat.member and topic in self.topics:
            assert self.crew is not None
            seat.member = False
            self.topics[topic].remove(seat)
            self.changed.add(topic)
            if not self.topics[topic]:
                del self.topics[topic]
                self.crew.release(topic)
                self.crew.count_topics(len(self.topics))

    def announce(self) -> None:
        """Tell the others what has changed in this turn."""
        assert self.crew is not None
        changes: list[Change] = []
        for topic in sorted(self.changed):
            users = len(self.topics.get(topic, ()))
            changes.append((topic, self._born[topic], users))
            self.announced[topic] = users
            if not users:
                del self.announced[topic]
        self.changed.clear()
        self.crew.announce(changes)

    def stop(self) -> None:
        """Begin to end: tell the others, and close all members."""
        assert self.crew is not None
        self.stopping = True
        self.crew.leave()
        for seat in [*self.seats]:
            if not seat.moving:
                seat.close(CloseCode.RESTARTING)
        topics, self.topics = self.topics, {}
        for topic in topics:
            self.crew.release(topic)
            self.crew.count_topics(0)
            self.changed.add(topic)
        self.announce()

    def __str__(self) -> str:
        return f"process {self.number}"
