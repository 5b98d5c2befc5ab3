"""The faults in their short form; ``python -m tests.tools.faults`` and ``python -m tests.tools.soak`` are in full."""

import pytest

from tests.support.server import in_loop
from tests.tools.faults.catalogue import FAULTS
from tests.tools.faults.scene import Scene
from tests.tools.faults.talk import Group, Ledger
from tests.tools.faults.wire import connect
from tests.tools.soak import soak


@pytest.mark.parametrize("name", FAULTS)
@in_loop
async def test_nothing_is_lost_and_nothing_left_over(name: str) -> None:
    fault = FAULTS[name]
    outcome = await fault.run(**fault.short)
    assert outcome.heard and not outcome.wrong, outcome


@in_loop
async def test_a_long_chat_with_many_faults_loses_nothing() -> None:
    scene, run = await soak(minutes=0.02, topics=5, fault_every=0.06, seed=1)
    assert run.ledger.received and not run.ledger.harm and not scene.wrong, (vars(run.ledger), scene.wrong)


# The judges themselves: what they look for, done to them.


@pytest.mark.parametrize(("kind", "ids"), [("lost", (1, 3)), ("doubled", (1, 1)), ("reordered", (1, 2, 1))])
@in_loop
async def test_a_talker_notes_what_is(kind: str, ids: "tuple[int, ...]") -> None:
    ledger = Ledger()
    talker = Group(0, "topic", 1, 60.0, ledger).talkers[0]
    talker._take(b'{"type":"joined","username":"topic-0","last_id":0,"epoch":"e","resume":"r"}')
    for place, id in enumerate(ids):
        assert ledger.harm == 0
        talker._take(b'{"type":"message","id":%d,"username":"noise","message":"%d 0.0"}' % (id, place))
    assert ledger.harm == vars(ledger)[kind] == 1
    await talker.close()


@in_loop
async def test_a_scene_notes_what_is_left_over() -> None:
    async with Scene(patience=0) as scene:
        peer = await connect(scene.port)
        await peer.join("guest", "topic")
    assert [sentence[:13] for sentence in scene.wrong] == ["not as before"]
    await peer.closed


@in_loop
async def test_a_scene_notes_who_left_more_than_once() -> None:
    async with Scene() as scene:
        for _ in range(2):
            peer = await connect(scene.port)
            await peer.join("guest", "topic")
            await peer.close()
        await scene.wait_for_leaves(2)
        scene.see_one_leave_each(["guest"])
    assert scene.wrong == ["1 did not leave exactly once: {'guest': 2}"]


@in_loop
async def test_a_scene_notes_a_complaint_in_the_log() -> None:
    async with Scene() as scene:
        scene.server._lines.append("2026-01-01 00:00:00.000 ERROR    handler failed")
    assert scene.wrong == ["1 complaints in the log, first: 2026-01-01 00:00:00.000 ERROR    handler failed"]
