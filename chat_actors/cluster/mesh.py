"""The engine: zenoh in peer mode. Discovery, transport and liveliness; nothing else imports it.

A node listens in one session, and calls each other node in another one, which ends with the connection: where zenoh
itself connects again, it may take the new connection for a part of the old one, and the two never meet again. Mail goes
from the one that calls to the one that listens. A node is there while our call reaches it and one of its reaches us.

zenoh calls back on threads of its own, and a ``put`` may wait for seconds: so what comes is handed to the loop, and
each other node has a thread that calls it and one that sends to it, behind a queue that is bounded.
"""

import asyncio
import errno
import json
import queue
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Optional

import zenoh
from loguru import logger

from chat_actors.cluster.links import Mesh

MOST_WAITING = 64 * 1024 * 1024  # bytes for one other node; one more, and it is given up
LEASE_MS = 3000  # a node that says nothing for so long is dead
CALL_AGAIN_SECONDS = 0.25  # after a call that was not answered, or is over
CLOSE_SECONDS = 2.0  # for what waits to be sent at the end
PREFIX = "chat_actors"


class _Sender(threading.Thread):
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
                    logger.bind(error=str(exception)).debug("not sent to a node")
            self._done += len(data)
        with suppress(zenoh.ZError):  # the session is closed
            self._publisher.undeclare()


class _Call:
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


class _Caller(threading.Thread):
    """Calls whoever listens on an endpoint, and again when a call is over."""

    def __init__(self, me: str, config: Any, reached: Callable[[_Call], None], lost: Callable[[_Call], None]) -> None:
        super().__init__(daemon=True, name="chat_actors-mesh-caller")
        self._me = me
        self._config = config
        self._reached = reached
        self._lost = lost
        self._ending = threading.Event()
        self._call: Optional[_Call] = None
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
                    logger.bind(error=why).debug("cannot call a node")
            self._ending.wait(CALL_AGAIN_SECONDS)

    def _hold(self, session: Any) -> None:
        call = self._call = _Call(session)

        def on_token(sample: Any) -> None:
            if call.hear(_name(sample), sample.kind == zenoh.SampleKind.PUT):
                self._reached(call)

        try:
            liveliness = session.liveliness()
            call.declared = (
                liveliness.declare_token(f"{PREFIX}/call/{session.zid()}/{self._me}"),
                liveliness.declare_subscriber(f"{PREFIX}/node/*", on_token, history=True),
            )
            while not self._ending.is_set() and not call.over.wait(LEASE_MS / 1000) and call.node:
                pass
        finally:
            call.over.set()
            self._lost(call)
            session.close()


class ZenohMesh(Mesh):
    """``endpoints``: of all nodes; the first that this process can listen on is its own."""

    def __init__(self, endpoints: list[str], config: str) -> None:
        self._endpoints = endpoints
        self._config = config
        self._seen: Callable[[str, bool], None]
        self._there: set[str] = set()  # all nodes that ``seen`` was told are there
        self._calls: dict[str, _Call] = {}  # by the node that is reached
        self._calling: dict[str, set[str]] = {}  # the calls that come from each node
        self._callers: list[_Caller] = []
        self._senders: dict[str, _Sender] = {}
        self._inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._lock = threading.Lock()
        self._session: Any = None
        self._declared: list[Any] = []
        self._loop: asyncio.AbstractEventLoop

    def open(self, me: str, mail: Callable[[bytes], None], seen: Callable[[str, bool], None]) -> None:
        """Raises OSError where no endpoint is free for this process."""
        self._loop = asyncio.get_running_loop()
        self._seen = seen
        own, self._session = self._listen()

        def on_mail(sample: Any) -> None:
            self._hand_over(mail, sample.payload.to_bytes())

        def on_call(sample: Any) -> None:
            self._hand_over(self._called, _name(sample), str(sample.key_expr), sample.kind == zenoh.SampleKind.PUT)

        def on_question(query: Any) -> None:
            query.reply(query.key_expr, b"")

        session = self._session
        liveliness = session.liveliness()
        self._declared = [
            session.declare_subscriber(f"{PREFIX}/to/{me}", on_mail),
            session.declare_queryable(f"{PREFIX}/got/{me}", on_question),
            liveliness.declare_token(f"{PREFIX}/node/{me}"),
            liveliness.declare_subscriber(f"{PREFIX}/call/*/*", on_call, history=True),
        ]
        self._callers = [
            _Caller(
                me,
                self._configured([], [endpoint]),
                lambda call: self._hand_over(self._reached, call),
                lambda call: self._hand_over(self._lost, call),
            )
            for endpoint in dict.fromkeys(self._endpoints)
            if endpoint != own
        ]

    def _listen(self) -> tuple[str, Any]:
        why = ""
        for own in self._endpoints:
            config = self._configured([own], [])
            if not _is_free(own):
                continue
            try:
                session = zenoh.open(config)
            except zenoh.ZError as wrong:  # somebody was faster, or zenoh cannot do what it was told
                logger.bind(endpoint=own, error=str(wrong)).debug("cannot listen")
                why = f": {wrong}"
                continue
            logger.bind(endpoint=own).info("node of a cluster")
            return own, session
        raise OSError(f"cannot listen on any of {', '.join(self._endpoints)}{why}")

    def _configured(self, listen: list[str], connect: list[str]) -> Any:
        config = _read_config(self._config)
        for key, value in {
            "mode": "peer",
            "id": None,  # each session has another one
            "listen/endpoints": listen,
            "listen/timeout_ms": 0,
            "listen/exit_on_failure": True,
            "connect/endpoints": connect,
            "connect/timeout_ms": 0,
            "connect/exit_on_failure": True,
            "open/return_conditions/connect_scouted": False,  # it waits for half a second
            "scouting/multicast/enabled": False,
            "scouting/gossip/enabled": False,
            "transport/link/tx/lease": LEASE_MS,
            "transport/shared_memory/enabled": False,  # it is used again before a node that was stopped has read it
            "transport/unicast/open_timeout": LEASE_MS,
        }.items():
            config.insert_json5(key, json.dumps(value))
        return config

    def _hand_over(self, call: Callable[..., None], *args: Any) -> None:
        """On a thread of zenoh's: have the loop do it, after what came before."""
        with self._lock:
            first = not self._inbox
            self._inbox.append((call, args))
        if first:
            try:
                self._loop.call_soon_threadsafe(self._take_inbox)
            except RuntimeError:  # the loop is closed
                logger.debug("mail of a node dropped: the loop is closed")

    def _take_inbox(self) -> None:
        with self._lock:
            inbox, self._inbox = self._inbox, []
        for call, args in inbox:
            call(*args)

    # Who is there.

    def _reached(self, call: _Call) -> None:
        if call.over.is_set():  # what is told now may come behind the end of it
            return
        if self._calls.setdefault(call.node, call) is not call:  # two endpoints lead to one node
            call.over.set()
        self._judge(call.node)

    def _lost(self, call: _Call) -> None:
        if self._calls.get(call.node) is call:
            del self._calls[call.node]
            self._judge(call.node)

    def _called(self, node: str, call: str, there: bool) -> None:
        calls = self._calling.setdefault(node, set())
        if there:
            calls.add(call)
        else:
            calls.discard(call)
        if not calls:
            del self._calling[node]
        self._judge(node)

    def _judge(self, node: str) -> None:
        there = node in self._calls and node in self._calling
        if there != (node in self._there):
            (self._there.add if there else self._there.discard)(node)
            self._seen(node, there)

    # What is sent.

    def send(self, node: str, data: bytes) -> bool:
        if self._session is None or node not in self._calls:  # closed: nobody is told anything any more
            return True
        sender = self._senders.get(node)
        if sender is None:
            try:
                publisher = self._calls[node].session.declare_publisher(
                    f"{PREFIX}/to/{node}",
                    congestion_control=zenoh.CongestionControl.BLOCK,  # by default it would drop
                    express=True,
                )
            except zenoh.ZError:  # the call is over, which is about to be told
                return True
            sender = self._senders[node] = _Sender(publisher)
        return sender.put(data)

    def forget(self, node: str) -> None:
        sender = self._senders.pop(node, None)
        if sender is not None:
            sender.end(drop=True)

    async def close(self) -> None:
        senders = dict(self._senders)
        self._senders.clear()
        for sender in senders.values():
            sender.end(drop=False)
        session, self._session = self._session, None
        if session is not None:
            sessions = {node: self._calls[node].session for node in senders if node in self._calls}
            await self._loop.run_in_executor(None, self._close, senders, sessions, session)

    def _close(self, senders: dict[str, _Sender], sessions: dict[str, Any], session: Any) -> None:
        deadline = time.monotonic() + CLOSE_SECONDS
        for sender in senders.values():
            sender.join(max(0.0, deadline - time.monotonic()))
        # A session that is closed drops what is on its way. An answer comes when what was sent before has arrived.
        block = zenoh.CongestionControl.BLOCK
        answers = []
        for node in [node for node in sessions if not senders[node].is_alive()]:
            with suppress(zenoh.ZError):  # that call is over: the other node goes as well
                got = sessions[node].get(f"{PREFIX}/got/{node}", timeout=CLOSE_SECONDS, congestion_control=block)
                answers.append(got)
        for answer in answers:
            for _ in answer:
                pass
        for caller in self._callers:
            caller.end()
        for declared in self._declared:
            declared.undeclare()
        session.close()
        # A thread that comes back from zenoh while Python ends would abort the process.
        for caller in self._callers:
            caller.join(LEASE_MS / 1000 + CLOSE_SECONDS)  # it may be calling somebody who does not answer
        for sender in senders.values():
            sender.join(CLOSE_SECONDS)


def _name(sample: Any) -> str:
    """Of the node that holds a token."""
    return str(sample.key_expr).rpartition("/")[2]


def _is_free(endpoint: str) -> bool:
    """Whether this process may listen there, as far as can be seen: zenoh itself would take seconds to say no."""
    protocol, _, address = endpoint.partition("/")
    host, _, port = address.partition("#")[0].rpartition(":")
    if protocol not in ("tcp", "tls", "ws"):
        return True
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError):  # no such host, or nothing that could be the name of one
        return False
    for family, kind, number, _, where in addresses:
        try:
            with socket.socket(family, kind, number) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
                probe.listen(1)
                return True
        except OSError as wrong:
            if wrong.errno == errno.EADDRINUSE:
                return False
    return False  # none of its addresses is of this machine


def _read_config(path: str) -> Any:
    """What is in zenoh's configuration file; its defaults where there is none. Raises OSError."""
    if not path:
        return zenoh.Config()
    Path(path).read_bytes()  # so that a file that cannot be read is named
    try:
        return zenoh.Config.from_file(path)
    except zenoh.ZError as wrong:
        raise OSError(f"{path} is no configuration of zenoh's: {wrong}") from None
