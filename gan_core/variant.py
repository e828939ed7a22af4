"""What a plugin hands over: a Variant, which is data and two functions. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from .export import ServedGenerator
    from .trainer import Trainer

__all__ = ["PaperCheck", "TrainConfig", "Variant"]


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
    resolution_px: int = Field(default=32, ge=8, le=1024)
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
    paper_checks: tuple[PaperCheck, ...] = ()
    tiny: Mapping[str, object] = field(default_factory=dict)
    """Overrides that make a network small enough for the conformance kit to train in seconds."""
