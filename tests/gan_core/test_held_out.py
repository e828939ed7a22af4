"""Scores of upscalers: on photographs that were held out, by a stated protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pytest
from PIL import Image
from torch import nn

from gan_core.card import DataSource, ImageInput, LatentInput
from gan_core.crops import Crops
from gan_core.data import open_training
from gan_core.errors import ConfigError
from gan_core.export import export
from gan_core.held_out import (
    BETTER,
    enlarged_by,
    held_out_scores,
    is_upscaler,
    reduced,
    shown,
    usual_metrics,
    vgg16_distance,
)
from gan_core.live import scorer_of
from gan_core.plugins import Plugins
from gan_core.run import Run
from gan_core.scoring import evaluate, open_source
from gan_core.upscalers import served_upscaler
from gan_core.variant import TrainConfig, Variant

if TYPE_CHECKING:
    from numpy.typing import NDArray

OF_PIXELS = ("psnr_y", "psnr_rgb", "ssim_y", "ssim_rgb")
SOURCE = DataSource(name="crops:photographs", fingerprint="0")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty smooth photographs, of which the tenth and the twentieth are held out."""
    folder = tmp_path_factory.mktemp("photographs")
    y, x = np.mgrid[:50, :64] / 10
    for i in range(20):
        waves = [np.sin(x * (1 + i / 20) + channel) * np.cos(y * channel) for channel in (1, 2, 3)]
        levels = 127.5 + 120 * np.stack(waves, -1)
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def crops(folder: Path) -> Crops:
    _, data = open_training(f"crops:{folder}", 32, Plugins())
    assert isinstance(data, Crops)
    return data


def repeated(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return picture.repeat(2, 0).repeat(2, 1)


def bicubic(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width, _ = picture.shape
    enlarged = Image.fromarray(picture).resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
    return np.asarray(enlarged)


def test_a_better_filter_has_better_scores(crops: Crops) -> None:
    ours, theirs = (held_out_scores(crops, f, 2, OF_PIXELS) for f in (bicubic, repeated))
    assert [score.metric for score in ours] == list(OF_PIXELS)
    for better, worse in zip(ours, theirs, strict=True):
        assert better.value > worse.value


def test_a_score_says_how_it_was_measured(crops: Crops) -> None:
    (score,) = held_out_scores(crops, bicubic, 2, ["psnr_y"], ema=True, graph="torch")
    provenance = score.provenance
    assert (provenance.border_px, provenance.samples) == (2, 2)
    assert provenance.degradation == "bicubic, antialiased, ×2"
    assert provenance.reference.startswith("crops:photographs0 held out ")
    assert (provenance.ema, provenance.graph) == (True, "torch")


def test_an_unknown_metric_lists_those_there_are(crops: Crops) -> None:
    with pytest.raises(ConfigError, match="aren't scored by 'fid': psnr_y, psnr_rgb"):
        held_out_scores(crops, bicubic, 2, ["fid"])


def test_without_held_out_photographs_there_is_no_score() -> None:
    few = Crops([np.zeros((3, 9, 9), np.uint8)], SOURCE, 8)
    with pytest.raises(ConfigError, match="has fewer than 10 photographs: none is held out"):
        held_out_scores(few, bicubic, 2, OF_PIXELS)


def test_without_its_network_the_distance_is_left_out_and_said(crops: Crops) -> None:
    said: list[str] = []
    assert usual_metrics(said.append) == OF_PIXELS
    assert len(said) == 1
    assert "vgg16_distance is left out: vgg16-caffe isn't here" in said[0]
    with pytest.raises(ConfigError, match="'ganforge data fetch vgg16-caffe' brings it"):
        held_out_scores(crops, bicubic, 2, list(BETTER))


def test_an_upscaler_takes_a_picture_alone() -> None:
    assert is_upscaler([ImageInput()])
    assert not is_upscaler([ImageInput(), LatentInput(dim=2)])
    assert not is_upscaler([LatentInput(dim=2)])


def test_a_graph_is_scored_as_its_network_and_its_card_says_so(
    crops: Crops, folder: Path, tmp_path: Path
) -> None:
    served = served_upscaler(nn.Upsample(scale_factor=2), 2)
    served.network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Upsample(scale_factor=2))
    export(served, tmp_path, model="up", variant="toy", data=SOURCE, trained_kimg=0)
    plugins = Plugins()
    source = open_source(str(tmp_path / "model.onnx"), plugins)
    with pytest.raises(ConfigError, match="trained on a folder, which lies nobody knows where"):
        evaluate(source, plugins)
    with pytest.raises(ConfigError, match="digits holds no photographs back"):
        evaluate(source, plugins, data="digits")
    scores = evaluate(source, plugins, data=f"crops:{folder}", metrics=OF_PIXELS)
    of_torch = held_out_scores(crops, enlarged_by(served), 2, OF_PIXELS)
    for ours, theirs in zip(scores, of_torch, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-3)
    assert open_source(str(tmp_path / "model.onnx"), plugins).directory == tmp_path
    assert '"psnr_y"' in (tmp_path / "card.json").read_text()


def test_training_is_scored_on_what_is_held_out(crops: Crops, tmp_path: Path) -> None:
    def never(*given: object) -> NoReturn:
        raise AssertionError

    variant = Variant(
        name="toy", paper="", config=TrainConfig, build=never, served=never, task="super-resolution"
    )
    config = TrainConfig(score_kimg=1, score_metrics=("psnr_y",))
    run = Run(tmp_path / "run", variant, "crops:photographs", SOURCE, config)
    scorer = scorer_of(run, crops, Plugins())
    assert scorer is not None
    served = served_upscaler(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Upsample(scale_factor=2)), 2)
    assert scorer(served).keys() == {"psnr_y"}


def test_the_distance_of_two_pictures_is_that_of_their_features(tmp_path: Path) -> None:
    """A network of thirteen 1×1 convolutions that let channels pass: each layer sees pixels."""
    weights = _toy_vgg(tmp_path / "toy.onnx")
    distance = vgg16_distance(weights)
    red, green = (np.full((6, 9, 3), 124, np.uint8) for _ in range(2))
    red[..., 0], green[..., 1] = 255, 255
    assert distance(red, red) == 0
    a, b = (
        np.array(rgb) - (123.68, 116.779, 103.939) for rgb in ((255, 124, 124), (124, 255, 124))
    )
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert distance(red, green) == pytest.approx(2 - 2 * cosine, abs=1e-4)


def _toy_vgg(path: Path) -> Path:
    import onnx
    from onnx import helper

    nodes = [helper.make_node("Transpose", ["x"], ["h0"], perm=[0, 3, 1, 2])]
    nodes += [helper.make_node("Relu", [f"h{i}"], [f"h{i + 1}"]) for i in range(13)]
    nodes.append(helper.make_node("Flatten", ["h13"], ["y"]))
    taken = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4, 4, 3])
    given = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    opset = helper.make_opsetid("", 17)
    graph = helper.make_graph(nodes, "toy", [taken], [given])
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


def test_what_is_shown_are_held_out_photographs_beside_bicubic(crops: Crops) -> None:
    sheet = np.asarray(shown(crops, repeated, 2))
    cell, gap = 128, 2
    assert sheet.shape == (cell + 2 * gap, 6 * (cell + gap) + gap, 3)
    (first, second) = (np.array(Image.open(path)) for path in crops.held_out)
    for photograph, at in ((first, 0), (second, 3)):
        small = reduced(photograph, 2)
        plain = Image.fromarray(small).resize((64, 50), Image.Resampling.BICUBIC)
        for column, expected in enumerate((np.asarray(plain), repeated(small), photograph)):
            left = gap + (at + column) * (cell + gap)
            np.testing.assert_array_equal(sheet[gap : gap + 50, left : left + 64], expected)


def test_blind_scores_are_repeatable_and_worse_than_bicubics(crops: Crops) -> None:
    scores = [
        held_out_scores(crops, repeated, 2, ("psnr_y",), degradation=kind)[0]
        for kind in ("blind", "blind", "bicubic")
    ]
    assert scores[0] == scores[1]
    assert scores[0].value < scores[2].value - 1
    assert scores[0].provenance.degradation == "blind, second order, ×2"
