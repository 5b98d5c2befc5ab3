"""A real server whose log nobody reads: the chat goes on, and the process ends in time."""

import asyncio
import re
import urllib.request
from typing import Callable

from tests.support.server import APP, Client, Server, Visit, in_loop

GRACE = 15.0  # seconds; the server waits for its log for 2
FRAMES = 500  # in one go
TROUBLE_BUT_THE_LOG = re.compile(r"Traceback|\b(ERROR|CRITICAL)\b|\bWARNING\b(?! +log lines dropped )")


async def dropped(server: Server) -> float:
    """The count of log lines that were dropped."""

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
            return str(answer.read(), "utf-8")

    found = re.search(r"^chat_log_lines_dropped_total (\S+)$", await asyncio.to_thread(metrics), re.MULTILINE)
    assert found
    return float(found[1])


async def make_noise(noisy: Client) -> None:
    """Send frames that are refused, each with a log line."""
    noisy.send_at_once(*["{"] * FRAMES)
    for _ in range(FRAMES):
        assert (await noisy.recv())["type"] == "error"


@in_loop
async def test_the_chat_goes_on_while_nobody_reads_the_log(start: Callable[..., Server]) -> None:
    server = start(*APP, CHAT_REFUSED_FRAMES="1000000")
    async with Visit(server) as visit:
        alice, bob = [await visit.join(name, "sports") for name in ("alice", "bob")]
        noisy = await visit.join("noisy", "noise")
        await server.logged(" joined ", count=3)
        server.log_is_read.clear()
        while not await dropped(server):
            await make_noise(noisy)
            for _ in range(10):
                stranger = await visit.connect()
                await stranger.ask("/list")
                await stranger.connection.close()
            assert (await alice.ask({"message": "hello"}))["recipients"] == 1
            assert (await bob.recv())["message"] == "hello"
        server.log_is_read.set()
        (line,) = await server.logged("log lines dropped")
        assert float(line.rpartition("lines=")[2]) == await dropped(server)
    await asyncio.to_thread(server.terminate, trouble=TROUBLE_BUT_THE_LOG)
    assert server.lines("Finished server process")  # the log goes on


@in_loop
async def test_a_server_whose_log_nobody_reads_ends_in_time(start: Callable[..., Server]) -> None:
    server = start(*APP, CHAT_REFUSED_FRAMES="1000000")
    async with Visit(server) as visit:
        noisy = await visit.join("noisy", "noise")
        await server.logged(" joined ")
        server.log_is_read.clear()
        for _ in range(6):  # more than twice what fits into the pipe
            await make_noise(noisy)
        await asyncio.gather(asyncio.to_thread(server.terminate, within=GRACE), noisy.close_code())
    assert not server.lines("Finished server process")  # which was not written
