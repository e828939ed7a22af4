"""A step of super-resolution: reduce, enlarge, and learn from what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import get_total_norm

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from gan_core.data import Batch
    from gan_core.losses import AdversarialLoss
    from gan_core.perceptual import Features
    from gan_core.schedules import Schedule
    from gan_core.stabilisers import EMA

__all__ = ["FeatureDistance", "Rival", "Side", "Term", "UpscalerStep"]

Distance = Callable[["Tensor", "Tensor"], "Tensor"]
"""(made, real), float32 [N, C, H, W] in [-1, 1] -> 0-dim."""
Weights = Mapping[str, "Tensor"]


@dataclass(frozen=True, slots=True)
class Term:
    """A part of what G minimises, reported as ``loss/<name>`` before it is weighted."""

    name: str
    weight: float
    distance: Distance


class FeatureDistance:
    """Distance of the features of two images in [-1, 1].

    Args:
        load: gives the network, when it is first asked: it takes weights that only training needs.
        distance: of features.
    """

    def __init__(self, load: Callable[[], Features], distance: Distance) -> None:
        self._load = load
        self.distance = distance

    @cached_property
    def features(self) -> Features:
        """The frozen network."""
        return self._load()

    def __call__(self, made: Tensor, real: Tensor) -> Tensor:
        """0-dim."""
        seen = [self.features((images + 1) / 2) for images in (made, real)]
        return self.distance(*seen)


class Side:
    """A network, its Adam, and the schedule of its learning rate.

    Args:
        network: on the accelerator's device.
        lr: learning rate.
        betas: Adam's.
        lr_factor: kimg -> factor on ``lr``.
        accelerator: mixed precision and ranks.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float,
        betas: tuple[float, float],
        lr_factor: Schedule,
        accelerator: Accelerator,
    ) -> None:
        self.network = network
        self.lr, self.lr_factor = lr, lr_factor
        self.accelerator = accelerator
        self.prepared = accelerator.prepare(network)
        self.optimizer = accelerator.prepare(torch.optim.Adam(network.parameters(), lr, betas))

    def __call__(self, images: Tensor) -> Tensor:
        """What the network makes of images."""
        made: Tensor = self.prepared(images)
        return made

    def schedule(self, kimg: float) -> None:
        """Set the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.lr_factor(kimg)

    def learn(self, loss: Tensor) -> Tensor:
        """One optimiser step; returns the gradient's norm."""
        self.network.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.accelerator.unscale_gradients(self.optimizer)
        norm = get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        self.optimizer.step()
        return norm

    def load(self, network: Weights, optimizer: Mapping[str, Any]) -> None:
        """Take over a saved network and optimiser."""
        self.network.load_state_dict(network)
        self.optimizer.load_state_dict(optimizer)


class Rival:
    """D, which learns to tell made images from real ones, and what G loses to it.

    Args:
        side: D: images -> logits.
        loss: of both.
        weight: of G's loss.
    """

    def __init__(self, side: Side, loss: AdversarialLoss, weight: float) -> None:
        self.side, self.loss, self.weight = side, loss, weight

    def learn(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        """D's step; ``made`` is detached."""
        self.side.network.requires_grad_(requires_grad=True)
        real_logits, made_logits = self.side(real), self.side(made)
        loss = self.loss.discriminator(real_logits, made_logits).mean()
        return {
            "loss/D": loss.detach(),
            "logits/real": real_logits.detach().mean(),
            "logits/fake": made_logits.detach().mean(),
            "gradient_norm/D": self.side.learn(loss),
        }

    def beats(self, made: Tensor, real: Tensor) -> Tensor:
        """G's loss, 0-dim; D doesn't learn from it."""
        self.side.network.requires_grad_(requires_grad=False)
        real_logits = self.side(real) if self.loss.needs_real else None
        return self.loss.generator(self.side(made), real_logits).mean()


class UpscalerStep:
    """G's step on every batch, with D's before it where there is a rival.

    G enlarges what the degradation left of the real images. D sees the same made images, once as
    they are and once through G's gradient.

    Args:
        G: reduced images in [0, 1] -> images in [0, 1].
        degraded: real images in [0, 1] -> reduced ones in [0, 1].
        terms: G's losses beside the adversarial one.
        rival: None = regression alone.
        ema: moving average of G, if one is kept.
        start: weights of G at the first step; its own, if None.
    """

    def __init__(
        self,
        G: Side,
        *,
        degraded: Callable[[Tensor], Tensor],
        terms: Sequence[Term],
        rival: Rival | None = None,
        ema: EMA | None = None,
        start: Callable[[], Weights] | None = None,
    ) -> None:
        self.G, self.rival = G, rival
        self.players = {"G": G, "D": rival.side} if rival else {"G": G}
        self.degraded = degraded
        self.terms = tuple(terms)
        self.ema = ema
        self.start = start
        self.seen = 0

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from real images; every term of the loss is in the statistics."""
        self._prepare()
        real = batch.real
        made = self.G(self.degraded((real + 1) / 2)) * 2 - 1
        stats = self.rival.learn(made.detach(), real) if self.rival else {}
        losses = [(term.name, term.weight, term.distance(made, real)) for term in self.terms]
        if self.rival:
            losses.append(("adversarial", self.rival.weight, self.rival.beats(made, real)))
        loss = torch.stack([weight * value for _, weight, value in losses]).sum()
        stats |= {f"loss/{name}": value.detach() for name, _, value in losses}
        stats |= {"loss/G": loss.detach(), "gradient_norm/G": self.G.learn(loss)}
        n = len(real) * self.G.accelerator.num_processes
        self.seen += n
        if self.ema:
            self.ema.after_step(stats, n)
        return stats

    def generator(self) -> nn.Module:
        """The moving average if one is kept, else the network itself."""
        return self.ema.module if self.ema else self.G.network

    def state(self) -> dict[str, Any]:
        """Networks, optimisers, average, scaler and the images seen."""
        scaler = self.G.accelerator.scaler
        networks = {name: side.network.state_dict() for name, side in self.players.items()}
        return networks | {
            "optimizers": {
                name: side.optimizer.state_dict() for name, side in self.players.items()
            },
            "ema": self.ema.state() if self.ema else None,
            "scaler": scaler.state_dict() if scaler else None,
            "seen": self.seen,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state()`` returned."""
        for name, side in self.players.items():
            side.load(state[name], state["optimizers"][name])
        if self.ema:
            self.ema.load(state["ema"])
        if self.G.accelerator.scaler and state["scaler"]:
            self.G.accelerator.scaler.load_state_dict(state["scaler"])
        self.seen = state["seen"]

    def _prepare(self) -> None:
        if self.start and not self.seen:
            weights = self.start()
            for network in (self.G.network, self.generator()):
                network.load_state_dict(weights)
        for side in self.players.values():
            side.schedule(self.seen / 1000)
