"""The listening sockets that a process has in common with its parent."""

import errno
import os
import socket
import sys
from typing import Any

import pytest

from chat_actors.workers import sockets as sockets_module
from chat_actors.workers.sockets import shared_sockets
from tests.support.crew.child import Child
from tests.support.crew.meeting import bound


def bound_before() -> "set[int]":
    """The inodes of those that the process of the tests has already."""
    return {inode for _, inode in sockets_module._bound_sockets()}


def test_a_socket_of_the_parent_is_shared_and_one_of_its_own_is_not() -> None:
    with bound() as sockets:
        before = bound_before()

        def look() -> dict[int, int]:
            with socket.socket() as own:
                own.bind(("127.0.0.1", 0))
                own.listen()
                return shared_sockets()

        with Child(look) as child:
            shared = child.step()
        assert {*shared} == before
        assert sockets.items() <= shared.items()


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0)), (socket.AF_UNIX, "")]
)
def test_a_socket_of_each_family_is_shared(family: int, address: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", os.getpid)  # the parent has all that this process has
    before = bound_before()
    with socket.socket(family) as sock:
        sock.bind(address)
        for _ in range(2):
            new = {inode: one for inode, one in shared_sockets().items() if inode not in before}
            assert new == {os.fstat(sock.fileno()).st_ino: sock.fileno()}
            sock.listen()


def test_no_other_socket_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one for datagrams, nor one without an address, nor one with a peer; nor is any of them closed."""
    monkeypatch.setattr(os, "getppid", os.getpid)
    before = bound_before()
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, socket.socket() as fresh, bound() as sockets:
        datagrams.bind(("127.0.0.1", 0))
        (descriptor,) = sockets.values()
        listener = socket.socket(fileno=os.dup(descriptor))
        listener.listen()
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        listener.close()
        one, other = socket.socketpair()
        with client, server, one, other:
            assert {*shared_sockets()} == before | {*sockets}
            assert all(sock.fileno() >= 0 for sock in (datagrams, fresh, client, server, one, other))
            client.sendall(b"alive")
            assert server.recv(5) == b"alive"


def test_a_process_that_was_started_alone_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound():
        assert shared_sockets() == {}
    monkeypatch.setattr(sockets_module, "_bound_sockets", lambda: iter(()))
    assert shared_sockets() == {}


def test_sockets_of_a_parent_that_cannot_be_looked_at_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent of gunicorn's workers is root's if they have a user of their own."""
    with bound() as sockets:
        real = os.listdir

        def listdir(path: str) -> list[str]:
            if path == "/proc/self/fd":
                return real(path)
            raise PermissionError(errno.EACCES, "not yours")

        monkeypatch.setattr(os, "listdir", listdir)
        assert sockets.items() <= shared_sockets().items()
        assert {*shared_sockets()} == bound_before()


def test_a_descriptor_of_the_parent_may_vanish_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: str) -> str:
        raise FileNotFoundError(errno.ENOENT, path)

    monkeypatch.setattr(os, "readlink", gone)
    with bound():
        assert shared_sockets() == {}


def test_other_systems_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", os.getpid)
    with bound():
        monkeypatch.setattr(sys, "platform", "darwin")
        assert shared_sockets() == {}
