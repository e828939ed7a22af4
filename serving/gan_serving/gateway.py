"""The HTTP gateway: OpenAI-shaped routes over an ImageService, and probes that don't lie."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gan_core.errors import (
    BadRequest,
    InternalError,
    MethodNotAllowed,
    NotAcceptable,
    PayloadTooLarge,
    RouteNotFound,
    ServiceError,
)

from .encode import png
from .schema import (
    PROBLEM_TYPE,
    GenerationRequest,
    GenerationResponse,
    ImageData,
    ModelInfo,
    ModelList,
    Usage,
    explained,
    problem,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .readiness import Readiness
    from .repository import Published
    from .service import Generation, ImageService

__all__ = ["MAX_BODY_BYTES", "create_app"]

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def create_app(service: ImageService, readiness: Readiness) -> FastAPI:
    """The gateway's ASGI application.

    Args:
        service: generates the images.
        readiness: answers ``/readyz``.
    """
    app = FastAPI(title="ganforge", summary="Images from GANs.", openapi_url="/openapi.json")
    app.add_middleware(_BodyLimit)
    app.add_middleware(_RequestId)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        """Every model, with what it takes and gives."""
        return ModelList(data=[_info(one) for one in await service.models()])

    @app.get("/v1/models/{model}")
    async def retrieve_model(model: str) -> ModelInfo:
        """One model."""
        return _info(await service.engine.published(model))

    @app.post("/v1/images/generations", response_model=GenerationResponse)
    async def generate(body: GenerationRequest, request: Request) -> Response:
        """Generate images: JSON, or the PNG itself for ``Accept: image/png`` and one image."""
        as_bytes = _wants_png(request, body)
        generation = await service.generate(body)
        files = await asyncio.to_thread(lambda: [png(image) for image in generation.images])
        return _image(generation, files[0]) if as_bytes else _json(generation, files)

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @app.get("/readyz")
    async def readyz() -> Response:
        """Every model answers a real inference; 503 while one doesn't, or there is none."""
        return await _readiness(readiness)

    return app


def _info(published: Published) -> ModelInfo:
    card = published.card
    return ModelInfo(
        id=published.name,
        created=int(card.created.timestamp()),
        versions=sorted(published.cards),
        card=card,
    )


def _wants_png(request: Request, body: GenerationRequest) -> bool:
    accepted = request.headers.get("accept", "*/*").lower()
    image = "image/png" in accepted or "image/*" in accepted
    json_too = any(kind in accepted for kind in ("application/json", "application/*", "*/*"))
    if not image and not json_too:
        raise NotAcceptable(f"Accept {accepted!r}: application/json or image/png can be given")
    latents = body.latents if isinstance(body.latents, list) else None
    single = (body.n or len(body.labels or latents or "1")) == 1
    if image and not single and not json_too:
        raise NotAcceptable("an image can only be sent as such for n = 1; accept JSON for more")
    return image and single and "application/json" not in accepted


def _json(generation: Generation, files: list[bytes]) -> Response:
    _, height, width, _ = generation.images.shape
    answer = GenerationResponse(
        created=int(time.time()),
        data=[
            ImageData(b64_json=base64.b64encode(file).decode(), seed=seed)
            for file, seed in zip(files, generation.seeds, strict=True)
        ],
        model=generation.model,
        version=generation.version,
        size=f"{width}x{height}",
        usage=Usage(images=len(files), compute_ms=round(generation.compute_ms, 3)),
    )
    return Response(answer.model_dump_json(), media_type="application/json")


def _image(generation: Generation, file: bytes) -> Response:
    headers = {"X-Model": generation.model, "X-Model-Version": str(generation.version)}
    if generation.seeds[0] is not None:
        headers["X-Seed"] = str(generation.seeds[0])
    return Response(file, media_type="image/png", headers=headers)


async def _readiness(readiness: Readiness) -> Response:
    try:
        problems = await readiness.check()
    except ServiceError as error:
        models, ready = {"engine": error.message}, False
    else:
        models = {name: error.message if error else "ready" for name, error in problems.items()}
        ready = bool(models) and not any(problems.values())
    body = {"ready": ready, "models": models}
    if not models:
        body["detail"] = "no model is published"
    headers = {} if ready else {"Retry-After": "1"}
    return Response(json.dumps(body), 200 if ready else 503, headers, media_type="application/json")


def _problem(request: Request, error: ServiceError) -> Response:
    request_id = request.scope.get("ganforge.request_id", "")
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    body = json.dumps(problem(error, request_id))  # ASCII: a lone surrogate must not break it
    return Response(body, error.status, headers, media_type=PROBLEM_TYPE)


async def _on_service_error(request: Request, error: Any) -> Response:
    if isinstance(error, InternalError):
        log.error("request %s: %s", request.scope.get("ganforge.request_id"), error)
        return _problem(request, InternalError("the server failed; its log has the details"))
    return _problem(request, error)


async def _on_invalid(request: Request, error: Any) -> Response:
    findings = error.errors()
    broken = next((item for item in findings if item["type"] == "json_invalid"), None)
    if broken:
        return _problem(request, BadRequest(f"the body is not JSON: {broken['ctx']['error']}"))
    if "json" not in request.headers.get("content-type", ""):
        return _problem(request, BadRequest("send JSON, and Content-Type: application/json"))
    return _problem(request, explained(findings))


async def _on_http(request: Request, error: Any) -> Response:
    if isinstance(error.__cause__, ServiceError):  # raised while FastAPI read the body
        return _problem(request, error.__cause__)
    route = f"{request.method} {request.url.path}"
    known: dict[int, ServiceError] = {
        404: RouteNotFound(f"no route {route}; see /docs"),
        405: MethodNotAllowed(f"{route} is not allowed; see /docs"),
    }
    return _problem(request, known.get(error.status_code) or BadRequest(str(error.detail)))


async def _on_defect(request: Request, error: Exception) -> Response:
    log.error("request %s", request.scope.get("ganforge.request_id"), exc_info=error)
    response = _problem(request, InternalError("the server failed; its log has the details"))
    # Starlette answers a defect outside of every middleware, so outside of _RequestId too
    response.headers["X-Request-Id"] = request.scope.get("ganforge.request_id", "")
    return response


_HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    ServiceError: _on_service_error,
    RequestValidationError: _on_invalid,
    HTTPException: _on_http,
    Exception: _on_defect,
}


class _RequestId:
    """Gives every request an id (the caller's, where it sent a sane one) and returns it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["ganforge.request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                header = (b"x-request-id", request_id.encode())
                message["headers"] = [*message.get("headers", []), header]
            await send(message)

        await self._app(scope, receive, send_with_id)


class _BodyLimit:
    """Refuses a body of more than MAX_BODY_BYTES: by its header, or while it comes in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            await self._refuse(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise PayloadTooLarge(_too_large())
            return message

        await self._app(scope, limited, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = _problem(Request(scope), PayloadTooLarge(_too_large()))
        response.headers["Connection"] = "close"  # the rest of the body isn't read
        await response(scope, receive, send)


def _too_large() -> str:
    return f"the body is larger than {MAX_BODY_BYTES:,} bytes"
