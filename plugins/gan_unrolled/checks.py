"""What the paper says of unrolling, as tests of a built trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.func import functional_call

from gan_core.checkpoint import tensors
from gan_core.data import Batch

from .trainer import Unrolled

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from gan_core.trainer import AdversarialStep

__all__ = ["differentiable", "foresight", "plain", "restored", "true_gradient", "whole_game"]


def differentiable(trainer: AdversarialStep) -> bool:
    """The judge depends on the fakes it was unrolled on: K detached steps would not."""
    fake = _images(trainer).requires_grad_()
    batch = Batch(_images(trainer))
    judge = _opponent(trainer)(trainer, batch, fake)
    logits = judge(_images(trainer), None)
    (gradient,) = torch.autograd.grad(logits.sum(), fake, allow_unused=True)
    return gradient is not None and bool(gradient.abs().max() > 0)


def true_gradient(trainer: AdversarialStep) -> bool:
    """G's loss against the D of K steps ahead changes as its gradient says, in float64."""
    trainer.step(Batch(_images(trainer)))  # so that Adam has moments
    trainer.raw_D.double()
    for state in trainer.players["D"].optimizer.state.values():
        state.update({key: state[key].double() for key in ("exp_avg", "exp_avg_sq")})
    batch = Batch(_images(trainer).double())
    fake = _images(trainer).double().requires_grad_()
    direction = torch.randn_like(fake)
    direction /= direction.norm()

    def loss(images: Tensor) -> Tensor:
        judge = _opponent(trainer)(trainer, batch, images)
        return trainer.loss.generator(judge(images, None), judge(batch.real, None)).mean()

    (gradient,) = torch.autograd.grad(loss(fake), fake)
    return _close((gradient * direction).sum(), _slope(loss, fake.detach(), direction))


def foresight(trainer: AdversarialStep) -> bool:
    """K steps ahead are what K steps of D's optimiser on the same batch would come to."""
    trainer.step(Batch(_images(trainer)))
    batch, fake, probe = Batch(_images(trainer)), _images(trainer), _images(trainer)
    opponent = _opponent(trainer)
    with torch.enable_grad():
        foreseen = opponent(trainer, batch, fake)(probe, None).detach()
    for parameter in trainer.raw_D.parameters():
        parameter.requires_grad_()
    optimizer = trainer.players["D"].optimizer
    for _ in range(opponent.steps):
        logits = trainer.raw_D(batch.real), trainer.raw_D(fake)
        optimizer.zero_grad()
        trainer.loss.discriminator(*logits).mean().backward()
        optimizer.step()
    return torch.allclose(foreseen, trainer.raw_D(probe), atol=1e-4)


def restored(trainer: AdversarialStep) -> bool:
    """Looking ahead changes neither D nor its optimiser."""
    trainer.step(Batch(_images(trainer)))
    held = {"D": trainer.raw_D.state_dict(), "optimizer": trainer.optimizer_D.state_dict()}
    before = {name: tensor.clone() for name, tensor in tensors(held).items()}
    probe = _images(trainer)
    judge = _opponent(trainer)(trainer, Batch(_images(trainer)), _images(trainer))
    changed = not torch.equal(judge(probe, None), trainer.raw_D(probe))
    held = {"D": trainer.raw_D.state_dict(), "optimizer": trainer.optimizer_D.state_dict()}
    return changed and all(torch.equal(before[k], v) for k, v in tensors(held).items())


def whole_game(trainer: AdversarialStep) -> bool:
    """G's loss is minus D's, real images included."""
    real, fake = torch.randn(2, 5)
    gained = trainer.loss.generator(fake, real)
    return torch.allclose(gained, -trainer.loss.discriminator(real, fake))


def plain(trainer: AdversarialStep) -> bool:
    """With K = 0 the judge is D."""
    images = _images(trainer)
    judge = Unrolled(0)(trainer, Batch(images), images)
    same = functional_call(trainer.raw_D, dict(trainer.raw_D.named_parameters()), (images, None))
    return torch.equal(judge(images, None), same)


def _opponent(trainer: AdversarialStep) -> Unrolled:
    if not isinstance(trainer.opponent, Unrolled):
        raise TypeError("G plays against D as it is")
    return trainer.opponent


def _images(trainer: AdversarialStep) -> Tensor:
    """Random images of the shape that G makes."""
    with torch.no_grad():
        return torch.rand_like(trainer.raw_G(torch.randn(4, trainer.latent.dim))) * 2 - 1


def _slope(
    function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor, step: float = 1e-5
) -> Tensor:
    """Central difference along a direction."""
    there = function((at + step * direction).requires_grad_())
    back = function((at - step * direction).requires_grad_())
    return ((there - back) / (2 * step)).detach()


def _close(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).abs() <= 1e-6 * theirs.abs() + 1e-9)
