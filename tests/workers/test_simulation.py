"""The simulation of workers: it finds rules that are broken on purpose, and nothing in the package as it is.

Each rule below is broken on purpose. It must be found, or the silence about the others means nothing.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from chat_actors.workers import crew
from chat_actors.workers.board import Board
from chat_actors.workers.crew import Crew, Guest, OtherTopic, Sibling
from chat_actors.workers.messages import Arrival, Taken
from tests.support.crew.kernel import KernelClaims
from tests.support.crew.schedule import Failure, simulate

BATCHES = 4
BATCH = 2_500  # schedules


@pytest.fixture(scope="module")
def board() -> Board:
    return Board(Board.create(8))


@pytest.fixture(autouse=True)
def narrow_ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few connections are on their way to one worker at a time, so that some have to wait."""
    monkeypatch.setattr(crew, "ON_THE_WAY", 2)
    yield


def find(board: Board, most: int, said: str = "") -> Failure:
    """The first failure of a broken rule that says so, which must show within so many schedules."""
    others: Counter[str] = Counter()
    for seed in range(most):
        try:
            simulate(seed, board)
        except Failure as failure:
            if said in failure.why:
                return failure
            others[failure.why] += 1
    pytest.fail(f"not found in {most} schedules, but {others.most_common(3)}")


# The package as it is.


@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_schedule_of_workers_breaks_anything(board: Board, batch: int) -> None:
    counts: Counter[str] = Counter()
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        counts.update(simulate(seed, board))
    print(counts)
    assert min(counts[answer] for answer in ("members", "closed with 1012", "closed with 1013")) > BATCH / 10


def test_a_seed_is_the_same_schedule_of_workers(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelClaims, "take", claim_in_any_case)
    first = find(board, 500)
    with pytest.raises(Failure) as again:
        simulate(first.seed, board)
    assert str(again.value) == str(first)
    assert str(first).startswith(f"seed {first.seed}: ")


# Rules broken on purpose: what is replaced, by what, and what the simulation says of it.


def claim_in_any_case(self: KernelClaims, topic: str) -> None:
    self._held[topic] = self._process


def ended_without_answers(self: Sibling) -> None:
    self._on_the_way.clear()
    ended(self)


def ended_with_second_tries(self: Sibling) -> None:
    """Who was on its way asks again, though the other worker may have answered."""
    travellers, self._on_the_way = [one for one, _ in self._on_the_way.values()], {}
    ended(self)
    for traveller in travellers:
        traveller.ask_again()


def keep_late_descriptors(self: Sibling, arrival: Arrival, descriptors: list[int]) -> None:
    if not descriptors or not self._is_too_late(arrival):
        receive_connection(self, arrival, descriptors)


def take_without_a_word(self: Sibling, arrival: Arrival, descriptors: list[int]) -> None:
    place = Guest(self._crew.tally, arrival.luggage.source, nothing)
    if not (descriptors and self._crew.home.take(arrival.luggage, descriptors[0], place)):
        receive_connection(self, arrival, descriptors)


def say_taken_and_close(self: Sibling, arrival: Arrival, descriptors: list[int]) -> None:
    for descriptor in descriptors:
        self._crew.home.discard(descriptor)
    self._line.send(Taken(arrival.number))


def place_by_order_of_news(self: Crew, topic: str, other: OtherTopic, sibling: Sibling) -> None:
    before = self.known.get(topic)
    if before is not None:
        del before.topics[topic]
    sibling.topics[topic] = other
    self.known[topic] = sibling


def answer_nothing_late(self: Sibling, arrival: Arrival, descriptors: list[int]) -> None:
    if descriptors and self._is_too_late(arrival):
        self._crew.home.discard(descriptors[0])
    else:
        receive_connection(self, arrival, descriptors)


def lose_topics(self: Crew, sibling: Sibling) -> None:
    sibling.topics.clear()
    lose(self, sibling)


ended, receive_connection, lose = Sibling.ended, Sibling._receive_connection, Crew.lose


def nothing(*_: object) -> None: ...


def forget_waiting(self: Sibling) -> None:
    self._waiting.clear()


@pytest.mark.parametrize(
    ("owner", "name", "broken", "said"),
    [
        pytest.param(KernelClaims, "take", claim_in_any_case, "two owners", id="a topic is opened without a claim"),
        pytest.param(KernelClaims, "release", nothing, "", id="a claim is not given up"),
        pytest.param(crew, "SILENT_SECONDS", 1000.0, "was closed, and is taken", id="an arrival has no deadline"),
        pytest.param(crew, "SILENT_TICKS", 2000, "wait for a process", id="an answer has no deadline"),
        pytest.param(Crew, "tick", nothing, "wait for a process", id="nothing is overdue"),
        pytest.param(Sibling, "_let_wait_elsewhere", forget_waiting, "", id="who waits is forgotten at the end"),
        pytest.param(Sibling, "ended", ended_without_answers, "", id="who is on the way is forgotten at the end"),
        pytest.param(Sibling, "ended", ended_with_second_tries, "joins twice", id="who may be a member asks again"),
        pytest.param(Sibling, "_receive_connection", keep_late_descriptors, "", id="a descriptor is lost open"),
        pytest.param(Sibling, "_receive_connection", take_without_a_word, "", id="a connection is taken unsaid"),
        pytest.param(Sibling, "_receive_connection", say_taken_and_close, "", id="a connection is said to be taken"),
        pytest.param(Sibling, "_receive_connection", answer_nothing_late, "cannot join", id="stalled for ever"),
        pytest.param(Sibling, "_note_leaving", nothing, "circles", id="sent to who ends, again and again"),
        pytest.param(Sibling, "drained", nothing, "", id="nothing goes on once the line is free"),
        pytest.param(Sibling, "_note_arrival", nothing, "", id="a connection stays where it was"),
        pytest.param(Sibling, "_see_off", nothing, "all connections", id="nobody says that a connection is closed"),
        pytest.param(Guest, "stay", nothing, "", id="a connection is not counted once its first worker ended"),
        pytest.param(crew, "_ask_again", nothing, "", id="a returned connection is forgotten"),
        pytest.param(crew, "_refuse_full", nothing, "", id="a connection without its descriptor is forgotten"),
        pytest.param(Crew, "place", place_by_order_of_news, "", id="old news replaces new news"),
        pytest.param(Crew, "is_current", lambda _: True, "current list", id="the list waits for nobody"),
        pytest.param(Board, "set_edition", nothing, "does not know all", id="the board shows no editions"),
        pytest.param(Board, "set_topics", nothing, "on the board", id="topics are not counted on the board"),
        pytest.param(Board, "set_connections", nothing, "all connections", id="connections are not on the board"),
        pytest.param(Board, "add", nothing, "", id="sources are not on the board"),
        pytest.param(Board, "clear", nothing, "", id="a row is not cleared"),
    ],
)
def test_a_broken_rule_of_workers_is_found(
    board: Board, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, broken: Any, said: str
) -> None:
    monkeypatch.setattr(owner, name, broken)
    failure = find(board, 6_000, said)
    print(failure)
    # The break itself must be at work, not an error in it.
    assert "Error" not in failure.why
