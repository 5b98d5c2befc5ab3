"""The station: this worker's own end of everything that crosses between workers, with its sockets and its timer."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any, Callable, Optional, Protocol

import msgspec
from loguru import logger

from chat_actors.actors.handover import Luggage
from chat_actors.clock import Clock
from chat_actors.connection.admission import Place
from chat_actors.counters import Counters, Measurements, Statistics
from chat_actors.settings import Settings
from chat_actors.workers.board import ROWS, Board
from chat_actors.workers.claims import FILES, Locks
from chat_actors.workers.crew import TICK_SECONDS, Crew, Home, Line, Sibling
from chat_actors.workers.link import Link
from chat_actors.workers.messages import Hello, Message, Welcome, decode, encode
from chat_actors.workers.siblings import POLL_SECONDS, Found, Meeting, friend
from chat_actors.workers.sockets import shared_sockets

LEAVE_POLL_SECONDS = 0.05  # between two checks whether the others end too, at the end of this worker
LEAVE_POLLS = 4  # after which they stay: a parent tells all of its workers to end within milliseconds
ACCEPTS = 256  # in one turn of the loop
WELCOME_SECONDS = 1.0  # that a worker which starts waits for each of the others: one may be stopped
MEASURE_SECONDS = 1.0  # that a scrape waits for the others


class Host(Protocol):
    """What a station needs of the server."""

    counters: Counters

    def take(self, luggage: Luggage, descriptor: int, place: Place) -> bool:
        """As ``Home.take``."""

    def values(self) -> dict[str, Any]:
        """Return the counters by name, as ``Counters.add`` takes them."""

    def statistics(self) -> Awaitable[Statistics]:
        """Return a snapshot of this process."""


class _Wire(Line):
    """A link, and the sibling at its other end once that has said who it is."""

    def __init__(self, station: "Station", sock: socket.socket, process: int) -> None:
        self.process = process
        self.sibling: Optional[Sibling] = None
        self._station = station
        self._link = Link(sock, self._receive, self._drained, self._ended, station.discard)

    def send(self, message: Message, descriptor: Optional[int] = None) -> None:
        self._link.send(encode(message), () if descriptor is None else (descriptor,))

    def send_files(self, message: Message, files: list[int]) -> None:
        """Send a message with the shared files."""
        self._link.send(encode(message), tuple(files))

    def is_idle(self) -> bool:
        return self._link.idle

    def close(self) -> None:
        self._link.close()

    def _receive(self, data: bytes, descriptors: list[int]) -> None:
        try:
            message = decode(data)
        except (msgspec.DecodeError, RecursionError) as wrong:
            logger.bind(error=repr(wrong)).error("message of another worker not understood")
            self._station.discard_all(descriptors)
            self._link.close()
            return
        if self.sibling is not None:
            self.sibling.receive(message, descriptors)
        else:
            self._station.meet(self, message, descriptors)

    def _drained(self) -> None:
        if self.sibling is not None:
            self.sibling.drained()

    def _ended(self) -> None:
        self._station.note_end(self)


class Station(Home):
    """Own end of this worker. ``host``: its server."""

    def __init__(self, host: Host, settings: Settings, clock: Optional[Clock] = None) -> None:
        self.host = host
        self.crew: Optional[Crew] = None  # once it is open
        self.hears: Callable[[], None] = _nobody  # called when the topics of others have changed
        self.wires: dict[_Wire, None] = {}  # oldest first
        self.is_first = False  # whether there were no others when it opened
        self.all_replaced = False  # whether the parent may end all workers at once and start new ones
        self._settings = settings
        self._clock = clock or Clock()
        self._files: list[int] = []  # shared: the board, then those for claims
        self._spare: list[int] = []  # the same files once more: to close one would give up the claims
        self._meeting: Meeting  # set by ``open``
        self._slot = 0
        self._lost: dict[int, int] = {}  # by slot: processes of siblings whose links have ended
        self._strangers = 0  # that have been refused
        self._listener: Optional[socket.socket] = None
        self._leaving: Optional[asyncio.Task[None]] = None
        self._tasks: set[asyncio.Task[None]] = set()  # that ticks, and those that measure

    # The beginning

    async def open(self, meeting: Meeting) -> bool:
        """Join the other workers; return False if there are too many."""
        self._meeting = meeting
        await meeting.begin()
        try:
            found = await meeting.find()
            place = meeting.listen(found)
            if place is None:
                for one in found:
                    one.sock.close()
                return False
            slot, self._listener = place
            await self._join(meeting, slot, found)
        finally:
            meeting.go()
        self._listen()
        self._begin_task(self._tick())
        self.is_first = not found
        logger.bind(worker=slot, others=len(found)).info("worker ready")
        return True

    async def _join(self, meeting: Meeting, slot: int, found: list[Found]) -> None:
        """Get the shared files from one of the others, or make them if there is none; and meet all of them."""
        self._slot = slot
        while self.crew is None:
            if not found:
                self._begin(slot, [Board.create(self._settings.connections), *_new_files()])
            await self._greet([_Wire(self, one.sock, one.process) for one in found])
            while self.crew is None and self.wires:  # all are stopped
                await asyncio.sleep(POLL_SECONDS)
            if self.crew is None:  # they have ended, or could not send the files
                found = await meeting.find(slot)
        await self._wait(lambda: all(wire.sibling is not None for wire in self.wires))

    async def _greet(self, wires: list[_Wire]) -> None:
        self.wires.update(dict.fromkeys(wires))
        for wire in wires:
            wire.send(Hello(self._slot, wants_files=self.crew is None))
            await self._wait(partial(self._has_answered, wire))

    def _has_answered(self, wire: _Wire) -> bool:
        return self.crew is not None or wire not in self.wires

    async def _wait(self, done: Callable[[], bool]) -> None:
        for _ in range(round(WELCOME_SECONDS / POLL_SECONDS)):
            if done():
                break
            await asyncio.sleep(POLL_SECONDS)

    def _begin(self, slot: int, files: list[int]) -> None:
        """Become a worker with a slot. ``files``: the board, then those for claims."""
        self._files = files
        board = Board(files[0])
        board.clear(slot)
        counted = board.published(slot)
        if counted:
            self.host.counters.add(msgspec.msgpack.decode(counted))
        self.crew = Crew(slot, board, Locks(files[1:]), self._clock.monotonic, self)

    def meet(self, wire: _Wire, message: Message, descriptors: list[int]) -> None:
        """Take the first message of another worker."""
        if self.crew is None and isinstance(message, Welcome) and len(descriptors) == 1 + FILES:
            self._begin(self._slot, descriptors)
        else:  # it comes late, or some are missing
            self.discard_all(descriptors)
        if self.crew is None or not isinstance(message, (Hello, Welcome)) or not self._may_have(wire, message.slot):
            wire.close()
            return
        if isinstance(message, Hello):
            wire.send_files(Welcome(self.crew.slot), self._files if message.wants_files else [])
        wire.sibling = self.crew.add(message.slot, wire.process, wire)

    def _may_have(self, wire: _Wire, slot: int) -> bool:
        """Return whether the other worker of a wire may have a slot: not if one that has connected after it has it."""
        newer = [*self.wires][[*self.wires].index(wire) + 1 :]
        replaced = any(one.sibling is not None and one.sibling.slot == slot for one in newer)
        has_slot = 0 <= slot < ROWS and slot != self._slot and self._meeting.holder(slot) in (None, wire.process)
        return has_slot and not replaced

    def note_end(self, wire: _Wire) -> None:
        """Take note that a link has ended."""
        self.wires.pop(wire, None)
        if wire.sibling is not None:
            self._lost[wire.sibling.slot] = wire.process
            wire.sibling.ended()

    def _link_again(self, crew: Crew) -> None:
        """Connect to siblings that live though their links have ended. Of two the one with the higher slot does."""
        for slot, process in [*self._lost.items()]:
            if slot in crew.siblings or self._meeting.holder(slot) != process:
                del self._lost[slot]
            elif slot < self._slot and not any(one.process == process for one in self.wires):
                found = self._meeting.reach(slot)
                if found is not None:
                    logger.bind(worker=slot).warning("link to another worker made again")
                    wire = _Wire(self, found.sock, process)
                    self.wires[wire] = None
                    wire.send(Hello(self._slot, wants_files=False))

    def _accept(self, listener: socket.socket) -> None:
        """Accept those that wait: others must not crowd a worker out."""
        try:
            for _ in range(ACCEPTS):
                sock, _ = listener.accept()
                process = friend(sock)
                if process is not None:
                    self.wires[_Wire(self, sock, process)] = None
                    continue
                sock.close()
                if not self._strangers:
                    logger.warning("connection of another user to the workers' socket refused")
                self._strangers += 1
        except BlockingIOError:
            pass
        except OSError:  # no descriptor is left, for example: it would be told again at once
            asyncio.get_running_loop().remove_reader(listener.fileno())

    def _listen(self) -> None:
        """Accept from now on, until that fails."""
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept, self._listener)

    # Home

    def take(self, luggage: Luggage, descriptor: int, place: Place) -> bool:
        return self.host.take(luggage, descriptor, place)

    def discard(self, descriptor: int) -> None:
        if _file(descriptor) in map(_file, self._files):
            self._spare.append(descriptor)
        else:
            os.close(descriptor)

    def discard_all(self, descriptors: list[int]) -> None:
        """Close descriptors."""
        for descriptor in descriptors:
            self.discard(descriptor)

    def measure(self, answer: Callable[[bytes], None]) -> None:
        async def run() -> None:
            statistics = await self.host.statistics()
            self._publish()
            answer(msgspec.msgpack.encode(statistics))

        self._begin_task(run())

    def hear(self) -> None:
        self.hears()

    # The others' measurements

    async def measure_all(self, crew: Crew, own: Statistics) -> Measurements:
        """Return the measurements of all workers. ``own``: the statistics of this one.

        The counters are those on the board: of a worker that has ended, or does not answer in time, the last ones.
        """
        total = Measurements(own, Counters(), {crew.slot: os.getpid()})
        answers: list[asyncio.Future[Optional[bytes]]] = []
        for slot, sibling in crew.siblings.items():
            total.processes[slot] = sibling.process
            answers.append(asyncio.get_running_loop().create_future())
            sibling.ask(answers[-1].set_result)
        if answers:
            await asyncio.wait(answers, timeout=MEASURE_SECONDS)
        for statistics in [answer.result() for answer in answers if answer.done()]:
            if statistics is not None:
                total.statistics.add(msgspec.msgpack.decode(statistics, type=Statistics))
        self._publish()
        for slot in range(ROWS):
            published = crew.board.published(slot)
            if published:
                total.counters.add(msgspec.msgpack.decode(published))
        total.statistics.bytes_out = total.counters.bytes_out
        return total

    def _publish(self) -> None:
        if self.crew is not None:
            self.crew.board.publish(self.crew.slot, msgspec.msgpack.encode(self.host.values()))

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tick(self) -> None:
        """Publish, and look for what was not answered in time, until cancelled."""
        while True:
            await self._clock.sleep(TICK_SECONDS)
            for _ in range(2):  # first the sockets: what they bring may be what a deadline waits for
                await asyncio.sleep(0)
            try:
                if self.crew is not None:
                    self.crew.tick()
                    self._link_again(self.crew)
                self._listen()
                self._publish()
            except Exception as exception:  # a bug must not stop all that comes after it
                logger.opt(exception=exception).error("tick of a worker failed")

    # The end

    async def leave(self) -> None:
        """Tell the others that this worker ends; return once they have said the same, or it is known that they stay.

        The members of this worker should come back to them soon, but not to a server that ends. Meanwhile the host
        closes its listening sockets, if a signal has told it to end: then newcomers go to the others as well.
        """
        if self._leaving is None:
            self._leaving = asyncio.ensure_future(self._leave())
        await asyncio.shield(self._leaving)

    async def _leave(self) -> None:
        if self.crew is not None:
            self.crew.leave()
            # A parent that still listens has not ended them for good. Asked now, for the host closes its sockets soon.
            self.crew.replaced = self.all_replaced and bool(shared_sockets())
            for _ in range(LEAVE_POLLS):
                if self.crew.is_last():
                    break
                await self._clock.sleep(LEAVE_POLL_SECONDS)

    async def close(self) -> None:
        """Leave the others. No-op if it is not open."""
        self._publish()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for wire in [*self.wires]:
            wire.close()
        files, self._files, self._spare = self._files + self._spare, [], []
        for descriptor in files:
            os.close(descriptor)
        self._listener = None


def _nobody() -> None: ...


def _file(descriptor: int) -> tuple[int, int]:
    """Return what is the same for all descriptors of a file."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _new_files() -> list[int]:
    return [os.memfd_create("chat_actors-claims") for _ in range(FILES)]
