"""When the networks grow, and what keeps them, the reals and the optimisers at one stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch

from gan_core.stabilisers import Stabiliser

from .layers import enlarged, shrunk

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.data import Batch
    from gan_core.trainer import AdversarialStep

__all__ = ["Growth", "Schedule", "Stage"]


class Stage(NamedTuple):
    """How far the networks have grown."""

    level: int
    """Doublings of the side from 4 px on."""
    alpha: float
    """Weight of the level's own branch: 0 -> 1 during a fade, then 1.

    One convention in G, D and the reals, that of the paper's figure 2. Where a text fades by
    α·old + (1 − α)·new, with α from 1 to 0, its α is 1 − alpha here.
    """

    @property
    def side_px(self) -> int:
        """Side of the images that are learnt."""
        return 4 << self.level

    @property
    def fades(self) -> bool:
        """Whether the level is still being faded in."""
        return self.alpha < 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """Stabilise, then for each level after the first fade and stabilise, then stay."""

    first_level: int
    last_level: int
    stabilise_kimg: float
    fade_kimg: float

    def __call__(self, kimg: float) -> Stage:
        """The stage after ``kimg`` 10³ real images: no state, so that a resumed run has it too."""
        stabilise, fade = round(1000 * self.stabilise_kimg), round(1000 * self.fade_kimg)
        images = round(1000 * kimg)  # whole numbers, so that a phase ends where it should
        if images < stabilise:
            return Stage(self.first_level, 1.0)
        grown, within = divmod(images - stabilise, fade + stabilise)
        level = self.first_level + 1 + grown
        if level > self.last_level:
            return Stage(self.last_level, 1.0)
        return Stage(level, within / fade if within < fade else 1.0)

    @property
    def grown_kimg(self) -> float:
        """When the last level is all there, in 10³ real images."""
        return (self.last_level - self.first_level) * (self.stabilise_kimg + self.fade_kimg)


class _Growing(Protocol):
    level: int
    alpha: float


class Growth(Stabiliser):
    """Brings G, D, G's average and the real images to the stage that is due.

    Both optimisers start afresh when a level is new and when it has been faded in, because the
    gradients of before have other sizes (authors' code).

    Args:
        schedule: kimg -> stage.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.stage = schedule(0.0)
        self.networks: list[_Growing] = []
        self.optimizers: list[torch.optim.Optimizer] = []

    def attach(self, trainer: AdversarialStep) -> None:
        """Take charge of the trainer's networks and optimisers."""
        average = [trainer.ema.module] if trainer.ema else []
        self.networks = cast("list[_Growing]", [trainer.raw_G, trainer.raw_D, *average])
        self.optimizers = [trainer.optimizer_G, trainer.optimizer_D]
        self.show(self.stage)

    def before_step(self, batch: Batch, kimg: float) -> Batch:
        """Grow if it is time; the batch with its reals as they look at this stage."""
        stage = self.schedule(kimg)
        if (stage.level, stage.fades) != (self.stage.level, self.stage.fades):
            for optimizer in self.optimizers:
                optimizer.state.clear()
        self.show(stage)
        return dataclasses.replace(batch, real=self.at_stage(batch.real))

    def after_step(self, stats: MutableMapping[str, Tensor], n: int) -> None:
        """Report the stage as ``growth/side_px`` and ``growth/alpha``."""
        stats["growth/side_px"] = torch.tensor(float(self.stage.side_px))
        stats["growth/alpha"] = torch.tensor(self.stage.alpha)

    def show(self, stage: Stage) -> None:
        """Bring all networks to a stage."""
        self.stage = stage
        for network in self.networks:
            network.level, network.alpha = stage

    def at_stage(self, real: Tensor) -> Tensor:
        """Real images [N, C, H, W] as G would make them at this stage, of the same size."""
        factor = 2 ** (self.schedule.last_level - self.stage.level)
        images = shrunk(real, factor)
        if self.stage.fades:
            coarse = enlarged(shrunk(images, 2), 2)
            images = torch.lerp(coarse, images, self.stage.alpha)
        return enlarged(images, factor)

    def state(self) -> dict[str, Any]:
        """The stage of the last step: what samples show, and whether the next stage is new."""
        return {"level": self.stage.level, "alpha": self.stage.alpha}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state()`` returned."""
        self.show(Stage(state["level"], state["alpha"]))
