"""One node of the cluster: who owns which topic, and what happens to topics when nodes come and go.

Every topic is owned by one of the nodes that are there: the one for which a hash of both is highest (rendezvous
hashing), so nodes that see the same others need not agree on anything else. A *view* is who is there. When it changes,
relays turn to the new owners, last owners bequeath what they had, and then each node tells all others that it is
settled: an owner waits for that before it opens a topic that may have been somewhere else.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from math import inf
from typing import Optional

from loguru import logger

from chat_actors.clock import Clock, Timer
from chat_actors.cluster.backlog import Ration, Sweeper
from chat_actors.cluster.census import Registry
from chat_actors.cluster.estates import Estates
from chat_actors.cluster.journal import Journal, Remains
from chat_actors.cluster.links import Links, Mesh
from chat_actors.cluster.relay import Relay
from chat_actors.cluster.supervisors import Back, CountTopics, Front
from chat_actors.cluster.views import highest
from chat_actors.cluster.wire import (
    Bequest,
    Count,
    Counted,
    Item,
    Resign,
    Settled,
    ToOwner,
    ToRelay,
)
from chat_actors.counters import Counters
from chat_actors.protocol.codes import CloseCode
from chat_actors.settings import Settings

SETTLE_SECONDS = 0.5  # that the others have to be settled after a change; then it goes on without them
START_SECONDS = 1.0  # that a new node waits for the others before it has topics of its own
BEAT_SECONDS = 0.5  # how often a node notes that it runs
FROZEN_SECONDS = 2.0  # without that note: it was stopped, and the others may have gone on without it
REMAINS_SECONDS = 5.0  # longer than it takes to see that an owner is dead
WINDOWS_BYTES = 16 * 1024 * 1024  # to one node when the view changes, at most; a quarter of what may wait for a node


class Node:
    """``configured``: how many nodes there should be; with ``quorum``, fewer than half of them serve nobody."""

    def __init__(
        self, mesh: Mesh, configured: int, quorum: bool, settings: Settings, clock: Clock, counters: Counters
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.counters = counters
        self.log = logger
        self.now = clock.monotonic
        self.view: list[str] = []
        self.new_number = count(1).__next__
        self._configured = configured
        self._quorum = quorum
        self._owners: dict[str, str] = {}  # by topic, in this view
        self.estates = Estates(self)
        self.settled = False  # all nodes see the same others, and have said what they know
        self._relays: set[Relay] = set()
        self._lives: dict[int, Relay] = {}
        self._new_life = count(1).__next__
        self._views: dict[str, list[str]] = {}  # in which others have settled
        self._starting = True
        self._deadline: Timer  # for the others to settle
        self._remains = Remains()
        self._rations: dict[str, Ration] = {}  # in this view
        self._bequeathed: dict[str, Bequest] = {}  # told again, if their owner changes before it is settled
        self._counts: list[CountTopics] = []  # to be answered once it is settled
        self.registry = Registry(self)
        self._sweeper = Sweeper(clock)
        self.watch = self._sweeper.watch
        self._loop = asyncio.get_running_loop()
        self._beat_at: float  # monotonic seconds
        self._beating: asyncio.Task[None]
        self._talking: list[Relay] = []  # that have said something in this turn of the loop
        self._links = Links(mesh, self._up, self._down, self._take, self._gather, self._see_if_frozen)
        self.me = self._links.me
        self.send = self._links.send
        self._closing: Optional[asyncio.Task[None]] = None
        self.front = Front(self)
        self._open_back()

    def open(self) -> None:
        """Become a node of the cluster. Raises OSError where that cannot be."""
        self._beat_at = self.now()
        self._beating = asyncio.create_task(self._beat())
        self._start()
        self._links.open()

    async def close(self) -> None:
        """Have all members here told, let the others have the topics, and be no node any more."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)  # whoever comes second waits as well

    async def _close(self) -> None:
        self.front.stop()
        await asyncio.wait({self.front.task})
        self._links.flush()
        self._change([node for node in self.view if node != self.me])
        for node in self.view:
            self.send(node, Resign())
        self.back.stop()
        await asyncio.wait({self.back.task})
        self._deadline.cancel()
        self.registry.end()
        try:
            await self._links.close()
        finally:
            self._beating.cancel()
            await asyncio.wait({self._beating})
            await self._sweeper.close()

    def reopen(self) -> bool:
        """Serve again where the supervisor of the members has given up; False in another loop."""
        if self._loop is not asyncio.get_running_loop():
            return False
        self.front = Front(self)
        return True

    def _open_back(self) -> None:
        """Open the supervisor of the topics, and another one where that has given up: members elsewhere need it."""
        if self._closing is None:
            self.back = Back(self)
            self.back.task.add_done_callback(lambda _: self._open_back())

    def owner(self, topic: str) -> str:
        """The node that owns a topic, as far as this one can see. Empty where there is none any more."""
        known = self._owners.get(topic)
        if known is None:
            known = self._owners[topic] = highest(topic, self.view)
            if len(self._owners) > 100_000:
                self._owners.clear()
        return known

    def owns(self, topic: str) -> bool:
        """Whether this node is the owner."""
        return self.owner(topic) == self.me

    @contextmanager
    def contained(self, what: str, **fields: object) -> Iterator[None]:
        """A bug that one of many meets must not cost the others: it is logged as ``what``, with the fields."""
        try:
            yield
        except Exception as exception:
            self.log.bind(**fields).opt(exception=exception).error(what)

    def in_minority(self) -> bool:
        """Whether this node is to serve nobody, for it sees too few others."""
        return not self._starting and not self.has_quorum()

    def has_quorum(self) -> bool:
        """Whether this node sees enough others to serve; during its start it has not decided yet."""
        return not self._quorum or 2 * len(self.view) >= self._configured

    # Who is there.

    async def _beat(self) -> None:
        while True:
            await self.clock.sleep(BEAT_SECONDS)
            self._see_if_frozen()
            now = self.now()
            self._remains.expire(now)
            self.estates.expire(now)
            self._links.greet()

    def _see_if_frozen(self) -> None:
        """Where this process was stopped for long, the others went on without it: begin anew as well."""
        before, self._beat_at = self._beat_at, self.now()
        if self._beat_at - before > FROZEN_SECONDS:
            self.log.bind(seconds=round(self._beat_at - before, 1)).warning("node frozen")
            self._deadline.cancel()
            self._start()
            self.estates.abandon()
            self._bequeathed.clear()
            self._views.clear()
            own = [relay for relay in self._relays if relay.owner == self.me]
            self._links.begin_anew()
            for relay in own:
                with self.contained("relay attach failed", topic=relay.name):
                    relay.attach(self.me)

    def _up(self, node: str) -> None:
        self._change([*self.view, node])

    def _down(self, node: str) -> None:
        self._views.pop(node, None)
        self.estates.lose(node)
        if node in self.view:
            self._change([other for other in self.view if other != node])

    def _change(self, view: list[str]) -> None:
        """See others than before. All that the others have to know is on its way to them when this returns."""
        self.view = sorted(view)
        self._owners.clear()
        self._rations.clear()
        self._unsettle()
        self._bequeathed.update(self.estates.hand_over())
        self._remains.expire(self.now())
        remains = [
            Bequest(topic, "", journal.told(), journal.kept(self.ration(self.owner(topic))), [])
            for topic, journal in self._remains.of_others_than(self.view)
        ]
        for bequest in [*self._bequeathed.values(), *remains]:
            owner = self.owner(bequest.topic)
            if owner == self.me:
                self.estates.inherit(owner, bequest)
            elif owner:
                self.send(owner, bequest)
        for relay in self._relays:
            owner = self.owner(relay.name)
            if owner != relay.owner and owner:
                with self.contained("relay attach failed", topic=relay.name):
                    relay.attach(owner)
        self._views.clear()  # what was true of this view once need not be true again
        for node in self.view:
            self.send(node, Settled(self.view, node != self.me))
        self.registry.ask_again()
        if self.in_minority() and self.me in self.view:
            self.log.bind(nodes=len(self.view), configured=self._configured).warning("quorum lost: members closed")
            self.front.dismiss(CloseCode.OVERLOADED)

    def _start(self) -> None:
        self.settled, self._starting = False, True
        self._deadline = self.clock.call_later(START_SECONDS, self._settle)

    def _unsettle(self) -> None:
        self.settled = False
        if not self._starting:  # that takes longer: as long as it may take to see the others
            self._deadline.cancel()
            self._deadline = self.clock.call_later(SETTLE_SECONDS, self._settle)

    def _settle_if_all_have(self) -> None:
        if self.settled or (self._starting and len(self.view) < self._configured):
            return
        if all(self._views.get(node) == self.view for node in self.view):
            self._settle()

    def _settle(self) -> None:
        """Open the topics that others had before, and those that were asked for meanwhile."""
        self._deadline.cancel()
        self.settled = True
        was_starting, self._starting = self._starting, False
        if was_starting and self.in_minority():
            self.front.dismiss(CloseCode.OVERLOADED)
        self.estates.settle()
        self._bequeathed.clear()
        for event in self._counts:
            self.back.count(event)
        self._counts.clear()

    # Relays.

    def add(self, relay: Relay) -> None:
        """A relay has come to be; it is attached to its owner."""
        self._relays.add(relay)
        relay.attach(self.owner(relay.name) or self.me)

    def remove(self, relay: Relay, life: int, journal: Journal) -> None:
        """A relay has ended; what it had followed."""
        self._relays.discard(relay)
        self.forget_life(life)
        if journal.backlog:
            self._remains.add(relay.name, relay.owner, journal, self.now() + REMAINS_SECONDS)

    def ration(self, node: str) -> Ration:
        """What may still go to a node of windows in this view."""
        return self._rations.setdefault(node, Ration(inf if node == self.me else WINDOWS_BYTES))

    def flush_later(self, relay: Relay) -> None:
        """Have a relay send what is said in this turn of the loop, at its end."""
        self._talking.append(relay)
        self._links.flush_soon()

    def _gather(self) -> None:
        talking, self._talking = self._talking, []
        for relay in talking:
            with self.contained("relay flush failed", topic=relay.name):
                relay.flush()

    def new_life(self, relay: Relay) -> int:
        """The number of a relay's next attachment."""
        life = self._new_life()
        self._lives[life] = relay
        return life

    def forget_life(self, life: int) -> None:
        """What comes for that attachment is dropped from here on."""
        self._lives.pop(life, None)

    # What comes from nodes.

    def _take(self, node: str, item: Item) -> None:
        if isinstance(item, ToRelay):
            relay = self._lives.get(item.life)
            if relay is not None:
                relay.take(item)
        elif isinstance(item, ToOwner):
            self.estates.take(node, item)
        elif type(item) is Settled:
            self._views[node] = item.view
            if item.ask:
                self.send(node, Settled(self.view, False))
            self.estates.waive(node, item.view)
            self._settle_if_all_have()
        elif type(item) is Bequest:
            self.estates.inherit(node, item)
        elif type(item) is Count:
            if self.settled:
                self.back.count(CountTopics(node, item.number))
            else:
                self._counts.append(CountTopics(node, item.number))
        elif type(item) is Counted:
            self.registry.take(node, item)
        elif type(item) is Resign:
            self._down(node)
