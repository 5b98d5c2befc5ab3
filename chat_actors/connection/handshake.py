"""ASGI events sent outside a session: the events that refuse a connection, and sends that tolerate a lost peer."""

from typing import Optional

from loguru import logger

from chat_actors.connection.asgi import AsgiEvent, Send
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Error, finished, payloads


async def turn_away(send: Send, code: CloseCode, error: Optional[Error] = None) -> None:
    """Accept a connection, send ``error`` if there is one, and close with ``code``.

    A browser shows a page neither the status nor the body of a refused handshake: only a close code reaches the page.
    """
    texts = payloads(b"" if error is None else finished(error))
    errors: list[AsgiEvent] = [{"type": "websocket.send", "text": text.decode()} for text in texts]
    await send_events(send, {"type": "websocket.accept"}, *errors, close_event(code))


async def send_events(send: Send, *events: AsgiEvent) -> bool:
    """Send ``events`` in order; return False if one cannot be sent, because the peer is gone or the server stops.

    Errors of ``send`` are logged, not raised. Cancellation is raised.
    """
    try:
        for event in events:
            await send(event)
    except Exception as lost:  # each ASGI server raises its own exception for a lost peer
        logger.bind(error=repr(lost)).debug("event not sent")
        return False
    return True


def close_event(code: CloseCode) -> AsgiEvent:
    """Return the ASGI event that closes a connection with ``code`` and the reason of that code."""
    return {"type": "websocket.close", "code": int(code), "reason": code.reason}
