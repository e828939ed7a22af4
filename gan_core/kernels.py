"""Blur kernels as photographs show them: Gaussians of many shapes, and the rings of a sinc."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor
from torch.nn.functional import pad

from .randomness import Draws

__all__ = ["blurred", "gaussians", "sincs"]

SIDE_PX = 21
LEAST_PX = 7
SHAPED = 0.15
"""Share of generalised Gaussians, and as large a one of plateaus (Wang et al. 2021, appendix)."""
ISOTROPIC = 0.69
"""Share of round ones. Paper: 0.64 of plain Gaussians, 0.8 of the others, which is as many."""


def gaussians(draws: Draws, n: int, sigma: tuple[float, float]) -> Tensor:
    """[n, 21, 21], each summing to 1: round or not, peaked, plain or flat, of 7 to 21 px.

    ``sigma`` is the range of the standard deviations in px.
    """
    x, y = _grid(draws.device)
    first, other = draws.uniform(n, *sigma), draws.uniform(n, *sigma)
    second = torch.where(draws.uniform(n) < ISOTROPIC, first, other)
    angle = draws.uniform(n, -pi, pi)
    cos, sin = (f(angle)[:, None, None] for f in (torch.cos, torch.sin))
    along = (x * cos + y * sin) / first[:, None, None]
    across = (y * cos - x * sin) / second[:, None, None]
    squared = along.square() + across.square()
    kind, shape = draws.uniform(n), draws.uniform(n)
    peaked, flat = (0.5 + 3.5 * shape)[:, None, None], (1 + shape)[:, None, None]
    kernels = torch.exp(-squared / 2)
    generalised = torch.exp(-((squared / 2) ** peaked))
    plateau = 1 / (1 + squared**flat)
    kernels = torch.where((kind < 2 * SHAPED)[:, None, None], plateau, kernels)
    kernels = torch.where((kind < SHAPED)[:, None, None], generalised, kernels)
    return _normalised(kernels * _within(_sides(draws, n)))


def sincs(draws: Draws, n: int) -> Tensor:
    """[n, 21, 21], each summing to 1: ideal low-pass filters cut off at 7 to 21 px.

    Cut-off between π/3 and π for kernels below 13 px, else between π/5 and π.
    """
    x, y = _grid(draws.device)
    sides = _sides(draws, n)
    lowest = torch.where(sides < 13, pi / 3, pi / 5)
    cutoff = (lowest + (pi - lowest) * draws.uniform(n))[:, None, None]
    radius = (x.square() + y.square()).sqrt().clamp_min(1e-6)
    kernels = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * pi * radius)
    return _normalised(kernels * _within(sides))


def blurred(images: Tensor, kernels: Tensor) -> Tensor:
    """Images [N, C, H, W], each by its own symmetric kernel [N, k, k]; edges are repeated.

    By Fourier's way: a CPU takes twice as long for so many convolutions of one channel.
    """
    height, width = images.shape[-2:]
    reach = kernels.shape[-1] // 2
    padded = pad(images, (reach,) * 4, mode="replicate")
    size = (height + 2 * reach, width + 2 * reach)
    spectra = torch.fft.rfft2(padded) * torch.fft.rfft2(kernels, s=size)[:, None]
    found: Tensor = torch.fft.irfft2(spectra, s=size)[..., 2 * reach :, 2 * reach :]
    return found


def _grid(device: torch.device) -> tuple[Tensor, Tensor]:
    places = torch.arange(SIDE_PX, device=device) - SIDE_PX // 2
    y, x = torch.meshgrid(places.float(), places.float(), indexing="ij")
    return x, y


def _sides(draws: Draws, n: int) -> Tensor:
    """Odd sides from 7 to 21 px, each as likely [n]."""
    choices = (SIDE_PX - LEAST_PX) // 2 + 1
    return LEAST_PX + 2 * (draws.uniform(n) * choices).floor()


def _within(sides: Tensor) -> Tensor:
    x, y = _grid(sides.device)
    return torch.maximum(x.abs(), y.abs()) <= (sides[:, None, None] - 1) / 2


def _normalised(kernels: Tensor) -> Tensor:
    return kernels / kernels.sum((1, 2), keepdim=True)
