"""Pictures that a client sends, in whatever form its code has them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gan_core.errors import InvalidRequest
from gan_core.grid import to_pil

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = bytes | NDArray[np.uint8]
    """A PNG, JPEG or WebP file, or pixels uint8 [H, W, C]."""
    AnyPicture = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
    """A file's path or its bytes, a Pillow image, or pixels uint8 [H, W] or [H, W, C]."""

__all__ = ["AnyPicture", "Picture", "as_file", "opened"]


def opened(image: AnyPicture) -> Picture:
    """A picture as what goes to a server: files as they are, of all else the pixels.

    Raises:
        OSError: there is no such file.
        InvalidRequest: it is no picture.
    """
    match image:
        case str() | os.PathLike():
            return Path(image).read_bytes()
        case bytes():
            return image
        case Image.Image():
            return _pixels_of(image)
        case np.ndarray():
            return _checked(image)
    raise InvalidRequest(
        f"image: a {type(image).__name__} is no path, bytes, Pillow image or array", param="image"
    )


def as_file(picture: Picture) -> bytes:
    """A picture as a file: pixels become a PNG."""
    if isinstance(picture, bytes):
        return picture
    buffer = io.BytesIO()
    to_pil(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    from gan_serving.decode import fitted

    if image.has_transparency_data:
        return fitted(image, 4).pixels
    return fitted(image, 1 if image.mode.startswith(("1", "L", "I")) else 3).pixels


def _checked(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise InvalidRequest(
            f"image: {array.dtype}{list(array.shape)} are no pixels; uint8 [H, W] or [H, W, C] of "
            "1, 3 or 4 channels are",
            param="image",
        )
    if not pixels.size:
        raise InvalidRequest(f"image: {list(array.shape)} has no pixels", param="image")
    return pixels
