"""What the paper says of WGAN's game and training, as tests of a built trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gan_core.data import Batch
from gan_core.theory import critic_estimates_w1
from gan_core.trainer import sample_prior

from .trainer import WGANConfig

if TYPE_CHECKING:
    from gan_core.trainer import AdversarialStep

__all__ = [
    "clipped",
    "critic_steps",
    "estimates_w1",
    "linear_loss",
    "no_norm_in_critic",
    "rmsprop",
]

CLIP = 0.01


def linear_loss(trainer: AdversarialStep) -> bool:
    """The losses' slopes in the logits are ±1, however certain the critic is."""
    real, fake, fooling = (torch.tensor([-20.0, 0.0, 20.0], requires_grad=True) for _ in range(3))
    losses = trainer.loss.discriminator(real, fake), trainer.loss.generator(fooling, None)
    slopes = torch.autograd.grad([loss.sum() for loss in losses], [real, fake, fooling])
    return torch.equal(torch.stack(slopes), torch.tensor([[-1.0], [1.0], [-1.0]]).expand(3, 3))


def no_norm_in_critic(trainer: AdversarialStep) -> bool:
    """The critic has no BatchNorm, LayerNorm or other norm."""
    return not any("Norm" in type(module).__name__ for module in trainer.raw_D.modules())


def clipped(trainer: AdversarialStep) -> bool:
    """Two steps leave none of the critic's parameters outside [−c, c]."""
    with torch.no_grad():
        images = trainer.raw_G(sample_prior(trainer.latent, 4, trainer.accelerator.device))
    for _ in range(2):
        trainer.step(Batch(images))
    return all(bool((p.abs() <= CLIP).all()) for p in trainer.raw_D.parameters())


def estimates_w1(trainer: AdversarialStep) -> bool:
    """Up to the constant that the limit sets, the clipped critic estimates W₁ where it is known."""
    return critic_estimates_w1(trainer.loss, clip=CLIP)


def rmsprop(trainer: AdversarialStep) -> bool:
    """Both networks are trained by RMSProp at 5e-5 without momentum."""
    optimizers = [player.optimizer for player in trainer.players.values()]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return all(isinstance(optimizer, torch.optim.RMSprop) for optimizer in optimizers) and all(
        (group["initial_lr"], group["momentum"]) == (5e-5, 0) for group in groups
    )


def critic_steps(trainer: AdversarialStep) -> bool:
    """The trainer follows the configured rhythm, whose defaults are the authors'."""
    rhythm = [WGANConfig().critic_steps(g_steps) for g_steps in (0, 24, 25, 499, 500, 501)]
    followed = getattr(trainer.players["D"].steps, "__func__", None)
    return rhythm == [100, 100, 5, 5, 100, 5] and followed is WGANConfig.critic_steps
