"""The signals that end a process: the chat ends before the handler of the host runs."""

import asyncio
import faulthandler
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, Optional

import pytest

from chat_actors.connection.signals import ExitSignals
from tests.support.fakes import in_clean_loop, settle

BOTH = signal.SIGINT, signal.SIGTERM
UNHANDLED = signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU


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
def undo(default_signals: None) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (*BOTH, *UNHANDLED)}
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


# Signals that no handler waits for.


@pytest.mark.parametrize("number", UNHANDLED)
@in_clean_loop
async def test_a_signal_without_a_handler_ends_the_chat_and_then_the_host_as_sigterm_does(number: int) -> None:
    host = Host()
    signal.signal(signal.SIGTERM, host.heard)
    signals = ExitSignals(host.stop)
    await send(number)
    await send(number)  # the second one: at once
    assert host.told == ["stop", number]
    host.end.set()
    await settle()
    assert host.told == ["stop", number, "stopped", number]
    assert signal.getsignal(number) is signal.SIG_DFL  # so that uvicorn can raise it again
    signals.restore()


@pytest.mark.parametrize("number", UNHANDLED)
@in_clean_loop
async def test_an_ignored_signal_stays_ignored(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)  # as of SIGHUP by nohup
    ExitSignals(Host().stop).restore()
    assert signal.getsignal(number) is signal.SIG_IGN


@in_clean_loop
async def test_a_handler_of_the_host_that_does_not_end_it_is_left_alone() -> None:
    host = Host()
    signal.signal(signal.SIGUSR1, host.heard)  # gunicorn opens its log again
    signals = ExitSignals(host.stop)
    await send(signal.SIGUSR1)
    assert host.told == [signal.SIGUSR1]
    signals.restore()


@in_clean_loop
async def test_a_handler_that_is_not_of_python_is_left_alone() -> None:
    faulthandler.register(signal.SIGUSR2)
    try:
        ExitSignals(Host().stop).restore()
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGUSR2)  # this process lives
    finally:
        faulthandler.unregister(signal.SIGUSR2)


@in_clean_loop
async def test_a_system_that_does_not_tell_its_handlers_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_: (_ for _ in ()).throw(FileNotFoundError))
    signals = ExitSignals(Host().stop)
    assert signal.getsignal(signal.SIGHUP) not in (signal.SIG_DFL, signal.SIG_IGN)
    signals.restore()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@in_clean_loop
async def test_gunicorns_quick_end_ends_the_chat_first() -> None:
    host = Host()
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, host.heard)
    signals = ExitSignals(host.stop)
    host.end.set()
    await send(signal.SIGQUIT)
    assert host.told == ["stop", "stopped", signal.SIGQUIT]
    signals.restore()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
@in_clean_loop
async def test_a_host_that_hears_signals_through_its_loop_is_told_by_sigterm(number: int) -> None:
    host, heard = Host(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGQUIT, host.told.append, "quit")
    signals = ExitSignals(host.stop)
    loop.add_signal_handler(signal.SIGTERM, heard.set)  # hypercorn: after the start
    host.end.set()
    await send(number)
    await heard.wait()
    assert [one for one in host.told if one != "quit"] == ["stop", "stopped"]
    signals.restore()
    for one in (signal.SIGTERM, signal.SIGQUIT):
        loop.remove_signal_handler(one)


@in_clean_loop
async def test_without_a_host_that_ends_at_sigterm_a_signal_has_its_own_effect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[int] = []
    host = Host()
    signals = ExitSignals(host.stop)
    monkeypatch.setattr("signal.raise_signal", raised.append)
    host.end.set()
    await send(signal.SIGHUP)
    assert (host.told, raised) == (["stop", "stopped"], [signal.SIGHUP])
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    signals.restore()


@in_clean_loop
async def test_of_two_applications_both_end_at_a_signal_without_a_handler() -> None:
    host, first, second = Host(), Host(), Host()
    signal.signal(signal.SIGTERM, host.heard)
    below, above = ExitSignals(first.stop), ExitSignals(second.stop)
    first.end.set()
    second.end.set()
    await send(signal.SIGHUP)
    assert (first.told, second.told, host.told) == (["stop", "stopped"], ["stop", "stopped"], [signal.SIGHUP])
    above.restore()
    below.restore()
