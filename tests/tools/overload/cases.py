"""Every case of overload: its load, its goal, and what was seen."""

import asyncio
import itertools
import json
import random
import socket
import time
import urllib.request
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Optional

from tests.tools.faults.wire import HANDSHAKE, HOST, masked, text
from tests.tools.overload.crowd import AT_ONCE, Crowd, Member
from tests.tools.overload.stage import SETTLE_SECONDS, Outcome, Stage, full_pipe, stage

EVENTS = {"since": 0, "events": True}  # what the page asks for
HALL = "hall"
IN_SECONDS = 120.0  # for all members to be in
RETRY_SECONDS, MOST_RETRY_SECONDS = 0.5, 5.0  # that the page waits, at most: at first, and at last

MOST_RATIO = 5.0  # CPU time of joins with events to that without
MOST_GROWTH = 1.5  # CPU time of the last quarter of the joins to that of the first
MOST_MIB = 64.0  # that replays which nobody reads may need
STEADY = 0.05  # the share by which memory may differ when they are gone
SENDERS = 6  # that fill the window
FILL_PAUSE = 0.002  # seconds from one message to the next
WINDOW_BYTES = 8 << 20  # CHAT_HISTORY_BYTES
GRACE = 1.0  # seconds after the end of the window until everything must have expired
LOG_SECONDS = 60.0  # for all connections to come and go


def entries(members: int) -> "dict[str, str]":
    """Settings by which connections may wait for each other before they join."""
    return {"CHAT_JOIN_TIMEOUT": str(10 + members / 500)}


def see_all_in(scene: Stage, members: int) -> None:
    crowd = scene.crowd
    whole = crowd.inside == members and not crowd.refused and not crowd.lost
    scene.see(whole, f"of {members:,} members: {crowd}")


async def enter(scene: Stage, members: "list[Member]", prefix: str, **window: Any) -> bool:
    """Let all ask to join at once, and wait for the answers; return whether all were let in."""
    crowd = scene.crowd
    wanted = crowd.inside + len(members)
    for i, member in enumerate(members):
        member.join(f"{prefix}{i}", HALL, **window)
    await crowd.until(lambda: crowd.inside + crowd.lost + sum(crowd.refused.values()) >= wanted, IN_SECONDS)
    return crowd.inside == wanted


# Storms of joins


async def storm(members: int, events: bool) -> "tuple[Outcome, float]":
    """All have opened their connections, and join one room at once. Returns the CPU time of that, too."""
    kind = "events" if events else "plain"
    async with stage(f"storm of {members:,}, {kind}", members, **entries(members)) as scene:
        await scene.begin()
        opened = await scene.crowd.open(members)
        await scene.settled()
        before, began = scene.cpu_seconds, time.monotonic()
        await enter(scene, opened, "user", **(EVENTS if events else {}))
        took = time.monotonic() - began
        cpu = await scene.settled() - before
        see_all_in(scene, members)
        figures = f"{scene.crowd} after {took:.1f} s; the joins took {cpu:.2f} s of CPU, {scene.crowd.bytes >> 20} MiB"
        return await scene.end(figures), cpu


async def storms(members: int, kinds: "Optional[list[bool]]" = None) -> "list[Outcome]":
    """Storms without and with events; where both are there, the cost of the events."""
    runs = [await storm(members, events) for events in kinds or (False, True)]
    outcomes = [outcome for outcome, _ in runs]
    if len(runs) == 2:
        ratio = runs[1][1] / runs[0][1]
        outcomes[1] = outcomes[1]._replace(figures=f"{outcomes[1].figures}; {ratio:.1f} times that without")
        if ratio > MOST_RATIO:
            outcomes[1].wrong.append(f"with events the joins cost {ratio:.1f} times, not {MOST_RATIO:g}")
    return outcomes


async def retries(members: int) -> "list[Outcome]":
    """All connect and join at once, and come back as the page does."""
    async with stage(f"retries of {members:,}", 2 * members) as scene:
        await scene.begin()
        crowd = scene.crowd
        tries = itertools.count()

        async def stay(i: int) -> None:
            for failures in itertools.count():
                with suppress(OSError, asyncio.TimeoutError):
                    next(tries)
                    member = await crowd.connect()
                    member.join(f"user{i}", HALL, **EVENTS)
                    await asyncio.wait({member.gone})
                await asyncio.sleep(random.random() * min(MOST_RETRY_SECONDS, RETRY_SECONDS * 2**failures))

        began = time.monotonic()
        staying = [asyncio.ensure_future(stay(i)) for i in range(members)]
        await crowd.until(lambda: crowd.inside == members, IN_SECONDS)
        took = time.monotonic() - began
        await scene.settled()
        for task in staying:
            task.cancel()
        await asyncio.wait(staying)
        scene.see(crowd.inside == members and not crowd.refused, f"of {members:,} members: {crowd}")
        return [await scene.end(f"{crowd} after {took:.1f} s and {next(tries):,} tries")]


async def same_name(members: int) -> "list[Outcome]":
    """Everyone asks for the same name: a join must not cost more where it is taken often."""
    async with stage(f"same name for {members:,}", members, **entries(members)) as scene:
        await scene.begin()
        opened = await scene.crowd.open(members)
        micros = []
        for quarter in range(4):
            some = opened[quarter * members // 4 : (quarter + 1) * members // 4]
            before = await scene.settled()
            for member in some:
                member.join("anna", HALL)
            wanted = scene.crowd.inside + len(some)
            await scene.crowd.until(partial(_are_in, scene.crowd, wanted), IN_SECONDS)
            micros.append((await scene.settled() - before) * 1e6 / len(some))
        see_all_in(scene, members)
        ratio = micros[-1] / micros[0]
        scene.see(ratio <= MOST_GROWTH, f"the last quarter costs {ratio:.1f} times the first, not {MOST_GROWTH}")
        quarters = ", ".join(f"{one:,.0f}" for one in micros)
        return [await scene.end(f"{scene.crowd}; us of CPU per join, by quarter: {quarters} ({ratio:.2f} times)")]


def _are_in(crowd: Crowd, count: int) -> bool:
    return crowd.inside >= count


# Replays


async def fill(scene: Stage, messages: int = 90) -> None:
    """Fill the window of the hall with the longest messages. Its members go on reading."""
    crowd = scene.crowd
    members = await crowd.open(SENDERS)
    await enter(scene, members, "sender")
    frame = masked(json.dumps({"message": "🙂" * 4090}, ensure_ascii=False).encode())
    for _ in range(messages):  # one by one, so that those who read are no slow readers
        for member in members:
            member.transport.write(frame)
            await asyncio.sleep(FILL_PAUSE)
    await scene.settled()
    assert crowd.bytes > (SENDERS - 1) * SENDERS * messages * len("🙂".encode()) * 4090, "not all messages were heard"


async def replays(joiners: int, rounds: int = 5, pause: float = 2.0) -> "list[Outcome]":
    """Joiners ask for a full window, read nothing, and go; and again."""
    async with stage(f"replays for {joiners}", joiners + 20, CHAT_MESSAGE_TTL="600") as scene:
        await fill(scene)
        await scene.begin()
        afters, fewest = [], joiners
        for number in range(rounds):
            guests = await scene.crowd.open(joiners, reads=False)
            for i, guest in enumerate(guests):
                guest.join(f"joiner{number}-{i}", HALL, since=0)
            await scene.settled()
            users = json.loads(await asyncio.to_thread(_get, scene.port, "/topics"))[0]["users"]
            fewest = min(fewest, users - SENDERS)
            await asyncio.sleep(pause)
            for guest in guests:
                guest.leave()
            await asyncio.sleep(pause)
            await scene.settled()
            afters.append(scene.resident)
        came = f"{fewest} of {joiners} joiners were in"
        scene.see(fewest == joiners, came)
        grown, off = scene.peak - scene.before, max(abs(after / scene.before - 1) for after in afters)
        scene.see(grown <= MOST_MIB, f"{grown:,.0f} MiB more at the peak, not {MOST_MIB:.0f}")
        scene.see(off <= STEADY, f"{off:.0%} off what it was before, not {STEADY:.0%}")
        rest = ", ".join(f"{after - scene.before:+,.0f}" for after in afters)
        return [await scene.end(f"{came}; {rounds} rounds: {grown:+,.0f} MiB at the peak, then {rest} MiB after each")]


async def late_reader(ttl: int = 30) -> "list[Outcome]":
    """A joiner asks for the window shortly before its end, and reads slowly but steadily.

    What the server has written is the kernel's, which hands it out at any later time. So GRACE seconds behind the end
    of the window the check looks how many bytes the kernel holds, on both sides of the connection. Behind so many
    bytes more no message may begin.
    """
    async with stage("late reader", 20, CHAT_MESSAGE_TTL=str(ttl)) as scene:
        await fill(scene)
        end = time.monotonic() + ttl
        await scene.begin()
        await asyncio.sleep(end - ttl / 10 - time.monotonic())
        figures, late = await _read_slowly(scene.port, end, 0.8 * ttl)
        scene.see(not late, f"{late} messages were handed out behind the end of the window")
        return [await scene.end(figures)]


async def _read_slowly(port: int, end: float, seconds: float) -> "tuple[str, int]":
    """Join, and read as if the whole window were to take so many seconds; return what was seen, and the late messages.

    ``end``: the monotonic time at which the window is over.
    """
    loop = asyncio.get_running_loop()
    pace = WINDOW_BYTES / seconds
    read = late = 0
    held = -1  # bytes that the kernel held at the end, and that were not read since; -1 before
    said = ""
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        await loop.sock_connect(sock, (HOST, port))
        await loop.sock_sendall(sock, HANDSHAKE)
        await loop.sock_recv(sock, 4096)
        await loop.sock_sendall(sock, text({"username": "late", "topic": HALL, **EVENTS}))
        began = time.monotonic()
        while True:
            if held < 0 and time.monotonic() > end + GRACE:
                held = in_kernel(port, sock.getsockname()[1])
                said = f"{held / 1024:,.0f} KiB of it in the kernel at the end"
            try:
                data = await asyncio.wait_for(loop.sock_recv(sock, 4096), GRACE)
            except asyncio.TimeoutError:
                if held >= 0:
                    break  # there is no more
                continue
            except ConnectionError:
                data = b""
            if not data:
                said += f"; cut off {time.monotonic() - end:+.1f} s from the end"
                break
            read += len(data)
            if held >= 0:
                late += data[held:].count(b'"type":"message"')
                held = max(0, held - len(data))
            await asyncio.sleep(max(0.0, began + read / pace - time.monotonic()))
    after = time.monotonic() - end
    return f"{read / 1024:,.0f} KiB read until {after:+.1f} s from the end of the window; {said}; {late} late", late


def in_kernel(server_port: int, client_port: int) -> int:
    """Bytes of a connection that the server has written and the client has not read."""
    held = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        ports = int(local.partition(":")[2], 16), int(remote.partition(":")[2], 16)
        unsent, unread = (int(size, 16) for size in queues.split(":"))
        if ports == (server_port, client_port):
            held += unsent
        elif ports == (client_port, server_port):
            held += unread
    return held


# Logs, lists, refusals


async def log_pipe(connections: int = 2000) -> "list[Outcome]":
    """The log goes into a pipe that nobody reads, while connections come, join and go."""
    with full_pipe() as pipe:
        async with stage("log pipe", connections, log=pipe) as scene:
            await scene.begin()
            crowd = scene.crowd
            numbers = iter(range(connections))
            came = 0

            async def come_and_go() -> None:
                nonlocal came
                for number in numbers:
                    member = await crowd.connect()
                    member.join(f"user{number}", f"topic{number}")
                    while not (member.inside or member.gone.done()):
                        crowd.news.clear()
                        await crowd.news.wait()
                    came += member.inside
                    member.leave()

            coming = [asyncio.ensure_future(come_and_go()) for _ in range(20)]
            _, standing = await asyncio.wait(coming, timeout=LOG_SECONDS)
            for task in standing:
                task.cancel()
            await asyncio.gather(*coming, return_exceptions=True)
            await scene.settled()
            scene.see(came == connections, f"{came:,} of {connections:,} connections could join")
            return [await scene.end(f"{came:,} of {connections:,} connections came, joined and went")]


async def lists(topics: int, askers: int = 100) -> "list[Outcome]":
    """All ask at once for a list of many topics, and half of them do not read it; and for the pages of the operator."""
    async with stage(f"list of {topics:,}", topics + askers, CHAT_TOPICS=str(topics + 1), **entries(topics)) as scene:
        crowd = scene.crowd
        for i, member in enumerate(await crowd.open(topics)):
            member.join(f"user{i}", f"topic-{i:05d}")
        await crowd.until(lambda: crowd.inside + crowd.lost >= topics, IN_SECONDS)
        see_all_in(scene, topics)
        readers = await crowd.open(askers // 2)
        others = await crowd.open(askers - len(readers), reads=False)
        await scene.settled()
        await scene.begin()
        await asyncio.sleep(1)  # of the witness alone
        before = crowd.bytes
        for asker in (*readers, *others):
            asker.transport.write(text("/list"))
        pages = await asyncio.gather(*(asyncio.to_thread(_get, scene.port, path) for path in ("/metrics", "/topics")))
        await scene.settled()
        read = crowd.bytes - before
        scene.see(read > len(readers) * topics * len("topic-00000"), f"the readers got {read:,} bytes only")
        scene.see(not crowd.lost, f"{crowd.lost} members or readers were cut off")
        sizes = " and ".join(f"{len(page) / 1024:,.0f}" for page in pages)
        grown = scene.peak - scene.before
        return [
            await scene.end(f"{crowd}; {askers} lists, {read >> 20} MiB read, pages of {sizes} KiB; {grown:+,.0f} MiB")
        ]


def _get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=SETTLE_SECONDS) as answer:
        page: bytes = answer.read()
        return page


async def refused(peers: int, frames: int = 20) -> "list[Outcome]":
    """Peers send refused frames, as many as the server takes from one in a row, and are closed."""
    async with stage(f"refused, {peers}", peers) as scene:
        opened = await scene.crowd.open(peers)
        await scene.begin()
        for member in opened:
            member.transport.write(masked(b"{") * frames)
        began = time.monotonic()
        await scene.crowd.until(lambda: scene.crowd.lost == peers, IN_SECONDS)
        took = time.monotonic() - began
        await scene.settled()
        closed = scene.crowd.lost
        scene.see(closed == peers, f"{closed} of {peers} were closed")
        return [await scene.end(f"{closed} of {peers} closed after {took:.1f} s")]


# The cost of a join by the size of its room


async def growth(sizes: "list[int]", joins: int = 200) -> "list[Outcome]":
    """Prints a table in Markdown: CPU time of a join, in microseconds, one after another and all at once."""
    columns, outcomes = {}, []
    for window in {}, EVENTS:
        kind = "events" if window else "plain"
        async with stage(f"growth, {kind}", max(sizes) + 2 * joins, CHAT_JOIN_TIMEOUT="600") as scene:
            await scene.begin()
            columns[f"{kind}, one after another"], columns[f"{kind}, at once"] = zip(
                *[await _cost(scene, size, joins, window) for size in sizes]
            )
            see_all_in(scene, max(sizes))
            outcomes.append(await scene.end(f"{scene.crowd}; {joins} joins each, to rooms of {sizes}"))
    rows = zip(*columns.values())
    print("| members |", *(f"{name} |" for name in columns))
    print("|---|" + "---|" * len(columns))
    for size, row in zip(sizes, rows):
        print(f"| {size:,} |", *(f"{micros:,.0f} |" for micros in row))
    print()
    return outcomes


async def _cost(scene: Stage, size: int, joins: int, window: "dict[str, Any]") -> "tuple[float, float]":
    """Fill the room up to a size; return microseconds of CPU per further join: one after another, and all at once."""
    crowd = scene.crowd
    for first in range(crowd.inside, size, AT_ONCE):
        await enter(scene, await crowd.open(min(AT_ONCE, size - first)), f"member{first}-", **window)
    micros = []
    for name in "single", "many":
        guests = await crowd.open(joins)
        before = await scene.settled()
        if name == "many":
            await enter(scene, guests, f"{name}{size}-", **window)
        else:
            for i, guest in enumerate(guests):
                await enter(scene, [guest], f"{name}{size}-{i}-", **window)
        micros.append((await scene.settled() - before) * 1e6 / joins)
        for guest in guests:
            guest.leave()
        await scene.settled()
    return micros[0], micros[1]
