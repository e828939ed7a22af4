"""``POST /v1/images/generations``: what is asked for, and the four shapes of the answer.

JSON, the file itself, or server-sent events; a request's deadline and its end come with it.
"""

from __future__ import annotations

import base64
import json
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.responses import Response, StreamingResponse

from gan_core.errors import BadRequest, InvalidRequest, NotAcceptable, ServiceError

from .answers import shown
from .encode import Encoded, files
from .schema import FORMATS, explained, problem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from starlette.requests import Request

    from .schema import AugmentRequest, Format, GenerationRequest, ImageRequest
    from .service import Generation, ImageService

__all__ = [
    "answer",
    "chained",
    "document",
    "encoded_files",
    "read_request",
    "sent",
    "timeout_of",
    "wants_file",
]

BodyT = TypeVar("BodyT", bound=BaseModel)
T = TypeVar("T")
TIMEOUT_HEADERS = ("x-timeout-s", "x-stainless-read-timeout")
"""Seconds that the client waits: ours, and what OpenAI's clients send by themselves."""


async def read_request(request: Request, kind: type[BodyT]) -> BodyT:
    """The body, validated.

    Raises:
        BadRequest: it isn't JSON.
        InvalidRequest: a field is missing, unknown or out of range.
    """
    if "json" not in request.headers.get("content-type", ""):
        raise BadRequest("send JSON, and Content-Type: application/json")
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        findings = error.errors(include_url=False)
        if broken := next((item for item in findings if item["type"] == "json_invalid"), None):
            raise BadRequest(f"the body is not JSON: {broken['ctx']['error']}") from error
        raise explained(findings) from error


def timeout_of(headers: Mapping[str, str]) -> float | None:
    """Seconds after which the client has no use for an answer, if it says so.

    Raises:
        InvalidRequest: it isn't a number above 0.
    """
    name = next((name for name in TIMEOUT_HEADERS if name in headers), None)
    if name is None:
        return None
    try:
        seconds = float(headers[name])
    except ValueError:
        seconds = float("nan")
    if not seconds > 0:
        raise InvalidRequest(f"{name}: {headers[name]!r} is not a number of seconds above 0")
    return seconds


async def answer(
    service: ImageService,
    request: Request,
    body: GenerationRequest,
    caller: str,
    admitted: AbstractAsyncContextManager[None],
    encoded: Encoded,
) -> Response:
    """Images as the client wants them; ``admitted`` is left when the last of them is sent.

    Raises:
        ServiceError: the request can't be fulfilled; the subclass says why.
    """
    timeout_s = timeout_of(request.headers)
    if body.stream:
        _check_events(request)
        request_id = request.scope.get("ganforge.request_id", "")
        events = _events(
            service.stream(body, timeout_s, caller), body, admitted, encoded, request_id
        )
        # the first event before the status: what is refused has an error's status
        first = await anext(events)
        return StreamingResponse(chained(first, events), media_type="text/event-stream")
    as_file = wants_file(request, body, single=service.count(body) == 1)
    async with admitted:
        generation = await service.generate(body, timeout_s, caller)
        return await sent(generation, body, encoded, as_file=as_file)


async def sent(
    generation: Generation, body: ImageRequest, encoded: Encoded, *, as_file: bool
) -> Response:
    """The images as JSON, or the only one as a file."""
    made = await encoded_files(generation, body, encoded)
    if as_file:
        return _file(generation, made[0], body)
    return Response(document(generation, made, body), media_type="application/json")


def _accepted(request: Request) -> tuple[str, bool]:
    """What the client takes, and whether that is JSON too."""
    accepted = request.headers.get("accept", "*/*").lower()
    json_kinds = ("application/json", "application/*", "*/*")
    return accepted, any(kind in accepted for kind in json_kinds)


def _check_events(request: Request) -> None:
    accepted, json_too = _accepted(request)
    if "text/event-stream" not in accepted and not json_too:
        raise NotAcceptable(f"Accept {accepted!r}: a stream is text/event-stream")


def wants_file(request: Request, body: ImageRequest, *, single: bool) -> bool:
    """Whether the client wants the file itself, not JSON.

    Raises:
        NotAcceptable: it takes neither, or the file of several images.
    """
    accepted, json_too = _accepted(request)
    image = f"image/{body.output_format}" in accepted or "image/*" in accepted
    if not image and not json_too:
        known = ", ".join(f"image/{name}" for name in FORMATS)
        raise NotAcceptable(
            f"Accept {accepted!r}: application/json can be given, or {known} where output_format "
            "says so"
        )
    if image and not single and not json_too:
        raise NotAcceptable("an image can only be sent as such for n = 1; accept JSON for more")
    return image and single and "application/json" not in accepted


async def encoded_files(
    generation: Generation, body: ImageRequest | AugmentRequest, encoded: Encoded
) -> list[bytes]:
    """The images as the files that were asked for."""
    began = time.perf_counter()
    made = await files(
        generation.images, body.output_format, body.output_compression, generation.profile
    )
    encoded(body.output_format, len(made), time.perf_counter() - began)
    return made


def document(generation: Generation, made: list[bytes], body: ImageRequest) -> str:
    """A ``GenerationResponse`` as JSON."""
    data = [
        {"b64_json": base64.b64encode(file).decode(), "seed": seed}
        for file, seed in zip(made, generation.seeds, strict=True)
    ]
    found = {
        "created": int(time.time()),
        "data": data,
        **_about(generation, body.output_format),
        "usage": {"images": len(made), "compute_ms": round(generation.compute_ms, 3)},
    }
    return json.dumps(found)


def _about(generation: Generation, output_format: Format) -> dict[str, Any]:
    _, height, width, _ = generation.images.shape
    return {
        "model": generation.model,
        "version": generation.version,
        "output_format": output_format,
        "size": f"{width}x{height}",
    }


def _file(generation: Generation, file: bytes, body: ImageRequest) -> Response:
    headers = {"X-Model": generation.model, "X-Model-Version": str(generation.version)}
    if generation.seeds[0] is not None:
        headers["X-Seed"] = str(generation.seeds[0])
    return Response(file, media_type=f"image/{body.output_format}", headers=headers)


async def _events(
    parts: AsyncGenerator[Generation, None],
    body: GenerationRequest,
    admitted: AbstractAsyncContextManager[None],
    encoded: Encoded,
    request_id: str,
) -> AsyncGenerator[str, None]:
    """An event per image, with OpenAI's names; an error ends them."""
    started = False
    try:
        async with admitted, aclosing(parts):
            async for part in parts:
                for file, seed in zip(
                    await encoded_files(part, body, encoded), part.seeds, strict=True
                ):
                    event = {
                        "type": "image_generation.completed",
                        "b64_json": base64.b64encode(file).decode(),
                        "created_at": int(time.time()),
                        "seed": seed,
                        **_about(part, body.output_format),
                    }
                    started = True
                    yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
    except ServiceError as error:
        if not started:
            raise
        yield f"event: error\ndata: {json.dumps(problem(shown(error, request_id), request_id))}\n\n"


async def chained(first: T, others: AsyncGenerator[T, None]) -> AsyncIterator[T]:
    """A generator that was begun to see whether it fails, whole again."""
    async with aclosing(others):
        yield first
        async for one in others:
            yield one
