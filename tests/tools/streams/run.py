"""The servers of a run, and the comparison of many streams on them."""

import asyncio
import re
import ssl
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Optional

from tests.support.server import PATIENCE, Server
from tests.tools.streams.model import difference, expect
from tests.tools.streams.play import Overdue, Place, play
from tests.tools.streams.streams import SETTINGS, Stream

LOOPS = "uvloop", "asyncio"
IMPLEMENTATIONS = "websockets-sansio", "wsproto"
AT_ONCE = 24  # streams
POLL = 0.05  # seconds
FAST, PLAIN = "fast lane", "plain lane"
TROUBLE = re.compile(
    r"crashed|(session|handler|write|check) failed|never retrieved|Task was destroyed|CRITICAL|Exception in|Fatal error"
)
# On the plain lane uvicorn fails by itself, see ``model.Difference``. It also closes a TLS transport of asyncio twice,
# and then tries to read on.
UVICORNS_TROUBLE = re.compile(TROUBLE.pattern.partition("|Exception")[0])
FAILED, UVICORNS_FAILURE = "Exception in ASGI application", "AttributeError: 'NoneType' object has no attribute"


class Found(NamedTuple):
    """Difference between a lane and the model."""

    stream: Stream
    lane: str
    what: str

    def __str__(self) -> str:
        return f"{self.lane}: {self.what}\n{self.stream}"


@contextmanager
def certificate() -> Iterator[tuple[str, str]]:
    """Yield the paths of a certificate and its key, made by ``openssl``."""
    with tempfile.TemporaryDirectory() as folder:
        paths = str(Path(folder, "certificate.pem")), str(Path(folder, "key.pem"))
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        names = ["-subj", "/CN=localhost", "-out", paths[0], "-keyout", paths[1]]
        subprocess.run(["openssl", "req", "-x509", *curve, *names], check=True, capture_output=True)
        yield paths


@contextmanager
def servers(loop: str, ws: str, tls: bool) -> Iterator[dict[str, Place]]:
    """Start a server for each lane; yield them by lane. That of the fast lane must end clean."""
    with certificate() as (certificate_path, key_path):
        options = ["--port", "0", "--loop", loop, "--ws", ws]
        context = None
        if tls:
            options += ["--ssl-certfile", certificate_path, "--ssl-keyfile", key_path]
            context = ssl.create_default_context(cafile=certificate_path)
            context.check_hostname = False
        started: list[Server] = []
        try:
            for app in "fast", "plain":
                started.append(Server("uvicorn", f"tests.tools.streams.apps:{app}", *options, **SETTINGS))
            fast, plain = started
            yield {FAST: Place(fast.port, FAST, context), PLAIN: Place(plain.port, ws, context)}
            fast.terminate(trouble=TROUBLE)
            plain.kill()  # uvicorn may fail in its shutdown as well
            trouble = [line for line in plain.lines() if UVICORNS_TROUBLE.search(line)]
            assert not trouble, trouble
            assert len(plain.lines(FAILED)) == len(plain.lines(UVICORNS_FAILURE)), "\n".join(plain.lines())
            lanes = [bool(server.lines("fast lane not used")) for server in started]
            assert lanes == [False, True], lanes
        finally:
            for server in started:
                server.kill()


async def compare(places: dict[str, Place], streams: Iterable[Stream], counts: "Counter[str]") -> list[Found]:
    """Play streams on both lanes, many at once; return what differs, and end soon after the first that does."""
    found: list[Found] = []
    coming = iter(streams)

    async def work() -> None:
        for one in coming:
            results = await asyncio.gather(*(_differs(one, lane, place, counts) for lane, place in places.items()))
            found.extend(result for result in results if result is not None)
            counts["streams"] += 1
            if found:
                return

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    if not found:
        await asyncio.gather(*(_see_empty(place) for place in places.values()))
    return found


async def _differs(one: Stream, lane: str, place: Place, counts: "Counter[str]") -> Optional[Found]:
    expected = expect(one, place.host, place.context is not None)
    try:
        seen = await asyncio.wait_for(play(one, expected, place), 4 * PATIENCE)
    except Overdue as overdue:
        return Found(one, lane, str(overdue))
    except asyncio.TimeoutError:
        return Found(one, lane, "no end")
    counts[f"{lane}: answers"] += len(seen.answers)
    counts[f"{lane}: messages heard"] += len(seen.heard)
    counts[f"{lane}: ended with {_end(seen.end)}"] += 1
    what = difference(seen, expected, place.host)
    return None if what is None else Found(one, lane, what)


async def _see_empty(place: Place) -> None:
    """Wait until the server knows of no connection and of no topic."""
    if place.context is not None:  # a TLS peer that goes while it is held is let go of at its deadline only
        return
    for _ in range(int(PATIENCE / POLL)):
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        metrics = await reader.read()
        writer.close()
        await writer.wait_closed()
        left = [line for line in metrics.split(b"\n") if line.startswith((b"chat_connections ", b"chat_topics "))]
        if left == [b"chat_connections 0.0", b"chat_topics 0.0"]:
            return
        await asyncio.sleep(POLL)
    raise AssertionError(f"left behind: {left}")


def _end(close: Optional[bytes]) -> str:
    return "no close frame" if close is None else f"close {int.from_bytes(close[:2], 'big')}"
