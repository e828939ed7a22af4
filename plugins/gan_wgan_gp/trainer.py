"""WGAN-GP's configuration and trainer: data for ``AdversarialStep``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from gan_core import AdversarialConfig
from gan_core.card import LatentInput
from gan_core.export import ServedGenerator
from gan_core.layers import PointDiscriminator, PointGenerator
from gan_core.losses import Wasserstein
from gan_core.penalties import gradient_penalty
from gan_core.toolbox import Recipe
from gan_core.variant import is_points, require_power_of_two

from .networks import Critic, Generator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from gan_core.trainer import AdversarialStep

__all__ = ["WGANGPConfig", "build", "served"]


class WGANGPConfig(AdversarialConfig):
    """The authors' settings for CIFAR-10, where they trained for 32 000 kimg.

    The moving average of the weights isn't theirs.
    """

    batch_size: int = Field(default=64, ge=2)
    """Images per critic step. Authors' code: 64."""
    batch_size_G: int = Field(default=128, ge=2)
    """Images that G makes in each of its own steps. Authors' code: 128."""
    z_dim: int = Field(default=128, ge=1)
    """Length of z, standard normal. Paper: 128."""
    width: int = Field(default=128, ge=4)
    """Channels of every feature map. Paper: 128."""
    gp_weight: float = Field(default=10.0, gt=0)
    """λ of the gradient penalty λ·(‖∇D‖ − 1)². Paper: 10. Authors' code for points in the plane:
    0.1."""
    lr_G: float = Field(default=2e-4, gt=0)
    """Adam's learning rate of G. Authors' code: 2e-4."""
    lr_D: float = Field(default=2e-4, gt=0)
    """Adam's learning rate of the critic. Authors' code: 2e-4."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's momentum. Paper: 0."""
    beta2: float = Field(default=0.9, ge=0, lt=1)
    """Adam's decay of squared gradients. Paper: 0.9."""
    lr_schedule: Literal["constant", "linear", "exponential", "cosine"] = "linear"
    """How both learning rates change. Authors' code: linearly to 0 over the budget."""
    n_critic: int = Field(default=5, ge=1)
    """Critic steps before each G step. Paper: 5."""

    @model_validator(mode="after")
    def _side_can_be_halved(self) -> Self:
        if not is_points(self):
            require_power_of_two(self.resolution_px)
        return self

    def latent(self) -> LatentInput:
        """The prior of z, in training and when served."""
        return LatentInput(dim=self.z_dim)


def build(config: WGANGPConfig, accelerator: Accelerator) -> AdversarialStep:
    """A trainer with fresh weights."""
    G, critic = _networks(config)
    return Recipe(
        G=G,
        D=critic,
        loss=Wasserstein(),
        latent=config.latent(),
        penalties_D=[gradient_penalty(config.gp_weight)],
        batch_size_G=config.batch_size_G,
    ).trainer(config, accelerator)


def served(generator: nn.Module, config: WGANGPConfig) -> ServedGenerator:
    """Z in, image out."""
    return ServedGenerator(generator, inputs=(config.latent(),))


def _networks(config: WGANGPConfig) -> tuple[nn.Module, nn.Module]:
    if is_points(config):
        return PointGenerator(config.z_dim), PointDiscriminator(config.minibatch)
    side, channels = config.resolution_px, config.channels
    return (
        Generator(config.z_dim, config.width, side, channels),
        Critic(config.width, side, channels, config.minibatch),
    )
