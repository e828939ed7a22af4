"""Pictures made larger into files, and frame after frame."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Iterable,
    Iterator,
)
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gan_core.errors import DeadlineExceeded, InvalidRequest
from gan_serving.in_order import in_order
from gan_serving.numbered import naming, numbered
from gan_serving.vips import LARGEST_SIDES_PX, convert

from .pictures import opened

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from gan_serving.schema import UpscaleRequest

    from .client import AsyncClient
    from .images import GeneratedImage
    from .pictures import AnyPicture, Picture
    from .transports import Transport

__all__ = [
    "FRAMES_AT_ONCE",
    "WRITTEN",
    "complete",
    "enlarged",
    "made_of",
    "upscale_request",
    "within",
    "write",
]

T = TypeVar("T")

FRAMES_AT_ONCE = 4
"""Of one stream: as many as a gateway works on."""
WRITTEN = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp")
"""How the name of a file that is written may end. PNG and TIFF may have 16 bits."""
PNG_SIDES = slice(16, 20), slice(20, 24)
"""Places of a PNG's width and height,"""
PNG_COLOURS = slice(25, 26)
"""of the byte that tells its colours,"""
PNG_VEILED = (b"\x04", b"\x06")
"""and what it says of those with alpha."""


def upscale_request(model: str, version: int | None) -> UpscaleRequest:
    """What is asked for.

    Raises:
        InvalidRequest: an argument is out of range.
    """
    from gan_serving.schema import UpscaleRequest, validated

    return validated(UpscaleRequest, {"model": model, "version": version})


async def made_of(
    client: AsyncClient, request: UpscaleRequest, image: AnyPicture, timeout_s: float | None
) -> bytes | Image.Image | NDArray[Any]:
    """What is made of a picture, in the form that the picture is in.

    Raises:
        InvalidRequest: it is a path, which names no file to write.
    """
    if isinstance(image, str | os.PathLike):
        raise InvalidRequest("out: name the file that is made of a file", param="out")
    picture = await asyncio.to_thread(opened, image)
    if isinstance(image, bytes):
        first, others = await _begun(client, request, picture, timeout_s)
        async with aclosing(others):
            return b"".join([first, *[piece async for piece in others]])
    made = await client.call(lambda t, left_s: t.upscale(request, picture, left_s), timeout_s)
    if not isinstance(image, np.ndarray):
        return made.pil()
    return made.pixels[..., 0] if image.ndim == made.pixels.shape[2] + 1 == 2 else made.pixels


async def write(
    client: AsyncClient,
    request: UpscaleRequest,
    image: AnyPicture,
    out: Path,
    timeout_s: float | None,
) -> None:
    """A file of what is made of a picture, written as it arrives, whole or not at all.

    Raises:
        InvalidRequest: its name ends as none that is written, or it can't hold what is made.
        OSError: it can't be written.
    """
    suffix = out.suffix.lower()
    if suffix not in WRITTEN:
        raise InvalidRequest(f"out: {out} ends in none of {', '.join(WRITTEN)}", param="out")
    picture = await asyncio.to_thread(opened, image)
    first, others = await _begun(client, request, picture, timeout_s)
    async with aclosing(others):
        kind = suffix[1:].replace("jpg", "jpeg")
        side = max(int.from_bytes(first[place]) for place in PNG_SIDES)
        if side > LARGEST_SIDES_PX.get(kind, side):
            raise InvalidRequest(
                f"out: a side of {side} px doesn't fit into {suffix}, of which "
                f"{LARGEST_SIDES_PX[kind]} is the longest; take .png or .tif",
                param="out",
            )
        if kind == "jpeg" and first[PNG_COLOURS] in PNG_VEILED:
            raise InvalidRequest(
                f"out: the picture is transparent, which {suffix} can't be; take .png, .tif or "
                ".webp",
                param="out",
            )
        with complete(out) as part:
            png = part if suffix == ".png" else part.with_name(f"{part.name}.png")
            try:
                with await asyncio.to_thread(png.open, "wb") as file:
                    await asyncio.to_thread(file.write, first)
                    async for piece in others:
                        await asyncio.to_thread(file.write, piece)
                if png != part:
                    await asyncio.to_thread(convert, png, part)
            finally:
                if png != part:
                    png.unlink(missing_ok=True)


@contextmanager
def complete(target: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``target`` once all is written.

    Raises:
        OSError: there is no writing there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.stem}.part{target.suffix}")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


async def _begun(
    client: AsyncClient, request: UpscaleRequest, picture: Picture, timeout_s: float | None
) -> tuple[bytes, AsyncGenerator[bytes, None]]:
    """The first piece of a PNG, and the others; tried again like any call before the first."""
    limit_s = client.timeout_s if timeout_s is None else timeout_s

    async def begun(transport: Transport, _: float) -> tuple[bytes, AsyncGenerator[bytes, None]]:
        pieces = transport.upscale_png(request, picture, limit_s)  # between later pieces, too
        return await anext(pieces), pieces

    return await client.call(begun, timeout_s)


async def within(timeout_s: float, work: Awaitable[T]) -> T:
    """What comes of it.

    Raises:
        DeadlineExceeded: nothing did in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError as error:
        raise DeadlineExceeded(f"nothing came within {timeout_s:g} s") from error


async def enlarged(
    client: AsyncClient,
    request: UpscaleRequest,
    frames: Iterable[AnyPicture] | AsyncIterable[AnyPicture],
    timeout_s: float | None,
) -> AsyncGenerator[tuple[GeneratedImage, float], None]:
    """What is made of each frame, in order, and its latency in seconds."""
    limit_s = client.timeout_s if timeout_s is None else timeout_s

    async def one(frame: tuple[int, Picture]) -> tuple[GeneratedImage, float]:
        index, picture = frame
        started = time.monotonic()
        with naming(index):
            image = await client.call(
                lambda transport, left_s: transport.upscale(request, picture, left_s), limit_s
            )
        return image, time.monotonic() - started

    pictures = numbered(_opened(frames))
    together = client.transport.frames(request, _without_numbers(pictures), limit_s)
    results = together or in_order(pictures, one, FRAMES_AT_ONCE)
    async with aclosing(results):
        async for result in results:
            yield result


async def _opened(
    frames: Iterable[AnyPicture] | AsyncIterable[AnyPicture],
) -> AsyncIterator[Picture]:
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield await asyncio.to_thread(opened, frame)
        return
    waiting = iter(frames)
    while (one := await asyncio.to_thread(next, waiting, None)) is not None:
        yield await asyncio.to_thread(opened, one)


async def _without_numbers(pictures: AsyncIterator[tuple[int, Picture]]) -> AsyncIterator[Picture]:
    async for _, picture in pictures:
        yield picture
