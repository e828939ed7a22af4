"""What is added to a network's loss, per sample and in float32 even under autocast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from .layers import raw_weight

if TYPE_CHECKING:
    from torch import Tensor

    from .networks import Plain
    from .schedules import Schedule

__all__ = [
    "Penalty",
    "PenaltyInputs",
    "feature_matching",
    "gradient_penalty",
    "orthogonal",
    "r1",
    "r2",
]


@dataclass(frozen=True, slots=True)
class PenaltyInputs:
    """What a penalty sees of a step."""

    generator: Plain
    """In float32, even where the rest of the step is in mixed precision."""
    discriminator: Plain
    """In float32 as well; its parameters are frozen in a generator step."""
    real: Tensor
    """As the discriminator saw it, [N, C, H, W]."""
    fake: Tensor
    """As the discriminator saw it, [N, C, H, W]; detached in a discriminator step."""
    z: Tensor
    """[N, z_dim]."""
    label: Tensor | None
    """[N] or None."""
    kimg: float = 0.0
    """10³ real images seen before the step."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """A term of a network's loss: weight × term, every ``interval`` of that network's steps.

    Skipped steps are made up for: the contribution is multiplied by ``interval`` (lazy
    regularisation, Karras et al. 2020, §3.1).

    Raises:
        ValueError: ``weight`` < 0 or ``interval`` < 1.
    """

    name: str
    """Key of its statistic: ``penalty/<name>`` is the mean of weight × term."""
    weight: float | Schedule
    """A number, or what it is after so many kimg."""
    term: Callable[[PenaltyInputs], Tensor]
    """Per-sample value [N], or one of the whole batch."""
    interval: int = 1

    def __post_init__(self) -> None:
        if not callable(self.weight) and self.weight < 0:
            raise ValueError(f"weight {self.weight} of penalty {self.name!r} is below 0")
        if self.interval < 1:
            raise ValueError(f"interval {self.interval} of penalty {self.name!r} is below 1")

    def __call__(self, inputs: PenaltyInputs) -> Tensor:
        """Mean of weight × term over the batch, 0-dim."""
        weight = self.weight(inputs.kimg) if callable(self.weight) else self.weight
        with torch.autocast(inputs.real.device.type, enabled=False):
            return weight * self.term(inputs).mean()


def gradient_penalty(weight: float = 10.0, interval: int = 1) -> Penalty:
    """WGAN-GP: weight · (‖∇D(x̂)‖₂ − 1)², x̂ = ε·x + (1 − ε)·G(z) (Gulrajani et al. 2017, eq. 3).

    One ε per sample; the norm is taken per sample over C, H and W.

    Raises:
        ValueError: ``weight`` < 0 or ``interval`` < 1.
    """
    return Penalty("gp", weight, _two_sided, interval)


def r1(weight: float | Schedule, interval: int = 1) -> Penalty:
    """R1: weight/2 · ‖∇D(x)‖² on real images (Mescheder et al. 2018, eq. 9).

    Per-sample result [N], summed over C, H, W.

    Raises:
        ValueError: ``weight`` < 0 or ``interval`` < 1.
    """
    return Penalty("r1", weight, _half_squared, interval)


def r2(weight: float | Schedule, interval: int = 1) -> Penalty:
    """R2: weight/2 · ‖∇D(G(z))‖² on fake images (Mescheder et al. 2018).

    Per-sample result [N], summed over C, H, W.

    Raises:
        ValueError: ``weight`` < 0 or ``interval`` < 1.
    """
    return Penalty("r2", weight, _half_squared_of_fakes, interval)


def feature_matching(weight: float = 1.0) -> Penalty:
    """On G: weight · ‖E f(x) − E f(G(z))‖² of D's features f (Salimans et al. 2016, §3.1).

    The distance of the two batch *means*; the reals' is a target and isn't differentiated.

    Raises:
        ValueError: ``weight`` < 0.
    """
    return Penalty("feature_matching", weight, _distance_of_means)


def orthogonal(weight: float = 1e-4) -> Penalty:
    """On G: weight · ‖WWᵀ ⊙ (1 − I)‖² of every weight matrix but embeddings (Brock et al. 2019).

    Only the inner products of *different* rows count (eq. 3 there), so norms stay free. Of a
    spectrally normalised layer W is what the optimiser learns.

    Raises:
        ValueError: ``weight`` < 0.
    """
    return Penalty("orthogonal", weight, _row_products)


def _two_sided(inputs: PenaltyInputs) -> Tensor:
    real, fake = _exact(inputs.real), _exact(inputs.fake)
    shape = (len(real), *[1] * (real.ndim - 1))
    epsilon = torch.rand(shape, device=real.device, dtype=real.dtype)
    mixed = torch.lerp(fake, real, epsilon)
    squared = _squared_gradient_norm(inputs, mixed)
    # 1e-12: the root's derivative is infinite at 0
    return ((squared + 1e-12).sqrt() - 1).square()


def _half_squared(inputs: PenaltyInputs) -> Tensor:
    return 0.5 * _squared_gradient_norm(inputs, _exact(inputs.real))


def _half_squared_of_fakes(inputs: PenaltyInputs) -> Tensor:
    return 0.5 * _squared_gradient_norm(inputs, _exact(inputs.fake))


def _distance_of_means(inputs: PenaltyInputs) -> Tensor:
    features = inputs.discriminator.features
    # G's batch may be of another size, and the labels with it: the reals' come first
    n = min(len(inputs.real), len(inputs.fake))
    label = None if inputs.label is None else inputs.label[:n]
    with torch.no_grad():
        real = features(_exact(inputs.real[:n]), label).mean(0)
    fake = features(_exact(inputs.fake), inputs.label).mean(0)
    return (real - fake).square().sum()


def _row_products(inputs: PenaltyInputs) -> Tensor:
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    found = [m for m in inputs.generator.network.modules() if isinstance(m, layers)]
    return torch.stack([_off_diagonal(raw_weight(m).flatten(1)) for m in found]).sum()


def _off_diagonal(W: Tensor) -> Tensor:
    # WWᵀ and WᵀW have the same norm: the smaller one
    products = W @ W.T if len(W) <= W.shape[1] else W.T @ W
    return products.square().sum() - W.square().sum(1).square().sum()


def _squared_gradient_norm(inputs: PenaltyInputs, images: Tensor) -> Tensor:
    """‖∇D(images)‖² per sample, [N], differentiable in D's weights."""
    images = images.detach().requires_grad_()
    logits = inputs.discriminator(images, inputs.label)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def _exact(images: Tensor) -> Tensor:
    """In float32 at least."""
    return images.to(torch.promote_types(images.dtype, torch.float32))
