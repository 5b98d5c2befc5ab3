"""``python -m tests.tools.cluster.hop``: how long a word takes from one node to another here, and what it costs.

Two processes, each with its end of the mesh. One sends, the other sends back: half of that is a hop.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections import deque
from typing import Optional

from chat_actors.cluster.mesh import ZenohMesh
from tests.support.server import free_ports

ROUNDS = 2000
BYTES = 200


class Ends:
    """This process's end, and the name of the other one once it has been seen."""

    def __init__(self, me: str, endpoints: str) -> None:
        self.mesh = ZenohMesh(endpoints.split(","), "")
        self.other: Optional[str] = None
        self.mail: deque[bytes] = deque()
        self._me = me
        self.woken = asyncio.Event()
        self.mesh.open(me, self._mail, self._seen)

    def _mail(self, data: bytes) -> None:
        self.mail.append(data)
        self.woken.set()

    def _seen(self, node: str, there: bool) -> None:
        if node != self._me:
            self.other = node if there else None
            self.woken.set()

    async def read(self) -> Optional[bytes]:
        """The next word of the other; None once that is gone."""
        while not self.mail:
            if self.other is None:
                return None
            self.woken.clear()
            await self.woken.wait()
        return self.mail.popleft()

    async def find(self) -> str:
        """The other's name."""
        while self.other is None:
            self.woken.clear()
            await self.woken.wait()
        return self.other


async def echo(endpoints: str) -> None:
    """The other process."""
    ends = Ends("echo", endpoints)
    other = await ends.find()
    while (data := await ends.read()) is not None:
        ends.mesh.send(other, data)
    await ends.mesh.close()


async def measure(rounds: int) -> float:
    """The median hop, in seconds."""
    endpoints = ",".join(f"tcp/127.0.0.1:{port}" for port in free_ports(2))
    ends = Ends("caller", endpoints)
    process = subprocess.Popen([sys.executable, "-m", "tests.tools.cluster.hop", endpoints])
    try:
        other = await ends.find()
        while not ends.mail:  # what is said while a connection comes to be may be lost
            ends.mesh.send(other, b"")
            await asyncio.sleep(0.2)
        ends.mail.clear()
        took: list[float] = []
        while len(took) < rounds:
            began = time.perf_counter()
            ends.mesh.send(other, bytes(BYTES))
            if await ends.read() is None:
                raise ConnectionError("the other process has ended")
            took.append(time.perf_counter() - began)
        return statistics.median(took) / 2
    finally:
        await ends.mesh.close()
        process.wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(echo(sys.argv[1]))
    else:
        print(f"a hop of {BYTES} bytes: p50 {asyncio.run(measure(ROUNDS)) * 1e3:.3f} ms")
