"""Floods: how much memory the server's process needs under each, at most, and that the witnesses notice nothing.

The figures that are stated follow from the bounds of the settings: so much for each connection or topic that takes
part. They are MiB on top of what the process had before.
"""

import asyncio

from tests.tools.benchmark.servers import allow_open_files
from tests.tools.faults.gone import join_many
from tests.tools.faults.scene import STEADY, Outcome, Scene, memory
from tests.tools.faults.wire import PING, Peer, connect, masked, text

BASE_MIB = 16  # for what any run needs once
CONNECTION_MIB = 0.06  # of a member that is quiet
OUTBOX_MIB = 1.0  # CHAT_OUTBOX_BYTES
UNREAD_MIB = 0.3  # read from a socket in one go, at most, and not yet taken apart
HISTORY_MIB = 8 * 1.25  # CHAT_HISTORY_BYTES, and what Python needs around it

BEGINNING, CONTINUATION = 0x01, 0x00  # first byte of a text that is not final, and of what follows it
PUMP_BYTES = 64 * 1024


class Pump:
    """Client that sends the same bytes over and over, as fast as the server reads, until it is cut off or stopped."""

    def __init__(self, peer: Peer, data: bytes) -> None:
        self._peer = peer
        self._data = data * max(1, PUMP_BYTES // len(data))
        self.bytes = 0

    async def run(self) -> None:
        transport = self._peer.transport
        while not transport.is_closing():
            if transport.get_write_buffer_size() < PUMP_BYTES:
                transport.write(self._data)
                self.bytes += len(self._data)
            await asyncio.sleep(0.001)


async def pump(peers: "list[Peer]", data: bytes, seconds: float) -> float:
    """Have all of them flood for so long; the MiB that went into their sockets."""
    pumps = [Pump(peer, data) for peer in peers]
    tasks = [asyncio.ensure_future(one.run()) for one in pumps]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return sum(one.bytes for one in pumps) / (1 << 20)


async def end(scene: Scene, peers: "list[Peer]", names: "list[str]") -> None:
    """Cut off who is still there, and see one leave each."""
    for peer in peers:
        if not peer.closed.done():
            peer.reset()
    await scene.wait_for_leaves(len(names))
    scene.see_one_leave_each(names)


async def flood(
    fault: str,
    clients: int,
    seconds: float,
    data: bytes,
    most_mib: float,
    reading: bool = False,
    topics: int = 10,
    begin: bytes = b"",
    ping: float = 20.0,
) -> Outcome:
    """The plain form: so many members send the same over and over. Unless ``reading``, they read nothing.

    ``ping``: seconds of silence after which the server pings, by itself 20.
    """
    names = [f"noise-{i}" for i in range(clients)]
    async with Scene(most_mib=most_mib, CHAT_PING_INTERVAL=str(ping)) as scene:
        peers = await join_many(scene.port, names, [f"topic-{i}" for i in range(topics)], narrow=not reading, ask=True)
        for peer in peers:
            peer.transport.write(begin)
            if not reading:
                peer.stall()
        mib = await pump(peers, data, seconds)
        evicted = len(scene.server.lines(" left ", "slow: "))
        await end(scene, peers, names)
    figures = f"{clients} clients sent {mib:,.0f} MiB in {seconds:.0f} s, {evicted} evicted; {stated(scene, most_mib)}"
    return Outcome.of(scene, fault, clients, figures)


def stated(scene: Scene, most_mib: float) -> str:
    return f"{scene.grown:+.0f} MiB of {most_mib:.0f} stated"


async def refused_frames(clients: int, seconds: float) -> Outcome:
    """Frames that are no JSON, with a good one in time, whose answers nobody reads."""
    data = masked(b"{") * 19 + text("/list")
    most = BASE_MIB + clients * (OUTBOX_MIB + UNREAD_MIB)
    return await flood("flood of refused frames", clients, seconds, data, most)


async def pings(clients: int, seconds: float) -> Outcome:
    """Pings whose pongs nobody reads."""
    data = masked(b"x" * 125, PING)
    return await flood("flood of pings", clients, seconds, data, BASE_MIB + clients * OUTBOX_MIB)


async def fragments(clients: int, seconds: float, ping: float) -> Outcome:
    """A message in empty fragments, without end. That a sender is gone is noticed by the next ``ping``, in seconds."""
    data = masked(b"", CONTINUATION)
    most = BASE_MIB + clients * UNREAD_MIB
    begin = masked(b"{", BEGINNING)
    return await flood("flood of fragments", clients, seconds, data, most, begin=begin, ping=ping)


async def messages(clients: int, seconds: float) -> Outcome:
    """Short messages without end by members who read, with the default rate limit."""
    data = text({"message": "0 0 " + "x" * 60})
    most = BASE_MIB + clients * UNREAD_MIB
    return await flood("flood of messages", clients, seconds, data, most, reading=True, topics=clients // 4)


async def long_messages(topics: int, seconds: float) -> Outcome:
    """The longest messages at the default rate, each sender in a topic of its own: every history is full."""
    data = text({"message": "0 0 " + "😀" * 4000})
    most = BASE_MIB + topics * (HISTORY_MIB + UNREAD_MIB)
    return await flood("flood of long messages", topics, seconds, data, most, reading=True, topics=topics)


async def oversized(clients: int, hang_up: bool) -> Outcome:
    """Frames that are too big, and frames of nearly the longest kind that never end.

    ``hang_up``: so do those who are told that theirs was too big. If they do not, the server waits for a while.
    """
    names = [f"noise-{i}" for i in range(clients)]
    most = BASE_MIB + clients * UNREAD_MIB
    async with Scene(most_mib=most) as scene:
        peers = await join_many(scene.port, names, ["topic"])
        for i, peer in enumerate(peers):
            unfinished = masked(b"x" * 65_000)[:-1]
            too_big = b"\x81\xff" + (1 << 40).to_bytes(8, "big") + bytes(4) + b"x" * 65_000
            peer.transport.write(too_big if i % 2 else unfinished)
        for peer in peers[1::2] if hang_up else ():
            await peer.told.wait()
            peer.half_close()
        codes = await asyncio.gather(*(peer.closed for peer in peers[1::2]))
        if set(codes) != {1009}:
            scene.wrong.append(f"closed with {set(codes)}, not 1009")
        await end(scene, peers, names)
    figures = f"half of them closed with 1009, half unfinished; {stated(scene, most)}"
    return Outcome.of(scene, "flood of oversized frames", clients, figures)


async def joins(connections: int, beyond: int) -> Outcome:
    """As many connections as are allowed, each in a topic of its own, and then more; all that twice.

    Python keeps what it once had from the system, so the second time shows that all was free again.
    """
    allow_open_files(connections + beyond)
    most = BASE_MIB + connections * CONNECTION_MIB
    peaks = []
    everybody: list[str] = []
    async with Scene(most_mib=most, CHAT_CONNECTIONS=str(connections + 2)) as scene:
        for time in (1, 2):
            names = [f"noise-{time}-{i}" for i in range(connections)]
            everybody += names
            peers = await join_many(scene.port, names, [f"topic-{name}" for name in names])
            await see_turned_away(scene, beyond)
            await end(scene, peers, everybody)
            await scene.calm()
            peaks.append(memory(scene.server.pid).peak)
    again = peaks[1] / peaks[0] - 1
    if again > STEADY:
        scene.wrong.append(f"the second time it needs {again:+.1%} more")
    each = 1024 * scene.grown / connections
    figures = f"{each:.0f} KiB a connection; the second time {again:+.1%}; {stated(scene, most)}"
    return Outcome.of(scene, "flood of joins", 2 * (connections + beyond), figures)


async def see_turned_away(scene: Scene, beyond: int) -> None:
    """Connect to a full server."""
    for peer in [await connect(scene.port) for _ in range(beyond)]:
        seen = (await peer.recv()).get("error"), await peer.closed
        if seen != ("server_full", 1013):
            scene.wrong.append(f"one too many saw {seen}")


async def lists(topics: int, clients: int, seconds: float) -> Outcome:
    """/list without end where all topics are taken, by members who do not read."""
    allow_open_files(topics + clients)
    residents = [f"resident-{i}" for i in range(topics - 2)]
    names = [f"noise-{i}" for i in range(clients)]
    answer = topics * 75 / (1 << 20)  # MiB
    most = BASE_MIB + topics * CONNECTION_MIB + clients * (OUTBOX_MIB + answer + UNREAD_MIB)
    async with Scene(most_mib=most, CHAT_CONNECTIONS="20000", CHAT_TOPICS=str(topics)) as scene:
        peers = await join_many(scene.port, residents, [f"topic-{name}" for name in residents])
        flooders = await join_many(scene.port, names, ["topic-noise"], narrow=True)
        late = await connect(scene.port)
        refusal = await late.join("late", "one topic too many")
        if (refusal.get("error"), await late.closed) != ("server_full", 1013):
            scene.wrong.append(f"one topic too many saw {refusal}")
        for peer in flooders:
            peer.stall()
        mib = await pump(flooders, text("/list"), seconds)
        await end(scene, [*peers, *flooders, late], [*residents, *names])
    figures = f"{clients} clients, {topics:,} topics, {mib:,.0f} MiB of /list; {stated(scene, most)}"
    return Outcome.of(scene, "flood of /list", clients, figures)
