"""Whatever happens to nodes, and in whichever order: members miss nothing, and leave nothing behind.

Each thing that is broken on purpose must be found, or the silence about the package as it is means nothing.
"""

from unittest.mock import patch

import pytest

from chat_actors.cluster.backlog import Backlog
from chat_actors.cluster.estates import Estates
from chat_actors.cluster.relay import Relay
from tests.tools.cluster.exploration import explore, plan
from tests.tools.cluster.explore import main

STEPS = 40


@pytest.mark.parametrize("seed", range(40))
def test_while_nodes_come_and_go_nothing_is_lost_doubled_out_of_order_or_left_behind(seed: int) -> None:
    assert explore(seed, plan(seed, STEPS, split=False)) == []


@pytest.mark.parametrize("seed", range(40))
def test_where_they_split_as_well_each_side_is_whole_and_all_are_as_they_meet(seed: int) -> None:
    assert explore(seed, plan(seed, STEPS, split=True)) == []


def test_a_seed_is_the_same_run_every_time() -> None:
    runs: list[list[str]] = [[], []]
    for trace in runs:
        explore(7, plan(7, STEPS, split=True), trace)
    assert runs[0] == runs[1] and len(runs[0]) > STEPS / 2


# What is broken on purpose.


def found(kind: str, seeds: int = 40) -> bool:
    """Whether that kind of trouble shows within so many runs."""
    runs = (explore(seed, plan(seed, STEPS, split=False)) for seed in range(seeds))
    return any(one.startswith(kind) for wrong in runs for one in wrong)


def test_a_relay_that_does_not_say_again_what_is_not_acknowledged_is_found() -> None:
    attach = Relay.attach

    def forgetful(relay: Relay, owner: str) -> None:
        said = [(guest, guest.unacked) for guest in relay._guests.values()]
        for guest, unacked in said:
            guest.unacked = type(unacked)()
        attach(relay, owner)
        for guest, unacked in said:
            guest.unacked = unacked

    with patch.object(Relay, "attach", forgetful):
        assert found("unacknowledged")


def test_an_owner_that_does_not_know_who_has_had_which_acks_is_found() -> None:
    with patch.object(Backlog, "acked", lambda backlog: {}):
        assert found("doubled")


def test_a_node_that_keeps_what_waits_from_nodes_that_are_lost_is_found() -> None:
    with patch.object(Estates, "waive", lambda *arguments: None):
        assert found("left")


def test_an_owner_that_stays_when_nobody_is_attached_any_more_is_found() -> None:
    with patch.object(Estates, "close", lambda *arguments: None):
        assert found("left")


# The command.


def test_the_command_says_what_went_wrong_and_the_least_that_has_to_happen_for_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with patch.object(Estates, "close", lambda *arguments: None), pytest.raises(SystemExit) as ended:
        main(["--seed", "3", "--seeds", "1", "--steps", "20"])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 1 and lines[-1] == "1 of 1 runs failed"
    assert lines[0].startswith("seed 3: left: estates.open") and lines[1] == "  the least that is needed:"
    assert any("0 joins" in line for line in lines) and not any("kill" in line for line in lines)


def test_the_command_is_silent_about_runs_in_which_nothing_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--seed", "3", "--seeds", "2", "--steps", "20", "--split"])
    assert (ended.value.code, capsys.readouterr().out) == (0, "0 of 2 runs failed\n")
