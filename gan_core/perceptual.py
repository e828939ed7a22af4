"""Features of a network that knows photographs: what perceptual losses compare.

The networks are frozen, always in evaluation and in float32, and belong to no trainer's state.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from .assets import path_of
from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

__all__ = ["Features", "check_perceptual", "perceptual_features", "vgg"]

FEATURE_SCALE = 1 / 12.75
"""Brings the features' squared distances to about those of pixels (Ledig et al. 2017, §3.2)."""
VGG16_CONVOLUTIONS = (2, 2, 3, 3, 3)
VGG19_CONVOLUTIONS = (2, 2, 4, 4, 4)
"""In each block; a block's first has twice the channels of the one before, up to 512."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN, CAFFE_STD = tuple(v / 255 for v in (123.68, 116.779, 103.939)), (1 / 255,) * 3
"""Of RGB in [0, 1]; its own order is BGR, and its range 0 to 255."""
VGG19_FILE = "vgg19-dcbb9e9d.pth"


class Features(nn.Module):
    """Images [N, 1 or 3, H, W] in [0, 1] -> features [N, 512, H/16, W/16], × 1/12.75.

    Args:
        layers: take normalised RGB.
        mean: of each channel, subtracted.
        std: of each channel, divided by.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """The features; gradients flow to the images alone."""
        with torch.autocast(images.device.type, enabled=False):
            rgb = images.float().expand(-1, 3, -1, -1)
            found: Tensor = self.layers((rgb - self.mean) / self.std) * FEATURE_SCALE
        return found

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (torch's signature)
        """Nothing: it is always in evaluation."""
        return super().train(mode=False)


def vgg(convolutions: Sequence[int], *, relu_last: bool) -> nn.Sequential:
    """VGG's layers up to the last convolution (Simonyan & Zisserman 2015), numbered as torchvision.

    Args:
        convolutions: in each block.
        relu_last: whether the last convolution's ReLU is among them.
    """
    layers: list[nn.Module] = []
    inside = 3
    for block, n in enumerate(convolutions):
        outside = min(64 << block, 512)
        layers += [nn.MaxPool2d(2)] if block else []
        for _ in range(n):
            layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU()]
            inside = outside
    return nn.Sequential(*layers if relu_last else layers[:-1])


def check_perceptual(name: str) -> None:
    """Make sure that ``perceptual_features`` knows the network, without loading it.

    Raises:
        ValueError: it doesn't; the message lists those it does.
    """
    if name not in {"vgg19", "vgg16-caffe", "untrained"} and not name.startswith("vgg19:"):
        raise ValueError(
            f"no perceptual network {name!r}: vgg19, vgg19:PATH, vgg16-caffe or untrained"
        )


def perceptual_features(name: str, *, after_relu: bool) -> Features:
    """The features of a network's last convolution.

    Args:
        name: ``vgg19`` is torchvision's, downloaded, its conv5_4; ``vgg19:PATH`` the same from a
            file; ``vgg16-caffe`` the conv5_3 of that asset; ``untrained`` a VGG19 with random
            weights, always the same ones, to try or test things without any.
        after_relu: as SRGAN has them; ESRGAN's are those before.

    Raises:
        ValueError: there is no such network.
        ConfigError: its weights aren't here; the message says how to get them.
    """
    check_perceptual(name)
    caffe = name == "vgg16-caffe"
    convolutions = VGG16_CONVOLUTIONS if caffe else VGG19_CONVOLUTIONS
    with torch.random.fork_rng(devices=[]):  # loading it must not change what training draws
        layers = vgg(convolutions, relu_last=after_relu)
    if caffe:
        _load_caffe(layers, path_of(name))
        return Features(layers, CAFFE_MEAN, CAFFE_STD)
    if name == "untrained":
        _initialise(layers)
    else:
        _load_torchvision(layers, name.partition(":")[2])
    return Features(layers, IMAGENET_MEAN, IMAGENET_STD)


def _initialise(layers: nn.Sequential) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in layers.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)


def _load_torchvision(layers: nn.Sequential, path: str) -> None:
    whole = _read(Path(path).expanduser()) if path else _downloaded()
    ours = {name: whole.get(f"features.{name}") for name in layers.state_dict()}
    try:
        layers.load_state_dict({name: value for name, value in ours.items() if value is not None})
    except RuntimeError as error:
        raise ConfigError(
            f"perceptual: {path or VGG19_FILE} isn't torchvision's VGG19: "
            f"its weights have other names or shapes than {VGG19_FILE}"
        ) from error


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: Mapping[str, Tensor] = torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"perceptual: can't read {path}: {first}") from error
    return found


def _downloaded() -> Mapping[str, Tensor]:
    from torchvision.models import VGG19_Weights

    weights = VGG19_Weights.IMAGENET1K_V1
    try:
        found: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"perceptual: can't download {weights.url}: {error}; bring {VGG19_FILE} here and name "
            "it, vgg19:PATH, or 'ganforge data fetch vgg16-caffe' and set perceptual=vgg16-caffe"
        ) from error
    return found


def _load_caffe(layers: nn.Sequential, path: Path) -> None:
    """The convolutions' weights from an ONNX file, the first one's turned from BGR to RGB."""
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(path).graph
    values = {one.name: one for one in graph.initializer}
    theirs = [node.input for node in graph.node if node.op_type == "Conv"]
    ours = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    for layer, (_, weight, bias) in zip(ours, theirs, strict=True):
        found = [torch.from_numpy(to_array(values[name]).copy()) for name in (weight, bias)]
        layer.load_state_dict({"weight": found[0], "bias": found[1]})
    with torch.no_grad():
        ours[0].weight.copy_(ours[0].weight.flip(1))
