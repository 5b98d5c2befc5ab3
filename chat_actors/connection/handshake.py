"""What is said to a peer's ASGI server outside the conversation: a connection refused, and single events."""

from typing import Optional

from loguru import logger

from chat_actors.connection.asgi import AsgiEvent, Send
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Error, finished, payloads


async def turn_away(send: Send, code: CloseCode, error: Optional[Error] = None) -> None:
    """Accept a connection only to say why it cannot stay. It never has an outbox."""
    texts = payloads(b"" if error is None else finished(error))
    told: list[AsgiEvent] = [{"type": "websocket.send", "text": text.decode()} for text in texts]
    await send_events(send, {"type": "websocket.accept"}, *told, close_event(code))


async def send_events(send: Send, *events: AsgiEvent) -> bool:
    """Send these to a peer that may be gone, or whose server may be ending; False if one could not be sent."""
    try:
        for event in events:
            await send(event)
    except Exception as gone:  # every server has its own exception for a peer that is no longer there
        logger.bind(error=repr(gone)).debug("event not sent")
        return False
    return True


def close_event(code: CloseCode) -> AsgiEvent:
    """The ASGI event that closes a connection with ``code`` and its reason."""
    return {"type": "websocket.close", "code": int(code), "reason": code.reason}
