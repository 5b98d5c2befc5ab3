"""SIGINT and SIGTERM: the chat ends before the handler of the host runs."""

import asyncio
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, Optional

import pytest

from chat_actors.connection.signals import ExitSignals
from tests.support.fakes import in_clean_loop, settle

BOTH = signal.SIGINT, signal.SIGTERM


class Host:
    """Host with signal handlers of its own, and an application. ``told``: what happened, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.end = asyncio.Event()  # of the application

    def heard(self, number: int, frame: Optional[FrameType]) -> None:
        self.told.append(number)

    async def stop(self) -> None:
        self.told.append("stop")
        await self.end.wait()
        self.told.append("stopped")


@pytest.fixture(autouse=True)
def undo() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in BOTH}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def send(number: int) -> None:
    os.kill(os.getpid(), number)
    await settle()


@pytest.mark.parametrize("number", BOTH)
@in_clean_loop
async def test_the_host_hears_a_signal_when_the_application_has_stopped(number: int) -> None:
    host = Host()
    signal.signal(number, host.heard)
    signals = ExitSignals(host.stop)
    await send(number)
    assert host.told == ["stop"]
    host.end.set()
    await settle()
    assert host.told == ["stop", "stopped", number]
    signals.restore()
    assert signal.getsignal(number) == host.heard


@in_clean_loop
async def test_a_second_signal_goes_to_the_host_at_once() -> None:
    host = Host()
    for number in BOTH:
        signal.signal(number, host.heard)
    ExitSignals(host.stop)
    await send(signal.SIGTERM)
    await send(signal.SIGINT)
    assert host.told == ["stop", signal.SIGINT]
    host.end.set()
    await settle()
    assert host.told == ["stop", signal.SIGINT, "stopped", signal.SIGTERM]


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler])
@in_clean_loop
async def test_a_host_that_would_not_end_with_grace_is_left_alone(handler: Any) -> None:
    signal.signal(signal.SIGINT, handler)
    ExitSignals(Host().stop).restore()
    assert signal.getsignal(signal.SIGINT) is handler


@in_clean_loop
async def test_a_handler_that_came_later_is_left_alone() -> None:
    host = Host()
    signal.signal(signal.SIGTERM, host.heard)
    signals = ExitSignals(host.stop)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signals.restore()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


@in_clean_loop
async def test_of_two_applications_the_one_that_stopped_first_only_passes_a_signal_on() -> None:
    host, first, second = Host(), Host(), Host()
    signal.signal(signal.SIGTERM, host.heard)
    stopped = ExitSignals(first.stop)
    ExitSignals(second.stop)
    stopped.restore()
    second.end.set()
    await send(signal.SIGTERM)
    assert (first.told, second.told, host.told) == ([], ["stop", "stopped"], [signal.SIGTERM])


@in_clean_loop
async def test_outside_of_the_main_thread_there_are_no_signals() -> None:
    host = Host()
    signal.signal(signal.SIGTERM, host.heard)

    async def listen() -> None:
        ExitSignals(host.stop).restore()

    await asyncio.to_thread(asyncio.run, listen())
    assert signal.getsignal(signal.SIGTERM) == host.heard
