"""The rules for a world: when it is quiet, at its end, and for its log."""

import asyncio
from collections import Counter
from typing import Any, Optional, cast

from chat_actors.actors.events import Join
from chat_actors.actors.outbox import Outbox
from chat_actors.actors.topic import EXPIRY_GRAIN, Topic
from chat_actors.protocol.codes import CloseCode
from tests.support.presence import Names
from tests.tools.simulation.loop import ShuffledLoop, task_name
from tests.tools.simulation.model import Item, Model, Said, item
from tests.tools.simulation.peer import Frame
from tests.tools.simulation.prepared import LOG
from tests.tools.simulation.world import BOOM, Client, Epoch, Rooms, World


class Broken(Exception):
    """Error for a rule that does not hold."""


def quiet(world: World, answer: Rooms) -> None:
    """While nothing is ready: every join is answered, and all views of who is in agree.

    ``answer``: what /list said just now.
    """
    supervisor = world.supervisor
    inside = [client for client in world.clients if client.topic and not client.ended]
    for client in inside:
        if client.joined() is None:
            raise Broken(f"the join of client {client.number} into {client.topic} is not answered")
    users = Counter(client.topic for client in inside)
    if sorted(answer) != sorted(users.items()):
        raise Broken(f"/list says {answer}, and the sessions are in {dict(users)}")
    topics = [cast(Topic, active.topic) for active in supervisor._topics.values()]
    numbers: dict[Any, int] = {client.connection: client.number for client in world.clients}
    by_session = {client.number: client.topic for client in inside}
    by_supervisor = {numbers[outbox]: active.topic.name for outbox, active in supervisor._active_of.items()}
    by_topic = {numbers[outbox]: topic.name for topic in topics for outbox in topic._members.present}
    if not by_session == by_supervisor == by_topic:
        raise Broken(f"members by session {by_session}, by supervisor {by_supervisor}, by topic {by_topic}")
    if supervisor._tasks != {topic.task for topic in topics}:
        raise Broken(f"{len(supervisor._tasks)} topics run, {len(topics)} are listed")
    for topic in topics:
        for deadline in (topic._history.oldest_deadline, topic._members.oldest_deadline):
            if deadline is not None and deadline < world.loop.time() - EXPIRY_GRAIN - 0.001:
                raise Broken(f"{topic.name} remembers something past its end")
    conversations(world)


def end(world: World) -> None:
    """After the shutdown, when every peer has hung up: nothing is left of it, and nothing was lost in it."""
    tasks = asyncio.all_tasks(world.loop) - {asyncio.current_task(world.loop)}
    if tasks:
        raise Broken(f"tasks are left: {sorted(map(task_name, tasks))}")
    left = len(world.sweep.connections), len(world.hosted), world.open
    if world.loop.timers() or any(left):
        raise Broken(f"{world.loop.timers()} timers are left, and connections: {left}")
    conversations(world)


def unseen(loop: ShuffledLoop) -> None:
    """Nothing went wrong out of sight: no error is logged, no exception was never retrieved."""
    if LOG.errors:
        raise Broken(f"errors were logged: {LOG.errors}")
    if loop.complaints:
        raise Broken(f"asyncio complains: {loop.complaints}")


def conversations(world: World) -> None:
    """Each client was sent what it is due, once and in order: all of it, or the beginning if its connection ended."""
    epochs = world.supervisor.epochs
    models = [_model(world, epoch) for epoch in epochs]
    for client in world.clients:
        homes = [place for place, model in enumerate(models) if client.connection in model.due]
        if len(homes) > 1:
            raise Broken(f"the join of client {client.number} was taken by two topics")
        epoch = epochs[homes[0]] if homes else None
        _compare(client, "frames", items(client), models[homes[0]].due[client.connection] if homes else [])
        if homes:
            _check_names(client, models[homes[0]])
        closing = [frame["retry_after_ms"] for frame in client.peer.frames if frame["type"] == "closing"]
        _compare(
            client,
            "closing",
            closing,
            [delay for delay in [models[homes[0]].closing.get(client.connection)] if delay is not None]
            if homes
            else [],
        )
        _compare_lists(client, world.supervisor.lists.get(client.connection, []))
        _compare(client, "messages taken", _taken(client, epoch), client.said)
        _check_code(world, client, epoch, any(client.connection in model.replaced for model in models))
    for epoch, model in zip(epochs, models):
        if epoch.topic._history.last_id != model.accepted:
            raise Broken(f"{epoch.topic.name} has {epoch.topic._history.last_id} messages, and took {model.accepted}")
    if LOG.crashes != sum(epoch.crashes for epoch in epochs):
        raise Broken(f"{sum(epoch.crashes for epoch in epochs)} events crashed, {LOG.crashes} were reported")


def count(world: World, counts: "Counter[str]") -> None:
    """Add up what a schedule was made of."""
    counts["callbacks run"] += world.loop.steps
    counts["connections"] += len(world.clients)
    counts["frames received"] += sum(len(client.peer.frames) for client in world.clients)
    for epoch in world.supervisor.epochs:
        counts["topics made"] += 1
        counts["joins"] += sum(type(event) is Join for event, _ in epoch.journal)
        counts["messages accepted"] += epoch.topic._history.last_id
        counts["events crashed"] += epoch.crashes


def items(client: Client) -> list[Item]:
    """What a client was sent by its topic."""
    return [known for known in map(item, client.peer.frames) if known is not None]


def rooms(frame: Frame) -> Rooms:
    """What an answer to /list says."""
    return [(one["topic"], one["users"]) for one in frame["topics"]]


def _model(world: World, epoch: Epoch) -> Model:
    tokens: dict[Outbox, str] = {}
    for client in world.clients:
        joined = client.joined()
        if joined is not None and "resume" in joined:
            tokens[client.connection] = joined["resume"]
    model = Model(world.settings, epoch.topic._epoch, tokens)
    for event, now in epoch.journal:
        model.handle(event, now)
    return model


def _compare(client: Client, what: str, got: list[Any], due: list[Any]) -> None:
    ended = client.peer.gone or client.ended
    if got != (due[: len(got)] if ended else due):
        raise Broken(f"client {client.number} in {client.topic or 'no topic'}: {what} {got}, due {due}")


def _check_names(client: Client, model: Model) -> None:
    """A client is told of joins and leaves if it has asked for it, and then knows who is in when all is quiet."""
    outbox = client.connection
    watches, rosters, names = outbox in model.watchers, model.rosters[model.joined_at[outbox] :], Names()
    try:
        for frame in client.peer.frames:
            names.take(frame)
            if frame["type"] == "joined":
                assert ("members" in frame) == watches, "members for one who did not ask"
                assert frame.get("members") in (None, *rosters) and frame["users"] in map(len, rosters), "never so"
            assert watches or frame["type"] != "presence", "presence for one who did not ask"
        if watches and outbox in model.present and not (client.peer.gone or client.ended):
            assert sorted(names.names or []) == sorted(rosters[-1]), f"now: {rosters[-1]}"
    except AssertionError as wrong:
        raise Broken(f"client {client.number} in {client.topic}: names {names.names}, {wrong}") from None


def _compare_lists(client: Client, due: list[Optional[Rooms]]) -> None:
    got: list[Optional[Rooms]] = [rooms(frame) for frame in client.peer.frames if frame["type"] == "topics"]
    got = [None if place < len(due) and due[place] is None else one for place, one in enumerate(got)]
    _compare(client, "lists", got, due)


def _taken(client: Client, epoch: Optional[Epoch]) -> list[Any]:
    """What the client's topic took of what it said."""
    events = [] if epoch is None else [event for event, _ in epoch.journal]
    return [(event.message, event.ref) for event in events if type(event) is Said and event.outbox is client.connection]


def _check_code(world: World, client: Client, epoch: Optional[Epoch], replaced: bool) -> None:
    """Nobody is closed without a cause."""
    causes: dict[Optional[int], bool] = {
        None: True,
        CloseCode.CRASHED: client.username == BOOM or (epoch is not None and epoch.may_give_up),
        CloseCode.RESTARTING: world.stopped or client.cancelled,
        CloseCode.OVERLOADED: any(frame.get("error") == "server_full" for frame in client.peer.frames),
        CloseCode.NO_JOIN: True,
        CloseCode.RESUMED_ELSEWHERE: replaced,
    }
    if not causes.get(client.peer.code, False):
        raise Broken(f"client {client.number} in {client.topic or 'no topic'} was closed with {client.peer.code}: why?")
