"""Random runs of a cluster, without sockets: members come, talk and go while nodes do, and ways are slow or cut.

A seed decides a plan: what happens, and how many turns the loop has until the next thing happens. At its end all ways
are open and all nodes are awake; then they must agree, members must have heard what they had to, and when all have
left, nothing must be left of them.
"""

import asyncio
import math
import random
import traceback
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any, NamedTuple, Optional
from unittest.mock import patch

from loguru import logger

from chat_actors.cluster.estate import TAKEN_SECONDS
from chat_actors.cluster.node import START_SECONDS, Node
from chat_actors.cluster.relay import Relay
from tests.support.cluster.fabric import Nodes, Person
from tests.support.cluster.world import World, asks
from tests.support.fakes import Frame, settle, tasks

TOPICS = ("sports", "movies")
USERNAMES = ("alice", "bob", "carol")
WINDOWS: tuple[dict[str, Any], ...] = ({}, {"events": True}, {"resume": ""})
MOST_NODES = 6
LATE = 2.5  # seconds, for which a process is stopped and the others do not notice
TURNS = (0, 1, 2, 3, 5, 8, 20, 60, 200)  # of the loop, between one step and the next
ACTIONS = {  # how often each is chosen, relative to the others
    "join": 8,
    "say": 22,
    "leave": 3,
    "kill": 2,
    "close": 1,
    "start": 3,
    "freeze": 1,
    "thaw": 2,
    "stop": 1,
    "hold": 8,
    "pass_on": 5,
    "wait": 2,
    "calm": 2,
}
SPLITS = {"part": 6, "heal": 3, "hold": 20}  # and so much is on its way when they come
OF_MEMBERS = (  # what nodes keep because of them
    "estates.open",
    "estates._waiting",
    "estates._bequests",
    "registry._asked",
    "_relays",
    "_lives",
    "_counts",
)


class Step(NamedTuple):
    """What happens, the seed of how it happens, and how many turns the loop has then."""

    action: str
    seed: int
    turns: int


def plan(seed: int, steps: int, split: bool) -> list[Step]:
    """The plan of a seed."""
    rng = random.Random(seed)
    menu = {**ACTIONS, **SPLITS} if split else ACTIONS
    actions = rng.choices(list(menu), list(menu.values()), k=steps)
    return [Step(action, rng.getrandbits(32), rng.choice(TURNS)) for action in actions]


class Talker(Person):
    """A member, what it has said and what it has heard."""

    def __init__(self, number: int, node: Node, topic: str) -> None:
        super().__init__(node)
        self.number = number
        self.topic = topic
        self.said: list[tuple[str, int]] = []  # each with its moment
        self.acks: list[float] = []  # the moment of each
        self.frames: list[Frame] = []
        self.since: Optional[int] = None  # the moment by which its join was answered
        self.left = False
        self.lost = False  # its node is gone
        self.stopped = False  # its node was stopped for a while: what was said meanwhile may have been missed
        self.outbox.on_close = self.goes
        self.outbox.reply.add_done_callback(lambda reply: reply.cancelled() or reply.exception())

    def goes(self) -> None:
        """Leave, as a session does when it is closed."""
        self.left = True
        self.leaves()

    def listen(self, moment: int) -> None:
        """Take down what has come."""
        frames = self.outbox.take()
        self.frames += frames
        self.acks += [moment for frame in frames if frame["type"] == "ack"]
        if self.since is None and any(frame["type"] == "joined" for frame in self.frames):
            self.since = moment
            self.address = self.outbox.reply.result()

    def talk(self, moment: int) -> None:
        """Say something that nobody else says, and that was not said before."""
        text = f"{self.number}-{len(self.said)}"
        self.said.append((text, moment))
        self.says(text)

    @property
    def texts(self) -> list[str]:
        """The messages it has heard."""
        return [frame["message"] for frame in self.frames if frame["type"] == "message"]

    @property
    def ids(self) -> list[int]:
        """Of the messages it has heard, its own among them."""
        return [frame["id"] for frame in self.frames if frame["type"] in ("message", "ack")]


class Split:
    """Which nodes were on one side and which on the other; when it began, when they met, and when all had met."""

    def __init__(self, one: Collection[Node], other: Collection[Node], moment: int) -> None:
        self.sides = {**{node.me: 1 for node in one}, **{node.me: 2 for node in other}}
        self.began = moment
        self.healed = self.over = math.inf


class Run:
    """One run of a cluster. ``trace`` is given a line for each thing that happens."""

    def __init__(self, trace: Optional[list[str]] = None) -> None:
        self.nodes = World(message_ttl=600.0)
        self.talkers: list[Talker] = []
        self.moment = 0
        self.splits: list[Split] = []
        self._trace = trace
        self._rng = random.Random()

    async def play(self, steps: Collection[Step]) -> None:
        """Do all steps, and then let all ways be open and all nodes awake."""
        for node in [self._make() for _ in range(3)]:
            node.open()
        await self._calm()
        for number in range(6):
            await self._do(Step("join", number, 0))
        await settle()
        self._listen()
        for step in steps:
            self.moment += 1
            await self._do(step)
            await settle(step.turns)
            self._listen()
        self._heal()
        while self.nodes.fabric.frozen:
            await self._thaw()
        for _ in range(2):
            await self._calm()
        self.moment += 1

    async def all_talk(self) -> None:
        """Have everybody who can say something once more."""
        self.moment += 1
        for talker in self.here():
            if talker.since is not None:
                talker.talk(self.moment)
        for _ in range(4):
            await settle()
        self._listen()

    async def all_leave(self) -> None:
        """Have everybody leave."""
        for talker in self.here():
            talker.goes()
        for _ in range(3):
            await settle()

    def here(self) -> list[Talker]:
        """Those who are members, or have asked to be."""
        return [talker for talker in self.talkers if not talker.lost and not talker.left]

    def awake(self) -> list[Node]:
        """The nodes that run."""
        return [node for node in self.nodes.all if node.me not in self.nodes.fabric.frozen]

    def together(self, one: Talker, other: Talker, moment: int) -> bool:
        """Whether no split has come between two from that moment on."""
        nodes = one.node.me, other.node.me
        return all(split.over < moment or len({split.sides.get(node) for node in nodes}) == 1 for split in self.splits)

    def cut(self, said: int, acked: float) -> bool:
        """Whether a split came in between: then both sides may have the message."""
        return any(said <= split.began <= acked for split in self.splits)

    def meeting(self, moment: float) -> bool:
        """Whether sides were about to meet then: one member may have come to the other side before another one."""
        return any(split.healed <= moment <= split.over for split in self.splits)

    def _make(self) -> Node:
        return self.nodes.make(configured=99)  # never all: it settles when it has waited long enough

    async def _do(self, step: Step) -> None:
        self._rng = random.Random(step.seed)
        pending = getattr(self, "_" + step.action)()
        if pending is not None:
            await pending

    def _note(self, what: str) -> None:
        if self._trace is not None:
            self._trace.append(f"{self.moment:3} {what}")

    def _listen(self) -> None:
        for talker in self.talkers:
            talker.listen(self.moment)

    def _can_talk(self) -> list[Talker]:
        awake = self.awake()
        return [talker for talker in self.here() if talker.node in awake]

    def _of(self, node: Node) -> list[Talker]:
        return [talker for talker in self.talkers if talker.node is node]

    # What members do.

    def _join(self) -> None:
        rng = self._rng
        talker = Talker(len(self.talkers), rng.choice(self.awake()), rng.choice(TOPICS))
        self.talkers.append(talker)
        username, window = rng.choice(USERNAMES), rng.choice(WINDOWS)
        self._note(f"{talker.number} joins {talker.topic} at {talker.node.me} as {username} {window or ''}")
        asks(talker, username, talker.topic, **window)

    def _say(self) -> None:
        talkers = [talker for talker in self._can_talk() if talker.since is not None]
        if talkers:
            talker = self._rng.choice(talkers)
            self._note(f"{talker.number} says {talker.number}-{len(talker.said)} and on")
            for _ in range(self._rng.choice((1, 1, 3))):
                talker.talk(self.moment)

    def _leave(self) -> None:
        talkers = self._can_talk()
        if len(talkers) > 3:
            talker = self._rng.choice(talkers)
            self._note(f"{talker.number} leaves")
            talker.goes()

    # What happens to nodes.

    def _start(self) -> None:
        if len(self.nodes.all) < MOST_NODES:
            node = self._make()
            self._note(f"start {node.me}")
            if self.nodes.fabric.apart:  # it is on one of the sides
                sides = self.splits[-1].sides
                sides[node.me] = self._rng.choice((1, 2))
                for other in self.nodes.all:
                    if sides.get(other.me, 0) + sides[node.me] == 3:
                        self.nodes.apart(node, other)
            node.open()

    def _someone_of_many(self, what: str) -> Optional[Node]:
        awake = self.awake()
        if len(awake) <= 2:
            return None
        node = self._rng.choice(awake)
        self._note(f"{what} {node.me}")
        return node

    def _kill(self) -> None:
        node = self._someone_of_many("kill")
        if node is not None:
            self._listen()
            for talker in self._of(node):
                talker.lost = True
            held = self.nodes.fabric.held
            for way in [way for way in held if node.me in way]:
                del held[way]
            self.nodes.end_process(node)

    async def _close(self) -> None:
        node = self._someone_of_many("close")
        if node is not None:
            self._open_ways(node)
            await settle()
            for talker in self._of(node):
                talker.lost = True
            await self.nodes.close(node)

    async def _freeze(self) -> None:
        node = self._someone_of_many("freeze")
        if node is not None:
            for talker in self._of(node):
                talker.stopped = True
            self._open_ways(node)
            await settle()
            await self._wait()
            await self.nodes.freeze(node)

    async def _thaw(self) -> None:
        frozen = [node for node in self.nodes.all if node.me in self.nodes.fabric.frozen]
        if frozen:
            node = self._rng.choice(frozen)
            self._note(f"thaw {node.me}")
            await self.nodes.thaw(node)

    async def _stop(self) -> None:
        node = self._someone_of_many("stop for a moment")
        if node is not None:
            for talker in self._of(node):
                talker.stopped = True
            await self.nodes.stop(node, LATE)

    # What happens to the ways between them.

    def _open_ways(self, sender: Node) -> None:
        for way in [way for way in self.nodes.fabric.held if way[0] == sender.me]:
            self.nodes.fabric.pass_on(*way)

    def _hold(self) -> None:
        """Between a member and the owner of its topic, for most ways are silent."""
        talkers = self._can_talk()
        if talkers:
            talker = self._rng.choice(talkers)
            way = [talker.node.me, talker.node.owner(talker.topic)]
            self._rng.shuffle(way)
            sender, receiver = way
            if sender != receiver:
                self._note(f"hold {sender} -> {receiver}")
                self.nodes.fabric.hold(sender, receiver)

    def _pass_on(self) -> None:
        held = self.nodes.fabric.held
        if held:
            sender, receiver = self._rng.choice(list(held))
            self._note(f"pass on {sender} -> {receiver}: {len(held[sender, receiver])}")
            self.nodes.fabric.pass_on(sender, receiver)

    def _part(self) -> None:
        awake = self.awake()
        if len(awake) > 1 and not self.nodes.fabric.apart and not self.nodes.fabric.frozen:
            self._rng.shuffle(awake)
            place = self._rng.randrange(1, len(awake))
            one_side, other_side = awake[:place], awake[place:]
            self.splits.append(Split(one_side, other_side, self.moment))
            self._note(f"part {[node.me for node in one_side]} and {[node.me for node in other_side]}")
            for one in one_side:
                for other in other_side:
                    self.nodes.fabric.part(one.me, other.me)

    def _heal(self) -> None:
        fabric = self.nodes.fabric
        self._note("heal")
        for split in self.splits:
            split.healed = min(split.healed, self.moment)
        for one, other in sorted(sorted(pair) for pair in fabric.apart):
            if one in fabric.ends and other in fabric.ends:
                fabric.heal(one, other)
        fabric.apart.clear()

    # Time.

    async def _wait(self) -> None:
        """As long as an owner waits for its parcels to be taken."""
        self._note("wait")
        await self.nodes.run_out(TAKEN_SECONDS)

    async def _calm(self) -> None:
        """Open all ways, and let all happen that follows."""
        self._note("calm")
        for way in list(self.nodes.fabric.held):
            await self.nodes.fabric.release(*way)
        await self.nodes.run_out(TAKEN_SECONDS)
        await self.nodes.pass_time(1.0)
        await self.nodes.run_out(START_SECONDS)
        self._listen()
        if not self.nodes.fabric.apart:
            for split in self.splits:
                split.over = min(split.over, self.moment)


# What must hold.


def agreement(run: Run) -> Iterator[str]:
    """All nodes see all others, and have settled; every join is answered."""
    there = sorted(node.me for node in run.nodes.all)
    for node in run.nodes.all:
        if node.view != there:
            yield f"view: {node.me} sees {node.view}, there are {there}"
        if not node.settled:
            yield f"settled: {node.me} is not"
    for talker in run.here():
        if talker.since is None:
            yield f"join: of {talker.number} into {talker.topic} at {talker.node.me} is not answered"


async def membership(run: Run) -> list[str]:
    """Nothing is unacknowledged; lists, names and rosters are those of the members."""
    wrong = []
    members = Counter(talker.topic for talker in run.here())
    for node in run.nodes.all:
        listed = {one["topic"]: one["users"] for one in await run.nodes.listed(node)}
        if listed != members:
            wrong.append(f"list: {listed} at {node.me}, and there are {dict(members)}")
    for topic in TOPICS:
        relays = [relay for node in run.nodes.all for relay in node._relays if relay.name == topic]
        guests = [guest for relay in relays for guest in relay._guests.values()]
        unacked = [text for guest in guests for text, _ in guest.unacked]
        if unacked:
            wrong.append(f"unacknowledged: {unacked} in {topic}")
        names = sorted(guest.username for guest in guests if guest.asked is None)
        if len(set(names)) < len(names):
            wrong.append(f"names: {names} in {topic}")
        for relay in relays:
            if relay._roster is not None and sorted(relay._roster.names) != names:
                wrong.append(f"roster: {relay._roster.names} in {topic}, and its members are {names}")
    return wrong


def conversations(run: Run) -> Iterator[str]:
    """Everybody whose node was not stopped has heard, once and in order, all that the others know to be in the topic.

    After a second split there need be no one order. After any, all else is true of those who were on one side, unless a
    message was on its way as the split came. What an owner had told nobody but members of its own node may have died
    with them.
    """
    for talker in run.here():
        if talker.stopped or talker.since is None:
            continue
        ids, heard = talker.ids, Counter(talker.texts)
        if len(run.splits) < 2 and any(later <= earlier for earlier, later in zip(ids, ids[1:])):
            yield f"order: {ids} at {talker.number}"
        for other in run.talkers:
            if other is talker or other.topic != talker.topic:
                continue
            acks = [*other.acks, *[math.inf] * len(other.said)]
            for (text, said), acked in zip(other.said, acks):
                if not run.together(talker, other, said):
                    continue
                times = heard[text]
                if times > 1 and not (run.splits and (other.stopped or run.cut(said, acked))):
                    yield f"doubled: {text} said at {said}, at {talker.number}"
                due = acked < math.inf and said > talker.since and not run.meeting(acked)
                if not times and due and not other.stopped and not other.lost:
                    yield f"lost: {text} said at {said}, at {talker.number} who joined at {talker.since}"


def remains(nodes: Nodes) -> Iterator[str]:
    """Nothing is left of members who have left."""
    there = {node.me for node in nodes.all}
    for node in nodes.all:
        for what in OF_MEMBERS:
            left = attrgetter(what)(node)
            if left:
                yield f"left: {what} {left}"
        for supervisor in (node.front, node.back):
            if supervisor._active_of or supervisor._topics or supervisor._tasks:
                yield f"left: {type(supervisor).__name__} {len(supervisor._active_of)} {list(supervisor._topics)}"
        if set(node._views) - there:
            yield f"left: views of {set(node._views) - there}"


async def play(steps: Collection[Step], trace: Optional[list[str]] = None) -> list[str]:
    """Play the steps of a plan in a new cluster; return what is wrong with it."""
    before = tasks()
    run = Run(trace)
    await run.play(steps)
    wrong = list(agreement(run))
    await run.all_talk()
    wrong += await membership(run)
    wrong += conversations(run)
    await run.all_leave()
    wrong += remains(run.nodes)
    await run.nodes.end()
    if tasks() != before:
        wrong.append(f"left: {len(tasks() - before)} tasks")
    return wrong


# From the outside.


@contextmanager
def _same_every_time(seed: int) -> Iterator[None]:
    """Nodes, lines and tokens have the same names whenever a seed is run, and relays are in one order."""
    rng = random.Random(seed)
    with ExitStack() as stack:
        for name in ("token_hex", "token_urlsafe"):
            stack.enter_context(patch(f"secrets.{name}", lambda size: f"{rng.getrandbits(32):08x}"))
        stack.enter_context(patch.object(Relay, "__hash__", lambda relay: relay.number))
        yield


def explore(seed: int, steps: Collection[Step], trace: Optional[list[str]] = None) -> list[str]:
    """Run a plan with the names of a seed; returns what is wrong, each with its kind as the first word."""
    wrong: list[str] = []

    async def main() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        wrong.extend(await play(steps, trace))
        wrong.extend(f"complaint: {context}" for context in complaints)

    sink = logger.add(lambda line: wrong.append(f"error: {line}"), level="ERROR", format="{message} {extra}")
    with _same_every_time(seed):
        try:
            asyncio.run(main())
        except Exception:
            wrong.append(f"exception: {traceback.format_exc()}")
        finally:
            logger.remove(sink)
    return wrong


def minimal(seed: int, steps: list[Step], wrong: list[str]) -> list[Step]:
    """As few of the steps as are needed for the first of these troubles, so far as leaving some out can tell."""
    kind = wrong[0].split(":")[0]
    size = 16
    while size:
        place = 0
        while place < len(steps):
            fewer = steps[:place] + steps[place + size :]
            if any(one.startswith(kind) for one in explore(seed, fewer)):
                steps = fewer
            else:
                place += size
        size //= 2
    return steps
