"""The turnstile in front of the handshakes."""

import asyncio

import pytest

from chat_actors.connection.turnstile import HANDSHAKES, Turnstile
from tests.support.fakes import in_clean_loop, settle


async def storm(turnstile: Turnstile, handshakes: int) -> list[int]:
    """The places in the order of arrival at which handshakes begin, and -1 for each turn of the loop in between."""
    begun: list[int] = []

    async def handshake(number: int) -> None:
        await turnstile.enter()
        begun.append(number)

    storming = [asyncio.ensure_future(handshake(number)) for number in range(handshakes)]
    while not all(one.done() for one in storming):
        await asyncio.sleep(0)
        begun.append(-1)
    return begun


@in_clean_loop
async def test_handshakes_that_come_alone_do_not_wait() -> None:
    turnstile = Turnstile()
    for _ in range(3 * HANDSHAKES):
        entering = turnstile.enter()
        with pytest.raises(StopIteration):
            entering.send(None)
        await settle()


@in_clean_loop
async def test_others_have_their_turn_between_the_handshakes_of_a_storm() -> None:
    begun = await storm(Turnstile(), 5 * HANDSHAKES + 1)
    assert [one for one in begun if one >= 0] == [*range(5 * HANDSHAKES + 1)]
    runs = "".join("." if one < 0 else "h" for one in begun).split(".")
    assert max(map(len, runs)) == HANDSHAKES


@in_clean_loop
async def test_a_handshake_that_is_cancelled_while_it_waits_takes_no_place() -> None:
    turnstile = Turnstile()
    first = [asyncio.ensure_future(turnstile.enter()) for _ in range(HANDSHAKES)]
    waiting = [asyncio.ensure_future(turnstile.enter()) for _ in range(2 * HANDSHAKES)]
    await asyncio.sleep(0)
    for one in waiting[:HANDSHAKES]:
        one.cancel()
    await settle()
    assert all(one.done() for one in first + waiting)
    assert [one.cancelled() for one in waiting] == [True] * HANDSHAKES + [False] * HANDSHAKES


def test_a_turnstile_serves_the_loop_that_runs() -> None:
    turnstile = Turnstile()

    async def break_off() -> None:
        tasks = [asyncio.ensure_future(turnstile.enter()) for _ in range(HANDSHAKES + 1)]
        await asyncio.sleep(0)
        tasks[-1].cancel()

    asyncio.run(break_off())
    assert len(asyncio.run(storm(turnstile, HANDSHAKES + 1))) > HANDSHAKES
