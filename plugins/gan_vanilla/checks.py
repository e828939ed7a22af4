"""What is true of a vanilla GAN, as tests of a built trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from gan_core.theory import discriminator_is_optimal

if TYPE_CHECKING:
    from gan_core.trainer import AdversarialStep

__all__ = [
    "no_norm_in_discriminator",
    "non_saturating",
    "norm_epsilon",
    "one_to_one",
    "only_linear",
    "optimal_discriminator",
]

ALLOWED = (
    nn.Linear,
    nn.BatchNorm1d,
    nn.LeakyReLU,
    nn.Tanh,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
)


def only_linear(trainer: AdversarialStep) -> bool:
    """No convolution anywhere."""
    leaves = [m for m in _modules(trainer) if not list(m.children())]
    return all(isinstance(module, ALLOWED) for module in leaves)


def no_norm_in_discriminator(trainer: AdversarialStep) -> bool:
    """D has no normalisation layer."""
    return not any("Norm" in type(module).__name__ for module in trainer.raw_D.modules())


def norm_epsilon(trainer: AdversarialStep) -> bool:
    """BatchNorm1d's second positional argument is eps; many a tutorial passes its momentum."""
    norms = [m for m in _modules(trainer) if isinstance(m, nn.BatchNorm1d)]
    return bool(norms) and all(norm.eps == 1e-5 for norm in norms)


def one_to_one(trainer: AdversarialStep) -> bool:
    """K = 1 in the paper's algorithm 1."""
    return all(trainer.players[side].steps(1000) == 1 for side in "GD")


def non_saturating(trainer: AdversarialStep) -> bool:
    """A fake that D rejects (logit −20) still gives G a gradient of −1."""
    logit = torch.tensor([-20.0], requires_grad=True)
    trainer.loss.generator(logit, None).sum().backward()
    return logit.grad is not None and abs(logit.grad.item() + 1) < 1e-6


def optimal_discriminator(trainer: AdversarialStep) -> bool:
    """Proposition 1, on two densities whose optimum is known."""
    return discriminator_is_optimal(trainer.loss)


def _modules(trainer: AdversarialStep) -> list[nn.Module]:
    return [*trainer.raw_G.modules(), *trainer.raw_D.modules()]
