"""Many images side by side in one, for people to look at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["grid", "scatter", "to_pil"]


def to_pil(pixels: NDArray[Any]) -> Image.Image:
    """One uint8 [H, W, C] array as a grey, RGB or RGBA image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def grid(images: NDArray[Any], columns: int | None = None, gap_px: int = 2) -> Image.Image:
    """uint8 [N, H, W, C] as rows of ``columns`` images (by default, about a square)."""
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    cell_h, cell_w = height + gap_px, width + gap_px
    canvas = np.full((rows * cell_h + gap_px, columns * cell_w + gap_px, channels), 32, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * cell_h + gap_px, (i % columns) * cell_w + gap_px
        canvas[top : top + height, left : left + width] = image
    return to_pil(canvas)


def scatter(points: NDArray[np.uint8]) -> Image.Image:
    """uint8 [N, 2] as bright dots on 256×256 px, x to the right and y upwards."""
    canvas = np.full((256, 256), 32, np.uint8)
    canvas[255 - points[:, 1], points[:, 0]] = 255
    return Image.fromarray(canvas)
