"""Claims: the kernel's word on which process has a topic. A child process is the other worker."""

import errno
import fcntl
import os
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from chat_actors.workers import claims
from chat_actors.workers.claims import FILES, Locks
from tests.support.crew.child import Child


@pytest.fixture
def files() -> Iterator[list[int]]:
    made = [os.memfd_create("claims") for _ in range(FILES)]
    yield made
    for one in made:
        os.close(one)


def other(files: list[int], *steps: Callable[[Locks], object]) -> Child:
    """Another worker, which does the next step whenever it is told to."""
    locks = Locks(files)
    return Child(*(lambda step=step: step(locks) for step in steps))


def test_a_topic_is_claimed_by_one_process_at_a_time(files: list[int]) -> None:
    own = Locks(files)
    with other(files, lambda locks: locks.take("a"), lambda locks: locks.release("a")) as child:
        assert child.step() is None
        assert own.take("a") == child.process
        assert own.take("b") is None
        child.step()
        assert own.take("a") is None


def test_a_claim_of_this_process_is_seen_by_another(files: list[int]) -> None:
    own = Locks(files)
    assert own.take("a") is None
    with other(files, *[lambda locks: locks.take("a")] * 2) as child:
        assert child.step() == os.getpid()
        own.release("a")
        assert child.step() is None


def test_the_end_of_a_process_frees_its_claims(files: list[int]) -> None:
    own = Locks(files)
    with other(files, lambda locks: locks.take("a")) as child:
        child.step()
        child.kill()
        assert own.take("a") is None


def test_two_topics_of_one_byte_are_one_claim_until_both_are_given_up(
    files: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_byte", lambda topic: 7)
    own = Locks(files)
    with other(files, *[lambda locks: locks.take("c")] * 3) as child:
        assert own.take("a") is own.take("b") is None
        own.release("a")
        assert child.step() == os.getpid()
        own.release("b")
        assert child.step() is None
        assert own.take("a") == child.process


def test_a_claim_that_is_given_up_while_its_holder_is_looked_for_is_taken(
    files: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Locks(files)
    with other(files, lambda locks: locks.take("a"), lambda locks: locks.release("a")) as child:
        child.step()
        real = fcntl.fcntl

        def given_up(file: int, command: int, argument: Any) -> Any:
            if command == fcntl.F_GETLK:
                child.step()
            return real(file, command, argument)

        monkeypatch.setattr(fcntl, "fcntl", given_up)
        assert own.take("a") is None


def test_a_kernel_without_locks_left_is_an_error_and_no_claim(
    files: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    own = Locks(files)
    monkeypatch.setattr(fcntl, "fcntl", full)
    with pytest.raises(OSError, match="no locks"):
        own.take("a")
    monkeypatch.undo()
    with other(files, lambda locks: locks.take("a")) as child:
        assert child.step() is None


def test_topics_with_any_characters_have_claims_in_all_files(files: list[int]) -> None:
    own = Locks(files)
    assert own.take("\ud800") is None
    assert {claims._byte(f"topic {number}") % FILES for number in range(200)} == {*range(FILES)}


def test_what_was_not_claimed_cannot_be_given_up(files: list[int]) -> None:
    with pytest.raises(ValueError, match="not claimed: a"):
        Locks(files).release("a")
