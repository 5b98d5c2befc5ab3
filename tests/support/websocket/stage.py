"""An inbox between stand-ins for the transport and for uvicorn's protocol, which note each call."""

import asyncio
from typing import Any, Optional

from chat_actors.connection.asgi import AsgiEvent
from chat_actors.connection.inbox import DirectInbox, open_inbox
from tests.support.websocket.twins import Pipe

LONGEST = 1000  # bytes of a message


async def a_message() -> AsgiEvent:
    """The next of those that uvicorn has for the session."""
    return {"type": "websocket.receive", "text": "hello"}


class FakeProtocol(asyncio.Protocol):
    """Stand-in for uvicorn's protocol, that notes each call."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.data: list[bytes] = []
        self.told: list[Any] = []

    def data_received(self, data: bytes) -> None:
        self.data.append(data)

    def eof_received(self) -> Optional[bool]:
        self.told.append("eof")
        return True

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self.told.append(exc)

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


class Stage:
    """Inbox between stand-ins for the transport and for uvicorn's protocol. ``texts``: messages delivered at once."""

    def __init__(self, longest: int = LONGEST) -> None:
        self.pipe = Pipe()
        self.uvicorn = FakeProtocol(self.pipe)
        self.texts: list[str] = []
        self.goes_on = True  # the conversation
        self.refused = 0  # messages that were too big
        inbox = open_inbox(self.uvicorn, a_message, longest)
        assert isinstance(inbox, DirectInbox)
        self.inbox = inbox

    def take(self, text: str) -> bool:
        self.texts.append(text)
        return self.goes_on

    def too_big(self) -> None:
        self.refused += 1

    def read(self, *data: bytes) -> None:
        """Pieces read from the socket, for whoever the transport gives them to."""
        for piece in data:
            self.pipe.protocol.data_received(piece)


def listening(longest: int = LONGEST) -> Stage:
    stage = Stage(longest)
    stage.inbox.deliver_to(stage.take)
    return stage
