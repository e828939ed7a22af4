"""What a plugin hands over: a Variant, which is data and two functions. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from .export import ServedGenerator
    from .trainer import Trainer

__all__ = ["PaperCheck", "TrainConfig", "Variant", "is_points", "require_power_of_two"]


LEAST_PX = 8


class TrainConfig(BaseModel):
    """What every variant can be told; a variant adds its own fields with the paper's defaults."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    kimg: float = Field(default=1000, ge=0.001)
    """Budget: 10³ real images seen by the discriminator."""
    batch_size: int = Field(default=64, ge=2)
    """Images per discriminator step and process."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of weights, data order and noise."""
    resolution_px: int = Field(default=32, ge=1, le=1024)
    """Side of the square training images; comes from the data unless set."""
    channels: int = Field(default=3, ge=1, le=4)
    """1 grey, 3 RGB, 4 RGBA; comes from the data."""
    classes: tuple[str, ...] = ()
    """Class names; come from the data."""
    ema_halflife_kimg: float = Field(default=10.0, ge=0)
    """Half-life of the weights' moving average in kimg; 0 = none is kept."""
    tick_kimg: float = Field(default=1.0, gt=0)
    """Statistics are read and written once per tick."""
    sample_kimg: float = Field(default=10.0, gt=0)
    """A sample grid is written this often."""
    checkpoint_kimg: float = Field(default=10.0, gt=0)
    """A checkpoint is written this often, and at the end."""
    keep_checkpoints: int = Field(default=3, ge=1)
    """Older checkpoints are removed once a newer one is safe."""
    score_kimg: float = Field(default=0.0, ge=0)
    """The data's own metrics are measured this often, and written to scores.jsonl; 0 = never."""
    score_metrics: tuple[str, ...] = ()
    """Which ones, instead of the data's own."""
    score_samples: int = Field(default=1000, ge=2)
    """Generated images per measurement, at most as many as there are real ones."""
    guard: Literal["off", "warn", "stop", "rollback"] = "warn"
    """What the divergence guard does: warn, stop, or go back to the last healthy checkpoint and
    on from there with other noise. A statistic that isn't finite always stops or rolls back."""
    guard_patience_kimg: float = Field(default=5.0, ge=0)
    """A symptom counts once it has lasted so long, or for half of the budget."""
    guard_gradient_norm: float = Field(default=1e4, gt=0)
    """Symptom: a network's gradient norm is above this."""
    guard_logit_gap: float = Field(default=1e3, gt=0)
    """Symptom: mean logits of real and fake are further apart than this."""
    guard_accuracy: float = Field(default=1.0, gt=0)
    """Symptom: D is right about a larger share of both real and fake images; 1 = never. A critic
    may well be always right: set it, to 0.99 say, where D's logits are probabilities."""
    guard_diversity: float = Field(default=0.02, ge=0)
    """Symptom: pixels of fakes vary less than this share of what reals' do."""
    guard_rollbacks: int = Field(default=3, ge=0)
    """After so many rollbacks the run stops."""

    @model_validator(mode="after")
    def _images_have_a_side(self) -> Self:
        if self.resolution_px < LEAST_PX and not is_points(self):
            raise ValueError(
                f"resolution_px {self.resolution_px} is below {LEAST_PX}, the smallest image"
            )
        return self

    @staticmethod
    def may_change(name: str) -> bool:
        """Whether a resumed run may have another value of a setting: others decide what it is."""
        return name in {"kimg", "keep_checkpoints"} or name.startswith("guard")

    def batch_size_at(self, kimg: float) -> int:
        """Images per step and process after ``kimg``: the same throughout, unless overridden."""
        return self.batch_size


def is_points(config: TrainConfig) -> bool:
    """Whether the data are points in the plane: images of one pixel with two channels."""
    return config.resolution_px == 1 and config.channels == 2


def require_power_of_two(resolution_px: int, least_px: int = LEAST_PX) -> None:
    """For a configuration's validator, where networks halve the side again and again.

    Raises:
        ValueError: it is no power of two, or below ``least_px``.
    """
    if resolution_px & (resolution_px - 1) or resolution_px < least_px:
        raise ValueError(
            f"resolution_px {resolution_px} is not a power of two from {least_px} upwards"
        )


@dataclass(frozen=True, slots=True)
class PaperCheck:
    """A claim of the paper that a variant's trainer must fulfil, tested by the conformance kit."""

    claim: str
    """What is true, for instance "critic has no BatchNorm"."""
    test: Callable[[Any], bool]
    """Takes the trainer that ``Variant.build`` made; True where the claim holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One kind of GAN: its configuration, its trainer and what of it is served."""

    name: str
    """As in ``ganforge train NAME``: [a-z0-9_]+."""
    paper: str
    """Where it comes from, for instance ``arXiv:1511.06434``."""
    config: type[TrainConfig]
    """The paper's settings as defaults."""
    build: Callable[[Any, Accelerator], Trainer]
    """(config, accelerator) -> a trainer with fresh weights on the accelerator's device."""
    served: Callable[[nn.Module, Any], ServedGenerator]
    """(trained generator, config) -> the module that is exported."""
    task: str = "unconditional"
    """"class-conditional" refuses data without classes; an unconditional variant may take them."""
    paper_checks: tuple[PaperCheck, ...] = ()
    tiny: Mapping[str, object] = field(default_factory=dict)
    """Overrides that make a network small enough for the conformance kit to train in seconds."""
