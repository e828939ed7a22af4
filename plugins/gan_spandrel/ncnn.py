"""Networks in ncnn's files, NAME.param and NAME.bin, as Real-ESRGAN is handed round."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gan_core.errors import ConfigError

from .ncnn_files import Bin, Layer, layers_of
from .weights import Weights, scale_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Graph", "read"]


def read(path: Path) -> Weights:
    """The network of NAME.param, with its weights from NAME.bin beside it.

    Raises:
        ConfigError: a file is missing or damaged, or holds a layer that isn't known here.
    """
    try:
        binary = path.with_suffix(".bin")
        weights = Bin(binary.read_bytes())
        network = Graph(layers_of(path.read_text()), weights).eval()
        weights.done()
        channels = network.channels
        return Weights(network, "ncnn", scale_of(network, channels), channels, (path, binary))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no .param file of ncnn, as text") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


class _Concat(nn.Module):
    def forward(self, *images: Tensor) -> Tensor:
        return torch.cat(images, 1)


class _Sum(nn.Module):
    def __init__(self, coefficients: tuple[float, ...]) -> None:
        super().__init__()
        self.coefficients = coefficients

    def forward(self, *images: Tensor) -> Tensor:
        one, *others = (
            image if factor == 1 else factor * image
            for factor, image in zip(self.coefficients, images, strict=True)
        )
        return sum(others, start=one)


def _activation(layer: Layer) -> nn.Module:
    match layer.integer(9):
        case 0:
            return nn.Identity()
        case 1:
            return nn.ReLU()
        case 2:
            (slope,) = layer.numbers(10, (0.0,))
            return nn.LeakyReLU(slope)
        case other:
            raise layer.unknown(9, other)


def _convolution(layer: Layer, weights: Bin) -> nn.Module:
    outputs, kernel_px = layer.integer(0), layer.integer(1)
    layer.expect(_7=1, _8=0, _11=kernel_px)
    n = layer.integer(6)
    area = outputs * kernel_px**2
    if area < 1 or n < area or n % area:
        raise layer.unknown(6, n)
    convolution = nn.Conv2d(
        n // area,
        outputs,
        kernel_px,
        stride=layer.integer(3, 1),
        padding=layer.integer(4),
        dilation=layer.integer(2, 1),
        bias=bool(layer.integer(5)),
    )
    convolution.weight.data = weights.tagged(n).reshape(convolution.weight.shape)
    if convolution.bias is not None:
        convolution.bias.data = weights.plain(outputs)
    return nn.Sequential(convolution, _activation(layer))


def _prelu(layer: Layer, weights: Bin) -> nn.Module:
    prelu = nn.PReLU(layer.integer(0, 1))
    prelu.weight.data = weights.plain(prelu.num_parameters)
    return prelu


def _concat(layer: Layer, _: Bin) -> nn.Module:
    layer.expect(_0=0)
    return _Concat()


def _eltwise(layer: Layer, _: Bin) -> nn.Module:
    if layer.integer(0) != 1:
        raise layer.unknown(0, layer.integer(0))
    return _Sum(layer.numbers(1, (1.0,) * len(layer.inputs)))


def _binary(layer: Layer, _: Bin) -> nn.Module:
    layer.expect(_0=0, _1=0)
    return _Sum((1.0, 1.0))


def _pixel_shuffle(layer: Layer, _: Bin) -> nn.Module:
    layer.expect(_1=0)
    return nn.PixelShuffle(layer.integer(0, 1))


def _interpolation(layer: Layer, _: Bin) -> nn.Module:
    modes = {1: "nearest", 2: "bilinear", 3: "bicubic"}
    factor = layer.number(1, 1)
    layer.expect(_2=factor, _3=0, _4=0, _5=0, _6=0)
    if layer.integer(0) not in modes:
        raise layer.unknown(0, layer.integer(0))
    return nn.Upsample(scale_factor=factor, mode=modes[layer.integer(0)])


KINDS: dict[str, Callable[[Layer, Bin], nn.Module]] = {
    "BinaryOp": _binary,
    "Concat": _concat,
    "Convolution": _convolution,
    "Eltwise": _eltwise,
    "Interp": _interpolation,
    "PReLU": _prelu,
    "PixelShuffle": _pixel_shuffle,
    "Split": lambda layer, _: nn.Identity(),
}


class Graph(nn.Module):
    """The layers of NAME.param, run in their order."""

    def __init__(self, layers: list[Layer], weights: Bin) -> None:
        super().__init__()
        sources = [layer for layer in layers if layer.kind == "Input"]
        if len(sources) != 1 or len(layers) < 2:
            raise ConfigError(f"{len(sources)} layers of kind Input: one is accepted")
        self.source = sources[0].outputs[0]
        self.layers = [layer for layer in layers if layer.kind != "Input"]
        self.steps = nn.ModuleList(_step(layer, weights) for layer in self.layers)

    @property
    def channels(self) -> int:
        """Of the picture that goes in."""
        first = next((one for one in self.modules() if isinstance(one, nn.Conv2d)), None)
        if first is None:
            raise ConfigError("it has no Convolution")
        return first.in_channels

    def forward(self, images: Tensor) -> Tensor:
        """What the last layer gives."""
        blobs = {self.source: images}
        result = images
        for layer, step in zip(self.layers, self.steps, strict=True):
            result = step(*(blobs.pop(name) for name in layer.inputs))  # each is used once
            blobs.update(dict.fromkeys(layer.outputs, result))
        return result


def _step(layer: Layer, weights: Bin) -> nn.Module:
    if layer.kind not in KINDS:
        raise ConfigError(
            f"layer {layer.name} is a {layer.kind}; accepted: {', '.join(sorted(KINDS))}"
        )
    return KINDS[layer.kind](layer, weights)
