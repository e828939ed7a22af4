"""R3GAN's configuration and trainer: data for ``AdversarialStep``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from gan_core import AdversarialConfig
from gan_core.card import LabelInput, LatentInput
from gan_core.errors import ConfigError
from gan_core.export import ServedGenerator
from gan_core.layers import PointDiscriminator, PointGenerator
from gan_core.losses import Relativistic
from gan_core.penalties import r1, r2
from gan_core.schedules import Schedule, cosine
from gan_core.toolbox import Recipe
from gan_core.variant import is_points, require_power_of_two

from .networks import EXPANSION, Discriminator, Generator, widths

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from gan_core.trainer import AdversarialStep

__all__ = ["R3GANConfig", "build", "served"]


class R3GANConfig(AdversarialConfig):
    """The paper's settings for CIFAR-10, 32 px; also for points in the plane.

    Paper: ADA, from 0 to 0.55 on CIFAR-10. Here: no augmentation unless set, because it is the
    toolbox's (``augment``).
    """

    batch_size: int = Field(default=512, ge=2)
    """Paper: 512."""
    z_dim: int = Field(default=64, ge=1)
    """Length of z, standard normal. Paper: 64."""
    width: int = Field(default=768, ge=4)
    """Channels at the full resolution; doubles at each halving of the side. Paper: 768 at 32 px,
    96 at 256 px."""
    max_width: int = Field(default=768, ge=4)
    """Channels grow no further. Paper: 768."""
    group_size: int = Field(default=16, ge=1)
    """Channels of a group of the 3×3 convolutions. Paper: 16."""
    blocks: int = Field(default=2, ge=1)
    """Residual blocks per stage, that is per doubling of the side. Paper: 2."""
    conditional: bool = False
    """G and D are told the class, where the data has classes. Paper: on CIFAR-10 and ImageNet."""
    gamma_start: float = Field(default=0.05, ge=0)
    """γ of R1 and R2 at the start. Paper: 0.05; 1 on ImageNet at 64 px, 150 on FFHQ at 256 px."""
    gamma_end: float = Field(default=0.005, ge=0)
    """γ at the end of its cosine. Paper: a tenth of what it starts with."""
    lr_G: float = Field(default=2e-4, gt=0)
    """Adam's learning rate of G at the start. Paper: 2e-4."""
    lr_D: float = Field(default=2e-4, gt=0)
    """Adam's learning rate of D at the start. Paper: 2e-4."""
    lr_schedule: Literal["constant", "linear", "exponential", "cosine"] = "cosine"
    """How both learning rates change. Paper: along a cosine."""
    lr_schedule_kimg: float = Field(default=0.0, ge=0)
    """Length of the cosines of the learning rates, of γ and of β₂; 0 = the budget. With another
    lr_schedule it is that one's alone. Paper: 20,000 of a longer run."""
    lr_final: float = Field(default=0.25, ge=0, le=1)
    """The learning rates end at this share. Paper: 5e-5 of 2e-4."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's momentum. Paper: 0."""
    beta2_start: float = Field(default=0.9, ge=0, lt=1)
    """Adam's decay of squared gradients at the start. Paper: 0.9."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of squared gradients at the end of its cosine. Paper: 0.99."""
    ema_halflife_kimg: float = Field(default=5000.0, ge=0)
    """Half-life of the moving average, early on a twentieth of the images seen. Paper: rises from
    0 to 5,000 along the cosine."""

    @model_validator(mode="after")
    def _networks_can_be_made(self) -> Self:
        if not is_points(self):
            require_power_of_two(self.resolution_px)
        elif self.conditional:
            raise ValueError("conditional is for images, not for points")
        for name in ("width", "max_width"):
            inside = EXPANSION * getattr(self, name)
            if inside % self.group_size:
                raise ValueError(
                    f"{EXPANSION} × {name} = {inside} channels are not made of groups of "
                    f"group_size {self.group_size}"
                )
        return self

    @model_validator(mode="after")
    def _toolbox_fits(self) -> Self:
        if self.r1_gamma or self.r2_gamma or self.r1_interval != 1:
            raise ValueError(
                "r3gan has both penalties already: set gamma_start and gamma_end, "
                "not r1_gamma, r2_gamma or r1_interval"
            )
        if self.spectral_norm:
            raise ValueError("spectral_norm divides by 0 where residual blocks start at 0")
        return self

    def latent(self) -> LatentInput:
        """The prior of z, in training and when served."""
        return LatentInput(dim=self.z_dim)

    def falling(self, start: float, end: float) -> Schedule:
        """The cosine that everything follows, the learning rates too unless set otherwise."""
        over_kimg = self.lr_schedule_kimg if self.lr_schedule == "cosine" else 0.0
        return cosine(start, end, over_kimg or self.kimg)


def build(config: R3GANConfig, accelerator: Accelerator) -> AdversarialStep:
    """A trainer with fresh weights.

    Raises:
        ConfigError: it is to be conditional, and the data has no classes.
    """
    if config.conditional and not config.classes:
        raise ConfigError("conditional needs labelled data: folder:PATH with a subfolder per class")
    G, D = _networks(config)
    gamma = config.falling(config.gamma_start, config.gamma_end)
    return Recipe(
        G=G,
        D=D,
        loss=Relativistic(),
        latent=config.latent(),
        penalties_D=(r1(gamma), r2(gamma)),
        beta2=config.falling(config.beta2_start, config.beta2),
    ).trainer(config, accelerator)


def served(generator: nn.Module, config: R3GANConfig) -> ServedGenerator:
    """Z in, and a class where the model is conditional; image out."""
    latent = config.latent()
    if not config.conditional:
        return ServedGenerator(generator, inputs=(latent,))
    return ServedGenerator(generator, inputs=(latent, LabelInput(classes=config.classes)))


def _networks(config: R3GANConfig) -> tuple[nn.Module, nn.Module]:
    if is_points(config):
        return PointGenerator(config.z_dim, norm=False), PointDiscriminator(config.minibatch)
    inwards = widths(config.width, config.max_width, config.resolution_px)
    classes = len(config.classes) if config.conditional else 0
    G = Generator(
        config.z_dim,
        inwards[::-1],
        config.channels,
        group_size=config.group_size,
        blocks=config.blocks,
        classes=classes,
    )
    D = Discriminator(
        inwards,
        config.channels,
        group_size=config.group_size,
        blocks=config.blocks,
        classes=classes,
        minibatch=config.minibatch,
    )
    return G, D
