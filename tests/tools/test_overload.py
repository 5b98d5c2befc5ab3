"""The cases of overload in a small form: nobody is lost. ``python -m tests.tools.overload`` judges the time, too."""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any, Callable
from unittest.mock import Mock

import pytest

from tests.support.server import in_loop
from tests.tools.faults.wire import PONG, masked
from tests.tools.overload import cases
from tests.tools.overload.crowd import PING, Crowd, Member
from tests.tools.overload.stage import Outcome, stage

Run = Callable[[], Coroutine[Any, Any, "list[Outcome]"]]

# Each case, and what it has seen where everybody is in.
CASES: "dict[str, tuple[Run, str]]" = {
    "storm": (lambda: cases.storms(members=20), "20 in, 0 refused, 0 lost"),
    "retries": (lambda: cases.retries(members=20), "20 in, 0 refused, 0 lost"),
    "same-name": (lambda: cases.same_name(members=20), "20 in, 0 refused, 0 lost"),
    "replays": (lambda: cases.replays(joiners=2, rounds=1, pause=0), "2 of 2 joiners were in"),
    "log-pipe": (lambda: cases.log_pipe(connections=20), "20 of 20 connections came, joined and went"),
    "list": (lambda: cases.lists(topics=20, askers=4), "20 in, 0 refused, 0 lost"),
    "refused": (lambda: cases.refused(peers=3), "3 of 3 closed"),
    "growth": (lambda: cases.growth(sizes=[3], joins=2), "3 in, 0 refused, 0 lost"),
}


@pytest.mark.parametrize(("run", "expected"), CASES.values(), ids=CASES)
@in_loop
async def test_everybody_is_in_and_the_witness_loses_nothing(run: Run, expected: str) -> None:
    for outcome in await run():
        assert outcome.figures.startswith(expected)
        assert outcome.seen.heard and not outcome.seen.lost + outcome.seen.harmed + outcome.seen.cut


# The judges themselves: what they look for, done to them.


@in_loop
async def test_a_crowd_counts_refused_and_lost_members() -> None:
    async with stage("full room", 2, CHAT_TOPIC_MEMBERS="1", CHAT_REFUSED_FRAMES="1") as scene:
        first, second, third = await scene.crowd.open(3)
        assert await cases.enter(scene, [first], "first")
        assert not await cases.enter(scene, [second], "second")
        third.transport.write(masked(b"{"))
        await scene.crowd.until(lambda: scene.crowd.lost > 0, 60.0)
        assert str(scene.crowd) == "1 in, 1 refused (server_full), 1 lost"


@pytest.mark.parametrize("reads", [(PING,), (b"\x81\x02{}" + PING,), (PING[:1], PING[1:])])
@in_loop
async def test_a_member_answers_pings(reads: "tuple[bytes, ...]") -> None:
    member, transport = Member(Crowd(0)), Mock(asyncio.Transport)
    member.connection_made(transport)
    member.data_received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    transport.write.reset_mock()
    for read in reads:
        member.data_received(read)
    transport.write.assert_called_once_with(masked(b"", PONG))


def test_bytes_in_the_kernel_are_those_that_nobody_has_read() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as server:
        server.sendall(b"x" * 1000)
        client.recv(400, socket.MSG_WAITALL)
        assert cases.in_kernel(listener.getsockname()[1], client.getsockname()[1]) == 600
