"""The FastAPI tutorial's way: loop over the room, await a send for each member, one expiry task per message."""

import asyncio
import json
import time
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()
rooms: dict[str, dict[str, WebSocket]] = {}
stored: dict[str, list[dict[str, Any]]] = {}


async def expire(topic: str, message: dict[str, Any]) -> None:
    await asyncio.sleep(30)
    stored[topic].remove(message)


@app.websocket("/ws")
async def chat(ws: WebSocket) -> None:
    await ws.accept()
    join = json.loads(await ws.receive_text())
    name, topic = join["username"], join["topic"]
    room = rooms.setdefault(topic, {})
    room[name] = ws
    await ws.send_json({"type": "joined", "username": name})
    try:
        while True:
            text = json.loads(await ws.receive_text())["message"]
            message = {"username": name, "message": text, "timestamp": int(time.time())}
            stored.setdefault(topic, []).append(message)
            asyncio.create_task(expire(topic, message))  # noqa: RUF006  as the tutorials do
            for other, socket in list(room.items()):
                if other != name:
                    await socket.send_json(message)
            await ws.send_json({"type": "ack"})
    except WebSocketDisconnect:
        room.pop(name, None)
