"""How small images are made of large ones, to learn the way back.

``bicubic`` is how results are compared; ``blind`` is what photographs have gone through that were
taken, resized and compressed by who knows whom: the second-order degradation of Real-ESRGAN (Wang
et al. 2021, §3, with the ranges of the authors' code).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .jpeg import compressed
from .kernels import blurred, gaussians, sincs
from .randomness import Draws

__all__ = ["bicubic", "blind"]

Range = tuple[float, float]
Size = tuple[int, int]
LEVELS = 255
FILTERS = ("area", "bilinear", "bicubic")
SINC = 0.1
"""Share of sincs among the kernels of both rounds."""
LAST_SINC = 0.8
"""Share of images that a sinc blurs at the end."""
GREY = 0.4
"""Share of images whose noise is the same in all channels."""
QUALITY: Range = (30, 95)
"""Of JPEG, in both rounds."""


@dataclass(frozen=True, slots=True)
class _Round:
    """One time through: blur, resize, noise; JPEG follows it."""

    blur: float
    """Share of images that are blurred."""
    sigma_px: Range
    enlarge: float
    """Probability that the batch is enlarged; the next is that it is reduced."""
    reduce: float
    size: Range
    """Factors of the sides: the least when reduced, the largest when enlarged."""
    gaussian: Range
    """Standard deviation of Gaussian noise, in levels; half of the images get it."""
    poisson: Range
    """Strength of Poisson noise; 1 is that of 256 photons in white. The other half gets it."""


ROUNDS = (
    _Round(1.0, (0.2, 3.0), 0.2, 0.7, (0.15, 1.5), (1, 30), (0.05, 3.0)),
    _Round(0.8, (0.2, 1.5), 0.3, 0.4, (0.3, 1.2), (1, 25), (0.05, 2.5)),
)


def bicubic(images: Tensor, scale: int) -> Tensor:
    """Images reduced by an antialiased bicubic filter, as Pillow's, and rounded to 8-bit levels.

    Float32 [N, C, H, W] in [0, 1] -> [N, C, H/scale, W/scale] in [0, 1].
    """
    size = _reduced(images, scale)
    return _levels(interpolate(images, size=size, mode="bicubic", antialias=True))


def blind(images: Tensor, scale: int, generator: torch.Generator) -> Tensor:
    """Images reduced as by cameras, programs and web sites unknown, each in its own way.

    Float32 [N, C, H, W] in [0, 1] -> [N, C, H/scale, W/scale] in [0, 1], in 8-bit levels. Every
    random number is the generator's, on whatever device. What is drawn once for the whole batch,
    as in the authors' code: the sizes in between, their filters, and what comes last.
    """
    draws = Draws(generator, images.device)
    small = _reduced(images, scale)
    first, second = ROUNDS
    found = _compressed(_once(images, _reduced(images, 1), first, draws), draws)
    found = _once(found, small, second, draws)
    if _chance(draws) < 0.5:
        return _compressed(_sharpened(_resized(found, small, _filter(draws)), draws), draws)
    found = _compressed(found, draws)
    return _levels(_sharpened(_resized(found, small, _filter(draws)), draws))


def _once(images: Tensor, size: Size, which: _Round, draws: Draws) -> Tensor:
    """Blurred, resized to a random share of a size, and noisy."""
    blurry = blurred(images, _kernels(which, len(images), draws))
    spared = draws.uniform(len(images)) >= which.blur
    found = torch.where(_each(spared), images, blurry)
    factor = _factor(which, draws)
    height, width = (max(round(side * factor), 1) for side in size)
    return _noisy(_resized(found, (height, width), _filter(draws)), which, draws).clamp(0, 1)


def _kernels(which: _Round, n: int, draws: Draws) -> Tensor:
    rings = draws.uniform(n) < SINC
    return torch.where(rings[:, None, None], sincs(draws, n), gaussians(draws, n, which.sigma_px))


def _factor(which: _Round, draws: Draws) -> float:
    chance, share = _chance(draws), _chance(draws)
    least, most = which.size
    if chance < which.enlarge:
        return 1 + (most - 1) * share
    return least + (1 - least) * share if chance < which.enlarge + which.reduce else 1.0


def _filter(draws: Draws) -> str:
    return FILTERS[int(_chance(draws) * len(FILTERS))]


def _noisy(images: Tensor, which: _Round, draws: Draws) -> Tensor:
    n, channels = images.shape[:2]
    sigma = _each(draws.uniform(n, *which.gaussian)) / LEVELS
    strength = _each(draws.uniform(n, *which.poisson))
    normal = draws.normal(*images.shape) * sigma
    # Paper's code: as many photons as an image has levels. Here: 256, so that none has to be sorted
    photons = images.clamp(0, 1) * (LEVELS + 1)
    counted = (draws.poisson(photons) - photons) / (LEVELS + 1) * strength
    noise = torch.where(_each(draws.uniform(n) < 0.5), normal, counted)
    same = noise.mean(1, keepdim=True) * channels**0.5  # as strong as each channel's own
    return images + torch.where(_each(draws.uniform(n) < GREY), same, noise)


def _sharpened(images: Tensor, draws: Draws) -> Tensor:
    """Most of them with the rings that sharpening leaves around edges."""
    ringing = draws.uniform(len(images)) < LAST_SINC
    return torch.where(_each(ringing), blurred(images, sincs(draws, len(images))), images)


def _compressed(images: Tensor, draws: Draws) -> Tensor:
    return compressed(images.clamp(0, 1), draws.uniform(len(images), *QUALITY))


def _resized(images: Tensor, size: Size, mode: str) -> Tensor:
    return images if images.shape[-2:] == size else interpolate(images, size=size, mode=mode)


def _reduced(images: Tensor, scale: int) -> Size:
    height, width = images.shape[-2:]
    return height // scale, width // scale


def _levels(images: Tensor) -> Tensor:
    return (images * LEVELS).round().clamp(0, LEVELS) / LEVELS


def _chance(draws: Draws) -> float:
    return float(draws.uniform(1))


def _each(values: Tensor) -> Tensor:
    """[N] as [N, 1, 1, 1]."""
    return values[:, None, None, None]
