"""Pictures made larger into files, and frame after frame."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from gan_serving.in_order import in_order
from gan_serving.numbered import naming, numbered

from .pictures import opened

if TYPE_CHECKING:
    import os

    from gan_serving.schema import UpscaleRequest

    from .client import AsyncClient
    from .images import GeneratedImage
    from .pictures import AnyPicture, Picture
    from .transports import Transport

__all__ = ["FRAMES_AT_ONCE", "enlarged", "upscale_request", "write_png"]

FRAMES_AT_ONCE = 4
"""Of one stream: as many as a gateway works on."""


def upscale_request(model: str, version: int | None) -> UpscaleRequest:
    """What is asked for.

    Raises:
        InvalidRequest: an argument is out of range.
    """
    from gan_serving.schema import UpscaleRequest, validated

    return validated(UpscaleRequest, {"model": model, "version": version})


async def write_png(
    client: AsyncClient,
    request: UpscaleRequest,
    image: AnyPicture,
    out: str | os.PathLike[str],
    timeout_s: float | None,
) -> None:
    """A PNG of what is made of a picture, written as it arrives."""
    picture = await asyncio.to_thread(opened, image)

    async def begun(
        transport: Transport, left_s: float
    ) -> tuple[bytes, AsyncGenerator[bytes, None]]:
        pieces = transport.upscale_png(request, picture, left_s)
        return await anext(pieces), pieces

    first, others = await client.call(begun, timeout_s)
    async with aclosing(others):
        with await asyncio.to_thread(Path(out).open, "wb") as file:
            await asyncio.to_thread(file.write, first)
            async for piece in others:
                await asyncio.to_thread(file.write, piece)


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
            (image,) = await client.call(
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
