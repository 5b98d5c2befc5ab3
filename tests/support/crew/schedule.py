"""One schedule of workers: what happens, drawn from a seed, in an order drawn from it too, and what must hold.

Order is kept on each wire; everything else may happen in any order: messages of different wires, the turns of the
houses, ends that are noticed late, processes that are stopped, killed, started and told to end. When nothing happens
any more the rest must come to an end within a few seconds, and then all workers agree.
"""

import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Callable, Optional

from loguru import logger

from chat_actors.settings import Settings
from chat_actors.workers import crew
from chat_actors.workers.board import Board
from tests.support.crew.kernel import Broken, Peer
from tests.support.crew.process import Mail, Process, Surroundings

MOST_PROCESSES = 4
TOPICS = ("a", "ab", "abc")
SOURCES = (None, "192.0.2.1", "192.0.2.2")
QUIET_STEPS = 16  # of half a second, within which everything has come to its end

Step = tuple[str, Callable[[], None]]


class Failure(Exception):
    """Error for a schedule that broke a rule; the seed repeats it."""

    def __init__(self, seed: int, why: str, actions: list[str]) -> None:
        super().__init__(seed, why, actions)
        self.seed = seed
        self.why = why
        self.actions = actions

    def __str__(self) -> str:
        return "\n  ".join([f"seed {self.seed}: {self.why}", "what happened until then:", *self.actions])


def _settings(**limits: int) -> Settings:
    return Settings.model_validate({"connections": 1000, "connections_per_address": 1000, "topics": 100, **limits})


# Mostly without limits: the refusals would hide the rest.
SETTINGS = (_settings(),) * 6 + (_settings(topics=2), _settings(connections=3), _settings(connections_per_address=1))


class Schedule:
    """Schedule of a seed. ``board``: a real one, which all schedules share one after the other."""

    def __init__(self, seed: int, board: Board) -> None:
        self.rng = random.Random(seed)
        self.actions: list[str] = []
        self.counts: Counter[str] = Counter()
        self._around = Surroundings(self.rng, board, self.rng.choice(SETTINGS))
        self._topics = self.rng.choice(TOPICS)
        self._capacity = self.rng.choice((1, 2, 3, 8))
        self._peers: list[Peer] = []
        self._drops = self.rng.random() < 0.3  # whether descriptors get lost, for lack of free ones

    @property
    def _processes(self) -> list[Process]:
        return self._around.processes

    def _ready(self) -> list[Process]:
        return [one for one in self._processes if one.ready and not one.stopping and one.awake]

    def _do(self, what: str, call: Callable[[], object]) -> None:
        self.actions.append(f"{self._around.now:.2f} {what}")
        call()

    # What can happen next inside the processes

    def _steps(self) -> Iterator[Step]:
        for process in self._processes:
            if process.awake:
                yield from self._steps_of(process)

    def _steps_of(self, process: Process) -> Iterator[Step]:
        name, rng = str(process), self.rng
        if process.can_begin():
            yield f"{name} begins", process.begin
        if process.changed:
            yield f"{name} announces", process.announce
        elif process.mail:
            yield f"{name} turns", lambda: process.turn(rng.randint(1, 4))
        if process.soon:
            yield f"{name} goes on", lambda: process.soon.popleft()()
        if process.ticks:
            yield f"{name} ticks", process.tick
        for timer in process.timers:
            if timer[0] <= self._around.now:
                yield f"{name} rings", partial(_ring, process, timer)
        for wire in process.wires:
            other = wire.other.owner
            if wire.other.kernel or wire.has_ended():
                without = self._drops and rng.random() < 0.03
                yield f"{name} reads from {other}", partial(process.read, wire, without)
            if wire.can_flush():
                yield f"{name} flushes to {other}", wire.flush

    def _step(self) -> bool:
        """Let one thing happen; return False if there is none."""
        steps = [*self._steps()]
        if steps:
            what, call = self.rng.choice(steps)
            self._do(what, call)
        return bool(steps)

    def _settle(self) -> None:
        """Let everything happen that can without time."""
        for _ in range(5_000):
            if not self._step():
                return
        raise Broken("messages go round in circles")

    def _pass_time(self, seconds: float) -> None:
        self._around.now += seconds
        for process in self._processes:
            process.ticks = True

    # What happens to them

    def _event(self) -> None:
        kinds = ("connect", "leave", "kill", "start", "sleep", "wake", "stop", "exit", "pause", "ask")
        kind = self.rng.choices(kinds, (14, 5, 1.5, 2, 1.5, 2, 1.2, 1.5, 4, 1))[0]
        getattr(self, f"_{kind}")()

    def _connect(self, process: Optional[Process] = None, topic: Optional[str] = None) -> None:
        ready = self._ready()
        if ready or process is not None:
            process = process or self.rng.choice(ready)
            peer = Peer(len(self._peers), topic or self.rng.choice(self._topics), self.rng.choice(SOURCES))
            self._peers.append(peer)
            self._do(f"{peer} connects to {process}", lambda: process.connect(peer))

    def _leave(self) -> None:
        here = [peer for peer in self._peers if not peer.ended]
        if here:
            self._go(self.rng.choice(here))

    def _go(self, peer: Peer) -> None:
        peer.left = True
        self._do(f"{peer} leaves", peer.end)

    def _start(self) -> None:
        if len(self._processes) < MOST_PROCESSES and all(one.ready for one in self._processes):
            slots = {one.slot for one in self._processes}
            slot = min({*range(MOST_PROCESSES)} - slots)
            free = {*range(2 * MOST_PROCESSES)} - {one.number for one in self._processes}
            number = self.rng.choice(sorted(free))  # it may be that of a process which has just ended
            process = Process(self._around, number, slot, self._capacity)
            self._do(f"{process} starts in slot {slot}", lambda: self._processes.append(process))

    def _kill(self) -> None:
        if self._processes:
            process = self.rng.choice(self._processes)
            self._do(f"{process} is killed", process.die)

    def _sleep(self) -> None:
        if self._processes:
            self._set_awake(self.rng.choice(self._processes), False)

    def _wake(self) -> None:
        if self._processes:
            self._set_awake(self.rng.choice(self._processes), True)

    def _set_awake(self, process: Process, awake: bool) -> None:
        if process.awake != awake:
            self._do(f"{process} {'goes on' if awake else 'is stopped'}", lambda: setattr(process, "awake", awake))

    def _stop(self) -> None:
        ready = self._ready()
        if ready:
            process = self.rng.choice(ready)
            self._do(f"{process} begins to end", process.stop)

    def _exit(self) -> None:
        for process in [one for one in self._processes if one.stopping and one.awake]:
            self._do(f"{process} exits", process.die)

    def _pause(self) -> None:
        self._pass_time(self.rng.choice((0.03, 0.3, 0.6, 1.2, 1.8, 2.5)))

    def _ask(self) -> None:
        asking = [one for one in self._ready() if one.crew is not None and one.crew.siblings]
        if asking:
            process = self.rng.choice(asking)
            assert process.crew is not None
            slot = self.rng.choice(sorted(process.crew.siblings))
            self._do(f"{process} asks slot {slot}", lambda: process.ask(slot))

    # The whole

    def run(self) -> None:
        """Run to the end. Raises Broken."""
        rng = self.rng
        for _ in range(rng.choice((1, 2, 3))):
            self._start()
            self._settle()
        for _ in range(rng.randint(6, 22)):
            self._event()
            for _ in range(rng.choice((0, 1, 2, 4, 9))):
                self._step()
            self._look()
        self._answer_the_awake()
        for process in self._processes:
            self._set_awake(process, True)
        self._drops = False
        self._come_to_rest()
        self._exit()
        self._come_to_rest()
        self._check_rest()
        self._probe()
        for peer in self._peers:
            if not peer.ended:
                self._go(peer)
        self._come_to_rest()
        self._check_rest()
        self._check_nothing()

    def _answer_the_awake(self) -> None:
        """Check that nobody waits for a process that is stopped: its joins are answered in time."""
        for _ in range(QUIET_STEPS):
            self._settle()
            if not any(process.awake and _travelling(process) for process in self._processes):
                return
            self._pass_time(0.5)
        raise Broken("joins wait for a process that is stopped")

    def _come_to_rest(self) -> None:
        for _ in range(QUIET_STEPS):
            self._settle()
            if self._at_rest():
                self._look()
                return
            self._pass_time(0.5)
        raise Broken(f"no rest: {[*map(_pending, self._processes)]}")

    def _at_rest(self) -> bool:
        return not any(map(_pending, self._processes))

    def _look(self) -> None:
        """Check what holds at every moment: who has heard all that was announced has the list of it."""
        announced = {process.slot: process for process in self._processes}
        for process in self._processes:
            mine = process.crew
            if mine is None or not mine.is_current():
                continue
            listed = _listed(mine)
            for slot, sibling in mine.siblings.items():
                other = announced.get(slot)
                if other is None or other.number != sibling.process or not other.ready:
                    continue
                wrong = {*_users(sibling).items()} - {*other.announced.items()}
                if wrong or not {*other.announced} <= {*listed}:
                    raise Broken(f"current list of {process}: {listed}, and {other} has {other.announced}")

    def _check_rest(self) -> None:
        """Check what holds when nothing happens any more."""
        topics = {topic: process for process in self._processes for topic in process.topics}
        for process in self._processes:
            mine = process.crew
            assert mine is not None
            _equal(f"siblings of {process}", {*mine.siblings}, {one.slot for one in self._processes} - {process.slot})
            if not mine.is_current():
                raise Broken(f"{process} knows that it does not know all")
            theirs = {topic: one.slot for topic, one in topics.items() if one is not process}
            _equal(f"known to {process}", {topic: one.slot for topic, one in mine.known.items()}, theirs)
            users = {topic: len(one.topics[topic]) for topic, one in topics.items() if one is not process}
            _equal(f"list of {process}", _listed(mine), users)
            _equal(f"topics of {process} on the board", mine.board.topics(process.slot), len(process.topics))
            _equal(f"all connections at {process}", process.admission.tally.total(), self._copies())
            for source in SOURCES[1:]:
                seen = process.admission.tally.enter(source)[1] - 1
                process.admission.tally.leave(source)
                _equal(
                    f"connections from {source}", seen, sum(one.copies for one in self._peers if one.source == source)
                )
            members = [seat for seats in process.topics.values() for seat in seats]
            _equal(f"members of {process}", {*members}, {*process.seats})
            _equal(f"descriptors of {process}", len(process.descriptors), len(members))
            _equal(f"questions of {process}", process.unanswered, 0)
        _equal("claims", {topic: one.number for topic, one in topics.items()}, self._around.claims)
        for peer in self._peers:
            answered = peer.joined or peer.code is not None
            if not answered and not (peer.ended and (peer.left or peer.lost)):
                raise Broken(f"{peer} has no answer")
            if peer.code not in (None, 1012, 1013):
                raise Broken(f"{peer} is closed with {peer.code}")
            if peer.ended != (not peer.copies):
                raise Broken(f"{peer} has {peer.copies} descriptors")
            self.counts["members" if peer.joined else f"closed with {peer.code}"] += 1

    def _copies(self) -> int:
        return sum(peer.copies for peer in self._peers)

    def _probe(self) -> None:
        """Join every topic by every worker: all is well again, so all come together."""
        if self._around.settings is SETTINGS[0]:
            first = len(self._peers)
            for topic in self._topics:
                for process in self._processes:
                    self._connect(process, topic)
            self._come_to_rest()
            self._check_rest()
            for peer in self._peers[first:]:
                if not peer.joined or peer.ended:
                    raise Broken(f"{peer} cannot join, though all is well")

    def _check_nothing(self) -> None:
        """Check that nothing is left once all peers have left."""
        _equal("descriptors", self._copies(), 0)
        _equal("claims", self._around.claims, {})
        for process in self._processes:
            _equal(f"connections of {process}", process.admission.tally.total(), 0)


def _ring(process: Process, timer: tuple[float, Mail]) -> None:
    process.timers.remove(timer)
    process.mail.append(timer[1])


def _pending(process: Process) -> list[str]:
    """What a process still waits for."""
    pending = [] if process.ready else ["beginning"]
    pending += ["timers"] if process.timers else []
    pending += ["questions"] if process.unanswered else []
    return pending + _travelling(process)


def _travelling(process: Process) -> list[str]:
    """To whom sessions are on their way."""
    siblings = [] if process.crew is None else process.crew.siblings.values()
    return [f"slot {one.slot}" for one in siblings if one._on_the_way or one._waiting]


def _listed(mine: crew.Crew) -> dict[str, int]:
    return {topic: users for one in mine.siblings.values() for topic, users in _users(one).items()}


def _users(sibling: crew.Sibling) -> dict[str, int]:
    return {topic: other.users for topic, other in sibling.topics.items()}


def _equal(what: str, seen: object, expected: object) -> None:
    if seen != expected:
        raise Broken(f"{what}: {seen}, not {expected}")


def simulate(seed: int, board: Board) -> "Counter[str]":
    """Run the schedule of a seed; return how its joins were answered. Raises Failure."""
    schedule = Schedule(seed, board)
    logger.disable("chat_actors.workers")
    try:
        schedule.run()
    except Exception as why:
        text = str(why) if isinstance(why, Broken) else repr(why)
        raise Failure(seed, text, schedule.actions) from why
    finally:
        logger.enable("chat_actors.workers")
    return schedule.counts
