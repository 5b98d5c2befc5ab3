"""``python -m tests.tools.faults.served``: the server of ``python -m chat_actors``, which also says how it is.

On SIGUSR1 it logs how many tasks there are, and how many objects of the package are alive. Variables bring faults
that cannot come from outside: ``FAULTS_CRASH_EVERY=n`` has each topic (but the witnesses') fail at every nth message,
``FAULTS_OPEN_FILES=n`` is the limit on open files, and ``FAULTS_LOOP`` chooses the event loop.
"""

import asyncio
import gc
import os
import resource
import signal
from collections import Counter
from functools import partial
from unittest.mock import patch

import uvicorn
from loguru import logger

import chat_actors.app as served
from chat_actors.__main__ import main
from chat_actors.actors.events import Send as SendEvent
from chat_actors.actors.events import TopicEvent
from chat_actors.actors.outbox import Outbox
from chat_actors.actors.topic import Topic
from chat_actors.connection.asgi import Receive, Scope, Send
from chat_actors.connection.session import Session

application = served.app


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
    await application(scope, receive, send)


def tell() -> None:
    """Log what is alive; what only the garbage collector holds is not."""
    gc.collect()
    alive = gc.get_objects()
    kinds = {"sessions": Session, "outboxes": Outbox, "topics": Topic}
    counts = {name: sum(isinstance(thing, kind) for thing in alive) for name, kind in kinds.items()}
    logger.bind(tasks=len(asyncio.all_tasks()), **counts).info("alive")


def crash_every(messages: int) -> None:
    """Have each topic fail at its nth, 2nth ... message, before it has done anything with it."""
    handle = Topic.handle
    taken: Counter[str] = Counter()

    def handle_or_fail(self: Topic, event: TopicEvent) -> None:
        if type(event) is SendEvent and self.name != "witness":
            taken[self.name] += 1
            if not taken[self.name] % messages:
                raise RuntimeError("a fault on purpose")
        handle(self, event)

    patch.object(Topic, "handle", handle_or_fail).start()


if __name__ == "__main__":
    if "FAULTS_CRASH_EVERY" in os.environ:
        crash_every(int(os.environ["FAULTS_CRASH_EVERY"]))
    if "FAULTS_OPEN_FILES" in os.environ:
        limit = int(os.environ["FAULTS_OPEN_FILES"])
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if "FAULTS_LOOP" in os.environ:
        patch.object(uvicorn, "run", partial(uvicorn.run, loop=os.environ["FAULTS_LOOP"])).start()
    patch.object(served, "app", app).start()
    main()
