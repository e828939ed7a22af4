"""What is true of a self-attention GAN, as tests of a built trainer."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gan_core.data import Batch
from gan_core.layers import (
    ConditionalBatchNorm2d,
    PlainSelfAttention,
    SelfAttention,
    UpBlock,
    is_spectral,
    shortcuts_intact,
)
from gan_core.losses import Hinge
from gan_core.trainer import sample_prior

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from gan_core.trainer import AdversarialStep

__all__ = [
    "adam",
    "attention_is_pooled",
    "attention_starts_off",
    "attention_weights",
    "average_is_normalised",
    "conditional_norms",
    "hinge",
    "one_to_one",
    "projection",
    "shortcuts",
    "spectral_norm",
    "spectral_norm_rests",
    "two_time_scales",
]


def spectral_norm(trainer: AdversarialStep) -> bool:
    """Convolutions and linear layers of both are normalised, and D's class embedding."""
    both = [m for m in _modules(trainer) if isinstance(m, (nn.Conv2d, nn.Linear))]
    embeddings = [m for m in trainer.raw_D.modules() if isinstance(m, nn.Embedding)]
    return all(is_spectral(module) for module in (*both, *embeddings))


def spectral_norm_rests(trainer: AdversarialStep) -> bool:
    """A forward pass in evaluation leaves u and v as they were."""
    batch = _batch(trainer)
    before = [vector.clone() for vector in _vectors(trainer.raw_D).values()]
    with torch.no_grad():
        trainer.raw_D.eval()(batch.real, batch.label)
    after = _vectors(trainer.raw_D).values()
    return all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def average_is_normalised(trainer: AdversarialStep) -> bool:
    """After some steps the average's u and v are G's, of norm 1: an average of them isn't."""
    for _ in range(3):
        trainer.step(_batch(trainer))
    if trainer.ema is None:
        return False
    ours, theirs = _vectors(trainer.ema.module), _vectors(trainer.raw_G)
    same = all(torch.equal(ours[name], theirs[name]) for name in theirs)
    return same and all(abs(vector.norm() - 1) < 1e-4 for vector in ours.values())


def hinge(trainer: AdversarialStep) -> bool:
    """The hinge loss."""
    return isinstance(trainer.loss, Hinge)


def attention_starts_off(trainer: AdversarialStep) -> bool:
    """Each network has one layer of self-attention, with γ = 0."""
    layers = _attention(trainer)
    return len(layers) == 2 and all(layer.gamma.item() == 0 for layer in layers)


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


@torch.no_grad()
def projection(trainer: AdversarialStep) -> bool:
    """Another class adds ⟨e' − e, f⟩ to the logits: linear in the class embedding."""
    D: Any = trainer.raw_D.eval()
    if D.head.embedding is None:
        return False
    images = _batch(trainer).real
    zeros = torch.zeros(len(images), dtype=torch.long)
    added = D(images, zeros + 1) - D(images, zeros)
    embedding = D.head.embedding.weight
    expected = D.features(images) @ (embedding[1] - embedding[0])
    return bool(added.abs().min() > 0) and torch.allclose(added, expected, atol=1e-4)


@torch.no_grad()
def shortcuts(trainer: AdversarialStep) -> bool:
    """No residual block changes its input."""
    batch = _batch(trainer)
    z = sample_prior(trainer.latent, len(batch.real), trainer.accelerator.device)
    networks = trainer.raw_G, trainer.raw_D
    return shortcuts_intact(
        networks, lambda: trainer.raw_D(trainer.raw_G(z, batch.label), batch.label)
    )


def two_time_scales(trainer: AdversarialStep) -> bool:
    """4e-4 for D, 1e-4 for G."""
    rates = [_group(trainer, side)["lr"] for side in "DG"]
    return rates == [4e-4, 1e-4]


def adam(trainer: AdversarialStep) -> bool:
    """Adam's β₁ = 0 and β₂ = 0.9 on both sides."""
    return all(_group(trainer, side)["betas"] == (0.0, 0.9) for side in "DG")


def one_to_one(trainer: AdversarialStep) -> bool:
    """The two sides take turns."""
    return all(trainer.players[side].steps(1000) == 1 for side in "GD")


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
    return [module for module in _modules(trainer) if isinstance(module, kinds)]


@torch.no_grad()
def _batch(trainer: AdversarialStep) -> Batch:
    """G's own images, as if they were real."""
    n = 4
    head: Any = trainer.raw_D.head
    classes = head.embedding.num_embeddings if head.embedding else 0
    label = torch.arange(n) % classes if classes else None
    z = sample_prior(trainer.latent, n, torch.device("cpu"))
    return Batch(trainer.raw_G(z, label), label)


def _vectors(network: nn.Module) -> dict[str, Tensor]:
    return {name: b for name, b in network.named_buffers() if name.endswith(("._u", "._v"))}


def _modules(trainer: AdversarialStep) -> Iterator[nn.Module]:
    yield from trainer.raw_G.modules()
    yield from trainer.raw_D.modules()


def _group(trainer: AdversarialStep, side: str) -> dict[str, Any]:
    optimizer = trainer.optimizer_G if side == "G" else trainer.optimizer_D
    (group,) = optimizer.param_groups
    return dict(group)
