"""WGAN's generator and critic for square images of 8, 16, 32, … px: DCGAN's, but for a norm."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from gan_core.layers import Head

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.layers import Minibatch

__all__ = ["Critic", "Generator"]

KERNEL, STRIDE, PADDING = 4, 2, 1


class Generator(nn.Module):
    """z [N, z_dim] -> images [N, channels, resolution_px, resolution_px] in [-1, 1]."""

    def __init__(self, z_dim: int, width: int, resolution_px: int, channels: int) -> None:
        super().__init__()
        widths = _widths(width, resolution_px)[::-1]
        layers: list[nn.Module] = [
            nn.Unflatten(1, (z_dim, 1, 1)),
            nn.ConvTranspose2d(z_dim, widths[0], 4, bias=False),
        ]
        for inside, outside in pairwise([*widths, channels]):
            layers += [
                nn.BatchNorm2d(inside),
                nn.ReLU(),
                nn.ConvTranspose2d(inside, outside, KERNEL, STRIDE, PADDING, bias=False),
            ]
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.apply(_initialise)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images; the label is not used."""
        images: Tensor = self.layers(z)
        return images


class Critic(nn.Module):
    """Images [N, channels, resolution_px, resolution_px] in [-1, 1] -> logits [N]."""

    def __init__(
        self, width: int, resolution_px: int, channels: int, minibatch: Minibatch = "none"
    ) -> None:
        super().__init__()
        widths = _widths(width, resolution_px)
        layers: list[nn.Module] = []
        # Paper: DCGAN's critic, with BatchNorm. Here: none, because clamping every parameter
        # clamps BatchNorm's gains too, to a hundredth of where they start.
        for inside, outside in pairwise([channels, *widths]):
            layers += [nn.Conv2d(inside, outside, KERNEL, STRIDE, PADDING), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.head = Head(widths[-1] * 4 * 4, minibatch=minibatch)
        self.apply(_initialise)

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """The last feature map of 4×4, flattened, [N, F]."""
        found: Tensor = self.layers(images)
        return found

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits; the label is not used."""
        logits: Tensor = self.head(self.features(images))
        return logits


def _widths(width: int, resolution_px: int) -> list[int]:
    """Channels from the image inwards, doubling down to 4×4 px."""
    halvings = resolution_px.bit_length() - 3  # 8 px: 1, 64 px: 4
    return [width << i for i in range(halvings)]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
