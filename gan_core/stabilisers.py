"""What keeps adversarial training stable without being part of the loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import clip_grad_norm_, get_total_norm

from .penalties import Penalty, PenaltyInputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .data import Batch
    from .trainer import AdversarialStep

__all__ = [
    "EMA",
    "ClipGradients",
    "ClipWeights",
    "HistoricalAverage",
    "InstanceNoise",
    "MonitorGradients",
    "Stabiliser",
]


class Stabiliser:
    """Base: every method does nothing, so that a stabiliser writes only what it needs."""

    def attach(self, trainer: AdversarialStep) -> None:
        """Called once, when the trainer it belongs to is complete."""

    def before_step(self, batch: Batch, kimg: float) -> Batch:
        """What the step learns from instead of ``batch``, after ``kimg`` 10³ real images."""
        return batch

    def view(self, images: Tensor) -> Tensor:
        """What the discriminator sees instead of ``images`` [N, C, H, W], real and fake alike."""
        return images

    def on_gradients(self, module: nn.Module) -> None:
        """Called with a network whose gradients are complete and not yet applied."""

    def after_update(self, module: nn.Module) -> None:
        """Called with a network whose optimiser has just stepped, before anybody else uses it."""

    def after_step(self, stats: MutableMapping[str, Tensor], n: int) -> None:
        """Called after a step on ``n`` real images; may add 0-dim detached tensors to stats."""

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, nested at will: all that a resumed run needs."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state()`` returned."""


class EMA(Stabiliser):
    """Exponential moving average of a generator's weights, in ``module``.

    β = ½^(n / half-life) per step of n images. Early on the half-life is at most ``rampup``
    times the images seen (Karras et al. 2020, appendix B), so that the start is forgotten.
    Parameters are averaged; buffers (BatchNorm's running statistics, spectral norm's u and v)
    are copied, because averaging them leaves norms that are none.

    Args:
        generator: followed.
        halflife_kimg: in 10³ real images, > 0.
        rampup: share of the images seen; 0 = none.
    """

    def __init__(self, generator: nn.Module, halflife_kimg: float, rampup: float = 0.05) -> None:
        if halflife_kimg <= 0:
            raise ValueError(f"halflife_kimg {halflife_kimg} is not above 0")
        self.generator = generator
        self.module = copy.deepcopy(generator).eval().requires_grad_(requires_grad=False)
        self.halflife_kimg = halflife_kimg
        self.rampup = rampup
        self.seen = 0

    @torch.no_grad()
    def after_step(self, stats: MutableMapping[str, Tensor], n: int) -> None:
        """Move the average towards the generator."""
        self.seen += n
        halflife = self.halflife_kimg * 1000
        if self.rampup:
            halflife = min(halflife, self.seen * self.rampup)
        beta = 0.5 ** (n / halflife)
        # torch.optim's own averaging uses the same fused kernel
        torch._foreach_lerp_(
            list(self.module.parameters()), list(self.generator.parameters()), 1 - beta
        )
        for ours, theirs in zip(self.module.buffers(), self.generator.buffers(), strict=True):
            ours.copy_(theirs)

    def state(self) -> dict[str, Any]:
        """The averaged weights and the images seen."""
        return {"module": self.module.state_dict(), "seen": self.seen}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state()`` returned."""
        self.module.load_state_dict(state["module"])
        self.seen = state["seen"]


class InstanceNoise(Stabiliser):
    """Gaussian noise on all that D sees, annealed to none (Sønderby et al. 2017).

    Args:
        sigma: standard deviation at the start, in units of the [-1, 1] range.
        anneal_kimg: σ falls linearly to 0 over so many 10³ real images; inf = never.
    """

    def __init__(self, sigma: float, anneal_kimg: float = math.inf) -> None:
        if sigma < 0 or anneal_kimg <= 0:
            raise ValueError(f"sigma {sigma} is below 0, or anneal_kimg {anneal_kimg} not above 0")
        self.sigma = sigma
        self.anneal_kimg = anneal_kimg
        self.seen = 0

    def view(self, images: Tensor) -> Tensor:
        """Images + σ·N(0, 1)."""
        sigma = self.sigma * max(0.0, 1 - self.seen / (1000 * self.anneal_kimg))
        return images + sigma * torch.randn_like(images) if sigma else images

    def after_step(self, stats: MutableMapping[str, Tensor], n: int) -> None:
        """Count towards the annealing."""
        self.seen += n

    def state(self) -> dict[str, Any]:
        """The images seen."""
        return {"seen": self.seen}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state()`` returned."""
        self.seen = state["seen"]


class MonitorGradients(Stabiliser):
    """Writes each network's gradient norm to ``gradient_norm/<name>``.

    With a limit also ``gradient_excess/<name>``, the share of steps whose norm was above it:
    a mean hides a single explosion.

    Args:
        limit: of the 2-norm; 0 = none.
        networks: by the name of their statistic, for instance ``G=generator, D=discriminator``.
    """

    def __init__(self, limit: float = 0.0, **networks: nn.Module) -> None:
        self.limit = limit
        self._names = {id(network): name for name, network in networks.items()}
        self._norms: dict[str, list[Tensor]] = {}

    def on_gradients(self, module: nn.Module) -> None:
        """Measure the 2-norm over all gradients of the module."""
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        self._norms.setdefault(self._names[id(module)], []).append(get_total_norm(gradients))

    def after_step(self, stats: MutableMapping[str, Tensor], n: int) -> None:
        """Report the norms measured since the last step: their mean, of several steps of G."""
        for name, measured in self._norms.items():
            norms = torch.stack(measured)
            stats[f"gradient_norm/{name}"] = norms.mean()
            if self.limit:
                stats[f"gradient_excess/{name}"] = (norms > self.limit).float().mean()
        self._norms.clear()


class ClipGradients(Stabiliser):
    """Scales each network's gradients down to a 2-norm of at most ``max_norm``."""

    def __init__(self, max_norm: float) -> None:
        if max_norm <= 0:
            raise ValueError(f"max_norm {max_norm} is not above 0")
        self.max_norm = max_norm

    def on_gradients(self, module: nn.Module) -> None:
        """Clip in place."""
        clip_grad_norm_(module.parameters(), self.max_norm)


class ClipWeights(Stabiliser):
    """Clamps a critic's parameters to [−limit, limit] after each of its updates.

    The crude Lipschitz constraint of Arjovsky et al. 2017 (algorithm 1). BatchNorm's gains
    would be clamped as well: the critic must have none.
    """

    def __init__(self, critic: nn.Module, limit: float) -> None:
        if limit <= 0:
            raise ValueError(f"limit {limit} is not above 0")
        self.critic = critic
        self.limit = limit

    @torch.no_grad()
    def after_update(self, module: nn.Module) -> None:
        """Clamp in place."""
        if module is self.critic:
            for parameter in module.parameters():
                parameter.clamp_(-self.limit, self.limit)


class HistoricalAverage(Stabiliser):
    """‖θ − mean of all θ so far‖² in a network's loss (Salimans et al. 2016, §3.3).

    The mean is a running one: no past parameters are kept.

    Args:
        network: whose parameters.
        weight: of ``penalty``, which belongs in that network's loss.
    """

    def __init__(self, network: nn.Module, weight: float) -> None:
        self.network = network
        self.penalty = Penalty("historical_average", weight, self._distance)
        self.mean = [p.detach().clone() for p in network.parameters()]
        self.count = 1

    def _distance(self, inputs: PenaltyInputs) -> Tensor:
        pairs = zip(self.network.parameters(), self.mean, strict=True)
        return torch.stack([(p - mean).square().sum() for p, mean in pairs]).sum()

    @torch.no_grad()
    def after_update(self, module: nn.Module) -> None:
        """Take the new parameters into the mean."""
        if module is self.network:
            self.count += 1
            torch._foreach_lerp_(self.mean, list(module.parameters()), 1 / self.count)

    def state(self) -> dict[str, Any]:
        """The mean, and of how many."""
        return {"mean": self.mean, "count": self.count}

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state()`` returned."""
        for ours, saved in zip(self.mean, state["mean"], strict=True):
            ours.copy_(saved)
        self.count = state["count"]
