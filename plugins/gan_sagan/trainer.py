"""SAGAN's configuration and trainer: data for ``AdversarialStep``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from gan_core import AdversarialConfig
from gan_core.card import LabelInput, LatentInput
from gan_core.export import ServedGenerator
from gan_core.layers import PlainSelfAttention, SelfAttention
from gan_core.losses import Hinge
from gan_core.toolbox import Recipe
from gan_core.variant import require_power_of_two

from .networks import Architecture, Discriminator, Generator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from gan_core.trainer import AdversarialStep

__all__ = ["SAGANConfig", "build", "served"]

ATTENTION_PX = 32
ATTENTION = {"pooled": SelfAttention, "plain": PlainSelfAttention}


class SAGANConfig(AdversarialConfig):
    """The paper's settings, but for the moving average of the weights, which it hadn't.

    The images have classes or none: without, G's batch norms and D's judgement know of no class.
    """

    batch_size: int = Field(default=256, ge=2)
    """Paper: 256."""
    z_dim: int = Field(default=128, ge=1)
    """Length of z, which is standard normal. Authors' code: 128."""
    width: int = Field(default=64, ge=8)
    """Channels next to the image; doubles at each halving of the side, up to 16 times.
    Authors' code: 64."""
    attention_px: int | None = None
    """Side of the feature map that attends to itself, in both networks; from 4 to half the
    image's. None = 32, or half the image's where that is less. Paper: 32, of 128 px."""
    attention: Literal["pooled", "plain"] = "pooled"
    """Keys and values pooled 2×2, as in the authors' code; or plain, where every place is a key
    and dot products are divided by √d."""
    lr_G: float = Field(default=1e-4, gt=0)
    """Adam's learning rate of G. Paper: 1e-4."""
    lr_D: float = Field(default=4e-4, gt=0)
    """Adam's learning rate of D. Paper: 4e-4."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's momentum. Paper: 0."""
    beta2: float = Field(default=0.9, ge=0, lt=1)
    """Adam's decay of squared gradients. Paper: 0.9."""
    spectral_norm: Literal[True] = True
    """Every weight matrix is divided by its largest singular value, in both networks, always."""

    @model_validator(mode="after")
    def _has_a_map_to_attend(self) -> Self:
        require_power_of_two(self.resolution_px)
        largest = self.resolution_px // 2
        attended = self.attended_px()
        if attended & (attended - 1) or not 4 <= attended <= largest:
            raise ValueError(
                f"attention_px {attended} is the side of no feature map: at "
                f"{self.resolution_px} px it is a power of two from 4 to {largest}"
            )
        return self

    def attended_px(self) -> int:
        """The side of the feature map that attends to itself: as set, or the default."""
        if self.attention_px is None:
            return min(ATTENTION_PX, self.resolution_px // 2)
        return self.attention_px

    def latent(self) -> LatentInput:
        """The prior of z, in training and when served."""
        return LatentInput(dim=self.z_dim)


def build(config: SAGANConfig, accelerator: Accelerator) -> AdversarialStep:
    """A trainer with fresh weights."""
    shape = Architecture(
        resolution_px=config.resolution_px,
        channels=config.channels,
        classes=len(config.classes),
        width=config.width,
        attention_px=config.attended_px(),
        attention=ATTENTION[config.attention],
    )
    return Recipe(
        G=Generator(config.z_dim, shape),
        D=Discriminator(shape, config.minibatch),
        loss=Hinge(),
        latent=config.latent(),
    ).trainer(config, accelerator)


def served(generator: nn.Module, config: SAGANConfig) -> ServedGenerator:
    """Z in, and a class where there are any; image out."""
    latent = config.latent()
    if not config.classes:
        return ServedGenerator(generator, inputs=(latent,))
    return ServedGenerator(generator, inputs=(latent, LabelInput(classes=config.classes)))
