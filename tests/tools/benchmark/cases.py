"""The loads, by name. Member ``i`` is in room ``i % rooms``; the first ``senders`` members of each room send."""

from typing import NamedTuple, Optional


class Case(NamedTuple):
    """With ``rate``, so many messages a second in all; otherwise each sender keeps ``window`` messages unacked."""

    name: str
    members: int
    rooms: int = 1
    senders: int = 1
    window: int = 1
    rate: Optional[float] = None

    def description(self) -> str:
        rooms = f"one room of {self.members:,}"
        if self.rooms > 1:
            rooms = f"{self.rooms:,} rooms of {self.members // self.rooms:,}"
        who = "one sender" if self.senders == 1 else f"{self.senders} senders"
        if self.rooms > 1:
            who += " each"
        if self.rate is not None:
            return f"{rooms}, {who}, {self.rate:,g} messages/s in all"
        return f"{rooms}, {who}, {self.window} in flight"


CASES = {
    case.name: case
    for case in (
        Case("paced", members=200, senders=4, rate=100),
        Case("busy", members=200, senders=4, window=8),
        Case("hot", members=200, senders=32, window=8),
        Case("big", members=1000, senders=16, window=4),
        Case("mid", members=1000, rooms=100, senders=2, window=4),
        Case("pairs", members=400, rooms=200),
        Case("idle", members=2000, rooms=200, rate=1),
    )
}
USUAL = [name for name in CASES if name != "idle"]  # idle is for its memory; next to nothing is delivered

GROWTH = {  # what grows: its sizes, each with its load
    "members in one room": {
        members: Case(f"{members:,} members", members, senders=min(members, 16), window=4)
        for members in (2, 10, 100, 1000, 10_000)
    },
    "rooms of 2": {rooms: Case(f"{rooms:,} rooms", 2 * rooms, rooms) for rooms in (1, 10, 100, 1000, 5000)},
}
