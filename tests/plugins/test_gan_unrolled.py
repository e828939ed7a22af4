"""The unrolled GAN: its differentiable Adam, and that each claim of its paper is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import Tensor, nn

from gan_core.data import Batch
from gan_core.layers import PointDiscriminator, PointGenerator
from gan_core.losses import NonSaturating
from gan_unrolled import trainer as unrolled
from gan_unrolled.networks import Discriminator, Generator
from gan_unrolled.trainer import Unrolled, UnrolledConfig, build
from tests.plugins.breaks import with_loss
from tests.plugins.claims import all_broken, refuted

if TYPE_CHECKING:
    from collections.abc import Callable

    from gan_core.trainer import AdversarialStep
    from tests.plugins.breaks import Break


@pytest.mark.parametrize("side_px", [8, 16, 32, 64])
def test_the_networks_take_any_power_of_two(side_px: int) -> None:
    images = Generator(5, 4, side_px, 3)(torch.randn(2, 5))
    assert images.shape == (2, 3, side_px, side_px)
    assert Discriminator(4, side_px, 3)(images).shape == (2,)


def test_points_get_small_perceptrons() -> None:
    trainer = build(UnrolledConfig(resolution_px=1, channels=2), Accelerator(cpu=True))
    assert isinstance(trainer.raw_G, PointGenerator)
    assert isinstance(trainer.raw_D, PointDiscriminator)


def test_a_side_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValidationError, match="resolution_px 24 is not a power of two"):
        UnrolledConfig(resolution_px=24)


def test_without_steps_ahead_there_is_no_opponent() -> None:
    config = UnrolledConfig(unroll_steps=0, width=4, resolution_px=8)
    assert build(config, Accelerator(cpu=True)).opponent is None


@pytest.mark.parametrize("before", [0, 3])
def test_a_step_ahead_is_adams(before: int) -> None:
    """After ``before`` real steps, the differentiable one comes to the same weights."""
    network = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(network.parameters(), 0.1, (0.5, 0.9))
    inputs = torch.randn(8, 3)

    def loss() -> Tensor:
        value: Tensor = network(inputs).square().mean()
        return value

    for _ in range(before):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    gradients = torch.autograd.grad(loss(), list(network.parameters()))
    weights = dict(network.named_parameters())
    stepped = unrolled._Adam(optimizer, network).stepped(weights, gradients)
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(stepped[name], parameter)


def test_a_weight_without_a_gradient_leaves_gs_finite() -> None:
    network = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    gradient = torch.zeros(1, 2, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    adam = unrolled._Adam(optimizer, network)
    stepped = adam.stepped(dict(network.named_parameters()), (gradient, bias))
    (found,) = torch.autograd.grad(stepped["weight"].sum(), gradient)
    assert bool(found.isfinite().all())


def test_fakes_reach_the_opponent_as_d_sees_them(trainer: AdversarialStep) -> None:
    seen: list[Tensor] = []

    def noted(trainer: AdversarialStep, batch: Batch, fake: Tensor) -> Callable[..., Tensor]:
        seen.append(fake)
        return trainer.D  # type: ignore[no-any-return] # accelerate has no types

    trainer.opponent = noted
    trainer.step(Batch(torch.rand(4, 3, 8, 8)))
    assert [fake.requires_grad for fake in seen] == [True]


class Detached(Unrolled):
    """K steps without a gradient through them: the usual mistake."""

    def __call__(self, trainer: AdversarialStep, batch: Batch, fake: Tensor) -> Any:
        return super().__call__(trainer, batch, fake.detach())


class Careless(Unrolled):
    """Takes its steps with D's own moments."""

    def __call__(self, trainer: AdversarialStep, batch: Batch, fake: Tensor) -> Any:
        for state in trainer.players["D"].optimizer.state.values():
            state["exp_avg"].mul_(0.9)
        return super().__call__(trainer, batch, fake)


class Hasty(Unrolled):
    """Takes one step fewer than it says."""

    def __call__(self, trainer: AdversarialStep, batch: Batch, fake: Tensor) -> Any:
        return Unrolled(self.steps - 1)(trainer, batch, fake)


def restless(trainer: AdversarialStep) -> None:
    """D draws random numbers, so that no judge is like another."""
    head = trainer.raw_D.get_submodule("head")
    trainer.raw_D.add_module("head", nn.Sequential(nn.Dropout(0.5), head))


def opponent(other: type[Unrolled]) -> Break:
    return lambda trainer: setattr(trainer, "opponent", other(2))


BREAKS: dict[str, Break] = {
    "G's gradient goes through D's next steps": opponent(Detached),
    "it is the true gradient, to finite differences": opponent(Detached),
    "the steps ahead are those that D would take": opponent(Hasty),
    "D is as it was after G's step": opponent(Careless),
    "G plays the whole game, real images included": with_loss(NonSaturating()),
    "no step ahead is the plain GAN": restless,
}


test_every_claim_is_broken_above = all_broken(BREAKS)
test_a_claim_is_refuted_where_it_is_untrue = refuted(BREAKS)
