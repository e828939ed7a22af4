"""What is true of BigGAN, as tests of a built trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from gan_core import checks
from gan_core.card import LabelInput
from gan_core.export import ServedGenerator
from gan_core.latents import latents
from gan_core.layers import PlainSelfAttention, is_spectral, raw_weight
from gan_core.networks import Plain
from gan_core.penalties import PenaltyInputs

from .networks import ProjectedBatchNorm2d
from .standing import standing_statistics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from gan_core.trainer import AdversarialStep

__all__ = [
    "adam",
    "attention_starts_off",
    "average",
    "chunks",
    "gain",
    "initial_weights",
    "learning_rates",
    "regularisation",
    "shared_embedding",
    "spectral_norm",
    "standing",
    "standing_repeats",
    "truncation",
    "two_to_one",
]


def spectral_norm(trainer: AdversarialStep) -> bool:
    """Every layer's weight is normalised, with ε = 1e-6."""
    layers: list[Any] = [module for module in checks.modules(trainer) if is_spectral(module)]
    return checks.spectral_norm(trainer) and all(
        layer.parametrizations.weight[0].eps == 1e-6 for layer in layers
    )


def attention_starts_off(trainer: AdversarialStep) -> bool:
    """Attention starts off, and its keys and values are pooled."""
    plain = any(isinstance(module, PlainSelfAttention) for module in checks.modules(trainer))
    return not plain and checks.attention_starts_off(trainer)


@torch.no_grad()
def gain(trainer: AdversarialStep) -> bool:
    """A condition of 0 gives the plain batch norm: a gain of 1 and a bias of 0."""
    G = trainer.raw_G.eval()
    norms = [module for module in G.modules() if isinstance(module, ProjectedBatchNorm2d)]
    return len(norms) > 0 and all(_is_plain_without_condition(norm) for norm in norms)


def shared_embedding(trainer: AdversarialStep) -> bool:
    """G has a single embedding."""
    return sum(isinstance(module, nn.Embedding) for module in trainer.raw_G.modules()) == 1


@torch.no_grad()
def chunks(trainer: AdversarialStep) -> bool:
    """Block i is conditioned on the class embedding and chunk i + 1 of z; the map on chunk 0."""
    G: Any = trainer.raw_G
    seen: list[Tensor] = []
    G.first.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    for block in G.blocks:
        block.register_forward_pre_hook(lambda _block, inputs: seen.append(inputs[1]))
    z, label = checks.drawn(trainer)
    G(z, label)
    first, *others = z.chunk(len(G.blocks) + 1, 1)
    expected = [first, *(torch.cat([G.shared(label), chunk], 1) for chunk in others)]
    return _equal(seen, expected)


def initial_weights(trainer: AdversarialStep) -> bool:
    """Rows, or columns where they are fewer, are orthogonal and of one norm."""
    kinds = (nn.Conv2d, nn.Embedding, nn.Linear)
    return all(
        _is_orthogonal(raw_weight(m)) for m in checks.modules(trainer) if isinstance(m, kinds)
    )


def regularisation(trainer: AdversarialStep) -> bool:
    """The penalty is 0 for a diagonal matrix, and 1e-4 times what WWᵀ has beside its diagonal."""
    found = [p for p in trainer.players["G"].penalties if p.name == "orthogonal"]
    if not found:
        return False
    layer = nn.Linear(3, 3)
    network = Plain(layer)
    nothing = torch.zeros(1)
    inputs = PenaltyInputs(network, network, nothing, nothing, nothing, None)
    values = []
    for W in (torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.ones(3, 3)):
        layer.weight.data.copy_(W)
        values.append(found[0](inputs).item())
    # ones: six products of different rows, each 3
    return values[0] == 0 and abs(values[1] - 1e-4 * 6 * 3**2) < 1e-8


def adam(trainer: AdversarialStep) -> bool:
    """Adam's β₁ = 0, β₂ = 0.999 and ε = 1e-6 on both sides."""
    groups = [checks.param_group(trainer, side) for side in "GD"]
    return all(group["betas"] == (0.0, 0.999) and group["eps"] == 1e-6 for group in groups)


def learning_rates(trainer: AdversarialStep) -> bool:
    """D learns four times as fast as G."""
    return [checks.param_group(trainer, side)["lr"] for side in "GD"] == [5e-5, 2e-4]


def two_to_one(trainer: AdversarialStep) -> bool:
    """Two steps of D before each of G."""
    D, G = trainer.players["D"], trainer.players["G"]
    return all(D.steps(i) == 2 and G.steps(i) == 1 for i in (0, 1000))


def average(trainer: AdversarialStep) -> bool:
    """What is sampled from and exported is the average of G's weights."""
    return trainer.ema is not None and trainer.generator() is trainer.ema.module


def standing(trainer: AdversarialStep) -> bool:
    """They differ from the running statistics, which stay; the other buffers are the same."""
    generator = trainer.generator()
    before = [b.clone() for b in generator.buffers()]
    ours = dict(_standing(trainer).named_buffers())
    if not _equal(before, generator.buffers()):
        return False
    return all(
        torch.equal(ours[name], theirs) != name.endswith(("running_mean", "running_var"))
        for name, theirs in generator.named_buffers()
        if not name.endswith("num_batches_tracked")
    )


def standing_repeats(trainer: AdversarialStep) -> bool:
    """Measured twice they are the same, and torch's random state is what it was."""
    found, states = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(torch.get_rng_state())
        found.append(list(_standing(trainer).buffers()))
        states.append(torch.get_rng_state())
    return _equal(*found) and _equal(states[::2], states[1::2])


def truncation(trainer: AdversarialStep) -> bool:
    """Z can be truncated, and what lies beyond the threshold isn't moved to it."""
    if trainer.latent.truncation is None:
        return False
    z = np.abs(latents(trainer.latent, range(16), threshold=0.5))
    return bool((z < 0.5).all())


def _is_plain_without_condition(norm: ProjectedBatchNorm2d) -> bool:
    x = torch.randn(3, norm.gain.out_features, 4, 4)
    nothing = torch.zeros(3, norm.gain.in_features)
    return torch.allclose(norm(x, nothing), norm.norm(x), atol=1e-5)


def _standing(trainer: AdversarialStep) -> nn.Module:
    D: Any = trainer.raw_D
    classes = tuple(map(str, range(D.head.embedding.num_embeddings)))
    generator = ServedGenerator(trainer.generator(), (trainer.latent, LabelInput(classes=classes)))
    return standing_statistics(generator, batches=2, batch_size=4).network


@torch.no_grad()
def _is_orthogonal(weight: Tensor) -> bool:
    W = weight.flatten(1)
    gram = W @ W.T if len(W) <= W.shape[1] else W.T @ W
    scale = gram.diagonal().mean()
    return bool((gram / scale - torch.eye(len(gram))).abs().max() < 1e-4)


def _equal(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
