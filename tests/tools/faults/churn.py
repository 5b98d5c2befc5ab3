"""Joins and leaves without end: on real sockets, and by the million in front of the actors themselves.

``python -m tests.tools.faults.churn JOINS TOPICS`` runs the supervisor and its topics in a process of their own, where
outboxes only count. A join on a socket costs the server about a millisecond, nearly all of it the handshake, which
the first form goes through; what the second adds is the number.
"""

import asyncio
import json
import os
import random
import sys
from collections import deque
from collections.abc import Iterator

from chat_actors.actors.events import Join, Leave, Send
from chat_actors.actors.supervisor import ListTopics, Supervisor
from chat_actors.clock import Clock
from chat_actors.counters import Counters
from chat_actors.operations.logs import configure_logging
from chat_actors.settings import Settings
from tests.support.fakes import FakeMember
from tests.tools.faults.scene import Outcome, Scene, memory
from tests.tools.faults.wire import connect

AT_ONCE = 100  # connections of the clients
BATCH = 500  # joins and leaves that are posted in one go


async def real_joins(joins: int, topics: int, most_growth: float) -> Outcome:
    """Connect, join, chat a little, leave; so many times."""

    async def come_and_go(numbers: Iterator[int]) -> None:
        for number in numbers:
            peer = await connect(scene.port)
            await peer.join(f"noise-{number}", f"topic-{number % topics}")
            peer.send({"message": "0 0 hello and goodbye"})
            while (await peer.recv())["type"] != "ack":
                pass
            await peer.close()

    async with Scene() as scene:
        resident = []
        for tenth in range(10):
            numbers = iter(range(joins * tenth // 10, joins * (tenth + 1) // 10))
            await asyncio.gather(*(come_and_go(numbers) for _ in range(AT_ONCE)))
            resident.append(memory(scene.server.pid).resident)
        await scene.wait_for_leaves(joins)
        scene.see_one_leave_each([f"noise-{number}" for number in range(joins)])
    figures = f"over {topics:,} topics; {grew(scene, resident, most_growth)}"
    return Outcome.of(scene, "join and leave, on sockets", joins, figures)


def grew(scene: Scene, resident: "list[float]", most_growth: float) -> str:
    """Compare the second half of the samples (MiB) with where it began: by then all has happened that happens once."""
    plateau, most = resident[len(resident) // 2], max(resident[len(resident) // 2 :])
    growth = most / plateau - 1
    if growth > most_growth:
        scene.wrong.append(f"RSS {growth:+.1%} above the plateau")
    return f"RSS {plateau:.0f} MiB half way, later {growth:+.1%} at most"


class Actors:
    """Supervisor, and the members that come and go."""

    def __init__(self, topics: int) -> None:
        self._supervisor = Supervisor(Settings.model_validate({}), Clock(), Counters())
        self._topics = topics
        self._present: deque[FakeMember] = deque()
        self._random = random.Random(1)

    async def join(self, names: "list[tuple[str, str]]") -> "list[FakeMember]":
        """Members by (username, topic); waits until they are in."""
        outboxes = []
        for username, topic in names:
            outbox = FakeMember()
            outboxes.append(outbox)
            self._supervisor.post(Join(topic, username, outbox, outbox.reply))
        for outbox in outboxes:
            await outbox.reply
        return outboxes

    def leave(self, outbox: FakeMember) -> None:
        self._supervisor.post(Leave(outbox, "enough"))

    async def churn(self, joins: int) -> None:
        """So many joins, each at random, and for each the leave of whoever is there the longest."""
        for _ in range(joins // BATCH):
            names = [(f"user-{i}", f"topic-{self._random.randrange(self._topics)}") for i in range(BATCH)]
            joined = await self.join(names)
            for outbox in joined[::10]:
                outbox.reply.result().put_nowait(Send(outbox, "hello and goodbye"))
            self._present += joined
            while len(self._present) > self._topics:
                self.leave(self._present.popleft())

    async def leave_all(self) -> None:
        while self._present:
            self.leave(self._present.popleft())

    async def topics(self) -> "list[dict[str, object]]":
        asker = FakeMember()
        self._supervisor.post(ListTopics(asker))
        while not asker.writes:
            await asyncio.sleep(0)
        listed: list[dict[str, object]] = asker.frames[0]["topics"]
        return listed

    async def stop(self) -> None:
        self._supervisor.stop()
        await self._supervisor.task


async def actor_joins(joins: int, topics: int) -> "dict[str, object]":
    """The figures of one run. A pair in a topic of its own speaks and listens all the time."""
    actors = Actors(topics)
    first, second = await actors.join([("witness", "witness"), ("witness", "witness")])
    resident = []
    for spoken in range(20):
        await actors.churn(joins // 20)
        for outbox in (first, second):
            outbox.reply.result().put_nowait(Send(outbox, str(spoken)))
        resident.append(memory(os.getpid()).resident)
    await actors.leave_all()
    while not len(first.messages) == len(second.messages) == 20:
        await asyncio.sleep(0)
    listed = await actors.topics()
    heard = first.messages == second.messages == [str(spoken) for spoken in range(20)]
    actors.leave(first)
    actors.leave(second)
    left = await actors.topics()
    await actors.stop()
    heard = heard and len(asyncio.all_tasks()) == 1
    return {"resident": resident, "listed": listed, "left": left, "heard": heard}


async def many_joins(joins: int, topics: int, most_growth: float) -> Outcome:
    """``actor_joins`` in a process of its own, while a real server beside it has its witnesses."""
    async with Scene() as scene:
        command = [sys.executable, "-m", "tests.tools.faults.churn", str(joins), str(topics)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        seen = json.loads(output)
        if [one["topic"] for one in seen["listed"]] != ["witness"] or seen["left"] or not seen["heard"]:
            scene.wrong.append(f"topics {len(seen['listed'])}, then {len(seen['left'])}; witnesses {seen['heard']}")
    figures = f"over {topics:,} topics; none left; {grew(scene, seen['resident'], most_growth)}"
    return Outcome.of(scene, "join and leave, in front of the actors", joins, figures)


if __name__ == "__main__":
    configure_logging("WARNING", False)
    print(json.dumps(asyncio.run(actor_joins(int(sys.argv[1]), int(sys.argv[2])))))
