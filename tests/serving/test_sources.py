"""A published model is scored as any client would see it, and the same as its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gan_core.card import DataSource
from gan_core.data import Images
from gan_core.errors import ConfigError, ConnectionFailed, ModelNotFound, Unavailable
from gan_core.evaluation import Extractor, score
from gan_core.metrics import METRICS
from gan_core.plugins import Plugins
from gan_core.scoring import open_source
from gan_core.workflow import read_card
from gan_serving.plugin import ganforge_model_source
from gan_serving.sources import REQUEST, model_source
from tests.serving.graphs import CLASSES, HEIGHT, WIDTH

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from gan_core.card import Score
    from gan_core.sources import Source

MORE_THAN_A_REQUEST = REQUEST + 5


@pytest.fixture
def url(repository: Path) -> str:
    return f"local:{repository}"


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path))


def see(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each pixel as it is, and classes by the label that channel 1 tells: 20 levels each."""
    features = pixels.reshape(len(pixels), -1).astype(np.float64)
    told = pixels[:, 0, 0, 1:2].astype(np.float64) / 20
    return features, -np.abs(told - np.arange(len(CLASSES)))


def measured(source: Source, samples: int, seed: int = 3) -> dict[str, Score]:
    shape = (samples, source.channels, HEIGHT, WIDTH)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = Images(pixels, DataSource(name="noise", fingerprint=f"{samples:064d}"))
    extractor = Extractor("pixels", "none", see)
    scores = score(
        source, images, extractor, METRICS, samples=samples, seed=seed, only_fitting=True
    )
    return {score.metric: score for score in scores}


@pytest.mark.parametrize("samples", [2, MORE_THAN_A_REQUEST])
def test_a_published_model_scores_as_its_file(
    exports: Path, url: str, plugins: Plugins, samples: int
) -> None:
    file = open_source(str(exports / "marked" / "model.onnx"), plugins)
    served = open_source("marked", plugins, url=url)
    assert measured(served, samples) == measured(file, samples)


def test_truncated_images_score_the_same_and_say_so(
    exports: Path, url: str, plugins: Plugins
) -> None:
    graph = str(exports / "marked" / "model.onnx")
    file, served = (
        open_source(target, plugins, url=url, truncation=0.2) for target in (graph, "marked")
    )
    assert {name: score.value for name, score in measured(served, 4).items()} == {
        name: score.value for name, score in measured(file, 4).items()
    }
    assert measured(served, 4)["fid"].provenance.truncation == 0.2
    assert measured(served, 4)["fid"] != measured(open_source("marked", plugins, url=url), 4)["fid"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("marked", r"truncation of marked: 3 is not in \[0\.0, 1\.0\]"),
        ("tiny_dcgan", "truncation of tiny_dcgan: no input takes a truncation"),
    ],
)
def test_a_truncation_that_a_model_does_not_take_is_refused(
    exports: Path, url: str, plugins: Plugins, model: str, message: str
) -> None:
    for target in (str(exports / model / "model.onnx"), model):
        with pytest.raises(ConfigError, match=message):
            open_source(target, plugins, url=url, truncation=3)


def test_images_of_the_largest_seeds_are_those_of_the_file(
    exports: Path, url: str, plugins: Plugins
) -> None:
    # seeds go on at 0 after the largest
    file = open_source(str(exports / "marked" / "model.onnx"), plugins)
    ours, theirs = (
        np.concatenate(list(source.images(2**64 - 3, MORE_THAN_A_REQUEST)))
        for source in (file, model_source("marked", None, url))
    )
    np.testing.assert_array_equal(ours, theirs)


def test_a_published_model_makes_the_classes_that_are_asked_for(url: str) -> None:
    scores = measured(model_source("marked", None, url), MORE_THAN_A_REQUEST)
    assert scores["label_accuracy"].value == 1
    assert scores["classes_covered"].value == len(CLASSES)


def test_a_source_says_what_the_card_says(url: str, exports: Path) -> None:
    source, card = model_source("tiny_dcgan", None, url), read_card(exports / "tiny_dcgan")
    assert (source.name, source.inputs, source.data, source.ema, source.directory) == (
        "tiny_dcgan",
        card.inputs,
        card.data.name,
        card.ema,
        None,
    )
    assert (source.resolution_px, source.channels) == (card.output.width, card.output.channels)


def test_a_version_can_be_chosen(url: str) -> None:
    first, newest = (
        np.concatenate(list(model_source("versioned", version, url).images(0, 3)))
        for version in (1, None)
    )
    # the second is lighter by 10, up to white
    expected = np.minimum(first[..., 2].astype(int) + 10, 255)
    np.testing.assert_array_equal(newest[..., 2], expected)


def test_the_plugin_finds_a_published_model(url: str) -> None:
    assert ganforge_model_source("marked", None, url, None).name == "marked"


def test_an_unknown_model_is_one_error(url: str) -> None:
    with pytest.raises(ModelNotFound, match="no model is called 'nobody'"):
        model_source("nobody", None, url)


def test_an_unknown_version_is_one_error(url: str) -> None:
    with pytest.raises(ModelNotFound, match="version 7"):
        next(model_source("marked", 7, url).images(0, 1))


@pytest.mark.parametrize("url", ["ftp://x", "marked", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is not an address"):
        model_source("marked", None, url)


def test_a_folder_that_is_no_repository_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="is not a model repository"):
        model_source("marked", None, f"local:{tmp_path / 'nothing'}")


def test_a_server_that_is_not_there_is_one_error() -> None:
    with pytest.raises(ConnectionFailed, match=r"can't reach http://127\.0\.0\.1:9"):
        model_source("marked", None, "http://127.0.0.1:9")
