"""What must hold of a world: always, when nothing more happens, and at its end."""

import asyncio
from collections import Counter
from typing import Any, Optional

from chat_actors.protocol import CloseCode
from chat_actors.topic import EXPIRY_GRAIN, Join, Send
from tests.simulation.loop import ShuffledLoop
from tests.simulation.model import Item, Model, item
from tests.simulation.peer import Frame
from tests.simulation.world import BOOM, LOG, Client, Life, Rooms, World


class Broken(Exception):
    """Something that must hold does not."""


def quiet(world: World, answer: Rooms) -> None:
    """While nothing is ready: who is in, by every view of it. ``answer``: what /list said just now."""
    inside = [client for client in world.clients if client.topic and not client.task.done()]
    for client in inside:
        if client.joined() is None:
            raise Broken(f"a join into {client.topic} is not answered")
    users = Counter(client.topic for client in inside)
    if sorted(answer) != sorted(users.items()):
        raise Broken(f"/list says {answer}, and in the topics are {sorted(users.items())}")
    supervisor = world.supervisor
    outboxes = {client.outbox: client.topic for client in inside}
    where = {outbox: active.topic.name for outbox, active in supervisor._where.items()}
    if where != outboxes:
        raise Broken(f"the supervisor's members are {where}, the sessions' {outboxes}")
    topics = [active.topic for active in supervisor._topics.values()]
    present = {outbox: topic.name for topic in topics for outbox in topic._members.present}
    if present != outboxes:
        raise Broken(f"the topics' members are {present}, the sessions' {outboxes}")
    if supervisor._tasks != {topic.task for topic in topics}:
        raise Broken(f"{len(supervisor._tasks)} topics run, and {len(topics)} are listed")
    for topic in topics:
        for deadline in (topic._history.oldest_deadline, topic._members.oldest_deadline):
            if deadline is not None and deadline < world.loop.time() - EXPIRY_GRAIN - 0.001:
                raise Broken(f"{topic.name} remembers something past its end")
    frames(world)


def end(world: World) -> None:
    """After the shutdown, when every peer has hung up."""
    left = asyncio.all_tasks(world.loop) - {asyncio.current_task(world.loop)}
    if left:
        raise Broken(f"tasks are left: {sorted(str(task.get_coro()) for task in left)}")
    if world.watch.outboxes:
        raise Broken(f"{len(world.watch.outboxes)} outboxes are left with the stall watch")
    frames(world)
    crashes = sum(life.crashes for life in world.supervisor.lives)
    if LOG.crashes != crashes:
        raise Broken(f"{crashes} events crashed, {LOG.crashes} were reported")


def frames(world: World) -> None:
    """What each client was sent is what it is due: all of it, or the beginning where its connection has ended."""
    models = [_model(world, life) for life in world.supervisor.lives]
    for client in world.clients:
        if client.outbox is None:
            continue
        homes = [place for place, model in enumerate(models) if client.outbox in model.due]
        if len(homes) > 1:
            raise Broken("a join was taken by two topics")
        due = models[homes[0]].due[client.outbox] if homes else []
        _compare(client, "frames", items(client), due)
        _lists(client, world.supervisor.lists.get(client.outbox, []))
        life = world.supervisor.lives[homes[0]] if homes else None
        _said(client, life)
        _code(world, client, life, any(client.outbox in model.replaced for model in models))
    for life, model in zip(world.supervisor.lives, models):
        if model.accepted != life.topic._history.last_id:
            raise Broken(f"{life.topic.name} accepted {life.topic._history.last_id} messages, not {model.accepted}")


def items(client: Client) -> list[Item]:
    """What a client was sent."""
    return [known for known in map(item, client.peer.frames) if known is not None]


def unseen(loop: ShuffledLoop) -> None:
    """Nothing went wrong out of sight: no error logged, no exception never retrieved."""
    if LOG.errors:
        raise Broken(f"errors were logged: {LOG.errors}")
    if loop.complaints:
        raise Broken(f"asyncio complains: {loop.complaints}")


def _model(world: World, life: Life) -> Model:
    joined = {client.outbox: client.joined() for client in world.clients if client.outbox is not None}
    tokens = {outbox: frame["resume"] for outbox, frame in joined.items() if frame is not None and "resume" in frame}
    model = Model(world.limits, life.topic._epoch, tokens)
    for event, now in life.journal:
        model.handle(event, now)
    return model


def _compare(client: Client, what: str, got: list[Any], due: list[Any]) -> None:
    ended = client.peer.gone or client.task.done()
    if got != (due[: len(got)] if ended else due):
        raise Broken(f"a client of {client.topic or 'no topic'} got {what}\n{got}\nand is due\n{due}")


def _lists(client: Client, due: list[Optional[Rooms]]) -> None:
    got: list[Optional[Rooms]] = [rooms(frame) for frame in client.peer.frames if frame["type"] == "topics"]
    for place, one in enumerate(due[: len(got)]):
        if one is None:
            got[place] = None
    _compare(client, "lists", got, due)


def rooms(frame: Frame) -> Rooms:
    """What an answer to /list says."""
    return [(one["topic"], one["users"]) for one in frame["topics"]]


def _said(client: Client, life: Optional[Life]) -> None:
    """What a member said reaches its topic in order; all of it, if it is still there."""
    taken = []
    if life is not None:
        sends = [event for event, _ in life.journal if type(event) is Send and event.outbox is client.outbox]
        taken = [(event.message, event.ref) for event in sends]
    _compare(client, "its messages taken", taken, client.said)


def _code(world: World, client: Client, life: Optional[Life], replaced: bool) -> None:
    """Nobody is closed without a cause."""
    causes = {
        None: True,
        CloseCode.RESTARTING: world.stopped,
        CloseCode.CRASHED: client.username == BOOM or (life is not None and life.may_give_up),
        CloseCode.RESUMED_ELSEWHERE: replaced,
        CloseCode.NO_JOIN: True,
    }
    if not causes.get(client.peer.code, False):
        raise Broken(f"a client of {client.topic or 'no topic'} was closed with {client.peer.code} for no reason")
