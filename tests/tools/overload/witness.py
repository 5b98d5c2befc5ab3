"""``python -m tests.tools.overload.witness PORT``: a pair that chats in a room of its own, in a process of its own.

So the pair waits for the server, and not for the load. It says ``ready`` when both are in. When its standard input
ends it prints what it has seen.
"""

import asyncio
import json
import math
import subprocess
import sys
from contextlib import suppress
from typing import NamedTuple

from tests.support.server import ROOT
from tests.tools.faults.talk import Group, Ledger

EVERY = 0.06  # seconds from one message of a witness to its next: below the server's rate limit
LAST_SECONDS = 20.0  # for what was said to arrive, at the end


class Seen(NamedTuple):
    """What the witnesses have seen."""

    heard: int  # messages
    lost: int  # not heard at the end
    harmed: int  # doubled, out of order, or of a member that was renamed
    cut: int  # connections of a witness that the server ended
    p99: float  # milliseconds from a send to its receipt; of a lost message, for ever
    worst: float


class Witness:
    """The process of the pair, from the parent's side."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "tests.tools.overload.witness", str(port)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "no witness could join"

    def finish(self) -> Seen:
        """Let the witnesses hear the last messages, and return what they have seen."""
        told, _ = self._process.communicate()
        return Seen(*json.loads(told))

    def kill(self) -> None:
        """End the process if it has not ended."""
        self._process.kill()
        self._process.communicate()


async def main(port: int) -> None:
    ledger = Ledger()
    group = Group(port, "witness", 2, EVERY, ledger)
    await group.ready()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(group.settle(), LAST_SECONDS)
    lost = ledger.sent - ledger.received
    ledger.seconds.extend([math.inf] * lost)
    harmed = ledger.doubled + ledger.reordered + ledger.renamed
    seen = Seen(ledger.received, lost, harmed, ledger.rejoined, ledger.millis(0.99), ledger.millis(1))
    print(json.dumps(seen), flush=True)
    await asyncio.wait([asyncio.ensure_future(group.close())], timeout=1.0)  # a server that stands still never closes


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
