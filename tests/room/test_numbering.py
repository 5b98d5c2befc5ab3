"""Numbers for a name that several members ask for, compared with a search from the beginning. No event loop."""

from collections.abc import Container
from itertools import count
from typing import Callable, Optional

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from chat_actors.protocol.frames import Window
from chat_actors.room import members
from chat_actors.room.members import Member, Members
from chat_actors.room.numbering import Numbering
from tests.support.window import held

WINDOW = 30.0
USERNAMES = "alice", "ALICE", "alice#2", "Alice#3", "alice#4", "alice#02", "alice#1", "alice#2#2", "bob", "bob#2"


class NamesMachine(RuleBasedStateMachine):
    """Machine that lets members come and go, and looks for each name from the smallest number on."""

    def __init__(self) -> None:
        super().__init__()
        self.members: Members[int] = Members(WINDOW)
        self.keys = count()
        self.now = 1000.0
        self.here: dict[int, Member] = {}
        self.gone: list[Member] = []
        self.names: list[str] = []  # of those who are here, oldest first

    def free(self, username: str) -> str:
        taken = {name.lower() for name in self.names}
        names = (username, *(f"{username}#{number}" for number in range(2, 2 + len(taken))))
        return next(name for name in names if name.lower() not in taken)

    def join(self, username: str, resume: str, expected: str) -> tuple[Member, Optional[int]]:
        key = next(self.keys)
        member, replaced = self.members.join(key, username, Window(resume=resume), self.now)
        assert member.username == expected
        self.here[key] = member
        return member, replaced

    @rule(username=st.sampled_from(USERNAMES), times=st.integers(1, 3))
    def come(self, username: str, times: int) -> None:
        for _ in range(times):
            expected = self.free(username)
            self.join(username, "", expected)
            self.names.append(expected)

    @precondition(lambda self: self.here)
    @rule(place=st.integers(0, 9))
    def take_over(self, place: int) -> None:
        key, member = [*self.here.items()][place % len(self.here)]
        assert self.join("another", member.token, member.username)[1] == key
        del self.here[key]

    @precondition(lambda self: self.gone)
    @rule(place=st.integers(0, 9), username=st.sampled_from(USERNAMES))
    def come_back(self, place: int, username: str) -> None:
        member = self.gone.pop(place % len(self.gone))
        expected = member.username if self.is_free(member.username) else self.free(username)
        self.join(username, member.token, expected)
        self.names.append(expected)

    def is_free(self, username: str) -> bool:
        return username.lower() not in {name.lower() for name in self.names}

    @precondition(lambda self: self.here)
    @rule(place=st.integers(0, 9), times=st.integers(1, 3))
    def leave(self, place: int, times: int) -> None:
        for key, member in [*self.here.items()][place % len(self.here) :][:times]:
            assert self.members.leave(key, self.now) is member
            del self.here[key]
            self.names.remove(member.username)
            self.gone.append(member)

    @precondition(lambda self: self.here)
    @rule(place=st.integers(0, 9))
    def fail(self, place: int) -> None:
        """A step of its join or leave failed."""
        key = [*self.here][place % len(self.here)]
        self.members.repair(key)
        self.names.remove(self.here.pop(key).username)

    @rule(username=st.sampled_from(USERNAMES))
    def come_from_an_earlier_epoch(self, username: str) -> None:
        key, expected = next(self.keys), self.free(username)
        self.here[key] = self.members.restore(key, username, f"token {key}", False, {})
        assert self.here[key].username == expected
        self.names.append(expected)

    @rule()
    def wait(self) -> None:
        self.now += WINDOW
        self.members.expire(self.now)
        self.gone.clear()

    def teardown(self) -> None:
        assert self.members.names() == self.names
        assert self.members.present == self.here


def test_each_member_gets_its_name_or_the_smallest_number_that_is_free() -> None:
    run_state_machine_as_test(NamesMachine, settings=settings(max_examples=100, stateful_step_count=40, deadline=None))


class Plain:
    """Members who ask for nothing but a name."""

    def __init__(self) -> None:
        self.members: Members[int] = Members(WINDOW)
        self._unused = count()
        self._keys: dict[str, int] = {}  # by username

    def come(self, username: str) -> str:
        key = next(self._unused)
        member, _ = self.members.join(key, username, None, 0.0)
        self._keys[member.username] = key
        return member.username

    def go(self, username: str) -> None:
        assert self.members.leave(self._keys[username], 0.0) is not None


@pytest.mark.parametrize("other", ["alice#", "alice#0", "alice#1", "alice#02", "alice#x", "alice#2#", "alice #2"])
def test_what_only_looks_like_a_number_takes_none(other: str) -> None:
    names = Plain()
    assert [names.come("alice") for _ in range(3)] == ["alice", "alice#2", "alice#3"]
    assert names.come(other) == other
    names.go(other)
    assert names.come("alice") == "alice#4"


@pytest.mark.parametrize("number", [2, 9, 10, 99, 100])
def test_a_number_that_was_left_is_the_next(number: int) -> None:
    names = Plain()
    for _ in range(101):
        names.come("alice")
    names.go(f"alice#{number}")
    assert [names.come("alice") for _ in range(2)] == [f"alice#{number}", "alice#102"]


def test_nothing_is_kept_of_a_name_whose_members_have_left() -> None:
    names = Plain()
    when_new = held(names.members)
    for username in [names.come("alice") for _ in range(3)]:
        names.go(username)
    assert held(names.members) == when_new


# The work.


class Counted(Container[str]):
    """Names that are taken, and how often they were looked at."""

    def __init__(self, names: Optional[Container[str]] = None) -> None:
        self.names: set[str] = set()
        self.looks = 0
        self._others = names

    def __contains__(self, name: object) -> bool:
        self.looks += 1
        return name in (self.names if self._others is None else self._others)


class Crowd:
    """Members who all ask for the name of alice, of whom the first has it."""

    def __init__(self) -> None:
        self.taken = Counted()
        self._numbering = Numbering("alice")

    def come(self) -> int:
        number = self._numbering.smallest(self.taken)
        self.taken.names.add(f"alice#{number}")
        return number

    def come_as(self, number: int) -> None:
        self.taken.names.add(f"alice#{number}")

    def go(self, number: int) -> bool:
        self.taken.names.remove(f"alice#{number}")
        return self._numbering.release(number)

    def looks(self, act: Callable[[], object]) -> int:
        """How many names were looked at."""
        before = self.taken.looks
        act()
        return self.taken.looks - before


@pytest.mark.parametrize("size", [10, 1000])
def test_members_who_come_and_go_cost_the_same_in_a_small_room_and_a_big_one(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    class Watched(Numbering):
        """Numbering that counts what it looks at."""

        def smallest(self, taken: Container[str]) -> int:
            counted = Counted(taken)
            number = super().smallest(counted)
            looks.append(counted.looks)
            return number

    monkeypatch.setattr(members, "Numbering", Watched)
    names = Plain()
    everybody = [names.come("alice") for _ in range(size)]
    for place in range(100):
        names.go(everybody[1 + place % (size - 1)])
        assert names.come("alice") == everybody[1 + place % (size - 1)]
    assert looks == [1] * (size - 1 + 100)


@pytest.mark.parametrize("size", [10, 1000])
def test_a_join_looks_at_one_name_however_many_members_have_it(size: int) -> None:
    crowd = Crowd()
    assert [crowd.looks(crowd.come) for _ in range(size)] == [1] * size
    for number in range(2, size, 2):
        crowd.go(number)
    assert [crowd.looks(crowd.come) for _ in range(2, size, 2)] == [1] * (size // 2 - 1)
    assert crowd.come() == size + 2


def test_a_name_that_was_asked_for_with_its_number_is_looked_at_once() -> None:
    crowd = Crowd()
    for number in range(2, 102):
        crowd.come_as(number)
    assert crowd.looks(crowd.come) == 101
    for _ in range(50):  # comes and goes
        assert not crowd.go(102)
        assert (crowd.looks(crowd.come), crowd.come()) == (1, 103)
        crowd.go(103)


def test_a_number_that_is_free_may_be_asked_for_and_given_back() -> None:
    crowd = Crowd()
    for _ in range(3):
        crowd.come()
    crowd.go(2)
    crowd.go(3)
    crowd.come_as(2)
    assert crowd.come() == 3
    crowd.go(2)
    assert (crowd.come(), crowd.come()) == (2, 5)


def test_a_number_far_above_is_no_gap_when_it_is_given_back() -> None:
    crowd = Crowd()
    crowd.come_as(4)
    assert crowd.come() == 2
    crowd.go(4)
    assert (crowd.come(), crowd.come()) == (3, 4)


def test_a_free_number_that_comes_and_goes_is_noted_once() -> None:
    crowd = Crowd()
    for _ in range(3):
        crowd.come()
    crowd.go(2)
    for _ in range(50):
        crowd.come_as(2)
        crowd.go(2)
    assert [crowd.looks(crowd.come) for _ in range(2)] == [1, 1]


def test_numbers_are_forgotten_when_none_is_taken() -> None:
    crowd = Crowd()
    for _ in range(3):
        crowd.come()
    assert [crowd.go(number) for number in (3, 2, 4)] == [False, False, True]
