"""The check that serving adds to the conformance kit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gan_core.card import ImageInput, ImageOutput, LatentInput, ModelCard
from gan_core.errors import InternalError, PublishError
from gan_serving.conformance import check_served
from tests.serving.graphs import WATERMARK_OUTPUT, doubling, write_export


def card_in(folder: Path) -> ModelCard:
    return ModelCard.model_validate_json((folder / "card.json").read_text())


def test_a_sound_export_passes(tmp_path: Path) -> None:
    folder = write_export(tmp_path, "marked")
    check_served(card_in(folder), folder)


def test_an_export_that_no_repository_takes_fails(tmp_path: Path) -> None:
    folder = write_export(tmp_path, "marked", parity_levels=2)
    with pytest.raises(PublishError, match="differs from torch by 2 levels"):
        check_served(card_in(folder), folder)


def averaged() -> onnx.ModelProto:
    """Every pixel is 200 times the batch's mean |z|: an image depends on its neighbours."""
    constants = [
        numpy_helper.from_array(np.array([0], np.int64), "batch"),
        numpy_helper.from_array(np.array([1], np.int64), "first"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "last"),
        numpy_helper.from_array(np.array([1, 4, 6, 3], np.int64), "spread"),
        numpy_helper.from_array(np.array(200, np.float32), "bright"),
        numpy_helper.from_array(np.array(0, np.float32), "nothing"),
    ]
    nodes = [
        helper.make_node("Abs", ["z"], ["size"]),
        helper.make_node("ReduceMean", ["size", "first"], ["own"], keepdims=1),
        helper.make_node("ReduceMean", ["own", "batch"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["own", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "mean"], ["shared"]),
        helper.make_node("Mul", ["shared", "bright"], ["level"]),
        helper.make_node("Unsqueeze", ["level", "last"], ["pixel"]),
        helper.make_node("Expand", ["pixel", "spread"], ["image_float"]),
        helper.make_node("Cast", ["image_float"], ["image"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "averaged",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 6, 3])],
        initializer=constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_an_image_that_depends_on_its_neighbours_fails(tmp_path: Path) -> None:
    inputs = (LatentInput(dim=4, distribution="uniform"),)
    folder = write_export(tmp_path, "averaged", averaged(), inputs, WATERMARK_OUTPUT)
    with pytest.raises(ValueError, match=r"n = 3 differs from three times n = 1 by \d+ levels"):
        check_served(card_in(folder), folder)


def upscaler(directory: Path, proto: onnx.ModelProto, **source: int) -> Path:
    """An export that makes pictures twice as large."""
    output = ImageOutput(height=None, width=None, channels=3, scale=2)
    return write_export(directory, "larger", proto, (ImageInput(**source),), output)


@pytest.mark.parametrize("source", [{}, {"tile_px": 12, "halo_px": 2}, {"min_side_px": 40}])
def test_an_upscaler_passes(tmp_path: Path, source: dict[str, int]) -> None:
    folder = upscaler(tmp_path, doubling(), **source)
    check_served(card_in(folder), folder)


def test_an_upscaler_that_cannot_take_its_tiles_fails(tmp_path: Path) -> None:
    proto = doubling()
    ends = numpy_helper.from_array(np.array([32, 32], np.int64), "ends")
    starts = numpy_helper.from_array(np.array([0, 0], np.int64), "starts")
    axes = numpy_helper.from_array(np.array([1, 2], np.int64), "axes")
    proto.graph.initializer.extend([starts, ends, axes])
    nodes = proto.graph.node
    nodes[1].input[0] = "cut"  # of what is larger it makes no more than 32 px
    nodes.insert(1, helper.make_node("Slice", ["levels", "starts", "ends", "axes"], ["cut"]))
    folder = upscaler(tmp_path, proto, tile_px=40, halo_px=2)
    with pytest.raises(InternalError, match=r"tiles of 40 px have become \(64, 64\)"):
        check_served(card_in(folder), folder)
