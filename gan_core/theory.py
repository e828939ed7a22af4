"""Theory made executable: a trained network beside the optimum that a paper proves.

What is proved of a game can be measured: train a small network with a loss and its penalties on
samples of two densities, and compare it with the formula (``gan_core.densities``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .densities import (
    Array,
    Estimate,
    Function,
    Mixture,
    game_value,
    js_divergence,
    js_estimate,
    js_from_logits,
    kl_divergence,
    kl_estimate,
    mean_gap,
    optimal_discriminator,
    optimal_logits,
    probabilities,
    wasserstein1,
)
from .losses import AdversarialLoss
from .networks import Plain
from .penalties import Penalty, PenaltyInputs
from .stabilisers import ClipWeights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Array",
    "Estimate",
    "Function",
    "Mixture",
    "critic_estimates_w1",
    "discriminator_is_optimal",
    "game_value",
    "js_divergence",
    "js_estimate",
    "js_from_logits",
    "kl_divergence",
    "kl_estimate",
    "mean_gap",
    "optimal_discriminator",
    "optimal_logits",
    "probabilities",
    "trained_critic",
    "trained_discriminator",
    "wasserstein1",
]

BATCH = 256
"""Samples of each density per training step."""
WIDTH = 64
"""Units of each of a trained network's two hidden layers."""


def trained_discriminator(
    data: Mixture, generated: Mixture, loss: AdversarialLoss, *, steps: int = 400, seed: int = 0
) -> Function:
    """Logits of a small perceptron trained with a loss on fresh samples of two densities.

    A function of its arguments alone, which leaves every random state as it was.
    """
    rng = np.random.default_rng(seed)
    real, fake = (_batches(p.sample(steps * BATCH, rng), steps) for p in (data, generated))
    network = _trained(real, fake, loss, seed=seed)
    return lambda x: _logits(network, x)


def trained_critic(
    a: Array,
    b: Array,
    loss: AdversarialLoss,
    penalties: Sequence[Penalty] = (),
    *,
    clip: float = 0.0,
    steps: int = 300,
    seed: int = 0,
) -> Function:
    """Logits f of a small critic trained on two sample sets [N, d] and [M, d].

    Its estimate of W₁ is E f(a) − E f(b): by the duality of Kantorovich and Rubinstein W₁ is the
    largest such difference of any 1-Lipschitz f (Arjovsky et al. 2017). A gradient penalty of
    weight λ lets slopes exceed 1: between two points W₁ apart, s·W₁ − λ(s − 1)² is largest at
    s = 1 + W₁/2λ, so the estimate is about W₁·(1 + W₁/2λ). ``clip`` > 0 clamps the weights to
    ±clip; the estimate is then W₁ times an unknown factor. Leaves every random state as it was.
    """
    rng = np.random.default_rng(seed)
    real, fake = (_batches(x[rng.integers(len(x), size=steps * BATCH)], steps) for x in (a, b))
    network = _trained(real, fake, loss, penalties, clip=clip, seed=seed)
    return lambda x: _logits(network, x)


def discriminator_is_optimal(loss: AdversarialLoss, tolerance: float = 0.03) -> bool:
    """Whether a D trained with a loss is t·p_data/(p_data + p_g), t its target for real images.

    For a plugin's paper checks, where σ(logits) are probabilities; half a second.
    ``tolerance`` is for ``mean_gap``: sampling leaves 0.015, targets of 0.9 for 1 make 0.05.
    """
    data, generated = Mixture([[-1.5], [1.5]], 0.5), Mixture([[0.0]])
    t, best = getattr(loss, "real_target", 1.0), optimal_discriminator(data, generated)
    logits = trained_discriminator(data, generated, loss)
    gap = mean_gap(data, generated, lambda x: probabilities(logits(x)), lambda x: t * best(x))
    return gap < tolerance


def critic_estimates_w1(
    loss: AdversarialLoss,
    penalties: Sequence[Penalty] = (),
    *,
    clip: float = 0.0,
    tolerance: float = 0.15,
) -> bool:
    """Whether a critic's estimate, and minus its loss, are W₁ of two shifts in the plane.

    For a plugin's paper checks, with its own loss and penalties or clipping; a second. With
    ``clip`` > 0 both need only be proportional to W₁. ``tolerance`` is a share of W₁ (or of the
    factor); the default leaves room for what a penalty of weight 10 adds, see ``trained_critic``.
    """
    noise = 0.5 * np.random.default_rng(0).standard_normal((500, 2))
    ratios = []
    for shift in (0.5, 1.5):
        half = np.array([shift / 2, 0.0])
        a, b = noise + half, noise - half
        f = trained_critic(a, b, loss, penalties, clip=clip, steps=150)
        real, fake = torch.from_numpy(f(a)), torch.from_numpy(f(b))
        found = (real - fake).mean(), -loss.discriminator(real, fake).mean()
        ratios += [value.item() / wasserstein1(a, b) for value in found]
    factor = float(np.mean(ratios)) if clip else 1.0
    return factor > 0 and all(abs(ratio / factor - 1) < tolerance for ratio in ratios)


class _Perceptron(nn.Module):
    """Points as images of one pixel, [N, d, 1, 1] -> logits [N]."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        hidden = (nn.Linear(dimensions, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, WIDTH))
        self.body = nn.Sequential(nn.Flatten(), *hidden, nn.LeakyReLU(0.2))
        self.head = nn.Linear(WIDTH, 1)
        # Starts flat: on the line slope −1 is a local optimum of a two-sided gradient penalty,
        # where a critic that happens to start downhill would stay.
        nn.init.zeros_(self.head.weight)

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.body(images)).squeeze(1)
        return logits


def _trained(
    real: Tensor,
    fake: Tensor,
    loss: AdversarialLoss,
    penalties: Sequence[Penalty] = (),
    *,
    clip: float = 0.0,
    seed: int,
) -> _Perceptron:
    """A perceptron trained on batches [steps, N, d, 1, 1], its learning rate falling to 0."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs as well
        network = _Perceptron(real.shape[2])
        # steps must be small against the range of a clipped weight
        lr = min(0.01, clip / 10) if clip else 0.01
        optimizer = torch.optim.Adam(network.parameters(), lr, betas=(0.5, 0.9))
        for step, (x, y) in enumerate(zip(real, fake, strict=True)):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / len(real))
            value = loss.discriminator(network(x), network(y)).mean()
            # there is no generator, and penalties on D ask for none
            inputs = PenaltyInputs(Plain(network), Plain(network), x, y, y, None)
            due = [penalty for penalty in penalties if step % penalty.interval == 0]
            value = value + sum(penalty.interval * penalty(inputs) for penalty in due)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            if clip:
                ClipWeights(network, clip).after_update(network)
    return network


def _batches(points: Array, steps: int) -> Tensor:
    return torch.from_numpy(points).float().reshape(steps, BATCH, -1, 1, 1)


@torch.no_grad()
def _logits(network: nn.Module, x: Array) -> Array:
    logits: Array = network(torch.from_numpy(x).float()[:, :, None, None]).double().numpy()
    return logits
