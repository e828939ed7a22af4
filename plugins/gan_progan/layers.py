"""What Progressive GAN's networks are made of: equalised layers, pixel norm, resampling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Equalised", "PixelNorm", "enlarged", "equalised", "shrunk"]

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class Equalised(nn.Module):
    """A weight as it is used: what the optimiser learns, times a constant."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """The scaled weight, of the same shape."""
        return weight * self.scale


def equalised(layer: Layer, gain: float = math.sqrt(2)) -> Layer:
    """The same layer with an equalised learning rate (Karras et al. 2018, §4.1).

    Its weight starts as N(0, 1) and is scaled by gain/√fan_in (He et al. 2015) whenever it is
    used, so that Adam's steps, whose size doesn't depend on the weight's, are of the same
    relative size in every layer. Biases start at 0 and aren't scaled.

    Args:
        layer: changed in place.
        gain: √2 before a LeakyReLU.
    """
    nn.init.normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    fan_in = layer.weight[0].numel()
    parametrize.register_parametrization(layer, "weight", Equalised(gain / math.sqrt(fan_in)))
    return layer


class PixelNorm(nn.Module):
    """Every pixel's feature vector, at a mean square of 1: a/√(mean a² + 1e-8) (§4.2 there)."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, …] -> [N, C, …]; in float32 even under autocast, where 1e-8 would be 0."""
        features = x.float()
        mean_square = features.square().mean(1, keepdim=True)
        return (features * torch.rsqrt(mean_square + 1e-8)).to(x.dtype)


def shrunk(images: Tensor, factor: int) -> Tensor:
    """Means over squares of factor × factor px, [N, C, H, W] -> [N, C, H/factor, W/factor]."""
    return avg_pool2d(images, factor) if factor > 1 else images


def enlarged(images: Tensor, factor: int) -> Tensor:
    """Nearest neighbours, [N, C, H, W] -> [N, C, H·factor, W·factor]."""
    return interpolate(images, scale_factor=factor) if factor > 1 else images
