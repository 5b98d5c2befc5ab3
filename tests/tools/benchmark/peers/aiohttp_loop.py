"""aiohttp: a loop over the room, one send for each member, on uvloop. Argument: the port."""

import json
import sys
import time

import uvloop
from aiohttp import web  # type: ignore[import-not-found, unused-ignore]  # need not be installed

rooms: dict[str, set[web.WebSocketResponse]] = {}


async def chat(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    join = json.loads((await ws.receive()).data)
    room = rooms.setdefault(join["topic"], set())
    room.add(ws)
    await ws.send_str('{"type":"joined"}')
    async for event in ws:
        text = json.loads(event.data)["message"]
        message = json.dumps({"username": join["username"], "message": text, "timestamp": int(time.time())})
        for other in list(room):
            if other is not ws:
                await other.send_str(message)
        await ws.send_str('{"type":"ack"}')
    room.discard(ws)
    return ws


app = web.Application()
app.router.add_get("/ws", chat)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, loop=uvloop.new_event_loop())
