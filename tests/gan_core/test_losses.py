"""Adversarial losses against values worked out by hand, and gradients by finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gan_core.losses import (
    AdversarialLoss,
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    Relativistic,
    RelativisticAverage,
    Wasserstein,
)

LOSSES: list[AdversarialLoss] = [
    NonSaturating(),
    NonSaturating(real_target=0.9),
    Minimax(),
    LeastSquares(),
    LeastSquares(real_target=0.9),
    Hinge(),
    Wasserstein(),
    Wasserstein(drift=0.3),
    Relativistic(),
    RelativisticAverage(),
]
LOG3 = math.log(3.0)  # sigmoid(log 3) = 3/4


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # D(x) = 3/4, D(G(z)) = 1/2: −log(3/4) − log(1/2)
        (NonSaturating(), math.log(4 / 3) + math.log(2)),
        (Minimax(), math.log(4 / 3) + math.log(2)),
        # target 0.9: −0.9·log(3/4) − 0.1·log(1/4) − log(1/2)
        (NonSaturating(0.9), 0.9 * math.log(4 / 3) + 0.1 * math.log(4) + math.log(2)),
        (LeastSquares(), 0.5 * (LOG3 - 1) ** 2),
        (LeastSquares(0.9), 0.5 * (LOG3 - 0.9) ** 2),
        (Hinge(), 1.0),  # log 3 > 1, so the real half is 0; the fake half is 1 + 0
        (Wasserstein(), -LOG3),
        (Wasserstein(drift=0.5), -LOG3 + 0.5 * LOG3**2),
        (Relativistic(), math.log(4 / 3)),  # −log σ(log 3 − 0)
    ],
)
def test_discriminator_loss_equals_the_closed_form(loss: AdversarialLoss, expected: float) -> None:
    assert loss.discriminator(double(LOG3), double(0.0)).item() == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (NonSaturating(), math.log(4 / 3)),  # −log(3/4)
        (Minimax(), math.log(1 / 4)),  # log(1 − 3/4)
        (LeastSquares(), 0.5 * (LOG3 - 1) ** 2),
        (Hinge(), -LOG3),
        (Wasserstein(), -LOG3),
    ],
)
def test_generator_loss_equals_the_closed_form(loss: AdversarialLoss, expected: float) -> None:
    assert loss.generator(double(LOG3), None).item() == pytest.approx(expected, abs=1e-12)


def test_relativistic_generator_loss_equals_the_closed_form() -> None:
    # −log σ(D(G(z)) − D(x)) = −log σ(0 − log 3) = −log(1/4)
    loss = Relativistic().generator(double(0.0), double(LOG3))
    assert loss.item() == pytest.approx(math.log(4), abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_discriminator_gradient_equals_finite_differences(loss: AdversarialLoss) -> None:
    real, fake = double(-2.3, 0.4, 1.7).requires_grad_(), double(0.2, -1.6, 3.1).requires_grad_()
    assert torch.autograd.gradcheck(loss.discriminator, (real, fake))


@pytest.mark.parametrize("loss", LOSSES)
def test_generator_gradient_equals_finite_differences(loss: AdversarialLoss) -> None:
    fake, real = double(0.2, -1.6, 3.1).requires_grad_(), double(-2.3, 0.4, 1.7).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda fake, real: loss.generator(fake, real if loss.needs_real else None), (fake, real)
    )


def test_the_relativistic_average_equals_the_closed_form() -> None:
    # reals are at 0 and log 9, fakes at 0 and 0: their means are log 3 and 0
    loss = RelativisticAverage().discriminator(double(0.0, 2 * LOG3), double(0.0, 0.0))
    # −log σ(0), −log σ(log 9); and of each fake −log(1 − σ(−log 3))
    expected = [math.log(2) + math.log(4 / 3), math.log(10 / 9) + math.log(4 / 3)]
    assert loss.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", [one for one in LOSSES if one != RelativisticAverage()])
def test_losses_are_per_sample(loss: AdversarialLoss) -> None:
    real, fake = double(-2.3, 0.4), double(0.2, -1.6)
    together = loss.discriminator(real, fake)
    alone = torch.cat([loss.discriminator(real[i : i + 1], fake[i : i + 1]) for i in range(2)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("loss", [NonSaturating(), NonSaturating(0.9), Minimax()])
def test_cross_entropy_is_exact_where_a_probability_underflows(loss: AdversarialLoss) -> None:
    # sigmoid(200) is 1 in float32, whose log(1 − 1) is infinite; the loss is 200 + 0
    wrong = loss.discriminator(torch.tensor([200.0]), torch.tensor([200.0]))
    real_half = 200 * (1 - getattr(loss, "real_target", 1.0))
    assert wrong.item() == pytest.approx(200 + real_half, rel=1e-6)


def test_hinge_gives_no_gradient_beyond_the_margin() -> None:
    real, fake = double(1.5).requires_grad_(), double(-1.5).requires_grad_()
    Hinge().discriminator(real, fake).sum().backward()
    assert (real.grad, fake.grad) == (double(0.0), double(0.0))


def test_minimax_saturates_where_non_saturating_does_not() -> None:
    gradients = []
    for loss in (Minimax(), NonSaturating()):
        logit = double(-20.0).requires_grad_()
        loss.generator(logit, None).sum().backward()
        assert logit.grad is not None
        gradients.append(logit.grad.item())
    assert gradients == pytest.approx([0.0, -1.0], abs=1e-8)


@pytest.mark.parametrize("target", [0.5, 0.0, 1.01])
def test_a_target_outside_half_to_one_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match=rf"real_target {target} is not in \(0.5, 1\]"):
        NonSaturating(target)


def test_drift_is_of_the_reals_alone() -> None:
    # Karras et al. 2018: ε·D(x)², which leaves D(G(z)) free
    loss = Wasserstein(drift=2.0)
    moved = loss.discriminator(double(3.0), double(9.0)) - loss.discriminator(
        double(3.0), double(4.0)
    )
    assert moved.item() == 5.0


@pytest.mark.parametrize("loss", [Relativistic(), RelativisticAverage()])
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(-50, 50))
def test_relativistic_losses_do_not_see_a_shift_of_all_logits(
    loss: AdversarialLoss, real: float, fake: float, shift: float
) -> None:
    for side in (loss.discriminator, lambda x, y: loss.generator(y, x)):
        here, there = (
            side(double(real), double(fake)),
            side(double(real + shift), double(fake + shift)),
        )
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", [Relativistic(), RelativisticAverage()])
def test_the_relativistic_game_is_symmetric(loss: AdversarialLoss) -> None:
    real, fake = double(-2.3, 0.4), double(0.2, -1.6)
    assert torch.equal(loss.generator(real, fake), loss.discriminator(real, fake))


def test_only_the_relativistic_losses_need_real_logits_in_the_generator_step() -> None:
    assert [loss for loss in LOSSES if loss.needs_real] == [Relativistic(), RelativisticAverage()]


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.boundary is not None], ids=repr)
def test_a_discriminator_that_cannot_tell_settles_at_the_boundary(loss: AdversarialLoss) -> None:
    # real and fake look the same, so they share a logit: the loss has its minimum there
    assert loss.boundary is not None
    logit = double(loss.boundary).requires_grad_()
    (slope,) = torch.autograd.grad(loss.discriminator(logit, logit).sum(), logit)
    assert slope.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("loss", [Wasserstein(), Relativistic(), RelativisticAverage()])
def test_a_loss_of_differences_has_no_boundary(loss: AdversarialLoss) -> None:
    assert loss.boundary is None
