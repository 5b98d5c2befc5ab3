"""The playing of a stream on a server: its sender, and the witness in the same topic, on real sockets."""

import asyncio
import json
import socket
import ssl
import struct
from contextlib import suppress
from typing import Any, Callable, NamedTuple, Optional

from tests.support.server import PATIENCE
from tests.support.websocket.wire import CLOSE, FIN, HANDSHAKE, PONG, TEXT, frame, frames_in, header, text
from tests.tools.streams.model import AT_ONCE, PINGS, SUPERVISOR, TOPIC, Answer, Expected, Observed
from tests.tools.streams.streams import WITNESS, Do, Last, Stream

OTHER = "other"  # member of a full topic


class Place(NamedTuple):
    """Server that is played on. ``host``: what frames its connections, see ``model.DIFFERENCES``."""

    port: int
    host: str
    context: Optional[ssl.SSLContext]


class Overdue(Exception):
    """Error: what must happen has not happened within PATIENCE."""


class Peer:
    """Connection of a client: keeps what it is sent, also if it can send no more.

    asyncio's own transports would drop what the server has sent before a reset.
    """

    def __init__(self, sock: socket.socket, tls: "Optional[_Tls]") -> None:
        self.frames: list[tuple[int, bytes]] = []  # first byte and payload
        self.close: Optional[bytes] = None  # payload of the close frame
        self.ended = False  # nothing more comes from the server
        self._rest = b""
        self._upgraded = False
        self._news = asyncio.Event()
        self._socket = sock
        self._sending = asyncio.Lock()
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Task[None]

    @classmethod
    async def connect(cls, place: Place) -> "Peer":
        """Open a connection, up to the answer to its handshake."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", place.port))
        peer = cls(sock, None if place.context is None else _Tls(place.context))
        peer._reading = asyncio.create_task(peer._read())
        await peer.send(HANDSHAKE)
        await peer.until("the handshake", lambda: peer._upgraded)
        return peer

    async def _read(self) -> None:
        data = b"?"
        try:
            while data:
                with suppress(ConnectionError):
                    data = b""
                    data = await self._loop.sock_recv(self._socket, 1 << 16)
                if self._tls is None:
                    self._take(data)
                else:
                    self._take(self._tls.received(data))
                    await self._send(self._tls.sent())
                    if self._tls.ended:
                        break
        finally:
            self.ended = True
            self._news.set()

    def _take(self, data: bytes) -> None:
        self._rest += data
        if not self._upgraded and b"\r\n\r\n" in self._rest:
            head, _, self._rest = self._rest.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101"), head
            self._upgraded = True
        if self._upgraded:
            for first, payload in frames_in(self._rest):
                self._rest = self._rest[len(header(first, len(payload), None)) + len(payload) :]
                self.frames.append((first, payload))
                if first == FIN | CLOSE and self.close is None:
                    self.close = payload
        self._news.set()

    async def until(self, what: str, holds: Callable[[], object]) -> None:
        """Wait until that holds, or the server has ended the connection. Raises Overdue."""
        while not holds() and not self.ended:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), PATIENCE)
            except asyncio.TimeoutError:
                raise Overdue(f"waited in vain for {what}") from None

    async def send(self, data: bytes) -> None:
        """Send. No-op if the server has ended the connection."""
        await self._send(data if self._tls is None else self._tls.sent(data))

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            with suppress(OSError):
                await self._loop.sock_sendall(self._socket, data)

    async def ask(self, request: dict[str, Any], kind: str) -> dict[str, Any]:
        """Send a text and wait for an answer of this kind."""
        await self.send(text(json.dumps(request)))
        await self.until(kind, lambda: self.said(kind))
        assert self.said(kind), self.frames
        return self.said(kind)[0]

    def said(self, kind: str) -> list[dict[str, Any]]:
        """Return the frames of this type."""
        texts = [json.loads(payload) for first, payload in self.frames if first == FIN | TEXT]
        return [one for one in texts if one["type"] == kind]

    def end(self) -> None:
        """Send no more, and still receive."""
        with suppress(OSError):  # the server has ended the connection
            self._socket.shutdown(socket.SHUT_WR)

    async def leave(self, reset: bool = False) -> None:
        """Close the socket."""
        self._reading.cancel()
        await asyncio.wait({self._reading})
        if not self._reading.cancelled():
            self._reading.result()
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
        self.ended = True


class _Tls:
    """TLS of a client, between bytes and bytes. The server's certificate is of this run."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._waiting = b""  # for the end of the handshake
        self._ready = False
        self.ended = False  # the server sends no more

    def sent(self, data: bytes = b"") -> bytes:
        """Return the bytes to send for ``data``."""
        self._waiting += data
        try:
            if not self._ready:
                self._tls.do_handshake()
                self._ready = True
            if self._waiting:
                self._tls.write(self._waiting)
                self._waiting = b""
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()

    def received(self, data: bytes) -> bytes:
        """Return what the server has sent with these bytes."""
        self._incoming.write(data)
        said = b""
        with suppress(ssl.SSLWantReadError):
            while self._ready:
                more = self._tls.read(1 << 16)
                if not more:
                    self.ended = True
                    break
                said += more
        return said


async def play(stream: Stream, expected: Expected, place: Place) -> Observed:
    """Play a stream. ``expected`` says what is waited for. Raises Overdue."""
    peers: list[Peer] = []

    async def enter() -> Peer:
        peers.append(await Peer.connect(place))
        return peers[-1]

    try:
        witness = await enter()
        await witness.ask({"username": WITNESS, "topic": stream.topic, "events": True}, "joined")
        if stream.full:
            await (await enter()).ask({"username": OTHER, "topic": stream.topic}, "joined")
        sender = await enter()
        await _send(stream, expected, sender, enter)
        await _see_the_end(stream, expected, place, sender)
        for peer in peers[2:] if stream.full else peers[1:]:
            await peer.leave()
        if expected.leaves or (expected.leaves is None and _heard(witness)):
            await witness.until("the leave", lambda: _heard(witness)[-1:] and _heard(witness)[-1].startswith("left "))
        return _observed(stream.topic, sender, witness)
    finally:
        for peer in peers:
            await peer.leave()


def _observed(topic: str, sender: Peer, witness: Peer) -> Observed:
    answers: list[Answer] = []
    late: list[Answer] = []
    closed = False
    for first, payload in sender.frames:
        if first == FIN | CLOSE and not closed:
            closed = True
        else:
            (late if closed else answers).append(_answer(topic, first, payload))
    return Observed(answers, late, sender.close, _heard(witness))


def _answer(topic: str, first: int, payload: bytes) -> Answer:
    if first == FIN | PONG:
        return PINGS, payload.hex()
    said: dict[str, Any] = json.loads(payload) if first == FIN | TEXT else {"type": f"frame {first:x}"}
    kind = said["type"]
    if kind == "error":
        return AT_ONCE, f"error {said['error']}"
    if kind == "topics":
        return SUPERVISOR, f"topics {[one['users'] for one in said['topics'] if one['topic'] == topic]}"
    if kind == "joined":
        return TOPIC, f"joined {said['username']} {said['users']}"
    if kind == "ack":
        return TOPIC, f"ack {said['id']} {said.get('ref')} {said['recipients']}"
    return "nobody", str(said)


def _heard(witness: Peer) -> list[str]:
    """Return what the witness has heard of the sender, as ``model`` writes it."""
    heard = []
    for first, payload in witness.frames:
        said = json.loads(payload) if first == FIN | TEXT else {"type": ""}
        if said["type"] == "presence":
            names = [(event, name) for event in ("joined", "left") for name in said.get(event, [])]
            heard += [f"{event} {name}" for event, name in names if name != OTHER]
        elif said["type"] == "message":
            heard.append(f"message {said['id']} {said['username']} {said['message']}")
    return heard


async def _send(stream: Stream, expected: Expected, sender: Peer, enter: Callable[[], Any]) -> None:
    due = iter(expected.due)
    for item in stream.script:
        if isinstance(item, bytes):
            await sender.send(item)
            await asyncio.sleep(0)
        elif item is Do.AWAIT:
            await _await(sender, next(due))
        elif sender.close is None and not sender.ended and sender.said("joined"):
            keys = {"username": "x", "topic": stream.topic, "resume": sender.said("joined")[0]["resume"]}
            await (await enter()).ask(keys, "joined")
            await _await(sender, None)


async def _await(sender: Peer, count: Optional[int]) -> None:
    """Wait for so many answers, or for the end of the connection; None: for the end alone."""

    def holds() -> bool:
        return sender.close is not None or (count is not None and len(sender.frames) >= count)

    await sender.until("an end" if count is None else f"{count} answers", holds)


async def _see_the_end(stream: Stream, expected: Expected, place: Place, sender: Peer) -> None:
    if stream.last is Last.RESET:
        await sender.leave(reset=True)
    elif stream.last is Last.EOF and place.context is not None:
        await sender.leave()
    elif stream.last is Last.EOF:
        sender.end()
    elif expected.closes:
        await _await(sender, None)
        if not expected.answered:
            answer = frame(FIN | CLOSE, (sender.close or b"")[:2])
            await sender.send(answer[:1])
            await asyncio.sleep(0)
            await sender.send(answer[1:])
        if not expected.aligned:
            sender.end()
    else:
        await _await(sender, sum(map(len, expected.phases)) + len(expected.pongs))
        sender.end()
    await sender.until("the end of the TCP connection", lambda: False)
