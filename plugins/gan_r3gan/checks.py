"""What the paper says of R3GAN's loss, networks and schedules, as tests of a built trainer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from gan_core.checks import modules, param_group

from .networks import SLOPE, Block, Down, Up

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.penalties import Penalty
    from gan_core.schedules import Schedule
    from gan_core.trainer import AdversarialStep

__all__ = [
    "betas",
    "bilinear",
    "grouped",
    "identity_blocks",
    "no_norm",
    "one_cosine",
    "relativistic",
    "scaled_weights",
    "two_penalties",
]

LONG_AFTER_KIMG = 1e9


def no_norm(trainer: AdversarialStep) -> bool:
    """Neither network normalises activations or weights."""
    return not any(
        "Norm" in type(module).__name__ or hasattr(module, "parametrizations")
        for module in modules(trainer)
    )


def relativistic(trainer: AdversarialStep) -> bool:
    """A constant added to all logits changes neither loss, and exchanging them swaps the two."""
    loss = trainer.loss
    real, fake = torch.tensor([0.5, -1.0, 3.0]), torch.tensor([2.0, 0.0, -0.5])
    D, G = loss.discriminator(real, fake), loss.generator(fake, real)
    return (
        loss.needs_real
        and torch.allclose(D, loss.discriminator(real + 7, fake + 7))
        and torch.allclose(G, loss.generator(fake + 7, real + 7))
        and torch.allclose(G, loss.discriminator(fake, real))
    )


def two_penalties(trainer: AdversarialStep) -> bool:
    """D's loss has R1 and R2, never skipped, whose weights agree at all times."""
    penalties = trainer.players["D"].penalties
    gammas = [_weight(penalty) for penalty in penalties]
    times = (0.0, 0.01, 0.02, LONG_AFTER_KIMG)
    return (
        [penalty.name for penalty in penalties] == ["r1", "r2"]
        and all(penalty.interval == 1 for penalty in penalties)
        and all(gammas[0](kimg) == gammas[1](kimg) > 0 for kimg in times)
    )


def identity_blocks(trainer: AdversarialStep) -> bool:
    """The last convolution of every residual branch is 0."""
    last = [_convolutions(block)[-1].weight for block in _blocks(trainer)]
    return bool(last) and all(weight.count_nonzero() == 0 for weight in last)


def scaled_weights(trainer: AdversarialStep) -> bool:
    """Other convolutions of a branch: He et al.'s deviation × L^(−1/4), within six errors."""
    return all(
        _within_six_errors(conv.weight, len(blocks))
        for network in (trainer.raw_G, trainer.raw_D)
        for blocks in [[m for m in network.modules() if isinstance(m, Block)]]
        for block in blocks
        for conv in _convolutions(block)[:-1]
    )


def grouped(trainer: AdversarialStep) -> bool:
    """All 3×3 convolutions have more than one group, and groups of one size."""
    convs = [m for block in _blocks(trainer) for m in _convolutions(block) if m.kernel_size[0] == 3]
    sizes = {conv.in_channels // conv.groups for conv in convs}
    return len(sizes) == 1 and all(conv.groups > 1 for conv in convs)


def bilinear(trainer: AdversarialStep) -> bool:
    """An impulse becomes the kernel, and what is constant stays so inside the border."""
    ups = [m for m in trainer.raw_G.modules() if isinstance(m, Up)]
    downs = [m for m in trainer.raw_D.modules() if isinstance(m, Down)]
    return (
        len(ups) > 0
        and len(ups) == len(downs)
        and all(_enlarges_bilinearly(up) for up in ups)
        and all(_reduces_bilinearly(down) for down in downs)
    )


def betas(trainer: AdversarialStep) -> bool:
    """Adam's β₁ is 0; its β₂ ends higher than it starts."""
    rising = [player.beta2 for player in trainer.players.values()]
    return all(param_group(trainer, side)["betas"][0] == 0 for side in "GD") and all(
        beta2 is not None and beta2(0.0) < beta2(LONG_AFTER_KIMG) for beta2 in rising
    )


def one_cosine(trainer: AdversarialStep) -> bool:
    """Learning rates and γ fall, and β₂ changes, in step along half a period of a cosine."""
    players = trainer.players.values()
    gammas = [_weight(penalty) for penalty in trainer.players["D"].penalties]
    falling = [*gammas, *(player.lr_factor for player in players)]
    half = _halfway(gammas[0])
    return all(_falls(one) for one in falling) and all(
        _is_cosine(one, half) for one in (*falling, *(player.beta2 for player in players))
    )


def _blocks(trainer: AdversarialStep) -> list[Block]:
    return [module for module in modules(trainer) if isinstance(module, Block)]


def _convolutions(block: Block) -> list[nn.Conv2d]:
    return [layer for layer in block.branch if isinstance(layer, nn.Conv2d)]


def _within_six_errors(weight: Tensor, blocks: int) -> bool:
    expected = math.sqrt(2 / (1 + SLOPE**2) / weight[0].numel()) * blocks**-0.25
    return bool((weight.std() / expected - 1).abs() < 6 / math.sqrt(2 * weight.numel()))


def _enlarges_bilinearly(up: Up) -> bool:
    impulse = torch.zeros(1, 1, 4, 4)
    impulse[0, 0, 1, 1] = 1
    found = up(impulse)[0, 0, 1:4, 1:4]
    inside = up(torch.ones(2, 3, 4, 4))[:, :, 1:-1, 1:-1]
    return torch.allclose(found, _kernel() / 4) and torch.allclose(inside, torch.ones_like(inside))


def _reduces_bilinearly(down: Down) -> bool:
    images = torch.zeros(9, 1, 4, 4)
    for i in range(9):  # an impulse at each place of the 3×3 px that make the pixel (1, 1)
        images[i, 0, 1 + i // 3, 1 + i % 3] = 1
    found = down(images)[:, 0, 1, 1].unflatten(0, (3, 3))
    inside = down(torch.ones(2, 3, 8, 8))[:, :, 1:, 1:]
    return torch.allclose(found, _kernel() / 16) and torch.allclose(inside, torch.ones_like(inside))


def _kernel() -> Tensor:
    taps = torch.tensor([1.0, 2.0, 1.0])
    return torch.outer(taps, taps)


def _weight(penalty: Penalty) -> Schedule:
    weight = penalty.weight
    return weight if callable(weight) else lambda kimg: weight


def _falls(schedule: Schedule | None) -> bool:
    return schedule is not None and schedule(0.0) > schedule(LONG_AFTER_KIMG)


def _is_cosine(schedule: Schedule | None, half: float) -> bool:
    """Whether it changes as (1 − cos πt)/2 does, and is half done after ``half`` kimg."""
    if schedule is None or schedule(0.0) == schedule(LONG_AFTER_KIMG):
        return False
    return all(
        math.isclose(
            _progress(schedule, t * half), (1 - math.cos(math.pi * t / 2)) / 2, abs_tol=1e-6
        )
        for t in (0.25, 0.5, 1.0, 1.5, 2.0)
    )


def _progress(schedule: Schedule, kimg: float) -> float:
    """How far it has come, from 0 at the start to 1."""
    start, end = schedule(0.0), schedule(LONG_AFTER_KIMG)
    return (schedule(kimg) - start) / (end - start)


def _halfway(schedule: Schedule) -> float:
    """When it has come half its way, by bisection."""
    early, late = 0.0, LONG_AFTER_KIMG
    for _ in range(200):
        middle = (early + late) / 2
        early, late = (middle, late) if _progress(schedule, middle) < 0.5 else (early, middle)
    return early
