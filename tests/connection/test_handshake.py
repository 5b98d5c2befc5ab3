"""ASGI events outside a session: the refusal of a connection, and sends to a peer that is gone."""

from chat_actors.connection.asgi import AsgiEvent
from chat_actors.connection.handshake import close_event, send_events, turn_away
from chat_actors.protocol.codes import CloseCode, ErrorCode
from chat_actors.protocol.frames import Error
from tests.support.fakes import FakeServer, in_clean_loop, log_lines


@in_clean_loop
async def test_a_connection_that_is_refused_gets_the_error_and_then_the_close() -> None:
    server = FakeServer()
    await turn_away(server.send, CloseCode.OVERLOADED, Error(ErrorCode.SERVER_FULL, "come back later"))
    error = '{"type":"error","error":"server_full","detail":"come back later"}'
    accept, told, close = server.sent
    assert (accept, told) == ({"type": "websocket.accept"}, {"type": "websocket.send", "text": error})
    assert (close["type"], close["code"]) == ("websocket.close", 1013)


@in_clean_loop
async def test_a_connection_that_is_refused_without_an_error_gets_only_the_close() -> None:
    server = FakeServer()
    await turn_away(server.send, CloseCode.RESTARTING)
    assert server.sent == [{"type": "websocket.accept"}, close_event(CloseCode.RESTARTING)]


@in_clean_loop
async def test_no_event_is_sent_after_one_that_failed() -> None:
    server = FakeServer()
    events: list[AsgiEvent] = [{"type": "websocket.accept"}, close_event(CloseCode.RESTARTING)]
    assert await send_events(server.send, *events)
    server.error = ConnectionResetError("peer gone")
    with log_lines() as lines:
        assert not await send_events(server.send, *events)
    assert server.sent == events
    assert [line for line in lines if "event not sent" in line and "peer gone" in line] == lines
