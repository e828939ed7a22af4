"""DCGAN's configuration and trainer: data for ``AdversarialStep``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator
from torch.optim import Adam

from gan_core import TrainConfig
from gan_core.card import LatentInput
from gan_core.export import ServedGenerator
from gan_core.losses import NonSaturating
from gan_core.stabilisers import EMA, InstanceNoise, MonitorGradients, Stabiliser
from gan_core.trainer import AdversarialStep, Player

from .networks import Discriminator, Generator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

__all__ = ["DCGANConfig", "build", "served"]


class DCGANConfig(TrainConfig):
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
    real_target: float = Field(default=1.0, gt=0.5, le=1)
    """Target of D for real images; 0.9 is one-sided label smoothing. Paper: 1."""
    instance_noise: float = Field(default=0.0, ge=0)
    """σ of the noise on all that D sees, at the start. Paper: 0."""
    instance_noise_kimg: float = Field(default=100.0, gt=0)
    """Instance noise falls linearly to 0 over so many kimg."""

    @model_validator(mode="after")
    def _side_is_a_power_of_two(self) -> Self:
        if self.resolution_px & (self.resolution_px - 1):
            raise ValueError(f"resolution_px {self.resolution_px} is not a power of two")
        return self

    def latent(self) -> LatentInput:
        """The prior of z, in training and when served."""
        return LatentInput(dim=self.z_dim, distribution=self.z_distribution)


def build(config: DCGANConfig, accelerator: Accelerator) -> AdversarialStep:
    """A trainer with fresh weights."""
    side, channels = config.resolution_px, config.channels
    G = Generator(config.z_dim, config.width, side, channels).to(accelerator.device)
    D = Discriminator(config.width, side, channels).to(accelerator.device)
    stabilisers: list[Stabiliser] = [MonitorGradients(G=G, D=D)]
    if config.instance_noise:
        stabilisers.append(InstanceNoise(config.instance_noise, config.instance_noise_kimg))
    return AdversarialStep(
        Player(G, Adam(G.parameters(), config.lr_G, (config.beta1, 0.999))),
        Player(D, Adam(D.parameters(), config.lr_D, (config.beta1, 0.999))),
        loss=NonSaturating(config.real_target),
        latent=config.latent(),
        accelerator=accelerator,
        stabilisers=stabilisers,
        ema=EMA(G, config.ema_halflife_kimg) if config.ema_halflife_kimg else None,
    )


def served(generator: nn.Module, config: DCGANConfig) -> ServedGenerator:
    """Z in, image out."""
    return ServedGenerator(generator, inputs=(config.latent(),))
