"""Multilayer perceptrons for small images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from gan_core.layers import Head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gan_core.layers import Minibatch

__all__ = ["Discriminator", "Generator"]


class Generator(nn.Module):
    """z [N, z_dim] -> images [N, *shape] in [-1, 1]."""

    def __init__(self, z_dim: int, widths: Sequence[int], shape: tuple[int, int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (inside, outside) in enumerate(zip([z_dim, *widths], widths, strict=False)):
            layers.append(nn.Linear(inside, outside))
            if i:  # the first layer sees z, which is standardised already
                layers.append(nn.BatchNorm1d(outside, momentum=0.2))
            layers.append(nn.LeakyReLU(0.2))
        layers += [nn.Linear(widths[-1], math.prod(shape)), nn.Tanh(), nn.Unflatten(1, shape)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images; the label is not used."""
        images: Tensor = self.layers(z)
        return images


class Discriminator(nn.Module):
    """Images [N, *shape] in [-1, 1] -> logits [N]."""

    def __init__(
        self, widths: Sequence[int], shape: tuple[int, int, int], minibatch: Minibatch = "none"
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for inside, outside in zip([math.prod(shape), *widths], widths, strict=False):
            layers += [nn.Linear(inside, outside), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.head = Head(widths[-1], minibatch=minibatch)

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """The last hidden layer, [N, widths[-1]]."""
        found: Tensor = self.body(images)
        return found

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits; the label is not used."""
        logits: Tensor = self.head(self.features(images))
        return logits
