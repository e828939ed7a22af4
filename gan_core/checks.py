"""Predicates of a built trainer for what variants share: tests of a ``PaperCheck``.

Each takes a trainer of its own, which it may train or leave in evaluation. Below them is what
they and a plugin's own checks are made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .data import Batch
from .layers import PlainSelfAttention, SelfAttention, is_spectral, shortcuts_intact
from .losses import Hinge
from .trainer import sample_prior

if TYPE_CHECKING:
    from torch import Tensor

    from .trainer import AdversarialStep

__all__ = [
    "attention_starts_off",
    "drawn",
    "hinge",
    "linear_loss",
    "modules",
    "no_norm_in_discriminator",
    "norms",
    "one_to_one",
    "own_images",
    "param_group",
    "projection",
    "shortcuts",
    "singular_vectors",
    "spectral_norm",
    "spectral_norm_rests",
]

N = 4
"""Images that a check makes."""


def linear_loss(trainer: AdversarialStep) -> bool:
    """The losses' slopes in the logits are ±1, however certain the critic is."""
    real, fake, fooling = (torch.tensor([-20.0, 0.0, 20.0], requires_grad=True) for _ in range(3))
    losses = trainer.loss.discriminator(real, fake), trainer.loss.generator(fooling, None)
    slopes = torch.autograd.grad([loss.sum() for loss in losses], [real, fake, fooling])
    return torch.equal(torch.stack(slopes), torch.tensor([[-1.0], [1.0], [-1.0]]).expand(3, 3))


def hinge(trainer: AdversarialStep) -> bool:
    """The hinge loss."""
    return isinstance(trainer.loss, Hinge)


def one_to_one(trainer: AdversarialStep) -> bool:
    """The two sides take turns, a step each."""
    return all(trainer.players[side].steps(1000) == 1 for side in "GD")


def no_norm_in_discriminator(trainer: AdversarialStep) -> bool:
    """D has no BatchNorm, LayerNorm or other norm, not even of its weights."""
    return not norms(trainer.raw_D)


def spectral_norm(trainer: AdversarialStep) -> bool:
    """Convolutions and linear layers of both are normalised, and D's class embedding."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    both = [module for module in modules(trainer) if isinstance(module, kinds)]
    return all(is_spectral(module) for module in (*both, *_embeddings(trainer.raw_D)))


@torch.no_grad()
def spectral_norm_rests(trainer: AdversarialStep) -> bool:
    """A forward pass in evaluation leaves u and v as they were; False where there are none."""
    G, D = trainer.raw_G.eval(), trainer.raw_D.eval()
    vectors = [*singular_vectors(G).values(), *singular_vectors(D).values()]
    before = [vector.clone() for vector in vectors]
    made = own_images(trainer)
    D(made.real, made.label)
    after = [*singular_vectors(G).values(), *singular_vectors(D).values()]
    same = (torch.equal(old, new) for old, new in zip(before, after, strict=True))
    return bool(before) and all(same)


def attention_starts_off(trainer: AdversarialStep) -> bool:
    """Each network has one layer of self-attention, with γ = 0."""
    kinds = (SelfAttention, PlainSelfAttention)
    found = [
        [module.gamma.item() for module in network.modules() if isinstance(module, kinds)]
        for network in (trainer.raw_G, trainer.raw_D)
    ]
    return found == [[0], [0]]


@torch.no_grad()
def projection(trainer: AdversarialStep) -> bool:
    """Another class adds ⟨e' − e, f⟩ to the logits: linear in the class embedding.

    D judges ``features(images)`` with a ``gan_core.layers.Head`` of that name.
    """
    D: Any = trainer.raw_D.eval()
    embedding = getattr(getattr(D, "head", None), "embedding", None)
    if embedding is None:
        return False
    images = own_images(trainer).real
    zeros = torch.zeros(len(images), dtype=torch.long, device=images.device)
    added = D(images, zeros + 1) - D(images, zeros)
    expected = D.features(images) @ (embedding.weight[1] - embedding.weight[0])
    return bool(added.abs().min() > 0) and torch.allclose(added, expected, atol=1e-4)


@torch.no_grad()
def shortcuts(trainer: AdversarialStep) -> bool:
    """No residual block of ``gan_core.layers`` changes its input; False where there is none."""
    z, label = drawn(trainer)
    networks = trainer.raw_G, trainer.raw_D
    return shortcuts_intact(networks, lambda: trainer.raw_D(trainer.raw_G(z, label), label))


def modules(trainer: AdversarialStep) -> Iterator[nn.Module]:
    """Every module of G, then of D."""
    yield from trainer.raw_G.modules()
    yield from trainer.raw_D.modules()


def norms(network: nn.Module) -> list[nn.Module]:
    """Its modules whose type has "Norm" in its name, spectral norm of a weight among them."""
    return [module for module in network.modules() if "Norm" in type(module).__name__]


def singular_vectors(network: nn.Module) -> dict[str, Tensor]:
    """The u and v of its spectrally normalised layers, by name."""
    return {name: b for name, b in network.named_buffers() if name.endswith(("._u", "._v"))}


def param_group(trainer: AdversarialStep, side: str) -> dict[str, Any]:
    """Settings of the optimiser of ``G`` or ``D``.

    Raises:
        ValueError: it has more than one group of parameters.
    """
    (group,) = trainer.players[side].optimizer.param_groups
    return dict(group)


def drawn(trainer: AdversarialStep) -> tuple[Tensor, Tensor | None]:
    """Latents z [4, z_dim], and a class for each [4] if D has a class embedding."""
    device = trainer.accelerator.device
    z = sample_prior(trainer.latent, N, device)
    embeddings = _embeddings(trainer.raw_D)
    if not embeddings:
        return z, None
    return z, torch.arange(N, device=device) % embeddings[0].num_embeddings


@torch.no_grad()
def own_images(trainer: AdversarialStep) -> Batch:
    """Four images of G's own and their classes, as if they were real."""
    z, label = drawn(trainer)
    return Batch(trainer.raw_G(z, label), label)


def _embeddings(network: nn.Module) -> list[nn.Embedding]:
    return [module for module in network.modules() if isinstance(module, nn.Embedding)]
