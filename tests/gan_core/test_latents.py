"""One seed, one image: whatever the batch, the request and the machine."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped] # comes without types

from gan_core.card import (
    CameraInput,
    ImageInput,
    Input,
    LabelInput,
    LatentInput,
    Resampling,
    StyleInput,
    TextInput,
    TruncationInput,
)
from gan_core.latents import (
    SEED_LIMIT,
    check_truncation,
    draw,
    latents,
    oblong,
    random_seed,
    seed_range,
)

PINNED = [0.059911, 0.0155596, -1.16444]
PINNED_AGAIN = -0.132647
SEEDS = st.integers(0, SEED_LIMIT - 1)
INPUTS: list[Input] = [
    LatentInput(dim=5),
    LatentInput(dim=5, distribution="uniform"),
    LabelInput(classes=("a", "b", "c")),
    TruncationInput(default=0.7),
    TextInput(encoder="e", dim=4),
    ImageInput(channels=3, multiple_of=12, min_side_px=20),
    CameraInput(yaw_rad=(-0.4, 0.4), pitch_rad=(0.1, 0.2)),
    StyleInput(layers=2, dim=3),
]


def test_a_normal_latent_is_philox_keyed_by_its_seed_alone() -> None:
    rng = np.random.Generator(np.random.Philox(key=7))
    expected = rng.standard_normal(6, dtype=np.float32)
    np.testing.assert_array_equal(latents(LatentInput(dim=6), [7])[0], expected)


def test_a_latent_is_the_same_for_ever() -> None:
    # pinned: a change here changes every picture anybody ever asked for by its seed
    z = latents(LatentInput(dim=3), [0])[0]
    assert [float(f"{value:.6g}") for value in z] == PINNED


@given(seed=SEEDS, n=st.integers(1, 5))
@pytest.mark.parametrize("item", INPUTS, ids=lambda item: item.role)
def test_n_images_are_the_n_single_ones(item: Input, seed: int, n: int) -> None:
    seeds = seed_range(seed, n)
    together = draw([item], seeds)[item.name]
    alone = np.concatenate([draw([item], [one])[item.name] for one in seeds])
    np.testing.assert_array_equal(together, alone)


@given(seed=SEEDS)
def test_latents_and_draw_agree(seed: int) -> None:
    item = LatentInput(dim=4)
    np.testing.assert_array_equal(latents(item, [seed]), draw([item], [seed])["z"])


@pytest.mark.parametrize("item", INPUTS, ids=lambda item: item.role)
def test_a_drawn_value_has_the_served_type_and_shape(item: Input) -> None:
    value = draw([item], [3, 4])[item.name]
    fixed = tuple(side for side in item.tensor.shape if side != -1)
    assert (str(value.dtype), value.shape[0], value.shape[-len(fixed) :]) == (
        item.tensor.dtype,
        2,
        fixed,
    )


@given(seed=SEEDS)
def test_a_uniform_latent_is_within_one(seed: int) -> None:
    z = latents(LatentInput(dim=64, distribution="uniform"), [seed])
    assert np.abs(z).max() <= 1


THRESHOLD = st.floats(0.05, 5.0)
NORMAL = LatentInput(dim=16)


@given(seed=SEEDS, threshold=THRESHOLD)
def test_a_truncated_latent_is_within_the_threshold(seed: int, threshold: float) -> None:
    assert np.abs(latents(NORMAL, [seed], threshold)).max() <= threshold


@given(seed=SEEDS, threshold=THRESHOLD)
def test_truncation_draws_again_only_what_is_beyond(seed: int, threshold: float) -> None:
    whole, truncated = latents(NORMAL, [seed]), latents(NORMAL, [seed], threshold)
    within = np.abs(whole) <= threshold
    np.testing.assert_array_equal(truncated[within], whole[within])


@given(seed=SEEDS, n=st.integers(1, 5), threshold=THRESHOLD)
def test_truncation_is_a_function_of_the_seed_alone(seed: int, n: int, threshold: float) -> None:
    seeds = seed_range(seed, n)
    together = latents(NORMAL, seeds, threshold)
    alone = np.concatenate([latents(NORMAL, [one], threshold) for one in seeds])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("threshold", [0.04, 0.5, 1.0, 2.0])
def test_truncation_gives_the_truncated_normal(threshold: float) -> None:
    z = latents(LatentInput(dim=20_000), [7], threshold)[0]
    expected = stats.truncnorm(-threshold, threshold).cdf
    assert stats.kstest(z, expected).pvalue > 0.01


def test_a_truncated_latent_is_the_same_for_ever() -> None:
    # pinned, as the whole one is: the third lies beyond 1 and is drawn again
    z = latents(LatentInput(dim=3), [0], threshold=1.0)[0]
    assert [float(f"{value:.6g}") for value in z] == [*PINNED[:2], PINNED_AGAIN]


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_a_threshold_that_nothing_lies_within_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=f"can't be truncated at {threshold}"):
        latents(NORMAL, [0], threshold)


def test_a_uniform_latent_is_not_truncated_in_silence() -> None:
    with pytest.raises(ValueError, match=r"a uniform latent can't be truncated at 0\.5"):
        latents(LatentInput(dim=4, distribution="uniform"), [0], 0.5)


def test_labels_go_round_the_classes() -> None:
    values = draw([LabelInput(classes=("a", "b", "c"))], seed_range(0, 5))["label"]
    assert values.ravel().tolist() == [0, 1, 2, 0, 1]


def test_truncation_is_its_default() -> None:
    assert draw([TruncationInput(default=0.5)], [1])["truncation"].tolist() == [[0.5]]


def test_an_image_has_a_side_that_the_model_takes() -> None:
    assert draw([INPUTS[5]], [1])["source"].shape == (1, 24, 24, 3)


@given(seed=SEEDS)
def test_a_camera_stays_within_its_ranges(seed: int) -> None:
    ((yaw, pitch),) = draw([INPUTS[6]], [seed])["camera"]
    assert -0.4001 <= yaw <= 0.4001
    assert 0.0999 <= pitch <= 0.2001


def test_seeds_count_up_from_the_first() -> None:
    assert seed_range(7, 3) == [7, 8, 9]


def test_seeds_wrap_at_two_to_the_64() -> None:
    assert seed_range(SEED_LIMIT - 1, 2) == [SEED_LIMIT - 1, 0]


def test_a_random_seed_is_another_each_time() -> None:
    assert len({random_seed() for _ in range(4)}) == 4


NORMAL, CUT = LatentInput(dim=64), LatentInput(dim=64, truncation=Resampling(maximum=1))


def test_drawn_latents_are_truncated_where_they_can_be() -> None:
    plain, cut = (draw([item], [1, 2], 0.5)["z"] for item in (NORMAL, CUT))
    assert np.abs(cut).max() <= 0.5 < np.abs(plain).max()
    np.testing.assert_array_equal(cut, latents(CUT, [1, 2], 0.5))


def test_a_truncation_that_is_an_input_is_drawn_as_asked() -> None:
    assert draw([TruncationInput()], [1, 2], 0.25)["truncation"].tolist() == [[0.25], [0.25]]


@pytest.mark.parametrize(
    ("inputs", "value", "message"),
    [
        ([NORMAL], 0.5, "no input takes a truncation"),
        ([CUT], 1.5, r"1\.5 is not in \[0\.04, 1\.0\]"),
        ([CUT], math.nan, "nan is not in"),
        ([NORMAL, TruncationInput(minimum=0.2)], 0.1, r"0\.1 is not in \[0\.2, 1\.0\]"),
    ],
)
def test_a_truncation_that_cannot_be_is_refused(
    inputs: list[Input], value: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_truncation(inputs, value)


def test_a_truncation_in_range_is_taken() -> None:
    check_truncation([CUT], 0.5)
    check_truncation([NORMAL, TruncationInput()], 1)


@pytest.mark.parametrize(
    ("limits", "sides"),
    [
        ({}, (17, 18)),
        ({"multiple_of": 8}, (24, 32)),
        ({"max_side_px": 16}, (15, 14)),
        ({"multiple_of": 8, "max_side_px": 24}, (24, 8)),
        ({"multiple_of": 8, "min_side_px": 16, "max_side_px": 24}, (24, 16)),
        ({"min_side_px": 16, "max_side_px": 16}, (16, 16)),
        ({"max_side_px": 4}, (3, 2)),
    ],
    ids=str,
)
def test_an_oblong_source_keeps_within_the_inputs_limits(
    limits: dict[str, int], sides: tuple[int, int]
) -> None:
    inputs = (ImageInput.model_validate(limits),)
    source = oblong(inputs, draw(inputs, [1, 2]))["source"]
    assert source.shape == (2, *sides, 3)
