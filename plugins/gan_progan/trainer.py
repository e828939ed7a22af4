"""Progressive GAN's configuration and trainer: data for ``AdversarialStep``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from accelerate import DistributedDataParallelKwargs
from pydantic import Field, model_validator

from gan_core import AdversarialConfig
from gan_core.card import LatentInput
from gan_core.errors import ConfigError
from gan_core.export import ServedGenerator
from gan_core.layers import Minibatch
from gan_core.losses import Wasserstein
from gan_core.penalties import gradient_penalty
from gan_core.toolbox import Recipe
from gan_core.variant import require_power_of_two

from .growth import Growth, Schedule
from .networks import Discriminator, Generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator
    from torch import nn

    from gan_core.trainer import AdversarialStep

__all__ = ["ProGANConfig", "build", "served"]


class ProGANConfig(AdversarialConfig):
    """The paper's settings, but for the pace of growth, which is the authors' code's."""

    kimg: float = Field(default=15_000, ge=0.001)
    """Budget: 10³ real images seen by the discriminator. Authors' code: 15 000."""
    start_px: int = Field(default=4, ge=4)
    """Side of the first images, in px. Paper: 4."""
    stabilise_kimg: float = Field(default=600, ge=0.001)
    """Each level is trained so long before the next. Authors' code: 600; paper: 800."""
    fade_kimg: float = Field(default=600, ge=0)
    """A new level is faded in over so many kimg. Authors' code: 600; paper: 800."""
    batch_size: int = Field(default=16, ge=2)
    """Images per step and process where ``batch_sizes`` names none. Paper: 16."""
    batch_sizes: dict[int, Annotated[int, Field(ge=2)]] = Field({256: 14, 512: 6, 1024: 3})
    """Batch size by the side in px that is learnt. Paper: 14 at 256, 6 at 512, 3 at 1024."""
    lr_factors: dict[int, Annotated[float, Field(gt=0)]] = Field({})
    """Factor on both learning rates by the side in px that is learnt; 1 where there is none.
    Paper: none. Authors' code with batches of 32 and more: 1.5 at 128, 2 at 256, 3 above."""
    z_dim: int = Field(default=512, ge=1)
    """Length of z, standard normal before it is normalised. Paper: 512."""
    fmap_base: int = Field(default=8192, ge=1)
    """Twice the feature maps at 4 px, halved with every doubling of the side. Paper: 8192."""
    fmap_max: int = Field(default=512, ge=1)
    """Most feature maps at any side. Paper: 512."""
    gp_weight: float = Field(default=10.0, gt=0)
    """λ of the gradient penalty λ·(‖∇D‖ − 1)². Paper: 10."""
    drift: float = Field(default=0.001, ge=0)
    """Weight of D(x)² in D's loss, which keeps logits near 0. Paper: 0.001."""
    lr_G: float = Field(default=1e-3, gt=0)
    """Adam's learning rate of G. Paper: 1e-3."""
    lr_D: float = Field(default=1e-3, gt=0)
    """Adam's learning rate of D. Paper: 1e-3. In runs of a few kimg 3e-3 keeps D ahead of G."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's momentum. Paper: 0."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of squared gradients. Paper: 0.99."""
    minibatch: Minibatch = "stddev"
    """What D appends to its features at 4 px: the batch's spread (paper), or the similarity to
    each other image (discrimination)."""
    ema_halflife_kimg: float = Field(default=11.0, ge=0)
    """Half-life of the weights' moving average in kimg; 0 = none is kept. Paper: a decay of
    0.999 a step, which is 11 kimg at its batch of 16."""

    @model_validator(mode="after")
    def _sides_are_powers_of_two(self) -> Self:
        require_power_of_two(self.resolution_px)
        if self.start_px & (self.start_px - 1):
            raise ValueError(f"start_px {self.start_px} is not a power of two from 4 upwards")
        for name in ("batch_sizes", "lr_factors"):
            for side in getattr(self, name):
                if side < 4 or side & (side - 1):
                    raise ValueError(f"{name}: images are never {side} px, but 4, 8, 16, …")
        return self

    def growth(self) -> Schedule:
        """Kimg -> stage."""
        first, last = _level(self.start_px), _level(self.resolution_px)
        return Schedule(first, last, self.stabilise_kimg, self.fade_kimg)

    def maps(self) -> list[int]:
        """Feature maps at 4, 8, 16, … px."""
        stages = range(1, _level(self.resolution_px) + 2)
        return [max(1, min(self.fmap_base >> stage, self.fmap_max)) for stage in stages]

    def batch_size_at(self, kimg: float) -> int:
        """Images per step and process after ``kimg``."""
        return self.batch_sizes.get(self.growth()(kimg).side_px, self.batch_size)

    def lr_factor(self) -> Callable[[float], float]:
        """The schedule of both learning rates, as a factor."""
        whole, growth = super().lr_factor(), self.growth()
        return lambda kimg: whole(kimg) * self.lr_factors.get(growth(kimg).side_px, 1.0)

    def latent(self) -> LatentInput:
        """The prior of z, in training and when served."""
        return LatentInput(dim=self.z_dim)


def build(config: ProGANConfig, accelerator: Accelerator) -> AdversarialStep:
    """A trainer with fresh weights.

    Raises:
        ConfigError: images would never have their full size, or start beyond it.
    """
    _can_grow(config)
    # below the last level there are layers without a gradient
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    D = Discriminator(config.maps(), config.channels, config.minibatch)
    return Recipe(
        G=Generator(config.z_dim, config.maps(), config.channels),
        D=D,
        loss=Wasserstein(config.drift),
        latent=config.latent(),
        penalties_D=[gradient_penalty(config.gp_weight)],
        stabilisers=[Growth(config.growth())],
    ).trainer(config, accelerator)


def served(generator: nn.Module, config: ProGANConfig) -> ServedGenerator:
    """Z in, image out."""
    return ServedGenerator(generator, inputs=(config.latent(),))


def _can_grow(config: ProGANConfig) -> None:
    # not in the configuration's validator: the data say what resolution_px is
    side_px, takes_kimg = config.resolution_px, config.growth().grown_kimg
    if config.start_px > side_px:
        raise ConfigError(
            f"start_px {config.start_px} is above the images' side: at most {side_px}"
        )
    if config.kimg < takes_kimg:
        raise ConfigError(
            f"kimg {config.kimg:g} ends before images are {side_px} px, which takes "
            f"{takes_kimg:g}: raise it, or lower stabilise_kimg and fade_kimg"
        )


def _level(side_px: int) -> int:
    """Doublings of the side from 4 px on."""
    return side_px.bit_length() - 3
