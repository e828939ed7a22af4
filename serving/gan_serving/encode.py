"""Pixels to files."""

from __future__ import annotations

import asyncio
import io
import struct
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import numpy as np
from isal import isal_zlib

from gan_core.grid import to_pil
from gan_core.levels import bit_depth_of, of_depth

from . import tracing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from numpy.typing import NDArray
    from PIL import Image

    from gan_core.levels import BitDepth

    from .schema import Format
    from .upscaling import Enlarged

__all__ = ["Encoded", "PngWriter", "encode", "files", "parts_of", "png", "png_pieces"]

Encoded = Callable[[str, int, float], None]
"""Told of files that were made: format, how many, seconds."""

INLINE_BYTES = 1 << 16
"""So few pixels are a PNG in a tenth of a millisecond, sooner than a thread takes over."""
PIECE_BYTES = 1 << 24
"""Of pixels that become a piece of a file or stream at once."""
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's colour type by channels: grey, grey with alpha, RGB, RGBA."""
PNG_UP = 2
"""PNG's filter: minus the byte above."""
PNG_LEVEL = 1
WITHOUT_ALPHA = {"L": "L", "LA": "L", "RGB": "RGB", "RGBA": "RGB"}


async def files(
    images: NDArray[Any],
    output_format: Format,
    quality: int | None = None,
    profile: bytes = b"",
) -> list[bytes]:
    """Images [N, H, W, C] as files, made in a thread unless they are small."""
    whole = 100 if quality is None else quality

    def made() -> list[bytes]:
        return [encode(one, output_format, whole, profile) for one in images]

    with tracing.span("encode", output_format=output_format, images=len(images)):
        if output_format == "png" and images.nbytes <= INLINE_BYTES:
            return made()
        return await asyncio.to_thread(made)


def encode(
    pixels: NDArray[Any], output_format: Format = "png", quality: int = 100, profile: bytes = b""
) -> bytes:
    """One uint8 or uint16 [H, W, C] array as a file; ``quality`` 0 to 100 is of JPEG and WebP.

    ``profile`` is an ICC profile of the colours.

    PNG is lossless, and keeps 16 bits; WebP is lossless at 100. JPEG loses alpha, and a little at
    any quality.
    """
    match output_format:
        case "png":
            return png(pixels, profile)
        case "jpeg":
            image = to_pil(of_depth(pixels, 8))
            image = image.convert(WITHOUT_ALPHA[image.mode])
            return _saved(image, "JPEG", profile, quality=quality)
        case "webp":
            options = {"lossless": True, "quality": 0} if quality == 100 else {"quality": quality}
            return _saved(to_pil(of_depth(pixels, 8)), "WEBP", profile, **options)


def png(pixels: NDArray[Any], profile: bytes = b"") -> bytes:
    """One uint8 or uint16 [H, W, C] array as a PNG, lossless; quick rather than small."""
    height, width, channels = pixels.shape
    writer = PngWriter(width, height, channels, profile, bit_depth_of(pixels))
    data = isal_zlib.compress(writer.filtered(pixels), PNG_LEVEL)
    return b"".join((writer.head(), _chunk(b"IDAT", data), PNG_END))


class PngWriter:
    """A PNG whose rows come in parts, from top to bottom.

    Every row is written as its difference from the one above, and deflated by ISA-L: a tenth
    of the time that Pillow takes at its quickest, at about the same size.

    Args:
        width, height: of the whole, in px.
        channels: 1 grey, 2 grey with alpha, 3 RGB, 4 RGBA.
        profile: ICC profile of the colours.
        bit_depth: of each channel.
    """

    def __init__(
        self,
        width: int,
        height: int,
        channels: int,
        profile: bytes = b"",
        bit_depth: BitDepth = 8,
    ) -> None:
        self._size = width, height
        self._channels = channels
        self._profile = profile
        self._bit_depth = bit_depth
        self._above = np.zeros(width * channels * bit_depth // 8, np.uint8)
        self._deflate = isal_zlib.compressobj(PNG_LEVEL)

    def head(self) -> bytes:
        """What comes before the rows."""
        colour = PNG_COLOURS[self._channels]
        head = _chunk(
            b"IHDR", struct.pack(">IIBBBBB", *self._size, self._bit_depth, colour, 0, 0, 0)
        )
        if self._profile:
            head += _chunk(b"iCCP", b"ICC profile\0\0" + isal_zlib.compress(self._profile))
        return PNG_MAGIC + head

    def rows(self, pixels: NDArray[Any]) -> bytes:
        """The next rows, uint8 or uint16 [h, W, C]; what they fill up of the file."""
        data = self._deflate.compress(self.filtered(pixels))
        return _chunk(b"IDAT", data) if data else b""

    def end(self) -> bytes:
        """What comes after the rows."""
        return _chunk(b"IDAT", self._deflate.flush()) + PNG_END

    def filtered(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Rows as they are deflated, the filter's number before each."""
        flat = pixels.reshape(len(pixels), -1)
        if self._bit_depth == 16:
            flat = flat.astype(">u2").view(np.uint8)
        rows = np.empty((len(flat), 1 + flat.shape[1]), np.uint8)
        rows[:, 0] = PNG_UP
        np.subtract(flat[0], self._above, out=rows[0, 1:])
        np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
        self._above = flat[-1]
        return rows


async def png_pieces(made: Enlarged, encoded: Encoded) -> AsyncGenerator[bytes, None]:
    """The PNG of a picture that is being made larger, each piece as soon as it is there."""
    file = PngWriter(made.width, made.height, made.channels, made.profile, made.bit_depth)
    seconds = 0.0
    async with aclosing(parts_of(made)) as parts:
        yield file.head()
        async for part in parts:
            began = time.perf_counter()
            piece = await asyncio.to_thread(file.rows, part)
            seconds += time.perf_counter() - began
            yield piece
        encoded("png", 1, seconds)
        yield file.end()


async def parts_of(made: Enlarged) -> AsyncGenerator[NDArray[Any], None]:
    """The rows of a picture that is being made larger, a few at a time."""
    async with aclosing(made.rows):
        async for rows in made.rows:
            for part in np.array_split(rows, -(-rows.nbytes // PIECE_BYTES)):
                yield part


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = isal_zlib.crc32(data, isal_zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


PNG_END = _chunk(b"IEND", b"")


def _saved(image: Image.Image, kind: str, profile: bytes, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, icc_profile=profile, **options)
    return buffer.getvalue()
