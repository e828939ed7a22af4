"""Pixels to files."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any, Literal, get_args

from gan_core.grid import to_pil

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["FORMATS", "Format", "encode", "files", "png"]

Format = Literal["png", "jpeg", "webp"]
FORMATS: tuple[Format, ...] = get_args(Format)
WITHOUT_ALPHA = {"L": "L", "RGB": "RGB", "RGBA": "RGB"}


async def files(
    images: NDArray[Any], output_format: Format, quality: int | None = None
) -> list[bytes]:
    """Images [N, H, W, C] as files, made in a thread; at full quality unless said."""
    whole = 100 if quality is None else quality
    return await asyncio.to_thread(lambda: [encode(one, output_format, whole) for one in images])


def encode(pixels: NDArray[Any], output_format: Format = "png", quality: int = 100) -> bytes:
    """One uint8 [H, W, C] array as a file; ``quality`` 0 to 100 is of JPEG and WebP.

    PNG is lossless, and so is WebP at 100; JPEG loses alpha, and a little at any quality.
    """
    match output_format:
        case "png":
            return png(pixels)
        case "jpeg":
            image = to_pil(pixels)
            return _saved(image.convert(WITHOUT_ALPHA[image.mode]), "JPEG", quality=quality)
        case "webp":
            options = {"lossless": True, "quality": 0} if quality == 100 else {"quality": quality}
            return _saved(to_pil(pixels), "WEBP", **options)


def png(pixels: NDArray[Any]) -> bytes:
    """One uint8 [H, W, C] array as a PNG, lossless; quick rather than small."""
    return _saved(to_pil(pixels), "PNG", compress_level=1)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
