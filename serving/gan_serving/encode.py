"""Pixels to files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from gan_core.grid import to_pil

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["png"]


def png(pixels: NDArray[Any]) -> bytes:
    """One uint8 [H, W, C] array as a PNG, lossless; quick rather than small."""
    buffer = io.BytesIO()
    to_pil(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
