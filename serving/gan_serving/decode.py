"""Untrusted pictures to pixels: PNG, JPEG, WebP and TIFF alone, and by their headers first.

What a picture costs is known before its pixels are touched: a format is recognised by its first
bytes, and no other reader ever sees them; size and frames are the header's. What breaks later
breaks as an error of the tree. A large picture is read once to know that it is whole, and then
row by row as it is needed, so that memory doesn't grow with it; of a file that can't be read so
(interlaced, turned, of tall tiles), the size is limited instead.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from gan_core.errors import InvalidRequest, PixelsExceeded, UnsupportedMedia
from gan_core.levels import DTYPES, BitDepth, bit_depth_of

from . import tiff
from .vips import VipsImage, opened, said

if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap

    from numpy.typing import NDArray

    File = bytes | mmap
    """A picture's file."""

__all__ = ["Picture", "check_pixels", "decode", "decoded", "luma", "of_pixels"]

MAGIC = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "WebP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
}
MAX_PARTS = 1 << 14
"""Of a file: its chunks or segments, each of which costs more to read than to send."""
MAX_SCANS = 100
"""Of a JPEG: each is a pass over all pixels, in a few bytes. Encoders write about ten."""
JPEG_PART = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])(..)?", re.DOTALL)
"""A marker but those that stand alone, and the length of what follows it."""
START_OF_SCAN, END_OF_IMAGE = b"\xda", b"\xd9"
SEARCHED_BYTES = 1 << 18
"""By one search: other threads wait for its end."""
ANIMATED = b"acTL"

HELD_PIXELS = 1 << 22
"""A picture of so many is decoded at once; a larger one as its rows are needed."""
WHOLE_PIXELS = 1 << 26
"""Most of a picture whose file can't be read from top to bottom: it goes through a disk."""
STRIPE_PX = 64
MAX_PROFILE_BYTES = 1 << 18
SPACES = {1: b"GRAY", 3: b"RGB "}
"""The colour space that an ICC profile must be of, by the colours of a file."""
DEPTHS: dict[str, BitDepth] = {"uchar": 8, "ushort": 16}
LUMA = np.array([19_595, 38_470, 7_471], np.uint32)
"""Of 65,536: Rec. 601, as Pillow has it."""

Rows = Callable[[int, int], "NDArray[Any]"]

_THREADS = ThreadPoolExecutor(2, "decode")  # pictures in memory at once, and never all threads


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture as a model takes it, and what goes round the model."""

    height: int
    """In px."""
    width: int
    """In px."""
    bit_depth: BitDepth
    rows: Rows
    """Those from one to before another, [h, W, C], with alpha as one channel more where it is
    apart. Neither end may go back."""
    alpha: bool = False
    """Whether there is one that hides something, and that the model doesn't take."""
    grey: bool = False
    """Whether the model's colours are to become grey again."""
    profile: bytes = b""
    """ICC profile of the pixels; empty where there is none that fits them."""


async def decoded(data: File, channels: int, max_pixels: int) -> Picture:
    """``decode`` in a thread, of which there are two; the others wait."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_THREADS, decode, data, channels, max_pixels)


def decode(data: File, channels: int, max_pixels: int) -> Picture:
    """A picture's file for a model of so many channels, the right way up.

    Raises:
        UnsupportedMedia: it is no PNG, JPEG, WebP or TIFF of one picture, of 8 or 16 bits.
        PixelsExceeded: its header says more than ``max_pixels``.
        InvalidRequest: it is broken.
    """
    kind = _kind(data)
    parts = _parts(data, kind)
    with _reading(kind):
        image = opened(data, kind)
        check_pixels(image.width, image.height, max_pixels)
        _check_pictures(image, kind, parts)
        if kind == "TIFF" and not tiff.has_plain_colours(data):
            raise UnsupportedMedia(
                "image: a TIFF in YCbCr; save it in RGB, or with JPEG compression", param="image"
            )
        return _read(data, kind, image, channels)


def check_pixels(width: int, height: int, max_pixels: int, why: str = "") -> None:
    """Make sure that a picture isn't too large; ``why`` ends the error's text.

    Raises:
        PixelsExceeded: it is.
    """
    if width * height > max_pixels:
        raise PixelsExceeded(
            f"image: {width} × {height} = {width * height:,} pixels; at most {max_pixels:,}{why}",
            param="image",
        )


def of_pixels(pixels: NDArray[Any], channels: int, profile: bytes = b"") -> Picture:
    """uint8 or uint16 [H, W, 1 to 4] for a model of so many channels."""
    height, width, given = pixels.shape
    depth = bit_depth_of(pixels)
    apart = given in (2, 4) and channels < 4 and bool((pixels[..., -1] < 2**depth - 1).any())
    fitted = _fitted(pixels, channels, apart=apart)
    return Picture(
        height,
        width,
        depth,
        lambda top, bottom: fitted[top:bottom],
        alpha=apart,
        **_colours(given, channels, profile),
    )


@contextmanager
def _reading(kind: str) -> Iterator[None]:
    """Raises what a decoder says."""
    try:
        with said(f"image: a broken {kind}"):
            yield
    except ValueError as error:
        raise InvalidRequest(str(error), param="image") from error


def _kind(data: File) -> str:
    for kind, magic in MAGIC.items():
        if magic.match(data):
            return kind
    found = f"begins with {data[:8]!r}" if len(data) else "is empty"
    raise UnsupportedMedia(f"image: it {found}; PNG, JPEG, WebP and TIFF are read", param="image")


def _parts(data: File, kind: str) -> Counter[bytes]:
    """How often a file has each kind of part."""
    read = {"PNG": _png_parts, "JPEG": _jpeg_parts}.get(kind, lambda _: iter(()))
    counts = Counter(islice(read(data), MAX_PARTS + 1))
    if counts.total() > MAX_PARTS or counts[START_OF_SCAN] > MAX_SCANS:
        raise InvalidRequest(
            f"image: a {kind} of more than {MAX_PARTS:,} parts, or {MAX_SCANS} scans; save it anew",
            param="image",
        )
    return counts


def _png_parts(data: File) -> Iterator[bytes]:
    at = 8
    while at < len(data):
        yield data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4])


def _jpeg_parts(data: File) -> Iterator[bytes]:
    at = 2
    while at < len(data):
        end = at + SEARCHED_BYTES
        found = JPEG_PART.search(data, at, end + 3)  # one that begins before the end is whole
        if found is None or found.start() >= end:
            at = end
        elif found[1] == END_OF_IMAGE:
            return
        else:
            yield found[1]
            at = found.start() + 2 + int.from_bytes(found[2] or b"")


def _check_pictures(image: VipsImage, kind: str, parts: Counter[bytes]) -> None:
    if parts[ANIMATED] or image.pages > 1:
        what = "a TIFF of several pictures" if kind == "TIFF" else f"an animated {kind}"
        raise UnsupportedMedia(f"image: {what}; send them one by one", param="image")
    if image.format not in DEPTHS or image.bands > (5 if image.inks else 4):
        raise UnsupportedMedia(
            f"image: it has {image.bands} channels of type {image.format}; up to 4 of 8 or 16 bits "
            "are read",
            param="image",
        )


def _read(data: File, kind: str, image: VipsImage, channels: int) -> Picture:
    """The picture of a file whose header is as it should be."""
    pixels = image.width * image.height
    in_order = image.reads_downwards and (kind != "TIFF" or tiff.reads_downwards(data))
    if pixels <= HELD_PIXELS:
        upright = (image if in_order else opened(data, kind, in_order=False)).upright()
        return of_pixels(upright.whole(), channels, upright.profile)
    if not in_order:
        why = " where a file can't be read row by row (interlaced, turned, of tall tiles)"
        check_pixels(image.width, image.height, WHOLE_PIXELS, why)
        image = opened(data, kind, in_order=False)
    image = image.upright()
    veiled = _whole_and_veiled(image)
    if in_order:
        image = opened(data, kind).upright()
    apart = veiled and channels < 4
    rows = _Window(image, kind, lambda part: _fitted(part, channels, apart=apart))
    return Picture(
        image.height,
        image.width,
        DEPTHS[image.format],
        rows,
        alpha=apart,
        **_colours(image.bands, channels, image.profile),
    )


def _whole_and_veiled(image: VipsImage) -> bool:
    """Reads all of it, which fails where it is broken; whether its alpha hides something."""
    veiled, opaque = False, 2 ** DEPTHS[image.format] - 1
    for top in range(0, image.height, STRIPE_PX):
        part = image.rows(top, min(top + STRIPE_PX, image.height))
        veiled = veiled or (image.bands in (2, 4) and bool((part[..., -1] < opaque).any()))
    return veiled


class _Window:
    """The rows of a picture that is read from top to bottom."""

    def __init__(
        self, image: VipsImage, kind: str, fit: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> None:
        self._image, self._kind, self._fit = image, kind, fit
        nothing = np.empty((0, image.width, image.bands), DTYPES[DEPTHS[image.format]])
        self._top, self._kept = 0, fit(nothing)

    def __call__(self, top: int, bottom: int) -> NDArray[Any]:
        there = self._top + len(self._kept)
        kept = self._kept[top - self._top :]
        if bottom > there:
            with _reading(self._kind):
                read = self._image.rows(max(top, there), bottom)
            kept = np.concatenate([kept, self._fit(read)])
        self._top, self._kept = top, kept
        return kept[: bottom - top]


def _fitted(pixels: NDArray[Any], channels: int, *, apart: bool) -> NDArray[Any]:
    """[h, W, 1 to 4] as so many channels; with alpha as one more where it is ``apart``."""
    given = pixels.shape[2]
    if given == channels + apart:
        return pixels
    colours, alpha = (pixels[..., :-1], pixels[..., -1:]) if given in (2, 4) else (pixels, None)
    if channels == 1 and colours.shape[2] == 3:
        colours = luma(colours)
    elif channels > 1 and colours.shape[2] == 1:
        colours = colours.repeat(3, axis=2)
    if channels == 4 and alpha is None:
        alpha = np.full_like(pixels[..., :1], np.iinfo(pixels.dtype).max)
    if alpha is None or not (apart or channels == 4):
        return colours
    return np.concatenate([colours, alpha], axis=2)


def luma(colours: NDArray[Any]) -> NDArray[Any]:
    """[h, W, 3] as grey, [h, W, 1]."""
    weighted = colours.astype(np.uint32) @ LUMA  # at most 2**32 - 2**16
    grey: NDArray[Any] = (weighted + 0x8000) >> 16
    return grey[..., None].astype(colours.dtype)


def _colours(given: int, channels: int, profile: bytes) -> dict[str, Any]:
    """What comes out: grey of grey, and its ICC profile, unless that is of other colours."""
    grey, space = given < 3, SPACES[1 if given < 3 else 3]
    kept = grey == (channels == 1 or (grey and channels == 3)) and profile[16:20] == space
    kept = kept and len(profile) <= MAX_PROFILE_BYTES
    return {"grey": grey and channels == 3, "profile": profile if kept else b""}
