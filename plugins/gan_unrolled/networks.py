"""Small convolutional networks for images of 8, 16, 32, … px."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from gan_core.layers import Head

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.layers import Minibatch

__all__ = ["Discriminator", "Generator"]


class Generator(nn.Module):
    """z [N, z_dim] -> images [N, channels, resolution_px, resolution_px] in [-1, 1]."""

    def __init__(self, z_dim: int, width: int, resolution_px: int, channels: int) -> None:
        super().__init__()
        widths = _widths(width, resolution_px)[::-1]
        layers: list[nn.Module] = [
            nn.Linear(z_dim, 4 * 4 * widths[0]),
            nn.Unflatten(1, (widths[0], 4, 4)),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for inside, outside in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(inside, outside, 4, 2, 1),
                nn.BatchNorm2d(outside),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images; the label is not used."""
        images: Tensor = self.layers(z)
        return images


class Discriminator(nn.Module):
    """Images [N, channels, resolution_px, resolution_px] in [-1, 1] -> logits [N].

    Without BatchNorm: the unrolled steps would move its running statistics ahead of time.
    """

    def __init__(
        self, width: int, resolution_px: int, channels: int, minibatch: Minibatch = "none"
    ) -> None:
        super().__init__()
        widths = _widths(width, resolution_px)
        layers: list[nn.Module] = []
        for inside, outside in pairwise([channels, *widths]):
            layers += [nn.Conv2d(inside, outside, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = Head(widths[-1] * 4 * 4, minibatch=minibatch)

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """The last feature map, flattened, [N, 16 · C]."""
        found: Tensor = self.body(images)
        return found

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits; the label is not used."""
        logits: Tensor = self.head(self.features(images))
        return logits


def _widths(width: int, resolution_px: int) -> list[int]:
    """Channels from the image inwards, doubling down to 4×4 px."""
    return [width << i for i in range(resolution_px.bit_length() - 3)]
