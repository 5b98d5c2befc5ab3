"""The turnstile in front of the handshakes: when very many peers come at once, the members' messages come in between.

It begins behind what uvicorn does with a request itself, which nothing here can bound.
"""

import asyncio
from collections import deque
from typing import Optional

HANDSHAKES = 16  # that may begin in one turn of the loop: a few milliseconds


class Turnstile:
    """Bound on the handshakes that begin in one turn of the event loop. The others wait for the next, in order."""

    def __init__(self) -> None:
        self._loop: Optional[asyncio.AbstractEventLoop] = None  # that runs; a host may start another one later
        self._free = 0  # places in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Take a place in a turn of the loop; wait for it only if very many come at once."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._free = loop, HANDSHAKES
            self._waiting.clear()
            loop.call_soon(self._turn, loop)
        if self._free and not self._waiting:
            self._free -= 1
            return
        place = loop.create_future()
        self._waiting.append(place)
        await place

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the next turn: what had arrived from the sockets has been read."""
        if self._free == HANDSHAKES and not self._waiting:
            self._loop = None  # nobody came in the last turn: wait for the next handshake
            return
        self._free = HANDSHAKES
        while self._free and self._waiting:
            place = self._waiting.popleft()
            if not place.done():  # else its task was cancelled
                place.set_result(None)
                self._free -= 1
        loop.call_soon(self._turn, loop)
