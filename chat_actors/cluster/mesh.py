"""The engine: zenoh in peer mode. Discovery, transport and liveliness; but ``calls`` and ``zenoh_config``, nothing else
imports it.

A node listens in one session, and calls each other node in another one, which ends with the connection: where zenoh
itself connects again, it may take the new connection for a part of the old one, and the two never meet again. Mail goes
from the one that calls to the one that listens. A node is there while our call reaches it and one of its reaches us.

zenoh calls back on threads of its own, and a ``put`` may wait for seconds: so what comes is handed to the loop, and
each other node has a thread that calls it and one that sends to it, behind a queue that is bounded.
"""

import asyncio
import threading
import time
from contextlib import suppress
from typing import Any, Callable

import zenoh
from loguru import logger

from chat_actors.cluster import zenoh_config
from chat_actors.cluster.calls import PREFIX, Call, Caller, Sender, name_of
from chat_actors.cluster.links import Mesh

MOST_UNREAD = 64 * 1024 * 1024  # bytes that have come; more wait in zenoh, whose nodes lose each other after a lease
CLOSE_SECONDS = 2.0  # for what waits to be sent at the end


class ZenohMesh(Mesh):
    """``endpoints``: of all nodes; the first that this process can listen on is its own."""

    def __init__(self, endpoints: list[str], config: str) -> None:
        self._endpoints = endpoints
        self._config = config
        self._seen: Callable[[str, bool], None]
        self._there: set[str] = set()  # all nodes that ``seen`` was told are there
        self._calls: dict[str, Call] = {}  # by the node that is reached
        self._calling: dict[str, set[str]] = {}  # the calls that come from each node
        self._callers: list[Caller] = []
        self._senders: dict[str, Sender] = {}
        self._inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._unread = 0  # bytes of it
        self._taken = threading.Condition()  # guards both; notified when the loop has taken them
        self._session: Any = None
        self._declared: list[Any] = []
        self._loop: asyncio.AbstractEventLoop

    def open(self, me: str, mail: Callable[[bytes], None], seen: Callable[[str, bool], None]) -> None:
        """Raises OSError where no endpoint is free for this process."""
        self._loop = asyncio.get_running_loop()
        self._seen = seen
        own, self._session = self._listen()

        def on_mail(sample: Any) -> None:
            data = sample.payload.to_bytes()
            self._hand_over(mail, data, size=len(data))

        def on_call(sample: Any) -> None:
            self._hand_over(self._called, name_of(sample), str(sample.key_expr), sample.kind == zenoh.SampleKind.PUT)

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
            Caller(
                me,
                zenoh_config.configured(self._config, [], [endpoint]),
                lambda call: self._hand_over(self._reached, call),
                lambda call: self._hand_over(self._lost, call),
            )
            for endpoint in dict.fromkeys(self._endpoints)
            if endpoint != own
        ]

    def _listen(self) -> tuple[str, Any]:
        why = ""
        for own in self._endpoints:
            config = zenoh_config.configured(self._config, [own], [])
            if not zenoh_config.is_free(own):
                continue
            try:
                session = zenoh.open(config)
            except zenoh.ZError as wrong:  # somebody was faster, or zenoh cannot do what it was told
                logger.bind(endpoint=own, error=str(wrong)).debug("endpoint not bound")
                why = f": {wrong}"
                continue
            logger.bind(endpoint=own).info("endpoint bound")
            return own, session
        raise OSError(f"cannot listen on any of {', '.join(self._endpoints)}{why}")

    def _hand_over(self, call: Callable[..., None], *args: Any, size: int = 0) -> None:
        """On a thread of zenoh's: have the loop do it, after what came before; for mail, once there is room."""
        with self._taken:
            while size and self._unread and self._unread + size > MOST_UNREAD and self._is_read():
                self._taken.wait(CLOSE_SECONDS)
            if self._loop.is_closed():
                logger.debug("mail dropped: loop closed")
                self._inbox, self._unread = [], 0
                return
            first = not self._inbox
            self._inbox.append((call, args))
            self._unread += size
        if first:
            with suppress(RuntimeError):  # closed in between
                self._loop.call_soon_threadsafe(self._take_inbox)

    def _is_read(self) -> bool:
        return self._session is not None and not self._loop.is_closed()

    def _take_inbox(self) -> None:
        with self._taken:
            inbox, self._inbox, self._unread = self._inbox, [], 0
            self._taken.notify_all()
        for call, args in inbox:
            try:
                call(*args)
            except Exception as exception:  # a bug met by one of them must not cost the others
                logger.opt(exception=exception).error("mail handler failed")

    # Who is there.

    def _reached(self, call: Call) -> None:
        if call.over.is_set():  # what is told now may come behind the end of it
            return
        if self._calls.setdefault(call.node, call) is not call:  # two endpoints lead to one node
            call.over.set()
        self._judge(call.node)

    def _lost(self, call: Call) -> None:
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
            sender = self._senders[node] = Sender(publisher)
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
        with self._taken:
            session, self._session = self._session, None
            self._taken.notify_all()
        if session is not None:
            sessions = {node: self._calls[node].session for node in senders if node in self._calls}
            await self._loop.run_in_executor(None, self._close, senders, sessions, session)

    def _close(self, senders: dict[str, Sender], sessions: dict[str, Any], session: Any) -> None:
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
            caller.join(zenoh_config.LEASE_MS / 1000 + CLOSE_SECONDS)  # it may be calling somebody who does not answer
        for sender in senders.values():
            sender.join(CLOSE_SECONDS)
