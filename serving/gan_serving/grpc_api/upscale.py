"""``Upscale``: frames in, frames out, in order, and never more of them than a few."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gan_core.errors import DeadlineExceeded, InvalidRequest
from gan_core.latents import random_seed
from gan_serving.encode import parts_of, png_pieces
from gan_serving.in_order import in_order
from gan_serving.numbered import naming, numbered
from gan_serving.room import PICTURES_AT_ONCE, Room
from gan_serving.upscaling import (
    MAX_OUTPUT_PIXELS,
    MAX_STREAMED_PIXELS,
    WHOLE_PIXELS,
    enlarge,
)

from .calls import about, metadata_of
from .chunks import chunked, little_endian, split
from .frames import frames_of
from .image_service_pb2 import ImageChunk, OutputFormat
from .made import data_of
from .messages import RAW, upscale_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gan_serving.encode import Encoded
    from gan_serving.gatekeeper import Gatekeeper
    from gan_serving.room import Share
    from gan_serving.schema import UpscaleRequest
    from gan_serving.service import ImageService
    from gan_serving.upscaling import Enlarged

    from .calls import Context
    from .image_service_pb2 import UpscaleChunk

__all__ = ["AT_ONCE", "Upscaling"]

AT_ONCE = 4
"""Frames of one stream from their first byte in to their last byte out."""
STREAMED = (RAW, OutputFormat.OUTPUT_FORMAT_PNG)
"""What can be sent while it is made."""
IDLE_S = 60.0
"""Longest that a client may neither send nor read."""

T = TypeVar("T")


class Upscaling:
    """The method of ganforge.v1.ImageService.

    Args:
        service: whose models make the pictures larger.
        gatekeeper: knows who may ask for what; each frame is charged as one image.
        encoded: told of files that were made.
        max_frame_bytes: largest frame.
    """

    def __init__(
        self,
        service: ImageService,
        gatekeeper: Gatekeeper,
        encoded: Encoded,
        max_frame_bytes: int,
    ) -> None:
        self._service = service
        self._gatekeeper = gatekeeper
        self._encoded = encoded
        self._max_frame_bytes = max_frame_bytes
        self._room = Room(PICTURES_AT_ONCE * max_frame_bytes)

    async def upscale(self, messages: AsyncIterator[UpscaleChunk], context: Context) -> None:
        """Answer a stream."""
        caller = await self._gatekeeper.caller(metadata_of(context, "authorization"))
        about().caller = caller.name
        chunks = _patient(messages)
        first = await anext(chunks, None)
        if first is None:
            raise InvalidRequest("model: the stream ended before its first frame", param="model")
        asked = _Asked(upscale_of(first), first.output_format, caller.name, random_seed())
        about().model = asked.request.model
        self._gatekeeper.check_model(caller, asked.request.model)

        async def answer(
            share: Share, frame: tuple[int, bytes | NDArray[Any]]
        ) -> AsyncGenerator[ImageChunk, None]:
            index, picture = frame
            with naming(index):
                await self._gatekeeper.spend(caller)
                return await self._answer(asked, index, picture, share)

        async with self._gatekeeper.place(caller):
            # alone, for a first message that is given up would take it along, and the status too
            await context.send_initial_metadata(())
            with self._room.share() as share:
                pictures = frames_of(_chained(first, chunks), self._max_frame_bytes, share)
                answers = in_order(numbered(pictures), partial(answer, share), AT_ONCE)
                async with aclosing(answers):
                    async for made in answers:
                        await _send(made, context)

    async def _answer(
        self, asked: _Asked, index: int, picture: bytes | NDArray[Any], share: Share
    ) -> AsyncGenerator[ImageChunk, None]:
        """The messages of a frame; those of a large one are made while they are sent."""
        streams = asked.output_format in STREAMED
        made = await enlarge(
            self._service,
            asked.request,
            picture,
            caller=asked.caller,
            seed=asked.seed,
            max_pixels=MAX_STREAMED_PIXELS if streams else MAX_OUTPUT_PIXELS,
        )
        head = ImageChunk(
            index=index,
            model=made.model,
            version=made.version,
            height=made.height,
            width=made.width,
            channels=made.channels,
            bit_depth=made.bit_depth,
        )
        head.output_format = asked.output_format
        if asked.output_format == RAW:  # files hold it
            head.icc_profile = made.profile
        held = len(picture) if isinstance(picture, bytes) else picture.nbytes
        if streams and made.height * made.width > WHOLE_PIXELS:
            raw = asked.output_format == RAW
            data = _pixels(made) if raw else png_pieces(made, self._encoded)
            return _while_made(index, chunked(data, head), share, held)
        quality = asked.request.output_compression
        (whole,) = await data_of(await made.whole(), asked.output_format, quality, self._encoded)
        share.give(held)
        share.take(len(whole))
        return _once_made(split(whole, head), share, len(whole))


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a stream is asked for, for all its frames."""

    request: UpscaleRequest
    output_format: OutputFormat
    caller: str
    seed: int
    """Its share in a canary."""


async def _send(made: AsyncGenerator[ImageChunk, None], context: Context) -> None:
    async with aclosing(made):
        async for message in made:
            async with _patience("no answer was read"):
                await context.write(message)


async def _once_made(
    messages: Iterator[ImageChunk], share: Share, held: int
) -> AsyncGenerator[ImageChunk, None]:
    for message in messages:
        yield message
    share.give(held)


async def _while_made(
    index: int, messages: AsyncGenerator[ImageChunk, None], share: Share, held: int
) -> AsyncGenerator[ImageChunk, None]:
    with naming(index):
        async with aclosing(messages):
            async for message in messages:
                yield message
    share.give(held)


async def _pixels(made: Enlarged) -> AsyncGenerator[bytes, None]:
    order = little_endian(made.bit_depth)
    async with aclosing(parts_of(made)) as parts:
        async for part in parts:
            yield await asyncio.to_thread(part.astype(order, copy=False).tobytes)


async def _chained(first: T, others: AsyncIterator[T]) -> AsyncIterator[T]:
    yield first
    async for one in others:
        yield one


async def _patient(messages: AsyncIterator[T]) -> AsyncIterator[T]:
    while True:
        async with _patience("no frame came"):
            message = await anext(messages, None)
        if message is None:
            return
        yield message


@asynccontextmanager
async def _patience(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(IDLE_S):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(f"{what} within {IDLE_S:g} s") from error
