"""Clients that number what they send and check what they get: the judges of every run.

In a topic the ids 1, 2, 3 … have no holes, and a member sees each of them once: in a message, or in the ack of its
own. So whoever notes the ids needs to know nothing else to tell what was lost, came twice or came out of order.
"""

import asyncio
import time
from array import array
from contextlib import suppress
from typing import Any, Optional

import msgspec

from tests.support.server import PATIENCE
from tests.tools.faults.wire import Frame, Peer, connect, text

STALL_SECONDS = 15.0  # longer than the server lets a reader make no progress, shorter than it remembers
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Ledger:
    """Sum of what many talkers have seen."""

    def __init__(self) -> None:
        self.sent = self.received = self.replayed = self.resent = self.rejoined = 0
        self.lost = self.doubled = self.reordered = self.renamed = 0
        self.seconds = array("d")  # from a send to each receipt, of those that were not sent again

    @property
    def harm(self) -> int:
        return self.lost + self.doubled + self.reordered + self.renamed

    def millis(self, share: float) -> float:
        """The latency that this share of the messages did not exceed."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else float("nan")


class Talker:
    """Member that sends at intervals, and resumes with its token after each lost connection."""

    def __init__(self, port: int, name: str, topic: str, every: float, ledger: Ledger, narrow: bool = False) -> None:
        self.name = name
        self.topic = topic
        self.last_id = 0
        self.stalled = False
        self.peer: Optional[Peer] = None  # while joined
        self.joined = asyncio.Event()
        self.news = asyncio.Event()  # set with each frame
        self._port = port
        self._every = every
        self._ledger = ledger
        self._narrow = narrow
        self._said = 0  # numbers of its own
        self._unacked: dict[str, Frame] = {}  # by ref, in order
        self._heard: dict[str, int] = {}  # of each of the others, the number heard last
        self._window: Frame = {"events": False}  # what a join asks for; to come back, later on
        self._speaking = True
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                peer = await connect(self._port, self._take, self._narrow)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            peer.send({"username": self.name, "topic": self.topic, **self._window})
            self.stalled = False
            joined = asyncio.ensure_future(self.joined.wait())
            either: set[asyncio.Future[Any]] = {joined, peer.closed}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not joined.done():
                joined.cancel()
                await asyncio.sleep(0.05)
                continue
            self._ledger.resent += len(self._unacked)
            peer.send(*self._unacked.values())
            self.peer = peer
            while not peer.closed.done():
                await asyncio.wait({peer.closed}, timeout=self._every)
                if self._speaking and not peer.closed.done():
                    self._speak(peer)
            self.peer = None
            self.joined.clear()

    def _speak(self, peer: Peer) -> None:
        self._said += 1
        frame = {"message": f"{self._said} {time.monotonic()}", "ref": str(self._said)}
        self._unacked[str(self._said)] = frame
        self._ledger.sent += 1
        peer.write(text(frame))

    def _take(self, payload: bytes) -> None:
        frame = _decode(payload)
        kind = frame["type"]
        if kind == "message":
            self._see(frame["id"])
            if frame["username"] != self.name:
                self._hear(frame)
        elif kind == "ack":
            self._unacked.pop(frame.get("ref", ""), None)
            if not frame.get("duplicate"):
                self._see(frame["id"])
        elif kind == "joined":
            self._come_in(frame)
        self.news.set()

    def _come_in(self, frame: Frame) -> None:
        ledger = self._ledger
        if "resume" in self._window:
            ledger.rejoined += 1
            ledger.lost += "gap" in frame
        else:
            self.last_id = frame["last_id"]
        ledger.renamed += frame["username"] != self.name
        self._window = {"since": self.last_id, "epoch": frame["epoch"], "resume": frame["resume"]}
        self.joined.set()

    def _see(self, id: int) -> None:
        if id > self.last_id:
            self._ledger.lost += id - self.last_id - 1
            self.last_id = self._window["since"] = id
        elif id == self.last_id:
            self._ledger.doubled += 1
        else:
            self._ledger.reordered += 1

    def _hear(self, frame: Frame) -> None:
        number, sent_at, *_ = frame["message"].split(" ")
        speaker = frame["username"]
        before = self._heard.get(speaker, int(number) - 1)
        if speaker.startswith("noise"):  # comes and goes, and speaks without a number
            return
        if int(number) != before + 1:
            self._ledger.doubled += int(number) <= before
            self._ledger.lost += int(number) > before + 1
        self._heard[speaker] = int(number)
        self._ledger.received += 1
        if frame.get("replayed"):
            self._ledger.replayed += 1
        else:
            self._ledger.seconds.append(time.monotonic() - float(sent_at))

    def stall(self, peer: Peer) -> None:
        """Read nothing for a while that ends within the window, even if the server has not had enough of it."""
        self.stalled = True
        peer.transport.pause_reading()
        asyncio.get_running_loop().call_later(STALL_SECONDS, self._go_on, peer)

    def _go_on(self, peer: Optional[Peer]) -> None:
        if self.stalled and peer is not None and peer is self.peer:
            self.stalled = False
            peer.transport.resume_reading()

    async def wait_for_acks(self) -> None:
        """Say nothing more, and wait until all that was said is acknowledged."""
        self._speaking = False
        self._go_on(self.peer)
        while self._unacked:
            self.news.clear()
            await self.news.wait()

    async def wait_for_id(self, id: int) -> None:
        while self.last_id < id:
            self.news.clear()
            await self.news.wait()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        if self.peer is not None:
            await self.peer.close()


class Group:
    """Talkers of one topic."""

    def __init__(self, port: int, topic: str, size: int, every: float, ledger: Ledger, narrow: bool = False) -> None:
        self.topic = topic
        self.ledger = ledger
        self.talkers = [Talker(port, f"{topic}-{i}", topic, every, ledger, narrow) for i in range(size)]

    async def ready(self) -> None:
        for talker in self.talkers:
            await asyncio.wait_for(talker.joined.wait(), PATIENCE)

    def well(self) -> "list[Talker]":
        """Those who are in and read."""
        return [talker for talker in self.talkers if talker.peer is not None and not talker.stalled]

    async def settle(self) -> None:
        """Stop speaking, and wait until everybody has heard everything. What does not come is lost."""
        with suppress(asyncio.TimeoutError):
            for talker in self.talkers:
                await asyncio.wait_for(talker.wait_for_acks(), PATIENCE)
        last = max(talker.last_id for talker in self.talkers)
        for talker in self.talkers:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(talker.wait_for_id(last), PATIENCE)
            self.ledger.lost += last - talker.last_id + len(talker._unacked)

    async def close(self) -> None:
        for talker in self.talkers:
            await talker.close()
