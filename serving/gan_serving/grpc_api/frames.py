"""Pictures in messages of at most 1 MiB, and pictures again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gan_core.errors import InvalidRequest, PayloadTooLarge
from gan_core.levels import bit_depth_of

from .chunks import little_endian
from .image_service_pb2 import UpscaleChunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from numpy.typing import NDArray

    from gan_serving.decode import File
    from gan_serving.room import Share

__all__ = ["PIECE_BYTES", "frames_of", "pieces"]

PIECE_BYTES = 1 << 19
"""Of a message's data: the message itself is a little larger."""


def pieces(picture: File | NDArray[Any], head: UpscaleChunk) -> Iterator[UpscaleChunk]:
    """The messages of a picture: a file, or pixels [H, W, C] of 8 or 16 bits.

    The first has the fields of ``head`` too.
    """
    first = UpscaleChunk()
    first.CopyFrom(head)
    if isinstance(picture, np.ndarray):
        first.height, first.width, first.channels = picture.shape
        first.bit_depth = bit_depth_of(picture)
        picture = picture.astype(little_endian(first.bit_depth), copy=False).tobytes()
    for offset in range(0, max(len(picture), 1), PIECE_BYTES):
        chunk = UpscaleChunk() if offset else first
        chunk.data = picture[offset : offset + PIECE_BYTES]
        chunk.last = offset + PIECE_BYTES >= len(picture)
        yield chunk


async def frames_of(
    chunks: AsyncIterator[UpscaleChunk], max_bytes: int, share: Share
) -> AsyncIterator[bytes | NDArray[Any]]:
    """The pictures of a stream, each once it is complete.

    Their bytes are taken of the stream's ``share``; whoever is done with a picture gives its own
    back.

    Raises:
        PayloadTooLarge: one has more than ``max_bytes``.
        QueueFull: there is no room for it.
        InvalidRequest: one is cut off, or isn't of the size that it says.
    """
    head, data = None, bytearray()
    async for chunk in chunks:
        head = head or chunk
        share.take(len(chunk.data))
        data += chunk.data
        if len(data) > max_bytes:
            raise PayloadTooLarge(f"image: it is larger than {max_bytes:,} bytes", param="image")
        if chunk.last:
            yield _complete(head, bytes(data))
            head, data = None, bytearray()
    if head is not None:
        raise InvalidRequest("image: the stream ended within it", param="image")


def _complete(head: UpscaleChunk, data: bytes) -> bytes | NDArray[Any]:
    shape = head.height, head.width, head.channels
    if shape == (0, 0, 0):
        return data
    try:
        dtype = little_endian(head.bit_depth)
    except ValueError as error:
        raise InvalidRequest(f"image: {error}; 8 or 16 are accepted", param="image") from error
    size = np.prod((*shape, dtype.itemsize), dtype=object)
    if 0 in shape or head.channels not in (1, 3, 4) or len(data) != size:
        raise InvalidRequest(
            f"image: {len(data):,} bytes are no pixels of {head.height} × {head.width} × "
            f"{head.channels}; 1, 3 or 4 channels are accepted",
            param="image",
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
