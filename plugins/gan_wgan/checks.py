"""What the paper says of WGAN's game and training, as tests of a built trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gan_core.checks import own_images, param_group
from gan_core.theory import critic_estimates_w1

from .trainer import WGANConfig

if TYPE_CHECKING:
    from gan_core.trainer import AdversarialStep

__all__ = ["clipped", "critic_steps", "estimates_w1", "rmsprop"]

CLIP = 0.01


def clipped(trainer: AdversarialStep) -> bool:
    """Two steps leave none of the critic's parameters outside [−c, c]."""
    batch = own_images(trainer)
    for _ in range(2):
        trainer.step(batch)
    return all(bool((p.abs() <= CLIP).all()) for p in trainer.raw_D.parameters())


def estimates_w1(trainer: AdversarialStep) -> bool:
    """Up to the constant that the limit sets, the clipped critic estimates W₁ where it is known."""
    return critic_estimates_w1(trainer.loss, clip=CLIP)


def rmsprop(trainer: AdversarialStep) -> bool:
    """Both networks are trained by RMSProp at 5e-5 without momentum."""
    optimizers = [player.optimizer for player in trainer.players.values()]
    groups = [param_group(trainer, side) for side in "GD"]
    return all(isinstance(optimizer, torch.optim.RMSprop) for optimizer in optimizers) and all(
        (group["initial_lr"], group["momentum"]) == (5e-5, 0) for group in groups
    )


def critic_steps(trainer: AdversarialStep) -> bool:
    """The trainer follows the configured rhythm, whose defaults are the authors'."""
    rhythm = [WGANConfig().critic_steps(g_steps) for g_steps in (0, 24, 25, 499, 500, 501)]
    followed = getattr(trainer.players["D"].steps, "__func__", None)
    return rhythm == [100, 100, 5, 5, 100, 5] and followed is WGANConfig.critic_steps
