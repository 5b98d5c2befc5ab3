"""``python -m tests.tools.soak --minutes N``: clients that chat for a long time, with a fault every few seconds.

200 clients in 50 topics speak once a second each and come back by themselves. Every few seconds one connection is
reset in the middle of a frame, half-closed, stalled until the server evicts it, or ended by a broken frame; or a few
further members die with their process. At the end: what was lost, and what the server's process still holds.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Optional

from tests.tools.benchmark.report import Progress, table
from tests.tools.faults.scene import Scene, memory
from tests.tools.faults.talk import Group, Ledger
from tests.tools.faults.wire import connect, masked

CLIENTS_PER_TOPIC = 4
SPEAK_EVERY = 1.0  # seconds
REPORT_EVERY = 60.0
NOISE = "😀" * 4096  # 16 KiB, the longest message
NOISE_MESSAGES = 120  # more than a narrow path holds, even one that has widened: the outbox has to hold the rest
BROKEN = {
    "unmasked": b"\x81\x0a" + b"x" * 10,
    "reserved bit": masked(b"{}", 0xC1),
    "unknown opcode": masked(b"{}", 0x83),
    "long control frame": masked(b"x" * 126, 0x89),
    "continuation of nothing": masked(b"{}", 0x80),
    "not UTF-8": masked(b"\xff\xfe"),
    "too big": masked(b"x" * 70_000),
    "close with a code that is none": masked((999).to_bytes(2, "big"), 0x88),
    "no JSON, 20 times": masked(b"{") * 20,
}


class Soak:
    """Clients, their faults, and the samples taken meanwhile."""

    def __init__(self, scene: Scene, topics: int, seed: int) -> None:
        self.ledger = Ledger()
        self.faults: Counter[str] = Counter()
        self.samples: list[tuple[float, float]] = []  # (seconds, MiB)
        self._scene = scene
        self._random = random.Random(seed)
        self.groups = [
            Group(scene.port, f"topic-{i}", CLIENTS_PER_TOPIC, SPEAK_EVERY, self.ledger, narrow=True)
            for i in range(topics)
        ]

    async def run(self, seconds: float, fault_every: float) -> None:
        progress = Progress(max(1, int(seconds / fault_every)))
        began = time.monotonic()
        report_at = REPORT_EVERY
        for group in self.groups:
            await group.ready()
        for _ in range(int(seconds / fault_every)):  # so that a busy machine has no fewer
            now = time.monotonic() - began
            self.samples.append((now, memory(self._scene.server.pid).resident))
            kind = self._random.choice(("reset", "half-close", "stall", "broken frame", "kill -9"))
            progress.step(kind)
            await self._hurt(kind)
            if now >= report_at:
                report_at += REPORT_EVERY
                progress.clear()
                print(await self.status(now), flush=True)
            await asyncio.sleep(fault_every * self._random.uniform(0.5, 1.5))
        progress.clear()

    async def status(self, now: float) -> str:
        alive, ledger = await self._scene.alive(), self.ledger
        return (
            f"{now / 60:5.1f} min  faults {sum(self.faults.values()):,}  "
            f"messages {ledger.sent:,}  heard {ledger.received:,}  "
            f"lost {ledger.lost}  doubled {ledger.doubled}  reordered {ledger.reordered}  "
            f"RSS {self.samples[-1][1]:.1f} MiB  tasks {alive.tasks}  descriptors {alive.descriptors}"
        )

    async def _hurt(self, kind: str) -> None:
        """Do one thing to one client, in a topic where enough others are well that it lives on."""
        while not (whole := [group for group in self.groups if len(group.well()) > CLIENTS_PER_TOPIC // 2]):
            await asyncio.sleep(0.01)  # on a busy machine all topics may wait for clients to come back
        group = self._random.choice(whole)
        victim = self._random.choice(group.well())
        peer = victim.peer
        assert peer is not None
        if kind == "reset":
            peer.reset(masked(b"x" * 100)[: self._random.randrange(100)])
        elif kind == "half-close":
            peer.half_close()
        elif kind == "broken frame":
            kind = self._random.choice(list(BROKEN))
            peer.write(BROKEN[kind])
        elif kind == "stall":
            victim.stall(peer)
            await self._make_noise(group.topic)
        else:
            await asyncio.to_thread(self._kill_members_of, group.topic)
        self.faults[kind] += 1

    async def _make_noise(self, topic: str) -> None:
        peer = await connect(self._scene.port)
        await peer.join("noise", topic)
        peer.send(*[{"message": f"0 0 {NOISE[4:]}"}] * NOISE_MESSAGES)
        for _ in range(NOISE_MESSAGES):
            while (await peer.recv())["type"] != "ack":
                pass
        await peer.close()

    def _kill_members_of(self, topic: str) -> None:
        command = [sys.executable, "-m", "tests.tools.faults.crowd", str(self._scene.port), "noise", "5", topic]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == b"ready\n"
            crowd.kill()

    async def settle(self) -> None:
        await asyncio.gather(*(group.settle() for group in self.groups))
        for group in self.groups:
            await group.close()


def slope(samples: "list[tuple[float, float]]") -> float:
    """MiB an hour, by least squares over the second half, when everything has happened once."""
    late = samples[len(samples) // 2 :]
    mean_x, mean_y = (sum(values) / len(late) for values in zip(*late))
    spread = sum((x - mean_x) ** 2 for x, _ in late)
    return 3600 * sum((x - mean_x) * (y - mean_y) for x, y in late) / spread if spread else 0.0


def joins_and_leaves(scene: Scene) -> "tuple[int, int]":
    """Those that the log tells: a member that resumes before it has left leaves once."""
    lines = scene.server.lines
    return len(lines(" joined ")), len(lines(" left "))


async def soak(minutes: float, topics: int, fault_every: float, seed: int) -> "tuple[Scene, Soak]":
    scene = Scene()
    async with scene:
        run = Soak(scene, topics, seed)
        await run.run(minutes * 60, fault_every)
        await run.settle()
    return scene, run


def rows(scene: Scene, run: Soak) -> "list[tuple[str, str]]":
    ledger, witness = run.ledger, scene.witnessed
    resident = [mib for _, mib in run.samples]
    joins, leaves = joins_and_leaves(scene)
    return [
        *((f"fault: {kind}", f"{count:,}") for kind, count in sorted(run.faults.items())),
        ("messages sent / heard by others", f"{ledger.sent:,} / {ledger.received:,}"),
        ("  of them heard after coming back", f"{ledger.replayed:,}"),
        ("came back / sent again", f"{ledger.rejoined:,} / {ledger.resent:,}"),
        (
            "lost, doubled, out of order, renamed",
            f"{ledger.lost}, {ledger.doubled}, {ledger.reordered}, {ledger.renamed}",
        ),
        ("witnesses: heard", f"{witness.received:,}"),
        ("  lost, doubled, out of order", f"{witness.lost}, {witness.doubled}, {witness.reordered}"),
        ("  latency p50 / p99 / worst, ms", " / ".join(f"{witness.millis(share):.1f}" for share in (0.5, 0.99, 1))),
        ("joins / leaves in the log", f"{joins:,} / {leaves:,}"),
        ("  of them evicted as too slow", f"{len(scene.server.lines(' left ', 'slow: ')):,}"),
        ("tasks before / after", f"{scene.before.tasks} / {scene.after.tasks}"),
        ("descriptors before / after", f"{scene.before.descriptors} / {scene.after.descriptors}"),
        ("sessions and outboxes left over", str(scene.after.sessions - scene.before.sessions)),
        ("RSS first / last / most, MiB", f"{resident[0]:.1f} / {resident[-1]:.1f} / {max(resident):.1f}"),
        ("RSS slope over the second half, MiB/h", f"{slope(run.samples):+.2f}"),
    ]


def main(argv: Optional["list[str]"] = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="(default: %(default)s)")
    parser.add_argument("--topics", type=int, default=50, help=f"of {CLIENTS_PER_TOPIC} clients (default: %(default)s)")
    parser.add_argument("--fault-every", type=float, default=2.0, help="seconds, about (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    with suppress(KeyboardInterrupt):
        scene, run = asyncio.run(soak(args.minutes, args.topics, args.fault_every, args.seed))
        print(table(("figure", ""), rows(scene, run)))
        if scene.wrong or run.ledger.harm:
            sys.exit("\n".join(["Something was harmed.", *scene.wrong]))


if __name__ == "__main__":
    main()
