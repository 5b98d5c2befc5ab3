"""Servers for the tests on real sockets."""

from collections.abc import Iterator
from typing import Callable

import pytest

from tests.server import APP, Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server as a user starts it. Tests share it, so each leaves it empty (see ``Visit``)."""
    shared = Server(*APP)
    try:
        yield shared
        shared.terminate()
    finally:
        shared.kill()


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Start servers of the test's own: ``start(*command, **environment)``. What still runs then must end clean."""
    servers: list[Server] = []

    def start_server(*command: str, **environment: str) -> Server:
        servers.append(Server(*command, **environment))
        return servers[-1]

    try:
        yield start_server
        for one in servers:
            if one.running:
                one.terminate()
    finally:
        for one in servers:
            one.kill()
