"""Networks in TensorFlow.js's files, against numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from benchmarks.super_resolution.upscalerjs import fetch, read
from gan_core.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE = 4
CHANNELS = 3 * SCALE**2
CONVOLUTION = {
    "strides": [1, 1],
    "padding": "same",
    "data_format": "channels_last",
    "dilation_rate": [1, 1],
    "groups": 1,
    "activation": "linear",
    "use_bias": True,
}


@pytest.fixture
def kernel() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 0.2, (3, 3, 3, CHANNELS)).astype(np.float32)


@pytest.fixture
def bias() -> NDArray[np.float32]:
    return np.linspace(0.2, 0.8, CHANNELS, dtype=np.float32)


@pytest.fixture
def model(tmp_path: Path, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> Path:
    """Conv2D, ReLU and PixelShuffle4x; the weights in two shards, cut within the kernel."""
    layers = [
        layer("InputLayer", "LR"),
        layer("Conv2D", "conv", "LR", **CONVOLUTION),
        layer("Activation", "relu", "conv", activation="relu"),
        layer("PixelShuffle4x", "SR", "relu", scale=SCALE),
    ]
    weights = [
        {"name": "conv/bias", "shape": list(bias.shape), "dtype": "float32"},
        {"name": "conv/kernel", "shape": list(kernel.shape), "dtype": "float32"},
    ]
    data = bias.tobytes() + kernel.tobytes()
    (tmp_path / "1.bin").write_bytes(data[:1000])
    (tmp_path / "2.bin").write_bytes(data[1000:])
    return written(tmp_path / "model.json", layers, weights)


def layer(kind: str, name: str, *inputs: str, **config: object) -> dict[str, Any]:
    nodes = [[[one, 0, 0, {}] for one in inputs]] if inputs else []
    settings = {"name": name, **config}
    return {"class_name": kind, "name": name, "config": settings, "inbound_nodes": nodes}


def written(path: Path, layers: list[dict[str, Any]], weights: list[dict[str, Any]]) -> Path:
    topology = {"layers": layers, "output_layers": [[layers[-1]["name"], 0, 0]]}
    manifest = [{"paths": ["1.bin", "2.bin"], "weights": weights}]
    model = {
        "modelTopology": {"model_config": {"config": topology}},
        "weightsManifest": manifest,
    }
    path.write_text(json.dumps(model))
    return path


def convolved(
    image: NDArray[np.float32], kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """[H, W, 3] -> [H, W, C], zeros around it."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    shifted = (
        padded[i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    return np.asarray(sum(shifted, start=bias))


def test_a_network_computes_what_its_layers_say(
    model: Path, kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> None:
    image = np.random.default_rng(1).random((5, 6, 3), np.float32)
    deep = np.maximum(convolved(image, kernel, bias), 0)
    blocks = deep.reshape(5, 6, SCALE, SCALE, 3)  # depth_to_space: row, column, then channel
    expected = blocks.transpose(0, 2, 1, 3, 4).reshape(5 * SCALE, 6 * SCALE, 3).clip(0, 1)
    with torch.no_grad():
        made = read(model)(torch.from_numpy(image).permute(2, 0, 1)[None])
    np.testing.assert_allclose(made[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_a_layer_that_is_unknown_is_named(model: Path) -> None:
    model.write_text(model.read_text().replace("PixelShuffle4x", "Softmax"))
    with pytest.raises(ConfigError, match="layer SR is a Softmax; accepted: Activation, Add"):
        read(model)


def test_a_shard_cut_short_is_refused(model: Path) -> None:
    shard = model.parent / "2.bin"
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(ConfigError, match="the shards hold 5372 bytes, not 5376"):
        read(model)


def test_only_pinned_packages_are_fetched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no network 'esrgan-legacy': esrgan-medium"):
        fetch("esrgan-legacy", tmp_path)
