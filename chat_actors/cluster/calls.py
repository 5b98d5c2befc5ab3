"""A node's threads: one that calls each other node, and one that sends to it; zenoh may hold either for seconds."""

import queue
import threading
from contextlib import suppress
from typing import Any, Callable, Optional

import zenoh
from loguru import logger

from chat_actors.cluster import zenoh_config
from chat_actors.cluster.wire import VERSION

MOST_WAITING = 64 * 1024 * 1024  # bytes for one other node; one more, and it is given up
CALL_AGAIN_SECONDS = 0.25  # after a call that was not answered, or is over
PREFIX = f"chat_actors/{VERSION}"  # of all that is said: nodes that speak otherwise do not see each other


class Sender(threading.Thread):
    """Sends to one other node, in order, waiting as long as it takes."""

    def __init__(self, publisher: Any) -> None:
        super().__init__(daemon=True, name="chat_actors-mesh")
        self._publisher = publisher
        self._queue: queue.SimpleQueue[Optional[bytes]] = queue.SimpleQueue()
        # Bytes, each counted by one thread alone: a lock would have the loop wait for a thread that waits for the loop.
        self._given = 0
        self._done = 0
        self._dropping = False
        self.start()

    def put(self, data: bytes) -> bool:
        if self.waiting + len(data) > MOST_WAITING:
            return False
        self._given += len(data)
        self._queue.put(data)
        return True

    @property
    def waiting(self) -> int:
        """Bytes that are not sent yet."""
        return self._given - self._done

    def end(self, drop: bool) -> None:
        """Let the thread end, behind what waits or without it."""
        self._dropping = drop
        self._queue.put(None)

    def run(self) -> None:
        while True:
            data = self._queue.get()
            if data is None:
                break
            if not self._dropping:
                try:
                    self._publisher.put(data)
                except Exception as exception:  # the session is closed; the node is, or will be, seen as gone
                    logger.bind(error=str(exception)).debug("mail dropped: send failed")
            self._done += len(data)
        with suppress(zenoh.ZError):  # the session is closed
            self._publisher.undeclare()


class Call:
    """A session that is connected to one other node."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.node = ""  # until it is known who it is
        self.declared: tuple[Any, ...] = ()  # for as long as it is referred to
        self.over = threading.Event()

    def hear(self, node: str, there: bool) -> bool:
        """A node's token has come or gone; whether it is now known who is reached."""
        if there and not self.node:
            self.node = node
            return True
        if not there and self.node == node:
            self.over.set()
        return False


class Caller(threading.Thread):
    """Calls whoever listens on an endpoint, and again when a call is over."""

    def __init__(self, me: str, config: Any, reached: Callable[[Call], None], lost: Callable[[Call], None]) -> None:
        super().__init__(daemon=True, name="chat_actors-mesh-caller")
        self._me = me
        self._config = config
        self._reached = reached
        self._lost = lost
        self._ending = threading.Event()
        self._call: Optional[Call] = None
        self.start()

    def end(self) -> None:
        """Let the thread end, and its call before that."""
        self._ending.set()
        call = self._call
        if call is not None:
            call.over.set()

    def run(self) -> None:
        why = ""
        while not self._ending.is_set():
            try:
                self._hold(zenoh.open(self._config))
                why = ""
            except zenoh.ZError as wrong:  # as a rule: nobody listens there
                if why != (why := str(wrong)):
                    logger.bind(error=why).debug("node call failed")
            self._ending.wait(CALL_AGAIN_SECONDS)

    def _hold(self, session: Any) -> None:
        call = self._call = Call(session)

        def on_token(sample: Any) -> None:
            if call.hear(name_of(sample), sample.kind == zenoh.SampleKind.PUT):
                self._reached(call)

        try:
            liveliness = session.liveliness()
            call.declared = (
                liveliness.declare_token(f"{PREFIX}/call/{session.zid()}/{self._me}"),
                liveliness.declare_subscriber(f"{PREFIX}/node/*", on_token, history=True),
            )
            while not self._ending.is_set() and not call.over.wait(zenoh_config.LEASE_MS / 1000) and call.node:
                pass
        finally:
            call.over.set()
            self._lost(call)
            session.close()


def name_of(sample: Any) -> str:
    """Of the node that holds a token."""
    return str(sample.key_expr).rpartition("/")[2]
