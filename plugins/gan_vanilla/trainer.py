"""The vanilla GAN's configuration and trainer: data for ``AdversarialStep``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from torch.optim import Adam

from gan_core import TrainConfig
from gan_core.card import LatentInput
from gan_core.export import ServedGenerator
from gan_core.losses import Minimax, NonSaturating
from gan_core.stabilisers import EMA, MonitorGradients
from gan_core.trainer import AdversarialStep, Player

from .networks import Discriminator, Generator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

__all__ = ["VanillaConfig", "build", "served"]


class VanillaConfig(TrainConfig):
    """The paper's game with the networks and optimiser in use today.

    Paper: maxout and dropout in D, ReLU and sigmoid in G, SGD with momentum.
    """

    z_dim: int = Field(default=100, ge=1)
    """Length of z, standard normal. Paper: 100."""
    widths: tuple[int, ...] = Field(default=(256, 512, 1024), min_length=1)
    """Hidden units of G from z outwards; D has all but the widest, in reverse."""
    lr: float = Field(default=2e-4, gt=0)
    """Adam's learning rate of both networks."""
    beta1: float = Field(default=0.5, ge=0, lt=1)
    """Adam's momentum."""
    minimax: bool = False
    """G minimises log(1 − D(G(z))), the paper's equation 1, which saturates early on."""
    real_target: float = Field(default=1.0, gt=0.5, le=1)
    """Target of D for real images; 0.9 is one-sided label smoothing. Paper: 1."""

    def latent(self) -> LatentInput:
        """The prior of z, in training and when served."""
        return LatentInput(dim=self.z_dim)


def build(config: VanillaConfig, accelerator: Accelerator) -> AdversarialStep:
    """A trainer with fresh weights."""
    shape = (config.channels, config.resolution_px, config.resolution_px)
    widths = config.widths
    G = Generator(config.z_dim, widths, shape).to(accelerator.device)
    D = Discriminator((widths[:-1] or widths)[::-1], shape).to(accelerator.device)
    loss = Minimax if config.minimax else NonSaturating
    return AdversarialStep(
        Player(G, Adam(G.parameters(), config.lr, (config.beta1, 0.999))),
        Player(D, Adam(D.parameters(), config.lr, (config.beta1, 0.999))),
        loss=loss(config.real_target),
        latent=config.latent(),
        accelerator=accelerator,
        stabilisers=[MonitorGradients(G=G, D=D)],
        ema=EMA(G, config.ema_halflife_kimg) if config.ema_halflife_kimg else None,
    )


def served(generator: nn.Module, config: VanillaConfig) -> ServedGenerator:
    """Z in, image out."""
    return ServedGenerator(generator, inputs=(config.latent(),))
