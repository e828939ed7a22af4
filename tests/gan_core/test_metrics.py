"""Each metric by hand, by a naive loop, or by the library that published numbers come from."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm  # type: ignore[import-untyped] # comes without types
from scipy.spatial.distance import cdist  # type: ignore[import-untyped] # comes without types
from scipy.special import softmax  # type: ignore[import-untyped] # comes without types
from scipy.stats import entropy  # type: ignore[import-untyped] # comes without types
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from gan_core import metrics
from gan_core.errors import ConfigError
from gan_core.metrics import (
    METRICS,
    Measured,
    Metric,
    Seen,
    classes_covered,
    copied_fraction,
    coverage,
    density,
    fid,
    inception_score,
    kid,
    label_accuracy,
    mode_score,
    ms_ssim,
    nearest,
    neighbour_precision,
    neighbour_recall,
    path_length,
)

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Neighbours = Callable[[Seen, Seen], float]
METRICS_BY_NAME = {metric.name: metric for metric in METRICS}


def seen(features: object) -> Seen:
    return Seen(np.asarray(features, dtype=np.float64))


def classified(logits: Array, labels: object = None) -> Seen:
    """What a classifier made of images, whose features don't matter."""
    asked = None if labels is None else np.asarray(labels)
    return Seen(np.zeros((len(logits), 1)), np.asarray(logits, dtype=np.float64), asked)


def pictures(pixels: Pixels, labels: object = None) -> Seen:
    return Seen(
        np.zeros((len(pixels), 1)),
        labels=None if labels is None else np.asarray(labels),
        pixels=pixels,
    )


def value(found: float | Measured) -> float:
    return found.value if isinstance(found, Measured) else found


def correlated(n: int, dim: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    mixed: Array = rng.standard_normal((n, dim)) @ rng.standard_normal((dim, dim))
    shifted: Array = mixed + rng.standard_normal(dim)
    return shifted


def gaussian(n: int, dim: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((n, dim))


def with_moments(mean: Array, std: Array) -> Seen:
    """Four rows whose sample mean and (diagonal) covariance are exactly these."""
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3 / 4)
    return seen(mean + corners * std)


# Fréchet distance


def test_fid_of_diagonal_gaussians_is_the_closed_form() -> None:
    real = with_moments(np.array([0.0, 0.0]), np.array([1.0, 2.0]))
    fake = with_moments(np.array([3.0, 4.0]), np.array([2.0, 5.0]))
    # ‖μ‖² + Σ(σ₁ − σ₂)² = 25 + 1 + 9
    assert fid(real, fake).value == pytest.approx(35.0, rel=1e-12)


def test_fid_equals_scipys_matrix_root() -> None:
    real, fake = correlated(200, 6, 0), correlated(150, 6, 1)
    cov_real, cov_fake = np.cov(real.T), np.cov(fake.T)
    cross = sqrtm(cov_real @ cov_fake)
    means = ((real.mean(0) - fake.mean(0)) ** 2).sum()
    expected = means + np.trace(cov_real + cov_fake - 2 * cross).real
    # both in float64; the root of a 6×6 matrix loses a few digits
    assert fid(seen(real), seen(fake)).value == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("rows", [300, 20], ids=["regular", "singular"])
def test_fid_equals_torch_fidelitys(rows: int) -> None:
    real, fake = correlated(rows, 32, 0), correlated(rows, 32, 1)
    statistics = [fid_features_to_statistics(torch.from_numpy(side)) for side in (real, fake)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)
    # its eigenvalues of a product that isn't symmetric, and singular, are good to about 1e-8
    assert fid(seen(real), seen(fake)).value == pytest.approx(
        expected["frechet_inception_distance"], rel=1e-5
    )


def test_fid_of_a_set_with_itself_is_zero() -> None:
    real = seen(correlated(50, 6, 0))
    assert fid(real, real).value == pytest.approx(0.0, abs=1e-6)


def test_fid_is_symmetric() -> None:
    real, fake = seen(correlated(80, 6, 0)), seen(correlated(50, 6, 1))
    assert fid(real, fake).value == pytest.approx(fid(fake, real).value, rel=1e-9)


def test_fid_of_constant_features_is_the_distance_of_the_means() -> None:
    assert fid(seen(np.ones((4, 3))), seen(np.zeros((4, 3)))).value == pytest.approx(3.0)


def test_fid_takes_a_single_feature() -> None:
    assert fid(seen([[0.0], [2.0]]), seen([[5.0], [7.0]])).value == pytest.approx(25.0)


@pytest.mark.parametrize(("n_real", "n_fake"), [(16, 40), (40, 16), (2, 2)])
def test_fid_of_too_few_images_says_so(n_real: int, n_fake: int) -> None:
    caveats = fid(seen(gaussian(n_real, 16, 0)), seen(gaussian(n_fake, 16, 1))).caveats
    fewest = min(n_real, n_fake)
    assert caveats == (f"{fewest} images for 16 features: biased up; prefer kid",)


def test_fid_of_enough_images_has_no_caveat() -> None:
    assert fid(seen(gaussian(17, 16, 0)), seen(gaussian(17, 16, 1))).caveats == ()


# kernel distance


def naive_kid(real: Array, fake: Array) -> float:
    """The estimator's definition, term by term."""

    def kernel(x: Array, y: Array) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    n, m = len(real), len(fake)
    within = [
        sum(kernel(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j)
        / (len(a) * (len(a) - 1))
        for a in (real, fake)
    ]
    across = sum(kernel(x, y) for x in real for y in fake) / (n * m)
    return sum(within) - 2 * across


def test_kid_equals_the_sum_over_all_pairs() -> None:
    real, fake = correlated(12, 5, 0), correlated(9, 5, 1)
    assert kid(seen(real), seen(fake)).value == pytest.approx(naive_kid(real, fake), rel=1e-10)


def torch_fidelitys_kid(real: Array, fake: Array, subsets: int, size: int) -> tuple[float, float]:
    found = kid_features_to_metric(
        *map(torch.from_numpy, (fake, real)),
        kid_subsets=subsets,
        kid_subset_size=size,
        verbose=False,
    )
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]


def test_kid_equals_torch_fidelitys_over_one_subset_of_all() -> None:
    real, fake = correlated(120, 32, 0), correlated(120, 32, 1)
    expected, _ = torch_fidelitys_kid(real, fake, subsets=1, size=120)
    assert kid(seen(real), seen(fake)).value == pytest.approx(expected, rel=1e-9)


def test_kid_is_what_torch_fidelitys_subsets_scatter_about() -> None:
    real, fake = correlated(200, 8, 0), correlated(200, 8, 1)
    mean, sd = torch_fidelitys_kid(real, fake, subsets=400, size=50)
    # five standard errors of the mean of 400 subsets
    assert kid(seen(real), seen(fake)).value == pytest.approx(mean, abs=5 * sd / 20)


def test_kid_never_holds_all_pairs_at_once() -> None:
    rows = seen(correlated(4000, 2, 0))
    tracemalloc.start()
    try:
        kid(rows, rows)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4000 * 4000 * 8 / 2


def test_kid_is_unbiased_for_one_distribution() -> None:
    # the mean over 200 pairs of sets is within six standard errors of 0
    values = [
        kid(seen(gaussian(20, 3, 2 * i)), seen(gaussian(20, 3, 2 * i + 1))).value
        for i in range(200)
    ]
    assert abs(np.mean(values)) < 6 * np.std(values) / 200**0.5


# what a classifier says


def sharp(classes: list[int], k: int, logit: float = 1000.0) -> Array:
    """Logits of a classifier that is sure."""
    found: Array = np.eye(k)[classes] * logit
    return found


def naive_inception_score(logits: Array) -> float:
    """Without splits."""
    given = softmax(logits, axis=1)
    return math.exp(np.mean([entropy(p, given.mean(0)) for p in given]))


def test_the_inception_score_of_sure_and_balanced_classes_is_their_number() -> None:
    # 400 of each of 5 classes, shuffled into 10 splits: each holds about as many of each
    found = inception_score(seen([]), classified(sharp([0, 1, 2, 3, 4] * 400, 5)))
    assert found.value == pytest.approx(5, rel=0.03)


def test_the_inception_score_of_an_unsure_classifier_is_one() -> None:
    assert inception_score(seen([]), classified(np.zeros((20, 5)))).value == pytest.approx(1)


def test_the_inception_score_of_one_class_is_one() -> None:
    assert inception_score(seen([]), classified(sharp([2] * 60, 5))).value == pytest.approx(1)


def test_the_inception_score_equals_torch_fidelitys() -> None:
    logits = 2 * gaussian(205, 7, 0)
    expected = isc_features_to_metric(torch.from_numpy(logits), 10)
    found = inception_score(seen([]), classified(logits))
    assert (found.value, found.sd) == pytest.approx(
        (expected["inception_score_mean"], expected["inception_score_std"]), rel=1e-9
    )


def test_the_inception_score_is_the_mean_over_ten_splits_of_a_fixed_shuffle() -> None:
    logits = 2 * gaussian(200, 7, 0)
    shuffled = logits[np.random.RandomState(2020).permutation(200)]
    values = [naive_inception_score(part) for part in np.split(shuffled, 10)]
    found = inception_score(seen([]), classified(logits))
    assert (found.value, found.sd) == pytest.approx((np.mean(values), np.std(values)), rel=1e-9)


@pytest.mark.parametrize(("n", "few"), [(49, True), (50, False)])
def test_the_inception_score_of_few_images_says_so(n: int, few: bool) -> None:
    caveats = inception_score(seen([]), classified(gaussian(n, 5, 0))).caveats
    expected = (f"{n} images in 10 splits for 5 classes: biased down",) if few else ()
    assert caveats == expected


def naive_mode_score(real: Array, fake: Array, *, swapped: bool = False) -> float:
    """With the last term's arguments ``swapped``, or as defined."""
    given, wanted = softmax(fake, axis=1), softmax(real, axis=1).mean(0)
    made = given.mean(0)
    last = entropy(made, wanted) if swapped else entropy(wanted, made)
    return math.exp(np.mean([entropy(p, wanted) for p in given]) - last)


def test_the_mode_score_is_its_definition() -> None:
    real, fake = 2 * gaussian(60, 5, 0), 2 * gaussian(40, 5, 1) + np.array([2, 0, 0, -1, 0])
    assert mode_score(classified(real), classified(fake)) == pytest.approx(
        naive_mode_score(real, fake), rel=1e-10
    )


def test_the_mode_score_is_not_the_inception_score() -> None:
    real, fake = gaussian(60, 5, 0), 2 * gaussian(40, 5, 1) + np.array([8, 0, 0, 0, 0])
    found = mode_score(classified(real), classified(fake))
    assert abs(found / naive_inception_score(fake) - 1) > 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_the_last_terms_arguments_swapped_it_would_be_the_inception_score(seed: int) -> None:
    # E KL(p ‖ p*) − KL(p̄ ‖ p*) = E KL(p ‖ p̄), whatever p* is
    fake = 2 * gaussian(40, 5, 9) + np.array([2, 0, 0, -1, 0])
    real = 3 * gaussian(30, 5, seed)
    assert naive_mode_score(real, fake, swapped=True) == pytest.approx(
        naive_inception_score(fake), rel=1e-10
    )


def test_the_mode_score_of_the_datas_own_classes_is_the_inception_score() -> None:
    logits = 2 * gaussian(50, 5, 0)
    assert mode_score(classified(logits), classified(logits[::-1])) == pytest.approx(
        naive_inception_score(logits), rel=1e-10
    )


def test_the_mode_score_falls_to_zero_where_a_class_is_never_made() -> None:
    real = classified(sharp([0, 1, 2, 3] * 10, 4))
    assert mode_score(real, classified(sharp([0, 1, 2, 3] * 5, 4))) == pytest.approx(4)
    assert mode_score(real, classified(sharp([0, 1, 2] * 5, 4))) == pytest.approx(0, abs=1e-12)


def test_label_accuracy_is_the_share_taken_for_what_was_asked() -> None:
    fake = classified(sharp([0, 1, 2, 2], 3), labels=[0, 1, 1, 2])
    assert label_accuracy(seen([]), fake) == 0.75


def test_classes_covered_counts_those_that_some_image_is_taken_for() -> None:
    assert classes_covered(seen([]), classified(sharp([4, 1, 4, 1, 2], 6))) == 3


# neighbours


def radius(points: Array, i: int, k: int) -> float:
    """Distance of point i to its k-th nearest other."""
    others = [math.dist(points[i], points[j]) for j in range(len(points)) if j != i]
    return sorted(others)[k - 1]


def naive_precision(real: Array, fake: Array) -> float:
    inside = [any(math.dist(f, r) <= radius(real, i, 3) for i, r in enumerate(real)) for f in fake]
    return float(np.mean(inside))


def naive_recall(real: Array, fake: Array) -> float:
    return naive_precision(fake, real)


def naive_neighbour_precision(real: Array, fake: Array) -> float:
    inside = [
        sorted(math.dist(f, r) for r in real)[2] <= radius(fake, i, 3) for i, f in enumerate(fake)
    ]
    return float(np.mean(inside))


def naive_neighbour_recall(real: Array, fake: Array) -> float:
    return naive_neighbour_precision(fake, real)


def naive_density(real: Array, fake: Array) -> float:
    inside = [math.dist(f, r) <= radius(real, i, 5) for f in fake for i, r in enumerate(real)]
    return sum(inside) / (5 * len(fake))


def naive_coverage(real: Array, fake: Array) -> float:
    reached = [any(math.dist(f, r) <= radius(real, i, 5) for f in fake) for i, r in enumerate(real)]
    return float(np.mean(reached))


def copied(real: Seen, fake: Seen) -> float:
    return copied_fraction(real, fake).value


def precision(real: Seen, fake: Seen) -> float:
    return metrics.precision(real, fake).value


def recall(real: Seen, fake: Seen) -> float:
    return metrics.recall(real, fake).value


def naive_copied(real: Array, fake: Array) -> float:
    nearer = []
    for f in fake:
        i = min(range(len(real)), key=lambda i: math.dist(f, real[i]))
        nearer.append(math.dist(f, real[i]) <= radius(real, i, 1))
    return float(np.mean(nearer))


NAIVE: dict[Neighbours, Callable[[Array, Array], float]] = {
    precision: naive_precision,
    recall: naive_recall,
    neighbour_precision: naive_neighbour_precision,
    neighbour_recall: naive_neighbour_recall,
    density: naive_density,
    coverage: naive_coverage,
    copied: naive_copied,
}
by_neighbours = pytest.mark.parametrize("metric", NAIVE, ids=lambda metric: metric.__name__)


@by_neighbours
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_metric_of_neighbours_equals_loops(metric: Neighbours, shift: float) -> None:
    real, fake = gaussian(40, 2, 0), gaussian(30, 2, 1) + shift
    found = metric(seen(real), seen(fake))
    assert found == pytest.approx(NAIVE[metric](real, fake), abs=1e-7)
    assert found > 0  # it says something of these sets


@by_neighbours
def test_a_metric_of_neighbours_does_not_depend_on_the_block(
    metric: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fake = seen(gaussian(40, 2, 0)), seen(gaussian(30, 2, 1))
    whole = metric(real, fake)
    monkeypatch.setattr("gan_core.pairs.BLOCK", 7)
    assert metric(real, fake) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize(
    "metric",
    [metric for metric in NAIVE if metric not in (precision, recall)],  # which are torch's
    ids=lambda metric: metric.__name__,
)
def test_a_metric_of_neighbours_never_holds_all_pairs_at_once(
    metric: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of 1500² pairs, 18 MB, each block holds 15,000
    monkeypatch.setattr("gan_core.pairs.BLOCK_PAIRS", 15_000)
    real, fake = seen(gaussian(1500, 1, 0)), seen(gaussian(1500, 1, 1))
    metric(real, fake)
    tracemalloc.start()
    try:
        metric(real, fake)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1e6


def test_precision_and_recall_equal_torch_fidelitys() -> None:
    real, fake = gaussian(150, 4, 0), gaussian(120, 4, 1) * 0.8 + 0.3
    expected = prc_features_to_metric(
        *map(torch.from_numpy, (fake, real)),  # generated ones come first there
        prc_neighborhood=3,
        prc_batch_size=1000,
        save_cpu_ram=False,
        verbose=False,
    )
    found = precision(seen(real), seen(fake)), recall(seen(real), seen(fake))
    # its shares are means in float32
    assert found == pytest.approx((expected["precision"], expected["recall"]), rel=1e-6)
    assert found[0] != found[1]


EXPECTED_OF_THE_SAME: dict[Neighbours, float] = {
    precision: 1.0,
    recall: 1.0,
    neighbour_precision: 1.0,
    neighbour_recall: 1.0,
    density: 1.2,  # a ball holds its 5 neighbours and its centre: 6/5
    coverage: 1.0,
    copied: 1.0,
}


@by_neighbours
def test_fakes_that_are_the_reals_get_the_known_value(
    metric: Neighbours,
) -> None:
    real = gaussian(50, 3, 0)
    assert metric(seen(real), seen(real[::-1])) == pytest.approx(EXPECTED_OF_THE_SAME[metric])


@by_neighbours
def test_far_away_fakes_get_nothing(metric: Neighbours) -> None:
    assert metric(seen(gaussian(50, 3, 0)), seen(gaussian(40, 3, 1) + 1000)) == 0


def cluster_and_outlier() -> tuple[Seen, Seen]:
    """Reals in a cluster, and one far off; fakes in the emptiness between."""
    real = np.concatenate([gaussian(50, 2, 0), [[100.0, 0.0]]])
    return seen(real), seen(gaussian(40, 2, 1) + np.array([50.0, 0.0]))


def test_an_outlier_among_the_reals_raises_precision_to_one() -> None:
    assert precision(*cluster_and_outlier()) == 1


def test_an_outlier_among_the_reals_hardly_raises_density() -> None:
    # of all balls, only the outlier's holds them: 1/5
    assert density(*cluster_and_outlier()) == pytest.approx(0.2)


def test_an_outlier_among_the_fakes_raises_recall_but_not_coverage() -> None:
    fake, real = cluster_and_outlier()
    assert (recall(real, fake), coverage(real, fake)) == (1, 0)


def test_fakes_in_empty_space_count_as_neighbours_if_they_are_far_apart() -> None:
    real, fake = seen(gaussian(20, 8, 0) * 0.01), seen(np.eye(8) * 1000)
    assert (precision(real, fake), neighbour_precision(real, fake)) == (0, 1)


def test_a_few_fakes_that_are_real_have_precision_and_no_coverage() -> None:
    real = gaussian(200, 2, 0)
    fake = real[:1] + gaussian(30, 2, 1) * 1e-3
    assert precision(seen(real), seen(fake)) == 1
    assert coverage(seen(real), seen(fake)) < 0.1


def test_nearest_is_the_closest_real_and_its_distance() -> None:
    real, fake = gaussian(30, 3, 0), gaussian(12, 3, 1)
    between = cdist(fake, real)
    index, distance = nearest(real, fake)
    assert index.tolist() == between.argmin(1).tolist()
    np.testing.assert_allclose(distance, between.min(1), rtol=1e-12)


def test_nearest_tells_near_copies_from_copies() -> None:
    # with the squares of a matrix product this would drown in rounding errors
    real = gaussian(30, 3, 0) + 1e4
    _, distance = nearest(real, real + np.array([1e-7, 0, 0]))
    np.testing.assert_allclose(distance, 1e-7, rtol=1e-3)


def test_copies_of_an_image_that_is_twice_in_the_data_are_copies() -> None:
    real = np.repeat(gaussian(20, 3, 0), 2, axis=0)
    assert copied(seen(real), seen(real[::2])) == 1


def test_near_copies_are_copies() -> None:
    real = gaussian(100, 3, 0)
    assert copied(seen(real), seen(real + 1e-6)) == 1


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        (1, 2 / 3),  # the nearest of 2 gaps beside a fake, against 1 beyond: P(min(a, b) < c)
        (5, 0.5),
        (64, 0.2),
    ],
)
def test_held_out_samples_look_copied_the_less_the_more_dimensions(
    dim: int, expected: float
) -> None:
    held_out = copied(seen(gaussian(2000, dim, 0)), seen(gaussian(2000, dim, 1)))
    assert held_out == pytest.approx(expected, abs=0.05)


def test_what_nobody_copied_is_as_near_as_chance() -> None:
    found = copied_fraction(seen(gaussian(2000, 5, 0)), seen(gaussian(2000, 5, 1)))
    (caveat,) = found.caveats
    assert float(caveat.split()[0]) == pytest.approx(found.value, abs=0.05)
    assert "chance" in caveat


@pytest.mark.parametrize("metric", [metrics.precision, metrics.recall])
def test_balls_of_fewer_neighbours_are_told(metric: Callable[[Seen, Seen], Measured]) -> None:
    real = seen(gaussian(50, 2, 0))
    assert metric(real, seen(gaussian(4, 2, 1))).caveats == ()
    assert metric(real, seen(gaussian(3, 2, 1))).caveats == ("k = 2, not 3: too few images",)


def test_of_a_few_reals_there_is_no_chance_to_tell() -> None:
    assert copied_fraction(seen(gaussian(39, 2, 0)), seen(gaussian(9, 2, 1))).caveats == ()


# similarity among fakes


def noise(n: int, side_px: int, channels: int = 1, seed: int = 0) -> Pixels:
    shape = (n, side_px, side_px, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_ms_ssim_of_identical_pairs_is_one() -> None:
    pixels = noise(3, 48, 3).repeat(2, axis=0)
    assert ms_ssim(seen([]), pictures(pixels)).value == pytest.approx(1, abs=1e-5)


def test_ms_ssim_of_noise_is_near_zero() -> None:
    assert ms_ssim(seen([]), pictures(noise(8, 48))).value == pytest.approx(0, abs=0.05)


def test_ms_ssim_equals_torchmetrics() -> None:
    first = noise(1, 192, 3, seed=1)
    second = (first // 2 + noise(1, 192, 3, seed=2) // 2).astype(np.uint8)
    a, b = (torch.from_numpy(p).permute(0, 3, 1, 2).float() for p in (first, second))
    expected = multiscale_structural_similarity_index_measure(a, b, data_range=255.0)
    found = ms_ssim(seen([]), pictures(np.concatenate([first, second])))
    # the weights of the paper sum to 1.0001, and are normalised here
    assert found.value == pytest.approx(expected.item(), rel=1e-3)
    assert (found.caveats, found.value > 0.1) == ((), True)


@pytest.mark.parametrize(
    ("side_px", "scales"),
    [
        *[(11, 1), (16, 1), (21, 1), (22, 2), (32, 2), (43, 2), (44, 3), (64, 3)],
        *[(98, 3), (99, 4), (128, 4), (175, 4), (176, 5), (256, 5)],
    ],
)
def test_ms_ssim_has_as_many_scales_as_fit_and_says_how_many(side_px: int, scales: int) -> None:
    found = ms_ssim(seen([]), pictures(noise(1, side_px).repeat(2, axis=0)))
    assert found.value == pytest.approx(1, abs=1e-5)
    expected = (f"{scales} of 5 scales: images of {side_px} px",) if scales < 5 else ()
    assert found.caveats == expected


def test_ms_ssim_of_images_smaller_than_its_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="ms_ssim needs images of at least 11 px, not 10"):
        ms_ssim(seen([]), pictures(noise(2, 10)))


def test_ms_ssim_pairs_images_of_one_class() -> None:
    # two classes by turns, in each of which all images are the same
    pixels, labels = np.tile(noise(2, 32), (3, 1, 1, 1)), [0, 1] * 3
    assert ms_ssim(seen([]), pictures(pixels, labels)).value == pytest.approx(1, abs=1e-5)
    assert ms_ssim(seen([]), pictures(pixels)).value < 0.2


def test_ms_ssim_of_classes_with_one_image_each_is_refused() -> None:
    with pytest.raises(ConfigError, match="two images of a class: more than 3 samples"):
        ms_ssim(seen([]), pictures(noise(3, 32), [0, 1, 2]))


def test_ms_ssim_says_how_far_pairs_scatter() -> None:
    pixels = np.concatenate([noise(1, 32).repeat(2, axis=0), noise(2, 32, seed=1)])
    found = ms_ssim(seen([]), pictures(pixels))
    a, b = (ms_ssim(seen([]), pictures(pixels[i : i + 2])).value for i in (0, 2))
    assert (found.value, found.sd) == pytest.approx(((a + b) / 2, abs(a - b) / 2), rel=1e-5)


# along paths of latents


def test_the_path_length_is_the_mean_without_the_lowest_and_highest_percent() -> None:
    steps = np.concatenate([[-1e9, 1e9], np.full(49, 1.0), np.full(49, 3.0)])
    found = path_length(seen([]), replace(seen([]), path=steps))
    assert (found.value, found.sd) == pytest.approx((2, 1))


def test_the_path_length_of_a_few_steps_is_their_mean() -> None:
    found = path_length(seen([]), replace(seen([]), path=np.array([1.0, 2.0, 6.0])))
    assert found.value == pytest.approx(3)


# all of them


def test_the_metrics_are_these() -> None:
    assert list(METRICS_BY_NAME) == [
        "fid",
        "kid",
        "inception_score",
        "mode_score",
        "precision",
        "recall",
        "neighbour_precision",
        "neighbour_recall",
        "density",
        "coverage",
        "label_accuracy",
        "classes_covered",
        "ms_ssim",
        "path_length",
        "copied_fraction",
    ]


every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


@every_metric
def test_a_metric_says_what_it_is(metric: Metric) -> None:
    assert len(metric.summary) > 10


def images(n: int, dim: int, seed: int = 0) -> Seen:
    """Everything that a metric may need."""
    return Seen(
        gaussian(n, dim, seed),
        gaussian(n, 4, seed + 100),
        np.arange(n) % 4,
        noise(n, 16, seed=seed),
        gaussian(n, 1, seed)[:, 0] ** 2,
    )


def collapsed(n: int, dim: int) -> Seen:
    one = images(1, dim)
    return Seen(
        one.features.repeat(n, 0),
        cast("Array", one.logits).repeat(n, 0),
        np.arange(n) % 4,
        cast("Pixels", one.pixels).repeat(n, 0),
        np.zeros(n),
    )


@every_metric
def test_fewer_images_than_features_are_scored(metric: Metric) -> None:
    assert math.isfinite(value(metric.compute(images(9, 64), images(8, 64, seed=1))))


@every_metric
def test_a_collapsed_generator_is_scored(metric: Metric) -> None:
    assert math.isfinite(value(metric.compute(images(30, 6), collapsed(20, 6))))


@every_metric
def test_two_images_of_each_kind_are_scored(metric: Metric) -> None:
    two = [replace(images(2, 6, seed), labels=np.zeros(2, np.int64)) for seed in (0, 1)]
    assert math.isfinite(value(metric.compute(*two)))


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_a_distance_to_a_collapsed_generator_says_so(name: str) -> None:
    found = METRICS_BY_NAME[name].compute(images(30, 6), collapsed(20, 6))
    assert isinstance(found, Measured)
    assert found.caveats == ("all generated images are the same",)


def test_a_collapsed_generator_is_known_by_a_network_that_rounds() -> None:
    rounded = np.ones((20, 6)) + gaussian(20, 6, 0) * 1e-7
    assert kid(images(30, 6), seen(rounded)).caveats == ("all generated images are the same",)


def test_similar_images_are_not_the_same() -> None:
    similar = np.ones((20, 6)) + gaussian(20, 6, 0) * 1e-3
    assert kid(images(30, 6), seen(similar)).caveats == ()


def permuted(side: Seen) -> Seen:
    order = np.random.default_rng(0).permutation(len(side.features))
    logits, labels = cast("Array", side.logits), cast("NDArray[np.int64]", side.labels)
    path = cast("Array", side.path)[order]
    return Seen(side.features[order], logits[order], labels[order], side.pixels, path)


# splits of the Inception Score and pairs of MS-SSIM are of images as they come
@pytest.mark.parametrize(
    "metric",
    [metric for metric in METRICS if metric.name not in ("inception_score", "ms_ssim")],
    ids=lambda metric: metric.name,
)
def test_a_metric_does_not_depend_on_the_order(metric: Metric) -> None:
    real, fake = images(50, 3), images(40, 3, seed=1)
    assert value(metric.compute(permuted(real), permuted(fake))) == pytest.approx(
        value(metric.compute(real, fake)), rel=1e-9
    )


@pytest.mark.parametrize(
    "name",
    [
        *["fid", "kid", "precision", "recall"],
        *["neighbour_precision", "neighbour_recall", "density", "coverage"],
    ],
)
def test_a_worse_set_scores_worse(name: str) -> None:
    metric, real = METRICS_BY_NAME[name], seen(correlated(60, 5, 0))
    near, far = (value(metric.compute(real, seen(real.features + by))) for by in (0.1, 3))
    assert near < far if metric.better == "lower" else near > far
