"""Metrics against independent references, and scores that say how they were measured."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from scipy.linalg import sqrtm  # type: ignore[import-untyped] # comes without types

from gan_core.card import (
    DataSource,
    ImageOutput,
    LatentInput,
    ModelCard,
    Provenance,
    Score,
)
from gan_core.data import Images
from gan_core.errors import ConfigError
from gan_core.evaluation import METRICS, Extractor, compare, evaluate, fid, generated, kid
from gan_core.latents import draw, seed_range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Features = NDArray[np.float64]


def correlated(n: int, dim: int, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    mixed: Features = rng.standard_normal((n, dim)) @ rng.standard_normal((dim, dim))
    shifted: Features = mixed + rng.standard_normal(dim)
    return shifted


def with_moments(mean: Features, std: Features) -> Features:
    """Four rows whose sample mean and (diagonal) covariance are exactly these."""
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3 / 4)
    rows: Features = mean + corners * std
    return rows


def test_fid_of_diagonal_gaussians_is_the_closed_form() -> None:
    real = with_moments(np.array([0.0, 0.0]), np.array([1.0, 2.0]))
    fake = with_moments(np.array([3.0, 4.0]), np.array([2.0, 5.0]))
    # ‖μ‖² + Σ(σ₁ − σ₂)² = 25 + 1 + 9
    assert fid(real, fake) == pytest.approx(35.0, rel=1e-12)


def test_fid_equals_scipys_matrix_root() -> None:
    real, fake = correlated(200, 6, 0), correlated(150, 6, 1)
    cov_real, cov_fake = np.cov(real.T), np.cov(fake.T)
    cross = sqrtm(cov_real @ cov_fake)
    means = ((real.mean(0) - fake.mean(0)) ** 2).sum()
    expected = means + np.trace(cov_real + cov_fake - 2 * cross).real
    # both in float64; the root of a 6×6 matrix loses a few digits
    assert fid(real, fake) == pytest.approx(expected, rel=1e-8)


def test_fid_of_a_set_with_itself_is_zero() -> None:
    real = correlated(50, 6, 0)
    assert fid(real, real) == pytest.approx(0.0, abs=1e-6)


def test_fid_is_symmetric() -> None:
    real, fake = correlated(80, 6, 0), correlated(50, 6, 1)
    assert fid(real, fake) == pytest.approx(fid(fake, real), rel=1e-9)


@pytest.mark.parametrize("rows", [2, 5])
def test_fid_is_finite_where_a_covariance_is_singular(rows: int) -> None:
    assert np.isfinite(fid(correlated(rows, 16, 0), correlated(rows, 16, 1)))


def test_fid_is_finite_for_constant_features() -> None:
    assert fid(np.ones((4, 3)), np.zeros((4, 3))) == pytest.approx(3.0)


def test_fid_takes_a_single_feature() -> None:
    assert fid(np.array([[0.0], [2.0]]), np.array([[5.0], [7.0]])) == pytest.approx(25.0)


def naive_kid(real: Features, fake: Features) -> float:
    """The estimator's definition, term by term."""

    def kernel(x: Features, y: Features) -> float:
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
    assert kid(real, fake) == pytest.approx(naive_kid(real, fake), rel=1e-10)


def test_kid_by_blocks_equals_kid_by_matrices() -> None:
    real, fake = correlated(1500, 5, 0), correlated(2100, 5, 1)
    n, m, dim = len(real), len(fake), 5
    same_real, same_fake, across = (
        (a @ b.T / dim + 1) ** 3 for a, b in ((real, real), (fake, fake), (real, fake))
    )
    expected = (
        (same_real.sum() - np.trace(same_real)) / (n * (n - 1))
        + (same_fake.sum() - np.trace(same_fake)) / (m * (m - 1))
        - 2 * across.mean()
    )
    assert kid(real, fake) == pytest.approx(expected, rel=1e-12)


def test_kid_never_holds_all_pairs_at_once() -> None:
    rows = correlated(4000, 2, 0)
    tracemalloc.start()
    try:
        kid(rows, rows)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4000 * 4000 * 8 / 2


def test_kid_is_unbiased_for_one_distribution() -> None:
    # the mean over 200 pairs of sets is within six standard errors of 0
    rng = np.random.default_rng(0)
    values = [kid(rng.standard_normal((20, 3)), rng.standard_normal((20, 3))) for _ in range(200)]
    assert abs(np.mean(values)) < 6 * np.std(values) / 200**0.5


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_worse_set_scores_higher(metric: object) -> None:
    real = correlated(60, 5, 0)
    near, far = correlated(60, 5, 0) + 0.1, real + 3
    compute: Callable[[Features, Features], float] = metric.compute  # type: ignore[attr-defined] # parametrised
    assert compute(real, near) < compute(real, far)


PROVENANCE = Provenance(extractor="e", resize="none", reference="r", samples=10, seed=0)


def score(value: float, metric: str = "fid", changes: Mapping[str, object] | None = None) -> Score:
    provenance = PROVENANCE.model_copy(update=changes)
    return Score(metric=metric, value=value, provenance=provenance)


def test_scores_of_one_provenance_compare() -> None:
    assert compare(score(5.0), score(3.5)) == 1.5


@pytest.mark.parametrize(
    "changes",
    [
        {"extractor": "other"},
        {"resize": "bicubic"},
        {"reference": "other"},
        {"samples": 20},
        {"seed": 1},
        {"truncation": 0.7},
        {"ema": False},
        {"graph": "torch"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_scores_measured_differently_do_not_compare(changes: dict[str, object]) -> None:
    (field,) = changes
    with pytest.raises(ConfigError, match=rf"don't compare \({field}: .* and {changes[field]}\)"):
        compare(score(1.0), score(1.0, changes=changes))


def test_every_field_of_the_provenance_is_tested_above() -> None:
    assert len(Provenance.model_fields) == 8


def test_scores_of_different_metrics_do_not_compare() -> None:
    with pytest.raises(ConfigError, match="fid and kid are different metrics"):
        compare(score(1.0), score(1.0, "kid"))


@pytest.fixture
def graph(tmp_path: Path) -> tuple[Path, ModelCard]:
    """A served model without torch: its one pixel is 50·|z|."""
    nodes = [
        helper.make_node("Abs", ["z"], ["positive"]),
        helper.make_node("Mul", ["positive", "fifty"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Reshape", ["bytes", "shape"], ["image"]),
    ]
    constants = [
        helper.make_tensor("fifty", TensorProto.FLOAT, [1], [50.0]),
        helper.make_tensor("shape", TensorProto.INT64, [4], [-1, 1, 1, 1]),
    ]
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 1])
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 1, 1, 1])
    model = helper.make_model(
        helper.make_graph(nodes, "toy", [z], [image], constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "model.onnx")
    card = ModelCard(
        model="toy",
        variant="toy",
        inputs=(LatentInput(dim=1),),
        output=ImageOutput(height=1, width=1, channels=1),
        opset=18,
        sha256="0" * 64,
        parity_levels=0,
        trained_kimg=1.0,
        data=DataSource(name="a", fingerprint="0"),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return tmp_path / "model.onnx", card


def levels(seed: int, n: int) -> list[int]:
    z = draw([LatentInput(dim=1)], seed_range(seed, n))["z"]
    return np.abs(z * np.float32(50)).astype(np.uint8).ravel().tolist()


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_generated_images_do_not_depend_on_the_batch(
    graph: tuple[Path, ModelCard], batch: int
) -> None:
    images = np.concatenate(list(generated(*graph, samples=7, seed=11, batch=batch)))
    assert images.ravel().tolist() == levels(11, 7)


def pixel_values(pixels: NDArray[np.uint8]) -> Features:
    return pixels.reshape(len(pixels), -1).astype(np.float64)


EXTRACTOR = Extractor("values 0", "none", pixel_values)


def references(n: int) -> Images:
    pixels = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)
    return Images(pixels, DataSource(name="numbers", fingerprint="abcdef0123456789"))


def test_a_score_is_the_metric_of_the_graphs_images(graph: tuple[Path, ModelCard]) -> None:
    scores = evaluate(*graph, references(70), EXTRACTOR, METRICS, samples=9, seed=3)
    real = np.arange(70.0)[:, None]
    fake = np.array(levels(3, 9), dtype=np.float64)[:, None]
    assert [score.value for score in scores] == [fid(real, fake), kid(real, fake)]


def test_a_score_says_how_it_was_measured(graph: tuple[Path, ModelCard]) -> None:
    scores = evaluate(*graph, references(70), EXTRACTOR, METRICS, samples=9, seed=3, ema=False)
    assert {score.provenance for score in scores} == {
        Provenance(
            extractor="values 0",
            resize="none",
            reference="numbers abcdef012345 n=70",
            samples=9,
            seed=3,
            ema=False,
        )
    }


def test_progress_counts_generated_images(graph: tuple[Path, ModelCard]) -> None:
    done: list[int] = []
    evaluate(*graph, references(4), EXTRACTOR, METRICS, samples=130, progress=done.append)
    assert done == [64, 64, 2]


@pytest.mark.parametrize(("samples", "reals"), [(1, 5), (5, 1)])
def test_too_few_images_are_refused(
    graph: tuple[Path, ModelCard], samples: int, reals: int
) -> None:
    with pytest.raises(ConfigError, match="a score needs at least 2 images of each kind"):
        evaluate(*graph, references(reals), EXTRACTOR, METRICS, samples=samples)
