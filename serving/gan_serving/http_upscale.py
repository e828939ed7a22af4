"""``POST /v1/images/upscale``, and OpenAI's routes for pictures that no model here can serve."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from gan_core.errors import BadRequest, InvalidRequest, NotSupported

from .encode import png_pieces
from .http_forms import FORM, arriving, read_form
from .http_images import chained, sent, timeout_of, wants_file
from .http_layers import unless_gone
from .room import PICTURES_AT_ONCE, Room
from .schema import GenerationResponse, UpscaleBody, UpscaleRequest, explained
from .service import card_of
from .upscaling import (
    MAX_OUTPUT_PIXELS,
    MAX_STREAMED_PIXELS,
    WHOLE_PIXELS,
    abilities,
    enlarge,
)

if TYPE_CHECKING:
    from .encode import Encoded
    from .gatekeeper import Gatekeeper
    from .keys import Caller
    from .service import ImageService
    from .upscaling import Enlarged

__all__ = ["ROUTES", "add_upscaling"]

UPSCALE = "/v1/images/upscale"
VARIATIONS = "/v1/images/variations"
EDITS = "/v1/images/edits"
ROUTES = (UPSCALE, VARIATIONS, EDITS)
"""Those whose bodies hold pictures."""

CallerOf = Callable[[Request], Awaitable["Caller"]]


def add_upscaling(
    app: FastAPI,
    service: ImageService,
    gatekeeper: Gatekeeper,
    encoded: Encoded,
    caller_of: CallerOf,
    described: dict[int | str, dict[str, Any]],
    max_image_bytes: int,
) -> None:
    """Add the routes; ``described`` are their answers, for the document."""
    room = Room(PICTURES_AT_ONCE * max_image_bytes)

    @app.post(
        UPSCALE,
        response_model=GenerationResponse,
        responses=described,
        openapi_extra={"requestBody": {"required": True, "content": UPSCALE_CONTENT}},
    )
    async def upscale_image(request: Request) -> Response:
        """Make a picture larger: a form with the file, or JSON with it as base64.

        The answer is that of a generation: JSON, or the file itself for `Accept: image/*`.
        """
        caller = await caller_of(request)
        timeout_s = timeout_of(request.headers)
        async with AsyncExitStack() as stack:
            stack.enter_context(room.share()).take(_size(request, max_image_bytes))
            async with arriving(min(timeout_s or service.timeout_s, service.timeout_s)):
                body, picture = await _read(request)
            request.scope["ganforge.model"] = body.model
            gatekeeper.check_model(caller, body.model)
            as_file = wants_file(request, body, single=True)
            streams = as_file and body.output_format == "png"

            async def work() -> Response:
                await stack.enter_async_context(gatekeeper.admitted(caller, 1))
                most = MAX_STREAMED_PIXELS if streams else MAX_OUTPUT_PIXELS
                made = await enlarge(
                    service, body, picture, timeout_s, caller.name, max_pixels=most
                )
                if streams and made.width * made.height > WHOLE_PIXELS:
                    return await _streamed(made, stack.pop_all(), encoded)
                return await sent(await made.whole(), body, encoded, as_file=as_file)

            return await unless_gone(request, work())

    async def refuse(request: Request, what: str) -> Response:
        caller = await caller_of(request)
        with room.share() as share:
            share.take(_size(request, max_image_bytes))
            async with arriving(service.timeout_s):
                model = (await read_form(request)).get("model")
        if not isinstance(model, str):
            raise InvalidRequest("model: name one of GET /v1/models", param="model")
        request.scope["ganforge.model"] = model
        gatekeeper.check_model(caller, model)
        card = card_of(await service.engine.published(model), None)
        raise NotSupported(f"{model!r} can't make {what}; {abilities(card)}", param="model")

    @app.post(VARIATIONS, responses=described, openapi_extra=OPENAI_BODY)
    async def vary_image(request: Request) -> Response:
        """Variations of a picture: no model makes them, and the problem says what this one does."""
        return await refuse(request, "variations of a picture")

    @app.post(EDITS, responses=described, openapi_extra=OPENAI_BODY)
    async def edit_image(request: Request) -> Response:
        """Edits of a picture: no model makes them, and the problem says what this one does."""
        return await refuse(request, "edits of a picture")


async def _streamed(made: Enlarged, taken: AsyncExitStack, encoded: Encoded) -> Response:
    """A PNG that is sent while it is made; who asked has its place and room until then."""
    pieces = _pieces(made, taken, encoded)
    head = await anext(pieces)  # from here on they are given back whatever happens
    return StreamingResponse(
        chained(head, pieces),
        media_type="image/png",
        headers={"X-Model": made.model, "X-Model-Version": str(made.version)},
    )


async def _pieces(
    made: Enlarged, taken: AsyncExitStack, encoded: Encoded
) -> AsyncGenerator[bytes, None]:
    async with taken, aclosing(png_pieces(made, encoded)) as pieces:
        async for piece in pieces:
            yield piece


def _size(request: Request, most: int) -> int:
    """Of the body, in bytes, which its limit is the most of."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdigit() else most


async def _read(request: Request) -> tuple[UpscaleRequest, bytes]:
    """What is asked for, and the picture's file.

    Raises:
        BadRequest: the body is neither such a form nor JSON.
        InvalidRequest: a field is missing, unknown or out of range.
    """
    kind = request.headers.get("content-type", "")
    try:
        if kind.startswith(FORM):
            fields = await read_form(request)
            picture = fields.pop("image", None)
            if not isinstance(picture, bytes):
                raise InvalidRequest("image: a file is missing", param="image")
            return UpscaleRequest.model_validate_strings(fields), picture
        if "json" in kind:
            body = UpscaleBody.model_validate_json(await request.body())
            return body, _from_base64(body.image)
    except ValidationError as error:
        findings = error.errors(include_url=False)
        if broken := next((item for item in findings if item["type"] == "json_invalid"), None):
            raise BadRequest(f"the body is not JSON: {broken['ctx']['error']}") from error
        raise explained(findings) from error
    raise BadRequest(f"send {FORM} or application/json, and its Content-Type")


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"image: not base64: {error}", param="image") from error


FILE = {"type": "string", "format": "binary", "description": "A PNG, JPEG, WebP or TIFF."}
EXAMPLE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEklEQVR4XmM6cQICmRiggDwGAKi/BlHM"
    "SBHQAAAAAElFTkSuQmCC"
)
"""A grey square."""
UPSCALE_CONTENT: dict[str, Any] = {
    "multipart/form-data": {
        "schema": {"$ref": "#/components/schemas/UpscaleForm"},
        "encoding": {"image": {"contentType": "image/png, image/jpeg, image/webp, image/tiff"}},
    },
    "application/json": {
        "schema": {"$ref": "#/components/schemas/UpscaleBody"},
        "example": {"model": "photos_x2", "image": EXAMPLE, "output_format": "webp"},
    },
}
OPENAI_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"model": {"type": "string"}, "image": FILE},
                    "required": ["model", "image"],
                }
            }
        },
    }
}
