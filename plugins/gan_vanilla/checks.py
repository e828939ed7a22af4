"""What is true of a vanilla GAN, as tests of a built trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from gan_core.checks import modules
from gan_core.theory import discriminator_is_optimal

if TYPE_CHECKING:
    from gan_core.trainer import AdversarialStep

__all__ = ["non_saturating", "norm_epsilon", "only_linear", "optimal_discriminator"]

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
    leaves = [m for m in modules(trainer) if not list(m.children())]
    return all(isinstance(module, ALLOWED) for module in leaves)


def norm_epsilon(trainer: AdversarialStep) -> bool:
    """BatchNorm1d's second positional argument is eps; many a tutorial passes its momentum."""
    norms = [m for m in modules(trainer) if isinstance(m, nn.BatchNorm1d)]
    return bool(norms) and all(norm.eps == 1e-5 for norm in norms)


def non_saturating(trainer: AdversarialStep) -> bool:
    """A fake that D rejects (logit −20) still gives G a gradient of −1."""
    logit = torch.tensor([-20.0], requires_grad=True)
    trainer.loss.generator(logit, None).sum().backward()
    return logit.grad is not None and abs(logit.grad.item() + 1) < 1e-6


def optimal_discriminator(trainer: AdversarialStep) -> bool:
    """Proposition 1, on two densities whose optimum is known."""
    return discriminator_is_optimal(trainer.loss)
