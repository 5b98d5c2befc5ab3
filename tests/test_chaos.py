"""The short form of the chaos run."""

import asyncio

from tests.chaos.proxy import Proxy
from tests.chaos.run import run
from tests.server import Server


def test_nothing_is_lost_doubled_or_mixed_up_while_connections_break(server: Server) -> None:
    report = asyncio.run(run(server.port, seed=1, faults=150))
    assert not report.wrong
    assert sum(report.faults.values()) == 150
    assert all(report.faults[kind] for kind in Proxy.KINDS)
    assert report.messages > 150
