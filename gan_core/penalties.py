"""Gradient penalties on the discriminator, per sample and in float32 even under autocast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from .networks import Discriminator, Generator

__all__ = ["Penalty", "PenaltyInputs", "gradient_penalty", "r1"]


@dataclass(frozen=True, slots=True)
class PenaltyInputs:
    """What a penalty sees of a discriminator step."""

    generator: Generator
    """In float32, even where the rest of the step is in mixed precision."""
    discriminator: Discriminator
    """In float32 as well."""
    real: Tensor
    """As the discriminator saw it, [N, C, H, W]."""
    fake: Tensor
    """As the discriminator saw it, detached, [N, C, H, W]."""
    z: Tensor
    """[N, z_dim]."""
    label: Tensor | None
    """[N] or None."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """A term of the discriminator's loss: weight × term, every ``interval`` steps.

    Skipped steps are made up for: the contribution is multiplied by ``interval`` (lazy
    regularisation, Karras et al. 2020, §3.1).

    Raises:
        ValueError: ``weight`` < 0 or ``interval`` < 1.
    """

    name: str
    """Key of its statistic: ``penalty/<name>`` is the mean of weight × term."""
    weight: float
    term: Callable[[PenaltyInputs], Tensor]
    """Per-sample value, [N]."""
    interval: int = 1

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight {self.weight} of penalty {self.name!r} is below 0")
        if self.interval < 1:
            raise ValueError(f"interval {self.interval} of penalty {self.name!r} is below 1")

    def __call__(self, inputs: PenaltyInputs) -> Tensor:
        """Mean of weight × term over the batch, 0-dim."""
        with torch.autocast(inputs.real.device.type, enabled=False):
            return self.weight * self.term(inputs).mean()


def gradient_penalty(weight: float = 10.0, interval: int = 1) -> Penalty:
    """WGAN-GP: weight · (‖∇D(x̂)‖₂ − 1)², x̂ = ε·x + (1 − ε)·G(z) (Gulrajani et al. 2017, eq. 3).

    One ε per sample; the norm is taken per sample over C, H and W.

    Raises:
        ValueError: ``weight`` < 0 or ``interval`` < 1.
    """
    return Penalty("gp", weight, _two_sided, interval)


def r1(weight: float, interval: int = 1) -> Penalty:
    """R1: weight/2 · ‖∇D(x)‖² on real images (Mescheder et al. 2018, eq. 9).

    Per-sample result [N], summed over C, H, W.

    Raises:
        ValueError: ``weight`` < 0 or ``interval`` < 1.
    """
    return Penalty("r1", weight, _half_squared, interval)


def _two_sided(inputs: PenaltyInputs) -> Tensor:
    real, fake = inputs.real.float(), inputs.fake.float()
    epsilon = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    mixed = torch.lerp(fake, real, epsilon)
    squared = _squared_gradient_norm(inputs, mixed)
    # 1e-12: the root's derivative is infinite at 0
    return ((squared + 1e-12).sqrt() - 1).square()


def _half_squared(inputs: PenaltyInputs) -> Tensor:
    return 0.5 * _squared_gradient_norm(inputs, inputs.real.float())


def _squared_gradient_norm(inputs: PenaltyInputs, images: Tensor) -> Tensor:
    """‖∇D(images)‖² per sample, [N], differentiable in D's weights."""
    images = images.detach().requires_grad_()
    logits = inputs.discriminator(images, inputs.label)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1)
