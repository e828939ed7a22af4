"""DCGAN's generator and discriminator for square images of 8, 16, 32, … px."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from gan_core.layers import minibatch_layer

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.layers import Minibatch

__all__ = ["Discriminator", "Generator"]

# Paper: 5×5 kernels. Here 4×4, because a kernel divisible by the stride leaves no checkerboard.
KERNEL, STRIDE, PADDING = 4, 2, 1


class Generator(nn.Module):
    """z [N, z_dim] -> images [N, channels, resolution_px, resolution_px] in [-1, 1].

    z is projected to 4×4 and doubled by fractionally strided convolutions.
    """

    def __init__(self, z_dim: int, width: int, resolution_px: int, channels: int) -> None:
        super().__init__()
        widths = _widths(width, resolution_px)[::-1]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(z_dim, widths[0], 4, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for inside, outside in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(inside, outside, KERNEL, STRIDE, PADDING, bias=False),
                nn.BatchNorm2d(outside),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(widths[-1], channels, KERNEL, STRIDE, PADDING), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images; DCGAN takes no label."""
        images: Tensor = self.layers(z[:, :, None, None])
        return images


class Discriminator(nn.Module):
    """Images [N, channels, resolution_px, resolution_px] in [-1, 1] -> logits [N]."""

    def __init__(
        self, width: int, resolution_px: int, channels: int, minibatch: Minibatch = "none"
    ) -> None:
        super().__init__()
        widths = _widths(width, resolution_px)
        layers: list[nn.Module] = [
            nn.Conv2d(channels, widths[0], KERNEL, STRIDE, PADDING),
            nn.LeakyReLU(0.2),
        ]
        for inside, outside in pairwise(widths):
            layers += [
                nn.Conv2d(inside, outside, KERNEL, STRIDE, PADDING, bias=False),
                nn.BatchNorm2d(outside),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers)
        self.minibatch = minibatch_layer(minibatch, widths[-1] * 4 * 4)
        self.head = nn.Conv2d(widths[-1] + self.minibatch.added, 1, 4)
        self.apply(_initialise)

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """The last feature map, [N, C, 4, 4]."""
        found: Tensor = self.layers(images)
        return found

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits; DCGAN takes no label."""
        logits: Tensor = self.head(self.minibatch(self.features(images)))
        return logits.flatten()


def _widths(width: int, resolution_px: int) -> list[int]:
    """Channels from the image inwards, doubling down to 4×4 px."""
    doublings = resolution_px.bit_length() - 3  # 8 px: 1, 64 px: 4
    return [width << i for i in range(doublings)]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
