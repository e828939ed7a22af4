"""Pictures that come in: decoded, fitted to a model, and through its queue like any other image."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gan_core.card import ImageInput
from gan_core.errors import InternalError, InvalidRequest, NotSupported
from gan_core.latents import random_seed
from gan_core.levels import bit_depth_of, of_depth

from .decode import check_pixels, decoded, luma, of_pixels
from .in_order import in_order
from .service import ANYBODY, Generation, card_of, late_answer
from .tiles import Tiling
from .vips import LARGEST_SIDES_PX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from gan_core.card import ModelCard
    from gan_core.levels import BitDepth

    from .decode import File, Picture
    from .engine import Inference
    from .published import Published
    from .schema import UpscaleRequest
    from .service import ImageService
    from .tiles import Band

__all__ = [
    "MAX_IMAGE_BYTES",
    "MAX_OUTPUT_PIXELS",
    "MAX_STREAMED_PIXELS",
    "WHOLE_PIXELS",
    "Enlarged",
    "abilities",
    "enlarge",
    "upscale",
]

MAX_IMAGE_BYTES = 128 << 20
"""Of a picture's file."""
MAX_OUTPUT_PIXELS = 1 << 26
"""Of what is made of it: 200 MB of RGB, and twice as much of 16 bits."""
MAX_STREAMED_PIXELS = 1 << 32
"""Of what is made of it, where nobody needs it whole: 16,384 px ×4 a side."""
WHOLE_PIXELS = 1 << 22
"""What is made of so many is sent whole, with its length; a larger PNG while it is made."""
TILES_AT_ONCE = 4, 32
PIXELS_AT_ONCE = 1 << 19
"""Of a band that are on their way: 32 tiles of 128 px, and of larger ones fewer."""
BANDS_AT_ONCE = 2
"""Of a picture, with the one that is being sent; of one that is wider than a band, one."""


@dataclass(frozen=True, slots=True)
class Enlarged:
    """A picture that a model is making larger, from top to bottom."""

    model: str
    version: int
    width: int
    height: int
    channels: int
    bit_depth: BitDepth
    profile: bytes
    """ICC profile of the colours; empty where the picture has none."""
    rows: AsyncGenerator[NDArray[Any], None]
    """Pixels [h, W, C], as soon as they are there; the next are made while these are used."""
    started: float
    """In seconds of ``time.monotonic``."""

    async def whole(self) -> Generation:
        """All of it."""
        async with aclosing(self.rows):
            parts = [rows async for rows in self.rows]
        return Generation(
            model=self.model,
            version=self.version,
            images=(parts[0] if len(parts) == 1 else np.concatenate(parts))[None],
            seeds=(None,),
            compute_ms=(time.monotonic() - self.started) * 1000,
            profile=self.profile,
        )


async def upscale(
    service: ImageService,
    request: UpscaleRequest,
    picture: File | NDArray[Any],
    timeout_s: float | None = None,
    caller: str = ANYBODY,
    seed: int | None = None,
) -> Generation:
    """What a model makes of a picture, whole.

    Raises:
        ServiceError: the request can't be fulfilled; the subclass says why.
    """
    made = await enlarge(
        service, request, picture, timeout_s, caller, seed, max_pixels=MAX_OUTPUT_PIXELS
    )
    return await made.whole()


async def enlarge(
    service: ImageService,
    request: UpscaleRequest,
    picture: File | NDArray[Any],
    timeout_s: float | None = None,
    caller: str = ANYBODY,
    seed: int | None = None,
    max_pixels: int = MAX_STREAMED_PIXELS,
) -> Enlarged:
    """A picture, a file or pixels [H, W, C], larger; its first rows are there already.

    A model with tiles gets all pictures in tiles of its one size; what a picture has beyond its
    edges are its last pixels. What has 16 bits keeps them, in a PNG, if the model does. Alpha that
    the model doesn't take is enlarged apart, by bicubic. Where the caller has no ``timeout_s``,
    some tiles at a time have the service's. Pictures of one ``seed`` have the same share in a
    canary.

    Raises:
        ServiceError: the request can't be fulfilled; the subclass says why. ``rows`` may too.
    """
    limit_s = min(timeout_s or service.timeout_s, service.timeout_s)
    started = time.monotonic()
    deadline = None if timeout_s is None else started + limit_s
    try:
        async with asyncio.timeout(limit_s) as limited:
            published = await service.engine.published(request.model)
            card = card_of(published, request.version)
            source = _source(card)
            given = await _fitted(picture, card, source, max_pixels)
            _check(given, card, source, request)
            shared = random_seed() if seed is None else seed
            depth = _depth(given, card, request)
            job = _Job(service, published, source, given, card, depth, deadline, caller, shared)
            parts = job.parts(request.version)
            if timeout_s is None:  # then its tiles have the service's, some at a time
                limited.reschedule(None)
            version, first = await anext(parts)
    except TimeoutError as error:
        raise late_answer(request.model, limit_s) from error
    scale = card.output.scale
    return Enlarged(
        model=request.model,
        version=version,
        width=scale * given.width,
        height=scale * given.height,
        channels=first.shape[2],
        bit_depth=depth,
        profile=given.profile,
        rows=_rows(first, parts),
        started=started,
    )


async def _rows(
    first: NDArray[Any], parts: AsyncGenerator[tuple[int, NDArray[Any]], None]
) -> AsyncGenerator[NDArray[Any], None]:
    async with aclosing(parts):
        yield first
        async for _, rows in parts:
            yield rows


@dataclass(frozen=True, slots=True)
class _Job:
    """One picture on its way through a model."""

    service: ImageService
    published: Published
    source: ImageInput
    picture: Picture
    card: ModelCard
    bit_depth: BitDepth
    """Of what is made."""
    deadline: float | None
    caller: str
    seed: int

    @property
    def tiles_at_once(self) -> int:
        """Of a band."""
        least, most = TILES_AT_ONCE
        return max(least, min(most, PIXELS_AT_ONCE // (self.source.tile_px or 1) ** 2))

    async def parts(self, version: int | None) -> AsyncGenerator[tuple[int, NDArray[Any]], None]:
        """Rows of the result, and the version that made them: one for all."""
        if self.source.tile_px is None:
            yield await self._whole(version)
            return
        height, width = self.picture.height, self.picture.width
        halo, scale = self.source.halo_px, self.card.output.scale
        tiling = Tiling(height, width, self.source.tile_px, halo, scale)
        at_once = BANDS_AT_ONCE if tiling.across <= self.tiles_at_once else 1
        read = self._read(tiling.bands(self.tiles_at_once))
        async with aclosing(read):
            version, first = await self._band(await anext(read), version)
            yield version, first
            others = in_order(read, partial(self._band, version=version), at_once)
            async with aclosing(others):
                async for part in others:
                    yield part

    async def _read(self, bands: Iterable[Band]) -> AsyncGenerator[tuple[Band, NDArray[Any]], None]:
        """Each band, and the rows of the picture that it looks at."""
        for band in bands:
            yield band, await asyncio.to_thread(self.picture.rows, band.above, band.below)

    async def _band(
        self, read: tuple[Band, NDArray[Any]], version: int | None
    ) -> tuple[int, NDArray[Any]]:
        band, rows = read
        image = band.empty(self.card.output.channels, self.bit_depth)
        for first in range(0, band.tiles, self.tiles_at_once):
            done = first
            tiles = await asyncio.to_thread(self._tiles, band, rows, first)
            async with aclosing(self._infer(tiles, version)) as answers:
                async for answer in answers:
                    await asyncio.to_thread(band.place, answer.image, done, image)
                    done += len(answer.image)
            version = answer.version
        top, bottom = band.top - band.above, band.bottom - band.above
        return answer.version, await asyncio.to_thread(self._finished, image, rows, top, bottom)

    def _tiles(self, band: Band, rows: NDArray[Any], first: int) -> NDArray[Any]:
        last = first + self.tiles_at_once
        tiles = band.cut(rows[..., : self.source.channels], first, last)
        return of_depth(tiles, self.source.bit_depth)

    async def _whole(self, version: int | None) -> tuple[int, NDArray[Any]]:
        rows = await asyncio.to_thread(self.picture.rows, 0, self.picture.height)
        pixels = of_depth(rows[..., : self.source.channels], self.source.bit_depth)
        padded = _padded(pixels, self.source.multiple_of)
        async with aclosing(self._infer(padded[None], version)) as answers:
            answer = await anext(answers)
        image = of_depth(_cropped(answer.image, pixels, padded, self.card)[0], self.bit_depth)
        return answer.version, await asyncio.to_thread(self._finished, image, rows, 0, len(rows))

    def _finished(
        self, image: NDArray[Any], rows: NDArray[Any], top: int, bottom: int
    ) -> NDArray[Any]:
        """What became of the rows from ``top`` to ``bottom``: grey of grey, and their alpha."""
        if self.picture.grey:
            image = luma(image)
        return _veiled(image, rows[..., -1], top, bottom) if self.picture.alpha else image

    def _infer(self, images: NDArray[Any], version: int | None) -> AsyncGenerator[Inference, None]:
        left_s = self.service.timeout_s
        if self.deadline is not None:
            left_s = max(self.deadline - time.monotonic(), 0.0)
        inputs = {self.source.name: images}
        return self.service.infer(self.published, inputs, left_s, version, self.caller, self.seed)


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


def _veiled(image: NDArray[Any], alpha: NDArray[Any], top: int, bottom: int) -> NDArray[Any]:
    """An image [h, W, C] with the bicubic of rows of alpha, which looks at the rows beside them."""
    height, width, _ = image.shape
    box = 0, top, alpha.shape[1], bottom
    levels = Image.fromarray(alpha.astype(np.float32))
    veil = np.asarray(levels.resize((width, height), Image.Resampling.BICUBIC, box))
    rounded = veil.round().clip(0, np.iinfo(alpha.dtype).max).astype(alpha.dtype)
    return np.dstack([image, of_depth(rounded, bit_depth_of(image))])


async def _fitted(
    picture: File | NDArray[Any], card: ModelCard, source: ImageInput, max_pixels: int
) -> Picture:
    """A picture of the model's channels, and of no more pixels than it takes."""
    limit = min(source.max_side_px**2, max_pixels // card.output.scale**2)
    if not isinstance(picture, np.ndarray):
        return await decoded(picture, source.channels, limit)
    height, width, _ = picture.shape
    check_pixels(width, height, limit)
    return of_pixels(picture, source.channels)


def _depth(picture: Picture, card: ModelCard, request: UpscaleRequest) -> BitDepth:
    """Of what is made: no more than there was, than the model knows, or than the file holds."""
    wanted = picture.bit_depth if request.output_format == "png" else 8
    return min(wanted, card.output.bit_depth)


def _check(picture: Picture, card: ModelCard, source: ImageInput, request: UpscaleRequest) -> None:
    height, width = (
        -(-side // source.multiple_of) * source.multiple_of
        for side in (picture.height, picture.width)
    )
    least = 1 if source.tile_px else source.min_side_px  # a tile goes on beyond the edges
    if min(height, width) < least or max(height, width) > source.max_side_px:
        raise InvalidRequest(
            f"image: it is {width} × {height} px; {card.model!r} takes sides of "
            f"{least} to {source.max_side_px} px",
            param="image",
        )
    if picture.alpha and request.output_format == "jpeg":
        raise InvalidRequest(
            "output_format: the image is transparent, which jpeg can't be; take png or webp",
            param="output_format",
        )
    side = card.output.scale * max(height, width)
    if side > LARGEST_SIDES_PX.get(request.output_format, side):
        raise InvalidRequest(
            f"output_format: a side of {side} px doesn't fit into {request.output_format}, of "
            f"which {LARGEST_SIDES_PX[request.output_format]} is the longest; take png",
            param="output_format",
        )


def _padded(pixels: NDArray[Any], multiple_of: int) -> NDArray[Any]:
    more = [(0, -side % multiple_of) for side in pixels.shape[:2]]
    return pixels if more == [(0, 0), (0, 0)] else np.pad(pixels, [*more, (0, 0)], mode="edge")


def _cropped(
    images: NDArray[Any], pixels: NDArray[Any], padded: NDArray[Any], card: ModelCard
) -> NDArray[Any]:
    scale = card.output.scale
    expected = tuple(scale * side for side in padded.shape[:2])
    if images.shape[1:3] != expected:
        raise InternalError(f"{card.model} gave {images.shape} for a picture of {padded.shape}")
    height, width, _ = pixels.shape
    return images[:, : scale * height, : scale * width]
