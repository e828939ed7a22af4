"""Small perceptrons for data that are points in the plane, not images."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from .conditioning import Head

if TYPE_CHECKING:
    from torch import Tensor

    from .minibatch import Minibatch

__all__ = ["PointDiscriminator", "PointGenerator"]

WIDTH = 128
DEPTH = 3
SCALE = 5.0
"""Inside, coordinates are as large as in the literature, where neighbouring modes are 2 apart."""


class PointGenerator(nn.Module):
    """z [N, z_dim] -> points as images of one pixel, [N, 2, 1, 1]: an MLP with a linear output.

    Args:
        z_dim: length of z.
        norm: BatchNorm after each hidden layer.
    """

    def __init__(self, z_dim: int, *, norm: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_hidden(z_dim, norm=norm), nn.Linear(WIDTH, 2), nn.Unflatten(1, (2, 1, 1))
        )

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Points; the label is not used."""
        points: Tensor = self.layers(z)
        return points / SCALE


class PointDiscriminator(nn.Module):
    """Points [N, 2, 1, 1] -> logits [N]: an MLP without normalisation."""

    def __init__(self, minibatch: Minibatch = "none") -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), *_hidden(2))
        self.head = Head(WIDTH, minibatch=minibatch)

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """The last hidden layer, [N, 128]."""
        found: Tensor = self.body(images * SCALE)
        return found

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits; the label is not used."""
        logits: Tensor = self.head(self.features(images))
        return logits


def _hidden(inside: int, *, norm: bool = False) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for a, b in pairwise([inside] + [WIDTH] * DEPTH):
        layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), nn.LeakyReLU(0.2)]
    return layers
