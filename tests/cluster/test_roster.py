"""The names of a topic's members, as a node's members with ``events`` know them."""

import json
from typing import Any, Union

import pytest

from chat_actors.cluster.roster import Roster, counted
from chat_actors.cluster.wire import Renaming
from chat_actors.protocol.frames import Expired, Presence, finished, payloads


def told(frames: list[bytes]) -> list[dict[str, Any]]:
    """The notices that these frames are."""
    return [json.loads(payload) for frame in frames for payload in payloads(frame)]


@pytest.mark.parametrize(
    "notice, names",
    [
        (Presence(joined=["carol"], users=3), ["alice", "bob", "carol"]),
        (Presence(joined=["bob"], users=2), ["alice", "bob"]),  # its own join is known already
        (Presence(left=["alice"], users=1), ["bob"]),
        (Presence(left=["carol"], users=2), ["alice", "bob"]),
        (Presence(joined=["carol", "dave"], left=["alice", "bob"], users=2), ["carol", "dave"]),
        (Expired(7), ["alice", "bob"]),
    ],
    ids=str,
)
def test_a_notice_of_joins_and_leaves_is_noted(notice: Union[Presence, Expired], names: list[str]) -> None:
    roster = Roster(["alice", "bob"])
    assert roster.note(finished(notice))
    assert roster.names == names


def test_a_notice_that_names_nobody_makes_the_names_unknown() -> None:
    assert not Roster(["alice", "bob"]).note(finished(Presence(users=1502)))


def test_unseen_leaves_and_joins_are_told_in_one_notice() -> None:
    roster = Roster(["alice", "bob", "carol"])
    assert told(roster.change(["carol", "dave", "erin"], [])) == [
        {"type": "presence", "joined": ["dave", "erin"], "left": ["alice", "bob"], "users": 3}
    ]
    assert roster.names == ["carol", "dave", "erin"]


def test_a_renamed_member_has_neither_left_nor_joined() -> None:
    roster = Roster(["alice", "bob"])
    assert told(roster.change(["alice", "bob#2"], [Renaming(1, "bob", "bob#2")])) == [
        {"type": "renamed", "username": "bob", "renamed": "bob#2"}
    ]
    assert roster.names == ["alice", "bob#2"]


def test_the_new_name_of_an_unknown_member_is_a_join() -> None:
    roster = Roster(["alice"])
    assert told(roster.change(["alice", "bob#2"], [Renaming(0, "bob", "bob#2")])) == [
        {"type": "presence", "joined": ["bob#2"], "users": 2}
    ]


def test_a_roster_that_is_right_has_nothing_to_tell() -> None:
    names = ["alice", "bob"]
    roster = Roster(["bob", "alice"])
    assert roster.change(names, []) == []
    roster.note(finished(Presence(joined=["carol"], users=3)))
    assert names == ["alice", "bob"]  # the caller's list is not changed


def test_a_member_that_hears_that_all_others_left_is_still_there() -> None:
    assert told(Roster(["alice"]).change([], [])) == [{"type": "presence", "left": ["alice"], "users": 1}]
    assert told(counted(0, [])) == [{"type": "presence", "users": 1}]


def test_members_that_know_no_names_are_told_the_number_and_their_own_new_names() -> None:
    assert told(counted(1502, [Renaming(1, "bob", "bob#2")])) == [
        {"type": "presence", "users": 1502},
        {"type": "renamed", "username": "bob", "renamed": "bob#2"},
    ]
