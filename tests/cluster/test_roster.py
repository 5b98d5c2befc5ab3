"""The names of a topic's members, as a node's members with ``events`` know them."""

import json
from typing import Union

import pytest

from chat_actors.cluster.roster import Roster
from chat_actors.cluster.wire import Renaming
from chat_actors.protocol.frames import Expired, Presence, finished, payloads


def told(frames: list[bytes]) -> list[tuple[object, ...]]:
    """The values of notices, without their types."""
    return [tuple(json.loads(payload).values())[1:] for frame in frames for payload in payloads(frame)]


@pytest.mark.parametrize(
    "notice, names",
    [
        (Presence("joined", "carol", 3), ["alice", "bob", "carol"]),
        (Presence("joined", "bob", 2), ["alice", "bob"]),  # its own join is known already
        (Presence("left", "alice", 1), ["bob"]),
        (Presence("left", "carol", 2), ["alice", "bob"]),
        (Expired(7), ["alice", "bob"]),
    ],
    ids=str,
)
def test_a_notice_of_a_join_or_a_leave_is_noted(notice: Union[Presence, Expired], names: list[str]) -> None:
    roster = Roster(["alice", "bob"])
    roster.note(finished(notice))
    assert roster.names == names


def test_unseen_leaves_and_joins_are_told_one_by_one_leaves_first() -> None:
    roster = Roster(["alice", "bob", "carol"])
    assert told(roster.change(["carol", "dave", "erin"], [])) == [
        ("left", "alice", 2),
        ("left", "bob", 1),
        ("joined", "dave", 2),
        ("joined", "erin", 3),
    ]
    assert roster.names == ["carol", "dave", "erin"]


def test_a_renamed_member_has_neither_left_nor_joined() -> None:
    roster = Roster(["alice", "bob"])
    assert told(roster.change(["alice", "bob#2"], [Renaming(1, "bob", "bob#2")])) == [("bob", "bob#2")]
    assert roster.names == ["alice", "bob#2"]


def test_the_new_name_of_an_unknown_member_is_a_join() -> None:
    roster = Roster(["alice"])
    assert told(roster.change(["alice", "bob#2"], [Renaming(0, "bob", "bob#2")])) == [("joined", "bob#2", 2)]


def test_a_roster_that_is_right_has_nothing_to_tell() -> None:
    names = ["alice", "bob"]
    roster = Roster(["bob", "alice"])
    assert roster.change(names, []) == []
    roster.note(finished(Presence("joined", "carol", 3)))
    assert names == ["alice", "bob"]  # the caller's list is not changed


def test_a_member_that_hears_that_all_others_left_is_still_there() -> None:
    assert told(Roster(["alice"]).change([], [])) == [("left", "alice", 1)]
