"""A line between browser and server that can be cut, in a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Callable, TypeVar

from tests.support.proxy import Proxy
from tests.support.server import PATIENCE

T = TypeVar("T")


class _Cuttable(Proxy):
    is_cut = False
    swallows = False

    def __init__(self, port: int, seed: int) -> None:
        super().__init__(port, seed)
        self.swallowed: list[asyncio.StreamWriter] = []

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
        elif self.swallows:
            self.swallowed.append(writer)
        else:
            await super()._accept(reader, writer)


class Line:
    """Line that forwards to ``port`` and can be cut. ``url``: address of the page through this line."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._proxy = _Cuttable(port, seed=0)
        self._run(self._proxy.__aenter__())
        self.url = self._proxy.url.replace("ws://", "http://").replace("/ws", "/")

    def cut(self) -> None:
        """Reset what is connected, and let nobody in."""
        self._set(is_cut=True)
        self._for_each(lambda link: link.reset())

    def swallow(self) -> None:
        """Who connects is let in, and hears nothing."""
        self._set(swallows=True)

    def mend(self) -> None:
        self._set(is_cut=False, swallows=False)

    def stall(self) -> None:
        """Nothing gets through, and nobody is told."""
        self._for_each(lambda link: link.flowing.clear())

    def flow(self) -> None:
        self._for_each(lambda link: link.flowing.set())

    def lose_answer(self) -> None:
        """What the server says next does not arrive, and the connection ends."""
        self._for_each(lambda link: setattr(link, "cut_downward", True))

    def end(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._proxy.is_cut = True  # so that a connection that is being let in is turned away
        for writer in self._proxy.swallowed:
            writer.transport.abort()
        await self._proxy.__aexit__()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        await asyncio.sleep(0)

    def _set(self, **how: bool) -> None:
        async def do() -> None:
            self._proxy.__dict__.update(how)

        self._run(do())

    def _for_each(self, do: Callable[[Any], None]) -> None:
        async def all_of_them() -> None:
            for link in list(self._proxy._links):
                do(link)

        self._run(all_of_them())

    def _run(self, work: "Coroutine[Any, Any, T]") -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)
