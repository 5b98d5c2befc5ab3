"""The short form of the chaos run."""

import asyncio

from tests.support.proxy import Proxy
from tests.support.server import Server
from tests.tools.chaos.run import run


def test_nothing_is_lost_doubled_or_mixed_up_while_connections_break(server: Server) -> None:
    report = asyncio.run(run(server.port, seed=1, faults=60))
    assert not report.wrong
    assert sum(report.faults.values()) == 60
    assert all(report.faults[kind] for kind in Proxy.KINDS)
    assert report.messages > 60
