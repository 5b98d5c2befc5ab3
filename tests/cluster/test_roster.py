"""The names of a topic's members, as those with ``events`` on a node know them."""

import json
from typing import Union

import pytest

from chat_actors.cluster.roster import Roster
from chat_actors.cluster.wire import Renaming
from chat_actors.protocol.frames import Expired, Presence, finished, payloads


def told(frames: list[bytes]) -> list[tuple[object, ...]]:
    """What notices say, without their types."""
    return [tuple(json.loads(payload).values())[1:] for frame in frames for payload in payloads(frame)]


@pytest.mark.parametrize(
    "notice, names",
    [
        (Presence("joined", "carol", 3), ["alice", "bob", "carol"]),
        (Presence("joined", "bob", 2), ["alice", "bob"]),  # one's own coming is known already
        (Presence("left", "alice", 1), ["bob"]),
        (Presence("left", "carol", 2), ["alice", "bob"]),
        (Expired(7), ["alice", "bob"]),
    ],
    ids=str,
)
def test_a_notice_of_who_comes_or_goes_is_noted(notice: Union[Presence, Expired], names: list[str]) -> None:
    roster = Roster(["alice", "bob"])
    roster.note(finished(notice))
    assert roster.names == names


def test_who_has_come_and_gone_unseen_is_told_one_by_one_those_who_left_first() -> None:
    roster = Roster(["alice", "bob", "carol"])
    assert told(roster.change(["carol", "dave", "erin"], [])) == [
        ("left", "alice", 2),
        ("left", "bob", 1),
        ("joined", "dave", 2),
        ("joined", "erin", 3),
    ]
    assert roster.names == ["carol", "dave", "erin"]


def test_who_is_called_otherwise_has_neither_left_nor_come() -> None:
    roster = Roster(["alice", "bob"])
    assert told(roster.change(["alice", "bob#2"], [Renaming(1, "bob", "bob#2")])) == [("bob", "bob#2")]
    assert roster.names == ["alice", "bob#2"]


def test_the_new_name_of_somebody_unknown_is_that_of_somebody_who_came() -> None:
    roster = Roster(["alice"])
    assert told(roster.change(["alice", "bob#2"], [Renaming(0, "bob", "bob#2")])) == [("joined", "bob#2", 2)]


def test_a_roster_that_is_right_has_nothing_to_tell() -> None:
    names = ["alice", "bob"]
    roster = Roster(["bob", "alice"])
    assert roster.change(names, []) == []
    roster.note(finished(Presence("joined", "carol", 3)))
    assert names == ["alice", "bob"]  # which are somebody else's


def test_whoever_hears_that_all_others_left_is_there_still() -> None:
    assert told(Roster(["alice"]).change([], [])) == [("left", "alice", 1)]
