"""Feature extractors: trained once, the same ever after, and able to tell digits apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from gan_core.data import Images, open_data
from gan_core.datasets import cache_dir
from gan_core.extractors import EXTRACTORS, digits_classifier

if TYPE_CHECKING:
    from pathlib import Path

    from gan_core.evaluation import Extractor
    from gan_core.plugins import Plugins


@pytest.fixture(scope="module")
def digits(plugins: Plugins) -> Images:
    return open_data("digits", 32, plugins)[1]


@pytest.fixture(scope="module")
def classifier() -> Extractor:
    return EXTRACTORS[0].load()


def test_the_classifier_knows_the_digits(digits: Images) -> None:
    batch = digits.batch(np.arange(len(digits))).to(torch.device("cpu"))
    with torch.no_grad():
        _, logits = digits_classifier()(batch.real)
    assert batch.label is not None
    assert (logits.argmax(1) == batch.label).float().mean() > 0.97


def test_its_features_are_one_row_per_image(classifier: Extractor, digits: Images) -> None:
    features = classifier.features(digits.pixels[:5].transpose(0, 2, 3, 1))
    assert (features.shape, str(features.dtype)) == ((5, 64), "float64")


def test_its_features_do_not_depend_on_the_batch(classifier: Extractor, digits: Images) -> None:
    pixels = digits.pixels[:5].transpose(0, 2, 3, 1)
    alone = np.concatenate([classifier.features(pixels[i : i + 1]) for i in range(5)])
    # convolutions of other batch sizes sum in another order
    np.testing.assert_allclose(classifier.features(pixels), alone, atol=1e-4)


def test_it_is_trained_once(classifier: Extractor) -> None:
    (path,) = (cache_dir() / "extractors").iterdir()
    written = path.stat().st_mtime_ns
    assert (EXTRACTORS[0].load().identity, path.stat().st_mtime_ns) == (
        classifier.identity,
        written,
    )


@pytest.mark.usefixtures("classifier")
def test_training_it_again_gives_the_same_weights(
    classifier: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path))
    assert EXTRACTORS[0].load().identity == classifier.identity


def test_training_it_takes_no_random_number_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path))
    monkeypatch.setattr("gan_core.extractors.TRAINING_STEPS", 1)
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    EXTRACTORS[0].load()
    assert torch.equal(torch.rand(1), expected)


def test_it_takes_colour_and_other_sizes(classifier: Extractor) -> None:
    assert classifier.features(np.zeros((2, 48, 48, 3), np.uint8)).shape == (2, 64)


def test_pixels_at_8_px_are_the_image_itself() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    features = EXTRACTORS[1].load().features(pixels)
    expected = pixels.transpose(0, 3, 1, 2).reshape(2, -1) / 255
    np.testing.assert_allclose(features, expected, atol=1e-7)


def test_pixels_of_other_sizes_are_averaged_down() -> None:
    pixels = np.full((1, 64, 64, 1), 51, np.uint8)
    np.testing.assert_allclose(EXTRACTORS[1].load().features(pixels), 0.2, atol=1e-6)


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda extractor: extractor.name)
def test_every_extractor_says_what_it_is(extractor: object) -> None:
    assert getattr(extractor, "summary", "")
