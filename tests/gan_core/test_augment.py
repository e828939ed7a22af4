"""Augmentation: what it does to images, how often, and how ADA finds its strength."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gan_core.augment import (
    AdaptiveAugment,
    DiffAugment,
    _about,
    _colour,
    _cutout,
    _geometry,
    _jittered,
    _translated,
    blit_geometry_colour,
)
from gan_core.card import LatentInput
from gan_core.data import Batch
from gan_core.losses import NonSaturating
from gan_core.trainer import AdversarialStep, Player

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

    View = Callable[[Tensor], Tensor]

CPU = torch.device("cpu")


def ada(images: Tensor, p: float = 1.0) -> Tensor:
    return blit_geometry_colour(images, torch.tensor(p))


PIPES = [DiffAugment().view, ada]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("pipe", PIPES)
def test_an_augmented_image_has_the_shape_it_had(pipe: View, channels: int) -> None:
    images = torch.randn(5, channels, 16, 16)
    assert pipe(images).shape == images.shape


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pipe", PIPES)
def test_gradient_in_the_images_equals_finite_differences(pipe: View, channels: int) -> None:
    def repeatable(images: Tensor) -> Tensor:
        torch.manual_seed(1)
        return pipe(images)

    images = torch.randn(2, channels, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(repeatable, (images,), fast_mode=True)


@pytest.mark.parametrize("pipe", PIPES)
def test_each_image_has_its_own_transformation(pipe: View) -> None:
    same = torch.randn(1, 3, 16, 16).expand(12, 3, 16, 16)
    assert len(pipe(same).flatten(1).unique(dim=0)) == 12


@pytest.mark.parametrize("pipe", PIPES)
def test_the_images_themselves_stay_as_they_are(pipe: View) -> None:
    images = torch.randn(4, 3, 16, 16)
    before = images.clone()
    pipe(images)
    assert torch.equal(images, before)


def addressed(n: int, side: int) -> Tensor:
    """Images whose every pixel says where it was: 100·row + column, counted from 1."""
    place = torch.arange(1.0, side + 1)
    return (100 * place[:, None] + place).expand(n, 1, side, side)


@pytest.mark.parametrize("side", [8, 16, 32])
def test_translation_is_by_up_to_an_eighth_of_the_side(side: int) -> None:
    moved = _translated(addressed(300, side))
    rows, columns = moved.div(100, rounding_mode="floor"), moved % 100
    here, there = torch.arange(1.0, side + 1)[:, None], torch.arange(1.0, side + 1)
    y, x = ((found - place)[moved > 0] for found, place in ((rows, here), (columns, there)))
    most = side // 8
    assert [end.item() for end in (y.min(), y.max(), x.min(), x.max())] == [-most, most] * 2


def test_translation_moves_an_image_as_a_whole() -> None:
    (moved,) = _translated(addressed(1, 16))[:, 0]
    rows, columns = moved.div(100, rounding_mode="floor"), moved % 100
    place = torch.arange(1.0, 17)
    left = moved > 0
    assert len((rows - place[:, None])[left].unique()) == 1
    assert len((columns - place)[left].unique()) == 1


def test_translation_brings_in_zeros() -> None:
    moved = _translated(torch.ones(300, 1, 16, 16))
    assert moved.unique().tolist() == [0.0, 1.0]
    kept = moved.mean((2, 3)).flatten()
    # two rows and two columns at most: (14/16)² of the image stay
    assert [kept.min().item(), kept.max().item()] == pytest.approx([(14 / 16) ** 2, 1.0])


@pytest.mark.parametrize("side", [8, 16, 32])
def test_cutout_is_a_square_of_half_the_side_where_it_fits(side: int) -> None:
    holes = _cutout(torch.ones(300, 2, side, side)) == 0
    heights, widths = holes[:, 0].any(2).sum(1), holes[:, 0].any(1).sum(1)
    # its centre is within the image: at least half of each of its sides is
    extremes = [(length.min().item(), length.max().item()) for length in (heights, widths)]
    assert extremes == [(side // 4, side // 2)] * 2
    assert torch.equal(holes.sum((1, 2, 3)), 2 * heights * widths)


def test_cutout_leaves_the_rest_alone() -> None:
    images = torch.rand(50, 3, 16, 16) + 1
    made = _cutout(images)
    assert torch.equal(made[made != 0], images[made != 0])


def test_cutout_falls_everywhere() -> None:
    covered = (_cutout(torch.ones(2000, 1, 16, 16)) == 0).float().mean((0, 1))
    assert covered.min() > 0.05


def test_jitter_shifts_brightness_by_up_to_a_half() -> None:
    # saturation and contrast leave the mean of an image where it is
    images = torch.randn(2000, 3, 4, 4)
    shift = (_jittered(images) - images).mean((1, 2, 3))
    assert shift.abs().max() <= 0.5001
    assert shift.std().item() == pytest.approx(12**-0.5, abs=0.02)  # of a uniform one


def test_jitter_scales_contrast_by_a_half_to_three_halves() -> None:
    images = torch.randn(2000, 1, 4, 4)  # grey: saturation does nothing
    factor = _jittered(images).std((1, 2, 3)) / images.std((1, 2, 3))
    assert (factor.min().item(), factor.max().item()) == pytest.approx((0.5, 1.5), abs=0.01)


def test_jitter_scales_saturation_by_up_to_two() -> None:
    images = torch.randn(2000, 3, 4, 4)
    made = _jittered(images)
    grey, made_grey = (x.mean(1, keepdim=True) for x in (images, made))
    contrast = made_grey.std((1, 2, 3)) / grey.std((1, 2, 3))
    colour = (made - made_grey).std((1, 2, 3)) / (images - grey).std((1, 2, 3))
    factor = colour / contrast
    assert (factor.min().item(), factor.max().item()) == pytest.approx((0.0, 2.0), abs=0.02)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_ada_of_no_probability_is_the_identity(channels: int) -> None:
    images = torch.rand(6, channels, 16, 16) * 2 - 1
    torch.testing.assert_close(ada(images, 0.0), images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_ada_of_probability_one_leaves_no_image_alone(channels: int) -> None:
    images = torch.rand(64, channels, 16, 16) * 2 - 1
    changed = (ada(images) - images).flatten(1).abs().amax(1)
    assert changed.min() > 0.01


@pytest.mark.parametrize("p", [0.25, 0.7])
def test_ada_brightens_with_the_given_probability(p: float) -> None:
    # nothing but brightness moves a 0, wherever it comes from
    shift = ada(torch.zeros(20_000, 1, 2, 2), p)[:, 0, 0, 0]
    chosen = shift[shift != 0]
    # six standard errors
    assert len(chosen) / 20_000 == pytest.approx(p, abs=6 * (p * (1 - p) / 20_000) ** 0.5)
    assert chosen.std().item() == pytest.approx(0.2, rel=6 / (2 * len(chosen)) ** 0.5)


def test_nothing_foreign_comes_in_at_the_borders() -> None:
    flat = ada(torch.full((200, 1, 16, 16), 0.5))
    assert flat.flatten(1).std(1).max() < 1e-5


def test_no_direction_is_preferred_by_ada() -> None:
    # the mean over many draws of a corner's light is that of any other corner's
    corner = torch.zeros(1, 1, 12, 12)
    corner[..., :5, :4] = 1.0
    mean = ada(corner.expand(8000, 1, 12, 12)).mean((0, 1))
    # six standard errors of a difference, which deviates by less than 0.7
    for other in (mean.rot90(), mean.rot90(2), mean.flip(0), mean.flip(1)):
        torch.testing.assert_close(other, mean, rtol=0, atol=6 * 0.7 / 8000**0.5)


def slant(vectors: Tensor) -> Tensor:
    """How far [N, 2] are from the nearest axis, as an angle counted four times."""
    return 4 * torch.atan2(vectors[:, 1], vectors[:, 0])


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_an_image_is_turned_with_the_given_probability(p: float) -> None:
    # by flips, right angles and scalings alone, axes stay axes
    matrices = _geometry(10_000, torch.tensor(p), CPU)
    turned = (slant(matrices[:, 0, :2]).sin().abs() > 1e-3) | (
        slant(matrices[:, :2, 0]).sin().abs() > 1e-3
    )
    # six standard errors
    share = turned.float().mean().item()
    assert share == pytest.approx(p, abs=6 * (p * (1 - p) / 10_000) ** 0.5)


@pytest.mark.parametrize("side", ["rows", "columns"])
def test_both_rotations_are_by_any_angle(side: str) -> None:
    # the one before the anisotropic scaling turns the columns, the one after it the rows
    matrices = _geometry(10_000, torch.tensor(1.0), CPU)
    angles = slant(matrices[:, 0, :2] if side == "rows" else matrices[:, :2, 0])
    means = [angles.cos().mean().item(), angles.sin().mean().item()]
    assert means == pytest.approx([0.0, 0.0], abs=6 * 0.5**0.5 / 100)


def test_grey_stays_grey() -> None:
    # brightness, contrast, luma flip, hue and saturation all leave the grey axis where it is
    grey = torch.rand(50, 1, 8, 8).expand(50, 3, 8, 8)
    made = ada(grey)
    torch.testing.assert_close(made, made[:, :1].expand_as(made), rtol=0, atol=1e-5)


def test_a_third_of_a_turn_of_hue_exchanges_the_channels() -> None:
    grey = torch.full((3,), 3**-0.5)
    (turned,) = _about(grey, torch.tensor([2 * math.pi / 3]))
    colour = torch.tensor([0.2, -0.5, 0.9, 1.0])
    torch.testing.assert_close(turned @ colour, torch.tensor([0.9, 0.2, -0.5, 1.0]))


def test_colours_are_transformed_in_the_papers_order_of_magnitude() -> None:
    matrices = _colour(20_000, torch.tensor(1.0), CPU)
    # of rows and columns that add up, only contrast and the flip of luma are left: ±2^N(0, ½²)
    along = matrices[:, :3, :3].sum((1, 2)) / 3
    assert along.abs().log2().std().item() == pytest.approx(0.5, rel=0.03)
    assert (along < 0).float().mean().item() == pytest.approx(0.5, abs=6 * 0.5 / 20_000**0.5)


class Given(nn.Module):
    """Makes ones; D notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[Tensor] = []

    def forward(self, values: Tensor, label: Tensor | None = None) -> Tensor:
        if values.ndim == 2:
            return torch.ones(len(values), 1, 16, 16) * self.weight
        self.seen.append(values.detach())
        return values.flatten(1).mean(1) * self.weight


def test_real_and_fake_are_augmented_and_so_in_the_generators_step(
    accelerator: Accelerator,
) -> None:
    G, D = Given(), Given()
    players = [Player(n, torch.optim.SGD(n.parameters(), 0.0)) for n in (G, D)]
    trainer = AdversarialStep(
        *players,
        loss=NonSaturating(),
        latent=LatentInput(dim=3),
        accelerator=accelerator,
        stabilisers=[DiffAugment()],
    )
    trainer.step(Batch(torch.ones(4, 1, 16, 16)))
    # each image has its hole
    assert [(images == 0).any(3).any(2).all().item() for images in D.seen] == [True] * 3


def adapted(accuracies: list[float], n: int = 10, start: float = 0.0, **settings: Any) -> float:
    """ADA's probability after steps of n images with those accuracies on reals."""
    augment = AdaptiveAugment(**settings)
    augment.p = torch.tensor(start)
    for accuracy in accuracies:
        augment.after_step({"accuracy/real": torch.tensor(accuracy)}, n)
    return augment.p.item()


def test_the_probability_starts_at_none() -> None:
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(AdaptiveAugment().view(images), images, rtol=0, atol=1e-5)


def test_the_probability_reaches_one_in_the_papers_time() -> None:
    # 4,000 images in 100 steps of 40: half of them bring it half the way
    assert adapted([1.0] * 50, n=40, kimg=4.0) == pytest.approx(0.48)  # 12 changes of 0.04
    assert adapted([1.0] * 100, n=40, kimg=4.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    # target 0.6 of E[sign D(x)] = 2·accuracy − 1: at an accuracy of 0.8
    [(0.81, 0.54), (0.79, 0.46), (1.0, 0.54), (0.0, 0.46)],
)
def test_the_probability_rises_while_the_discriminator_is_overconfident(
    accuracy: float, expected: float
) -> None:
    assert adapted([accuracy] * 4, start=0.5, kimg=1.0) == pytest.approx(expected)


@pytest.mark.parametrize(("target", "expected"), [(0.5, 0.54), (0.9, 0.46)])
def test_the_target_is_the_configured_one(target: float, expected: float) -> None:
    assert adapted([0.9] * 4, start=0.5, kimg=1.0, target=target) == pytest.approx(expected)


@pytest.mark.parametrize(("steps", "expected"), [(3, 0.0), (4, 0.04), (7, 0.04), (8, 0.08)])
def test_the_probability_changes_every_fourth_step(steps: int, expected: float) -> None:
    assert adapted([1.0] * steps, kimg=1.0) == pytest.approx(expected)


def test_the_steps_between_two_changes_are_averaged() -> None:
    # E[sign] is 1, 1, 1 and −1: ½ on average, below the target though most are above
    assert adapted([1.0, 1.0, 1.0, 0.0], start=0.5, kimg=1.0) == pytest.approx(0.46)


def test_what_was_seen_before_a_change_counts_no_more() -> None:
    assert adapted([1.0] * 4 + [0.79] * 4, start=0.5, kimg=1.0) == pytest.approx(0.5)


def test_the_probability_follows_the_signs_of_all_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # here every real is judged right, and elsewhere every one wrong: 0 on average
    elsewhere = SimpleNamespace(
        is_initialized=lambda: True,
        get_world_size=lambda: 2,
        all_reduce=lambda signs: signs.sub_(4.0),
    )
    monkeypatch.setattr("gan_core.augment.distributed", elsewhere)
    assert adapted([1.0] * 4, start=0.5, kimg=1.0, target=0.3) == pytest.approx(0.46)


@given(accuracies=st.lists(st.floats(0, 1), max_size=40), n=st.integers(1, 500))
def test_the_probability_stays_one(accuracies: list[float], n: int) -> None:
    assert 0 <= adapted(accuracies, n=n, start=0.5, kimg=1.0) <= 1


def test_the_probability_is_reported() -> None:
    augment = AdaptiveAugment(kimg=1.0)
    for _ in range(4):
        stats = {"accuracy/real": torch.tensor(1.0)}
        augment.after_step(stats, 10)
    assert stats["augment/p"].item() == pytest.approx(0.04)


def test_a_loaded_augmentation_goes_on_as_the_saved_one() -> None:
    ours, theirs = AdaptiveAugment(kimg=1.0), AdaptiveAugment(kimg=1.0)
    ours.p = torch.tensor(0.5)
    for _ in range(6):  # in the middle of the next four
        ours.after_step({"accuracy/real": torch.tensor(1.0)}, 10)
    theirs.load(ours.state())
    for _ in range(2):
        # E[sign] is ½ here, and ¾ with the two before
        theirs.after_step({"accuracy/real": torch.tensor(0.75)}, 10)
    assert theirs.p.item() == pytest.approx(0.58)
