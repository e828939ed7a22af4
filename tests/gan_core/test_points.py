"""Points in the plane: the sets, and what is counted of generated ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gan_core.data import open_data
from gan_core.densities import Mixture
from gan_core.errors import ConfigError, DataError, ExportError
from gan_core.points import GRID, RING, Modes, high_quality_fraction, modes_covered
from gan_core.scoring import evaluate, run_source
from gan_core.workflow import export_run, open_run, start_run, train

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gan_core.plugins import Plugins

TWO = Modes("two", Mixture([(-0.5, 0.0), (0.5, 0.0)], 0.1))


def of(modes: Modes, *points: Sequence[float]) -> tuple[float, float]:
    """(modes covered, share within 3 σ)."""
    distances = modes.distances(np.array(points))
    return modes_covered(distances), high_quality_fraction(distances)


@pytest.mark.parametrize(("modes", "count", "apart"), [(RING, 8, 0.612), (GRID, 25, 0.4)])
def test_centres_are_the_literatures_and_far_apart(modes: Modes, count: int, apart: float) -> None:
    centres = np.array(modes.density.means)
    gaps = np.linalg.norm(centres[:, None] - centres, axis=2)[~np.eye(count, dtype=bool)]
    assert (len(centres), gaps.min()) == (count, pytest.approx(apart, abs=1e-3))


def test_distances_are_in_standard_deviations() -> None:
    np.testing.assert_allclose(TWO.distances(np.array([[-0.5, 0.2]])), [[2.0, 104**0.5]])


def test_a_point_beyond_three_sigma_covers_nothing() -> None:
    assert of(TWO, (-0.5, 0.31), (0.0, 0.0)) == (0, 0.0)


def test_a_mode_is_covered_by_one_good_point() -> None:
    assert of(TWO, (-0.5, 0.29), (-0.5, 0.0), (-0.4, 0.0), (0.0, 0.0)) == (1, 0.75)


def test_a_collapsed_generator_covers_one_mode_of_high_quality() -> None:
    assert of(RING, *[RING.density.means[3]] * 100) == (1, 1.0)


@pytest.mark.parametrize("modes", [RING, GRID])
def test_the_data_cover_all_modes_and_nearly_all_are_good(modes: Modes) -> None:
    points = modes.density.sample(20_000, np.random.default_rng(1))
    distances = modes.distances(points)
    assert modes_covered(distances) == len(modes.density.means)
    # 1 − exp(−9/2) lies within 3 σ of a Gaussian in the plane; five standard errors
    share = 1 - np.exp(-4.5)
    error = (share * (1 - share) / 20_000) ** 0.5
    assert high_quality_fraction(distances) == pytest.approx(share, abs=5 * error)


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_a_set_is_images_of_one_pixel_within_one(plugins: Plugins, name: str) -> None:
    _, images = open_data(name, None, plugins)
    assert (images.resolution_px, images.channels, images.pixels.dtype.name) == (1, 2, "float32")
    assert np.abs(images.pixels).max() < 1


def test_a_set_is_the_same_every_time(plugins: Plugins) -> None:
    first, second = (plugins.datasets["ring"].open("", None).source for _ in range(2))
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize(("argument", "side_px"), [("x", None), ("", 32)])
def test_a_size_or_an_argument_is_refused(
    plugins: Plugins, argument: str, side_px: int | None
) -> None:
    with pytest.raises(DataError, match="'ring' is points in the plane: it takes no argument"):
        plugins.datasets["ring"].open(argument, side_px)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Path:
    path = tmp_path_factory.mktemp("points") / "run"
    settings = {"kimg": 0.2, "batch_size": 50, "z_dim": 4}
    run, images = start_run(path, plugins.variant("vanilla"), "ring", settings, plugins)
    train(run, images, plugins)
    return path


def test_a_run_on_points_is_scored_by_their_own_metrics(trained: Path, plugins: Plugins) -> None:
    scores = evaluate(run_source(open_run(trained, plugins), plugins), plugins, samples=500)
    assert [score.metric for score in scores] == ["modes_covered", "high_quality_fraction"]
    assert {score.provenance.graph for score in scores} == {"torch"}


def test_scores_of_points_repeat(trained: Path, plugins: Plugins) -> None:
    source = run_source(open_run(trained, plugins), plugins)
    first, second = (evaluate(source, plugins, samples=500) for _ in range(2))
    assert first == second


def test_all_metrics_of_points_are_those_without_classes_and_pictures(
    trained: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gan_core.points.POINTS", 500)  # neighbours of 50,000 take minutes
    source = run_source(open_run(trained, plugins), plugins)
    scores = evaluate(source, plugins, metrics=["all"], samples=50)
    measured = {score.metric for score in scores}
    assert {"modes_covered", "high_quality_fraction", "fid", "coverage"} <= measured
    assert measured & {"ms_ssim", "inception_score", "label_accuracy"} == set()


def test_a_source_of_points_has_no_card_to_note_scores_in(trained: Path, plugins: Plugins) -> None:
    evaluate(run_source(open_run(trained, plugins), plugins), plugins, samples=50)
    assert not (trained / "export").exists()


@pytest.mark.parametrize("modes", [RING, GRID])
def test_the_features_of_points_are_their_distances(plugins: Plugins, modes: Modes) -> None:
    points = modes.density.sample(20, np.random.default_rng(0))
    extractor = plugins.feature_extractors[f"{modes.name}-modes"].load("")
    distances, logits = extractor.extract(points.reshape(20, 1, 1, 2))
    np.testing.assert_array_equal(distances, modes.distances(points))
    assert logits is None


def test_the_modes_take_no_argument(plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match="ring-modes takes no argument, not 'x'"):
        plugins.feature_extractors["ring-modes"].load("x")


def test_points_are_not_exported(trained: Path, plugins: Plugins) -> None:
    with pytest.raises(ExportError, match="ring is points in the plane: there is no image"):
        export_run(open_run(trained, plugins), plugins)


def test_samples_of_points_are_a_picture_of_the_plane(trained: Path) -> None:
    from PIL import Image

    with Image.open(next((trained / "samples").iterdir())) as picture:
        assert picture.size == (256, 256)
        assert np.asarray(picture).max() == 255
