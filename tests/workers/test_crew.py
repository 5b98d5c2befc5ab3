"""The crew: where a topic is, and a connection's way to it. No sockets; ``test_simulation`` runs many of them."""

from typing import Callable, Optional

import pytest

from chat_actors.actors.handover import Luggage
from chat_actors.connection.admission import Place
from chat_actors.protocol.codes import CloseCode
from chat_actors.workers import crew as crew_module
from chat_actors.workers.board import Board
from chat_actors.workers.claims import Claims
from chat_actors.workers.crew import ON_THE_WAY, SILENT_SECONDS, SILENT_TICKS, Crew, Home, Line, Sibling, Where
from chat_actors.workers.messages import Arrival, Ask, Gone, Hello, Leaving, Measured, Message, Returned, Taken, Topics
from tests.support.crew.stations import FakeTraveller

LATE = (CloseCode.OVERLOADED, "join not answered in time: try again later")


class FakeLine(Line):
    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.descriptors: list[int] = []
        self.idle = True

    def send(self, message: Message, descriptor: Optional[int] = None) -> None:
        self.sent.append(message)
        if descriptor is not None:
            self.descriptors.append(descriptor)

    def is_idle(self) -> bool:
        return self.idle

    def take(self) -> list[Message]:
        """What was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent


class FakeClaims(Claims):
    def __init__(self) -> None:
        self.holders: dict[str, int] = {}
        self.released: list[str] = []

    def take(self, topic: str) -> Optional[int]:
        return self.holders.get(topic)

    def release(self, topic: str) -> None:
        self.released.append(topic)


class FakeHome(Home):
    def __init__(self) -> None:
        self.takes = True
        self.taken: list[tuple[Luggage, int]] = []
        self.places: list[Place] = []  # of those
        self.discarded: list[int] = []
        self.asked: list[Callable[[bytes], None]] = []
        self.heard = 0

    def take(self, luggage: Luggage, descriptor: int, place: Place) -> bool:
        if self.takes:
            self.taken.append((luggage, descriptor))
            self.places.append(place)
        return self.takes

    def discard(self, descriptor: int) -> None:
        self.discarded.append(descriptor)

    def measure(self, answer: Callable[[bytes], None]) -> None:
        self.asked.append(answer)

    def hear(self) -> None:
        self.heard += 1


@pytest.fixture(scope="module")
def board() -> Board:
    return Board(Board.create(8))


class Stage:
    """Crew in slot 0, and its surroundings. The worker in slot n is process 100 + n."""

    def __init__(self, board: Board, *slots: int) -> None:
        self.now = 50.0
        self.home = FakeHome()
        self.claims = FakeClaims()
        for slot in range(5):
            board.clear(slot)
        self.crew = Crew(0, board, self.claims, lambda: self.now, self.home)
        self.lines: dict[int, FakeLine] = {}
        for slot in slots:
            self.add(slot)

    def add(self, slot: int) -> Sibling:
        line = self.lines[slot] = FakeLine()
        sibling = self.crew.add(slot, 100 + slot, line)
        line.take()
        return sibling

    def has(self, slot: int, *topics: str, born: int = 1, users: int = 1) -> None:
        """A worker announces topics."""
        one = self.crew.siblings[slot]
        one.receive(Topics(one.edition + 1, [(topic, born, users) for topic in topics]), [])
        self.crew.board.set_edition(slot, one.edition)

    def tick(self, times: int = SILENT_TICKS) -> None:
        for _ in range(times):
            self.crew.tick()

    @property
    def listed(self) -> list[tuple[int, int]]:
        return sorted((other.born, other.users) for other in self.crew.others())


@pytest.fixture
def one(board: Board) -> Stage:
    return Stage(board, 1)


@pytest.fixture
def three(board: Board) -> Stage:
    return Stage(board, 1, 2)


def picked(stage: Stage, topic: str) -> int:
    """The slot that a new topic is to begin in."""
    where = stage.crew.find(topic, arrived=False)
    return where.slot if isinstance(where, Sibling) else 0


TOPICS = [f"topic {number}" for number in range(300)]

# Where a topic is.


def test_a_worker_that_is_alone_has_every_topic(board: Board) -> None:
    assert {Stage(board).crew.find(topic, arrived=False) for topic in TOPICS} == {Where.HERE}


def test_new_topics_are_spread_over_the_workers_and_all_pick_alike(board: Board, three: Stage) -> None:
    slots = [picked(three, topic) for topic in TOPICS]
    assert all(70 < slots.count(slot) < 130 for slot in (0, 1, 2))
    other = Crew(1, board, FakeClaims(), lambda: 0.0, FakeHome())
    for slot in (0, 2):
        other.add(slot, 100 + slot, FakeLine())
    for topic, slot in zip(TOPICS, slots):
        where = other.find(topic, arrived=False)
        assert slot == (where.slot if isinstance(where, Sibling) else 1)


def test_the_end_of_a_worker_moves_no_topic_of_the_others(three: Stage) -> None:
    before = {topic: picked(three, topic) for topic in TOPICS}
    three.crew.siblings[2].ended()
    assert all(picked(three, topic) == slot for topic, slot in before.items() if slot != 2)


def test_a_topic_that_is_known_is_where_it_is_whatever_the_hash_says(three: Stage) -> None:
    three.has(1, *TOPICS)
    assert {picked(three, topic) for topic in TOPICS} == {1}
    three.has(1, *TOPICS, users=0)
    assert {picked(three, topic) for topic in TOPICS} == {0, 1, 2}


@pytest.mark.parametrize("why", ["leaving", "stalled"])
def test_a_worker_that_ends_or_does_not_answer_gets_no_new_topic(three: Stage, why: str) -> None:
    setattr(three.crew.siblings[2], why, True)
    assert {picked(three, topic) for topic in TOPICS} == {0, 1}


def test_a_connection_of_another_worker_is_sent_on_only_to_who_has_the_claim(three: Stage) -> None:
    three.has(1, "a")
    assert three.crew.find("a", arrived=True) is Where.HERE
    three.claims.holders["a"] = 102
    assert three.crew.find("a", arrived=True) is three.crew.siblings[2]


def test_a_claim_of_who_ends_or_is_not_known_yet_is_waited_for(three: Stage) -> None:
    three.claims.holders["a"] = 109
    assert three.crew.find("a", arrived=True) is Where.LATER
    three.claims.holders["a"] = 102
    three.crew.siblings[2].receive(Leaving(), [])
    assert three.crew.find("a", arrived=True) is Where.LATER


def test_a_topic_of_a_worker_that_ends_is_not_looked_for_there(three: Stage) -> None:
    three.has(1, *TOPICS)
    three.crew.siblings[1].receive(Leaving(), [])
    assert {picked(three, topic) for topic in TOPICS} == {0, 2}


def test_a_claim_is_given_up(one: Stage) -> None:
    one.crew.release("a")
    assert one.claims.released == ["a"]


# The way of a connection.


def test_a_connection_is_answered_once(one: Stage) -> None:
    sibling, traveller = one.crew.siblings[1], FakeTraveller("a", 7)
    sibling.road(traveller)
    assert one.lines[1].take() == [Arrival(1, one.now, traveller.luggage)]
    assert one.lines[1].descriptors == [7]
    for _ in range(2):
        sibling.receive(Taken(1), [])
    one.tick()
    assert traveller.became == ["arrived"]


@pytest.mark.parametrize(("full", "becomes", "leaves"), [(True, LATE, False), (False, "asks again", True)])
def test_a_connection_is_returned(one: Stage, full: bool, becomes: object, leaves: bool) -> None:
    sibling, traveller = one.crew.siblings[1], FakeTraveller("a", 7)
    sibling.road(traveller)
    sibling.receive(Returned(1, full), [])
    assert traveller.became == [becomes]
    assert sibling.leaving is leaves


def test_a_connection_that_has_ended_is_not_sent(one: Stage) -> None:
    one.crew.siblings[1].road(FakeTraveller())
    one.tick()
    assert one.lines[1].take() == []


def test_who_is_sent_to_a_silent_worker_is_refused_and_who_waits_asks_again(one: Stage) -> None:
    sibling, travellers = one.crew.siblings[1], [FakeTraveller("a", number) for number in range(ON_THE_WAY + 2)]
    sibling.road(travellers[0])
    one.tick(1)
    for traveller in travellers[1:]:
        sibling.road(traveller)
    one.tick(SILENT_TICKS - 2)
    assert not any(traveller.became for traveller in travellers)
    one.tick(1)
    assert travellers[0].became == [LATE]
    assert [traveller.became for traveller in travellers[-3:]] == [[], ["asks again"], ["asks again"]]
    assert sibling.stalled
    late = FakeTraveller("a", 7)
    sibling.road(late)
    assert late.became == [LATE]
    one.tick(1)
    assert [traveller.became for traveller in travellers[:-2]] == [[LATE]] * ON_THE_WAY


def test_a_worker_that_says_anything_is_given_time_to_answer(one: Stage) -> None:
    sibling, traveller = one.crew.siblings[1], FakeTraveller("a", 7)
    sibling.road(traveller)
    for _ in range(3):
        one.tick(SILENT_TICKS - 1)
        sibling.receive(Measured(99, b""), [])
    assert traveller.became == []
    sibling.receive(Taken(1), [])
    assert traveller.became == ["arrived"]


def test_a_worker_that_says_something_again_is_used_again(one: Stage) -> None:
    sibling, late, next_one = one.crew.siblings[1], FakeTraveller("a", 7), FakeTraveller("a", 8)
    sibling.road(late)
    one.tick()
    sibling.receive(Taken(1), [])
    assert late.became == [LATE]
    sibling.road(next_one)
    sibling.receive(Taken(2), [])
    assert next_one.became == ["arrived"]


def test_so_many_are_on_their_way_and_others_wait_their_turn(one: Stage) -> None:
    sibling, travellers = one.crew.siblings[1], [FakeTraveller("a", number) for number in range(ON_THE_WAY + 2)]
    for traveller in travellers:
        sibling.road(traveller)
    assert one.lines[1].descriptors == [*range(ON_THE_WAY)]
    sibling.receive(Taken(5), [])
    assert one.lines[1].descriptors == [*range(ON_THE_WAY + 1)]


def test_a_connection_waits_here_while_the_line_is_not_free(one: Stage) -> None:
    sibling, traveller = one.crew.siblings[1], FakeTraveller("a", 7)
    one.lines[1].idle = False
    sibling.road(traveller)
    assert traveller.packed == 0
    one.lines[1].idle = True
    sibling.drained()
    assert traveller.packed == 1


def test_who_waits_for_a_line_that_does_not_get_free_asks_again(one: Stage) -> None:
    sibling, traveller = one.crew.siblings[1], FakeTraveller("a", 7)
    one.lines[1].idle = False
    sibling.road(traveller)
    one.tick(SILENT_TICKS - 1)
    assert traveller.became == []
    one.tick(1)
    assert (traveller.became, sibling.stalled) == (["asks again"], True)
    sibling.drained()
    assert not sibling.stalled


def test_who_waits_for_a_worker_that_ends_asks_again(one: Stage) -> None:
    sibling = one.crew.siblings[1]
    ends: list[Callable[[], None]] = [lambda: sibling.receive(Leaving(), []), sibling.ended]
    for end in ends:
        traveller = FakeTraveller("a", 7)
        one.lines[1].idle = False
        sibling.road(traveller)
        end()
        assert traveller.became == ["asks again"]


def test_who_is_on_the_way_to_a_worker_that_ends_is_closed(one: Stage) -> None:
    """The peer may have heard from that worker already."""
    sibling, traveller, late = one.crew.siblings[1], FakeTraveller("a", 7), FakeTraveller("a", 8)
    sibling.road(traveller)
    sibling.ended()
    sibling.ended()
    sibling.road(late)
    assert traveller.became == [(CloseCode.RESTARTING, "")]
    assert late.became == ["asks again"]


# Connections that come.


ARRIVAL = Arrival(9, 50.0, FakeTraveller().luggage)


def test_a_connection_that_comes_is_taken(one: Stage) -> None:
    one.crew.siblings[1].receive(ARRIVAL, [7])
    assert one.home.taken == [(ARRIVAL.luggage, 7)]
    assert one.lines[1].take() == [Taken(9)]
    assert one.home.discarded == []


def test_a_connection_that_comes_without_its_descriptor_is_returned(one: Stage) -> None:
    one.crew.siblings[1].receive(ARRIVAL, [])
    assert (one.home.taken, one.lines[1].take()) == ([], [Returned(9, full=True)])


def test_a_connection_that_comes_after_a_long_silence_is_not_taken_and_is_answered(one: Stage) -> None:
    """Its sender has closed it, or is about to, and learns that this worker goes on. One sent later is taken."""
    sibling = one.crew.siblings[1]
    one.now = ARRIVAL.sent + SILENT_SECONDS + 0.01
    sibling.receive(ARRIVAL, [7])
    assert (one.home.taken, one.home.discarded) == ([], [7])
    assert one.lines[1].take() == [Returned(9, full=True)]
    sibling.receive(Arrival(10, ARRIVAL.sent + 0.005, ARRIVAL.luggage), [8])
    assert one.home.discarded == [7, 8]
    one.lines[1].take()
    sibling.receive(Arrival(11, ARRIVAL.sent + 0.02, ARRIVAL.luggage), [9])
    assert one.lines[1].take() == [Taken(11)]


def test_a_connection_that_comes_late_is_taken_by_a_worker_that_was_not_silent(one: Stage) -> None:
    sibling = one.crew.siblings[1]
    for _ in range(4):
        one.now += SILENT_SECONDS - 0.1
        sibling.ask(lambda _: None)
    one.lines[1].take()
    one.now += SILENT_SECONDS - 0.1
    sibling.receive(ARRIVAL, [7])
    assert one.lines[1].take() == [Taken(9)]


def test_a_connection_that_comes_while_this_worker_ends_is_returned(one: Stage) -> None:
    one.home.takes = False
    one.crew.siblings[1].receive(ARRIVAL, [7])
    assert one.home.discarded == [7]
    assert one.lines[1].take() == [Returned(9, full=False)]


@pytest.mark.parametrize("message", [Taken(1), Leaving(), Hello(1, wants_files=False)])
def test_a_descriptor_that_nobody_expects_is_closed(one: Stage, message: Message) -> None:
    one.crew.siblings[1].receive(message, [7, 8])
    assert one.home.discarded == [7, 8]


@pytest.mark.parametrize("message", [ARRIVAL, Taken(1), Topics(1, [("a", 1, 1)]), Leaving()])
def test_last_words_that_are_read_after_the_end_change_nothing(one: Stage, message: Message) -> None:
    before = one.crew.siblings[1]
    one.add(1)
    before.receive(message, [7])
    assert (one.home.taken, one.home.discarded, one.listed) == ([], [7], [])
    assert not before.leaving


# The count: a connection is counted by the worker that has accepted it, while that lives.


def test_a_connection_is_counted_here_until_it_is_closed_there(one: Stage) -> None:
    sibling, traveller = one.crew.siblings[1], FakeTraveller("a", 7)
    sibling.road(traveller)
    sibling.receive(Taken(1), [])
    for _ in range(2):
        sibling.receive(Gone(1), [])
    sibling.ended()
    assert traveller.became == ["arrived", "is closed there"]


def test_a_connection_is_counted_here_until_the_worker_that_has_it_ends(one: Stage) -> None:
    sibling, traveller = one.crew.siblings[1], FakeTraveller("a", 7)
    sibling.road(traveller)
    sibling.receive(Taken(1), [])
    sibling.ended()
    assert traveller.became == ["arrived", "is closed there"]


def test_the_worker_that_counts_a_connection_is_told_when_it_is_closed(one: Stage) -> None:
    one.crew.siblings[1].receive(ARRIVAL, [7])
    (place,) = one.home.places
    assert (place.within, one.crew.tally.connections) == (True, 0)
    one.lines[1].take()
    place.leave()
    assert one.lines[1].take() == [Gone(9)]
    one.crew.siblings[1].ended()
    assert one.crew.tally.connections == 0


def test_a_connection_whose_counting_worker_has_ended_is_counted_here(one: Stage) -> None:
    one.crew.siblings[1].receive(ARRIVAL, [7])
    (place,) = one.home.places
    one.crew.siblings[1].ended()
    assert one.crew.tally.connections == 1
    one.lines[1].take()
    place.leave()
    assert (one.crew.tally.connections, one.lines[1].take()) == (0, [])


# Who is there.


def test_a_successor_takes_the_place_of_a_worker_whose_end_was_not_noticed(one: Stage) -> None:
    before, traveller = one.crew.siblings[1], FakeTraveller("a", 7)
    one.has(1, "a")
    before.road(traveller)
    after = one.add(1)
    assert one.crew.siblings == {1: after}
    assert traveller.became == [(CloseCode.RESTARTING, "")]
    assert one.listed == []
    before.ended()
    assert one.crew.siblings == {1: after}


def test_the_end_of_this_worker_is_told_to_all(three: Stage) -> None:
    assert not three.crew.is_last()
    three.crew.leave()
    assert three.lines[1].take() == three.lines[2].take() == [Leaving()]
    for sibling in three.crew.siblings.values():
        sibling.receive(Leaving(), [])
    assert three.crew.is_last()


# Topics.


def test_changes_are_announced_to_all_and_shown_on_the_board(three: Stage) -> None:
    three.crew.announce([("a", 5, 2)])
    three.crew.announce([("a", 5, 0), ("b", 6, 1)])
    assert three.lines[1].take() == three.lines[2].take()
    assert three.crew.board.edition(0) == 2
    late = FakeLine()
    three.crew.add(3, 103, late)
    assert late.take() == [Topics(2, [("b", 6, 1)])]


def test_a_worker_whose_line_is_not_free_is_told_later_how_topics_are_then(one: Stage) -> None:
    one.lines[1].idle = False
    one.crew.announce([("a", 5, 1), ("b", 6, 1)])
    one.crew.announce([("a", 5, 2), ("b", 6, 0)])
    assert one.lines[1].take() == []
    one.lines[1].idle = True
    one.crew.siblings[1].drained()
    assert one.lines[1].take() == [Topics(2, [("a", 5, 2), ("b", 6, 0)])]
    one.crew.siblings[1].drained()
    assert one.lines[1].take() == []


def test_who_has_heard_all_that_the_board_shows_is_current(three: Stage) -> None:
    assert three.crew.is_current()
    three.crew.board.set_edition(2, 1)
    assert not three.crew.is_current()
    three.has(2, "a")
    assert three.crew.is_current()


def test_topics_of_all_others_are_listed_until_they_are_gone(three: Stage) -> None:
    three.has(1, "a", born=1, users=3)
    three.has(2, "b", "c", born=2)
    assert three.listed == [(1, 3), (2, 1), (2, 1)]
    three.has(2, "b", users=0)
    three.has(2, "never heard of", users=0)
    assert three.listed == [(1, 3), (2, 1)]
    three.crew.siblings[1].ended()
    assert three.listed == [(2, 1)]
    assert three.crew.changes == three.home.heard == 5


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_two_that_had_a_topic_the_later_one_has_it(three: Stage, order: tuple[int, int]) -> None:
    for slot in order:
        three.has(slot, "a", born=slot, users=slot)
    assert three.listed == [(2, 2)]
    assert three.crew.find("a", arrived=False) is three.crew.siblings[2]
    three.has(1, "a", users=0)
    assert three.listed == [(2, 2)]


def test_a_topic_of_this_worker_is_not_listed_as_anothers(one: Stage) -> None:
    one.has(1, "a", "b")
    one.crew.announce([("a", 5, 1)])
    assert len(one.listed) == 1
    one.crew.announce([("a", 5, 0)])
    assert len(one.listed) == 2


def test_topics_are_counted_on_the_board_with_those_of_the_living(three: Stage) -> None:
    for slot in (1, 2, 3):
        three.crew.board.set_topics(slot, 10**slot)
    three.crew.count_topics(5)
    assert (three.crew.board.topics(0), three.crew.all_topics()) == (5, 115)
    three.crew.siblings[2].ended()
    assert three.crew.all_topics() == 15


# Measurements.


def test_a_worker_is_asked_for_its_statistics(one: Stage) -> None:
    sibling, answers = one.crew.siblings[1], list[Optional[bytes]]()
    sibling.ask(answers.append)
    assert one.lines[1].take() == [Ask(1)]
    for _ in range(2):
        sibling.receive(Measured(1, b"statistics"), [])
    sibling.ask(answers.append)
    sibling.ended()
    assert answers == [b"statistics", None]


def test_a_worker_that_is_asked_answers_once_it_has_measured(one: Stage) -> None:
    one.crew.siblings[1].receive(Ask(5), [])
    (answer,) = one.home.asked
    assert one.lines[1].take() == []
    answer(b"statistics")
    assert one.lines[1].take() == [Measured(5, b"statistics")]


def test_a_connection_is_not_taken_for_some_time_before_its_sender_may_close_it() -> None:
    """Else a connection could be closed by its sender and be taken."""
    assert (SILENT_TICKS - 1) * crew_module.TICK_SECONDS > SILENT_SECONDS
