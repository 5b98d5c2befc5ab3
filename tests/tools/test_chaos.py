"""The short forms of the chaos runs."""

import asyncio

from tests.support.proxy import Proxy
from tests.support.server import Server, in_loop
from tests.tools.chaos.run import run
from tests.tools.chaos.workers import KINDS, Chaos


def test_nothing_is_lost_doubled_or_mixed_up_while_connections_break(server: Server) -> None:
    report = asyncio.run(run(server.port, seed=1, faults=60))
    assert not report.wrong
    assert sum(report.faults.values()) == 60
    assert all(report.faults[kind] for kind in Proxy.KINDS)
    assert report.messages > 60


@in_loop
async def test_what_the_death_of_a_worker_takes_is_told_and_nothing_is_doubled_or_mixed_up() -> None:
    report = await Chaos(seed=4, workers=3, clients=12, topics=6).run(faults=3, every=0.0)

    assert not report.wrong
    assert {*report.faults} == {*KINDS}
    assert report.epochs > 6
    assert report.messages > 12
