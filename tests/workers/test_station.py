"""The station: workers that meet, pass connections and measure, over the real sockets; and far ends that misbehave."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any, Optional

import pytest

from chat_actors.actors.handover import Luggage
from chat_actors.protocol.codes import CloseCode
from chat_actors.workers import station
from chat_actors.workers.crew import SILENT_TICKS, TICK_SECONDS, Sibling
from chat_actors.workers.messages import Arrival, Hello, Leaving, Taken, Topics, Welcome
from chat_actors.workers.siblings import Meeting
from chat_actors.workers.station import Station
from tests.support.crew.meeting import bound
from tests.support.crew.stations import SETTINGS, FakeHost, FakeTraveller, Far, Worker, files, until
from tests.support.fakes import FakeClock, in_clean_loop, log_lines, settle


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who answer are waited for, however busy the machine is."""
    monkeypatch.setattr(station, "WELCOME_SECONDS", 30.0)
    monkeypatch.setattr(station, "MEASURE_SECONDS", 30.0)


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch, patience: None) -> None:
    """Some will not answer, so waiting for them is short."""
    monkeypatch.setattr(station, "WELCOME_SECONDS", 0.05)
    monkeypatch.setattr(station, "MEASURE_SECONDS", 0.05)


class Place:
    """Where workers meet, in a test; all that it has made is closed at its end."""

    def __init__(self, sockets: dict[int, int], stack: AsyncExitStack) -> None:
        self.sockets = sockets
        self._stack = stack

    def new(self) -> Worker:
        worker = Worker(self.sockets)
        self._stack.push_async_callback(worker.close)
        return worker

    async def worker(self) -> Worker:
        return await self.new().open()

    def far(self) -> Far:
        far = Far(self.sockets)
        self._stack.callback(far.close)
        return far


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    with bound() as sockets:
        async with AsyncExitStack() as stack:
            yield Place(sockets, stack)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    made = os.pipe()
    yield made
    for one in made:
        os.close(one)


# How they meet.


@in_clean_loop
async def test_workers_that_start_one_after_the_other_know_each_other() -> None:
    async with place() as here:
        workers = [await here.worker() for _ in range(3)]
        for slot, worker in enumerate(workers):
            await until(lambda worker=worker, slot=slot: worker.slots == {0, 1, 2} - {slot})  # type: ignore[misc]
        assert {one.process for one in workers[2].crew.siblings.values()} == {os.getpid()}


@in_clean_loop
async def test_workers_share_their_memory() -> None:
    async with place() as here:
        one, other = await here.worker(), await here.worker()
        one.crew.board.set_topics(0, 7)
        assert other.crew.board.topics(0) == 7


@in_clean_loop
async def test_a_worker_that_comes_is_told_of_all_topics() -> None:
    async with place() as here:
        one = await here.worker()
        one.crew.announce([("a", 5, 2), ("b", 6, 1)])
        one.crew.announce([("b", 6, 0)])
        other = await here.worker()
        await until(other.crew.is_current)
        assert [(topic.born, topic.users) for topic in other.crew.others()] == [(5, 2)]


@in_clean_loop
async def test_the_end_of_a_worker_is_noticed_and_its_slot_is_free() -> None:
    async with place() as here:
        one, other = await here.worker(), await here.worker()
        await one.close()
        await until(lambda: other.slots == set())
        again = await here.worker()
        assert again.crew.slot == 0
        await until(lambda: other.slots == {0})


def holds_slots(monkeypatch: pytest.MonkeyPatch, process: Optional[int]) -> None:
    """Have the kernel say that a process has every slot. It says nothing of what the asking process has itself."""
    monkeypatch.setattr(Meeting, "holder", lambda *_: process)


@in_clean_loop
async def test_a_link_that_ends_between_two_that_live_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with place() as here:
        one, other = await here.worker(), await here.worker()
        one.crew.announce([("a", 5, 2)])
        holds_slots(monkeypatch, os.getpid())
        for wire in [*one.station.wires]:
            wire.close()
        await until(lambda: other.slots == set())
        await one.clock.advance(TICK_SECONDS)  # of two, it is the other that connects
        assert one.slots == set()
        with monkeypatch.context() as crowded:
            crowded.setattr(Meeting, "reach", lambda *_: None)
            await other.clock.advance(TICK_SECONDS)
        assert not one.station.wires
        await other.clock.advance(TICK_SECONDS)
        await until(lambda: (one.slots, other.slots) == ({1}, {0}))
        await until(other.crew.is_current)
        assert [topic.born for topic in other.crew.others()] == [5]
        for _ in range(2):
            await other.clock.advance(TICK_SECONDS)
        assert len(other.station.wires) == 1


@in_clean_loop
async def test_nobody_looks_for_a_worker_whose_process_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async with place() as here:
        one, other = await here.worker(), await here.worker()
        holds_slots(monkeypatch, None)
        for wire in [*one.station.wires]:
            wire.close()
        await until(lambda: other.slots == set())
        for _ in range(2):
            await other.clock.advance(TICK_SECONDS)
        assert not one.station.wires and not other.station.wires


@in_clean_loop
async def test_a_slot_that_another_process_has_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with place() as here:
        worker, far = await here.worker(), here.far().connect()
        holds_slots(monkeypatch, 1)
        far.say(Hello(1, wants_files=False))
        await until(lambda: bool(far.ended))
        assert worker.slots == set()


@in_clean_loop
async def test_a_successor_goes_on_with_the_counters_of_its_slot() -> None:
    async with place() as here:
        one, _ = await here.worker(), await here.worker()
        one.host.counters.accepted = 5
        await one.close()
        again = await here.worker()
        assert again.host.counters.accepted == 5


@in_clean_loop
async def test_there_may_be_too_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with place() as here:
        one = await here.worker()
        monkeypatch.setattr(Meeting, "listen", lambda *_: None)
        late = here.new()
        assert not await late.station.open(late.meeting)
        assert late.station.crew is None
        await late.close()
        monkeypatch.undo()
        assert one.slots == set()


@in_clean_loop
async def test_a_station_that_was_never_open_can_be_closed() -> None:
    never = Station(FakeHost(), SETTINGS)
    for _ in range(2):
        await never.leave()
        await never.close()


# Others that are stopped, end or are short of descriptors while a worker starts.


@in_clean_loop
async def test_a_worker_waits_for_files_while_all_others_are_stopped(impatience: None) -> None:
    async with place() as here:
        far, worker = here.far(), here.new()
        assert far.listen() == 0
        opening = asyncio.ensure_future(worker.open())
        await until(lambda: far.messages(Hello))
        await asyncio.sleep(2 * station.WELCOME_SECONDS)
        assert not opening.done()
        shared = files()
        far.say(Welcome(0), *shared)
        await opening
        for one in shared:
            os.close(one)
        assert far.messages(Hello) == [Hello(1, wants_files=True)]
        assert worker.slots == {0}


@in_clean_loop
async def test_a_worker_does_not_wait_for_one_that_is_stopped_if_another_answers(impatience: None) -> None:
    async with place() as here:
        stopped, answers, worker = here.far(), here.far(), here.new()
        assert (stopped.listen(), answers.listen()) == (0, 1)
        opening = asyncio.ensure_future(worker.open())
        await until(lambda: answers.messages(Hello))
        shared = files()
        answers.say(Welcome(1), *shared)
        await opening
        assert worker.slots == {1}
        # Its welcome comes late, with the same files: to close them would give up the claims of this worker.
        assert [hello.slot for hello in stopped.messages(Hello)] == [2]
        stopped.say(Welcome(0), *shared)
        await until(lambda: worker.slots == {0, 1})
        assert len(worker.station._spare) == len(shared)
        for one in shared:
            os.close(one)


@in_clean_loop
async def test_a_worker_whose_siblings_all_end_is_the_first_one() -> None:
    async with place() as here:
        far, worker = here.far(), here.new()
        far.listen()
        opening = asyncio.ensure_future(worker.open())
        await until(lambda: far.messages(Hello))
        far.close()
        await opening
        assert (worker.crew.slot, worker.slots) == (1, set())


@in_clean_loop
async def test_a_worker_makes_no_files_of_its_own_while_another_lives() -> None:
    """Files that do not come, for want of descriptors, are asked for again: else a topic could have two owners."""
    async with place() as here:
        far, worker = here.far(), here.new()
        far.listen()
        opening = asyncio.ensure_future(worker.open())
        shared = files()
        for times, sent in ((1, []), (2, shared[:3]), (3, shared)):
            await until(lambda times=times: len(far.messages(Hello)) == times)  # type: ignore[misc]
            assert not opening.done()
            far.say(Welcome(0), *sent)
        await opening
        for one in shared:
            os.close(one)
        assert far.messages(Hello) == [Hello(1, wants_files=True)] * 3
        assert worker.slots == {0}
        assert worker.station._spare == []


# Who is at the other end.


@in_clean_loop
async def test_another_user_is_refused_and_the_log_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with place() as here:
        worker, strangers = await here.worker(), [here.far(), here.far()]
        with log_lines() as lines, monkeypatch.context() as patch:
            patch.setattr(station, "friend", lambda _: None)
            for far in strangers:
                far.connect().say(Hello(1, wants_files=True))
                await until(lambda far=far: far.ended)  # type: ignore[misc]
        assert sum("WARNING connection of another user to the workers' socket refused" in line for line in lines) == 1
        assert (strangers[0].heard, worker.slots, [*worker.station.wires]) == ([], set(), [])


@in_clean_loop
async def test_a_connection_that_is_gone_before_it_is_accepted_is_no_error() -> None:
    async with place() as here:
        worker = await here.worker()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.setblocking(False)
            listener.bind("")
            listener.listen()
            worker.station._accept(listener)
        assert [*worker.station.wires] == []


@in_clean_loop
async def test_those_who_crowd_a_worker_leave_it_time_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(station, "ACCEPTS", 2)
    async with place() as here:
        worker = await here.worker()
        with socket.socket(socket.AF_UNIX) as listener, ExitStack() as crowd:
            listener.setblocking(False)
            listener.bind("")
            listener.listen()
            for _ in range(3):
                crowd.enter_context(socket.socket(socket.AF_UNIX)).connect(listener.getsockname())
            worker.station._accept(listener)
            assert len(worker.station.wires) == 2


@in_clean_loop
async def test_a_worker_without_descriptors_accepts_again_in_the_next_tick() -> None:
    class Full(socket.socket):
        calls = 0

        def accept(self) -> Any:
            Full.calls += 1
            raise OSError(errno.EMFILE, "too many open files")

    async with place() as here:
        worker = await here.worker()
        own, worker.station._listener = worker.station._listener, Full(socket.AF_UNIX)
        assert own is not None and worker.station._listener is not None
        worker.station._listener.bind("")
        worker.station._listener.listen()
        worker.station._listener.setblocking(False)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(worker.station._listener.getsockname())
            for calls in (1, 2):
                await worker.clock.advance(TICK_SECONDS)
                await until(lambda calls=calls: Full.calls == calls)  # type: ignore[misc]
                await settle()
                assert Full.calls == calls
        asyncio.get_running_loop().remove_reader(own.fileno())
        own.close()


@pytest.mark.parametrize("greeted", [False, True])
@in_clean_loop
async def test_what_is_not_understood_ends_the_link_alone(greeted: bool, pipe: tuple[int, int]) -> None:
    async with place() as here:
        worker, other, far = await here.worker(), await here.worker(), here.far()
        far.connect()
        if greeted:
            far.say(Hello(2, wants_files=False))
            await until(lambda: 2 in worker.slots)
        with log_lines() as lines:
            far.say_bytes(b"\xc1", pipe[0])
            await until(lambda: far.ended)
        (line,) = [line for line in lines if line.startswith("ERROR")]
        assert "ERROR message of another worker not understood" in line and "DecodeError" in line
        assert worker.slots == {1}
        assert other.slots == {0}


@pytest.mark.parametrize("first", [Leaving(), Taken(1), Topics(1, []), None])
@in_clean_loop
async def test_a_first_message_that_is_no_greeting_ends_the_link(first: Leaving, pipe: tuple[int, int]) -> None:
    async with place() as here:
        worker, far = await here.worker(), here.far()
        luggage = Luggage("a", "alice", None, "peer", None, 0.0, 0.0, b"")
        far.connect().say(first or Arrival(1, 1e9, luggage), pipe[0])
        await until(lambda: far.ended)
        assert (worker.slots, worker.host.taken) == (set(), [])


@in_clean_loop
async def test_a_link_to_who_has_not_greeted_may_be_free_again() -> None:
    async with place() as here:
        worker, far = await here.worker(), here.far().connect()
        await until(lambda: worker.station.wires)
        (wire,) = worker.station.wires
        wire._drained()
        assert far.heard == []


@pytest.mark.parametrize("greeting", [Hello(5, wants_files=True), Welcome(5)])
@in_clean_loop
async def test_a_greeting_that_is_read_late_does_not_end_the_successor(greeting: "Hello | Welcome") -> None:
    async with place() as here:
        worker, older, newer = await here.worker(), here.far().connect(), here.far().connect()
        newer.say(Hello(5, wants_files=False))
        await until(lambda: worker.slots == {5})
        successor = worker.crew.siblings[5]
        older.say(greeting)
        await until(lambda: older.ended)
        assert older.heard == []
        assert worker.crew.siblings == {5: successor}
        assert newer.ended == 0


@in_clean_loop
async def test_a_successor_is_met_though_the_end_before_is_not_noticed() -> None:
    async with place() as here:
        worker, older, newer = await here.worker(), here.far().connect(), here.far().connect()
        older.say(Hello(5, wants_files=False))
        await until(lambda: worker.slots == {5})
        before = worker.crew.siblings[5]
        newer.say(Hello(5, wants_files=False))
        await until(lambda: worker.crew.siblings[5] is not before)
        older.close()
        await until(lambda: len(worker.station.wires) == 1)
        assert worker.slots == {5}


# Connections.


async def two_with_a_way(here: Place) -> tuple[Worker, Worker, Sibling]:
    one, other = await here.worker(), await here.worker()
    await until(lambda: one.slots == {1})
    return one, other, one.crew.siblings[1]


@in_clean_loop
async def test_a_connection_goes_to_another_worker(pipe: tuple[int, int]) -> None:
    async with place() as here:
        _, other, sibling = await two_with_a_way(here)
        traveller = FakeTraveller("topic", pipe[1])
        sibling.road(traveller)
        await until(lambda: traveller.became)
        assert traveller.became == ["arrived"]
        ((luggage, descriptor),) = other.host.taken
        assert luggage == traveller.luggage
        assert descriptor != pipe[1]
        os.write(descriptor, b"alive")
        assert os.read(pipe[0], 5) == b"alive"


@in_clean_loop
async def test_a_connection_to_a_worker_that_ends_comes_back(pipe: tuple[int, int]) -> None:
    async with place() as here:
        _, other, sibling = await two_with_a_way(here)
        other.host.takes = False
        traveller = FakeTraveller("topic", pipe[1])
        sibling.road(traveller)
        await until(lambda: traveller.became)
        assert traveller.became == ["asks again"]
        assert sibling.leaving


@in_clean_loop
async def test_what_waits_for_a_full_socket_goes_on_once_it_is_free(pipe: tuple[int, int]) -> None:
    """Until then a connection stays where it is."""
    async with place() as here:
        one, other, sibling = await two_with_a_way(here)
        one.crew.announce([(f"topic {number} {'x' * 60}", number, 1) for number in range(20_000)])
        traveller = FakeTraveller("topic", pipe[1])
        sibling.road(traveller)
        assert traveller.packed == 0
        await until(lambda: traveller.became)
        await until(other.crew.is_current)
        assert traveller.became == ["arrived"]
        assert len([*other.crew.others()]) == 20_000


@in_clean_loop
async def test_a_connection_on_its_way_to_a_worker_that_dies_is_closed(pipe: tuple[int, int]) -> None:
    async with place() as here:
        worker, far = await here.worker(), here.far().connect()
        far.say(Hello(1, wants_files=False))
        await until(lambda: worker.slots == {1})
        traveller = FakeTraveller("topic", pipe[1])
        worker.crew.siblings[1].road(traveller)
        await until(lambda: far.messages(Arrival))
        far.close()
        await until(lambda: traveller.became)
        assert traveller.became == [(CloseCode.RESTARTING, "")]


# The timer, and the measurements.


@in_clean_loop
async def test_a_tick_publishes_the_counters_and_looks_at_what_is_overdue(pipe: tuple[int, int]) -> None:
    async with place() as here:
        worker, far = await here.worker(), here.far().connect()
        far.say(Hello(1, wants_files=False))
        await until(lambda: worker.slots == {1})
        traveller = FakeTraveller("topic", pipe[1])
        worker.crew.siblings[1].road(traveller)
        before = worker.crew.board.published(0)
        worker.host.counters.accepted = 1
        await worker.clock.advance(TICK_SECONDS)
        assert worker.crew.board.published(0) != before
        for _ in range(SILENT_TICKS - 1):
            assert traveller.became == []
            await worker.clock.advance(TICK_SECONDS)
        ((code, detail),) = traveller.became
        assert code is CloseCode.OVERLOADED and "not answered in time" in detail


@in_clean_loop
async def test_who_has_news_of_others_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with place() as here:
        one, other = await here.worker(), await here.worker()
        await until(lambda: one.slots == {1})
        one.station.hear()  # nobody listens
        heard: list[int] = []
        one.station.hears = lambda: heard.append(one.crew.changes)
        other.crew.announce([("a", 1, 1)])
        await until(lambda: heard)
        await other.close()
        await until(lambda: len(heard) == 2)


@in_clean_loop
async def test_measurements_are_those_of_all_workers() -> None:
    async with place() as here:
        workers = [await here.worker() for _ in range(3)]
        for number, worker in enumerate(workers, 1):
            worker.host.counters.accepted = worker.host.connections = 10**number
            worker.host.counters.bytes_out = number
        await until(lambda: len(workers[0].slots) == 2)
        measured = await workers[0].station.measure_all(workers[0].crew, await workers[0].host.statistics())
        assert measured.counters.accepted == measured.statistics.connections == 1110
        assert measured.statistics.totals.topics == 3
        assert measured.statistics.bytes_out == 6
        assert measured.processes == dict.fromkeys(range(3), os.getpid())


@in_clean_loop
async def test_of_a_worker_that_does_not_answer_its_published_counters_are_measured(impatience: None) -> None:
    async with place() as here:
        one, other = await here.worker(), await here.worker()
        await until(lambda: one.slots == {1})
        other.host.counters.accepted, other.host.counters.bytes_out, other.host.connections = 7, 70, 700
        await other.clock.advance(TICK_SECONDS)
        other.host.answers.clear()
        measured = await one.station.measure_all(one.crew, await one.host.statistics())
        assert (measured.counters.accepted, measured.statistics.bytes_out) == (7, 70)
        assert measured.statistics.connections == 0
        other.host.answers.set()
        again = await one.station.measure_all(one.crew, await one.host.statistics())
        assert again.statistics.connections == 700


@in_clean_loop
async def test_the_counters_of_a_worker_that_has_ended_are_still_measured() -> None:
    async with place() as here:
        one, other = await here.worker(), await here.worker()
        other.host.counters.accepted, other.host.counters.bytes_out = 7, 70
        await until(lambda: one.slots == {1})
        await other.close()
        await until(lambda: one.slots == set())
        measured = await one.station.measure_all(one.crew, await one.host.statistics())
        assert (measured.counters.accepted, measured.statistics.bytes_out) == (7, 70)
        assert measured.processes == {0: os.getpid()}


@in_clean_loop
async def test_a_worker_that_ends_while_it_is_measured_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(station, "MEASURE_SECONDS", 60.0)
    async with place() as here:
        one, other = await here.worker(), await here.worker()
        await until(lambda: one.slots == {1})
        other.host.answers.clear()
        measuring = asyncio.ensure_future(one.station.measure_all(one.crew, await one.host.statistics()))
        await until(lambda: other.station._tasks)
        await other.close()
        measured = await asyncio.wait_for(measuring, 10)
        assert measured.statistics.connections == 0


@in_clean_loop
async def test_a_failed_tick_is_logged_and_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with place() as here:
        worker = await here.worker()
        with log_lines() as lines, monkeypatch.context() as patch:
            patch.setattr(worker.crew, "tick", lambda: 1 / 0)
            await worker.clock.advance(TICK_SECONDS)
        assert any("ERROR tick of a worker failed" in line for line in lines)
        await worker.clock.advance(TICK_SECONDS)
        assert worker.crew.ticks == 1


@in_clean_loop
async def test_a_station_that_is_not_open_publishes_nothing_and_ticks_on() -> None:
    clock = FakeClock()
    closed = Station(FakeHost(), SETTINGS, clock)
    closed._begin_task(closed._tick())
    await settle()
    await clock.advance(TICK_SECONDS)
    assert clock.asleep == 1
    await closed.close()
    assert clock.asleep == 0
