"""Broken frames and random bytes on live sockets: only their sender is closed, and no other client notices.

In CI each kind is sent a few times; ``python -m tests.tools.hostile`` sends it as often as it is told to.
"""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from chat_actors.protocol.decoding import Data
from tests.support.server import Server, in_loop
from tests.support.websocket.inputs import FRAMES
from tests.tools.hostile.attack import COMMANDS, SETTINGS, TROUBLE, Attack
from tests.tools.hostile.cases import CASES, HANDSHAKES, Case
from tests.tools.hostile.judges import judge_at_random, judge_decoding

TIMES = 2
KINDS: dict[str, Case] = {**CASES, **HANDSHAKES}


@pytest.fixture(scope="module")
def hostile_server() -> Iterator[Server]:
    server = Server(*COMMANDS["uvicorn"], **SETTINGS)
    try:
        yield server
        server.terminate(trouble=TROUBLE)
    finally:
        server.kill()


@pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)
@in_loop
async def test_hostile_bytes_harm_nobody_but_their_sender(hostile_server: Server, case: Case) -> None:
    async with Attack(hostile_server) as attack:
        for joined in (False, True) if case.handshake else (False,):
            endings = await attack.times(TIMES, case, joined)
            assert set(endings) <= set(case.ends), joined
    assert not attack.wrong


def test_whatever_is_sent_the_server_answers_by_the_contract(hostile_server: Server) -> None:
    attack = judge_at_random(hostile_server, 200)
    assert attack.witnesses.said > 200
    assert not attack.wrong


@settings(max_examples=500, deadline=None)
@given(FRAMES)
def test_any_frame_is_read_or_refused_with_a_reason(data: Data) -> None:
    judge_decoding(data)
