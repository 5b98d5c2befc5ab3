"""Clients that vanish: connections that are reset, and processes that are killed."""

import asyncio
import random
import subprocess
import sys
from contextlib import ExitStack

from tests.tools.faults.scene import Outcome, Scene
from tests.tools.faults.talk import Group, Ledger
from tests.tools.faults.wire import Peer, connect, text

TOPICS = 20
AT_ONCE = 50  # connections being made


async def join_many(
    port: int, names: "list[str]", topics: "list[str]", narrow: bool = False, ask: bool = False
) -> "list[Peer]":
    """Members that do not look at what they get. ``ask``: they have all been answered once more since."""
    entering = asyncio.Semaphore(AT_ONCE)

    async def join(i: int) -> Peer:
        async with entering:
            answered = asyncio.Event()
            peer = await connect(port, lambda _: answered.set(), narrow)
            peer.send({"username": names[i], "topic": topics[i % len(topics)]})
            await answered.wait()
            if ask:
                answered.clear()
                peer.send("/list")
                await answered.wait()
            return peer

    return await asyncio.gather(*(join(i) for i in range(len(names))))


class Bystanders:
    """Two more talkers in a topic whose other members vanish: nothing may happen to them."""

    def __init__(self, scene: Scene, topic: str) -> None:
        self._scene = scene
        self.ledger = Ledger()
        self._group = Group(scene.port, topic, 2, 0.1, self.ledger)

    async def __aenter__(self) -> "Bystanders":
        await self._group.ready()
        return self

    async def __aexit__(self, *failure: object) -> None:
        if failure[0] is None:
            await self._group.settle()
            if self.ledger.harm:
                self._scene.wrong.append(f"in the midst of it: {self.ledger.harm} of {self.ledger.received} harmed")
        await self._group.close()


async def resets(clients: int) -> Outcome:
    """Reset connections: in the middle of a frame, with unread frames, with frames on their way."""
    chance = random.Random(1)
    names = [f"noise-{i}" for i in range(clients)]
    topics = [f"topic-{i}" for i in range(TOPICS)]
    said = text({"message": "0 0 and gone"})
    async with Scene() as scene:
        async with Bystanders(scene, topics[0]) as bystanders:
            peers = await join_many(scene.port, names, topics)
            for peer in chance.sample(peers, len(peers)):
                peer.reset(said * chance.randrange(4) + said[: chance.randrange(len(said))])
                if not chance.randrange(10):
                    await asyncio.sleep(0)
            await scene.server.logged(" left ", count=clients)
        scene.see_one_leave_each(names)
    return Outcome.of(
        scene, "connection reset", clients, f"one leave each; beside them {bystanders.ledger.received} heard"
    )


async def kills(clients: int, processes: int) -> Outcome:
    """kill -9 of processes with many speaking members each."""
    share = clients // processes
    topics = [f"topic-{i}" for i in range(TOPICS)]
    async with Scene() as scene:
        async with Bystanders(scene, topics[0]) as bystanders:
            with ExitStack() as stack:
                crowds = [
                    stack.enter_context(start_crowd(scene.port, f"noise-{i}", share, topics)) for i in range(processes)
                ]
                for crowd in crowds:
                    assert crowd.stdout is not None
                    assert await asyncio.to_thread(crowd.stdout.readline) == b"ready\n"
                await scene.server.logged(" joined ", count=share * processes + 4)
                for crowd in crowds:
                    crowd.kill()
            await scene.server.logged(" left ", count=share * processes)
        scene.see_one_leave_each([f"noise-{i}-{j}" for i in range(processes) for j in range(share)])
    figures = f"{processes} processes, one leave each; beside them {bystanders.ledger.received} heard"
    return Outcome.of(scene, "kill -9", share * processes, figures)


def start_crowd(port: int, name: str, count: int, topics: "list[str]") -> "subprocess.Popen[bytes]":
    """Members in a process of their own; it says ``ready``."""
    command = [sys.executable, "-m", "tests.tools.faults.crowd", str(port), name, str(count), *topics]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
