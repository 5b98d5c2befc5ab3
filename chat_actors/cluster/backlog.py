"""The parcels of a topic's window: what another node would need in order to go on."""

import asyncio
from collections import Counter, deque
from itertools import takewhile
from typing import Optional

from chat_actors.clock import Clock
from chat_actors.cluster.wire import Kept, Parcel

SWEEP_SECONDS = 0.1  # how often it is looked whether something is over


Acks = dict[tuple[str, int], int]  # how many, by node and number of whom they are for


class Ration:
    """So many bytes of frames may go to another node at once."""

    def __init__(self, most_bytes: float) -> None:
        self._left = most_bytes

    def grants(self, size: int) -> bool:
        """Whether so much may go as well; once it may not, nothing more may."""
        self._left -= size
        return self._left >= 0


class Backlog:
    """Parcels in the order of their numbers, for so many seconds and of so many bytes at most."""

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._kept: deque[tuple[float, int, Parcel]] = deque()  # until when (monotonic), bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, parcel: Parcel, now: float) -> None:
        """Keep the next parcel."""
        self.restore(parcel, now + self._seconds)

    def restore(self, parcel: Parcel, until: float) -> None:
        """Keep a parcel from elsewhere, until then (monotonic seconds)."""
        size = sum(map(len, parcel.frames))
        self._kept.append((until, size, parcel))
        self._bytes += size
        while self._bytes > self._most_bytes:
            self._drop_oldest()

    def expire(self, now: float) -> None:
        """Forget what is over."""
        while self._kept and self._kept[0][0] <= now:
            self._drop_oldest()

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._bytes = 0

    def kept(self, now: float, ration: Ration) -> list[Kept]:
        """All, for another node; where that is too much, the newest."""
        newest = takewhile(lambda one: ration.grants(one[1]), reversed(self._kept))
        return [Kept(until - now, parcel) for until, _, parcel in newest][::-1]

    def after(self, number: int) -> list[Parcel]:
        """The parcels behind that one."""
        return [parcel for _, _, parcel in self._kept if parcel.number > number]

    def acked(self) -> Acks:
        """How many acks everybody has had, as far as can be seen here."""
        seen: Acks = {}
        for _, _, parcel in self._kept:
            for node, number, before, pieces, _ in parcel.own:
                seen[node, number] = before + len(acks_among(pieces))
        return seen

    def acks_behind(self, had: Acks, through: float) -> dict[tuple[str, int], bytes]:
        """Those acks behind so many that parcels through that number have for someone, by node and number."""
        acks: dict[tuple[str, int], bytes] = {}
        for _, _, parcel in self._kept if had else ():
            for node, number, before, pieces, _ in parcel.own if parcel.number <= through else ():
                member = node, number
                if member in had:
                    more = acks_among(pieces)[max(0, had[member] - before) :]
                    acks[member] = acks.get(member, b"") + b"".join(more)
        return acks

    def _drop_oldest(self) -> None:
        _, size, _ = self._kept.popleft()
        self._bytes -= size


class Sweeper:
    """Sees that backlogs forget in time: one task, while there is something in any of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watched: set[Backlog] = set()
        self._task: Optional[asyncio.Task[None]] = None

    def watch(self, backlog: Backlog) -> None:
        """Something has come into a backlog."""
        self._watched.add(backlog)
        if self._task is None:
            self._task = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while self._watched:
            await self._clock.sleep(SWEEP_SECONDS)
            now = self._clock.monotonic()
            for backlog in list(self._watched):
                backlog.expire(now)
                if not backlog:
                    self._watched.discard(backlog)
        self._task = None

    async def close(self) -> None:
        """Look at nothing any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})


def acks_among(pieces: list[tuple[int, bytes]]) -> list[bytes]:
    """Those of someone's pieces of a parcel that are acks: an empty one keeps a notice away from whom it is about."""
    return [piece for _, piece in pieces if piece]


def acks_in(parcels: list[Parcel]) -> Acks:
    """How many acks there are in parcels for everybody."""
    acks: Counter[tuple[str, int]] = Counter()
    for parcel in parcels:
        for node, number, _, pieces, _ in parcel.own:
            acks[node, number] += len(acks_among(pieces))
    return acks
