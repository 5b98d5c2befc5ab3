"""The links of a node: who is there, and what they say, in order, from the first word of both until one is lost.

Each side has a number for the time it knows the other. What carries an old number was meant for a time that is over,
as when a process was stopped for a while and thought dead: it is dropped, and both begin anew.
"""

import asyncio
import secrets
from abc import ABC, abstractmethod
from itertools import count
from typing import Callable, Optional

import msgspec
from loguru import logger

from chat_actors.cluster.wire import Hello, Item, opened, seal, sealed


class Mesh(ABC):
    """Carries bytes between nodes in order, and says which nodes there are. It calls back in the loop alone."""

    @abstractmethod
    def open(self, me: str, mail: Callable[[bytes], None], seen: Callable[[str, bool], None]) -> None:
        """Be a node. ``mail`` is given what comes; ``seen`` is told a node, and whether it is there or gone."""

    @abstractmethod
    def send(self, node: str, data: bytes) -> bool:
        """Send without waiting; False where so much waits for that node already that it has to be given up."""

    @abstractmethod
    def forget(self, node: str) -> None:
        """Drop what waits for a node."""

    @abstractmethod
    async def close(self) -> None:
        """Send what waits, and be no node any more."""


class _Link:
    """What is known of one other node."""

    def __init__(self, mine: int) -> None:
        self.mine = mine
        self.theirs = 0  # until it has said hello
        self.up = False
        self.batch: list[msgspec.Raw] = []


class Links:
    """``up`` and ``down`` are told as nodes come and go; ``take`` is given each item and who has sent it.

    ``gather`` is called before what has gathered is sent, so that more can be added; ``wake`` before anything that
    comes is looked at.
    """

    def __init__(
        self,
        mesh: Mesh,
        up: Callable[[str], None],
        down: Callable[[str], None],
        take: Callable[[str, Item], None],
        gather: Callable[[], None] = lambda: None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.me = secrets.token_hex(4)
        self._mesh = mesh
        self._up = up
        self._down = down
        self._take = take
        self._gather = gather
        self._wake = wake
        self._new_number = count(1).__next__  # so that of two the later one is known
        self._links: dict[str, _Link] = {}
        self._own: list[Item] = []  # to this node itself
        self._flushing: Optional[asyncio.Handle] = None
        self._loop = asyncio.get_running_loop()

    def open(self) -> None:
        """Become a node."""
        self._up(self.me)
        self._mesh.open(self.me, self._mail, self._seen)

    async def close(self) -> None:
        """Send what waits, and be no node any more."""
        self.flush()
        await self._mesh.close()
        if self._flushing is not None:
            self._flushing.cancel()
        self._links.clear()

    def greet(self) -> None:
        """Say hello again to those who have not answered: what is said while a connection comes to be may be lost."""
        for node, link in list(self._links.items()):
            if not link.up:
                self._post(node, link, [sealed(Hello())])

    def begin_anew(self) -> None:
        """Lose all others and meet them again, which is what they then do as well."""
        for node in list(self._links):
            self._lose(node)
            self._meet(node)

    def send(self, node: str, item: Item) -> None:
        """Send an item behind all others to a node, with those of this turn of the loop; to none that is gone."""
        if node == self.me:
            self._own.append(item)
        else:
            link = self._links.get(node)
            if link is None or not link.up:
                return
            link.batch.append(sealed(item))
        self.flush_soon()

    def flush_soon(self) -> None:
        """Send what has gathered, at the end of this turn of the loop."""
        if self._flushing is None:
            self._flushing = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what has gathered."""
        try:
            self._gather()
        finally:
            self._flushing = None
        for node, link in list(self._links.items()):
            if link.batch:
                batch, link.batch = link.batch, []
                self._post(node, link, batch)
        own, self._own = self._own, []
        for item in own:
            self._give(self.me, item)

    def _post(self, node: str, link: _Link, items: list[msgspec.Raw]) -> None:
        if not self._mesh.send(node, seal(self.me, link.mine, link.theirs, items)):
            logger.bind(node=node).warning("node dropped: send queue full")
            self._mesh.forget(node)
            self._lose(node)
            self._meet(node)

    def _seen(self, node: str, there: bool) -> None:
        if node == self.me:
            return
        self._wake()
        if not there:
            self._mesh.forget(node)
            self._lose(node)
        elif node not in self._links:
            self._meet(node)

    def _meet(self, node: str) -> None:
        link = self._links[node] = _Link(self._new_number())
        self._post(node, link, [sealed(Hello())])

    def _lose(self, node: str) -> None:
        link = self._links.pop(node, None)
        if link is not None and link.up:
            logger.bind(node=node).info("node lost")
            self._down(node)

    def _mail(self, data: bytes) -> None:
        self._wake()
        try:
            envelope = opened(data)
        except (msgspec.DecodeError, RecursionError, UnicodeError) as wrong:
            logger.bind(bytes=len(data), reason=str(wrong)).warning("mail refused: unreadable")
            return
        node = envelope.sender
        link = self._links.get(node)
        if link is None or envelope.mine < link.theirs:  # a hello comes again when it has got ours; the past does not
            return
        if link.theirs != envelope.mine:
            if link.up:  # it has lost us in between
                self._lose(node)
                link = self._links[node] = _Link(link.mine)
            link.theirs = envelope.mine
            self._post(node, link, [sealed(Hello())])
        if envelope.yours != link.mine or self._links.get(node) is not link:
            return
        if not link.up:
            link.up = True
            logger.bind(node=node).info("node found")
            self._up(node)
        for item in envelope.items:
            if self._links.get(node) is not link:  # lost by what came before
                break
            if type(item) is not Hello:
                self._give(node, item)

    def _give(self, node: str, item: Item) -> None:
        try:
            self._take(node, item)
        except Exception as exception:  # a bug met by one item must not cost the others
            logger.bind(node=node, item=type(item).__name__).opt(exception=exception).error("item skipped")
