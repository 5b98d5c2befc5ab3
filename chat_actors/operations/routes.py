"""The HTTP routes for the operator: liveness, readiness, active topics and metrics."""

import asyncio
from typing import Any

import msgspec
from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client import ProcessCollector
from prometheus_client.exposition import choose_encoder

from chat_actors.connection.admission import Authenticated
from chat_actors.operations.metrics import registry
from chat_actors.protocol.frames import TopicUsers
from chat_actors.server import Server
from chat_actors.settings import Settings

_, _SCHEMAS = msgspec.json.schema_components([TopicUsers])
_TOPICS: dict[str, Any] = {"type": "array", "items": _SCHEMAS["TopicUsers"]}


def operations(server: Server, settings: Settings) -> APIRouter:
    """Return the routes of one application.

    ``/topics`` and ``/metrics`` need the server's token, if it has one, as ``Authorization: Bearer …`` (RFC 6750). They
    answer 401 without it.
    """
    router = APIRouter(tags=["operations"])
    process = ProcessCollector(registry=None)

    def check_token(request: Request) -> None:
        if not isinstance(server.admission.authenticate(request.scope["headers"]), Authenticated):
            detail = "token required: add the header `Authorization: Bearer <token>`"
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})

    @router.get("/healthz", summary="Check that the server is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz", summary="Check that the server takes members", responses={503: {"description": "Stopping"}})
    async def readyz(response: Response) -> dict[str, str]:
        if server.stopping:
            response.status_code = 503
        return {"status": "closing" if server.stopping else "ready"}

    if settings.topics_page:

        @router.get(
            "/topics",
            summary="List the active topics, oldest first",
            response_class=Response,
            responses={200: {"content": {"application/json": {"schema": _TOPICS}}}},
        )
        async def topics(request: Request) -> Response:
            check_token(request)
            listed, partial = await server.topics()
            headers = {"X-Partial": "true"} if partial else {}
            return Response(listed, media_type="application/json", headers=headers)

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    async def metrics_page(request: Request) -> Response:
        check_token(request)
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        seen = await server.statistics()
        own = await asyncio.to_thread(process.collect)  # to count 10,000 descriptors takes 10 ms
        return Response(encode(registry(seen, server.counters, own)), headers={"content-type": media_type})

    return router
