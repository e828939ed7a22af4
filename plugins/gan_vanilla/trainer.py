"""The vanilla GAN's configuration and trainer: data for ``AdversarialStep``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gan_core import AdversarialConfig
from gan_core.card import LatentInput
from gan_core.export import ServedGenerator
from gan_core.layers import PointDiscriminator, PointGenerator
from gan_core.losses import Minimax, NonSaturating
from gan_core.toolbox import Recipe
from gan_core.variant import is_points

from .networks import Discriminator, Generator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from gan_core.trainer import AdversarialStep

__all__ = ["VanillaConfig", "build", "served"]


class VanillaConfig(AdversarialConfig):
    """The paper's game with the networks and optimiser in use today.

    Paper: maxout and dropout in D, ReLU and sigmoid in G, SGD with momentum.
    """

    z_dim: int = Field(default=100, ge=1)
    """Length of z, standard normal. Paper: 100."""
    widths: tuple[int, ...] = Field(default=(256, 512, 1024), min_length=1)
    """Hidden units of G from z outwards; D has all but the widest, in reverse. Not for points."""
    minimax: bool = False
    """G minimises log(1 − D(G(z))), the paper's equation 1, which saturates early on."""

    def latent(self) -> LatentInput:
        """The prior of z, in training and when served."""
        return LatentInput(dim=self.z_dim)


def build(config: VanillaConfig, accelerator: Accelerator) -> AdversarialStep:
    """A trainer with fresh weights."""
    G: nn.Module = PointGenerator(config.z_dim, norm=False)
    D: nn.Module = PointDiscriminator(config.minibatch)
    if not is_points(config):
        shape = (config.channels, config.resolution_px, config.resolution_px)
        G = Generator(config.z_dim, config.widths, shape)
        D = Discriminator((config.widths[:-1] or config.widths)[::-1], shape, config.minibatch)
    loss = Minimax if config.minimax else NonSaturating
    return Recipe(
        G=G,
        D=D,
        loss=loss(config.real_target),
        latent=config.latent(),
    ).trainer(config, accelerator)


def served(generator: nn.Module, config: VanillaConfig) -> ServedGenerator:
    """Z in, image out."""
    return ServedGenerator(generator, inputs=(config.latent(),))
