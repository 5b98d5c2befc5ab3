"""The HTTP routes for the operator: liveness, readiness, active topics and metrics.

Each answers with a slash behind its path as well: a probe counts a redirect as success, and a 404 as failure.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, Callable, TypeVar

import msgspec
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from chat_actors.connection.admission import Authenticated
from chat_actors.operations.metrics import process_metrics, registry
from chat_actors.protocol.frames import TopicUsers
from chat_actors.server import Server
from chat_actors.settings import Settings

_, _SCHEMAS = msgspec.json.schema_components([TopicUsers])
_TOPICS: dict[str, Any] = {"type": "array", "items": _SCHEMAS["TopicUsers"]}
_NOW = {"Cache-Control": "no-store"}  # true at this moment alone
_RETRY_SECONDS = "1"  # none of the reasons against readiness has an end that is known
_NOT_READY = "Every join would be refused: `closing`, `full`, `no_quorum` or `no_endpoint`"

Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[Response]])


def operations(server: Server, settings: Settings) -> APIRouter:
    """Return the routes of one application.

    ``/topics`` and ``/metrics`` need the server's token, if it has one, as ``Authorization: Bearer …`` (RFC 6750). They
    answer 401 without it.
    """
    router = APIRouter(tags=["operations"])

    def check_token(request: Request) -> None:
        if not isinstance(server.admission.authenticate(request.scope["headers"]), Authenticated):
            detail = "token required: add the header `Authorization: Bearer <token>`"
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})

    def get(path: str, summary: str, kind: type[Response], **responses: Any) -> Callable[[Endpoint], Endpoint]:
        def add(endpoint: Endpoint) -> Endpoint:
            router.add_api_route(path, endpoint, summary=summary, response_class=kind, **responses)
            router.add_api_route(f"{path}/", endpoint, include_in_schema=False)
            return endpoint

        return add

    @get("/healthz", "Check that the server is alive", JSONResponse)
    async def healthz() -> Response:
        return JSONResponse({"status": "alive"}, headers=_NOW)

    @get("/readyz", "Check that the server takes members", JSONResponse, responses={503: {"description": _NOT_READY}})
    async def readyz() -> Response:
        status = server.readiness()
        if status == "ready":
            return JSONResponse({"status": status}, headers=_NOW)
        return JSONResponse({"status": status}, 503, {**_NOW, "Retry-After": _RETRY_SECONDS})

    if settings.topics_page:

        @get(
            "/topics",
            "List the active topics, oldest first",
            Response,
            responses={200: {"content": {"application/json": {"schema": _TOPICS}}}},
        )
        async def topics(request: Request) -> Response:
            check_token(request)
            listed, partial = await server.topics()
            headers = {**_NOW, "X-Partial": "true"} if partial else _NOW
            return Response(listed, media_type="application/json", headers=headers)

    @get("/metrics", "Metrics for Prometheus", Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics_page(request: Request) -> Response:
        check_token(request)
        encode, media_type = _encoder(request.headers.get("accept", ""))
        measured = await server.measure()
        own = await asyncio.to_thread(process_metrics, measured.processes)  # to count 10,000 descriptors takes 10 ms
        seen, counters = measured.statistics, measured.counters
        return Response(encode(registry(seen, counters, own)), headers={**_NOW, "Content-Type": media_type})

    return router


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """Return what writes the metrics, and its media type: the client's choice if it has made one that is known."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        return choose_encoder("")
