"""Frames through the gateway's gRPC call: sent as there is room for them, answered in order."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

import grpc

from gan_core.errors import DeadlineExceeded
from gan_serving.grpc_api.chunks import Assembly
from gan_serving.grpc_api.frames import pieces
from gan_serving.grpc_api.image_service_pb2 import UpscaleChunk

from .images import GeneratedImage
from .upscaling import FRAMES_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from .pictures import Picture

__all__ = ["through"]


async def through(
    call: Any, head: UpscaleChunk, pictures: AsyncIterator[Picture], timeout_s: float
) -> AsyncGenerator[tuple[GeneratedImage, float], None]:
    """What comes of each, and how many seconds after it was begun to be sent.

    Raises:
        AioRpcError: the call failed.
        DeadlineExceeded: an answer took longer than ``timeout_s``.
        ValueError: the answer is none.
    """
    places = asyncio.Semaphore(FRAMES_AT_ONCE)
    started: asyncio.Queue[float | None] = asyncio.Queue()

    async def send() -> None:
        first = head
        try:
            await places.acquire()
            async for picture in pictures:
                started.put_nowait(time.monotonic())
                for piece in pieces(picture, first):
                    await call.write(piece)
                first = UpscaleChunk()
                await places.acquire()
        finally:
            started.put_nowait(None)
        await call.done_writing()

    sender = asyncio.create_task(send())
    try:
        for index in itertools.count():
            if (begun := await started.get()) is None:
                break
            try:
                async with asyncio.timeout(timeout_s):
                    image = await _answer(call, index)
            except TimeoutError as error:
                raise DeadlineExceeded(f"frame {index}: no answer within {timeout_s:g} s") from (
                    error
                )
            yield image, time.monotonic() - begun
            places.release()
        await sender  # fails if the source did
    finally:
        sender.cancel()
        call.cancel()
        await asyncio.gather(sender, return_exceptions=True)


async def _answer(call: Any, index: int) -> GeneratedImage:
    assembly = Assembly(index)
    while not assembly.images:
        chunk = await call.read()
        if chunk is grpc.aio.EOF:
            raise ValueError(f"the stream ended before frame {index}")
        assembly.add(chunk)
    return GeneratedImage(*assembly.images[0])
