"""``python -m tests.tools.faults.crowd PORT NAME COUNT TOPIC …``: members in a process of their own, to be killed.

Says ``ready`` when all are in. They speak once a second, and end with the process, or with its standard input.
"""

import asyncio
import sys

from tests.tools.faults.wire import Peer, connect


async def _join(port: int, name: str, topic: str) -> Peer:
    peer = await connect(port, lambda _: None)
    peer.send({"username": name, "topic": topic})
    return peer


async def main(port: int, name: str, count: int, topics: "list[str]") -> None:
    peers = [await _join(port, f"{name}-{i}", topics[i % len(topics)]) for i in range(count)]
    print("ready", flush=True)
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    while not ended.done():
        await asyncio.wait({ended}, timeout=1.0)
        for peer in peers:
            if not peer.transport.is_closing():
                peer.send({"message": "0 0 still here"})


if __name__ == "__main__":
    _, port, name, count, *topics = sys.argv
    asyncio.run(main(int(port), name, int(count), topics))
