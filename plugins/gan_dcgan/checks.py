"""What the paper says of DCGAN's architecture and training, as tests of a built trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from gan_core.checks import modules, param_group

if TYPE_CHECKING:
    from gan_core.trainer import AdversarialStep

__all__ = [
    "adam",
    "critic_activations",
    "critic_norms",
    "generator_activations",
    "generator_norms",
    "initial_weights",
    "no_linear",
    "no_pooling",
    "uniform_prior",
]

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def no_linear(trainer: AdversarialStep) -> bool:
    """Neither network has a fully connected layer."""
    return not any(isinstance(layer, nn.Linear) for layer in modules(trainer))


def no_pooling(trainer: AdversarialStep) -> bool:
    """Neither network pools or resamples but by strided convolution."""
    pools = ("Pool", "Upsample", "PixelShuffle")
    return not any(name in type(layer).__name__ for layer in modules(trainer) for name in pools)


def generator_norms(trainer: AdversarialStep) -> bool:
    """BatchNorm follows every convolution of G but the last."""
    return _followed_by_norm(trainer.raw_G) == [True] * (_depth(trainer.raw_G) - 1) + [False]


def critic_norms(trainer: AdversarialStep) -> bool:
    """BatchNorm follows every convolution of D but the first and the last."""
    depth = _depth(trainer.raw_D)
    return _followed_by_norm(trainer.raw_D) == [False] + [True] * (depth - 2) + [False]


def generator_activations(trainer: AdversarialStep) -> bool:
    """ReLU everywhere, tanh last."""
    *hidden, last = _activations(trainer.raw_G)
    return isinstance(last, nn.Tanh) and all(isinstance(layer, nn.ReLU) for layer in hidden)


def critic_activations(trainer: AdversarialStep) -> bool:
    """LeakyReLU with slope 0.2 everywhere."""
    slopes = [getattr(layer, "negative_slope", None) for layer in _activations(trainer.raw_D)]
    return set(slopes) == {0.2}


def initial_weights(trainer: AdversarialStep) -> bool:
    """Convolutions start as N(0, 0.02), to within six standard errors."""
    weights = torch.cat(
        [m.weight.flatten() for m in modules(trainer) if isinstance(m, CONVOLUTIONS)]
    )
    error = 0.02 / len(weights) ** 0.5
    return bool(abs(weights.mean()) < 6 * error and abs(weights.std() - 0.02) < 6 * error)


def adam(trainer: AdversarialStep) -> bool:
    """Both networks are trained by Adam at 2e-4 with beta1 0.5."""
    groups = [param_group(trainer, side) for side in "GD"]
    return all(group["lr"] == 2e-4 and group["betas"] == (0.5, 0.999) for group in groups)


def uniform_prior(trainer: AdversarialStep) -> bool:
    """Z is drawn from U(-1, 1)."""
    return trainer.latent.distribution == "uniform"


def _leaves(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if not list(module.children())]


def _activations(network: nn.Module) -> list[nn.Module]:
    return [
        layer
        for layer in _leaves(network)
        if not isinstance(layer, (*CONVOLUTIONS, nn.BatchNorm2d, nn.Identity))
    ]


def _depth(network: nn.Module) -> int:
    return sum(isinstance(layer, CONVOLUTIONS) for layer in _leaves(network))


def _followed_by_norm(network: nn.Module) -> list[bool]:
    leaves = _leaves(network)
    return [
        isinstance(after, nn.BatchNorm2d)
        for layer, after in zip(leaves, [*leaves[1:], None], strict=True)
        if isinstance(layer, CONVOLUTIONS)
    ]
