"""What JPEG does to images, without its file: on any device, each image at its own quality."""

from __future__ import annotations

from functools import cache
from math import pi

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

__all__ = ["compressed"]

BLOCK_PX = 8
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *[(99,) * 8] * 4,
)
"""The quantisation tables of ITU-T T.81, annex K, at quality 50."""
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def compressed(images: Tensor, quality: Tensor) -> Tensor:
    """Images after JPEG at a quality of 1 to 100 each [N], chroma at half of the sides.

    Float32 [N, 1 or 3, H, W] in [0, 1]; what comes back is in whole levels. As libjpeg, to within
    its own rounding.
    """
    grey = images.shape[1] == 1
    height, width = images.shape[-2:]
    rgb = (images.expand(-1, 3, -1, -1) * 255).round()
    step = 2 * BLOCK_PX
    rgb = pad(rgb, (0, -width % step, 0, -height % step), mode="replicate")
    y, cb, cr = _mixed(rgb, TO_YCBCR).round().split(1, 1)
    chroma = avg_pool2d(torch.cat([cb, cr], 1), 2).round()
    y = _quantised(y - 128, _table(LUMA, quality)) + 128
    chroma = _quantised(chroma, _table(CHROMA, quality))
    chroma = interpolate(chroma, scale_factor=2, mode="bilinear")
    found = _mixed(torch.cat([y.clamp(0, 255), chroma.clamp(-128, 127)], 1), TO_RGB)
    found = found.round().clamp(0, 255)[..., :height, :width] / 255
    return found[:, :1] if grey else found


def _mixed(images: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.einsum("dc,nchw->ndhw", torch.tensor(matrix, device=images.device), images)


def _table(base: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Libjpeg's steps at each quality: [N, 1, 1, 8, 1, 8], as blocks lie in an image."""
    quality = quality.float()
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    steps = torch.tensor(base, device=quality.device) * percent[:, None, None]
    steps = ((steps + 50) / 100).floor().clamp(1, 255)
    return steps[:, None, None, :, None, :]


def _quantised(planes: Tensor, steps: Tensor) -> Tensor:
    """[N, C, H, W] around 0, each 8×8 block's cosine coefficients rounded to steps."""
    n, channels, height, width = planes.shape
    basis = _cosines().to(planes.device)
    blocks = planes.reshape(n, channels, height // BLOCK_PX, BLOCK_PX, width // BLOCK_PX, BLOCK_PX)
    found = torch.einsum("ui,vj,ncyixj->ncyuxv", basis, basis, blocks)
    found = (found / steps).round() * steps
    found = torch.einsum("ui,vj,ncyuxv->ncyixj", basis, basis, found)
    rounded: Tensor = found.reshape(planes.shape).round()
    return rounded


@cache
def _cosines() -> Tensor:
    """The orthonormal DCT-II [frequency, place]."""
    k = torch.arange(BLOCK_PX, dtype=torch.float64)
    basis = torch.cos(pi / BLOCK_PX * k[:, None] * (k + 0.5)) * (2 / BLOCK_PX) ** 0.5
    basis[0] /= 2**0.5
    cosines: Tensor = basis.float()
    return cosines
