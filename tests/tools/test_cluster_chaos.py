"""Three nodes, many members, and nodes that are killed, frozen and restarted under them.

The full form is ``python -m tests.tools.cluster``.
"""

from tests.support.server import in_loop
from tests.tools.cluster.chaos import FAULTS, Chaos

SEED = 7
CLIENTS = 60
FAULTS_HERE = 4  # one of each


@in_loop
async def test_members_of_living_nodes_get_every_acknowledged_message_once_and_in_order() -> None:
    report = await Chaos(SEED, nodes=3, clients=CLIENTS, topics=15, progress=print).run(FAULTS_HERE)
    assert report.wrong == []
    assert sum(report.faults.values()) == FAULTS_HERE
    assert set(report.faults) == set(FAULTS)
    assert report.acked and report.stints > CLIENTS
