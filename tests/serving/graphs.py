"""Tiny graphs whose pixels tell which inputs made them, and their exports."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gan_core.card import (
    DataSource,
    ImageInput,
    ImageOutput,
    Input,
    LabelInput,
    LatentInput,
    ModelCard,
    TruncationInput,
)
from gan_core.latents import latents

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gan_core.levels import BitDepth

__all__ = [
    "CLASSES",
    "DEEP_OUTPUT",
    "DOUBLED_INPUTS",
    "DOUBLED_OUTPUT",
    "HEIGHT",
    "LABELLED_INPUTS",
    "SOFTENED_INPUTS",
    "WATERMARK_INPUTS",
    "WATERMARK_OUTPUT",
    "WIDTH",
    "Z_DIM",
    "blank",
    "card_of",
    "deep",
    "doubled",
    "doubling",
    "fragile",
    "slow",
    "softened",
    "softening",
    "watermark",
    "watermarked",
    "write_export",
]

Z_DIM, HEIGHT, WIDTH = 4, 4, 6
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LATENT = LatentInput(dim=Z_DIM, distribution="uniform")
LABEL = LabelInput(classes=CLASSES)
TRUNCATION = TruncationInput(default=0.7)
WATERMARK_INPUTS: tuple[Input, ...] = (LATENT, LABEL, TRUNCATION)
LABELLED_INPUTS: tuple[Input, ...] = (LATENT, LABEL)
WATERMARK_OUTPUT = ImageOutput(height=HEIGHT, width=WIDTH, channels=3)
DOUBLED_INPUTS: tuple[Input, ...] = (ImageInput(multiple_of=4, min_side_px=2, max_side_px=512),)
DOUBLED_OUTPUT = ImageOutput(channels=3, scale=2)
DEEP: dict[str, Any] = {"bit_depth": 16}
DEEP_OUTPUT = DOUBLED_OUTPUT.model_copy(update=DEEP)
LEVELS = {8: TensorProto.UINT8, 16: TensorProto.UINT16}
SOFTENED_INPUTS: tuple[Input, ...] = (
    ImageInput(min_side_px=8, max_side_px=16_384, tile_px=40, halo_px=2),
)
NODE = helper.make_node


def deep(inputs: tuple[Input, ...]) -> tuple[Input, ...]:
    """Inputs with 16 bits per channel."""
    return tuple(item.model_copy(update=DEEP) for item in inputs)


def watermark(
    *,
    z_dim: int = Z_DIM,
    width: int = WIDTH,
    dtype: int = TensorProto.UINT8,
    output: str = "image",
    shade: float = 0.0,
    ir_version: int = 8,
    opset: int = 18,
    domain: str = "",
) -> onnx.ModelProto:
    """Row r of channel 0 is z[r], channel 1 is 20 · label, channel 2 is 100 · truncation.

    ``shade`` is added to channel 2, so that versions differ.
    """
    spread = numpy_helper.from_array(np.array([1, z_dim, width, 1], np.int64), "spread")
    constants = [spread, *_floats(half=127.5, low=0.0, high=255.0, step=20.0, percent=100.0)]
    constants += [*_axes(last=[2, 3]), *_floats(shade=shade)]
    nodes = [
        NODE("Mul", ["z", "half"], ["z_scaled"]),
        NODE("Add", ["z_scaled", "half"], ["z_shifted"]),
        NODE("Clip", ["z_shifted", "low", "high"], ["z_levels"]),
        NODE("Unsqueeze", ["z_levels", "last"], ["z_rows"]),
        NODE("Expand", ["z_rows", "spread"], ["red"]),
        NODE("Cast", ["label"], ["label_float"], to=TensorProto.FLOAT),
        NODE("Mul", ["label_float", "step"], ["label_level"]),
        NODE("Unsqueeze", ["label_level", "last"], ["label_pixel"]),
        NODE("Expand", ["label_pixel", "spread"], ["green"]),
        NODE("Mul", ["truncation", "percent"], ["psi_level"]),
        NODE("Add", ["psi_level", "shade"], ["psi_shaded"]),
        NODE("Unsqueeze", ["psi_shaded", "last"], ["psi_pixel"]),
        NODE("Expand", ["psi_pixel", "spread"], ["blue"]),
        NODE("Concat", ["red", "green", "blue"], ["levels"], axis=3),
        NODE("Round", ["levels"], ["rounded"], domain=domain),
        NODE("Cast", ["rounded"], [output], to=dtype),
    ]
    inputs = [_value("z", z_dim), _value("label", 1, TensorProto.INT64), _value("truncation", 1)]
    image = helper.make_tensor_value_info(output, dtype, ["N", z_dim, width, 3])
    return _model(nodes, inputs, image, constants, ir_version=ir_version, opset=opset)


def watermarked(
    seeds: Sequence[int], labels: Sequence[int] | None = None, truncation: float = 0.7
) -> NDArray[np.uint8]:
    """What ``watermark`` gives for seeds; labels go round the classes where none are given."""
    given = [seed % len(CLASSES) for seed in seeds] if labels is None else list(labels)
    images = np.empty((len(seeds), HEIGHT, WIDTH, 3), np.float32)
    images[..., 0] = (latents(LATENT, seeds) * np.float32(127.5) + np.float32(127.5))[..., None]
    images[..., 1] = np.array(given, np.float32)[:, None, None] * 20
    images[..., 2] = np.float32(truncation) * 100
    return np.round(images).astype(np.uint8)


def fragile() -> onnx.ModelProto:
    """An image of its label, but for the last one, which makes the whole run fail."""
    table = np.repeat(np.arange(9, dtype=np.uint8)[:, None], HEIGHT * WIDTH * 3, axis=1)
    constants = [numpy_helper.from_array(table.reshape(9, HEIGHT, WIDTH, 3), "table")]
    nodes = [
        NODE("Squeeze", ["label", "first"], ["index"]),
        NODE("Gather", ["table", "index"], ["picked"]),
        *_with_z("picked"),
    ]
    inputs = [_value("z", Z_DIM), _value("label", 1, TensorProto.INT64)]
    return _model(nodes, inputs, _image(), [*constants, *_axes(first=[1]), *_sum_constants()])


def slow(turns: int = 600) -> onnx.ModelProto:
    """A black image after label × turns products of 192 × 192 matrices: label 0 is instant."""
    side = 192
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((side, side)))[0]
    constants = [
        numpy_helper.from_array(rotation.astype(np.float32), "rotation"),
        numpy_helper.from_array(np.array(turns, np.int64), "turns"),
        numpy_helper.from_array(np.array(True), "always"),
        numpy_helper.from_array(np.array([1, HEIGHT, WIDTH, 3], np.int64), "spread"),
        *_floats(nothing=0.0),
        *_axes(all=[0, 1], last=[1, 2, 3]),
    ]
    matrix = [side, side]
    body = helper.make_graph(
        [
            NODE("Identity", ["go"], ["go_on"]),
            NODE("MatMul", ["before", "rotation"], ["after"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, matrix),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, matrix),
        ],
    )
    nodes = [
        NODE("ReduceMax", ["label"], ["most"], keepdims=0),
        NODE("Mul", ["most", "turns"], ["trips"]),
        NODE("Loop", ["trips", "always", "rotation"], ["turned"], body=body),
        NODE("ReduceSum", ["turned", "all"], ["sum"], keepdims=0),
        NODE("Mul", ["sum", "nothing"], ["zero"]),
        NODE("ReduceSum", ["z", "first"], ["z_sum"], keepdims=0),
        NODE("Mul", ["z_sum", "nothing"], ["z_zero"]),
        NODE("Add", ["z_zero", "zero"], ["black"]),
        NODE("Unsqueeze", ["black", "last"], ["pixel"]),
        NODE("Expand", ["pixel", "spread"], ["spread_out"]),
        NODE("Cast", ["spread_out"], ["image"], to=TensorProto.UINT8),
    ]
    inputs = [_value("z", Z_DIM), _value("label", 1, TensorProto.INT64)]
    return _model(nodes, inputs, _image(), [*constants, *_axes(first=[1])])


def doubling(bit_depth: BitDepth = 8) -> onnx.ModelProto:
    """A picture with each of its pixels four times."""
    scales = numpy_helper.from_array(np.array([1, 2, 2, 1], np.float32), "scales")
    nodes = [
        NODE("Cast", ["source"], ["levels"], to=TensorProto.FLOAT),
        NODE(
            "Resize",
            ["levels", "", "scales"],
            ["larger"],
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        ),
        NODE("Cast", ["larger"], ["image"], to=LEVELS[bit_depth]),
    ]
    source, image = (
        helper.make_tensor_value_info(name, LEVELS[bit_depth], ["N", f"{name}_h", f"{name}_w", 3])
        for name in ("source", "image")
    )
    return _model(nodes, [source], image, [scales])


def softening(bit_depth: BitDepth = 8) -> onnx.ModelProto:
    """A picture twice as large, each pixel the mean of 5 × 5; beyond its edges it is black."""
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    nodes = [
        NODE("Cast", ["source"], ["levels"], to=TensorProto.FLOAT),
        NODE("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
        NODE(
            "AveragePool",
            ["planes"],
            ["means"],
            kernel_shape=[5, 5],
            pads=[2, 2, 2, 2],
            count_include_pad=1,
        ),
        NODE(
            "Resize",
            ["means", "", "scales"],
            ["larger"],
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        ),
        NODE("Round", ["larger"], ["rounded"]),
        NODE("Transpose", ["rounded"], ["pixels"], perm=[0, 2, 3, 1]),
        NODE("Cast", ["pixels"], ["image"], to=LEVELS[bit_depth]),
    ]
    source, image = (
        helper.make_tensor_value_info(name, LEVELS[bit_depth], ["N", f"{name}_h", f"{name}_w", 3])
        for name in ("source", "image")
    )
    return _model(nodes, [source], image, [scales])


def softened(picture: NDArray[Any]) -> NDArray[Any]:
    """What ``softening`` gives for a picture [H, W, 3] that goes on with its last pixels."""
    height, width, _ = picture.shape
    continued = np.pad(picture.astype(np.float64), [(2, 2), (2, 2), (0, 0)], mode="edge")
    near = sum(continued[y : y + height, x : x + width] for y in range(5) for x in range(5))
    means: NDArray[Any] = np.round(np.asarray(near) / 25).astype(picture.dtype)
    return doubled(means)


def doubled(picture: NDArray[Any]) -> NDArray[Any]:
    """What ``doubling`` gives for a picture [H, W, 3]."""
    return picture.repeat(2, axis=0).repeat(2, axis=1)


def blank(inputs: Sequence[Input], output: ImageOutput) -> onnx.ModelProto:
    """A black image of any card's size, from any card's inputs."""
    size = [output.height or 1, output.width or 1, output.channels]
    dtype = LEVELS[output.bit_depth]
    constants = [*_floats(nothing=0.0), *_axes(spread=[1, *size], first=[1], last=[2, 3])]
    nodes, zeros, values = [], [], []
    for i, item in enumerate(inputs):
        kind = TensorProto.INT64 if item.tensor.dtype == "int64" else TensorProto.FLOAT
        values.append(_value(item.name, item.tensor.shape[0], kind))
        nodes += [
            NODE("Cast", [item.name], [f"float_{i}"], to=TensorProto.FLOAT),
            NODE("ReduceSum", [f"float_{i}", "first"], [f"sum_{i}"], keepdims=1),
            NODE("Mul", [f"sum_{i}", "nothing"], [f"zero_{i}"]),
        ]
        zeros.append(f"zero_{i}")
    nodes += [
        NODE("Sum", zeros, ["black"]),
        NODE("Unsqueeze", ["black", "last"], ["pixel"]),
        NODE("Expand", ["pixel", "spread"], ["image_float"]),
        NODE("Cast", ["image_float"], ["image"], to=dtype),
    ]
    image = helper.make_tensor_value_info("image", dtype, ["N", *size])
    return _model(nodes, values, image, constants)


def card_of(
    proto: onnx.ModelProto,
    model: str,
    inputs: Sequence[Input] = WATERMARK_INPUTS,
    output: ImageOutput = WATERMARK_OUTPUT,
    **fields: Any,
) -> ModelCard:
    """A card that fits the graph, but for the ``fields`` given."""
    return ModelCard.model_validate(
        {
            "model": model,
            "variant": "watermark",
            "inputs": tuple(inputs),
            "output": output,
            "opset": proto.opset_import[0].version,
            "sha256": hashlib.sha256(proto.SerializeToString()).hexdigest(),
            "parity_levels": 0,
            "trained_kimg": 0.0,
            "data": DataSource(name="none", fingerprint="0" * 12),
            "created": datetime(2026, 1, 1, tzinfo=UTC),
            **fields,
        }
    )


def write_export(
    directory: Path,
    model: str,
    proto: onnx.ModelProto | None = None,
    inputs: Sequence[Input] = WATERMARK_INPUTS,
    output: ImageOutput = WATERMARK_OUTPUT,
    **fields: Any,
) -> Path:
    """Write what ``ganforge export`` would: model.onnx and card.json; returns the directory."""
    proto = watermark() if proto is None else proto
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(proto.SerializeToString())
    card = card_of(proto, model, inputs, output, **fields)
    (directory / "card.json").write_text(card.model_dump_json())
    return directory


def _with_z(pixels: str) -> list[onnx.NodeProto]:
    """Adds 0 · z to uint8 pixels, so that every input is used."""
    return [
        NODE("ReduceSum", ["z", "first"], ["z_sum"], keepdims=0),
        NODE("Mul", ["z_sum", "nothing"], ["z_zero"]),
        NODE("Unsqueeze", ["z_zero", "last"], ["z_pixel"]),
        NODE("Cast", [pixels], ["pixels_float"], to=TensorProto.FLOAT),
        NODE("Add", ["pixels_float", "z_pixel"], ["summed"]),
        NODE("Cast", ["summed"], ["image"], to=TensorProto.UINT8),
    ]


def _sum_constants() -> list[onnx.TensorProto]:
    return [*_floats(nothing=0.0), *_axes(last=[1, 2, 3])]


def _value(name: str, size: int, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, ["N", size])


def _image() -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", HEIGHT, WIDTH, 3])


def _floats(**values: float) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.array(v, np.float32), name) for name, v in values.items()]


def _axes(**values: list[int]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in values.items()]


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    constants: list[onnx.TensorProto],
    *,
    ir_version: int = 8,
    opset: int = 18,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "tiny", inputs, [output], initializer=constants)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
