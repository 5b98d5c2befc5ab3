"""One chaos run: clients behind the proxy, a witness in each topic beside it, and what all of them must agree on."""

import asyncio
import random
from typing import Callable, NamedTuple

from chat_actors.client import Chat, Gap, Tuning, connect
from chat_actors.protocol.frames import Message
from tests.support.proxy import Proxy

TOPICS, CLIENTS = 4, 20
PATIENCE = 60.0  # seconds for all to have heard all, once nothing breaks any more


class Report(NamedTuple):
    """Report of a run: the faults and their result. ``wrong`` is empty if nothing was lost, doubled or mixed up."""

    faults: dict[str, int]
    messages: int
    heard: int
    gaps: int
    wrong: list[str]


class Listener:
    """Member that records the messages it hears, in order, and the losses it is told of."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.name = chat.username
        self.heard: list[Message] = []
        self.gaps: list[Gap] = []
        self.acked: dict[str, int] = {}  # what it said, and the id it was acknowledged with
        self.task = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        async for event in self.chat:
            if isinstance(event, Gap):
                self.gaps.append(event)
            elif isinstance(event, Message):
                self.heard.append(event)

    async def talk(self, rng: random.Random, go_on: Callable[[], bool]) -> None:
        number = 0
        while go_on():
            number += 1
            text = f"{self.name} says {number}"
            self.acked[text] = (await self.chat.send(text)).id
            await asyncio.sleep(rng.uniform(0, 0.02))

    def knows(self, last: int) -> bool:
        """Whether it has heard of everything up to ``last``, of what others said or itself."""
        ids = [message.id for message in self.heard] + [*self.acked.values()] + [gap.last or 0 for gap in self.gaps]
        return max(ids, default=0) >= last


async def run(port: int, seed: int, faults: int, progress: Callable[[int], None] = lambda done: None) -> Report:
    """``faults`` faults against the server at ``port``, which must have no rate limit; the seed decides which."""
    rng = random.Random(seed)
    tuning = Tuning(backoff=(0.02, 0.3), most_unread=1_000_000)
    async with Proxy(port, seed) as proxy:
        topics = [f"chaos {number}" for number in range(TOPICS)]
        direct = f"ws://127.0.0.1:{port}/ws"
        witnesses = {topic: Listener(await connect(direct, "witness", topic, tuning).__aenter__()) for topic in topics}
        clients: dict[str, list[Listener]] = {topic: [] for topic in topics}
        for number in range(CLIENTS):
            topic = topics[number % TOPICS]
            chat = await connect(proxy.url, f"client {number}", topic, tuning).__aenter__()
            clients[topic].append(Listener(chat))
        everyone = [client for room in clients.values() for client in room]
        breaking = True
        talks = [asyncio.ensure_future(client.talk(rng, lambda: breaking)) for client in everyone]
        done = 0
        while done < faults:
            await asyncio.sleep(rng.uniform(0, 0.06))
            done += proxy.break_one()
            progress(done)
        breaking = False
        proxy.stop_breaking()
        await asyncio.wait_for(asyncio.gather(*talks), PATIENCE)
        last = {topic: max(max(client.acked.values(), default=0) for client in clients[topic]) for topic in topics}
        for topic in topics:
            await asyncio.wait_for(_all_know([witnesses[topic], *clients[topic]], last[topic]), PATIENCE)
        wrong: list[str] = []
        for topic in topics:
            wrong += _disagreements(witnesses[topic], clients[topic])
        for listener in [*everyone, *witnesses.values()]:
            await listener.chat.__aexit__()
            await asyncio.wait({listener.task})
        messages = sum(len(client.acked) for client in everyone)
        return Report(
            proxy.faults, messages, sum(len(c.heard) for c in everyone), sum(len(c.gaps) for c in everyone), wrong
        )


async def _all_know(listeners: list[Listener], last: int) -> None:
    while not all(listener.knows(last) for listener in listeners):
        await asyncio.sleep(0.01)


def _disagreements(witness: Listener, clients: list[Listener]) -> list[str]:
    """What was lost, doubled or out of order in one topic, in sentences. The witness was never cut off."""
    wrong = [f"the witness was told of {witness.gaps}"] if witness.gaps else []
    truth = witness.heard
    if [message.id for message in truth] != [*range(1, len(truth) + 1)]:
        wrong.append("the ids that the witness heard are not 1, 2, 3 …")
    texts = [message.message for message in truth]
    if len({*texts}) != len(texts):
        wrong.append("something was broadcast twice")
    ids = {message.message: message.id for message in truth}
    for client in clients:
        if client.chat.username != client.name:
            wrong.append(f"{client.name} has become {client.chat.username}")
        for text, number in client.acked.items():
            if ids.get(text) != number:
                wrong.append(f"{text!r} was acknowledged as {number}, and is {ids.get(text)}")
        wrong += [f"{client.name} was told of a {gap.reason} gap" for gap in client.gaps if gap.last is None]
        heard = [message.id for message in client.heard]
        if heard != sorted({*heard}):
            wrong.append(f"{client.name} heard something twice or out of order")
        lost = {number for gap in client.gaps for number in range(gap.first, (gap.last or 0) + 1)}
        expected = {message.id for message in truth if message.username != client.name}
        if {*heard} - expected:
            wrong.append(f"{client.name} heard what nobody said: {sorted({*heard} - expected)[:5]}")
        if expected - {*heard} - lost:
            wrong.append(f"{client.name} missed {sorted(expected - {*heard} - lost)[:5]}")
        if any(message.message not in ids for message in client.heard):
            wrong.append(f"{client.name} heard other words than the witness")
    return wrong
