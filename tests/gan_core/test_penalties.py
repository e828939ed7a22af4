"""Penalties against closed forms and finite differences, per sample, in float32 under autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from gan_core.card import LatentInput
from gan_core.data import Batch
from gan_core.layers import spectrally_normalised
from gan_core.losses import NonSaturating
from gan_core.networks import Plain
from gan_core.penalties import (
    Penalty,
    PenaltyInputs,
    feature_matching,
    gradient_penalty,
    orthogonal,
    r1,
    r2,
)
from gan_core.schedules import linear as falling
from gan_core.trainer import AdversarialStep, Player

if TYPE_CHECKING:
    from accelerate import Accelerator

Images = Callable[[Tensor, Tensor | None], Tensor]


class Judge(nn.Module):
    """A discriminator that is one function, and its features another."""

    def __init__(self, logits: Images, features: Images) -> None:
        super().__init__()
        self.logits, self.found = logits, features

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        return self.found(images, label)

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        return self.logits(images, label)


def flat(images: Tensor, label: Tensor | None) -> Tensor:
    """The pixels themselves as features."""
    return images.flatten(1)


def inputs(
    discriminator: Images,
    real: Tensor,
    fakes: Tensor | None = None,
    *,
    features: Images = flat,
    generator: nn.Module | None = None,
    label: Tensor | None = None,
    kimg: float = 0.0,
) -> PenaltyInputs:
    fake = torch.zeros_like(real) if fakes is None else fakes
    return PenaltyInputs(
        Plain(generator or nn.Identity()),
        Plain(Judge(discriminator, features)),
        real,
        fake,
        torch.zeros(len(fake), 1),
        label,
        kimg,
    )


def matched(real: Tensor, fake: Tensor, features: Images = flat) -> Tensor:
    """Feature matching of weight 1."""
    return feature_matching()(inputs(half_square, real, fake, features=features))


def off_diagonal(*layers: nn.Module) -> float:
    """Orthogonality of weight 1."""
    network = nn.Sequential(*layers)
    value = orthogonal(1.0)(inputs(half_square, torch.zeros(2, 1), generator=network))
    return value.item()


def half_square(images: Tensor, label: Tensor | None) -> Tensor:
    """½‖x‖², whose gradient is x itself."""
    return 0.5 * images.flatten(1).square().sum(1)


def linear(weight: Tensor) -> Images:
    """⟨w, x⟩, whose gradient is w everywhere."""
    return lambda images, label: (images * weight).flatten(1).sum(1)


def one_of_two() -> Tensor:
    """Two images, whose norms are 5 and 0."""
    images = torch.zeros(2, 1, 2, 2)
    images[0, 0, 0] = torch.tensor([3.0, 4.0])
    return images


def test_r1_is_half_the_squared_gradient_per_sample() -> None:
    assert r1(1.0).term(inputs(half_square, one_of_two())).tolist() == [12.5, 0.0]


def test_r2_is_half_the_squared_gradient_per_fake() -> None:
    real = torch.full((2, 1, 2, 2), 9.0)
    assert r2(1.0).term(inputs(half_square, real, one_of_two())).tolist() == [12.5, 0.0]


@pytest.mark.parametrize("make", [r1, r2])
def test_the_mean_is_multiplied_by_the_weight(make: Callable[[float], Penalty]) -> None:
    assert make(10.0)(inputs(half_square, one_of_two(), one_of_two())).item() == 62.5


@pytest.mark.parametrize("make", [r1, r2])
def test_penalty_is_zero_for_a_constant_discriminator(make: Callable[[float], Penalty]) -> None:
    constant = linear(torch.tensor(0.0))
    images = torch.randn(3, 1, 2, 2)
    assert make(10.0)(inputs(constant, images, images)).item() == 0.0


def test_r1_looks_at_reals_only() -> None:
    real = torch.ones(2, 1, 2, 2)
    near, far = (inputs(half_square, real, fake) for fake in (real, 100 * real))
    assert torch.equal(r1(1.0)(near), r1(1.0)(far))


def test_r2_looks_at_fakes_only() -> None:
    fake = torch.ones(2, 1, 2, 2)
    near, far = (inputs(half_square, real, fake) for real in (fake, 100 * fake))
    assert torch.equal(r2(1.0)(near), r2(1.0)(far))


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


def test_feature_matching_is_the_squared_distance_of_the_means() -> None:
    real, fake = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[4.0, 0.0], [4.0, 1.0]])
    # means (1, 2) and (4, ½): 3² + 1.5²
    assert matched(real, fake).item() == 11.25


def test_feature_matching_is_multiplied_by_its_weight() -> None:
    given = inputs(half_square, torch.ones(2, 1), torch.full((2, 1), 3.0))
    assert feature_matching(0.5)(given).item() == 2.0


def test_feature_matching_sees_no_difference_between_samples_of_one_mean() -> None:
    real, fake = torch.tensor([[-3.0], [5.0]]), torch.tensor([[1.0], [1.0]])
    assert matched(real, fake).item() == 0.0


def test_feature_matching_does_not_pair_fakes_with_reals() -> None:
    real, fake = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    shuffled = fake[torch.randperm(6)]
    torch.testing.assert_close(matched(real, shuffled), matched(real, fake))


def test_feature_matching_takes_the_reals_for_a_target() -> None:
    real, fake = (torch.randn(4, 2, requires_grad=True) for _ in range(2))
    matched(real, fake).backward()
    assert (real.grad is None, fake.grad is None) == (True, False)


def test_feature_matching_compares_what_the_discriminator_judges() -> None:
    # features x², of means 1 and 9; those of the pixels would be the same
    real, fake = torch.tensor([[1.0], [-1.0]]), torch.tensor([[3.0], [-3.0]])
    assert matched(real, fake, lambda images, label: images.square()).item() == 64.0


@pytest.mark.parametrize(("reals", "fakes"), [(2, 5), (5, 2), (3, 3)])
def test_feature_matching_gives_each_image_its_own_label(reals: int, fakes: int) -> None:
    # as where G's batch is of another size: the labels are its own, and begin as the reals' do
    given: list[list[int]] = []

    def features(images: Tensor, label: Tensor | None) -> Tensor:
        assert label is not None
        given.append(label.tolist())
        return images * label[:, None]

    labels = torch.arange(fakes) % reals
    feature_matching()(
        inputs(
            half_square, torch.ones(reals, 1), torch.ones(fakes, 1), features=features, label=labels
        )
    )
    assert given == [list(range(min(reals, fakes))), labels.tolist()]


def layer(*rows: tuple[float, ...]) -> nn.Linear:
    made = nn.Linear(len(rows[0]), len(rows))
    made.weight.data = torch.tensor(rows)
    return made


def test_orthogonality_counts_the_products_of_different_rows() -> None:
    # products of the rows: 5 on both sides of the diagonal, whose own squares are left out
    assert off_diagonal(layer((1.0, 2.0), (3.0, 1.0))) == 50.0


def test_orthogonality_leaves_norms_free() -> None:
    assert off_diagonal(layer((3.0, 0.0), (0.0, 100.0))) == 0.0


def test_orthogonality_adds_up_over_layers() -> None:
    rows = (1.0, 0.0), (2.0, 0.0)  # their product is 2, twice: 8 when squared
    assert off_diagonal(layer(*rows), nn.ReLU(), layer(*rows)) == 16.0


def test_orthogonality_of_a_convolution_is_of_its_filters() -> None:
    convolution = nn.Conv2d(1, 2, (1, 2))
    convolution.weight.data = torch.tensor([[1.0, 2.0], [3.0, 1.0]]).reshape(2, 1, 1, 2)
    assert off_diagonal(convolution) == 50.0


def test_orthogonality_skips_embeddings() -> None:
    assert off_diagonal(layer((1.0, 0.0)), nn.Embedding(5, 4)) == 0.0


def test_orthogonality_is_of_what_the_optimiser_learns() -> None:
    # a spectrally normalised weight would count products that are smaller by σ²
    plain = layer((1.0, 2.0), (3.0, 1.0))
    assert off_diagonal(spectrally_normalised(plain)) == 50.0


def test_orthogonality_is_multiplied_by_its_weight() -> None:
    given = inputs(
        half_square, torch.zeros(2, 1), generator=nn.Sequential(layer((1.0, 2.0), (3.0, 1.0)))
    )
    assert orthogonal(0.1)(given).item() == pytest.approx(5.0)


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("penalty", [r1(2.0), r2(2.0), gradient_penalty(2.0)], ids=lambda p: p.name)
def test_gradient_in_the_discriminators_weights_equals_finite_differences(
    penalty: Penalty,
) -> None:
    real, fake = double(3, 4), double(3, 4)

    def value(hidden: Tensor, out: Tensor) -> Tensor:
        def logits(images: Tensor, label: Tensor | None) -> Tensor:
            return torch.tanh(images @ hidden) @ out

        torch.manual_seed(0)  # the same ε each time
        return penalty(inputs(logits, real, fake))

    weights = double(4, 3).requires_grad_(), double(3).requires_grad_()
    assert torch.autograd.gradcheck(value, weights)


def test_feature_matching_gradient_in_the_generators_weights_equals_finite_differences() -> None:
    real, z, features = double(4, 3), double(4, 2), double(3, 5)

    def value(weight: Tensor) -> Tensor:
        return matched(real, z @ weight, lambda images, label: torch.tanh(images @ features))

    assert torch.autograd.gradcheck(value, (double(2, 3).requires_grad_(),))


def test_orthogonality_gradient_in_the_generators_weights_equals_finite_differences() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    given = inputs(half_square, double(2, 1), generator=network)
    weights = [p for p in network.parameters() if p.ndim == 2]
    assert torch.autograd.gradcheck(lambda *weights: orthogonal(0.7)(given), weights)


PENALTIES = [r1(2.0), r2(2.0), gradient_penalty(2.0), feature_matching(2.0), orthogonal(2.0)]


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.name)
def test_penalty_is_the_same_under_bf16_autocast(penalty: Penalty) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))

    def logits(images: Tensor, label: Tensor | None) -> Tensor:
        made: Tensor = network(images).flatten()
        return made

    def features(images: Tensor, label: Tensor | None) -> Tensor:
        made: Tensor = network[:2](images)
        return made

    real, fake = torch.randn(4, 1, 4, 4), torch.randn(4, 1, 4, 4)
    values = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            given = inputs(logits, real, fake, features=features, generator=network)
            values.append(penalty(given))
    assert torch.equal(*values)


@pytest.mark.parametrize("penalty", PENALTIES[:-1], ids=lambda p: p.name)
def test_images_in_half_precision_are_judged_in_float32(penalty: Penalty) -> None:
    dtypes: list[torch.dtype] = []

    def logits(images: Tensor, label: Tensor | None) -> Tensor:
        dtypes.append(images.dtype)
        return images.flatten(1).sum(1)

    images = torch.ones(2, 1, 2, 2, dtype=torch.bfloat16)
    penalty(inputs(logits, images, images, features=lambda x, y: logits(x, y)[:, None]))
    assert set(dtypes) == {torch.float32}


def test_penalty_of_a_mixed_precision_step_equals_that_of_float32(
    bf16_accelerator: Accelerator,
) -> None:
    D = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    players = [
        Player(network, torch.optim.SGD(network.parameters(), 0.0), penalties=penalties)
        for network, penalties in (
            (Unconditional(nn.Unflatten(1, (1, 4, 4)), 16), []),
            (Unconditional(D, 0), [r1(1.0)]),
        )
    ]
    trainer = AdversarialStep(
        *players, loss=NonSaturating(), latent=LatentInput(dim=16), accelerator=bf16_accelerator
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


@pytest.mark.parametrize(("kimg", "expected"), [(0.0, 12.5), (1.0, 6.25), (5.0, 0.0)])
@pytest.mark.parametrize("make", [r1, r2])
def test_a_weight_may_follow_a_schedule(
    make: Callable[..., Penalty], kimg: float, expected: float
) -> None:
    penalty = make(falling(2.0, 0.0, over_kimg=2.0))
    # the mean of 12.5 and 0 is 6.25
    value = penalty(inputs(half_square, one_of_two(), one_of_two(), kimg=kimg))
    assert value.item() == expected


MAKERS = [r1, r2, gradient_penalty, feature_matching, orthogonal]


@pytest.mark.parametrize("make", MAKERS)
def test_a_negative_weight_is_refused(make: Callable[..., Penalty]) -> None:
    with pytest.raises(ValueError, match=r"weight -1 of penalty '\w+' is below 0"):
        make(-1)


@pytest.mark.parametrize("make", [r1, r2, gradient_penalty])
def test_an_interval_below_one_is_refused(make: Callable[..., Penalty]) -> None:
    with pytest.raises(ValueError, match=r"interval 0 of penalty '\w+' is below 1"):
        make(1, interval=0)
