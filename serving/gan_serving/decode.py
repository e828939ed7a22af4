"""Untrusted pictures to pixels: PNG, JPEG and WebP alone, and by their headers first.

What a picture costs is known before its pixels are touched: a format is recognised by its first
bytes, and no other decoder ever sees them; size and frames are the header's; text and colour
profiles are inflated within Pillow's limits. What breaks later breaks as an error of the tree.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from gan_core.errors import InvalidRequest, PixelsExceeded, ServiceError, UnsupportedMedia
from gan_core.grid import to_pil

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Picture", "check_pixels", "decode", "decoded", "fitted"]

MAGIC = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's, by channels."""
MAX_PARTS = 1 << 14
"""Of a file: its chunks or segments, each of which costs more to read than to send."""
MAX_SCANS = 100
"""Of a JPEG: each is a pass over all pixels, in a few bytes. Encoders write about ten."""
JPEG_PART = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])(..)?", re.DOTALL)
"""A marker but those that stand alone, and the length of what follows it."""
START_OF_SCAN, END_OF_IMAGE = b"\xda", b"\xd9"

MAX_PROFILE_BYTES = 1 << 18
PROFILED = {"RGB": b"RGB ", "RGBA": b"RGB ", "P": b"RGB ", "L": b"GRAY", "LA": b"GRAY"}
"""The colour space that an ICC profile must be of, by the mode that a file is read in."""

_THREADS = ThreadPoolExecutor(2, "decode")  # pictures in memory at once, and never all threads


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture as a model takes it, and what goes round the model."""

    pixels: NDArray[np.uint8]
    """uint8 [H, W, C]."""
    alpha: NDArray[np.uint8] | None = None
    """uint8 [H, W], where it hides something and the model takes none."""
    profile: bytes = b""
    """ICC profile of the pixels; empty where there is none that fits them."""


async def decoded(data: bytes, channels: int, max_pixels: int) -> Picture:
    """``decode`` in a thread, of which there are two; the others wait."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_THREADS, decode, data, channels, max_pixels)


def decode(data: bytes, channels: int, max_pixels: int) -> Picture:
    """A picture of so many channels, upright as its EXIF orientation says.

    Grey, palette, CMYK and 16-bit pictures are converted; alpha comes apart where 3 or 1
    ``channels`` are asked for, and is left out where it hides nothing.

    Raises:
        UnsupportedMedia: it is no PNG, JPEG or WebP, or an animation.
        PixelsExceeded: its header says more than ``max_pixels``.
        InvalidRequest: it is broken.
    """
    kind = _kind(data)
    _check_parts(data, kind)
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            _check_header(image, kind, max_pixels)
            return fitted(ImageOps.exif_transpose(image), channels)
    except ServiceError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PixelsExceeded(f"image: {error}; at most {max_pixels:,} pixels", param="image") from (
            error
        )
    except Exception as error:  # decoders raise what they like
        raise InvalidRequest(f"image: a broken {kind}: {error}", param="image") from error


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Make sure that a picture isn't too large.

    Raises:
        PixelsExceeded: it is.
    """
    if width * height > max_pixels:
        raise PixelsExceeded(
            f"image: {width} × {height} = {width * height:,} pixels; at most {max_pixels:,}",
            param="image",
        )


def fitted(picture: Image.Image | NDArray[np.uint8], channels: int) -> Picture:
    """A picture of so many channels; an array is one of 1, 3 or 4 channels already."""
    if isinstance(picture, np.ndarray):
        if picture.shape[2] == channels:
            return Picture(picture)
        picture = to_pil(picture)
    transparent = picture.has_transparency_data
    if picture.mode.startswith("I"):
        picture = _of_16_bits(picture)
    profile = _profile(picture, channels)
    alpha = None
    if transparent and channels < 4:
        picture = picture.convert("RGBA")
        alpha = _hiding(picture)
    array = np.asarray(picture.convert(MODES[channels]))
    return Picture(array if array.ndim == 3 else array[..., None], alpha, profile)


def _kind(data: bytes) -> str:
    for kind, magic in MAGIC.items():
        if magic.match(data):
            return kind
    found = f"begins with {data[:8]!r}" if data else "is empty"
    raise UnsupportedMedia(f"image: it {found}; PNG, JPEG and WebP are read", param="image")


def _check_parts(data: bytes, kind: str) -> None:
    parts = {"PNG": _png_parts, "JPEG": _jpeg_parts}.get(kind, lambda _: iter(()))
    counts = Counter(islice(parts(data), MAX_PARTS + 1))
    if counts.total() > MAX_PARTS or counts[START_OF_SCAN] > MAX_SCANS:
        raise InvalidRequest(
            f"image: a {kind} of more than {MAX_PARTS:,} parts, or {MAX_SCANS} scans; save it anew",
            param="image",
        )


def _png_parts(data: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(data):
        yield data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4])


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    at = 2
    while (found := JPEG_PART.search(data, at)) and found[1] != END_OF_IMAGE:
        yield found[1]
        at = found.start() + 2 + int.from_bytes(found[2] or b"")


def _check_header(image: Image.Image, kind: str, max_pixels: int) -> None:
    check_pixels(*image.size, max_pixels)
    # a JPEG of several pictures has previews, of which the first isn't one
    if kind != "JPEG" and getattr(image, "is_animated", False):
        raise UnsupportedMedia(
            f"image: an animated {kind}; send its frames one by one", param="image"
        )


def _of_16_bits(image: Image.Image) -> Image.Image:
    """The high byte of each pixel, as Pillow itself takes of 16-bit colours."""
    levels: NDArray[Any] = np.asarray(image)
    high = Image.fromarray((levels >> 8).astype(np.uint8))
    high.info = image.info
    return high


def _hiding(image: Image.Image) -> NDArray[np.uint8] | None:
    """Alpha, unless it hides nothing."""
    alpha = image.getchannel("A")
    return None if alpha.getextrema() == (255, 255) else np.asarray(alpha)


def _profile(image: Image.Image, channels: int) -> bytes:
    """Its ICC profile, unless it is of other colours than those that are taken of it."""
    profile: bytes = image.info.get("icc_profile") or b""
    space = PROFILED.get(image.mode)
    kept = (space == b"GRAY") == (channels == 1) and profile[16:20] == space
    return profile if kept and len(profile) <= MAX_PROFILE_BYTES else b""
