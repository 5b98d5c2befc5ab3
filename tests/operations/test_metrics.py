"""The metrics: their names, their counts, and what they tell an operator."""

import asyncio
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse

from chat_actors.actors.handover import Luggage
from chat_actors.application import create_app
from chat_actors.connection.admission import Place
from chat_actors.connection.base import SWEEP_SECONDS
from chat_actors.counters import Counters, Statistics, TopicStatistics, Totals
from chat_actors.operations.metrics import process_metrics, registry
from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.server import STRIDE, Server
from chat_actors.settings import Settings
from chat_actors.workers.board import Board
from chat_actors.workers.claims import Locks
from chat_actors.workers.crew import Crew
from chat_actors.workers.station import Station
from tests.support.connection import JOIN, Connection, end
from tests.support.fakes import FakeClock, in_clean_loop, settle

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer releases of Starlette would rather have httpx2
    from starlette.testclient import TestClient

Samples = dict[tuple[str, ...], float]  # by name and values of the labels

NOTHING = Statistics(0, Totals(), 0, 0, 0)


def scrape(snapshot: Statistics, counters: Counters) -> Samples:
    """The samples that Prometheus would read, without those of the process."""
    text = generate_latest(registry(snapshot, counters, [])).decode()
    samples = [sample for family in parse(text) for sample in family.samples if sample.name.startswith("chat_")]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


async def of(chat: Server) -> Samples:
    return scrape(await chat.statistics(), chat.counters)


# Histograms.


def test_each_bucket_holds_all_that_lies_below_its_limit() -> None:
    counters = Counters()
    for value in (1, 2, 3, 200, 1000):
        counters.turns.add(value)
    for seconds in (0.0, 0.0000015, 0.5, 100.0):
        counters.fan_outs.add(seconds)
    seen = scrape(NOTHING, counters)
    turns = {labels[0]: count for (name, *labels), count in seen.items() if name == "chat_turn_events_bucket"}
    limits = "0.0", "1.0", "3.0", "127.0", "255.0", "+Inf"
    assert [turns[limit] for limit in limits] == [0, 1, 3, 3, 4, 5]
    assert (seen["chat_turn_events_count",], seen["chat_turn_events_sum",]) == (5, 1206)
    fan_outs = {float(labels[0]): n for (name, *labels), n in seen.items() if name == "chat_fan_out_seconds_bucket"}
    for limit, count in fan_outs.items():
        assert count == sum(seconds <= limit for seconds in (0.0, 0.0000015, 0.5, 100.0))


# What is in a snapshot.


def totals(*topics: TopicStatistics) -> Totals:
    seen = Totals()
    seen.add(topics)
    return seen


def topic(users: int, messages: int, mail: int = 0, age: float = 0.0) -> TopicStatistics:
    return TopicStatistics(users, messages, mail, age)


def test_the_hottest_room_and_the_slowest_reader_are_seen_without_their_names() -> None:
    quiet = [topic(2, 1) for _ in range(50)]
    hot = topic(200, 900, 5, 0.25)
    seen = scrape(Statistics(300, totals(*quiet, hot), 4096, 3, 10_000), Counters())
    assert (seen["chat_topic_messages_max",], seen["chat_topic_members_max",]) == (900, 200)
    assert seen["chat_topic_mailbox_events_max",] == 5
    assert seen["chat_reader_waiting_bytes_max",] == 4096
    assert (seen["chat_connections",], seen["chat_topics",], seen["chat_members",]) == (300, 51, 300)
    assert (seen["chat_mailbox_events", "supervisor"], seen["chat_mailbox_events", "topics"]) == (3, 5)
    assert seen["chat_mailbox_age_seconds",] == 0.25
    assert seen["chat_sent_bytes_total",] == 10_000


def test_refusals_and_closes_are_counted_by_their_code() -> None:
    counters = Counters()
    counters.refused[ErrorCode.INVALID_JSON.value] += 2
    counters.closed[CloseCode.NO_JOIN] += 1  # before Python 3.11 the text of this key is its name
    seen = scrape(NOTHING, counters)
    assert seen["chat_frames_refused_total", "invalid_json"] == 2
    assert seen["chat_closes_total", "no_join", "4408"] == 1


def test_a_close_after_a_broken_frame_is_counted_with_its_cause() -> None:
    counters = Counters()
    counters.closed.update({1002: 2, 1007: 1})
    seen = scrape(NOTHING, counters)
    assert seen["chat_closes_total", "broken_frame", "1002"] == 2
    assert seen["chat_closes_total", "broken_frame", "1007"] == 1


# Several workers.


class Worker:
    """Host of a station in a process of several. ``slot``: its row of the board."""

    def __init__(self, board: int, slot: int) -> None:
        self.counters = Counters()
        self.open_bytes = 0  # written to connections that are open
        self.station = Station(self, Settings.model_validate({}), FakeClock())
        self.crew = self.station.crew = Crew(slot, Board(board), Locks([]), FakeClock().monotonic, self.station)

    def take(self, luggage: Luggage, descriptor: int, place: Place) -> bool:
        raise NotImplementedError

    async def statistics(self) -> Statistics:
        return Statistics(0, Totals(), 0, 0, self.counters.bytes_out + self.open_bytes)

    def values(self) -> dict[str, Any]:
        return {**self.counters.values(), "bytes_out": self.counters.bytes_out + self.open_bytes}

    async def scrape(self) -> Samples:
        measured = await self.station.measure_all(self.crew, await self.statistics())
        return scrape(measured.statistics, measured.counters)


@pytest.fixture
def board() -> Iterator[int]:
    """The descriptor of a board."""
    descriptor = Board.create(10)
    yield descriptor
    os.close(descriptor)


@in_clean_loop
async def test_a_count_that_a_worker_has_shown_does_not_fall_when_it_dies(board: int) -> None:
    first, second = Worker(board, 0), Worker(board, 1)
    second.counters.accepted, second.open_bytes = 7, 1000
    assert await second.scrape() == await first.scrape()  # of the dead there is what they have shown
    seen = await first.scrape()
    assert (seen["chat_messages_accepted_total",], seen["chat_sent_bytes_total",]) == (7, 1000)


@in_clean_loop
async def test_what_another_worker_has_asked_for_counts_as_shown(board: int) -> None:
    first, second = Worker(board, 0), Worker(board, 1)
    second.counters.accepted, second.open_bytes = 7, 1000
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    second.station.measure(answered.set_result)
    assert msgspec.msgpack.decode(await answered, type=Statistics) == await second.statistics()
    seen = await first.scrape()
    assert (seen["chat_messages_accepted_total",], seen["chat_sent_bytes_total",]) == (7, 1000)


def test_the_metrics_of_each_process_have_its_worker_as_a_label() -> None:
    alone = {sample.name: sample.labels for metric in process_metrics({}) for sample in metric.samples}
    assert alone and not any(alone.values())
    each = [sample for metric in process_metrics({0: os.getpid(), 5: os.getppid()}) for sample in metric.samples]
    assert sorted((one.name, one.labels["worker"]) for one in each) == sorted(
        (name, worker) for name in alone for worker in ("0", "5")
    )


def test_the_metrics_of_a_process_that_has_ended_are_left_out() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    metrics = process_metrics({0: os.getpid(), 1: ended.pid})
    assert {sample.labels["worker"] for one in metrics for sample in one.samples} == {"0"}


# Names of users.


def series(host: TestClient) -> set[str]:
    """What a scrape tells apart."""
    return {line.rpartition(" ")[0] for line in host.get("/metrics").text.splitlines() if line.startswith("chat_")}


def test_no_user_makes_a_series_or_reads_of_another_there() -> None:
    with TestClient(create_app(Settings.model_validate({"topics_page": False}))) as host:
        before = series(host)
        for number in range(30):
            with host.websocket_connect("/ws") as alice:
                alice.send_json({"username": f"alice {number}", "topic": f"sports {number}"})
                alice.receive_json()
                text = host.get("/metrics").text
            assert "alice" not in text and "sports" not in text
        assert series(host) == before


def test_each_label_has_values_that_the_code_knows() -> None:
    counters = Counters()
    counters.refused.update(code.value for code in ErrorCode)
    counters.closed.update([*CloseCode, 1002, 1007])
    families = registry(NOTHING, counters, []).collect()
    used = {name for family in families for sample in family.samples for name in sample.labels}
    assert used == {"code", "cause", "actors", "le"}


# What the application counts.


@in_clean_loop
async def test_the_events_of_a_chat_are_counted() -> None:
    clock = FakeClock()
    chat = Server(Settings.model_validate({"history_messages": 2}), clock)
    alice, bob, carol = Connection(chat), Connection(chat), Connection(chat)
    await alice.says('{"username": "alice", "topic": "sports", "resume": ""}')
    for other in (bob, carol):
        await other.says(JOIN)
    for number in range(3):
        await alice.says(f'{{"message": "hello", "ref": "{number}"}}')
    await alice.says('{"message": "hello", "ref": "2"}')
    await bob.says("{")
    seen = await of(chat)
    assert (seen["chat_connections",], seen["chat_members",], seen["chat_topics",]) == (3, 3, 1)
    assert (seen["chat_messages_accepted_total",], seen["chat_messages_delivered_total",]) == (3, 6)
    assert (seen["chat_messages_duplicate_total",], seen["chat_messages_evicted_total",]) == (1, 1)
    assert seen["chat_messages_expired_total",] == 0
    assert seen["chat_topic_messages_max",] == 2  # those in the window
    assert seen["chat_frames_refused_total", "invalid_json"] == 1
    assert seen["chat_turn_events_count",] == 7
    assert seen["chat_fan_out_seconds_count",] == 4
    sent = seen["chat_sent_bytes_total",]
    assert sent == sum(len(text.encode()) for one in (alice, bob, carol) for text in one.texts)
    await clock.elapse(31)
    await bob.goes()
    await settle()
    seen = await of(chat)
    assert (seen["chat_messages_expired_total",], seen["chat_topic_messages_max",]) == (2, 0)
    assert (seen["chat_connections",], seen["chat_members",]) == (2, 2)
    assert seen["chat_sent_bytes_total",] == sent  # bytes of closed connections still count
    await end(chat, clock)
    seen = await of(chat)
    assert seen["chat_closes_total", "restarting", "1012"] == 2
    assert seen["chat_members",] == seen["chat_topics",] == 0
    for one in (alice, carol):
        await one.task


@in_clean_loop
async def test_a_reader_that_does_not_read_is_seen_and_then_counted() -> None:
    clock = FakeClock()
    chat = Server(Settings.model_validate({"join_timeout": 60}), clock)
    alice, bob = Connection(chat), Connection(chat)
    await alice.says(JOIN)
    await bob.says('{"username": "bob", "topic": "sports"}')
    eve = Connection(chat)  # not a member
    await eve.says("/list")
    bob.peer_reads = eve.peer_reads = False
    eve.events.put_nowait({"type": "websocket.receive", "text": "{"})
    await alice.says('{"message": "hello"}')
    assert (await of(chat))["chat_reader_waiting_bytes_max",] > 0
    await clock.elapse(12)
    assert (await of(chat))["chat_slow_readers_total",] == 2
    await asyncio.wait({bob.task, eve.task})
    await alice.goes()
    await end(chat, clock)


@in_clean_loop
async def test_a_loop_that_is_late_is_measured() -> None:
    clock = FakeClock()
    chat = Server(Settings.model_validate({}), clock)
    chat.start()
    await settle()
    await clock.advance(SWEEP_SECONDS)
    await clock.advance(SWEEP_SECONDS + 0.5)
    seen = await of(chat)
    assert (seen["chat_event_loop_lag_seconds_count",], seen["chat_event_loop_lag_seconds_sum",]) == (2, 0.5)
    await end(chat, clock)


@in_clean_loop
async def test_mail_that_waits_has_an_age() -> None:
    clock = FakeClock()
    chat = Server(Settings.model_validate({"rate_limit": 0}), clock)
    alice = Connection(chat)
    await alice.says(JOIN)
    supervisor: Any = chat.start()
    (active,) = supervisor._topics.values()
    for _ in range(3):  # the topic has not had its turn yet: the first ``None`` ends it, the others wait
        active.topic.mailbox.put_nowait(None)
    clock.now += 2
    seen = await of(chat)
    assert (seen["chat_mailbox_events", "topics"], seen["chat_mailbox_age_seconds",]) == (3, 2)
    await alice.goes()
    await end(chat, clock)


# A scrape, and what else runs meanwhile.


async def turns_during(scrape: "asyncio.Future[Statistics]") -> int:
    """How often this task had its turn until the scrape was done."""
    turns = 0
    while not scrape.done():
        await asyncio.sleep(0)
        turns += 1
    return turns


async def each_joins_a_topic(members: list[Connection]) -> None:
    for number, member in enumerate(members):
        member.events.put_nowait({"type": "websocket.receive", "text": f'{{"username": "x", "topic": "{number}"}}'})
    await settle(10 * len(members))
    assert all(member.frames for member in members)


@in_clean_loop
async def test_other_tasks_run_while_a_scrape_looks_at_many_topics_and_connections() -> None:
    clock = FakeClock()
    chat = Server(Settings.model_validate({}), clock)
    members = [Connection(chat) for _ in range(2 * STRIDE + 1)]
    await each_joins_a_topic(members)
    slow = members[:: STRIDE // 4]
    for member in slow:
        member.peer_reads = False
        member.events.put_nowait({"type": "websocket.receive", "text": "/list"})
    await settle()
    scrape = asyncio.ensure_future(chat.statistics())
    assert await turns_during(scrape) >= 6  # three strides of topics, and three of connections
    seen = scrape.result()
    assert (seen.connections, seen.totals.topics, seen.totals.users) == (len(members),) * 3
    assert seen.max_waiting > 0
    await end(chat, clock)
    await asyncio.wait({member.task for member in members})


@in_clean_loop
async def test_the_bytes_of_a_connection_that_ends_during_a_scrape_count_once() -> None:
    clock = FakeClock()
    chat = Server(Settings.model_validate({}), clock)
    readers = [Connection(chat) for _ in range(STRIDE + 1)]
    for reader in readers:
        await reader.says("/list")
    sent = sum(len(text) for reader in readers for text in reader.texts)
    scrape = asyncio.ensure_future(chat.statistics())
    await asyncio.sleep(0)
    assert not scrape.done()
    for reader in readers:
        reader.events.put_nowait({"type": "websocket.disconnect"})
    await asyncio.wait({reader.task for reader in readers})
    assert (await scrape).bytes_out == sent
    assert (await chat.statistics()).bytes_out == sent
    await end(chat, clock)
