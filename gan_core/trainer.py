"""One step of adversarial training: the Trainer protocol, and the step most variants share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from .networks import Plain
from .penalties import PenaltyInputs
from .stabilisers import EMA, Stabiliser

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from .card import LatentInput
    from .data import Batch
    from .losses import AdversarialLoss
    from .penalties import Penalty
    from .schedules import Schedule

__all__ = ["AdversarialStep", "Opponent", "Player", "Trainer", "sample_prior"]

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


class Opponent(Protocol):
    """Chooses whom G plays against in its step: D as it is, or as it will be."""

    def __call__(
        self, trainer: AdversarialStep, batch: Batch, fake: Tensor
    ) -> Callable[[Tensor, Tensor | None], Tensor]:
        """(images, label) -> logits, for this step; ``fake`` is what D will see of G."""


@dataclass(frozen=True, slots=True)
class Player:
    """One side of the game: a network, how it learns, and when."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    penalties: Sequence[Penalty] = ()
    """Added to this side's loss."""
    steps: Callable[[int], int] = lambda g_steps: 1
    """G steps done so far -> steps of this side before the other's turn."""
    lr_factor: Schedule | None = None
    """On the learning rates that the optimiser was made with; None = 1."""
    beta2: Schedule | None = None
    """Adam's second β, where it changes."""
    batch_size: int | None = None
    """Images that G makes in its own steps; None = as many as it gets real ones."""


class AdversarialStep:
    """A discriminator step on every batch, and G's steps after every ``D.steps`` of them.

    Real and fake images go through D separately, because BatchNorm would mix their statistics.
    Fakes are detached in D's step; D's parameters are frozen in G's step, and those that were
    frozen when this was made stay so. Every step draws fresh z. Fakes get the labels of the
    real batch, and so the data's label distribution. Most variants are data for this class; one
    with another algorithm writes its own ``Trainer``.

    Args:
        G: its network is a ``gan_core.networks.Generator``.
        D: its network is a ``gan_core.networks.Discriminator``.
        loss: what they minimise.
        latent: prior of z, the one that is served.
        accelerator: device, mixed precision and ranks.
        stabilisers: applied in this order.
        ema: moving average of G, if one is kept.
        opponent: whom G plays against; D as it is, if None.
        adversarial: weight of the adversarial term in G's loss, beside its penalties.

    Raises:
        ValueError: G's batch differs from D's, and the loss compares a fake with each real.
    """

    def __init__(
        self,
        G: Player,
        D: Player,
        *,
        loss: AdversarialLoss,
        latent: LatentInput,
        accelerator: Accelerator,
        stabilisers: Sequence[Stabiliser] = (),
        ema: EMA | None = None,
        opponent: Opponent | None = None,
        adversarial: float = 1.0,
    ) -> None:
        if G.batch_size and loss.needs_real:
            raise ValueError("a relativistic loss pairs fakes with reals: G's batch must be D's")
        self.players = {"G": G, "D": D}
        self.raw_G, self.raw_D = G.network, D.network
        self.learned_by_D = [p for p in D.network.parameters() if p.requires_grad]
        self.G, self.D = accelerator.prepare(G.network), accelerator.prepare(D.network)
        self.optimizer_G = accelerator.prepare(G.optimizer)
        self.optimizer_D = accelerator.prepare(D.optimizer)
        for optimizer in (G.optimizer, D.optimizer):
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
        self.loss = loss
        self.latent = latent
        self.accelerator = accelerator
        self.ema = ema
        self.stabilisers = [*stabilisers, ema] if ema else list(stabilisers)
        self.opponent = opponent
        self.adversarial = adversarial
        self.seen = 0
        self.d_steps = 0
        self.g_steps = 0
        self.d_steps_since_g = 0
        for stabiliser in self.stabilisers:
            stabiliser.attach(self)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One discriminator step, and G's steps when they are due."""
        kimg = self.seen / 1000
        self._schedule(kimg)
        for stabiliser in self.stabilisers:
            batch = stabiliser.before_step(batch, kimg)
        stats = self._discriminator_step(batch)
        self.d_steps += 1
        self.d_steps_since_g += 1
        if self.d_steps_since_g >= self.players["D"].steps(self.g_steps):
            turn = []
            for _ in range(self.players["G"].steps(self.g_steps)):
                turn.append(self._generator_step(batch))
                self.g_steps += 1
            self.d_steps_since_g = 0
            stats |= _means(turn)
        n = len(batch.real) * self.accelerator.num_processes
        self.seen += n
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
            "stabilisers": [[type(one).__name__, one.state()] for one in self.stabilisers],
            "scaler": scaler.state_dict() if scaler else None,
            "counters": [self.seen, self.d_steps, self.g_steps, self.d_steps_since_g],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state()`` returned."""
        self.raw_G.load_state_dict(state["G"])
        self.raw_D.load_state_dict(state["D"])
        self.optimizer_G.load_state_dict(state["optimizer_G"])
        self.optimizer_D.load_state_dict(state["optimizer_D"])
        names = [type(stabiliser).__name__ for stabiliser in self.stabilisers]
        if names != (saved := [name for name, _ in state["stabilisers"]]):
            raise ValueError(f"it has stabilisers {saved}, these settings {names}")
        for stabiliser, (_, its) in zip(self.stabilisers, state["stabilisers"], strict=True):
            stabiliser.load(its)
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.seen, self.d_steps, self.g_steps, self.d_steps_since_g = state["counters"]

    def view(self, images: Tensor) -> Tensor:
        """Images as the stabilisers let D see them."""
        for stabiliser in self.stabilisers:
            images = stabiliser.view(images)
        return images

    def _schedule(self, kimg: float) -> None:
        for name, optimizer in (("G", self.optimizer_G), ("D", self.optimizer_D)):
            player = self.players[name]
            factor = player.lr_factor(kimg) if player.lr_factor else 1.0
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
                if player.beta2:
                    group["betas"] = (group["betas"][0], player.beta2(kimg))

    def _discriminator_step(self, batch: Batch) -> dict[str, Tensor]:
        self._let_D_learn(learns=True)
        z = sample_prior(self.latent, len(batch.real), self.accelerator.device)
        with torch.no_grad():
            made = self.G(z, batch.label)
            fake = self.view(made)
        real = self.view(batch.real)
        real_logits, fake_logits = self.D(real, batch.label), self.D(fake, batch.label)
        loss = self.loss.discriminator(real_logits, fake_logits).mean()
        stats = {"loss/D": loss.detach(), **self._judged(real_logits, fake_logits)}
        stats["diversity"] = _spread(made) / _spread(batch.real).clamp_min(1e-6)
        inputs = self._penalty_inputs(real, fake, z, batch.label)
        loss = loss + self._penalties("D", self.d_steps, inputs, stats)
        self._apply(loss, self.optimizer_D, self.raw_D)
        return stats

    def _generator_step(self, batch: Batch) -> dict[str, Tensor]:
        self._let_D_learn(learns=False)
        player = self.players["G"]
        n = player.batch_size or len(batch.real)
        label = _resized(batch.label, n)
        z = sample_prior(self.latent, n, self.accelerator.device)
        fake = self.view(self.G(z, label))
        judge = self.opponent(self, batch, fake) if self.opponent else self.D
        fake_logits = judge(fake, label)
        compares = self.loss.needs_real or bool(player.penalties)
        real = self.view(batch.real) if compares else batch.real
        real_logits = judge(real, batch.label) if self.loss.needs_real else None
        loss = self.loss.generator(fake_logits, real_logits).mean()
        stats = {"loss/G": loss.detach()}
        loss = self.adversarial * loss
        inputs = self._penalty_inputs(real, fake, z, label)
        loss = loss + self._penalties("G", self.g_steps, inputs, stats)
        self._apply(loss, self.optimizer_G, self.raw_G)
        return stats

    def _judged(self, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
        """Mean logits, and how many images of each kind D takes for what they are."""
        real, fake = real_logits.detach(), fake_logits.detach()
        boundary = self.loss.boundary
        if boundary is None:  # only differences mean anything
            right = (real > fake).float().mean()
            accuracies = right, right
        else:
            accuracies = (real > boundary).float().mean(), (fake < boundary).float().mean()
        return {
            "logits/real": real.mean(),
            "logits/fake": fake.mean(),
            "accuracy/real": accuracies[0],
            "accuracy/fake": accuracies[1],
        }

    def _penalty_inputs(
        self, real: Tensor, fake: Tensor, z: Tensor, label: Tensor | None
    ) -> PenaltyInputs:
        networks = Plain(self.raw_G), Plain(self.raw_D)
        return PenaltyInputs(*networks, real, fake, z, label, kimg=self.seen / 1000)

    def _penalties(
        self, side: str, steps: int, inputs: PenaltyInputs, stats: dict[str, Tensor]
    ) -> Tensor | float:
        """Sum of the penalties that are due on a side; each is noted in the statistics."""
        total: Tensor | float = 0.0
        for penalty in self.players[side].penalties:
            if steps % penalty.interval == 0:
                value = penalty(inputs)
                name = penalty.name if side == "D" else f"{penalty.name}_G"
                stats[f"penalty/{name}"] = value.detach()
                total = total + penalty.interval * value
        return total

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


def sample_prior(latent: LatentInput, n: int, device: torch.device) -> Tensor:
    """N input latents z, float32 [n, dim], from the prior that is served."""
    if latent.distribution == "normal":
        return torch.randn(n, latent.dim, device=device)
    return torch.rand(n, latent.dim, device=device).mul_(2).sub_(1)


def _means(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each statistic over a turn's steps, those that have it."""
    if len(rows) == 1:
        return rows[0]
    found: dict[str, list[Tensor]] = {}
    for name, value in (item for row in rows for item in row.items()):
        found.setdefault(name, []).append(value)
    return {name: torch.stack(values).mean() for name, values in found.items()}


def _spread(images: Tensor) -> Tensor:
    """Standard deviation of a pixel over the batch, averaged over the pixels."""
    return images.detach().float().std(0).mean()


def _resized(label: Tensor | None, n: int) -> Tensor | None:
    """The labels, over again or cut, so that there are n."""
    if label is None or len(label) == n:
        return label
    return label.repeat(-(-n // len(label)))[:n]
