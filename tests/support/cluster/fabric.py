"""Nodes in one process on a mesh without an engine. The test says what happens, and in which order."""

import asyncio
from collections import deque
from typing import Any, Callable, Optional

from chat_actors.actors.base import Mailbox
from chat_actors.actors.events import Join, Leave, Send, TopicEvent
from chat_actors.actors.supervisor import ListTopics
from chat_actors.cluster.links import Mesh
from chat_actors.cluster.node import BEAT_SECONDS, Node
from chat_actors.cluster.views import highest
from chat_actors.counters import Counters
from chat_actors.protocol.frames import Window
from chat_actors.settings import Settings
from tests.support.fakes import FakeClock, FakeMember, FakeTimers, Frame, settle
from tests.support.presence import one_by_one

Mail = Callable[[bytes], None]
Seen = Callable[[str, bool], None]


class Fabric:
    """Carrier of mail between nodes, unless a way is ``held``. ``apart``: pairs of nodes that do not see each other."""

    def __init__(self) -> None:
        self.ends: dict[str, End] = {}
        self.held: dict[tuple[str, str], deque[bytes]] = {}
        self.frozen: dict[str, deque[tuple[Callable[..., None], tuple[Any, ...]]]] = {}
        self.apart: set[frozenset[str]] = set()
        self.most_waiting = 1 << 30

    def hold(self, sender: str, receiver: str) -> None:
        """Keep what is sent that way."""
        self.held.setdefault((sender, receiver), deque())

    def pass_on(self, sender: str, receiver: str) -> None:
        """Deliver what was kept, and stop keeping."""
        for data in self.held.pop((sender, receiver)):
            self.deliver(sender, receiver, data)

    async def release(self, sender: str, receiver: str) -> None:
        """The same; returns when everything that follows from it has happened."""
        self.pass_on(sender, receiver)
        await settle()

    def deliver(self, sender: str, receiver: str, data: bytes) -> None:
        end = self.ends.get(receiver)
        if end is not None and frozenset((sender, receiver)) not in self.apart:
            asyncio.get_running_loop().call_soon(self.call, receiver, end.mail, data)

    def call(self, name: str, call: Callable[..., None], *args: Any) -> None:
        if name in self.frozen:
            self.frozen[name].append((call, args))
        elif name in self.ends:
            call(*args)

    def tell(self, receiver: str, node: str, there: bool) -> None:
        if there and frozenset((receiver, node)) in self.apart:
            return
        asyncio.get_running_loop().call_soon(self.call, receiver, self.ends[receiver].seen, node, there)

    def part(self, one: str, other: str) -> None:
        self.apart.add(frozenset((one, other)))
        self.tell(one, other, False)
        self.tell(other, one, False)

    def heal(self, one: str, other: str) -> None:
        self.apart.discard(frozenset((one, other)))
        self.tell(one, other, True)
        self.tell(other, one, True)


class End(Mesh):
    """One node's end of the fabric."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.me = ""
        self.mail: Mail
        self.seen: Seen

    def open(self, me: str, mail: Mail, seen: Seen) -> None:
        self.me, self.mail, self.seen = me, mail, seen
        others = [other for other in self.fabric.ends if other not in self.fabric.frozen]
        self.fabric.ends[me] = self
        for other in others:
            self.fabric.tell(other, me, True)
            self.fabric.tell(me, other, True)

    def send(self, node: str, data: bytes) -> bool:
        fabric = self.fabric
        if self.me not in fabric.ends:
            return True
        held = fabric.held.get((self.me, node))
        if held is None:
            fabric.deliver(self.me, node, data)
        elif sum(map(len, held)) + len(data) > fabric.most_waiting:
            return False
        else:
            held.append(data)
        return True

    def forget(self, node: str) -> None:
        held = self.fabric.held.get((self.me, node))
        if held is not None:
            held.clear()

    async def close(self) -> None:
        self.fabric.ends.pop(self.me, None)
        for other in self.fabric.ends:
            self.fabric.tell(other, self.me, False)


class Person:
    """A member's connection to a node, without a socket."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.outbox = FakeMember()
        self.address: Optional[Mailbox[TopicEvent]] = None
        self.heard: list[Frame] = []

    async def joins(self, username: str, topic: str, **window: Any) -> Frame:
        wanted = Window(**window) if window else None
        self.node.front.post(Join(topic, username, self.outbox, self.outbox.reply, wanted))
        await settle()
        self.address = self.outbox.reply.result()
        joined, *self.heard = self.outbox.take()
        assert joined["type"] == "joined"
        return joined

    def says(self, *messages: str, ref: str = "") -> None:
        assert self.address is not None
        for message in messages:
            self.address.put_nowait(Send(self.outbox, message, ref) if ref else Send(self.outbox, message))

    def leaves(self) -> None:
        self.node.front.post(Leave(self.outbox, "closed by peer"))

    def hears(self) -> list[Frame]:
        """The frames that have come since the last time."""
        heard, self.heard = self.heard + self.outbox.take(), []
        return heard

    @property
    def texts(self) -> list[str]:
        """The same in short: a message by its text, an ack by its id, presence name by name."""
        return [text for frame in self.hears() for text in _short(frame)]


def _short(frame: Frame) -> list[str]:
    if frame["type"] == "message":
        return [str(frame["message"])]
    if frame["type"] == "ack":
        return [f"ack {frame['id']}" + " again" * ("duplicate" in frame)]
    if frame["type"] == "presence":
        named = [f"{event} {name} ({users})" for event, name, users in one_by_one(frame)]
        return named or [f"users ({frame['users']})"]
    if frame["type"] == "renamed":
        return [f"{frame['username']} is {frame['renamed']}"]
    return [str(frame["type"])]


class Nodes:
    """Nodes that have found each other."""

    def __init__(self, quorum: bool = False, configured: int = 0, **settings: Any) -> None:
        self.fabric = Fabric()
        self._timers = FakeTimers()
        self._clocks: dict[str, FakeClock] = {}  # of each node: that of a frozen one stands still
        self.all: list[Node] = []
        self._dead: list[Node] = []
        self._quorum = quorum
        self._configured = configured
        self._settings = Settings.model_validate(settings)

    def make(self, configured: int = 1, quorum: bool = False) -> Node:
        """A node that is not open yet."""
        clock = FakeClock(self._timers)
        clock.now = max((other.now for other in self._clocks.values()), default=clock.now)
        node = Node(End(self.fabric), configured, quorum, self._settings, clock, Counters())
        self._clocks[node.me] = clock
        self.all.append(node)
        return node

    async def start(self, count: int) -> list[Node]:
        """Start this many more nodes."""
        for _ in range(count):
            self.make(self._configured or count, self._quorum)
        for one in self.all[-count:]:
            one.open()
        await settle()
        for one in self.all[-count:]:
            one._settle()  # without waiting for as many as are configured
        await settle()
        return self.all[-count:]

    async def pass_time(self, seconds: float) -> None:
        """Let this much time pass, in steps so small that no node believes it was stopped."""
        for _ in range(round(seconds / BEAT_SECONDS)):
            for name, clock in self._clocks.items():
                if name not in self.fabric.frozen:
                    await clock.advance(BEAT_SECONDS)

    async def run_out(self, seconds: float) -> None:
        """Ring the timers that were set for just this long, and no others."""
        self._timers.ring(lambda timer: timer.seconds == seconds)
        await settle()

    def end_process(self, node: Node) -> None:
        """End a process without a close; the others will see that it is gone."""
        del self.fabric.ends[node.me]
        self.all.remove(node)
        self._dead.append(node)
        del self._clocks[node.me]
        for other in list(self.fabric.ends):
            self.fabric.tell(other, node.me, False)

    async def kill(self, node: Node) -> None:
        """The same; returns when the others have seen it."""
        self.end_process(node)
        await settle()

    async def close(self, node: Node) -> None:
        """Close a node properly; what follows from it happens later."""
        await node.close()
        self.all.remove(node)
        del self._clocks[node.me]

    async def freeze(self, node: Node) -> None:
        """Stop a process for longer than the lease."""
        self.fabric.frozen[node.me] = deque()
        for other in self.fabric.ends:
            if other != node.me:
                self.fabric.tell(other, node.me, False)
        await self.pass_time(3)

    async def thaw(self, node: Node) -> None:
        """Let a frozen process go on: it sees the others go and come back, and they see it come back."""
        waiting = self.fabric.frozen.pop(node.me)
        clock = self._clocks[node.me]
        clock.now = max(one.now for one in self._clocks.values())
        for call, args in waiting:
            self.fabric.call(node.me, call, *args)
        for other in self.fabric.ends:
            if other != node.me:
                self.fabric.tell(node.me, other, False)
                self.fabric.tell(other, node.me, True)
                self.fabric.tell(node.me, other, True)
        await settle()

    async def stop(self, node: Node, seconds: float) -> None:
        """Stop a process for less than the lease, then let it go on: the others do not notice."""
        waiting = self.fabric.frozen[node.me] = deque()
        await self.pass_time(seconds)
        del self.fabric.frozen[node.me]
        clock = self._clocks[node.me]
        clock.now += seconds
        for call, args in waiting:
            self.fabric.call(node.me, call, *args)
        await clock.advance(0)

    def owned_by(self, node: Node, view: Optional[list[Node]] = None) -> str:
        """A topic that this node owns while these nodes are up; all nodes, unless a ``view`` is given."""
        names = [one.me for one in (view or self.all)]
        return next(topic for topic in map("topic-{}".format, range(1000)) if highest(topic, names) == node.me)

    async def listed(self, node: Node) -> list[dict[str, Any]]:
        """The answer of a node to ``/list``."""
        asker = FakeMember()
        node.front.post(ListTopics(asker))
        await settle()
        (answer,) = asker.take()
        topics: list[dict[str, Any]] = answer["topics"]
        return topics

    async def end(self) -> None:
        """Close all nodes, one after the other."""
        for node in self._dead + self.all:
            await node.close()
            await settle()
