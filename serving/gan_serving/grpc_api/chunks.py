"""Images in messages of at most 1 MiB, and images again."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import numpy as np

from .image_service_pb2 import ImageChunk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from numpy.typing import NDArray

__all__ = ["CHUNK_BYTES", "Assembly", "chunked", "little_endian", "split"]

CHUNK_BYTES = 1 << 20


def split(data: bytes, head: ImageChunk) -> Iterator[ImageChunk]:
    """The pieces of one image, each with the fields of ``head``."""
    for offset in range(0, max(len(data), 1), CHUNK_BYTES):
        last = offset + CHUNK_BYTES >= len(data)
        yield _chunk(head, offset, data[offset : offset + CHUNK_BYTES], last=last)


async def chunked(
    data: AsyncGenerator[bytes, None], head: ImageChunk
) -> AsyncGenerator[ImageChunk, None]:
    """The same of an image whose data come little by little."""
    offset, waiting = 0, bytearray()
    async with aclosing(data):
        async for more in data:
            waiting += more
            while len(waiting) > CHUNK_BYTES:
                yield _chunk(head, offset, bytes(waiting[:CHUNK_BYTES]), last=False)
                del waiting[:CHUNK_BYTES]
                offset += CHUNK_BYTES
    yield _chunk(head, offset, bytes(waiting), last=True)


def _chunk(head: ImageChunk, offset: int, data: bytes, *, last: bool) -> ImageChunk:
    chunk = ImageChunk()
    chunk.CopyFrom(head)
    if offset:
        chunk.ClearField("icc_profile")
    chunk.offset, chunk.data, chunk.last = offset, data, last
    return chunk


def little_endian(bit_depth: int) -> np.dtype[Any]:
    """Of pixels in messages.

    Raises:
        ValueError: pixels of neither 8 nor 16 bits.
    """
    if bit_depth not in (0, 8, 16):
        raise ValueError(f"pixels of {bit_depth} bits")
    return np.dtype("<u2") if bit_depth == 16 else np.dtype(np.uint8)


class Assembly:
    """Puts the pieces of a stream of pixels together.

    Args:
        first: index of the first image that is due.
    """

    def __init__(self, first: int = 0) -> None:
        self._first = first
        self.images: list[tuple[NDArray[Any], int | None, bytes]] = []
        """Those that are complete: pixels [H, W, C], the seed, and an ICC profile or nothing."""
        self.version = 0
        """The model's version that made them; 0 while there is none."""
        self._data = bytearray()
        self._profile = b""

    def add(self, chunk: ImageChunk) -> None:
        """Take the next piece.

        Raises:
            ValueError: it isn't the next, or its image isn't of the size that it says.
        """
        due = self._first + len(self.images)
        place = (due, len(self._data), self.version or chunk.version)
        if (chunk.index, chunk.offset, chunk.version) != place:
            raise ValueError(f"image {chunk.index} at {chunk.offset} came where {place} is due")
        self.version = chunk.version
        self._data += chunk.data
        self._profile = chunk.icc_profile or self._profile
        if chunk.last:
            shape = chunk.height, chunk.width, chunk.channels
            dtype = little_endian(chunk.bit_depth)
            pixels = np.frombuffer(self._data, dtype).reshape(shape)
            seed = chunk.seed if chunk.HasField("seed") else None
            pixels = pixels.astype(dtype.newbyteorder("="), copy=False)
            self.images.append((pixels, seed, self._profile))
            self._data, self._profile = bytearray(), b""

    def finish(self) -> None:
        """Make sure that nothing is missing.

        Raises:
            ValueError: the stream ended within an image, or before the first.
        """
        if self._data or not self.images:
            raise ValueError(f"the stream ended within image {len(self.images)}")
