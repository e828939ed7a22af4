"""Progressive GAN's generator and discriminator: full-size images at every level of growth.

Level 0 is 4×4 px, each level doubles the side, the last one is the images' own. ``alpha`` is the
weight of the level's own branch beside that of the level before it. Both are plain attributes,
set from outside, and constants in an exported graph.
"""

from __future__ import annotations

import math
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from gan_core.layers import minibatch_layer

from .layers import PixelNorm, enlarged, equalised, shrunk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gan_core.layers import Minibatch

__all__ = ["Discriminator", "Generator"]


class Generator(nn.Module):
    """z [N, z_dim] -> images [N, channels, H, W] of the last level's size, about [-1, 1].

    The last layer is linear: nothing keeps pixels from going beyond ±1.

    Args:
        z_dim: length of z.
        maps: feature maps at 4, 8, 16, … px.
        channels: 1 grey, 3 RGB.
    """

    def __init__(self, z_dim: int, maps: Sequence[int], channels: int) -> None:
        super().__init__()
        self.level, self.alpha = len(maps) - 1, 1.0
        self.first = nn.Sequential(
            PixelNorm(),
            # a quarter of the usual gain, as in the authors' code
            equalised(nn.Linear(z_dim, maps[0] * 4 * 4), math.sqrt(2) / 4),
            nn.Unflatten(1, (maps[0], 4, 4)),
            nn.LeakyReLU(0.2),
            PixelNorm(),
            *_normed(maps[0], maps[0]),
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), *_normed(a, b), *_normed(b, b))
            for a, b in pairwise(maps)
        )
        self.to_images = nn.ModuleList(equalised(nn.Conv2d(m, channels, 1), 1.0) for m in maps)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images; below the last level enlarged by nearest neighbour. The label is not used."""
        x = before = self.first(z)
        for block in islice(self.blocks, self.level):
            before, x = x, block(x)
        images: Tensor = self.to_images[self.level](x)
        if self.alpha < 1:
            coarse = enlarged(self.to_images[self.level - 1](before), 2)
            images = torch.lerp(coarse, images, self.alpha)
        return enlarged(images, 2 ** (len(self.blocks) - self.level))


class Discriminator(nn.Module):
    """Images [N, channels, H, W] of the last level's size -> logits [N].

    Args:
        maps: feature maps at 4, 8, 16, … px.
        channels: 1 grey, 3 RGB.
        minibatch: what is appended to the features at 4×4 px.
    """

    def __init__(self, maps: Sequence[int], channels: int, minibatch: Minibatch = "stddev") -> None:
        super().__init__()
        self.level, self.alpha = len(maps) - 1, 1.0
        self.from_images = nn.ModuleList(
            nn.Sequential(equalised(nn.Conv2d(channels, m, 1)), nn.LeakyReLU(0.2)) for m in maps
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*_plain(b, b), *_plain(b, a), nn.AvgPool2d(2)) for a, b in pairwise(maps)
        )
        compared = minibatch_layer(minibatch, maps[0] * 4 * 4)
        self.last = nn.Sequential(
            compared,
            *_plain(maps[0] + compared.added, maps[0]),
            nn.Flatten(),
            equalised(nn.Linear(maps[0] * 4 * 4, maps[0])),
            nn.LeakyReLU(0.2),
        )
        self.head = equalised(nn.Linear(maps[0], 1), 1.0)

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """The last hidden layer, [N, maps[0]]."""
        images = shrunk(images, 2 ** (len(self.blocks) - self.level))
        x = self.from_images[self.level](images)
        for i in range(self.level, 0, -1):
            x = self.blocks[i - 1](x)
            if i == self.level and self.alpha < 1:
                coarse = self.from_images[i - 1](shrunk(images, 2))
                x = torch.lerp(coarse, x, self.alpha)
        found: Tensor = self.last(x)
        return found

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits; the label is not used."""
        logits: Tensor = self.head(self.features(images)).squeeze(1)
        return logits


def _plain(inside: int, outside: int) -> tuple[nn.Module, ...]:
    return equalised(nn.Conv2d(inside, outside, 3, padding=1)), nn.LeakyReLU(0.2)


def _normed(inside: int, outside: int) -> tuple[nn.Module, ...]:
    return *_plain(inside, outside), PixelNorm()
