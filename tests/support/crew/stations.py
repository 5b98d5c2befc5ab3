"""Stations of several workers in one process, and the far end of one by hand.

Claims belong to a process, so here they never stand against each other: a child process or the simulation shows that.
"""

import asyncio
import os
import socket
from typing import Any, Callable, Optional

from chat_actors.actors.handover import Luggage, Traveller
from chat_actors.connection.admission import Place
from chat_actors.counters import Counters, Statistics, Totals
from chat_actors.protocol.codes import CloseCode
from chat_actors.settings import Settings
from chat_actors.workers.board import Board
from chat_actors.workers.claims import FILES
from chat_actors.workers.crew import Crew
from chat_actors.workers.link import Link
from chat_actors.workers.messages import Message, decode, encode
from chat_actors.workers.siblings import Meeting
from chat_actors.workers.station import Station
from tests.support.crew.meeting import find
from tests.support.fakes import FakeClock, settle

SETTINGS = Settings.model_validate({"connections": 8})


async def until(done: Callable[[], object]) -> None:
    """Wait until something on real sockets has happened."""
    for _ in range(10_000):
        if done():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it does not happen")


class FakeHost:
    """Server as its station sees it."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.takes = True
        self.taken: list[tuple[Luggage, int]] = []
        self.places: list[Place] = []  # of those
        self.answers = asyncio.Event()  # whether it answers when it is asked for its statistics
        self.answers.set()
        self.connections = 0

    def take(self, luggage: Luggage, descriptor: int, place: Place) -> bool:
        if self.takes:
            self.taken.append((luggage, descriptor))
            self.places.append(place)
        return self.takes

    def values(self) -> dict[str, Any]:
        return self.counters.values()

    async def statistics(self) -> Statistics:
        await self.answers.wait()
        return Statistics(self.connections, Totals(topics=1), 0, 0, self.counters.bytes_out)

    def close(self) -> None:
        for _, descriptor in self.taken:
            os.close(descriptor)
        self.taken.clear()


class Worker:
    """Station with its surroundings."""

    def __init__(self, sockets: dict[int, int]) -> None:
        self.host = FakeHost()
        self.clock = FakeClock()
        self.meeting = Meeting(sockets)
        self.station = Station(self.host, SETTINGS, self.clock)

    async def open(self) -> "Worker":
        """Join the others."""
        assert await asyncio.wait_for(self.station.open(self.meeting), 10)
        await settle()  # its first tick begins
        return self

    @property
    def crew(self) -> Crew:
        assert self.station.crew is not None
        return self.station.crew

    @property
    def slots(self) -> set[int]:
        """The others that it knows."""
        return {*self.crew.siblings}

    async def close(self) -> None:
        """Leave the others. No-op after that."""
        await self.station.close()
        self.host.close()


class Far:
    """Worker of which only the sockets are there: the test says what it says."""

    def __init__(self, sockets: dict[int, int]) -> None:
        self.heard: list[tuple[Message, list[int]]] = []
        self.ended = 0
        self.links: list[Link] = []
        self._meeting = Meeting(sockets)
        self._listener: Optional[socket.socket] = None

    def listen(self) -> int:
        """Take a slot; who comes is accepted in the background."""
        others = find(self._meeting)
        place = self._meeting.listen(others)
        for one in others:
            one.sock.close()
        assert place is not None
        slot, self._listener = place
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)
        return slot

    def connect(self) -> "Far":
        """Connect to the worker in slot 0."""
        first, *others = sorted(find(self._meeting))
        for one in others:
            one.sock.close()
        self._link(first.sock)
        return self

    def _accept(self) -> None:
        assert self._listener is not None
        self._link(self._listener.accept()[0])

    def _link(self, sock: socket.socket) -> None:
        self.links.append(Link(sock, self._receive, lambda: None, self._end, os.close))

    def _receive(self, data: bytes, descriptors: list[int]) -> None:
        self.heard.append((decode(data), descriptors))

    def _end(self) -> None:
        self.ended += 1

    def say(self, message: Message, *descriptors: int) -> None:
        self.say_bytes(encode(message), *descriptors)

    def say_bytes(self, data: bytes, *descriptors: int) -> None:
        self.links[-1].send(data, descriptors)

    def messages(self, kind: type[Any]) -> list[Any]:
        """What it has heard of a kind."""
        return [message for message, _ in self.heard if isinstance(message, kind)]

    def close(self) -> None:
        """End like a process. No-op after that."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for link in self.links:
            link.close()
        for _, descriptors in self.heard:
            for one in descriptors:
                os.close(one)
        self.heard.clear()


def files() -> list[int]:
    """The files that all workers share, as the first one makes them."""
    return [Board.create(8), *(os.memfd_create("claims") for _ in range(FILES))]


class FakeTraveller(Traveller):
    """Session on its way: records what becomes of it."""

    def __init__(self, topic: str = "a", descriptor: Optional[int] = None) -> None:
        self.luggage = Luggage(topic, "alice", None, "peer", None, 1.0, 2.0, b"unread")
        self.descriptor = descriptor  # None: it has ended
        self.packed = 0
        self.became: list[Any] = []

    def pack(self) -> Optional[tuple[int, Luggage]]:
        self.packed += 1
        return None if self.descriptor is None else (self.descriptor, self.luggage)

    def arrived(self) -> Callable[[], None]:
        self.became.append("arrived")
        return lambda: self.became.append("is closed there")

    def ask_again(self) -> None:
        self.became.append("asks again")

    def refuse(self, code: CloseCode, detail: str = "") -> None:
        self.became.append((code, detail))
