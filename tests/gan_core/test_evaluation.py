"""Scores say how they were measured, cost one pass, and refuse what they can't measure."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from gan_core.card import (
    DataSource,
    ImageOutput,
    Input,
    LabelInput,
    LatentInput,
    ModelCard,
    Provenance,
    Score,
)
from gan_core.data import Images
from gan_core.errors import ConfigError
from gan_core.evaluation import Extractor, compare, score, see
from gan_core.latents import draw, seed_range
from gan_core.metrics import METRICS, Metric, Seen, fid, kid
from gan_core.points import METRICS as OF_POINTS
from gan_core.sources import EPSILON, Source, of_graph

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]
BY_NAME = {metric.name: metric for metric in (*METRICS, *OF_POINTS)}
FID_KID = [BY_NAME["fid"], BY_NAME["kid"]]
SIDE_PX = 2


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of each test its own: extractors of one identity differ from test to test."""
    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "seen"


@pytest.fixture
def graph(tmp_path: Path) -> Source:
    """A served model without torch: its four pixels are 50·|z|."""
    nodes = [
        helper.make_node("Abs", ["z"], ["positive"]),
        helper.make_node("Mul", ["positive", "fifty"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Reshape", ["bytes", "shape"], ["image"]),
    ]
    constants = [
        helper.make_tensor("fifty", TensorProto.FLOAT, [1], [50.0]),
        helper.make_tensor("shape", TensorProto.INT64, [4], [-1, SIDE_PX, SIDE_PX, 1]),
    ]
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4])
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIDE_PX, SIDE_PX, 1])
    model = helper.make_model(
        helper.make_graph(nodes, "toy", [z], [image], constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "model.onnx")
    card = ModelCard(
        model="toy",
        variant="toy",
        inputs=(LatentInput(dim=4),),
        output=ImageOutput(height=SIDE_PX, width=SIDE_PX, channels=1),
        opset=18,
        sha256="0" * 64,
        parity_levels=0,
        trained_kimg=1.0,
        ema=True,
        data=DataSource(name="numbers", fingerprint="0"),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return of_graph(tmp_path / "model.onnx", card)


def levels(seed: int, n: int) -> Array:
    z = draw([LatentInput(dim=4)], seed_range(seed, n))["z"]
    pixels = np.abs(z * np.float32(50)).astype(np.uint8)
    return pixels.astype(np.float64)


def made(
    images: Sequence[Any] | NDArray[Any], inputs: tuple[Input, ...] = (LatentInput(dim=1),)
) -> Source:
    """Images that are there already, in batches of three."""
    array = np.asarray(images)

    def batches(seed: int, n: int) -> Iterator[NDArray[Any]]:
        for start in range(seed, seed + n, 3):
            yield array[start : min(start + 3, seed + n)]

    return Source("made", inputs, array.shape[2], array.shape[3], "numbers", batches)


def noise(n: int, side_px: int = SIDE_PX, seed: int = 0) -> Pixels:
    shape = (n, side_px, side_px, 1)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class Eye:
    """Sees the pixels as they are, remembers how many, and takes an image for its brightness."""

    def __init__(self, classes: int = 0) -> None:
        self.classes = classes
        self.seen: list[int] = []

    def __call__(self, pixels: NDArray[Any]) -> tuple[Array, Array | None]:
        self.seen.append(len(pixels))
        features = pixels.reshape(len(pixels), -1).astype(np.float64)
        if not self.classes:
            return features, None
        brightness = features.mean(1, keepdims=True)
        return features, -np.abs(brightness - np.arange(self.classes) * 10)


def extractor(eye: Eye | None = None, identity: str = "values 0") -> Extractor:
    return Extractor(identity, "none", eye or Eye())


def references(n: int, seed: int = 5, side_px: int = SIDE_PX) -> Images:
    pixels = noise(n, side_px, seed).transpose(0, 3, 1, 2)
    return Images(pixels, DataSource(name="numbers", fingerprint=f"abcdef012345{seed}"))


def test_a_score_is_the_metric_of_the_graphs_images(graph: Source) -> None:
    images = references(70)
    scores = score(graph, images, extractor(), FID_KID, samples=9, seed=3)
    real, fake = Seen(images.pixels.reshape(70, -1).astype(np.float64)), Seen(levels(3, 9))
    assert [score.value for score in scores] == [fid(real, fake).value, kid(real, fake).value]


def test_a_score_says_how_it_was_measured(graph: Source) -> None:
    scores = score(graph, references(70), extractor(), FID_KID, samples=9, seed=3)
    assert {score.provenance for score in scores} == {
        Provenance(
            extractor="values 0",
            resize="none",
            reference="numbers abcdef012345 n=70",
            samples=9,
            seed=3,
            ema=True,
            graph="onnx",
        )
    }


def test_a_score_says_how_far_it_scatters_and_what_to_know() -> None:
    images = made(noise(12, 16))
    (found,) = score(
        images, references(12, side_px=16), extractor(), [BY_NAME["ms_ssim"]], samples=12
    )
    assert found.caveats == ("1 of 5 scales: images of 16 px",)
    assert found.sd is not None


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_generated_images_do_not_depend_on_the_batch(
    graph: Source, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gan_core.evaluation.BATCH", batch)
    images = np.concatenate(list(graph.images(11, 7)))
    assert images.reshape(7, -1).tolist() == levels(11, 7).tolist()


@pytest.mark.parametrize("batch", [1, 5])
def test_scores_do_not_depend_on_the_batch(
    graph: Source, batch: int, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def measured() -> tuple[Score, ...]:
        eye = Eye(classes=4)
        images = references(30)
        return score(graph, images, extractor(eye), METRICS, samples=20, only_fitting=True)

    whole = measured()
    next(cache.iterdir()).unlink()
    monkeypatch.setattr("gan_core.evaluation.BATCH", batch)
    assert measured() == whole


def test_a_graph_that_cannot_be_run_is_one_error(graph: Source, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"model\.onnx can't be run: .*; export the run again"):
        next(graph.images(0, 1))


def test_all_metrics_come_from_one_pass(graph: Source) -> None:
    eye = Eye(classes=4)
    score(graph, references(70), extractor(eye), METRICS, samples=65, only_fitting=True)
    assert sum(eye.seen) == 70 + 65


def test_progress_counts_generated_images(graph: Source) -> None:
    done: list[tuple[int, int]] = []
    score(
        graph,
        references(130),
        extractor(),
        FID_KID,
        samples=130,
        progress=lambda *counted: done.append(counted),
    )
    assert done == [(64, 130), (128, 130), (130, 130)]


# what an extractor made of a reference set is kept


def reals_seen(images: Images, identity: str = "values 0", resize: str = "none") -> int:
    """How many reference images a score lets the extractor see."""
    eye = Eye(classes=3)
    found = Extractor(identity, resize, eye)
    metrics = [*FID_KID, BY_NAME["mode_score"]]
    score(made(noise(10)), images, found, metrics, samples=10)
    return sum(eye.seen) - 10


def test_a_reference_set_is_seen_once() -> None:
    assert [reals_seen(references(40)) for _ in range(2)] == [40, 0]


def test_scores_from_the_cache_are_the_same() -> None:
    def measured() -> tuple[Score, ...]:
        metrics = [*FID_KID, BY_NAME["mode_score"]]
        return score(made(noise(10)), references(40), extractor(Eye(3)), metrics, samples=10)

    assert measured() == measured()


def test_another_reference_set_is_seen() -> None:
    assert [reals_seen(references(40, seed)) for seed in (0, 1)] == [40, 40]


def test_another_extractor_sees_the_reference_set() -> None:
    images = references(40)
    seen = [reals_seen(images, *way) for way in (("a", "none"), ("b", "none"), ("a", "bilinear"))]
    assert seen == [40, 40, 40]


def damaged(content: bytes) -> Mapping[str, bytes]:
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    return {
        "empty": b"",
        "text": b"nothing of the kind",
        "truncated": content[: len(content) // 2],
        "a bit flipped": bytes(flipped),
    }


@pytest.mark.parametrize("damage", damaged(b"00"))
def test_a_damaged_cache_is_made_again(cache: Path, damage: str) -> None:
    images = references(400)
    reals_seen(images)
    (path,) = cache.iterdir()
    path.write_bytes(damaged(path.read_bytes())[damage])
    assert [reals_seen(images) for _ in range(2)] == [400, 0]


def test_a_cache_without_features_is_made_again(cache: Path) -> None:
    images = references(40)
    reals_seen(images)
    (path,) = cache.iterdir()
    np.savez(path, other=np.zeros(3))
    assert reals_seen(images) == 40


def test_nothing_temporary_is_left_in_the_cache(cache: Path) -> None:
    reals_seen(references(40))
    assert [path.suffix for path in cache.iterdir()] == [".npz"]
    assert "." not in next(cache.iterdir()).stem


def test_points_are_not_kept(cache: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (30, 2, 1, 1)).astype(np.float32)
    images = Images(points, DataSource(name="ring", fingerprint="0"))
    score(made(points.transpose(0, 2, 3, 1)), images, extractor(), FID_KID, samples=10)
    assert not cache.exists()


# what a metric needs


LABEL = LabelInput(classes=("dark", "grey", "bright"))


def test_labels_are_those_that_are_asked_for() -> None:
    # seeds go round the classes, and class c is of brightness 10 c
    asked = np.arange(30) % 3
    images = (asked * 10).astype(np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    source = made(images, (LatentInput(dim=1), LABEL))
    metric = [BY_NAME["label_accuracy"]]
    for seed in (0, 4):
        (right,) = score(source, references(20), extractor(Eye(3)), metric, samples=10, seed=seed)
        assert right.value == 1
    source = made(np.roll(images, 1, axis=0), (LatentInput(dim=1), LABEL))
    (wrong,) = score(source, references(20), extractor(Eye(3)), metric, samples=10)
    assert wrong.value == 0


@pytest.mark.parametrize(
    ("name", "inputs", "classes", "message"),
    [
        (
            "inception_score",
            (),
            0,
            "inception_score needs class probabilities, which the extractor 'values 0' lacks",
        ),
        ("mode_score", (), 0, "mode_score needs class probabilities"),
        ("label_accuracy", (LABEL,), 0, "label_accuracy needs class probabilities"),
        ("label_accuracy", (), 3, "label_accuracy needs labels, which made doesn't take"),
        (
            "label_accuracy",
            (LABEL,),
            10,
            r"label_accuracy needs a classifier of the 3 classes of made, not of 10 \(values 0\)",
        ),
        ("modes_covered", (), 0, "modes_covered needs distances to modes, which values 0 does"),
    ],
)
def test_a_metric_that_needs_what_there_is_not_is_refused(
    name: str, inputs: tuple[Input, ...], classes: int, message: str
) -> None:
    source = made(noise(10), (LatentInput(dim=1), *inputs))
    with pytest.raises(ConfigError, match=message):
        score(source, references(20), extractor(Eye(classes)), [BY_NAME[name]], samples=10)


def test_a_metric_of_pixels_refuses_points() -> None:
    points = np.zeros((10, 2, 1, 1), np.float32)
    images = Images(points, DataSource(name="ring", fingerprint="0"))
    with pytest.raises(ConfigError, match="ms_ssim needs images, not points"):
        score(
            made(points.transpose(0, 2, 3, 1)),
            images,
            extractor(),
            [BY_NAME["ms_ssim"]],
            samples=10,
        )


FEATURES_ALONE = [
    *["fid", "kid", "precision", "recall", "neighbour_precision", "neighbour_recall"],
    *["density", "coverage", "copied_fraction"],
]


@pytest.mark.parametrize(
    ("side_px", "inputs", "classes", "more"),
    [
        (2, (), 0, []),
        (16, (), 0, ["ms_ssim"]),
        (2, (), 3, ["inception_score", "mode_score", "classes_covered"]),
        (2, (LABEL,), 10, ["inception_score", "mode_score", "classes_covered"]),
        (
            16,
            (LABEL,),
            3,
            ["inception_score", "mode_score", "label_accuracy", "classes_covered", "ms_ssim"],
        ),
    ],
)
def test_only_the_fitting_metrics_are_measured_if_so_asked(
    side_px: int, inputs: tuple[Input, ...], classes: int, more: list[str]
) -> None:
    scores = score(
        made(noise(12, side_px), (LatentInput(dim=1), *inputs)),
        references(20, side_px=side_px),
        extractor(Eye(classes)),
        list(BY_NAME.values()),
        samples=12,
        only_fitting=True,
    )
    assert {score.metric for score in scores} == {*FEATURES_ALONE, *more}
    assert all(math.isfinite(score.value) for score in scores)


def test_a_metric_that_says_no_is_refused_unless_only_the_fitting_are_asked_for() -> None:
    source, images, metrics = made(noise(10)), references(20), [BY_NAME["ms_ssim"], *FID_KID]
    with pytest.raises(ConfigError, match="ms_ssim needs images of at least 11 px, not 2"):
        score(source, images, extractor(), metrics, samples=10)
    scores = score(source, images, extractor(), metrics, samples=10, only_fitting=True)
    assert [score.metric for score in scores] == ["fid", "kid"]


def test_only_the_first_images_are_kept_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_core.evaluation.PIXELS", 5)
    pixels = noise(9)
    seen = see(extractor(), made(pixels).images(0, 9), needs={"pixels"})
    assert seen.pixels is not None
    assert seen.pixels.tolist() == pixels[:5].tolist()
    assert len(seen.features) == 9


def test_no_image_is_kept_where_no_metric_needs_it() -> None:
    assert see(extractor(), made(noise(9)).images(0, 9)).pixels is None


# what can't be scored


@pytest.mark.parametrize(("samples", "reals"), [(1, 5), (5, 1)])
def test_too_few_images_are_refused(graph: Source, samples: int, reals: int) -> None:
    with pytest.raises(ConfigError, match="a score needs at least 2 images of each kind"):
        score(graph, references(reals), extractor(), FID_KID, samples=samples)


def test_more_samples_than_references_are_refused(graph: Source) -> None:
    with pytest.raises(ConfigError, match="6 generated images against 5 of numbers: at most 5"):
        score(graph, references(5), extractor(), FID_KID, samples=6)


def test_as_many_samples_as_references_are_scored(graph: Source) -> None:
    assert len(score(graph, references(5), extractor(), FID_KID, samples=5)) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["features", "logits"])
def test_what_is_not_finite_is_refused(graph: Source, what: str, bad: float) -> None:
    def broken(pixels: NDArray[Any]) -> tuple[Array, Array]:
        found = {"features": np.zeros((len(pixels), 3)), "logits": np.zeros((len(pixels), 3))}
        found[what][-1, 1] = bad
        return found["features"], found["logits"]

    with pytest.raises(ConfigError, match=f"values 0 made {what} that aren't finite numbers"):
        score(graph, references(9), replace(extractor(), extract=broken), FID_KID, samples=9)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_collapsed_generator_has_a_finite_score(metric: Metric) -> None:
    one = noise(1, 16).repeat(40, axis=0)
    source = replace(
        made(one, (LatentInput(dim=1), LABEL)), path=lambda seed, n: iter([(one[:n], one[:n])])
    )
    (found,) = score(source, references(40, side_px=16), extractor(Eye(3)), [metric], samples=40)
    assert math.isfinite(found.value)


def test_a_path_is_measured_by_the_features_at_its_steps() -> None:
    before = noise(20).astype(np.float32)
    # each of the 4 pixels moves by 3 ε: 4 · 3²
    source = replace(made(before), path=lambda seed, n: iter([(before, before + 3 * EPSILON)]))
    (found,) = score(source, references(20), extractor(), [BY_NAME["path_length"]], samples=20)
    # a float32 of up to 255 is good to 1e-5, a tenth of the step
    assert found.value == pytest.approx(36, rel=0.1)


def test_a_path_is_of_a_run_alone() -> None:
    with pytest.raises(ConfigError, match="path_length needs a run: made makes whole levels"):
        score(made(noise(9)), references(9), extractor(), [BY_NAME["path_length"]], samples=9)


# scores compare, if they were measured alike


PROVENANCE = Provenance(extractor="e", resize="none", reference="r", samples=10, seed=0)


def scored(value: float, metric: str = "fid", changes: Mapping[str, object] | None = None) -> Score:
    provenance = PROVENANCE.model_copy(update=changes)
    return Score(metric=metric, value=value, provenance=provenance)


def test_scores_of_one_provenance_compare() -> None:
    assert compare(scored(5.0), scored(3.5)) == 1.5


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
        {"border_px": 4},
        {"degradation": "bicubic"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_scores_measured_differently_do_not_compare(changes: dict[str, object]) -> None:
    (field,) = changes
    with pytest.raises(ConfigError, match=rf"don't compare \({field}: .* and {changes[field]}\)"):
        compare(scored(1.0), scored(1.0, changes=changes))


def test_every_field_of_the_provenance_is_tested_above() -> None:
    assert len(Provenance.model_fields) == 10


def test_scores_of_different_metrics_do_not_compare() -> None:
    with pytest.raises(ConfigError, match="fid and kid are different metrics"):
        compare(scored(1.0), scored(1.0, "kid"))
