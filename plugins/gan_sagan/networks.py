"""SAGAN's residual networks, of which one feature map attends to itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import relu

from gan_core.layers import (
    BatchNorm2d,
    ConditionalBatchNorm2d,
    DownBlock,
    Head,
    UpBlock,
    spectrally_normalised,
)

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.layers import Minibatch

__all__ = ["Architecture", "Discriminator", "Generator"]

SMALLEST_PX = 4
WIDEST = 16


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the two networks have in common."""

    resolution_px: int
    """Side of the images, a power of two from 8."""
    channels: int
    """Of the images."""
    classes: int
    """0 = unconditional."""
    width: int
    """Feature maps next to the image."""
    attention_px: int
    """Side of the feature map that attends to itself, a power of two from 4 to half the image."""
    attention: Callable[[int], nn.Module]
    """Channels -> the layer."""

    def sides_px(self) -> list[int]:
        """Sides of the feature maps of both networks, from the smallest to half the image's."""
        halvings = (self.resolution_px // SMALLEST_PX).bit_length() - 1
        return [SMALLEST_PX << i for i in range(halvings)]

    def width_at(self, side_px: int) -> int:
        """G's channels at a side: doubled at each halving, to at most 16 times the width."""
        return self.width * min(self.resolution_px // side_px, WIDEST)


class Generator(nn.Module):
    """z [N, z_dim] -> images [N, channels, resolution_px, resolution_px] in [-1, 1].

    Every convolution and linear layer is spectrally normalised; the gains and biases per class
    aren't, as in the authors' code.
    """

    def __init__(self, z_dim: int, shape: Architecture) -> None:
        super().__init__()
        sides, width_at = shape.sides_px(), shape.width_at
        norm = partial(ConditionalBatchNorm2d, classes=shape.classes)
        self.first = nn.Linear(z_dim, width_at(SMALLEST_PX) * SMALLEST_PX**2)
        self.blocks = nn.ModuleList(
            UpBlock(width_at(px), width_at(2 * px), norm if shape.classes else BatchNorm2d)
            for px in sides
        )
        self.attention = shape.attention(width_at(shape.attention_px))
        self.attended = sides.index(shape.attention_px)
        self.norm = nn.BatchNorm2d(shape.width)
        self.last = nn.Conv2d(shape.width, shape.channels, 3, padding=1)
        self.apply(_initialise)
        for layer in list(self.modules()):
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                spectrally_normalised(layer)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images, of class ``label`` [N] where there are classes."""
        x = self.first(z).unflatten(1, (-1, SMALLEST_PX, SMALLEST_PX))
        for i, block in enumerate(self.blocks):
            if i == self.attended:
                x = self.attention(x)
            x = block(x, label)
        return torch.tanh(self.last(relu(self.norm(x))))


class Discriminator(nn.Module):
    """Images [N, channels, resolution_px, resolution_px] in [-1, 1] -> logits [N].

    Every layer is spectrally normalised, the class embedding included.
    """

    def __init__(self, shape: Architecture, minibatch: Minibatch = "none") -> None:
        super().__init__()
        sides = shape.sides_px()[::-1]
        widths = [shape.width_at(2 * px) for px in sides]
        self.blocks = nn.ModuleList(
            DownBlock(inside, outside, first=i == 0)
            for i, (inside, outside) in enumerate(
                zip([shape.channels, *widths], widths, strict=False)
            )
        )
        self.blocks.append(DownBlock(widths[-1], widths[-1], down=False))
        self.attended = sides.index(shape.attention_px)
        self.attention = shape.attention(widths[self.attended])
        self.head = Head(widths[-1], shape.classes, minibatch)
        self.apply(_initialise)
        if self.head.embedding is not None:
            nn.init.xavier_uniform_(self.head.embedding.weight)
        spectrally_normalised(self)

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """The last feature map, rectified and summed over its places, [N, F]."""
        x = images
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == self.attended:
                x = self.attention(x)
        return relu(x).sum((2, 3))

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits, of image and class together where there are classes."""
        logits: Tensor = self.head(self.features(images), label)
        return logits


def _initialise(module: nn.Module) -> None:
    """As in the authors' code: Glorot's uniform weights, biases of 0."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
