"""The operators' port: metrics for Prometheus, and probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST

from .gateway import readiness_response
from .http_layers import RequestId
from .http_problems import HANDLERS

if TYPE_CHECKING:
    from .readiness import Readiness
    from .telemetry import Telemetry

__all__ = ["create_admin_app"]


def create_admin_app(readiness: Readiness, telemetry: Telemetry) -> FastAPI:
    """What operators ask, on a port of its own that nobody else should reach.

    Args:
        readiness: answers ``/readyz``.
        telemetry: answers ``/metrics``.
    """
    app = FastAPI(title="ganforge admin", summary="For operators.", openapi_url="/openapi.json")
    app.add_middleware(RequestId)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Everything that is counted and timed, as Prometheus reads it."""
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/readyz")
    async def readyz() -> Response:
        """As on the public port."""
        return await readiness_response(readiness)

    return app
