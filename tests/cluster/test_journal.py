"""How far a node has followed a topic. This outlives the owner."""

from math import inf

import pytest

from chat_actors.cluster.backlog import Backlog, Ration
from chat_actors.cluster.gather import Legacy
from chat_actors.cluster.journal import MOST_ANCESTORS, Journal, Remains
from chat_actors.cluster.wire import Kept, Line, Parcel
from chat_actors.settings import Settings


class Keeping:
    """A journal, its present moment, and the backlogs that it wants watched."""

    def __init__(self) -> None:
        self.moment = 100.0
        self.watched: list[Backlog] = []
        self.journal = Journal(Settings.model_validate({"message_ttl": 30}), lambda: self.moment, self.watched.append)


def parcel(line: str, number: int, last_id: int = 0) -> Parcel:
    return Parcel(line, number, last_id, [b"frame"], [], [])


def numbers(journal: Journal) -> list[int]:
    return [kept.parcel.number for kept in journal.kept(Ration(inf))]


def test_at_first_no_line_has_been_followed() -> None:
    assert Keeping().journal.told() == Line()


def test_each_line_begins_with_a_name_of_its_own_and_with_nothing() -> None:
    keeping = Keeping()
    journal = keeping.journal
    names = set()
    for _ in range(3):
        journal.begin()
        names.add(journal.line.name)
        assert journal.told() == Line(journal.line.name) and numbers(journal) == []
        journal.add(parcel(journal.line.name, 1, 4))
        keeping.moment += 1
    assert len(names) == 3 and "" not in names
    assert keeping.watched == [journal.backlog] * 3


def test_the_highest_id_that_anybody_has_seen_counts() -> None:
    journal = Keeping().journal
    seen: list[int] = []
    for last_id in (3, 2, 5):
        journal.add(parcel("a", len(seen) + 1, last_id))
        seen.append(journal.line.last_id)
    for last_id in (4, 6):
        journal.saw(last_id)
        seen.append(journal.line.last_id)
    assert seen == [3, 3, 5, 5, 6] and journal.line.number == 3


def test_a_line_continues_another_with_its_numbers_its_age_and_its_parcels() -> None:
    keeping = Keeping()
    journal = keeping.journal
    legacy = Legacy(Line("a", 7, 12, {"older": 3}, 60.0), [Kept(5.0, parcel("a", 6)), Kept(9.0, parcel("a", 7))])
    journal.begin(legacy)
    name = journal.line.name
    assert journal.told() == Line(name, 7, 12, {"older": 3, "a": 7}, 60.0) and name != "a"
    assert keeping.watched == [journal.backlog]
    keeping.moment += 4
    assert journal.kept(Ration(inf)) == [Kept(1.0, parcel("a", 6)), Kept(5.0, parcel("a", 7))]
    assert journal.age == 64.0


def test_no_more_ancestors_are_kept_than_may_be_and_the_newest_of_them() -> None:
    journal = Keeping().journal
    ancestors = {f"line {number}": number for number in range(40)}
    journal.begin(Legacy(Line("a", 40, 0, ancestors), []))
    assert len(journal.line.ancestors) == MOST_ANCESTORS
    assert list(journal.line.ancestors)[-3:] == ["line 38", "line 39", "a"]


@pytest.mark.parametrize("anew, number, left", [(False, 2, [1, 2]), (True, 9, [])])
def test_a_relay_that_can_continue_a_line_keeps_its_parcels_and_others_begin_anew(
    anew: bool, number: int, left: list[int]
) -> None:
    keeping = Keeping()
    journal = keeping.journal
    for one in (1, 2):
        journal.add(parcel("a", one, one))
    keeping.moment += 10
    journal.follow(Line("b", 9, 1, {"a": 5}, 90.0), anew)
    assert journal.told() == Line("b", number, 2, {"a": 5}, 90.0) and numbers(journal) == left


def test_what_is_told_of_a_line_stays_as_it_was() -> None:
    journal = Keeping().journal
    journal.begin(Legacy(Line("a", 1), []))
    told = journal.told()
    journal.add(parcel("b", 2, 5))
    journal.line.ancestors["c"] = 1
    assert (told.number, told.last_id, told.ancestors) == (1, 0, {"a": 1})


def test_a_ration_holds_for_a_journal() -> None:
    journal = Keeping().journal
    for one in (1, 2, 3):
        journal.add(parcel("a", one))
    assert [kept.parcel.number for kept in journal.kept(Ration(10))] == [2, 3]


def test_remains_are_of_owners_that_are_gone_and_of_the_last_moments() -> None:
    remains, journals = Remains(), [Keeping().journal for _ in "abc"]
    for moment, (owner, journal) in enumerate(zip(("here", "there", "here"), journals)):
        remains.add("sports", owner, journal, 105.0 + moment)

    def lost(*there: str) -> list[Journal]:
        return [journal for _, journal in remains.of_others_than(list(there))]

    assert lost("here", "there") == [] and lost("there") == [journals[0], journals[2]] and lost() == journals
    remains.expire(104.9)
    assert lost() == journals
    remains.expire(105.0)
    assert lost() == journals[1:]
    remains.expire(200.0)
    assert lost() == []
