"""A TCP proxy whose connections can be broken in every way a network breaks them."""

import asyncio
import random
import socket
import struct
from collections.abc import Coroutine
from typing import Any

ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time: closing sends a reset


class Link:
    """Proxied connection: two pumps, and what happens to the bytes that they carry."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.flowing = asyncio.Event()  # cleared: stalled
        self.flowing.set()
        self.cut_upward = False  # the next piece for the server ends in its middle, and so does the connection
        self.cut_downward = False  # the same for the client: an ack that is lost

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upward = writer is self.server
        try:
            while True:
                piece = await reader.read(65536)
                await self.flowing.wait()
                if not piece:
                    break
                if self.cut_upward if upward else self.cut_downward:
                    writer.write(piece[: len(piece) // 2] if upward else b"")
                    self.end()
                    break
                writer.write(piece)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        except (OSError, RuntimeError):
            self.end()

    def end(self) -> None:
        """Both sides see the connection end."""
        self.flowing.set()
        self.client.close()
        self.server.close()

    def reset(self) -> None:
        """Both sides see a reset."""
        for writer in (self.client, self.server):
            raw = writer.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            writer.transport.abort()
        self.flowing.set()

    def vanish(self) -> None:
        """Only the client sees it: to the server the old connection hangs while the client comes back."""
        self.flowing.clear()
        self.client.transport.abort()

    def half_close(self) -> None:
        """The client can say nothing more, and still hears."""
        if not self.server.is_closing() and self.server.can_write_eof():
            self.server.write_eof()


class Proxy:
    """Proxy on a free port of the loopback that forwards to ``port``. ``faults``: the count of faults, by kind."""

    KINDS = ("end", "reset", "vanish", "half_close", "stall", "cut_upward", "cut_downward")

    def __init__(self, port: int, seed: int) -> None:
        self.faults = dict.fromkeys(self.KINDS, 0)
        self._port = port
        self._random = random.Random(seed)
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()  # of all connections there were

    async def __aenter__(self) -> "Proxy":
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}/ws"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await asyncio.sleep(0)  # whoever has been let in is by now in ``_accept``
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # when it is closed

    def break_one(self) -> bool:
        """Do something to one of the connections; False where there is none."""
        links = [link for link in self._links if not link.client.is_closing() and link.flowing.is_set()]
        if not links:
            return False
        link, kind = self._random.choice(links), self._random.choice(self.KINDS)
        self.faults[kind] += 1
        if kind == "stall":
            self._start(self._stall(link, self._random.uniform(0.05, 1.5)))
        elif kind.startswith("cut_"):
            setattr(link, kind, True)
        else:
            getattr(link, kind)()
        return True

    def stop_breaking(self) -> None:
        """What is still to break does not, and what hangs ends."""
        for link in self._links:
            link.cut_upward = link.cut_downward = False
            if not link.flowing.is_set():
                link.end()

    async def _stall(self, link: Link, seconds: float) -> None:
        link.flowing.clear()
        await asyncio.sleep(seconds)
        link.flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._start(self._forward(reader, writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()
            return
        self._writers.add(to_server)
        link = Link(writer, to_server)
        self._links.add(link)
        pumps = [self._start(link.pump(reader, to_server)), self._start(link.pump(from_server, writer))]
        await asyncio.wait(pumps)
        self._links.discard(link)
        link.end()

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
