"""What the paper says of WGAN-GP's penalty and training, as tests of a built trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from gan_core.checks import own_images, param_group
from gan_core.networks import Plain
from gan_core.penalties import PenaltyInputs
from gan_core.theory import critic_estimates_w1

from .trainer import WGANGPConfig

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.penalties import Penalty
    from gan_core.trainer import AdversarialStep

__all__ = [
    "adam",
    "double_batch",
    "epsilon_per_sample",
    "estimates_w1",
    "five_to_one",
    "linear_decay",
    "norm_per_sample",
    "penalty_in_float32",
]


def norm_per_sample(trainer: AdversarialStep) -> bool:
    """Gradients of norm 1, 2 and 3 cost 10 · (0 + 1 + 4) / 3."""
    images = torch.randn(3, 2, 4, 4)
    norms = torch.tensor([1.0, 2.0, 3.0])
    images *= (norms / images.flatten(1).norm(dim=1))[:, None, None, None]
    # real = fake, so that ε doesn't matter
    cost = _penalty(trainer)(_inputs(_HalfSquare(), images, images))
    return bool(torch.isclose(cost, torch.tensor(50 / 3), rtol=1e-4))


def epsilon_per_sample(trainer: AdversarialStep) -> bool:
    """Between black and white, samples are of different plain greys."""
    critic = _HalfSquare()
    _penalty(trainer)(_inputs(critic, torch.ones(8, 2, 4, 4), torch.zeros(8, 2, 4, 4)))
    levels = critic.images.flatten(1)  # [8, C·H·W]
    plain = bool((levels == levels[:, :1]).all())
    return plain and len(levels[:, 0].unique()) > 1 and bool(((levels >= 0) & (levels <= 1)).all())


def penalty_in_float32(trainer: AdversarialStep) -> bool:
    """Images and logits of the penalty are float32 where the step is in mixed precision."""
    critic = _HalfSquare()
    images = torch.randn(2, 2, 4, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        cost = _penalty(trainer)(_inputs(critic, images, images))
    return {critic.images.dtype, critic.logits.dtype, cost.dtype} == {torch.float32}


def adam(trainer: AdversarialStep) -> bool:
    """Both networks are trained by Adam at 2e-4 with betas (0, 0.9)."""
    optimizers = [player.optimizer for player in trainer.players.values()]
    groups = [param_group(trainer, side) for side in "GD"]
    return all(isinstance(optimizer, torch.optim.Adam) for optimizer in optimizers) and all(
        (group["initial_lr"], group["betas"]) == (2e-4, (0.0, 0.9)) for group in groups
    )


def linear_decay(trainer: AdversarialStep) -> bool:
    """Both learning rates are on a straight line to 0 at the end of the budget."""
    times = [share * WGANGPConfig().kimg for share in (0.0, 0.25, 0.5, 1.0)]
    factors = [player.lr_factor for player in trainer.players.values()]
    return all(f is not None and [f(kimg) for kimg in times] == [1, 0.75, 0.5, 0] for f in factors)


def five_to_one(trainer: AdversarialStep) -> bool:
    """n_critic is 5 from the start."""
    return all(trainer.players["D"].steps(g_steps) == 5 for g_steps in (0, 1, 500))


def double_batch(trainer: AdversarialStep) -> bool:
    """G makes twice as many images for its own step as for a critic step."""
    batch = own_images(trainer)
    sizes: list[int] = []
    before = trainer.g_steps
    hook = trainer.raw_G.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    while trainer.g_steps == before:
        trainer.step(batch)
    hook.remove()
    return sizes[-1] == 2 * sizes[0]


def estimates_w1(trainer: AdversarialStep) -> bool:
    """Where W₁ is known, the loss and its penalty lead a critic to it."""
    return critic_estimates_w1(trainer.loss, trainer.players["D"].penalties)


class _HalfSquare(nn.Module):
    """A critic ½‖x‖², whose gradient is x; keeps what it last judged, and how."""

    images: Tensor
    logits: Tensor

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        flat = images.flatten(1)
        logits = 0.5 * (flat[:, None] @ flat[:, :, None]).flatten()  # autocast would lower this
        self.images, self.logits = images.detach(), logits.detach()
        return logits


def _penalty(trainer: AdversarialStep) -> Penalty:
    (penalty,) = trainer.players["D"].penalties
    return penalty


def _inputs(critic: nn.Module, real: Tensor, fake: Tensor) -> PenaltyInputs:
    return PenaltyInputs(
        generator=Plain(nn.Identity()),
        discriminator=Plain(critic),
        real=real,
        fake=fake,
        z=torch.zeros(len(real), 1),
        label=None,
    )
