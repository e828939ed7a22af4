"""BigGAN's residual networks: the class and a chunk of z reach every block of G."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import relu

from gan_core.layers import DownBlock, Head, SelfAttention, UpBlock, spectrally_normalised

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.layers import Minibatch

__all__ = ["Architecture", "Discriminator", "Generator", "ProjectedBatchNorm2d"]

SMALLEST_PX = 4
WIDEST = 16
EPSILON = 1e-6
"""Of spectral norm. Authors' PyTorch code: 1e-6."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the two networks have in common."""

    resolution_px: int
    """Side of the images, a power of two from 8."""
    channels: int
    """Of the images."""
    classes: int
    """At least 1."""
    width: int
    """Feature maps next to the image."""
    attention_px: int
    """Side of the feature map that attends to itself, a power of two from 4 to half the image."""

    def sides_px(self) -> list[int]:
        """Sides of the feature maps of both networks, from the smallest to half the image's."""
        halvings = (self.resolution_px // SMALLEST_PX).bit_length() - 1
        return [SMALLEST_PX << i for i in range(halvings)]

    def width_at(self, side_px: int) -> int:
        """G's channels at a side: doubled at each halving, to at most 16 times the width."""
        return self.width * min(self.resolution_px // side_px, WIDEST)


class ProjectedBatchNorm2d(nn.Module):
    """Batch norm whose gain is 1 + Wc and whose bias is Vc, of a condition c.

    W and V have no biases, so that c = 0 leaves the plain batch norm.

    Args:
        channels: of the feature map.
        condition: length of c.
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Linear(condition, channels, bias=False)
        self.bias = nn.Linear(condition, channels, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[N, C, H, W] and conditions [N, condition] -> [N, C, H, W]."""
        gain, bias = 1 + self.gain(condition), self.bias(condition)
        scaled: Tensor = gain[:, :, None, None] * self.norm(x) + bias[:, :, None, None]
        return scaled


class Generator(nn.Module):
    """z [N, z_dim] and classes [N] -> images [N, channels, resolution_px, resolution_px].

    z is cut into as many equal chunks as there are blocks, and one: the first becomes the
    smallest feature map, each other joins the class embedding as the condition of its block.
    Every convolution and linear layer is spectrally normalised; the one embedding isn't, as in
    the authors' PyTorch code.

    Args:
        z_dim: a multiple of the number of chunks.
        shared_dim: length of the class embedding.
        shape: sides and widths.
    """

    def __init__(self, z_dim: int, shared_dim: int, shape: Architecture) -> None:
        super().__init__()
        sides, width_at = shape.sides_px(), shape.width_at
        self.chunk = z_dim // (len(sides) + 1)
        self.shared = nn.Embedding(shape.classes, shared_dim)
        self.first = nn.Linear(self.chunk, width_at(SMALLEST_PX) * SMALLEST_PX**2)
        norm = partial(ProjectedBatchNorm2d, condition=shared_dim + self.chunk)
        self.blocks = nn.ModuleList(UpBlock(width_at(px), width_at(2 * px), norm) for px in sides)
        self.attention = SelfAttention(width_at(shape.attention_px))
        self.attended = sides.index(shape.attention_px)
        self.norm = nn.BatchNorm2d(shape.width)
        self.last = nn.Conv2d(shape.width, shape.channels, 3, padding=1)
        self.apply(_initialise)
        for layer in list(self.modules()):
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                spectrally_normalised(layer, EPSILON)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """Images in [-1, 1]."""
        first, *chunks = z.split(self.chunk, 1)
        embedded = self.shared(label)
        x = self.first(first).unflatten(1, (-1, SMALLEST_PX, SMALLEST_PX))
        for i, (block, chunk) in enumerate(zip(self.blocks, chunks, strict=True)):
            if i == self.attended:
                x = self.attention(x)
            x = block(x, torch.cat([embedded, chunk], 1))
        return torch.tanh(self.last(relu(self.norm(x))))


class Discriminator(nn.Module):
    """Images [N, channels, resolution_px, resolution_px] and classes [N] -> logits [N].

    Every layer is spectrally normalised, the class embedding included.
    """

    def __init__(self, shape: Architecture, minibatch: Minibatch = "none") -> None:
        super().__init__()
        sides = shape.sides_px()[::-1]
        widths = [shape.channels, *(shape.width_at(2 * px) for px in sides)]
        self.blocks = nn.ModuleList(
            DownBlock(inside, outside, first=i == 0)
            for i, (inside, outside) in enumerate(pairwise(widths))
        )
        self.blocks.append(DownBlock(widths[-1], widths[-1], down=False))
        self.attended = sides.index(shape.attention_px)
        self.attention = SelfAttention(widths[self.attended + 1])
        self.head = Head(widths[-1], shape.classes, minibatch)
        self.apply(_initialise)
        spectrally_normalised(self, EPSILON)

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """The last feature map, rectified and summed over its places, [N, F]."""
        x = images
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == self.attended:
                x = self.attention(x)
        return relu(x).sum((2, 3))

    def forward(self, images: Tensor, label: Tensor) -> Tensor:
        """Logits of image and class together."""
        logits: Tensor = self.head(self.features(images), label)
        return logits


def _initialise(module: nn.Module) -> None:
    """Orthogonal weights; biases of 0."""
    if isinstance(module, (nn.Conv2d, nn.Embedding, nn.Linear)):
        nn.init.orthogonal_(module.weight)
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)
