"""The operators' port: metrics, probes, and what may be changed about a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from .gateway import PROBLEMS, readiness_response
from .http_layers import RequestId
from .http_problems import HANDLERS

if TYPE_CHECKING:
    from .gatekeeper import Gatekeeper
    from .operations import Operator
    from .published import Published
    from .readiness import Readiness
    from .service import ImageService
    from .siblings import Exposition

__all__ = ["CanaryRequest", "PromoteRequest", "ReleaseInfo", "create_admin_app"]


class PromoteRequest(BaseModel):
    """Body of ``POST /admin/models/{model}:promote``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    version: Annotated[StrictInt, Field(ge=1)] | None = None
    """The canary by default."""


class CanaryRequest(BaseModel):
    """Body of ``POST /admin/models/{model}:canary``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    weight: Annotated[float, Field(gt=0, lt=1, examples=[0.1])]
    """Share of the requests that name no version."""
    version: Annotated[StrictInt, Field(ge=1)] | None = None
    """The newest by default."""


class ReleaseInfo(BaseModel):
    """Which version of a model answers whom."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    model: str
    version: int
    """It answers those who name none."""
    previous: int | None = None
    """It did before."""
    canary: int | None = None
    """It answers a share of them, on trial."""
    weight: float | None = None
    """That share."""
    versions: list[int]
    """Those that serve, to whoever names them."""


def create_admin_app(
    service: ImageService,
    readiness: Readiness,
    exposition: Exposition,
    gatekeeper: Gatekeeper,
    operator: Operator,
) -> FastAPI:
    """What operators ask, on a port of its own that nobody else should reach.

    Args:
        service: whose models are shown.
        readiness: answers ``/readyz``.
        exposition: answers ``/metrics``.
        gatekeeper: says who may change anything: admins' keys, never anybody.
        operator: makes the changes.
    """
    app = FastAPI(title="ganforge admin", summary="For operators.", openapi_url="/openapi.json")
    app.add_middleware(RequestId)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Everything that is counted and timed, as Prometheus reads it."""
        return Response(await exposition(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/readyz")
    async def readyz() -> Response:
        """As on the public port."""
        return await readiness_response(readiness)

    async def admin(request: Request) -> None:
        caller = await gatekeeper.caller(request.headers.get("authorization"))
        gatekeeper.check_admin(caller)

    _add_releases(app, service, operator, admin)
    return app


def _add_releases(app: FastAPI, service: ImageService, operator: Operator, admin: Any) -> None:
    router = APIRouter(prefix="/admin/models", dependencies=[Depends(admin)], responses=PROBLEMS)

    @router.get("")
    async def list_releases() -> list[ReleaseInfo]:
        """Which version of each model answers whom."""
        return [_info(one) for one in await service.models()]

    @router.post("/{model}:promote")
    async def promote(model: str, body: PromoteRequest | None = None) -> ReleaseInfo:
        """Let a version answer all who name none; the canary by default."""
        return _info(await operator.promote(model, body.version if body else None))

    @router.post("/{model}:rollback")
    async def roll_back(model: str) -> ReleaseInfo:
        """Undo the last step: end the canary's trial, or go back to the version before."""
        return _info(await operator.roll_back(model))

    @router.post("/{model}:canary")
    async def try_out(model: str, body: CanaryRequest) -> ReleaseInfo:
        """Let a version answer a share of the requests, on trial; the newest by default."""
        return _info(await operator.try_out(model, body.weight, body.version))

    @router.post("/{model}:load")
    async def load(model: str) -> ReleaseInfo:
        """Serve a model that was unloaded, as before."""
        return _info(await operator.load(model))

    @router.post("/{model}:unload", status_code=204)
    async def unload(model: str) -> None:
        """Serve a model no more, until it is loaded or published again."""
        await operator.unload(model)

    app.include_router(router)


def _info(published: Published) -> ReleaseInfo:
    release = published.release
    return ReleaseInfo(
        model=published.name, versions=sorted(published.cards), **release.model_dump()
    )
