"""One step of adversarial training: the Trainer protocol, and the step most variants share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from .penalties import PenaltyInputs
from .stabilisers import EMA, Stabiliser

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from .card import LatentInput
    from .data import Batch
    from .losses import AdversarialLoss
    from .penalties import Penalty

__all__ = ["AdversarialStep", "Player", "Trainer", "sample_prior"]

DIRECT = frozenset({"NO", "MULTI_CPU", "MULTI_GPU"})
"""Distributed types where an optimiser's step needs nothing of accelerate but the AMP scaler."""


class Trainer(Protocol):
    """All that the training loop knows of a variant."""

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from one batch; statistics as 0-dim detached tensors, read once per tick."""

    def generator(self) -> nn.Module:
        """The generator to sample from, score and export: the moving average if one is kept."""

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, nested at will: all that a resumed run needs."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state()`` returned."""


@dataclass(frozen=True, slots=True)
class Player:
    """One side of the game: a network and the optimiser of its parameters."""

    network: nn.Module
    optimizer: torch.optim.Optimizer


class AdversarialStep:
    """A discriminator step on every batch, and a generator step on every ``n_critic``-th.

    Real and fake images go through D separately, because BatchNorm would mix their statistics.
    Fakes are detached in D's step; D's parameters are frozen in G's step, and those that were
    frozen when this was made stay so. Every step draws fresh z. Most variants are data for this
    class; one with another algorithm writes its own ``Trainer``.

    Args:
        G: its network is a ``gan_core.networks.Generator``.
        D: its network is a ``gan_core.networks.Discriminator``.
        loss: what they minimise.
        latent: prior of z, the one that is served.
        accelerator: device, mixed precision and ranks.
        penalties: on D.
        stabilisers: applied in this order.
        ema: moving average of G, if one is kept.
        n_critic: D steps per G step, from the number of G steps done.
    """

    def __init__(
        self,
        G: Player,
        D: Player,
        *,
        loss: AdversarialLoss,
        latent: LatentInput,
        accelerator: Accelerator,
        penalties: Sequence[Penalty] = (),
        stabilisers: Sequence[Stabiliser] = (),
        ema: EMA | None = None,
        n_critic: Callable[[int], int] = lambda g_steps: 1,
    ) -> None:
        self.raw_G, self.raw_D = G.network, D.network
        self.learned_by_D = [p for p in D.network.parameters() if p.requires_grad]
        self.G, self.D = accelerator.prepare(G.network), accelerator.prepare(D.network)
        self.optimizer_G = accelerator.prepare(G.optimizer)
        self.optimizer_D = accelerator.prepare(D.optimizer)
        self.loss = loss
        self.latent = latent
        self.accelerator = accelerator
        self.penalties = penalties
        self.ema = ema
        self.stabilisers = [*stabilisers, ema] if ema else list(stabilisers)
        self.n_critic = n_critic
        self.d_steps = 0
        self.g_steps = 0
        self.d_steps_since_g = 0

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One discriminator step, and a generator step when it is due."""
        stats = self._discriminator_step(batch)
        self.d_steps += 1
        self.d_steps_since_g += 1
        if self.d_steps_since_g >= self.n_critic(self.g_steps):
            stats |= self._generator_step(batch)
            self.g_steps += 1
            self.d_steps_since_g = 0
        n = len(batch.real) * self.accelerator.num_processes
        for stabiliser in self.stabilisers:
            stabiliser.after_step(stats, n)
        return stats

    def generator(self) -> nn.Module:
        """The moving average if one is kept, else the network itself."""
        return self.ema.module if self.ema else self.raw_G

    def state(self) -> dict[str, Any]:
        """Networks, optimisers, stabilisers, scaler and counters."""
        scaler = self.accelerator.scaler
        return {
            "G": self.raw_G.state_dict(),
            "D": self.raw_D.state_dict(),
            "optimizer_G": self.optimizer_G.state_dict(),
            "optimizer_D": self.optimizer_D.state_dict(),
            "stabilisers": [stabiliser.state() for stabiliser in self.stabilisers],
            "scaler": scaler.state_dict() if scaler else None,
            "counters": [self.d_steps, self.g_steps, self.d_steps_since_g],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state()`` returned."""
        self.raw_G.load_state_dict(state["G"])
        self.raw_D.load_state_dict(state["D"])
        self.optimizer_G.load_state_dict(state["optimizer_G"])
        self.optimizer_D.load_state_dict(state["optimizer_D"])
        for stabiliser, saved in zip(self.stabilisers, state["stabilisers"], strict=True):
            stabiliser.load(saved)
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.d_steps, self.g_steps, self.d_steps_since_g = state["counters"]

    def _discriminator_step(self, batch: Batch) -> dict[str, Tensor]:
        self._let_D_learn(learns=True)
        z = sample_prior(self.latent, len(batch.real), self.accelerator.device)
        with torch.no_grad():
            fake = self._view(self.G(z, batch.label))
        real = self._view(batch.real)
        real_logits, fake_logits = self.D(real, batch.label), self.D(fake, batch.label)
        loss = self.loss.discriminator(real_logits, fake_logits).mean()
        stats = {
            "loss/D": loss.detach(),
            "logits/real": real_logits.detach().mean(),
            "logits/fake": fake_logits.detach().mean(),
        }
        for penalty in self._due_penalties():
            networks = _plain(self.raw_G), _plain(self.raw_D)
            value = penalty(PenaltyInputs(*networks, real, fake, z, batch.label))
            stats[f"penalty/{penalty.name}"] = value.detach()
            loss = loss + penalty.interval * value
        self._apply(loss, self.optimizer_D, self.raw_D)
        return stats

    def _generator_step(self, batch: Batch) -> dict[str, Tensor]:
        self._let_D_learn(learns=False)
        z = sample_prior(self.latent, len(batch.real), self.accelerator.device)
        fake_logits = self.D(self._view(self.G(z, batch.label)), batch.label)
        real_logits = None
        if self.loss.needs_real:
            real_logits = self.D(self._view(batch.real), batch.label)
        loss = self.loss.generator(fake_logits, real_logits).mean()
        self._apply(loss, self.optimizer_G, self.raw_G)
        return {"loss/G": loss.detach()}

    def _view(self, images: Tensor) -> Tensor:
        for stabiliser in self.stabilisers:
            images = stabiliser.view(images)
        return images

    def _due_penalties(self) -> list[Penalty]:
        return [penalty for penalty in self.penalties if self.d_steps % penalty.interval == 0]

    def _let_D_learn(self, *, learns: bool) -> None:
        for parameter in self.learned_by_D:
            parameter.requires_grad_(learns)

    def _apply(self, loss: Tensor, optimizer: torch.optim.Optimizer, network: nn.Module) -> None:
        network.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        if self.stabilisers:
            self.accelerator.unscale_gradients(optimizer)
        for stabiliser in self.stabilisers:
            stabiliser.on_gradients(network)
        self._unwrapped(optimizer).step()
        for stabiliser in self.stabilisers:
            stabiliser.after_update(network)

    def _unwrapped(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        # accelerate's own step() looks for an optional package on disk, twice: 0.3 ms each time
        if self.accelerator.scaler or self.accelerator.distributed_type.value not in DIRECT:
            return optimizer
        plain: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
        return plain


def _plain(network: nn.Module) -> Callable[..., Tensor]:
    # accelerate puts autocast around the instance's forward; a penalty needs the float32 one
    return cast("Callable[..., Tensor]", partial(type(network).forward, network))


def sample_prior(latent: LatentInput, n: int, device: torch.device) -> Tensor:
    """N input latents z, float32 [n, dim], from the prior that is served."""
    if latent.distribution == "normal":
        return torch.randn(n, latent.dim, device=device)
    return torch.rand(n, latent.dim, device=device).mul_(2).sub_(1)
