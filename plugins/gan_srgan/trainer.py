"""SRGAN's configuration, and the trainer and the served upscaler that come of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch.nn.functional import l1_loss, mse_loss

from gan_core import TrainConfig
from gan_core.degradation import bicubic, blind
from gan_core.losses import NonSaturating, RelativisticAverage
from gan_core.perceptual import check_perceptual, perceptual_features
from gan_core.schedules import Schedule, constant, cosine, exponential
from gan_core.stabilisers import EMA
from gan_core.upscalers import served_upscaler

from .networks import RRDB, Compact, Discriminator, SRResNet
from .steps import FeatureDistance, Rival, Side, Term, UpscalerStep
from .weights import generator_weights

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from gan_core.export import ServedGenerator
    from gan_core.losses import AdversarialLoss
    from gan_core.perceptual import Features

__all__ = ["SRGANConfig", "build", "served"]

GENERATORS = {"srresnet": (SRResNet, 16), "rrdb": (RRDB, 23), "compact": (Compact, 16)}
"""Each network, and its blocks in the paper."""
DISTANCES = {"mse": mse_loss, "l1": l1_loss}
LOSSES: dict[str, AdversarialLoss] = {
    "standard": NonSaturating(),
    "relativistic": RelativisticAverage(),
}
OF_THE_GAN_PHASE = (
    "adversarial_loss",
    "adversarial_weight",
    "lr_D",
    "perceptual",
    "perceptual_before_relu",
    "perceptual_distance",
    "perceptual_weight",
    "pixel_weight",
    "width_D",
)


class SRGANConfig(TrainConfig):
    """The paper's settings, but for the moving average of the weights, which it hadn't."""

    kimg: float = Field(default=16_000, ge=0.001)
    """Budget: 10³ HR crops. Paper: 10⁶ updates are 16 000, of the GAN phase 2·10⁵ are 3 200."""
    batch_size: int = Field(default=16, ge=2)
    """HR crops per step. Paper: 16."""
    resolution_px: int = Field(default=96, ge=8, le=1024)
    """Side of the HR crops. Paper: 96."""
    scale: Literal[2, 4] = 4
    """HR px per LR px. Paper: 4."""
    generator: Literal["srresnet", "rrdb", "compact"] = "srresnet"
    """SRGAN's, ESRGAN's, or a small one for CPUs and video."""
    width: int = Field(default=64, ge=2)
    """Channels of G's feature maps. Papers: 64."""
    blocks: int | None = Field(default=None, ge=1)
    """Residual blocks, or hidden convolutions of compact; None = 16, of rrdb 23 (papers)."""
    width_D: int = Field(default=64, ge=1)
    """Channels of D's first feature map. Paper: 64."""
    objective: Literal["psnr", "gan"] = "psnr"
    """First psnr, a regression; then gan, from its weights (start_from)."""
    start_from: str = ""
    """Where G's first weights come from: a run of the same generator, or a safetensors file.
    Empty = fresh ones."""
    degradation: Literal["bicubic", "blind"] = "bicubic"
    """How LR images are made: bicubic, antialiased (paper), or as Real-ESRGAN's, for photographs
    of unknown history (blind)."""
    content: Literal["mse", "l1"] = "mse"
    """Distance of pixels in [-1, 1]. Paper: mse; ESRGAN: l1."""
    pixel_weight: float = Field(default=0.0, ge=0)
    """Of that distance in the GAN phase. Paper: 0; ESRGAN: 0.01."""
    perceptual: str = "vgg19"
    """Network of the perceptual loss: vgg19 (downloaded), vgg19:PATH, vgg16-caffe ('ganforge data
    fetch vgg16-caffe'), or untrained."""
    perceptual_weight: float = Field(default=1.0, ge=0)
    """Of the distance of features × 1/12.75. Paper: 1; ESRGAN, which doesn't scale them: 12.75."""
    perceptual_distance: Literal["mse", "l1"] = "mse"
    """Of features. Paper: mse; ESRGAN: l1."""
    perceptual_before_relu: bool = False
    """Features before the last ReLU. Paper: after; ESRGAN: before."""
    adversarial_loss: Literal["standard", "relativistic"] = "standard"
    """Cross-entropy, or the relativistic average. Paper: standard; ESRGAN: relativistic."""
    adversarial_weight: float = Field(default=1e-3, gt=0)
    """Of the adversarial loss. Paper: 1e-3; ESRGAN: 5e-3."""
    lr_G: float = Field(default=1e-4, gt=0)
    """Adam's learning rate of G. Paper: 1e-4; ESRGAN's regression: 2e-4."""
    lr_D: float = Field(default=1e-4, gt=0)
    """Adam's learning rate of D. Paper: 1e-4."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam's momentum. Paper: 0.9."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's decay of squared gradients."""
    lr_schedule: Literal["paper", "cosine"] = "paper"
    """paper: constant, and a tenth in the second half of the GAN phase; cosine: to 0 over the
    budget."""

    @field_validator("perceptual")
    @classmethod
    def _network_is_known(cls, name: str) -> str:
        check_perceptual(name)
        return name

    @model_validator(mode="after")
    def _every_setting_counts(self) -> Self:
        for name in OF_THE_GAN_PHASE if self.objective == "psnr" else ():
            given = getattr(self, name)
            if given != type(self).model_fields[name].default:
                raise ValueError(f"{name} {given} has no effect without objective gan")
        if self.objective == "gan" and not self.pixel_weight + self.perceptual_weight:
            raise ValueError("without pixel_weight and perceptual_weight G needn't keep its input")
        return self

    @model_validator(mode="after")
    def _networks_fit(self) -> Self:
        least = 16 if self.objective == "gan" else self.scale
        if self.resolution_px % least:
            raise ValueError(
                f"resolution_px {self.resolution_px} is not a multiple of {least}, which "
                f"objective {self.objective} at scale {self.scale} needs"
            )
        if self.channels not in (1, 3):
            raise ValueError(f"channels {self.channels}: photographs are grey (1) or RGB (3)")
        return self

    def lr_factor(self) -> Schedule:
        """The schedule of both learning rates, as a factor."""
        if self.lr_schedule == "cosine":
            return cosine(1.0, 0.0, self.kimg)
        if self.objective == "gan":
            return exponential(1.0, 0.1, self.kimg / 2)
        return constant(1.0)


def build(config: SRGANConfig, accelerator: Accelerator) -> UpscalerStep:
    """A trainer with fresh weights; those of ``start_from`` and ``perceptual`` come when it steps.

    A later export needs neither.
    """
    network, blocks = GENERATORS[config.generator]
    G: nn.Module = network(
        config.channels, config.scale, width=config.width, blocks=config.blocks or blocks
    )
    G = G.to(accelerator.device)
    start = partial(generator_weights, config.start_from, G) if config.start_from else None
    return UpscalerStep(
        ema=EMA(G, config.ema_halflife_kimg) if config.ema_halflife_kimg else None,
        G=_side(G, config.lr_G, config, accelerator),
        degraded=partial(DEGRADATIONS[config.degradation], scale=config.scale),
        terms=_terms(config, accelerator),
        rival=_rival(config, accelerator) if config.objective == "gan" else None,
        start=start,
    )


def served(generator: nn.Module, config: SRGANConfig) -> ServedGenerator:
    """Picture in, larger picture out."""
    return served_upscaler(generator, config.scale, channels=config.channels)


def _blind(images: Tensor, scale: int) -> Tensor:
    generator = torch.Generator(images.device)
    generator.manual_seed(int(torch.randint(2**63 - 1, ())))  # the process's noise, of a CPU
    return blind(images, scale, generator)


DEGRADATIONS = {"bicubic": bicubic, "blind": _blind}


def _side(network: nn.Module, lr: float, config: SRGANConfig, accelerator: Accelerator) -> Side:
    return Side(network, lr, (config.beta1, config.beta2), config.lr_factor(), accelerator)


def _terms(config: SRGANConfig, accelerator: Accelerator) -> list[Term]:
    pixels = 1.0 if config.objective == "psnr" else config.pixel_weight
    terms = [Term("content", pixels, DISTANCES[config.content])] if pixels else []
    if config.objective == "gan" and config.perceptual_weight:

        def load() -> Features:
            after = not config.perceptual_before_relu
            return perceptual_features(config.perceptual, after_relu=after).to(accelerator.device)

        distance = FeatureDistance(load, DISTANCES[config.perceptual_distance])
        terms.append(Term("perceptual", config.perceptual_weight, distance))
    return terms


def _rival(config: SRGANConfig, accelerator: Accelerator) -> Rival:
    D = Discriminator(config.channels, config.resolution_px, config.width_D)
    side = _side(D.to(accelerator.device), config.lr_D, config, accelerator)
    return Rival(side, LOSSES[config.adversarial_loss], config.adversarial_weight)
