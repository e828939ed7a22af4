"""The HTTP gateway: OpenAI-shaped routes over an ImageService, and probes that don't lie."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware

from gan_core.errors import ServiceError, Unavailable

from .gatekeeper import Gatekeeper
from .http_augment import AUGMENTED, AugmentRoute
from .http_images import answer, read_request
from .http_jobs import accepted, info, result, seed_of, wants_job
from .http_layers import BodyLimit, Direct, Observed, RequestId, unless_gone
from .http_problems import HANDLERS
from .http_upscale import ROUTES, add_upscaling
from .schema import (
    FORMATS,
    PROBLEM_TYPE,
    AugmentRequest,
    GenerationRequest,
    GenerationResponse,
    JobInfo,
    ModelInfo,
    ModelList,
    Problem,
    UpscaleBody,
    UpscaleForm,
)
from .service import card_of
from .telemetry import Telemetry
from .upscaling import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from pydantic import BaseModel

    from .http_jobs import JobRunner
    from .jobs import JobStore
    from .keys import Caller
    from .published import Published
    from .readiness import Readiness
    from .service import ImageService

__all__ = ["create_app", "readiness_response"]


def create_app(
    service: ImageService,
    readiness: Readiness,
    gatekeeper: Gatekeeper,
    telemetry: Telemetry | None = None,
    runner: JobRunner | None = None,
    max_image_bytes: int = MAX_IMAGE_BYTES,
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """The gateway's ASGI application.

    Args:
        service: generates the images.
        readiness: answers ``/readyz``.
        gatekeeper: says who may ask for what.
        telemetry: counts and times what goes on.
        runner: runs requests whose answers are fetched later; None answers them at once.
        max_image_bytes: largest body with a picture.
        cors_origins: whose web pages may ask, such as ``https://example.org``; ``*`` for any.
    """
    watched = telemetry or Telemetry(service)
    app = FastAPI(title="ganforge", summary="Images from GANs.", openapi_url="/openapi.json")
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.openapi = lambda: _documented(app)  # type: ignore[method-assign]  # as FastAPI's docs do

    async def caller_of(request: Request) -> Caller:
        caller = await gatekeeper.caller(request.headers.get("authorization"))
        request.scope["ganforge.caller"] = caller.name
        return caller

    _add_models(app, service, caller_of)
    generations = _add_images(app, service, gatekeeper, watched, runner, caller_of)
    _add_augment(app, AugmentRoute(service, gatekeeper, readiness, watched.encoded), caller_of)
    described = {**IMAGE, **PROBLEMS}
    add_upscaling(app, service, gatekeeper, watched.encoded, caller_of, described, max_image_bytes)
    if runner is not None:
        _add_jobs(app, runner.store, caller_of)
    _add_probes(app, readiness)
    app.add_middleware(Direct, route=generations)  # from the innermost layer outwards
    app.add_middleware(BodyLimit, larger=dict.fromkeys(ROUTES, max_image_bytes))
    app.add_middleware(Observed, telemetry=watched)
    app.add_middleware(RequestId)
    if cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=cors_origins, **CORS)
    return app


CallerOf = Callable[[Request], Awaitable["Caller"]]
CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "DELETE"],
    "allow_headers": ["*"],  # OpenAI's client sends a dozen of its own
    "expose_headers": ["Location", "Retry-After", "X-Model-Version", "X-Request-Id", "X-Seed"],
}


def _add_models(app: FastAPI, service: ImageService, caller_of: CallerOf) -> None:
    @app.get("/v1/models", responses=PROBLEMS)
    async def list_models(request: Request) -> ModelList:
        """Every model that the key is for, with what it takes and gives."""
        caller = await caller_of(request)
        found = [one for one in await service.models() if caller.may_use(one.name)]
        return ModelList(data=[_info(one) for one in found])

    @app.get("/v1/models/{model}", responses=PROBLEMS)
    async def retrieve_model(
        model: str, request: Request, version: Annotated[int | None, Query(ge=1)] = None
    ) -> ModelInfo:
        """One model, with the card of a version; the newest by default."""
        Gatekeeper.check_model(await caller_of(request), model)
        return _info(await service.engine.published(model), version)


def _add_images(
    app: FastAPI,
    service: ImageService,
    gatekeeper: Gatekeeper,
    telemetry: Telemetry,
    runner: JobRunner | None,
    caller_of: CallerOf,
) -> APIRoute:
    @app.post(
        "/v1/images/generations",
        response_model=GenerationResponse,
        responses={**IMAGES, **PROBLEMS},
        openapi_extra=_body(GenerationRequest),
    )
    async def generate(request: Request) -> Response:
        """Generate images: JSON, the file itself for ``Accept: image/*``, or events.

        With ``Prefer: respond-async`` a job, to be asked for at ``Location``. With the same
        ``Idempotency-Key`` the same job, or without a seed the same images.
        """
        caller = await caller_of(request)
        body = await read_request(request, GenerationRequest)
        request.scope["ganforge.model"] = body.model
        gatekeeper.check_model(caller, body.model)
        admitted = gatekeeper.admitted(caller, service.count(body))
        key = request.headers.get("idempotency-key")
        if runner is not None and wants_job(request):
            async with admitted:
                return accepted(await runner.take_in(body, caller.name, key))
        if key is not None and body.seed is None and body.latents is None:
            body.seed = seed_of(key, caller.name)
        work = answer(service, request, body, caller.name, admitted, telemetry.encoded)
        return await unless_gone(request, work)

    return next(one for one in app.routes if isinstance(one, APIRoute) and one.endpoint is generate)


def _add_augment(app: FastAPI, route: AugmentRoute, caller_of: CallerOf) -> None:
    @app.post(
        "/v1/augment",
        response_class=Response,
        responses={**AUGMENTED, **PROBLEMS},
        openapi_extra=_body(AugmentRequest),
    )
    async def augment(request: Request) -> Response:
        """A long stream of images for a data set: ndjson, or for ``application/x-tar`` a tar.

        The version is that of the stream's start; image i is a function of it, seed + i and its
        class. With the same seed, and that version, ``offset`` resumes a stream that was cut.
        """
        caller = await caller_of(request)
        body = await read_request(request, AugmentRequest)
        request.scope["ganforge.model"] = body.model
        route.gatekeeper.check_model(caller, body.model)
        return await route.answer(request, body, caller)


def _add_jobs(app: FastAPI, store: JobStore, caller_of: CallerOf) -> None:
    @app.get("/v1/jobs/{job}", responses=PROBLEMS)
    async def retrieve_job(job: str, request: Request) -> JobInfo:
        """How far a job is."""
        caller = await caller_of(request)
        return info(await asyncio.to_thread(store.get, job, caller.name))

    @app.get(
        "/v1/jobs/{job}/result",
        response_model=GenerationResponse,
        responses={202: {"model": JobInfo, "description": "Not yet"}, **PROBLEMS},
    )
    async def job_result(job: str, request: Request) -> Response:
        """A job's answer, as the request itself would have had it."""
        caller = await caller_of(request)
        return await asyncio.to_thread(result, store, job, caller.name)

    @app.delete("/v1/jobs/{job}", responses=PROBLEMS)
    async def cancel_job(job: str, request: Request) -> JobInfo:
        """End a job; one that has ended stays as it is."""
        caller = await caller_of(request)
        return info(await asyncio.to_thread(store.cancel, job, caller.name))


def _add_probes(app: FastAPI, readiness: Readiness) -> None:
    @app.get("/v2/health/live", include_in_schema=False)  # as KServe asks
    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @app.get("/v2/health/ready", include_in_schema=False)
    @app.get("/readyz")
    async def readyz() -> Response:
        """Every model answers a real inference; 503 while one doesn't, or there is none."""
        return await readiness_response(readiness)


PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem (RFC 9457)",
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
FILES: dict[str, Any] = {
    f"image/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in FORMATS
}
IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The image; as a file for `Accept: image/*`", "content": FILES}
}
IMAGES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The images; a file for `Accept: image/*` and n = 1; events for `stream`",
        "content": {
            **FILES,
            "text/event-stream": {
                "itemSchema": {
                    "type": "object",
                    "properties": {
                        "event": {"enum": ["image_generation.completed", "error"]},
                        "data": {"type": "string", "contentMediaType": "application/json"},
                    },
                }
            },
        },
    }
}


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a body that is read without FastAPI's help."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _documented(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, and the schemas of what is read and written without its help."""
    if not app.openapi_schema:
        document = FastAPI.openapi(app)
        read = (AugmentRequest, GenerationRequest, UpscaleBody, UpscaleForm)
        _, schemas = models_json_schema(
            [*((kind, "validation") for kind in read), (Problem, "serialization")],
            ref_template="#/components/schemas/{model}",
        )
        document["components"]["schemas"].update(schemas["$defs"])
        app.openapi_schema = document
    return app.openapi_schema


def _info(published: Published, version: int | None = None) -> ModelInfo:
    card = card_of(published, version)
    return ModelInfo(
        id=published.name,
        created=int(card.created.timestamp()),
        version=version or published.version,
        versions=sorted(published.cards),
        card=card,
    )


async def readiness_response(readiness: Readiness) -> Response:
    """Which models answer: 200 if all do, 503 if one doesn't or there is none."""
    try:
        if readiness.draining:
            raise Unavailable("the server is about to stop")
        problems = await readiness.check()
    except ServiceError as error:
        models, ready = {"engine": error.message}, False
    else:
        remarks = readiness.remarks()
        ready = bool(problems) and not any(problems.values())
        models = dict(remarks)
        for name, problem in problems.items():
            well = f"ready; {remarks[name]}" if name in remarks else "ready"
            models[name] = problem.message if problem else well
    body = {"ready": ready, "models": models}
    if not models:
        body["detail"] = "no model is published"
    headers = {} if ready else {"Retry-After": "1"}
    return Response(json.dumps(body), 200 if ready else 503, headers, media_type="application/json")
