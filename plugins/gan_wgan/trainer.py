"""WGAN's configuration and trainer: data for ``AdversarialStep``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from pydantic import Field, model_validator

from gan_core import AdversarialConfig
from gan_core.card import LatentInput
from gan_core.export import ServedGenerator
from gan_core.layers import PointDiscriminator, PointGenerator
from gan_core.losses import Wasserstein
from gan_core.stabilisers import ClipWeights
from gan_core.toolbox import Recipe
from gan_core.variant import is_points, require_power_of_two

from .networks import Critic, Generator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from gan_core.trainer import AdversarialStep

__all__ = ["WGANConfig", "build", "served"]


class WGANConfig(AdversarialConfig):
    """The paper's settings, but for the moving average of the weights, which it hadn't.

    The longer rhythm of critic steps at first and now and then is of the authors' code.
    """

    batch_size: int = Field(default=64, ge=2)
    """Paper: 64."""
    z_dim: int = Field(default=100, ge=1)
    """Length of z, standard normal. Authors' code: 100."""
    width: int = Field(default=64, ge=4)
    """Channels next to the image; doubles at each halving of the side. Authors' code: 64."""
    clip: float = Field(default=0.01, gt=0)
    """c: the critic's parameters are clamped to [-c, c] after each of its steps. Paper: 0.01."""
    lr_G: float = Field(default=5e-5, gt=0)
    """RMSProp's learning rate of G. Paper: 5e-5."""
    lr_D: float = Field(default=5e-5, gt=0)
    """RMSProp's learning rate of the critic. Paper: 5e-5."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """RMSProp's momentum. Paper: 0, because momentum made the critic's training unstable."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """RMSProp's decay of squared gradients. Authors' code: 0.99."""
    n_critic: int = Field(default=5, ge=1)
    """Critic steps before each G step. Paper: 5."""
    n_critic_warmup: int = Field(default=100, ge=1)
    """Critic steps instead of n_critic while the critic is brought to its best.
    Authors' code: 100."""
    warmup_g_steps: int = Field(default=25, ge=0)
    """So many first G steps get n_critic_warmup critic steps each. Authors' code: 25."""
    warmup_every: int = Field(default=500, ge=1)
    """So does every G step whose number, from 0, is a multiple of this. Authors' code: 500."""

    @model_validator(mode="after")
    def _side_can_be_halved(self) -> Self:
        if not is_points(self):
            require_power_of_two(self.resolution_px)
        return self

    @model_validator(mode="after")
    def _clipping_counts(self) -> Self:
        if self.spectral_norm:
            raise ValueError("spectral_norm undoes the clipping: it divides by the weights' size")
        return self

    def latent(self) -> LatentInput:
        """The prior of z, in training and when served."""
        return LatentInput(dim=self.z_dim)

    def critic_steps(self, g_steps: int) -> int:
        """Critic steps before the next G step, after ``g_steps`` of them."""
        thorough = g_steps < self.warmup_g_steps or g_steps % self.warmup_every == 0
        return self.n_critic_warmup if thorough else self.n_critic


def build(config: WGANConfig, accelerator: Accelerator) -> AdversarialStep:
    """A trainer with fresh weights."""
    G, critic = _networks(config)
    return Recipe(
        G=G,
        D=critic,
        loss=Wasserstein(),
        latent=config.latent(),
        optimizer=lambda parameters, lr: torch.optim.RMSprop(
            parameters, lr, alpha=config.beta2, momentum=config.beta1
        ),
        stabilisers=[ClipWeights(critic, config.clip)],
        n_critic=config.critic_steps,
    ).trainer(config, accelerator)


def served(generator: nn.Module, config: WGANConfig) -> ServedGenerator:
    """Z in, image out."""
    return ServedGenerator(generator, inputs=(config.latent(),))


def _networks(config: WGANConfig) -> tuple[nn.Module, nn.Module]:
    if is_points(config):
        return PointGenerator(config.z_dim), PointDiscriminator(config.minibatch)
    side, channels = config.resolution_px, config.channels
    return (
        Generator(config.z_dim, config.width, side, channels),
        Critic(config.width, side, channels, config.minibatch),
    )
