"""DCGAN's configuration and trainer: data for ``AdversarialStep``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from gan_core import AdversarialConfig
from gan_core.card import LatentInput
from gan_core.export import ServedGenerator
from gan_core.losses import NonSaturating
from gan_core.toolbox import Recipe
from gan_core.variant import require_power_of_two

from .networks import Discriminator, Generator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from gan_core.trainer import AdversarialStep

__all__ = ["DCGANConfig", "build", "served"]


class DCGANConfig(AdversarialConfig):
    """The paper's settings, but for the moving average of the weights, which it hadn't."""

    batch_size: int = Field(default=128, ge=2)
    """Paper: 128."""
    z_dim: int = Field(default=100, ge=1)
    """Length of z. Paper: 100."""
    z_distribution: Literal["normal", "uniform"] = "uniform"
    """Prior of z: uniform on [-1, 1] (paper) or standard normal."""
    width: int = Field(default=128, ge=4)
    """Channels next to the image; doubles at each halving of the side. Paper: 128."""
    lr_G: float = Field(default=2e-4, gt=0)
    """Adam's learning rate of G. Paper: 2e-4."""
    lr_D: float = Field(default=2e-4, gt=0)
    """Adam's learning rate of D. Paper: 2e-4."""
    beta1: float = Field(default=0.5, ge=0, lt=1)
    """Adam's momentum. Paper: 0.5."""

    @model_validator(mode="after")
    def _side_can_be_halved(self) -> Self:
        require_power_of_two(self.resolution_px)
        return self

    def latent(self) -> LatentInput:
        """The prior of z, in training and when served."""
        return LatentInput(dim=self.z_dim, distribution=self.z_distribution)


def build(config: DCGANConfig, accelerator: Accelerator) -> AdversarialStep:
    """A trainer with fresh weights."""
    side, channels = config.resolution_px, config.channels
    return Recipe(
        G=Generator(config.z_dim, config.width, side, channels),
        D=Discriminator(config.width, side, channels, config.minibatch),
        loss=NonSaturating(config.real_target),
        latent=config.latent(),
    ).trainer(config, accelerator)


def served(generator: nn.Module, config: DCGANConfig) -> ServedGenerator:
    """Z in, image out."""
    return ServedGenerator(generator, inputs=(config.latent(),))
