"""The websockets package's own server and its ``broadcast()``, on uvloop. Argument: the port."""

import json
import sys
import time

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

rooms: dict[str, set[ServerConnection]] = {}


async def chat(ws: ServerConnection) -> None:
    join = json.loads(await ws.recv())
    room = rooms.setdefault(join["topic"], set())
    room.add(ws)
    await ws.send('{"type":"joined"}')
    try:
        async for frame in ws:
            text = json.loads(frame)["message"]
            message = {"username": join["username"], "message": text, "timestamp": int(time.time())}
            broadcast(room - {ws}, json.dumps(message))
            await ws.send('{"type":"ack"}')
    finally:
        room.discard(ws)


async def main() -> None:
    async with serve(chat, "127.0.0.1", int(sys.argv[1]), compression=None) as server:
        await server.serve_forever()


uvloop.run(main())
