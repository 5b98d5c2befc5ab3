"""``python -m tests.tools.cluster.turns``: what a topic costs on several nodes, in CPU; sockets and zenoh come on top.

The nodes are in this process. A member on a node that is not the owner sends, waits until it is acknowledged and all
others have heard it, and sends again; on each node somebody listens.
"""

import asyncio
import time

import uvloop
from loguru import logger

from tests.support.cluster.fabric import Nodes, Person

ROUNDS = 5  # of which the fastest counts: what slows one down is something else on this machine
TURNS = 400
MESSAGES = 50


async def cpu(count: int, messages: int) -> float:
    """Seconds of a turn with so many messages on so many nodes."""
    nodes = Nodes()
    owner, *others = await nodes.start(count)
    topic = nodes.owned_by(owner)
    members = [Person(node) for node in (others[0], *nodes.all)]
    for member in members:
        await member.joins("member", topic)
    texts = [f"Hello World {number}" for number in range(messages)]
    outboxes = [member.outbox for member in members]
    took = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(TURNS):
            members[0].says(*texts)
            while not all(outbox.writes for outbox in outboxes):
                await asyncio.sleep(0)
            for outbox in outboxes:
                outbox.writes.clear()
        took.append((time.process_time() - began) / TURNS)
    await nodes.end()
    return min(took)


async def measure() -> None:
    one, many, wider = await cpu(2, 1), await cpu(2, MESSAGES), await cpu(6, 1)
    message = (many - one) / (MESSAGES - 1)
    print(f"a turn on two nodes: {(one - message) * 1e6:.0f} us")
    print(f"each message of it: {message * 1e6:.0f} us")
    print(f"each further node: {(wider - one) / 4 * 1e6:.0f} us")


if __name__ == "__main__":
    logger.remove()
    uvloop.run(measure())
