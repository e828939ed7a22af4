"""What is true of a self-attention GAN, as tests of a built trainer."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from gan_core.checks import modules, own_images, param_group, singular_vectors
from gan_core.layers import ConditionalBatchNorm2d, PlainSelfAttention, SelfAttention, UpBlock

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.trainer import AdversarialStep

__all__ = [
    "adam",
    "attention_is_pooled",
    "attention_weights",
    "average_is_normalised",
    "conditional_norms",
    "two_time_scales",
]


def average_is_normalised(trainer: AdversarialStep) -> bool:
    """After some steps the average's u and v are G's, of norm 1: an average of them isn't."""
    for _ in range(3):
        trainer.step(own_images(trainer))
    if trainer.ema is None:
        return False
    ours, theirs = singular_vectors(trainer.ema.module), singular_vectors(trainer.raw_G)
    same = all(torch.equal(ours[name], theirs[name]) for name in theirs)
    return same and all(abs(vector.norm() - 1) < 1e-4 for vector in ours.values())


def attention_weights(trainer: AdversarialStep) -> bool:
    """Where all values are 1, what is attended to is 1 at every place."""
    layers = _attention(trainer)
    return bool(layers) and all(_attends_to_one(layer, _Ones()) for layer in layers)


def attention_is_pooled(trainer: AdversarialStep) -> bool:
    """One value of 1 in each 2×2 window is as good as four."""
    layers = _attention(trainer)
    return bool(layers) and all(_attends_to_one(layer, _Corners()) for layer in layers)


def conditional_norms(trainer: AdversarialStep) -> bool:
    """Both batch norms of every block of G have gains and biases per class."""
    blocks = [m for m in trainer.raw_G.modules() if isinstance(m, UpBlock)]
    norms = [norm for block in blocks for norm in (block.norm_1, block.norm_2)]
    return bool(norms) and all(isinstance(norm, ConditionalBatchNorm2d) for norm in norms)


def two_time_scales(trainer: AdversarialStep) -> bool:
    """4e-4 for D, 1e-4 for G."""
    rates = [param_group(trainer, side)["lr"] for side in "DG"]
    return rates == [4e-4, 1e-4]


def adam(trainer: AdversarialStep) -> bool:
    """Adam's β₁ = 0 and β₂ = 0.9 on both sides."""
    return all(param_group(trainer, side)["betas"] == (0.0, 0.9) for side in "DG")


class _Ones(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


class _Corners(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values = torch.zeros_like(x)
        values[:, :, ::2, ::2] = 1
        return values


@torch.no_grad()
def _attends_to_one(layer: SelfAttention | PlainSelfAttention, values: nn.Module) -> bool:
    layer = copy.deepcopy(layer)
    layer.gamma.fill_(1)
    layer.value = values  # type: ignore[assignment] # stands in for a convolution
    if isinstance(layer, SelfAttention):
        layer.out = nn.Identity()  # type: ignore[assignment] # likewise
    x = torch.randn(2, layer.query.in_channels, 8, 8)
    added: Tensor = layer(x) - x
    return torch.allclose(added, torch.ones_like(x), atol=1e-4)


def _attention(trainer: AdversarialStep) -> list[SelfAttention | PlainSelfAttention]:
    kinds = (SelfAttention, PlainSelfAttention)
    return [module for module in modules(trainer) if isinstance(module, kinds)]
