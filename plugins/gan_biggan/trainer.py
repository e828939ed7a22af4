"""BigGAN's configuration and trainer: data for ``AdversarialStep``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from gan_core import AdversarialConfig
from gan_core.card import LabelInput, LatentInput, Resampling
from gan_core.export import ServedGenerator
from gan_core.losses import Hinge
from gan_core.penalties import orthogonal
from gan_core.toolbox import Recipe, adam
from gan_core.variant import require_power_of_two

from .networks import Architecture, Discriminator, Generator
from .standing import standing_statistics

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from gan_core.trainer import AdversarialStep

__all__ = ["BigGANConfig", "build", "served"]

ATTENTION_PX = 64
CHUNK = 20
EPSILON = 1e-6
"""Of Adam. Authors' PyTorch code: 1e-6."""


class BigGANConfig(AdversarialConfig):
    """The paper's settings, but for the batch, which is one that a single machine can run."""

    batch_size: int = Field(default=64, ge=2)
    """Paper: 2048."""
    z_dim: int = Field(default=120, ge=1)
    """Length of z, which is standard normal: a multiple of the number of G's blocks + 1, which
    get a chunk each. Paper: 120, in 6 chunks, for images of 128 px."""
    shared_dim: int = Field(default=128, ge=1)
    """Length of the class embedding that all of G's blocks share. Paper: 128."""
    width: int = Field(default=96, ge=8)
    """Channels next to the image; doubles at each halving of the side, up to 16 times.
    Paper: 96."""
    attention_px: int | None = None
    """Side of the feature map that attends to itself, in both networks; from 4 to half the
    image's. None = 64, or half the image's where that is less. Paper: 64, of 128 px and more."""
    orthogonal: float = Field(default=1e-4, ge=0)
    """Weight in G's loss of the inner products of different rows of a weight matrix.
    Paper: 1e-4."""
    lr_G: float = Field(default=5e-5, gt=0)
    """Adam's learning rate of G. Paper: 5e-5."""
    lr_D: float = Field(default=2e-4, gt=0)
    """Adam's learning rate of D. Paper: 2e-4."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's momentum. Paper: 0."""
    n_critic: int = Field(default=2, ge=1)
    """D steps, one batch of real images each, before G's turn. Paper: 2."""
    spectral_norm: Literal[True] = True
    """Every weight matrix is divided by its largest singular value, in both networks, always."""
    ema_halflife_kimg: float = Field(default=890.0, ge=0)
    """Half-life of the weights' moving average in kimg; 0 = none is kept. Paper: decay 0.9999
    per G step, which is 6931 of them: 890 kimg in batches of 64, 28 400 in the paper's."""
    standing_batches: int = Field(default=16, ge=1)
    """Batches of its own images on which batch norm's statistics of what is served are
    measured."""

    @model_validator(mode="after")
    def _shape_is_possible(self) -> Self:
        require_power_of_two(self.resolution_px)
        largest = self.resolution_px // 2
        attended = self.attended_px()
        if attended & (attended - 1) or not 4 <= attended <= largest:
            raise ValueError(
                f"attention_px {attended} is the side of no feature map: at "
                f"{self.resolution_px} px it is a power of two from 4 to {largest}"
            )
        chunks = self.resolution_px.bit_length() - 2  # 8 px: 1 block, 2 chunks
        if self.z_dim % chunks:
            raise ValueError(
                f"z_dim {self.z_dim} can't be cut into {chunks} equal chunks: at "
                f"{self.resolution_px} px it is a multiple of {chunks}, for instance "
                f"{CHUNK * chunks}"
            )
        return self

    def attended_px(self) -> int:
        """The side of the feature map that attends to itself: as set, or the default."""
        if self.attention_px is None:
            return min(ATTENTION_PX, self.resolution_px // 2)
        return self.attention_px

    def latent(self) -> LatentInput:
        """The prior of z, in training and when served."""
        return LatentInput(dim=self.z_dim, truncation=Resampling())


def build(config: BigGANConfig, accelerator: Accelerator) -> AdversarialStep:
    """A trainer with fresh weights."""
    shape = Architecture(
        resolution_px=config.resolution_px,
        channels=config.channels,
        classes=len(config.classes),
        width=config.width,
        attention_px=config.attended_px(),
    )
    return Recipe(
        G=Generator(config.z_dim, config.shared_dim, shape),
        D=Discriminator(shape, config.minibatch),
        loss=Hinge(),
        latent=config.latent(),
        optimizer=adam(config, EPSILON),
        penalties_G=[orthogonal(config.orthogonal)] if config.orthogonal else [],
    ).trainer(config, accelerator)


def served(generator: nn.Module, config: BigGANConfig) -> ServedGenerator:
    """Z and a class in, image out; a copy, with standing statistics."""
    inputs = (config.latent(), LabelInput(classes=config.classes))
    return standing_statistics(
        ServedGenerator(generator, inputs), config.standing_batches, config.batch_size
    )
