"""Several workers behind one port: one chat under each host that can have it, and a refusal under the others."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Callable, Optional

import pytest

from chat_actors.workers.opening import CLUSTER, NOT_UVICORN, REFUSED, TLS
from tests.support.server import APP, PATIENCE, ROOT, Client, Server, Visit, Workers, free_ports, in_loop
from tests.support.tls import Certificate
from tests.support.workers import Pages, connect_to, enter, home_of

StartServer = Callable[..., Server]

TWO = "--workers", "2"
UNIX = "{}/chat.sock"
GUNICORN = "gunicorn", "chat_actors.app:app", "-k", "uvicorn_worker.UvicornWorker", "-w", "2"
GUNICORN_TCP = *GUNICORN, "--bind", "127.0.0.1:0"
# Commands and variables.
HOSTS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "uvicorn --workers": ((*APP, *TWO), {}),
    "uvicorn, asyncio": ((*APP, *TWO, "--loop", "asyncio"), {}),
    "uvicorn, wsproto": ((*APP, *TWO, "--ws", "wsproto"), {}),
    "uvicorn, Unix socket": (("uvicorn", "chat_actors.app:app", *TWO, "--uds", UNIX), {}),
    "WEB_CONCURRENCY": (APP, {"WEB_CONCURRENCY": "2"}),
    "UVICORN_WORKERS": (APP, {"UVICORN_WORKERS": "2"}),
    "a program of one's own": (("tests.support.two_workers",), {}),
    "python -m chat_actors": (("chat_actors", *TWO, "--port", "0"), {}),
    "gunicorn": (GUNICORN_TCP, {}),
    "gunicorn --preload": ((*GUNICORN_TCP, "--preload"), {}),
    "gunicorn, Unix socket": ((*GUNICORN, "--bind", f"unix:{UNIX}"), {}),
}
NUMBERS = "chat_topics 8.0", "chat_members 8.0", "chat_connections 10.0", "chat_messages_accepted_total 8.0"
MANY = [f"topic {number}" for number in range(8)]  # some for each worker


@pytest.fixture(params=[*HOSTS.values()], ids=[*HOSTS])
def host(request: pytest.FixtureRequest, start: StartServer, tmp_path: Path) -> Server:
    """A server with two workers."""
    command, variables = request.param
    server = start(*(word.format(tmp_path) for word in command), **variables)
    server.clean_status = 0  # none of these raises the signal again
    server.wait_for("Application startup complete", count=2)
    return server


@in_loop
async def test_two_workers_are_one_chat(host: Server) -> None:
    async with Visit(host) as visit:
        processes = host.processes()
        assert len(processes) == 2
        strangers = [await connect_to(visit, process) for process in processes * 2]
        members: list[Client] = []
        for stranger in strangers:
            await stranger.join("alice", "sports")
            members.append(stranger)
        assert [one.joined["username"] for one in members] == ["alice", "alice#2", "alice#3", "alice#4"]
        for number, sender in enumerate(members, 1):
            ack = await sender.ask({"message": f"from {number}"})
            assert (ack["id"], ack["recipients"]) == (number, 3)
            for other in members:
                if other is not sender:
                    heard = await other.recv()
                    assert (heard["id"], heard["message"]) == (number, f"from {number}")


@in_loop
async def test_each_worker_lists_the_topics_of_all(host: Server) -> None:
    async with Visit(host) as visit:
        processes = host.processes()
        strangers = [await connect_to(visit, process) for process in processes]
        listed = []
        with ExitStack() as stack:
            pages = [stack.enter_context(Pages(host, process)) for process in processes]
            for place, topic in enumerate(MANY):
                await (await enter(visit, processes[place % 2], "alice", topic)).ask({"message": "hello"})
                listed.append({"topic": topic, "users": 1})
                for stranger in strangers:
                    assert (await stranger.ask("/list"))["topics"] == listed
            for one in pages:
                assert json.loads(await asyncio.to_thread(one.get, "/topics")) == listed
                metrics = await asyncio.to_thread(one.get, "/metrics")
                for line in NUMBERS:
                    assert f"\n{line}\n" in metrics
                assert metrics.count("\nprocess_open_fds{") == 2


@in_loop
async def test_a_member_resumes_whichever_worker_takes_its_connection(host: Server) -> None:
    async with Visit(host) as visit:
        bob = await visit.join("bob", "sports")
        alice = await enter(visit, host.processes()[0], "alice", "sports", resume="")
        first = await alice.ask({"message": "1", "ref": "r1"})
        assert (await bob.recv())["message"] == "1"
        for process in host.processes():
            left = len(host.lines(" left "))
            alice.connection.transport.abort()
            await host.logged(" left ", count=left + 1)
            missed = await bob.ask({"message": "missed"})
            window = {key: alice.joined[key] for key in ("resume", "epoch")}
            alice.joined = {}
            alice = await enter(visit, process, "alice", "sports", since=missed["id"] - 1, **window)
            assert (alice.joined["username"], alice.joined["users"]) == ("alice", 2)
            assert (await alice.recv())["message"] == "missed"
            again = await alice.ask({"message": "1", "ref": "r1"})
            assert (again["id"], again["duplicate"]) == (first["id"], True)
        alice.joined = {}


@in_loop
async def test_the_first_worker_tells_the_page_the_limits_and_a_missing_protection(start: StartServer) -> None:
    server = start("chat_actors", *TWO, "--port", "0", "--host", "0.0.0.0", CHAT_CONNECTIONS="77")
    server.clean_status = 0
    server.wait_for("Application startup complete", count=2)
    (line,) = server.lines("page=")
    assert f"page='http://0.0.0.0:{server.port}/'" in line and "CHAT_CONNECTIONS=77" in line
    assert len(server.lines("server unprotected")) == 1
    server.terminate(trouble=re.compile(r"Traceback|\b(ERROR|CRITICAL)\b"))


# Where workers cannot have one chat.

UVICORN = "-m", *APP
GUNICORN_OWN = "-m", "gunicorn", "chat_actors.app:app", "--bind", "127.0.0.1:0", "-k", "asgi"
HYPERCORN = "-m", "hypercorn", "chat_actors.app:app", "--bind", "127.0.0.1:0"
GRANIAN = "-m", "granian", "--interface", "asgi", "chat_actors.app:app", "--port", "{port}"
WITH_TLS = "TLS"  # stands for the options with the certificate
# Commands, variables, and the reason. {port}: a free one.
REFUSALS: dict[str, tuple[tuple[str, ...], dict[str, str], str]] = {
    "TLS": ((*UVICORN, *TWO, WITH_TLS), {}, TLS),
    "TLS, five workers": ((*UVICORN, "--workers", "5", WITH_TLS), {}, TLS),
    "TLS, a variable": ((*UVICORN, WITH_TLS), {"WEB_CONCURRENCY": "2"}, TLS),
    "hypercorn": ((*HYPERCORN, "-w", "2"), {}, NOT_UVICORN),
    "hypercorn, five workers": ((*HYPERCORN, "-w", "5"), {}, NOT_UVICORN),
    "hypercorn with uvloop": ((*HYPERCORN, "-w", "2", "-k", "uvloop"), {}, NOT_UVICORN),
    "granian": ((*GRANIAN, *TWO), {}, NOT_UVICORN),
    "gunicorn's own worker": ((*GUNICORN_OWN, "-w", "3"), {}, NOT_UVICORN),
    "gunicorn's own worker, by a variable": (GUNICORN_OWN, {"GUNICORN_CMD_ARGS": "-w 2"}, NOT_UVICORN),
    "one node of a cluster": ((*UVICORN, *TWO), {"CHAT_CLUSTER": "tcp/127.0.0.1:{port}"}, CLUSTER),
    "two nodes of a cluster": (
        (*UVICORN, *TWO),
        {"CHAT_CLUSTER": "tcp/127.0.0.1:{port}, tcp/127.0.0.1:{other}"},
        CLUSTER,
    ),
}


@pytest.mark.parametrize(("command", "variables", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_server_whose_workers_cannot_be_one_chat_says_why_and_ends(
    command: tuple[str, ...], variables: dict[str, str], reason: str, tmp_path: Path
) -> None:
    if "asgi" in command and "gunicorn" in command:
        pytest.importorskip("gunicorn.workers.gasgi")  # older gunicorn has no ASGI worker of its own
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
    names = dict(zip(("port", "other"), free_ports(2)))
    words = [word.format(**names) for word in command if word != WITH_TLS]
    if WITH_TLS in command:
        words += Certificate(tmp_path).options
    ended = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**environ, **{name: value.format(**names) for name, value in variables.items()}},
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=3 * PATIENCE,
    )
    assert f"{REFUSED}{reason}\n" in ended.stderr
    assert "Traceback" not in ended.stderr or "gunicorn" in command  # gunicorn's main process may show its own


# Servers that are alone.

ONE: dict[str, tuple[str, ...]] = {
    "uvicorn": (*APP, "--workers", "1"),
    "uvicorn --reload": (*APP, "--reload"),
    "uvicorn --reload, TLS": (*APP, "--reload", WITH_TLS),
    "hypercorn": (*HYPERCORN[1:], "-w", "1"),
    "granian": (*GRANIAN[1:], "--workers", "1"),
    "gunicorn": (*GUNICORN_TCP, "-w", "1"),
    "gunicorn's own worker": (*GUNICORN_OWN[1:], "-w", "1"),
}


@pytest.mark.parametrize("command", ONE.values(), ids=ONE)
@in_loop
async def test_one_worker_of_each_host_serves(start: StartServer, tmp_path: Path, command: tuple[str, ...]) -> None:
    if "asgi" in command and "gunicorn" in command:
        pytest.importorskip("gunicorn.workers.gasgi")
    tls = Certificate(tmp_path) if WITH_TLS in command else None
    words = [word.format(port=free_ports(1)[0]) for word in command if word != WITH_TLS]
    server = start(*words, *(tls.options if tls else ()))
    if tls:
        server.wait_for("Application startup complete")
        server.client_options = {"ssl": tls.trust}
    async with Visit(server) as visit:
        alice: Optional[Client] = None
        while alice is None:
            with suppress(ConnectionRefusedError):  # the address was told before the worker listens
                alice = await visit.join("alice", "sports")
        assert alice.joined["users"] == 1
    server.kill()


async def meet(visits: "list[Visit]") -> list[str]:
    """A member alice of each server, in one topic: their names."""
    members = [await visit.join("alice", "sports") for visit in visits]
    return [one.joined["username"] for one in members]


@in_loop
async def test_the_workers_of_two_servers_never_meet(start: StartServer) -> None:
    one, other = start(*APP, kind=Workers), start(*APP, kind=Workers)
    async with Visit(one) as of_one, Visit(other) as of_other:
        assert await meet([of_one, of_other, of_one, of_other]) == ["alice", "alice", "alice#2", "alice#2"]


@pytest.fixture
def foreign() -> Iterator[socket.socket]:
    """A socket that listens, and is nobody's whom this process starts."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.mark.parametrize(
    ("command", "status"), [((*GUNICORN_TCP, "-w", "1"), 0), (APP, -signal.SIGTERM)], ids=["gunicorn", "uvicorn"]
)
@in_loop
async def test_servers_whose_parent_left_them_one_listening_socket_are_not_one_chat(
    start: StartServer,
    foreign: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    status: int,
) -> None:
    monkeypatch.setattr(Server, "inherited", (foreign.fileno(),))
    servers = [start(*command) for _ in range(2)]
    for server in servers:
        server.clean_status = status
        server.wait_for("Application startup complete")
    async with Visit(servers[0]) as of_one, Visit(servers[1]) as of_other:
        assert await meet([of_one, of_other, of_one]) == ["alice", "alice", "alice#2"]


@in_loop
async def test_a_member_is_served_by_the_worker_with_its_topic_and_by_no_other(start: StartServer) -> None:
    server = start(*APP, kind=Workers, count=3)
    async with Visit(server) as visit:
        for topic in MANY:
            members = [await enter(visit, process, "alice", topic) for process in server.processes()]
            assert len({await home_of(server, one) for one in members}) == 1
