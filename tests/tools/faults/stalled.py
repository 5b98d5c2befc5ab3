"""Readers that stop reading: beside others that go on, and when the server is to end."""

import asyncio
import re
import time
from datetime import datetime
from typing import Optional

from tests.tools.faults.gone import join_many
from tests.tools.faults.scene import Outcome, Scene, merged
from tests.tools.faults.wire import Peer, connect

BURST = [{"message": "😀" * 4096}] * 32  # 512 KiB: more than a narrow path holds, less than an outbox
PACE = 0.05  # seconds between the messages that are timed: so many that one is less than a hundredth
SLACK = 2.0  # seconds beyond the stall timeout: the sweep looks twice a second, and from the last progress it saw


class Readers:
    """Healthy readers of one topic, which time the messages, and a member that sends to them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._seconds: list[float] = []
        self._speaker: Peer

    async def open(self, readers: int) -> None:
        self._speaker = await connect(self._port, lambda _: None)
        self._speaker.send({"username": "speaker", "topic": "room"})
        self.peers = [await connect(self._port, self._take) for _ in range(readers)]
        for i, peer in enumerate(self.peers):
            peer.send({"username": f"healthy-{i}", "topic": "room"})

    def _take(self, payload: bytes) -> None:
        timed = re.search(rb'"message":"at (\d+\.\d+)"', payload)
        if timed:
            self._seconds.append(time.monotonic() - float(timed[1]))

    def burst(self) -> None:
        self._speaker.send(*BURST)

    async def speak_for(self, seconds: float) -> float:
        """Speak at an even pace; the readers' p99 latency in milliseconds."""
        await asyncio.sleep(1)  # behind the burst
        self._seconds.clear()
        until = time.monotonic() + seconds - 1
        while time.monotonic() < until:
            self._speaker.send({"message": f"at {time.monotonic()}"})
            await asyncio.sleep(PACE)
        ordered = sorted(self._seconds)
        return 1000 * ordered[int(len(ordered) * 0.99)]

    async def close(self) -> None:
        await asyncio.gather(*(peer.close() for peer in [self._speaker, *self.peers]))


def logged_at(line: str) -> float:
    """When a line was logged, in Unix seconds."""
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S.%f").timestamp()


async def stalls(readers: int, stall_timeout: float, most_ratio: Optional[float]) -> Outcome:
    """As many stalled readers as healthy ones, in one topic. Without a ratio no time is taken, nor judged."""
    async with Scene(CHAT_STALL_TIMEOUT=str(stall_timeout), most_mib=64) as scene:
        healthy = Readers(scene.port)
        await healthy.open(readers)
        seconds = stall_timeout + SLACK
        alone = beside = float("nan")
        if most_ratio is not None:
            healthy.burst()
            alone = await healthy.speak_for(seconds)
        stalled = await join_many(scene.port, [f"stalled-{i}" for i in range(readers)], ["room"], narrow=True)
        for peer in stalled:
            peer.stall()
        began = time.time()
        healthy.burst()
        if most_ratio is not None:
            beside = await healthy.speak_for(seconds)
        evicted = await scene.server.logged(" left ", "slow: ", count=readers)
        await healthy.close()
        for peer in stalled:
            peer.transport.abort()
        names = [f"{kind}-{i}" for kind in ("healthy", "stalled") for i in range(readers)]
        await scene.server.logged(" left ", count=2 * readers + 1)
        scene.see_one_leave_each(names)
        last = max(map(logged_at, evicted)) - began
        if len(evicted) != readers:
            scene.wrong.append(f"{len(evicted)} evicted, not {readers}")
        if most_ratio is not None and last > seconds:
            scene.wrong.append(f"the last one evicted after {last:.1f} s")
        if most_ratio is not None and beside > most_ratio * alone:
            scene.wrong.append(f"the p99 of healthy readers went from {alone:.1f} to {beside:.1f} ms")
    figures = f"evicted after {last:.1f} s at most; healthy p99 {alone:.1f} ms alone, {beside:.1f} ms beside them"
    return Outcome.of(scene, "reader stalls", readers, figures)


async def fill(port: int, topic: str) -> None:
    """Send a topic more than its stalled members can take, and see it on its way."""
    peer = await connect(port)
    await peer.join("speaker", topic)
    peer.send(*BURST)
    for _ in BURST:
        await peer.recv()


async def sigterms(times: int, members: int, stalled: int) -> Outcome:
    """SIGTERM in the midst of a chat, with readers that do not read."""
    took: list[float] = []
    outcomes = []
    for _ in range(times):
        async with Scene() as scene:
            names = [f"healthy-{i}" for i in range(members)]
            topics = [f"topic-{i}" for i in range(10)]
            healthy = await join_many(scene.port, names, topics)
            stuck = await join_many(scene.port, [f"stalled-{i}" for i in range(stalled)], topics, narrow=True)
            for peer in stuck:
                peer.stall()
            await asyncio.gather(*(fill(scene.port, topic) for topic in topics))
            began = time.monotonic()
            await asyncio.to_thread(scene.end)
            took.append(time.monotonic() - began)
            codes = await asyncio.gather(*(peer.closed for peer in healthy))
            if set(codes) != {1012}:
                scene.wrong.append(f"healthy members closed with {set(codes)}")
            for peer in stuck:
                peer.transport.abort()
            scene.see_one_leave_each([*names, *(f"stalled-{i}" for i in range(stalled))])
        outcomes.append(Outcome.of(scene, f"SIGTERM, {stalled} of {members + stalled} stalled", times, ""))
    figures = f"all {members} healthy members saw 1012; gone after {max(took):.1f} s at most"
    return merged(outcomes)._replace(figures=figures)
