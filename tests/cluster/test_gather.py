"""Where a topic goes on after its owner has gone: the line that is chosen, and what is known of it."""

from typing import Optional, Union

import pytest
from msgspec import UNSET, UnsetType

from chat_actors.cluster.gather import (
    Legacy,
    gathered,
    last_message_id,
    linked,
    message_id,
    messages_of,
    missing,
    refs_of,
)
from chat_actors.cluster.wire import Attach, Bequest, Kept, Line, Parcel, SeatState
from chat_actors.protocol.frames import Ack, Message, Presence, finished
from chat_actors.room.history import Stored


def said(number: int, text: str = "hello") -> bytes:
    """The frame of a message."""
    return finished(Message(number, "alice", text, 1_690_000_000))


def acknowledged(number: int, ref: Union[str, UnsetType] = UNSET, again: bool = False) -> Ack:
    return Ack(id=number, ref=ref, timestamp=1_690_000_000, recipients=1, duplicate=again or UNSET)


PRESENCE = finished(Presence(joined=["bob"], users=2))


def kept(*numbers: int, line: str = "a", remaining: float = 10.0) -> list[Kept]:
    """Parcels of one message each, whose id is their number."""
    return [Kept(remaining, Parcel(line, number, number, [said(number)], [], [])) for number in numbers]


def attach(line: Line, seats: int = 1, window: Optional[list[Kept]] = None) -> Attach:
    states = [SeatState(number, "someone", "", False, 0, 1.0) for number in range(seats)]
    return Attach("sports", 1, 1, line, states, window or [])


def bequest(line: Line, window: Optional[list[Kept]] = None) -> Bequest:
    return Bequest("sports", "epoch", line, window or [], [])


def numbers(legacy: Legacy) -> list[int]:
    return [one.parcel.number for one in legacy.parcels]


# Which line.


def test_nothing_is_known_of_a_topic_that_nobody_was_in() -> None:
    assert gathered([], []) == Legacy(Line(), [])
    assert gathered([attach(Line(), 0)], []) == Legacy(Line(), [])


def test_a_relay_that_has_followed_nothing_yet_decides_nothing() -> None:
    assert gathered([attach(Line(), 5), attach(Line("a", 3, 3))], []).line.name == "a"


def test_the_line_that_most_members_have_followed_goes_on() -> None:
    few, most = attach(Line("z", 9, 9), 1, kept(9, line="z")), attach(Line("a", 2, 2), 2, kept(1, 2))
    for attaches in ([few, most], [most, few]):
        legacy = gathered(attaches, [])
        assert (legacy.line.name, legacy.line.number, numbers(legacy)) == ("a", 2, [1, 2])


def test_members_of_a_line_are_counted_on_all_nodes() -> None:
    attaches = [attach(Line("a", 1), 2), attach(Line("b", 1), 1), attach(Line("b", 2), 2)]
    assert gathered(attaches, []).line == Line("b", 2)


def test_between_lines_with_as_many_members_length_and_then_the_name_decides() -> None:
    assert gathered([attach(Line("z", 3)), attach(Line("a", 4))], []).line.name == "a"
    for names in ("az", "za"):
        assert gathered([attach(Line(name, 3)) for name in names], []).line.name == "z"


def test_a_relay_that_followed_an_ancestor_to_its_end_can_go_on_in_its_successor() -> None:
    successor = Line("b", 6, 6, {"a": 5})
    behind, beyond = Line("a", 4), Line("a", 6)
    assert successor.includes(behind) and not successor.includes(beyond) and not successor.includes(Line("c", 1))
    legacy = gathered([attach(behind, 1, kept(3, 4)), attach(successor, 1, kept(5, 6, line="b"))], [])
    assert (legacy.line.name, legacy.line.number, legacy.line.ancestors) == ("b", 6, {"a": 5})
    assert numbers(legacy) == [3, 4, 5, 6]


def test_what_went_beyond_a_fork_is_no_part_of_the_other_branch() -> None:
    branch, rest = Line("b", 6, 6, {"a": 5}), Line("a", 8, 8)
    legacy = gathered([attach(branch, 2, kept(5, 6, line="b")), attach(rest, 1, kept(6, 7, 8))], [])
    assert (legacy.line.number, numbers(legacy)) == (6, [5, 6])
    assert [one.parcel.line for one in legacy.parcels] == ["b", "b"]
    assert legacy.line.last_id == 8  # an id that was seen is not given again


def test_a_line_is_as_long_and_its_topic_as_old_as_any_node_says() -> None:
    legacy = gathered([attach(Line("a", 4, 7, {}, 20.0)), attach(Line("a", 6, 9, {}, 10.0))], [])
    assert legacy.line == Line("a", 6, 9, {}, 20.0)


# Which parcels.


def test_windows_are_merged() -> None:
    legacy = gathered(
        [attach(Line("a", 4), 1, kept(2, 3)), attach(Line("a", 4), 1, kept(4, 3))], [bequest(Line("a", 2), kept(1, 2))]
    )
    assert numbers(legacy) == [1, 2, 3, 4]


def test_a_parcel_that_two_have_is_taken_once() -> None:
    legacy = gathered([attach(Line("a", 1), 1, kept(1, remaining=4.0)), attach(Line("a", 1), 1, kept(1))], [])
    assert [one.remaining for one in legacy.parcels] == [4.0]


def test_nothing_before_a_hole_is_taken() -> None:
    assert numbers(gathered([attach(Line("a", 5), 1, kept(1, 2, 4, 5))], [])) == [4, 5]


def test_where_the_newest_parcel_is_missing_nothing_is_taken() -> None:
    legacy = gathered([attach(Line("a", 5), 1, kept(1, 2)), attach(Line("a", 2), 1, kept(2))], [])
    assert (legacy.line.number, legacy.parcels) == (5, [])


# The last owner.


def test_the_last_owner_of_the_line_bequeaths_the_topic() -> None:
    own = bequest(Line("a", 3, 3), kept(1, 2, 3))
    legacy = gathered([attach(Line("a", 2, 2), 2)], [bequest(Line("b", 9)), own])
    assert legacy.bequest is own and numbers(legacy) == [1, 2, 3]


def test_an_owner_behind_the_end_of_the_line_is_no_heir_but_its_parcels_are_taken() -> None:
    legacy = gathered([attach(Line("a", 4, 4), 1, kept(4))], [bequest(Line("a", 3, 3), kept(2, 3))])
    assert legacy.bequest is None and numbers(legacy) == [2, 3, 4]


def test_the_owner_of_a_line_that_does_not_go_on_is_no_heir() -> None:
    assert gathered([attach(Line("a", 3), 1)], [bequest(Line("b", 3))]).bequest is None


def test_a_topic_goes_on_from_its_last_owner_alone_where_nobody_has_followed_it() -> None:
    own = bequest(Line("a", 3, 3), kept(3))
    assert gathered([attach(Line(), 0)], [own]) == Legacy(Line("a", 3, 3), kept(3), own)


# Messages.


# Missing parcels.


@pytest.mark.parametrize("number, lacked", [(0, []), (1, []), (2, [3, 4, 5, 6]), (4, [5, 6]), (6, []), (9, [])])
def test_missing_parcels_are_those_that_any_node_has_without_a_break_between(number: int, lacked: list[int]) -> None:
    attaches = [attach(Line("a", 5), window=kept(3, 5)), attach(Line("b", 9), window=kept(2, 7, line="b"))]
    bequests = [bequest(Line("a", 6), kept(4, 5, 6))]
    assert [one.number for one in missing(Line("a", number), attaches, bequests)] == lacked


def test_a_line_goes_on_in_its_successor_and_not_in_the_other_branch() -> None:
    successor, branch = Line("b", 7, ancestors={"a": 5}), Line("c", 7, ancestors={"a": 4})
    attaches = [attach(successor, window=kept(6, 7, line="b")), attach(branch, window=kept(6, 7, line="c"))]
    assert [one.line for one in missing(Line("a", 5), attaches, [])] == ["b", "b"]


def test_where_two_lines_go_on_from_one_they_are_not_mixed() -> None:
    further, other = Line("b", 8, ancestors={"a": 6}), Line("c", 7, ancestors={"a": 5})
    attaches = [
        attach(further, window=kept(6) + kept(7, 8, line="b")),
        attach(other, window=kept(6, 7, line="c")),
        attach(Line("a", 6), window=kept(6)),
    ]
    for several in (attaches, attaches[::-1]):
        lacked = missing(Line("a", 5), several, [])
        assert [(one.line, one.number) for one in lacked] == [("a", 6), ("b", 7), ("b", 8)]
    equal = [attach(Line(name, 6, ancestors={"a": 5}), window=kept(6, line=name)) for name in "bdc"]
    assert [one.line for one in missing(Line("a", 5), equal, [])] == ["d"]


def test_only_a_message_has_an_id() -> None:
    assert message_id(said(12)) == 12
    for frame in (PRESENCE, finished(acknowledged(12)), b"", said(12)[2:]):
        assert message_id(frame) == 0
    assert message_id(finished(Presence(joined=['{"type":"message","id":5,'], users=2))) == 0


def test_a_message_has_its_id_whatever_its_length() -> None:
    lengths = [*range(1, 700), *range(31_400, 31_800), *range(65_400, 66_200)]
    assert [length for length in lengths if message_id(said(12, "x" * length)) != 12] == []


def test_the_highest_id_of_some_frames_is_that_of_the_last_message() -> None:
    assert last_message_id([]) == 0
    assert last_message_id([PRESENCE, b""]) == 0
    assert last_message_id([said(3), said(4), PRESENCE, b""]) == 4


def test_messages_are_restored_as_a_topic_stores_them() -> None:
    parcels = [
        Kept(5.0, Parcel("a", 1, 2, [said(1), PRESENCE, said(2)], [1], [])),
        Kept(6.0, Parcel("a", 2, 2, [PRESENCE, b""], [0], [])),
        Kept(7.0, Parcel("a", 3, 3, [said(3)], [], [])),
    ]
    assert messages_of(parcels, 100.0) == [
        Stored(1, said(1), 105.0),
        Stored(2, said(2), 105.0),
        Stored(3, said(3), 107.0),
    ]


def test_no_message_is_restored_twice() -> None:
    assert [one.id for one in messages_of(kept(1, 2, 2, 1, 3), 0.0)] == [1, 2, 3]


@pytest.mark.parametrize(
    "ids, restored", [([], []), ([4], [4]), ([4, 5], [4, 5]), ([1, 2, 4], [4]), ([1, 3, 5, 6], [5, 6])]
)
def test_messages_before_a_hole_are_not_restored(ids: list[int], restored: list[int]) -> None:
    assert [one.id for one in messages_of(kept(*ids), 0.0)] == restored


# References.


def test_refs_are_known_by_their_acks_and_forgotten_with_their_messages() -> None:
    first, second, other = acknowledged(1, "r"), acknowledged(2, "s"), acknowledged(3, "r")
    pieces = [(0, finished(first)), (1, finished(second))]
    parcels = [
        Kept(9.0, Parcel("a", 1, 2, [said(1), said(2)], [], [("here", 1, 0, pieces, "token")])),
        Kept(9.0, Parcel("a", 2, 3, [said(3)], [], [("there", 1, 0, [(0, finished(other))], "other")])),
    ]
    stored = messages_of(parcels, 0.0)
    known = refs_of(parcels, stored)
    assert known == {"token": {"r": first, "s": second}, "other": {"r": other}}
    assert [one.ref for one in stored] == ["r", "s", "r"]
    assert stored[0].refs is stored[1].refs is known["token"] and stored[2].refs is known["other"]


def test_a_notice_an_ack_without_ref_and_a_duplicates_ack_make_no_ref_known() -> None:
    pieces = [b"", finished(acknowledged(1)), finished(acknowledged(1, "r", again=True))]
    parcels = [Kept(9.0, Parcel("a", 1, 1, [said(1)], [], [("here", 1, 0, list(enumerate(pieces)), "token")]))]
    stored = messages_of(parcels, 0.0)
    assert refs_of(parcels, stored) == {} and stored[0].refs is None


def test_a_ref_whose_message_is_not_restored_is_not_known() -> None:
    parcels = kept(1, 3)
    parcels[0].parcel.own = [("here", 1, 0, [(0, finished(acknowledged(1, "r")))], "token")]
    assert refs_of(parcels, messages_of(parcels, 0.0)) == {}


def test_the_refs_of_a_member_that_left_are_known_as_long_as_their_messages() -> None:
    stored = messages_of(kept(2, 3), 0.0)
    refs = linked({"q": acknowledged(1, "q"), "r": acknowledged(3, "r")}, stored)
    assert refs == {"r": acknowledged(3, "r")}
    assert stored[1].refs is refs and stored[1].ref == "r" and stored[0].refs is None
