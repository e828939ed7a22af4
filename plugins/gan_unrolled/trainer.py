"""The unrolled GAN: an opponent for ``AdversarialStep`` that is D after its next K steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from pydantic import Field, model_validator
from torch.func import functional_call

from gan_core import AdversarialConfig
from gan_core.card import LatentInput
from gan_core.export import ServedGenerator
from gan_core.layers import PointDiscriminator, PointGenerator
from gan_core.losses import NonSaturating
from gan_core.toolbox import Recipe
from gan_core.variant import is_points, require_power_of_two

from .networks import Discriminator, Generator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from gan_core.data import Batch
    from gan_core.trainer import AdversarialStep

__all__ = ["Unrolled", "UnrolledConfig", "ZeroSum", "build", "served"]


class UnrolledConfig(AdversarialConfig):
    """The settings of the paper's mixture of Gaussians, with its learning rates."""

    unroll_steps: int = Field(default=5, ge=0, le=20)
    """K, steps of D that G looks ahead; 0 = a plain GAN. Paper: 5 to 10."""
    z_dim: int = Field(default=256, ge=1)
    """Length of z, standard normal. Paper: 256."""
    width: int = Field(default=32, ge=4)
    """Channels next to the image; doubles at each halving of the side."""
    lr_G: float = Field(default=1e-3, gt=0)
    """Adam's learning rate of G. Paper: 1e-3."""
    lr_D: float = Field(default=1e-4, gt=0)
    """Adam's learning rate of D. Paper: 1e-4."""

    @model_validator(mode="after")
    def _side_can_be_halved(self) -> Self:
        if not is_points(self):
            require_power_of_two(self.resolution_px)
        return self

    def latent(self) -> LatentInput:
        """The prior of z, in training and when served."""
        return LatentInput(dim=self.z_dim)


class ZeroSum(NonSaturating):
    """G minimises −L_D as a whole (§2.2), where others leave out D(x).

    Ahead of time D(x) depends on G too, through the steps that D takes.
    """

    @property
    def needs_real(self) -> bool:
        """Yes: for D(x)."""
        return True

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """Log D(x) + log(1 − D(G(z)))."""
        return -self.discriminator(real_logits, fake_logits)  # type: ignore[arg-type] # needs_real


class Unrolled:
    """D after K more of its own steps on this batch, as a function of G (§2.2).

    The steps are those of D's Adam, with its moments as they are, and are differentiable: G
    learns how D would answer. D itself, its moments and its buffers stay untouched. D's penalties
    and clipping are not looked ahead at; of several processes each looks at its own batch.

    Args:
        steps: K.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(
        self, trainer: AdversarialStep, batch: Batch, fake: Tensor
    ) -> Callable[[Tensor, Tensor | None], Tensor]:
        """The judge that D would be."""
        D, real = trainer.raw_D, trainer.view(batch.real)
        weights = {name: p.detach().requires_grad_() for name, p in D.named_parameters()}
        buffers = {name: buffer.clone() for name, buffer in D.named_buffers()}
        adam = _Adam(trainer.players["D"].optimizer, D)
        for _ in range(self.steps):
            judge = _judge(D, {**weights, **buffers})
            logits = judge(real, batch.label), judge(fake, batch.label)
            loss = trainer.loss.discriminator(*logits).mean()
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = adam.stepped(weights, gradients)
        return _judge(D, {**weights, **buffers})


class _Adam:
    """Adam's update as a differentiable function, from an optimiser's state onwards."""

    def __init__(self, optimizer: torch.optim.Optimizer, network: nn.Module) -> None:
        self.settings = optimizer.param_groups[0]
        empty = {"step": 0, "exp_avg": 0.0, "exp_avg_sq": 0.0}
        states: list[Any] = [optimizer.state.get(p) or empty for p in network.parameters()]
        self.step = int(states[0]["step"])
        self.first = [state["exp_avg"] for state in states]
        self.second = [state["exp_avg_sq"] for state in states]

    def stepped(
        self, weights: Mapping[str, Tensor], gradients: tuple[Tensor, ...]
    ) -> dict[str, Tensor]:
        lr, (beta1, beta2), eps = (self.settings[key] for key in ("lr", "betas", "eps"))
        self.step += 1
        self.first = [
            beta1 * m + (1 - beta1) * g for m, g in zip(self.first, gradients, strict=True)
        ]
        self.second = [
            beta2 * v + (1 - beta2) * g * g for v, g in zip(self.second, gradients, strict=True)
        ]
        rate, scale = lr / (1 - beta1**self.step), 1 - beta2**self.step
        # eps inside the root: its derivative is infinite at 0, where weights don't matter yet
        return {
            name: weight - rate * m / (v / scale + eps**2).sqrt()
            for (name, weight), m, v in zip(weights.items(), self.first, self.second, strict=True)
        }


def _judge(D: nn.Module, tensors: dict[str, Tensor]) -> Callable[[Tensor, Tensor | None], Tensor]:
    """D with other parameters and buffers."""

    def judge(images: Tensor, label: Tensor | None) -> Tensor:
        logits: Tensor = functional_call(D, tensors, (images, label))
        return logits

    return judge


def build(config: UnrolledConfig, accelerator: Accelerator) -> AdversarialStep:
    """A trainer with fresh weights."""
    side, channels = config.resolution_px, config.channels
    G: nn.Module = PointGenerator(config.z_dim, norm=False)
    D: nn.Module = PointDiscriminator(config.minibatch)
    if not is_points(config):
        G = Generator(config.z_dim, config.width, side, channels)
        D = Discriminator(config.width, side, channels, config.minibatch)
    return Recipe(
        G=G,
        D=D,
        loss=ZeroSum(config.real_target),
        latent=config.latent(),
        opponent=Unrolled(config.unroll_steps) if config.unroll_steps else None,
    ).trainer(config, accelerator)


def served(generator: nn.Module, config: UnrolledConfig) -> ServedGenerator:
    """Z in, image out."""
    return ServedGenerator(generator, inputs=(config.latent(),))
