"""The crew: the workers of one server as one of them sees them, and the way of a connection to the one with its topic.

A topic lives where it began until it is empty. A new one begins at the worker that a hash of its name picks among those
alive. Views of who is alive may differ for a moment: only a claim decides. So a connection may come to a worker whose
claim fails; then that one sends it on to the worker that has the claim.

No asyncio, no sockets and no clock of its own: a simulation runs many crews against each other.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import partial
from hashlib import blake2b
from typing import Callable, NamedTuple, Optional, Union

from loguru import logger

from chat_actors.actors.handover import Luggage, Traveller
from chat_actors.connection.admission import Place, Tally
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import ListedTopic
from chat_actors.workers.board import Board, SharedTally
from chat_actors.workers.claims import Claims
from chat_actors.workers.messages import Arrival, Ask, Gone, Leaving, Measured, Message, Returned, Taken, Topics

ON_THE_WAY = 128  # connections to one worker that it has not answered yet; others wait their turn
SILENT_SECONDS = 1.5  # that a worker may have said nothing and still take a connection which was sent before
TICK_SECONDS = 0.5  # between two looks for what was not answered
SILENT_TICKS = 5  # that it may say nothing, 2 seconds at least; then what was sent to it before is closed

Change = tuple[str, int, int]  # of ``Topics``
_NOT_TAKEN = "join not answered in time: try again later"


class Where(Enum):
    """Where a topic is, if it is not a sibling's."""

    HERE = 0
    LATER = 1  # to be asked again: its worker ends, or has just begun


class Line(ABC):
    """Way to one other worker: in order, without waiting, until one of the two ends."""

    @abstractmethod
    def send(self, message: Message, descriptor: Optional[int] = None) -> None:
        """Send a message; a copy of the descriptor goes with it."""

    @abstractmethod
    def is_idle(self) -> bool:
        """Return whether nothing waits to be sent."""


class Home(ABC):
    """This worker's own side: what it does with what comes."""

    @abstractmethod
    def take(self, luggage: Luggage, descriptor: int, place: Place) -> bool:
        """Take a connection with its descriptor; return False, and take neither, if this worker ends.

        ``place``: to be left once the connection is closed.
        """

    @abstractmethod
    def discard(self, descriptor: int) -> None:
        """Close a descriptor."""

    @abstractmethod
    def measure(self, answer: Callable[[bytes], None]) -> None:
        """Put the counters on the board, then call ``answer`` with the statistics, encoded."""

    @abstractmethod
    def hear(self) -> None:
        """Take note that the topics of the others have changed."""


class OtherTopic(NamedTuple):
    """Active topic of another worker."""

    born: int  # monotonic nanoseconds
    listed: ListedTopic
    users: int


class Guest(Place):
    """Place of a connection that another worker has accepted, and counts as long as it lives.

    ``closed``: called when the connection is closed before that worker ends.
    """

    __slots__ = ("_closed",)

    def __init__(self, tally: Tally, source: Optional[str], closed: Callable[[], None]) -> None:
        super().__init__(tally, source, within=True)
        self._closed: Optional[Callable[[], None]] = closed

    def stay(self) -> None:
        """Count the connection here from now on."""
        self._closed = None
        self._tally.enter(self.source)

    def leave(self) -> None:
        if self._closed is None:
            super().leave()
        else:
            self._closed()


class Sibling:
    """Another worker, as this one sees it, until the line to it ends."""

    def __init__(self, crew: "Crew", slot: int, process: int, line: Line) -> None:
        self.slot = slot
        self.process = process
        self.topics: dict[str, OtherTopic] = {}
        self.edition = 0  # of its topics
        self.leaving = False  # it has said so
        self.stalled = False  # it has not answered in time, and said nothing since
        self._crew = crew
        self._line = line
        self._alive = True
        self._number = 0  # of the last message that awaits an answer
        self._on_the_way: dict[int, tuple[Traveller, int]] = {}  # by number; in which tick it was sent
        self._waiting: deque[tuple[Traveller, int]] = deque()  # and since which tick
        self._heard = crew.ticks  # tick in which it last said something
        self._said = -math.inf  # monotonic seconds, when it was last told something
        self._too_late = 0.0  # monotonic seconds: what it sent before is not taken
        self._away: dict[int, Callable[[], None]] = {}  # by number: what to call once a connection is closed there
        self._guests: dict[int, Guest] = {}  # by number: connections that it has sent here
        self._asked: dict[int, Callable[[Optional[bytes]], None]] = {}  # by number
        self._untold: dict[str, Change] = {}  # by topic
        self._told = -1  # edition of this worker's topics

    # The way of a connection

    def road(self, traveller: Traveller) -> None:
        """Send a session to this worker, as soon as there is room on the way."""
        if not self._alive:
            traveller.ask_again()
        elif self.stalled:
            traveller.refuse(CloseCode.OVERLOADED, _NOT_TAKEN)
        else:
            self._waiting.append((traveller, self._crew.ticks))
            self._send_on()

    def _send_on(self) -> None:
        while self._waiting and len(self._on_the_way) < ON_THE_WAY and self._line.is_idle():
            traveller, _ = self._waiting.popleft()
            packed = traveller.pack()
            if packed is not None:
                descriptor, luggage = packed
                self._number += 1
                self._on_the_way[self._number] = traveller, self._crew.ticks
                self._say(Arrival(self._number, self._crew.now(), luggage), descriptor)

    def check(self, now: int) -> None:
        """Close the connections that it has not answered while it said nothing. ``now``: the tick."""
        before = now - SILENT_TICKS
        if self._heard > before:
            return
        late = [number for number, (_, sent) in self._on_the_way.items() if sent <= before]
        refused = [self._on_the_way.pop(number)[0] for number in late]
        if refused or (self._waiting and self._waiting[0][1] <= before):
            self.stalled = True
            self._let_wait_elsewhere()
        for traveller in refused:
            traveller.refuse(CloseCode.OVERLOADED, _NOT_TAKEN)

    # What it says

    def receive(self, message: Message, descriptors: list[int]) -> None:
        """Take a message, and the descriptors that have come with it."""
        self.stalled = False
        self._heard = self._crew.ticks
        if isinstance(message, Arrival) and self._alive:
            self._receive_connection(message, descriptors)
            return
        for descriptor in descriptors:
            self._crew.home.discard(descriptor)
        if not self._alive:  # another worker has its slot already; these are its last words
            return
        if isinstance(message, Taken):
            self._answered(message.number, partial(self._note_arrival, message.number))
        elif isinstance(message, Gone):
            self._away.pop(message.number, _nothing)()
        elif isinstance(message, Returned):
            if not message.full:  # it ends, and may have said so before this worker was there
                self._note_leaving()
            self._answered(message.number, _refuse_full if message.full else _ask_again)
        elif isinstance(message, Topics):
            self._learn(message)
        elif isinstance(message, Ask):
            number = message.number
            self._crew.home.measure(lambda statistics: self._say(Measured(number, statistics)))
        elif isinstance(message, Measured):
            answer = self._asked.pop(message.number, None)
            if answer is not None:
                answer(message.statistics)
        elif isinstance(message, Leaving):
            self._note_leaving()

    def _note_leaving(self) -> None:
        self.leaving = True
        self._let_wait_elsewhere()

    def _receive_connection(self, arrival: Arrival, descriptors: list[int]) -> None:
        home = self._crew.home
        if not descriptors:
            self._say(Returned(arrival.number, full=True))
        elif self._is_too_late(arrival):
            home.discard(descriptors[0])
            self._say(Returned(arrival.number, full=True))
        else:
            guest = Guest(self._crew.tally, arrival.luggage.source, partial(self._see_off, arrival.number))
            self._guests[arrival.number] = guest
            if home.take(arrival.luggage, descriptors[0], guest):
                self._say(Taken(arrival.number))
            else:
                del self._guests[arrival.number]
                home.discard(descriptors[0])
                self._say(Returned(arrival.number, full=False))

    def _is_too_late(self, arrival: Arrival) -> bool:
        """Return whether its sender has closed a connection, or is about to, with all that it has sent until then."""
        self._note_silence()
        return arrival.sent < self._too_late

    def _note_silence(self) -> None:
        """Note from when on its sender still waits for a connection."""
        before = self._crew.now() - SILENT_SECONDS
        if self._said < before:
            self._too_late = before

    def _see_off(self, number: int) -> None:
        """Tell that a connection is closed which it has sent here."""
        del self._guests[number]
        self._say(Gone(number))

    def _note_arrival(self, number: int, traveller: Traveller) -> None:
        self._away[number] = traveller.arrived()

    def _answered(self, number: int, act: Callable[[Traveller], None]) -> None:
        traveller, _ = self._on_the_way.pop(number, (None, 0))
        if traveller is not None:  # else it was closed, for it was not taken in time
            act(traveller)
        self._send_on()

    def _learn(self, told: Topics) -> None:
        for topic, born, users in told.changed:
            if users:
                self._crew.place(topic, OtherTopic(born, ListedTopic(topic, users), users), self)
            elif self.topics.pop(topic, None) is not None:
                del self._crew.known[topic]
        self.edition = told.edition
        self._crew.note_change()

    # What it is told

    def tell(self, changes: Iterable[Change]) -> None:
        """Tell this worker of topics, as soon as the line is free: of each topic only how it is then."""
        self._untold.update((change[0], change) for change in changes)
        if self._line.is_idle():
            self._go_on()

    def drained(self) -> None:
        """Take note that the line is free again: so this worker goes on."""
        self.stalled = False
        self._heard = self._crew.ticks
        self._go_on()

    def _go_on(self) -> None:
        if self._told != self._crew.edition:
            self._told, changes, self._untold = self._crew.edition, [*self._untold.values()], {}
            self._say(Topics(self._told, changes))
        self._send_on()

    def say_leaving(self) -> None:
        """Tell this worker that the own one ends."""
        self._say(Leaving())

    def _say(self, message: Message, descriptor: Optional[int] = None) -> None:
        self._note_silence()
        self._said = self._crew.now()
        self._line.send(message, descriptor)

    def ask(self, answer: Callable[[Optional[bytes]], None]) -> None:
        """Have ``answer`` called with this worker's statistics; with None if it ends before."""
        self._number += 1
        self._asked[self._number] = answer
        self._say(Ask(self._number))

    # Its end

    def ended(self) -> None:
        """Take note that the line has ended. No-op after the first call."""
        if not self._alive:
            return
        self._alive = False
        self._crew.lose(self)
        on_the_way, self._on_the_way = self._on_the_way, {}
        for traveller, _ in on_the_way.values():  # who knows what the peer has heard from it
            traveller.refuse(CloseCode.RESTARTING)
        self._let_wait_elsewhere()
        away, self._away = self._away, {}
        for closed in away.values():
            closed()
        guests, self._guests = self._guests, {}
        for guest in guests.values():
            guest.stay()
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            answer(None)

    def _let_wait_elsewhere(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for traveller, _ in waiting:
            traveller.ask_again()


class Crew:
    """All workers, as this one sees them. ``slot``: its own number; ``now``: returns monotonic seconds."""

    def __init__(self, slot: int, board: Board, claims: Claims, now: Callable[[], float], home: Home) -> None:
        self.slot = slot
        self.board = board
        self.now = now
        self.home = home
        self.siblings: dict[int, Sibling] = {}  # by slot
        self.tally = SharedTally(board, slot, self.siblings)
        self.known: dict[str, Sibling] = {}  # the topics of the others
        self.edition = 0  # of this worker's own topics
        self.ticks = 0  # that have passed
        self.changes = 0  # that the others have announced, or made by their end
        self.replaced = False  # True: this worker ends, perhaps with all others, and new ones take their places
        self._claims = claims
        self._own: dict[str, Change] = {}

    # Who is there

    def add(self, slot: int, process: int, line: Line) -> Sibling:
        """Take note of another worker, and tell it of this one's topics."""
        before = self.siblings.get(slot)
        if before is not None:  # its end has not been noticed yet
            before.ended()
        sibling = self.siblings[slot] = Sibling(self, slot, process, line)
        logger.bind(worker=slot, process=process).debug("worker found")
        sibling.tell(self._own.values())
        return sibling

    def lose(self, sibling: Sibling) -> None:
        """Take note that another worker has ended."""
        logger.bind(worker=sibling.slot, process=sibling.process).debug("worker lost")
        del self.siblings[sibling.slot]
        for topic in sibling.topics:
            del self.known[topic]
        self.note_change()

    def leave(self) -> None:
        """Tell the others that this worker ends."""
        for sibling in self.siblings.values():
            sibling.say_leaving()

    def is_last(self) -> bool:
        """Return whether no other worker stays, and none comes."""
        return not self.replaced and all(one.leaving for one in self.siblings.values())

    def tick(self) -> None:
        """Let TICK_SECONDS have passed: act on what was not answered in time.

        Ticks are counted, not seconds: while this process is stopped it hears no answer, and no tick passes.
        """
        self.ticks += 1
        for sibling in [*self.siblings.values()]:
            sibling.check(self.ticks)

    # Topics

    def find(self, topic: str, arrived: bool) -> Union[Where, Sibling]:
        """Return where a topic lives, or is to begin. HERE: it is claimed, and to be opened or released.

        ``arrived``: another worker has sent the connection here.
        """
        if not arrived:
            sibling = self.known.get(topic)
            if sibling is None or sibling.leaving:
                sibling = self._pick(topic)
            if sibling is not None:
                return sibling
        holder = self._claims.take(topic)
        if holder is None:
            return Where.HERE
        for sibling in self.siblings.values():
            if sibling.process == holder and not sibling.leaving:
                return sibling
        return Where.LATER

    def _pick(self, topic: str) -> Optional[Sibling]:
        """Return who is to have a new topic; None: this worker. By rendezvous hashing over those that can take it."""
        able = [one for one in self.siblings.values() if not one.leaving and not one.stalled]
        weights: list[tuple[bytes, Optional[Sibling]]] = [(_weight(self.slot, topic), None)]
        weights += [(_weight(one.slot, topic), one) for one in able]
        return max(weights, key=lambda weighed: weighed[0])[1]

    def release(self, topic: str) -> None:
        """Give up the claim of a topic."""
        self._claims.release(topic)

    def count_topics(self, own: int) -> None:
        """Write how many topics this worker has."""
        self.board.set_topics(self.slot, own)

    def all_topics(self) -> int:
        """Return how many topics all workers have."""
        return self.board.topics(self.slot) + sum(map(self.board.topics, self.siblings))

    def announce(self, changes: list[Change]) -> None:
        """Tell the others how topics of this worker are now. Whoever looks at the board knows that they are told."""
        for change in changes:
            if change[2]:
                self._own[change[0]] = change
            else:
                self._own.pop(change[0], None)
        self.edition += 1
        self.board.set_edition(self.slot, self.edition)
        for sibling in self.siblings.values():
            sibling.tell(changes)

    def is_current(self) -> bool:
        """Return whether this worker knows all that the others have announced."""
        return all(one.edition == self.board.edition(slot) for slot, one in self.siblings.items())

    def others(self) -> Iterator[OtherTopic]:
        """Return the active topics of the others. If this worker has one too, the others' is old news."""
        return (sibling.topics[topic] for topic, sibling in self.known.items() if topic not in self._own)

    def place(self, topic: str, other: OtherTopic, sibling: Sibling) -> None:
        """Note where a topic is. Of two that had it the one that opened it later has it, whosever news comes first."""
        before = self.known.get(topic)
        if before is None or before.topics[topic].born <= other.born:
            if before is not None:
                del before.topics[topic]
            sibling.topics[topic] = other
            self.known[topic] = sibling

    def note_change(self) -> None:
        """Take note that the topics of the others have changed."""
        self.changes += 1
        self.home.hear()


def _weight(slot: int, topic: str) -> bytes:
    return blake2b(topic.encode(errors="surrogatepass"), digest_size=8, salt=slot.to_bytes(2, "big")).digest()


# Functions, for each must call the session's own method: ``Traveller.ask_again`` is the abstract one.


def _ask_again(traveller: Traveller) -> None:
    traveller.ask_again()


def _refuse_full(traveller: Traveller) -> None:
    traveller.refuse(CloseCode.OVERLOADED, _NOT_TAKEN)


def _nothing() -> None: ...
