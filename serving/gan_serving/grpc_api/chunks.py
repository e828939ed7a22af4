"""Images in messages of at most 1 MiB, and images again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .image_service_pb2 import ImageChunk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["CHUNK_BYTES", "Assembly", "split"]

CHUNK_BYTES = 1 << 20


def split(data: bytes, head: ImageChunk) -> Iterator[ImageChunk]:
    """The pieces of one image, each with the fields of ``head``."""
    for offset in range(0, max(len(data), 1), CHUNK_BYTES):
        chunk = ImageChunk()
        chunk.CopyFrom(head)
        chunk.offset = offset
        if offset:
            chunk.ClearField("icc_profile")
        chunk.data = data[offset : offset + CHUNK_BYTES]
        chunk.last = offset + CHUNK_BYTES >= len(data)
        yield chunk


class Assembly:
    """Puts the pieces of a stream of pixels together.

    Args:
        first: index of the first image that is due.
    """

    def __init__(self, first: int = 0) -> None:
        self._first = first
        self.images: list[tuple[NDArray[np.uint8], int | None, bytes]] = []
        """Those that are complete: uint8 [H, W, C], the seed, and an ICC profile or nothing."""
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
            pixels = np.frombuffer(self._data, dtype=np.uint8).reshape(shape)
            seed = chunk.seed if chunk.HasField("seed") else None
            self.images.append((pixels, seed, self._profile))
            self._data, self._profile = bytearray(), b""

    def finish(self) -> None:
        """Make sure that nothing is missing.

        Raises:
            ValueError: the stream ended within an image, or before the first.
        """
        if self._data or not self.images:
            raise ValueError(f"the stream ended within image {len(self.images)}")
