"""Faults on the server's own side: a handler that fails, and no descriptor left to accept with."""

import asyncio
import os
import re
import time

from tests.support.server import PATIENCE
from tests.tools.faults.scene import Outcome, Scene
from tests.tools.faults.wire import Frame, Peer, connect

MEMBERS = 4  # of each topic, besides its speaker
IN_FLIGHT = 100
OPEN_FILES = 100

CRASHES_ARE_MEANT = re.compile(r"\b(WARNING|CRITICAL)\b|actor stopped|\bERROR +(?! |handler failed)")
OUT_OF_FILES_IS_MEANT = re.compile(r"\b(WARNING|CRITICAL)\b|\bERROR +(?! |socket.accept|.*_start_serving)")


class CrashingTopic:
    """Topic that fails at every nth message: all others must arrive, and no member may be dropped."""

    def __init__(self, scene: Scene, topic: str, messages: int, every: int) -> None:
        self._scene = scene
        self._topic = topic
        self._numbers = range(1, messages + 1)
        self._every = every
        self._delivered = [str(number) for number in self._numbers if number % every]

    async def run(self) -> None:
        speaker, *members = [await connect(self._scene.port) for _ in range(MEMBERS + 1)]
        for i, peer in enumerate((speaker, *members)):
            await peer.join(f"{self._topic}-{i}", self._topic)
        seen = await asyncio.gather(self._speak(speaker), *(self._listen(member) for member in members))
        for peer, frames in zip((speaker, *members), seen):
            texts = [frame["ref"] if frame["type"] == "ack" else frame["message"] for frame in frames]
            ids = [frame["id"] for frame in frames]
            if texts != self._delivered or ids != list(range(1, len(ids) + 1)) or peer.closed.done():
                self._scene.wrong.append(f"{self._topic}: {len(texts)} of {len(self._delivered)} delivered")
            await peer.close()

    async def _speak(self, peer: Peer) -> "list[Frame]":
        acks: list[Frame] = []
        for start in range(0, len(self._numbers), IN_FLIGHT):
            batch = self._numbers[start : start + IN_FLIGHT]
            peer.send(*[{"message": str(number), "ref": str(number)} for number in batch])
            expected = sum(1 for number in batch if number % self._every)
            acks += [await peer.recv() for _ in range(expected)]
        return acks

    async def _listen(self, peer: Peer) -> "list[Frame]":
        return [await peer.recv() for _ in self._delivered]


async def crashes(topics: int, messages: int, every: int) -> Outcome:
    """Topics whose handler fails once in so many messages; few enough within 30 s that they do not give up."""
    async with Scene(CRASHES_ARE_MEANT, FAULTS_CRASH_EVERY=str(every), CHAT_RATE_LIMIT="0") as scene:
        for i in range(topics):
            await CrashingTopic(scene, f"topic-{i}", messages, every).run()
        expected = topics * (messages // every)
        seen = len(await scene.server.logged(" handler failed ", count=expected))
        if seen != expected:
            scene.wrong.append(f"{seen} crashes in the log, not {expected}")
    figures = f"in {topics * messages:,} messages to {MEMBERS} members; nobody dropped, all others delivered"
    return Outcome.of(scene, "handler crashes", expected, figures)


async def descriptors(times: int, loop: str, most_seconds: float = PATIENCE) -> Outcome:
    """More connections than the process may open files, again and again, and how soon it accepts after each time."""
    async with Scene(OUT_OF_FILES_IS_MEANT, FAULTS_OPEN_FILES=str(OPEN_FILES), FAULTS_LOOP=loop) as scene:
        took = [await exhaust(scene) for _ in range(times)]
        if max(took) > most_seconds:
            scene.wrong.append(f"accepts again {max(took):.1f} s after the descriptors were released")
    figures = f"of {OPEN_FILES}; accepts again after {max(took):.2f} s at most"
    return Outcome.of(scene, f"out of descriptors, {loop}", times, figures)


async def exhaust(scene: Scene) -> float:
    """Take every descriptor there is and then release them; seconds from there until the server accepts."""
    attempts = [asyncio.ensure_future(connect(scene.port)) for _ in range(OPEN_FILES + 20)]
    while len(os.listdir(f"/proc/{scene.server.pid}/fd")) < OPEN_FILES:
        await asyncio.sleep(0.01)
    await asyncio.wait(attempts, timeout=0.2)  # those that are left wait, or are turned away
    for attempt in attempts:
        attempt.cancel()
    for peer in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(peer, Peer):
            peer.transport.abort()
    return await seconds_to_accept(scene.port, time.monotonic())


async def seconds_to_accept(port: int, since: float) -> float:
    """Try to join until it works."""
    while time.monotonic() < since + PATIENCE:
        try:
            peer = await asyncio.wait_for(connect(port), 1)
        except (OSError, asyncio.TimeoutError):
            await asyncio.sleep(0.02)
            continue
        joined = await peer.join("late", "topic")
        assert joined["type"] == "joined"
        took = time.monotonic() - since
        await peer.close()
        return took
    return float("inf")
