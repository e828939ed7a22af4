"""The conditional GAN's configuration and trainer: data for ``AdversarialStep``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from gan_core import AdversarialConfig
from gan_core.card import LabelInput, LatentInput
from gan_core.errors import ConfigError
from gan_core.export import ServedGenerator
from gan_core.losses import NonSaturating
from gan_core.toolbox import Recipe
from gan_core.variant import require_power_of_two

from .networks import ConvDiscriminator, ConvGenerator, Discriminator, Generator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from gan_core.trainer import AdversarialStep

__all__ = ["CGANConfig", "build", "served"]


class CGANConfig(AdversarialConfig):
    """The paper's game and layers with the activations and optimiser in use today.

    Paper: SGD at 0.1, divided by 1.00004 at each update down to 1e-6, with momentum from 0.5
    to 0.7; dropout of 0.5 in both networks. Here: Adam, because it needs no such schedule.
    """

    batch_size: int = Field(default=100, ge=2)
    """Paper: 100."""
    z_dim: int = Field(default=100, ge=1)
    """Length of z, standard normal. Paper: 100, uniform on the unit cube."""
    architecture: Literal["mlp", "conv"] = "mlp"
    """Perceptrons (paper), or convolutions in DCGAN's shape, for sides that are powers of two."""
    widths_G: tuple[PositiveInt, PositiveInt, PositiveInt] = (200, 1000, 1200)
    """mlp: units of G's layers of z, of the label, and of both. Paper: 200, 1000, 1200."""
    widths_D: tuple[PositiveInt, PositiveInt, PositiveInt] = (1200, 250, 960)
    """mlp: units of D's layers of the image, of the label, and of both. Paper: 240, 50 and 240
    maxout units of 5, 5 and 4 linear pieces; these are as many pieces."""
    width: int = Field(default=64, ge=4)
    """conv: channels next to the image; doubles at each halving of the side."""
    projection: bool = False
    """The label enters D by an inner product with its features (Miyato & Koyama 2018) instead of
    beside the image, and G's convolutions also by a BatchNorm per class."""
    lr_G: float = Field(default=2e-4, gt=0)
    """Adam's learning rate of G. Paper: 0.1, of SGD."""
    lr_D: float = Field(default=2e-4, gt=0)
    """Adam's learning rate of D. Paper: 0.1, of SGD."""
    beta1: float = Field(default=0.5, ge=0, lt=1)
    """Adam's momentum. Paper: 0.5 rising to 0.7, of SGD."""

    @model_validator(mode="after")
    def _side_can_be_halved(self) -> Self:
        if self.architecture == "conv":
            require_power_of_two(self.resolution_px)
        return self

    def latent(self) -> LatentInput:
        """The prior of z, in training and when served."""
        return LatentInput(dim=self.z_dim)


def build(config: CGANConfig, accelerator: Accelerator) -> AdversarialStep:
    """A trainer with fresh weights.

    Raises:
        ConfigError: the data has no classes.
    """
    if not config.classes:
        raise ConfigError("cgan needs labelled data: folder:PATH with a subfolder per class, say")
    G, D = _networks(config)
    return Recipe(G=G, D=D, loss=NonSaturating(config.real_target), latent=config.latent()).trainer(
        config, accelerator
    )


def served(generator: nn.Module, config: CGANConfig) -> ServedGenerator:
    """Z and a class in, image out."""
    label = LabelInput(classes=config.classes)
    return ServedGenerator(generator, inputs=(config.latent(), label))


def _networks(config: CGANConfig) -> tuple[nn.Module, nn.Module]:
    side, channels, classes = config.resolution_px, config.channels, len(config.classes)
    projection, minibatch = config.projection, config.minibatch
    if config.architecture == "conv":
        return (
            ConvGenerator(
                config.z_dim, config.width, classes, side, channels, conditional_norm=projection
            ),
            ConvDiscriminator(
                config.width, classes, side, channels, projection=projection, minibatch=minibatch
            ),
        )
    shape = (channels, side, side)
    return (
        Generator(config.z_dim, config.widths_G, classes, shape),
        Discriminator(config.widths_D, classes, shape, projection=projection, minibatch=minibatch),
    )
