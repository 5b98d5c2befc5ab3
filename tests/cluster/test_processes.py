"""Real servers that are nodes of one cluster: behind one port, over TLS, killed, too few, and sent garbage."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Callable

import pytest
import zenoh
from websockets.asyncio.client import connect

from chat_actors.actors.base import MAX_CRASHES
from chat_actors.cluster.calls import PREFIX
from chat_actors.cluster.views import highest
from chat_actors.server import Server as ChatServer
from chat_actors.settings import Settings
from chat_actors.workers.opening import CLUSTER, REFUSED
from tests.support.fakes import POISON, log_lines
from tests.support.server import APP, PATIENCE, ROOT, UNBOUNDED, Client, Frame, Server, free_ports, in_loop

StartServer = Callable[..., Server]

MEANT = re.compile(r"Traceback|\b(ERROR|CRITICAL)\b")  # where warnings belong to the test


def endpoints(count: int, protocol: str = "tcp", host: str = "127.0.0.1") -> str:
    return ",".join(f"{protocol}/{host}:{port}" for port in free_ports(count))


async def start_nodes(start: StartServer, count: int, cluster: str, **environment: str) -> list[Server]:
    """Nodes that have found each other."""
    nodes = [await asyncio.to_thread(start, *APP, CHAT_CLUSTER=cluster, **environment) for _ in range(count)]
    for node in nodes:
        await node.logged("node found", count=count - 1)
    return nodes


def names(one: Server, other: Server) -> tuple[str, str]:
    """The names of two nodes that have found each other: each is the first node that the other has found."""
    found = [server.wait_for("node found")[0].split("node='")[1].rstrip("'") for server in (other, one)]
    return found[0], found[1]


def topic_of(owner: str, other: str) -> str:
    """A topic that the first of these two nodes owns."""
    return next(topic for topic in map("topic {}".format, range(1000)) if highest(topic, [owner, other]) == owner)


async def say(sender: Client, text: str, *receivers: Client) -> None:
    """Send one message: its ack names as many recipients as there are receivers, and each of them gets it."""
    assert (await sender.ask({"message": text}))["recipients"] == len(receivers)
    for receiver in receivers:
        assert (await receiver.recv())["message"] == text


class Guests(AsyncExitStack):
    """Clients of any server; closed at the end."""

    async def connect(self, server: Server) -> Client:
        return Client(await self.enter_async_context(connect(server.url, compression=None, **UNBOUNDED)))

    async def join(self, server: Server, username: str, topic: str) -> Client:
        client = await self.connect(server)
        await client.join(username, topic)
        return client


async def topics_page(server: Server) -> list[Frame]:
    def get() -> list[Frame]:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/topics") as answer:
            assert answer.headers["X-Partial"] is None
            topics: list[Frame] = json.loads(answer.read())
        return topics

    return await asyncio.to_thread(get)


# Several processes.


@in_loop
async def test_a_node_that_is_killed_is_replaced_by_one_with_its_endpoint(start: StartServer) -> None:
    cluster = endpoints(2)
    first, second = [await asyncio.to_thread(start, *APP, CHAT_CLUSTER=cluster) for _ in range(2)]
    await first.logged("node found")
    async with Guests() as guests:
        alice = await guests.join(first, "alice", "sports")
        bob = await guests.join(second, "bob", "sports")
        await asyncio.to_thread(second.kill)
        assert await bob.close_code() == 1006
        await first.logged("node lost")
        await say(alice, "alone")
        third = await asyncio.to_thread(start, *APP, CHAT_CLUSTER=cluster)
        await first.logged("node found", count=2)
        carol, dave = await guests.join(first, "carol", "sports"), await guests.join(third, "bob", "sports")
        assert dave.joined["username"] == "bob"
        await say(alice, "together", carol, dave)
        await say(dave, "again", alice, carol)
    for node in (first, third):
        await asyncio.to_thread(node.terminate, trouble=MEANT)  # a slow machine looks stopped, and that is a warning


def test_several_workers_are_no_nodes_however_many_endpoints_there_are() -> None:
    _, lines = start_in_vain("--workers", "2", CHAT_CLUSTER=endpoints(2))
    assert [line for line in lines if line.startswith(REFUSED)] == [f"{REFUSED}{CLUSTER}"]
    assert "Stopping parent process" in lines[-1]


# TLS between nodes.


class Authority:
    """An authority that makes certificates for ``localhost``, and zenoh's configuration files with them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._openssl("req", "-x509", *self._key("authority"), "-out", "authority.pem", "-days", "2")
        (folder / "names").write_text("subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n")
        self._openssl("req", *self._key("node"), "-out", "node.csr")
        signed = "-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-extfile", "names"
        self._openssl("x509", "-req", "-in", "node.csr", *signed, "-out", "node.pem", "-days", "2")

    def _key(self, name: str) -> list[str]:
        curve = "ec_paramgen_curve:prime256v1"
        return ["-newkey", "ec", "-pkeyopt", curve, "-nodes", "-keyout", f"{name}.key", "-subj", f"/CN=test {name}"]

    def _openssl(self, *args: str) -> None:
        subprocess.run(["openssl", *args], cwd=self._folder, check=True, capture_output=True)

    def configuration(self, mutual: bool, certificate: bool = True) -> str:
        """The path of a node's file. Without a certificate the node can only call others."""
        key, own = str(self._folder / "node.key"), str(self._folder / "node.pem")
        settings: dict[str, object] = {"root_ca_certificate": str(self._folder / "authority.pem")}
        if certificate:
            settings.update(listen_private_key=key, listen_certificate=own, enable_mtls=mutual)
            if mutual:
                settings.update(connect_private_key=key, connect_certificate=own)
        file = self._folder / f"{mutual}-{certificate}.json5"
        file.write_text(f"// for tests\n{{transport: {{link: {{tls: {json.dumps(settings)}}}}}}}\n")
        return str(file)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    return Authority(tmp_path / "authority")


def foreign_session(endpoint: str, file: str = "", mode: str = "client") -> Any:
    """A session that is no node and calls one. Raises ZError if the node does not let it in."""
    config = zenoh.Config.from_file(file) if file else zenoh.Config()
    for key, value in {
        "mode": mode,
        "connect/endpoints": [endpoint],
        "connect/timeout_ms": 0,
        "connect/exit_on_failure": True,
        "scouting/multicast/enabled": False,
    }.items():
        config.insert_json5(key, json.dumps(value))
    return zenoh.open(config)


@pytest.mark.parametrize("mutual", [False, True], ids=["TLS", "mutual TLS"])
@in_loop
async def test_nodes_chat_over_tls(start: StartServer, authority: Authority, mutual: bool) -> None:
    cluster = endpoints(2, "tls", "localhost")
    here, there = await start_nodes(start, 2, cluster, CHAT_CLUSTER_CONFIG=authority.configuration(mutual))
    async with Guests() as guests:
        alice = await guests.join(here, "alice", "sports")
        bob = await guests.join(there, "alice", "sports")
        assert bob.joined["username"] == "alice#2"
        await say(alice, "one", bob)
        await say(bob, "two", alice)


@in_loop
async def test_where_both_sides_show_certificates_nobody_else_gets_in(
    start: StartServer, authority: Authority, tmp_path: Path
) -> None:
    cluster = endpoints(3, "tls", "localhost")
    right = authority.configuration(mutual=True)
    here, there = await start_nodes(start, 2, cluster, CHAT_CLUSTER_CONFIG=right)
    stranger = Authority(tmp_path / "stranger")
    first = cluster.split(",")[0]
    for endpoint, file in (
        (first, authority.configuration(mutual=True, certificate=False)),
        (first, stranger.configuration(mutual=True)),
        (first, ""),
        (first.replace("tls/", "tcp/"), ""),
    ):
        with pytest.raises(zenoh.ZError, match="Unable to connect"):
            await asyncio.to_thread(foreign_session, endpoint, file)
    (await asyncio.to_thread(foreign_session, first, right)).close()

    # A whole node with certificates of another authority is a cluster of its own.
    wrong = stranger.configuration(mutual=True)
    apart = await asyncio.to_thread(start, *APP, CHAT_CLUSTER=cluster, CHAT_CLUSTER_CONFIG=wrong)
    async with Guests() as guests:
        mallory = await guests.join(apart, "mallory", "sports")
        alice, bob = [await guests.join(node, "alice", "sports") for node in (here, there)]
        assert bob.joined["users"] == 2
        await say(alice, "secret", bob)
        await say(mallory, "anybody?")
    for node, count in ((here, 1), (there, 1), (apart, 0)):
        assert len(node.lines("node found")) == count


# Nodes that are killed, or too few.


@in_loop
async def test_members_of_the_other_nodes_outlive_a_node_that_is_killed(start: StartServer) -> None:
    cluster = endpoints(2)
    survivor, victim = await start_nodes(start, 2, cluster)
    name, name_of_victim = names(survivor, victim)
    async with Guests() as guests:
        rooms: list[tuple[str, Client, Client]] = []
        for topic in (topic_of(name, name_of_victim), topic_of(name_of_victim, name)):
            alice, bob = [await guests.join(survivor, "alice", topic) for _ in range(2)]
            carol = await guests.join(victim, "carol", topic)
            await say(alice, "before", bob, carol)
            rooms.append((topic, alice, bob))
        texts = [f"{number}" for number in range(40)]
        frames = [json.dumps({"message": text}) for text in texts]
        for _, alice, _ in rooms:
            alice.send_at_once(*frames[:20])
        victim.kill()
        for _, alice, _ in rooms:
            alice.send_at_once(*frames[20:])
        await survivor.logged("node lost")
        for topic, alice, bob in rooms:
            acks = [await alice.recv() for _ in frames]
            assert {ack["type"] for ack in acks} == {"ack"}
            heard = [await bob.recv() for _ in frames]
            assert [frame["message"] for frame in heard] == texts
            assert (
                [frame["id"] for frame in heard] == [ack["id"] for ack in acks] == sorted({ack["id"] for ack in acks})
            )
            await say(alice, "after", bob)
            dave = await guests.join(survivor, "alice", topic)
            assert (dave.joined["username"], dave.joined["users"]) == ("alice#3", 3)

        again = await asyncio.to_thread(start, *APP, CHAT_CLUSTER=cluster)
        await again.logged("node found")
        for topic, alice, bob in rooms:
            erin = await guests.join(again, "alice", topic)
            assert (erin.joined["username"], erin.joined["users"]) == ("alice#4", 4)
            assert (await alice.ask({"message": "all together"}))["recipients"] == 3
            for receiver in (bob, erin):
                assert (await receiver.recv())["message"] == "all together"


async def is_refused(guests: Guests, server: Server) -> bool:
    """Whether a join is refused because this node sees too few others."""
    client = await guests.connect(server)
    answer = await client.ask({"username": "alice", "topic": "sports"})
    if answer["type"] == "joined":
        return False
    assert (answer["type"], answer["error"]) == ("error", "server_full")
    assert await client.close_code() == 1013
    return True


@in_loop
async def test_with_a_quorum_nodes_serve_while_they_are_half_of_all_or_more(start: StartServer) -> None:
    settings = {"CHAT_CLUSTER": endpoints(3), "CHAT_CLUSTER_QUORUM": "1"}
    first = await asyncio.to_thread(start, *APP, **settings)
    async with Guests() as guests:
        early = await guests.connect(first)  # it may have to wait for the end of the start
        await early.send({"username": "alice", "topic": "sports"})
        assert await early.close_code() == 1013
        assert await is_refused(guests, first)

        second = await asyncio.to_thread(start, *APP, **settings)
        for node in (first, second):
            await node.logged("node found")
        members = [await guests.join(node, "bob", topic) for node in (first, second) for topic in ("sports", "movies")]
        assert [member.joined["users"] for member in members] == [1, 1, 2, 2]
        await say(members[0], "two of three", members[2])

        second.kill()
        for member in members[:2]:
            assert await member.close_code() == 1013
        await first.logged("WARNING", "quorum lost: members closed", "nodes=1 configured=3")
        assert await is_refused(guests, first)

        third = await asyncio.to_thread(start, *APP, **settings)
        for node, count in ((first, 2), (third, 1)):
            await node.logged("node found", count=count)
        for node, users in ((first, 1), (third, 2)):
            assert (await guests.join(node, "bob", "sports")).joined["users"] == users
    await asyncio.to_thread(first.terminate, trouble=MEANT)
    await asyncio.to_thread(third.terminate, trouble=MEANT)


# All nodes say the same.


@in_loop
async def test_every_node_tells_the_topics_of_all(start: StartServer) -> None:
    nodes = await start_nodes(start, 2, endpoints(2))
    async with Guests() as guests:
        for node in nodes:
            assert await topics_page(node) == []
        topics = [topic_of(*names(*pair)) for pair in (nodes, nodes[::-1])]  # one of each
        topics += [f"room {number}" for number in range(6)]
        for number, topic in enumerate(topics):
            for node in nodes[: 1 + number % 2]:
                await guests.join(node, "alice", topic)
        both = names(*nodes)
        for node in nodes:
            for told in (await topics_page(node), (await (await guests.connect(node)).ask("/list"))["topics"]):
                assert {one["topic"]: one["users"] for one in told} == dict(zip(topics, [1, 2] * 4))
                # Oldest first, as far as one clock has seen it: ages that two nodes tell are a moment apart.
                for owner in both:
                    owned = [topic for topic in topics if highest(topic, [*both]) == owner]
                    assert [one["topic"] for one in told if one["topic"] in owned] == owned


# Mail that is not from a node.

GARBAGE = {
    "nothing": b"",
    "noise": bytes(range(256)),
    "text": b"hello",
    "an unfinished envelope": b"\x94\xa5",
    "an envelope of another shape": b"\x94\x01\x02\x03\x04",
    "an item of an unknown kind": b"\x94\xa3bob\x01\x01\x91\x91\xa7Unknown",
    "a name that is no text": b"\x94\xa2\xff\xfe\x01\x01\x90",
    "depth": b"\x91" * 100_000,
    "a number too large": b"\x94\xa3bob\xcb" + b"\x7f" * 8 + b"\x01\x90",
    "a megabyte": b"\xc1" * (1 << 20),
}


@in_loop
async def test_garbage_for_a_node_is_dropped_with_a_warning_and_the_chat_goes_on(start: StartServer) -> None:
    cluster = endpoints(2)
    nodes = await start_nodes(start, 2, cluster)
    name, name_of_other = names(*nodes)
    async with Guests() as guests:
        members = []
        for topic in topic_of(name, name_of_other), topic_of(name_of_other, name):
            members.append([await guests.join(node, "alice", topic) for node in nodes])
        session = await asyncio.to_thread(foreign_session, cluster.split(",")[0])
        try:
            for number, data in enumerate(GARBAGE.values(), 1):
                session.put(f"{PREFIX}/to/{name}", data, congestion_control=zenoh.CongestionControl.BLOCK)
                warnings = await nodes[0].logged("mail refused: unreadable", count=number)
                assert " WARNING " in warnings[-1] and f" bytes={len(data)} " in warnings[-1]
                for here, there in members:
                    await say(here, "one", there)
                    await say(there, "two", here)
            # An envelope that looks right, from a node that was never met, and one from a node that says no more.
            session.put(f"{PREFIX}/to/{name}", b"\x94\xa8stranger\x01\x01\x90")
            token = session.liveliness().declare_token(f"{PREFIX}/node/stranger")
            for here, there in members:
                await say(here, "three", there)
                await say(there, "four", here)
            token.undeclare()
        finally:
            await asyncio.to_thread(session.close)
    assert len(await nodes[0].logged("WARNING", count=len(GARBAGE))) == len(GARBAGE)
    assert nodes[1].lines("WARNING") == []
    assert [len(node.lines("node found")) for node in nodes] == [1, 1]
    assert [line for node in nodes for line in node.lines("node lost")] == []
    for node in nodes:
        await asyncio.to_thread(node.terminate, trouble=MEANT)


# Settings that no node can start with.


def start_in_vain(*options: str, **settings: str) -> tuple[int, list[str]]:
    """The exit status of a server that cannot start, and what it says."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
    process = subprocess.run(
        [sys.executable, "-m", *APP, *options],
        cwd=ROOT,
        env={**environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    return process.returncode, process.stdout.splitlines()


@pytest.mark.parametrize(
    "value",
    ["localhost:7447", "tcp/localhost", "tcp/:7447", "tcp/127.0.0.1:port", "tcp/127.0.0.1:7447;tcp/127.0.0.1:7448"],
)
def test_a_wrong_list_of_endpoints_ends_the_start_with_a_sentence(value: str) -> None:
    sentence = f"CHAT_CLUSTER={value}: Input should be endpoints such as tcp/10.0.0.1:7447."
    assert start_in_vain(CHAT_CLUSTER=value) == (2, [sentence])


def test_workers_with_a_wrong_list_of_endpoints_are_not_started_again_and_again() -> None:
    _, lines = start_in_vain("--workers", "2", CHAT_CLUSTER="localhost:7447,localhost:7448")
    sentence = "CHAT_CLUSTER=localhost:7447,localhost:7448: Input should be endpoints such as tcp/10.0.0.1:7447."
    assert sentence in lines
    assert "Stopping parent process" in lines[-1]


def test_a_node_for_which_no_endpoint_is_left_ends_and_names_them(start: StartServer) -> None:
    cluster = endpoints(1)
    start(*APP, CHAT_CLUSTER=cluster)
    status, lines = start_in_vain(CHAT_CLUSTER=cluster)
    assert status == 3
    assert f"OSError: cannot listen on any of {cluster}" in lines


def test_a_configuration_file_that_is_not_there_ends_the_start_and_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.json5")
    status, lines = start_in_vain(CHAT_CLUSTER=endpoints(1), CHAT_CLUSTER_CONFIG=missing)
    assert status == 3
    assert f"FileNotFoundError: [Errno 2] No such file or directory: '{missing}'" in lines


@in_loop
async def test_a_process_whose_supervisor_gives_up_stays_the_node_that_it_is() -> None:
    chat = ChatServer(Settings.model_validate({"cluster": endpoints(1)}))
    first = chat.start()
    for _ in range(MAX_CRASHES + 1):
        first.post(POISON)  # type: ignore[arg-type]  # what no supervisor takes
    await asyncio.wait({first.task})
    with log_lines() as lines:
        second = chat.start()
    assert second is not first and not second.task.done()
    assert await chat.topics() == (b"[]", False)
    assert not any("endpoint bound" in line for line in lines)
    await chat.stop()
