"""Levels of pixels, of 8 bits or of 16, and each as the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DTYPES", "BitDepth", "bit_depth_of", "of_depth"]

BitDepth = Literal[8, 16]
"""Bits per channel."""
DTYPES: dict[int, np.dtype[Any]] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}
"""Of pixels, by their bits."""


def bit_depth_of(pixels: NDArray[Any]) -> BitDepth:
    """Of uint8 or uint16 pixels."""
    return 8 if pixels.dtype == np.uint8 else 16


def of_depth(pixels: NDArray[Any], bit_depth: BitDepth) -> NDArray[Any]:
    """uint8 or uint16 pixels as the nearest levels of so many bits; white stays white."""
    if pixels.dtype == DTYPES[bit_depth]:
        return pixels
    if bit_depth == 16:
        return pixels.astype(np.uint16) * np.uint16(257)
    # the nearest to p / 257, for every p, without leaving 16 bits
    levels: NDArray[Any] = pixels - (pixels >> 8)
    levels += 127 + (pixels >> 15)
    levels >>= 8
    return levels.astype(np.uint8)
