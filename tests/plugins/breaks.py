"""Ways to make a claim untrue of a trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from gan_core.losses import AdversarialLoss
    from gan_core.trainer import AdversarialStep

Break = Callable[["AdversarialStep"], object]
"""Changes a trainer, so that a claim is no longer true of it."""


def part(trainer: AdversarialStep, path: str) -> Any:
    """A submodule by side and path, such as ``D.head``; ``D`` alone is the network."""
    side, _, name = path.partition(".")
    return trainer.players[side].network.get_submodule(name)


def with_loss(loss: AdversarialLoss) -> Break:
    """They minimise something else."""
    return lambda trainer: setattr(trainer, "loss", loss)


def with_module(path: str, make: Callable[[], nn.Module]) -> Break:
    """A submodule is another one, or there is one more."""
    owner, _, name = path.rpartition(".")
    return lambda trainer: part(trainer, owner).register_module(name, make())


def with_optimizer(side: str, **settings: Any) -> Break:
    """A side's optimiser has other settings."""
    return lambda trainer: trainer.players[side].optimizer.param_groups[0].update(settings)


def with_player(side: str, **fields: Any) -> Break:
    """A side plays otherwise."""

    def change(trainer: AdversarialStep) -> None:
        trainer.players[side] = replace(trainer.players[side], **fields)

    return change


def always_training(side: str) -> Break:
    """A network can't be put into evaluation."""

    def change(trainer: AdversarialStep) -> None:
        network = part(trainer, side)
        network.eval = lambda: network

    return change


class InPlace(nn.Module):
    """The known error: what a shortcut reads is rectified."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return x.relu_()
