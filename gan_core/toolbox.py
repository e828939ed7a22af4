"""The training toolbox as settings: what a variant's configuration inherits, and its assembly.

A variant says what is its own in a ``Recipe``; everything that works with any variant comes from
its ``AdversarialConfig``: learning rates and their schedules, the rhythm of steps, label
smoothing, noise, augmentation, penalties, averaging, monitoring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import torch
from pydantic import Field, model_validator

from .augment import AdaptiveAugment, DiffAugment
from .errors import ConfigError
from .layers import Minibatch, spectrally_normalised
from .penalties import feature_matching, r1, r2
from .schedules import Schedule, constant, cosine, exponential, linear
from .stabilisers import (
    EMA,
    ClipGradients,
    HistoricalAverage,
    InstanceNoise,
    MonitorGradients,
    Stabiliser,
)
from .trainer import AdversarialStep, Player
from .variant import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from .card import LatentInput
    from .losses import AdversarialLoss
    from .penalties import Penalty
    from .trainer import Opponent

__all__ = ["AdversarialConfig", "Recipe", "adam"]


class AdversarialConfig(TrainConfig):
    """The toolbox: every field works with every variant that inherits it; off unless set."""

    lr_G: float = Field(default=2e-4, gt=0)
    """Learning rate of G."""
    lr_D: float = Field(default=2e-4, gt=0)
    """Learning rate of D; above G's it is the two time-scale rule (Heusel et al. 2017)."""
    lr_ratio: float | None = Field(default=None, gt=0)
    """k of η_G = k·η_D, usually 0.5 to 2; replaces lr_G."""
    beta1: float = Field(default=0.5, ge=0, lt=1)
    """Adam's momentum."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's decay of squared gradients."""
    lr_schedule: Literal["constant", "linear", "exponential", "cosine"] = "constant"
    """How both learning rates change."""
    lr_schedule_kimg: float = Field(default=0.0, ge=0)
    """Length of a linear or cosine schedule, or of a stair of an exponential one; 0 = the budget,
    for a stair a twentieth of it."""
    lr_final: float = Field(default=0.0, ge=0, le=1)
    """A linear or cosine schedule ends at this share of the learning rates."""
    lr_decay: float = Field(default=0.95, gt=0, le=1)
    """An exponential schedule multiplies by this at each stair."""
    n_critic: int = Field(default=1, ge=1)
    """D steps, one batch of real images each, before G's turn."""
    n_generator: int = Field(default=1, ge=1)
    """G steps in G's turn; more than 1 helps where D is too strong."""
    real_target: float = Field(default=1.0, gt=0.5, le=1)
    """D's target for real images; 0.9 is one-sided label smoothing. Not for hinge and W."""
    feature_matching: float = Field(default=0.0, ge=0)
    """Weight in G's loss of the distance between D's mean features of real and fake."""
    adversarial: float = Field(default=1.0, ge=0)
    """Weight in G's loss of the adversarial term;
    0 with feature_matching is Salimans et al. 2016."""
    historical_averaging: float = Field(default=0.0, ge=0)
    """Weight in both losses of the squared distance to the parameters' past mean."""
    minibatch: Minibatch = "none"
    """What D appends to its features: minibatch discrimination, or the batch's spread (stddev)."""
    spectral_norm: bool = False
    """Divide the weights of D's linear, convolution and embedding layers by their largest singular
    value."""
    r1_gamma: float = Field(default=0.0, ge=0)
    """γ of the R1 gradient penalty γ/2·‖∇D(x)‖² on real images."""
    r2_gamma: float = Field(default=0.0, ge=0)
    """γ of the same penalty on fakes."""
    r1_interval: int = Field(default=1, ge=1)
    """R1 and R2 are evaluated every so many D steps, and weighted up; StyleGAN2: 16."""
    instance_noise: float = Field(default=0.0, ge=0)
    """σ of the Gaussian noise on all that D sees, at the start, in units of the range [-1, 1]."""
    instance_noise_kimg: float = Field(default=100.0, gt=0)
    """Instance noise falls linearly to 0 over so many kimg."""
    augment: Literal["none", "diffaugment", "ada"] = "none"
    """Differentiable augmentation of all that D sees: DiffAugment (color, translation, cutout),
    or ADA, whose strength follows D's overfitting. For small training sets."""
    ada_target: float = Field(default=0.6, gt=0, lt=1)
    """ADA raises its strength while E[sign D(real)] is above this."""
    ada_kimg: float = Field(default=500.0, gt=0)
    """ADA's strength takes so many kimg from 0 to 1."""
    clip_gradients: float = Field(default=0.0, ge=0)
    """Largest gradient norm of a network; 0 = not clipped."""
    gradient_limit: float = Field(default=0.0, ge=0)
    """The share of steps with a larger gradient norm is reported; 0 = isn't."""

    @model_validator(mode="after")
    def _every_setting_counts(self) -> Self:
        if self.lr_ratio and self.lr_G != type(self).model_fields["lr_G"].default:
            raise ValueError(f"lr_G {self.lr_G} has no effect beside lr_ratio: leave one out")
        for name, (needed, fulfilled) in NEEDS.items():
            given = getattr(self, name)
            if given != type(self).model_fields[name].default and not fulfilled(self):
                raise ValueError(f"{name} {given} has no effect without {needed}")
        return self

    def lr_factor(self) -> Schedule:
        """The schedule of both learning rates, as a factor."""
        over_kimg = self.lr_schedule_kimg or self.kimg
        match self.lr_schedule:
            case "constant":
                return constant(1.0)
            case "linear":
                return linear(1.0, self.lr_final, over_kimg)
            case "cosine":
                return cosine(1.0, self.lr_final, over_kimg)
            case "exponential":
                return exponential(1.0, self.lr_decay, self.lr_schedule_kimg or self.kimg / 20)


NEEDS: dict[str, tuple[str, Callable[[AdversarialConfig], bool]]] = {
    "lr_schedule_kimg": (
        "lr_schedule linear, cosine or exponential",
        lambda config: config.lr_schedule != "constant",
    ),
    "lr_final": (
        "lr_schedule linear or cosine",
        lambda config: config.lr_schedule in ("linear", "cosine"),
    ),
    "lr_decay": ("lr_schedule exponential", lambda config: config.lr_schedule == "exponential"),
    "r1_interval": ("r1_gamma or r2_gamma", lambda config: config.r1_gamma + config.r2_gamma > 0),
    "instance_noise_kimg": ("instance_noise", lambda config: config.instance_noise > 0),
    "ada_target": ("augment ada", lambda config: config.augment == "ada"),
    "ada_kimg": ("augment ada", lambda config: config.augment == "ada"),
}
"""Settings that do nothing without another: in words, and whether that one is set."""

Optimizer = Callable[[Iterable["nn.Parameter"], float], torch.optim.Optimizer]
"""(parameters, learning rate) -> optimiser."""


def adam(config: AdversarialConfig, eps: float = 1e-8) -> Optimizer:
    """Adam with the configured betas."""
    betas = (config.beta1, config.beta2)
    return lambda parameters, lr: torch.optim.Adam(parameters, lr, betas, eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a variant adds to the toolbox."""

    G: nn.Module
    D: nn.Module
    loss: AdversarialLoss
    latent: LatentInput
    """Prior of z, in training and when served."""
    optimizer: Optimizer | None = None
    """Adam with the configured betas, if None."""
    penalties_D: Sequence[Penalty] = ()
    penalties_G: Sequence[Penalty] = ()
    stabilisers: Sequence[Stabiliser] = ()
    """Before the toolbox's own."""
    opponent: Opponent | None = None
    """Whom G plays against; D as it is, if None."""
    n_critic: Callable[[int], int] | None = None
    """G steps done -> D steps before the next; the configured number, if None."""
    beta2: Schedule | None = None
    """Adam's second β, where it changes."""
    batch_size_G: int | None = None
    """Images that G makes in its own steps; as many as D sees, if None."""

    def trainer(self, config: AdversarialConfig, accelerator: Accelerator) -> AdversarialStep:
        """The trainer, on the accelerator's device.

        Raises:
            ConfigError: two settings contradict each other, or the variant can't use one.
        """
        self._check(config)
        G, D = self.G.to(accelerator.device), self.D.to(accelerator.device)
        if config.spectral_norm:
            spectrally_normalised(D)
        weight = config.historical_averaging
        past = [HistoricalAverage(network, weight) for network in (G, D)] if weight else []
        optimizer = self.optimizer or adam(config)
        lr_G = config.lr_ratio * config.lr_D if config.lr_ratio else config.lr_G
        lr_factor = config.lr_factor()
        player_G = Player(
            G,
            optimizer(G.parameters(), lr_G),
            penalties=[*self.penalties_G, *_penalties_G(config), *(h.penalty for h in past[:1])],
            steps=lambda g_steps: config.n_generator,
            lr_factor=lr_factor,
            beta2=self.beta2,
            batch_size=self.batch_size_G,
        )
        player_D = Player(
            D,
            optimizer(D.parameters(), config.lr_D),
            penalties=[*self.penalties_D, *_penalties_D(config), *(h.penalty for h in past[1:])],
            steps=self.n_critic or (lambda g_steps: config.n_critic),
            lr_factor=lr_factor,
            beta2=self.beta2,
        )
        return AdversarialStep(
            player_G,
            player_D,
            loss=self.loss,
            latent=self.latent,
            accelerator=accelerator,
            stabilisers=[*self.stabilisers, *_stabilisers(config, G, D), *past],
            ema=EMA(G, config.ema_halflife_kimg) if config.ema_halflife_kimg else None,
            opponent=self.opponent,
            adversarial=config.adversarial,
        )

    def _check(self, config: AdversarialConfig) -> None:
        loss = type(self.loss).__name__
        if config.real_target != getattr(self.loss, "real_target", 1.0):
            raise ConfigError(
                f"real_target {config.real_target} has no meaning for the {loss} loss: leave it 1"
            )
        if config.feature_matching and not hasattr(self.D, "features"):
            raise ConfigError(
                f"feature_matching needs a discriminator with a method features(), which "
                f"{type(self.D).__name__} hasn't"
            )
        if not config.adversarial and not config.feature_matching:
            raise ConfigError("adversarial 0 leaves G without a loss: set feature_matching as well")
        if config.augment != "none" and config.resolution_px < 8:
            raise ConfigError(
                f"augment {config.augment!r} is for images, not for {config.resolution_px} px"
            )


def _penalties_G(config: AdversarialConfig) -> list[Penalty]:
    return [feature_matching(config.feature_matching)] if config.feature_matching else []


def _penalties_D(config: AdversarialConfig) -> list[Penalty]:
    chosen = ((r1, config.r1_gamma), (r2, config.r2_gamma))
    return [penalty(gamma, config.r1_interval) for penalty, gamma in chosen if gamma]


def _stabilisers(config: AdversarialConfig, G: nn.Module, D: nn.Module) -> list[Stabiliser]:
    chosen: list[Stabiliser] = [MonitorGradients(config.gradient_limit, G=G, D=D)]
    if config.clip_gradients:
        chosen.append(ClipGradients(config.clip_gradients))
    if config.augment == "diffaugment":
        chosen.append(DiffAugment())
    if config.augment == "ada":
        chosen.append(AdaptiveAugment(config.ada_target, config.ada_kimg))
    if config.instance_noise:
        chosen.append(InstanceNoise(config.instance_noise, config.instance_noise_kimg))
    return chosen
