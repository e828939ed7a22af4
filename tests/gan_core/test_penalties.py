"""Gradient penalties against closed forms, per sample, and in float32 under autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from gan_core.card import LatentInput
from gan_core.data import Batch
from gan_core.losses import NonSaturating
from gan_core.penalties import Penalty, PenaltyInputs, gradient_penalty, r1
from gan_core.trainer import AdversarialStep, Player

if TYPE_CHECKING:
    from accelerate import Accelerator

Images = Callable[[Tensor, Tensor | None], Tensor]


def inputs(discriminator: Images, real: Tensor, fakes: Tensor | None = None) -> PenaltyInputs:
    z = torch.zeros(len(real), 1)
    fake = torch.zeros_like(real) if fakes is None else fakes

    def generate(z: Tensor, label: Tensor | None = None) -> Tensor:
        return fake

    def judge(images: Tensor, label: Tensor | None = None) -> Tensor:
        return discriminator(images, label)

    return PenaltyInputs(generate, judge, real, fake, z, None)


def half_square(images: Tensor, label: Tensor | None) -> Tensor:
    """½‖x‖², whose gradient is x itself."""
    return 0.5 * images.flatten(1).square().sum(1)


def linear(weight: Tensor) -> Images:
    """⟨w, x⟩, whose gradient is w everywhere."""
    return lambda images, label: (images * weight).flatten(1).sum(1)


def test_r1_is_half_the_squared_gradient_per_sample() -> None:
    real = torch.zeros(2, 1, 2, 2)
    real[0, 0, 0] = torch.tensor([3.0, 4.0])  # ‖∇‖ = 5 and 0
    assert r1(1.0).term(inputs(half_square, real)).tolist() == [12.5, 0.0]


def test_r1_multiplies_the_mean_by_its_weight() -> None:
    real = torch.zeros(2, 1, 2, 2)
    real[0, 0, 0] = torch.tensor([3.0, 4.0])
    assert r1(10.0)(inputs(half_square, real)).item() == 62.5


def test_r1_is_zero_for_a_constant_discriminator() -> None:
    constant = linear(torch.tensor(0.0))
    assert r1(10.0)(inputs(constant, torch.randn(3, 1, 2, 2))).item() == 0.0


def test_r1_looks_at_reals_only() -> None:
    real = torch.ones(2, 1, 2, 2)
    near, far = (inputs(half_square, real, fake) for fake in (real, 100 * real))
    assert torch.equal(r1(1.0)(near), r1(1.0)(far))


def test_gradient_penalty_is_the_squared_distance_of_the_norm_from_one() -> None:
    weight = torch.tensor([[3.0, 4.0]])  # norm 5, wherever x̂ lies
    value = gradient_penalty(10.0)(inputs(linear(weight), torch.randn(4, 1, 1, 2)))
    assert value.item() == pytest.approx(10 * (5 - 1) ** 2, rel=1e-5)


def test_gradient_penalty_takes_the_norm_per_sample() -> None:
    real = torch.zeros(2, 1, 1, 2)
    real[0, 0, 0], real[1, 0, 0] = torch.tensor([30.0, 40.0]), torch.tensor([0.0, 0.5])
    # fake = real, so x̂ = real: norms 50 and ½; a norm over the batch would be one number
    terms = gradient_penalty().term(inputs(half_square, real, real))
    assert terms.tolist() == pytest.approx([49.0**2, 0.25], rel=1e-5)


def test_gradient_penalty_is_finite_with_a_finite_gradient_where_the_norm_is_zero() -> None:
    scale = torch.tensor(0.0, requires_grad=True)
    value = gradient_penalty(1.0)(inputs(linear(scale), torch.randn(2, 1, 2, 2)))
    value.backward()
    assert scale.grad is not None
    assert torch.isfinite(torch.stack([value.detach(), scale.grad])).all()


def test_gradient_penalty_draws_one_epsilon_per_sample() -> None:
    seen: list[Tensor] = []

    def watching(images: Tensor, label: Tensor | None) -> Tensor:
        seen.append(images.detach())
        return half_square(images, label)

    gradient_penalty().term(inputs(watching, torch.ones(16, 3, 4, 4)))  # x̂ = ε, as fake is 0
    epsilon = seen[0].flatten(1)
    one_per_sample = bool((epsilon == epsilon[:, :1]).all())
    assert (one_per_sample, len(epsilon[:, 0].unique())) == (True, 16)


def test_gradient_penalty_mixes_between_fake_and_real() -> None:
    seen: list[Tensor] = []

    def watching(images: Tensor, label: Tensor | None) -> Tensor:
        seen.append(images.detach())
        return half_square(images, label)

    real, fake = torch.full((64, 1, 1, 1), 3.0), torch.full((64, 1, 1, 1), 1.0)
    gradient_penalty().term(inputs(watching, real, fake))
    low, high = seen[0].min().item(), seen[0].max().item()
    assert (1 <= low < 1.5, 2.5 < high <= 3) == (True, True)


@pytest.mark.parametrize("penalty", [r1(2.0), gradient_penalty(2.0)], ids=lambda p: p.name)
def test_penalty_gradient_in_the_weights_equals_finite_differences(penalty: Penalty) -> None:
    # _squared_gradient_norm's own double backward, in float64: `.float()` would end it
    real = torch.randn(3, 4, dtype=torch.float64)

    def squared_norm(weight: Tensor) -> Tensor:
        images = real.detach().requires_grad_()
        logits = torch.tanh(images @ weight).square().sum(1)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient.square().sum(1)

    weight = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(squared_norm, (weight,))

    def discriminator(images: Tensor, label: Tensor | None) -> Tensor:
        return torch.tanh(images @ weight.float()).square().sum(1)

    # fake = real, so that ε plays no part
    ours = penalty(inputs(discriminator, real.float(), real.float()))
    norms = squared_norm(weight)
    theirs = 0.5 * norms if penalty.name == "r1" else (norms.sqrt() - 1).square()
    (expected,) = torch.autograd.grad(2.0 * theirs.mean(), weight)
    (actual,) = torch.autograd.grad(ours, weight)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("penalty", [r1(2.0), gradient_penalty(2.0)], ids=lambda p: p.name)
def test_penalty_is_the_same_under_bf16_autocast(penalty: Penalty) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))

    def discriminator(images: Tensor, label: Tensor | None) -> Tensor:
        logits: Tensor = network(images).flatten()
        return logits

    real = torch.randn(4, 1, 4, 4)
    values = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values.append(penalty(inputs(discriminator, real, real)))
    assert torch.equal(*values)


def test_penalty_of_a_mixed_precision_step_equals_that_of_float32(
    bf16_accelerator: Accelerator,
) -> None:
    D = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    networks = [Unconditional(nn.Unflatten(1, (1, 4, 4)), 16), Unconditional(D, 0)]
    trainer = AdversarialStep(
        *(Player(n, torch.optim.SGD(n.parameters(), 0.0)) for n in networks),
        loss=NonSaturating(),
        latent=LatentInput(dim=16),
        accelerator=bf16_accelerator,
        penalties=[r1(1.0)],
    )
    real = torch.randn(4, 1, 4, 4)
    in_float32 = r1(1.0)(inputs(lambda images, label: D(images), real))
    assert trainer.step(Batch(real))["penalty/r1"].item() == in_float32.item()


class Unconditional(nn.Module):
    """Ignores its label; has a weight, so that an optimiser has something to do."""

    def __init__(self, network: nn.Module, weights: int) -> None:
        super().__init__()
        self.network = network
        self.offset = nn.Parameter(torch.zeros(weights))

    def forward(self, values: Tensor, label: Tensor | None = None) -> Tensor:
        shifted = values + self.offset if len(self.offset) else values
        images: Tensor = self.network(shifted)
        return images


@pytest.mark.parametrize("make", [r1, gradient_penalty])
def test_a_negative_weight_is_refused(make: Callable[..., Penalty]) -> None:
    with pytest.raises(ValueError, match=r"weight -1 of penalty '\w+' is below 0"):
        make(-1)


@pytest.mark.parametrize("make", [r1, gradient_penalty])
def test_an_interval_below_one_is_refused(make: Callable[..., Penalty]) -> None:
    with pytest.raises(ValueError, match=r"interval 0 of penalty '\w+' is below 1"):
        make(1, interval=0)
