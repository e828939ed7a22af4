"""Pictures that come in: decoded, fitted to a model, and through its queue like any other image."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import numpy as np

from gan_core.card import ImageInput
from gan_core.errors import InternalError, InvalidRequest, NotSupported
from gan_core.latents import random_seed

from .decode import check_pixels, decoded, with_channels
from .service import ANYBODY, Generation, card_of, late_answer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gan_core.card import ModelCard

    from .schema import UpscaleRequest
    from .service import ImageService

__all__ = ["MAX_IMAGE_BYTES", "abilities", "upscale"]

MAX_IMAGE_BYTES = 32 << 20
"""Of a picture's file."""
MAX_OUTPUT_PIXELS = 1 << 26
"""Of what is made of it: 200 MB of RGB."""
LARGEST_SIDES_PX = {"webp": 16_383, "jpeg": 65_500}
"""That a file of the format can have."""


async def upscale(
    service: ImageService,
    request: UpscaleRequest,
    picture: bytes | NDArray[np.uint8],
    timeout_s: float | None = None,
    caller: str = ANYBODY,
    seed: int | None = None,
) -> Generation:
    """What a model makes of a picture, in one inference: a file, or pixels uint8 [H, W, C].

    Sides that aren't multiples of what the model takes are continued by their last pixels, and
    what comes of those is cut off. Pictures of one ``seed`` have the same share in a canary.

    Raises:
        ServiceError: the request can't be fulfilled; the subclass says why.
    """
    started, limit_s = time.monotonic(), min(timeout_s or service.timeout_s, service.timeout_s)
    try:
        async with asyncio.timeout(limit_s):
            published = await service.engine.published(request.model)
            card = card_of(published, request.version)
            source = _source(card)
            pixels = await _pixels(picture, card, source)
            padded = _padded(pixels, source.multiple_of)
            _check_sides(padded, card, source, request)
            left_s = started + limit_s - time.monotonic()
            answers = service.infer(
                published,
                {source.name: padded[None]},
                left_s,
                request.version,
                caller,
                random_seed() if seed is None else seed,
            )
            async with aclosing(answers):
                answer = await anext(answers)
    except TimeoutError as error:
        raise late_answer(request.model, limit_s) from error
    return Generation(
        model=request.model,
        version=answer.version,
        images=_cropped(answer.image, pixels, padded, card),
        seeds=(None,),
        compute_ms=(time.monotonic() - started) * 1000,
    )


def abilities(card: ModelCard) -> str:
    """What a model can do, for who asked it for something else."""
    roles = ", ".join(item.role for item in card.inputs)
    if roles == "image":
        return f"it makes images {card.output.scale} times as large: POST /v1/images/upscale"
    if card.input("image") is None:
        return f"it makes images from {roles}: POST /v1/images/generations"
    return f"it takes {roles}, which no route gives it"


def _source(card: ModelCard) -> ImageInput:
    match card.inputs:
        case (ImageInput() as source,):
            return source
    raise NotSupported(f"{card.model!r} can't upscale a picture; {abilities(card)}", param="model")


async def _pixels(
    picture: bytes | NDArray[np.uint8], card: ModelCard, source: ImageInput
) -> NDArray[np.uint8]:
    """uint8 [H, W, C] with the model's channels, and of no more pixels than it takes."""
    limit = min(source.max_side_px**2, MAX_OUTPUT_PIXELS // card.output.scale**2)
    if isinstance(picture, bytes):
        return await decoded(picture, source.channels, limit)
    height, width, _ = picture.shape
    check_pixels(width, height, limit)
    return with_channels(picture, source.channels)


def _check_sides(
    padded: NDArray[np.uint8], card: ModelCard, source: ImageInput, request: UpscaleRequest
) -> None:
    height, width, _ = padded.shape
    if min(height, width) < source.min_side_px or max(height, width) > source.max_side_px:
        raise InvalidRequest(
            f"image: it is {width} × {height} px; {card.model!r} takes sides of "
            f"{source.min_side_px} to {source.max_side_px} px",
            param="image",
        )
    side = card.output.scale * max(height, width)
    if side > LARGEST_SIDES_PX.get(request.output_format, side):
        raise InvalidRequest(
            f"output_format: a side of {side} px doesn't fit into {request.output_format}, of "
            f"which {LARGEST_SIDES_PX[request.output_format]} is the longest; take png",
            param="output_format",
        )


def _padded(pixels: NDArray[np.uint8], multiple_of: int) -> NDArray[np.uint8]:
    more = [(0, -side % multiple_of) for side in pixels.shape[:2]]
    return pixels if more == [(0, 0), (0, 0)] else np.pad(pixels, [*more, (0, 0)], mode="edge")


def _cropped(
    images: NDArray[np.uint8], pixels: NDArray[Any], padded: NDArray[Any], card: ModelCard
) -> NDArray[np.uint8]:
    scale = card.output.scale
    expected = tuple(scale * side for side in padded.shape[:2])
    if images.shape[1:3] != expected:
        raise InternalError(f"{card.model} gave {images.shape} for a picture of {padded.shape}")
    height, width, _ = pixels.shape
    return images[:, : scale * height, : scale * width]
