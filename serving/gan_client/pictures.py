"""Pictures that a client sends, in whatever form its code has them, and what it gets for them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from gan_core.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    File = bytes | mmap.mmap
    """A PNG, JPEG, WebP or TIFF file."""
    Picture = File | NDArray[Any]
    """A file, or pixels [H, W, C] of 8 or 16 bits."""
    AnyPicture = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]
    """A file's path or its bytes, a Pillow image, or uint8 or uint16 [H, W] or [H, W, C]."""

__all__ = ["AnyPicture", "File", "Picture", "as_file", "opened"]

READ_BYTES = 1 << 25
"""A larger file isn't read into memory."""
DTYPES = (np.uint8, np.uint16)
FOREIGN = ("CMYK", "LAB", "HSV", "YCbCr")
"""Modes that become RGB, which their profile isn't of."""


def opened(image: AnyPicture) -> Picture:
    """A picture as what goes to a server: files as they are, of all else the pixels.

    Raises:
        OSError: there is no such file.
        InvalidRequest: it is no picture.
    """
    match image:
        case str() | os.PathLike():
            return _file(Path(image))
        case bytes():
            return image
        case Image.Image():
            return _of_pillow(image)
        case np.ndarray():
            return _checked(image)
    raise InvalidRequest(
        f"image: a {type(image).__name__} is no path, bytes, Pillow image or array", param="image"
    )


def as_file(picture: Picture) -> File:
    """A picture as a file: pixels become a PNG."""
    if not isinstance(picture, np.ndarray):
        return picture
    from gan_serving.vips import png

    return png(picture)


def _file(path: Path) -> File:
    with path.open("rb") as file:
        if path.stat().st_size <= READ_BYTES:
            return file.read()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _of_pillow(image: Image.Image) -> Picture:
    """Its pixels, upright; a file where they have a profile."""
    upright = ImageOps.exif_transpose(image)
    pixels = _pixels_of(upright)
    profile = upright.info.get("icc_profile")
    if profile is None or upright.mode in FOREIGN:
        return pixels
    from gan_serving.vips import png

    return png(pixels, profile)


def _pixels_of(image: Image.Image) -> NDArray[Any]:
    if image.mode.startswith("I"):
        levels = np.asarray(image)  # of 16 bits, though some modes have room for 32
        return levels.clip(0, 65_535).astype(np.uint16)[..., None]
    mode = "L" if image.mode in ("1", "L") else "RGB"
    if image.has_transparency_data:
        mode = "RGBA"
    pixels = np.asarray(image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _checked(array: NDArray[Any]) -> NDArray[Any]:
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.dtype not in DTYPES or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise InvalidRequest(
            f"image: {array.dtype}{list(array.shape)} are no pixels; uint8 or uint16 [H, W] or "
            "[H, W, C] of 1, 3 or 4 channels are",
            param="image",
        )
    if not pixels.size:
        raise InvalidRequest(f"image: {list(array.shape)} has no pixels", param="image")
    return pixels
