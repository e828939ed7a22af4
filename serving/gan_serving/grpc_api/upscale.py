"""``Upscale``: frames in, frames out, in order, and never more of them than a few."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from gan_core.errors import DeadlineExceeded, InvalidRequest
from gan_core.latents import random_seed
from gan_serving.in_order import in_order
from gan_serving.numbered import naming, numbered
from gan_serving.room import PICTURES_AT_ONCE, Room
from gan_serving.upscaling import upscale

from .calls import about, metadata_of
from .chunks import split
from .frames import frames_of
from .image_service_pb2 import ImageChunk
from .made import data_of, fields_of
from .messages import RAW, upscale_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gan_serving.encode import Encoded
    from gan_serving.gatekeeper import Gatekeeper
    from gan_serving.room import Share
    from gan_serving.service import ImageService

    from .calls import Context
    from .image_service_pb2 import UpscaleChunk

__all__ = ["AT_ONCE", "Upscaling"]

AT_ONCE = 4
"""Frames of one stream from their first byte in to their last byte out."""
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
        request, seed = upscale_of(first), random_seed()
        about().model = request.model
        self._gatekeeper.check_model(caller, request.model)

        async def answer(
            share: Share, frame: tuple[int, bytes | NDArray[np.uint8]]
        ) -> tuple[bytes, ImageChunk]:
            index, picture = frame
            with naming(index):
                await self._gatekeeper.spend(caller)
                made = await upscale(self._service, request, picture, caller=caller.name, seed=seed)
                quality = request.output_compression
                (data,) = await data_of(made, first.output_format, quality, self._encoded)
                share.give(len(picture) if isinstance(picture, bytes) else picture.nbytes)
                share.take(len(data))
            head = ImageChunk(index=index, **fields_of(made, first.output_format))
            if first.output_format == RAW:  # files hold it
                head.icc_profile = made.profile
            return data, head

        async with self._gatekeeper.place(caller):
            # alone, for a first message that is given up would take it along, and the status too
            await context.send_initial_metadata(())
            with self._room.share() as share:
                pictures = frames_of(_chained(first, chunks), self._max_frame_bytes, share)
                answers = in_order(numbered(pictures), partial(answer, share), AT_ONCE)
                async with aclosing(answers):
                    async for data, head in answers:
                        for piece in split(data, head):
                            async with _patience("no answer was read"):
                                await context.write(piece)
                        share.give(len(data))


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
