"""WGAN-GP's residual generator and critic for square images of 8, 16, 32, … px.

At 32 px they are those of the paper for CIFAR-10.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.functional import relu

from gan_core.layers import BatchNorm2d, DownBlock, Head, UpBlock

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.layers import Minibatch

__all__ = ["Critic", "Generator"]


class Generator(nn.Module):
    """z [N, z_dim] -> images [N, channels, resolution_px, resolution_px] in [-1, 1]."""

    def __init__(self, z_dim: int, width: int, resolution_px: int, channels: int) -> None:
        super().__init__()
        doublings = resolution_px.bit_length() - 3  # 8 px: 1, 32 px: 3
        self.layers = nn.Sequential(
            nn.Linear(z_dim, width * 4 * 4),
            nn.Unflatten(1, (width, 4, 4)),
            *(UpBlock(width, width, BatchNorm2d) for _ in range(doublings)),
            BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
        )
        _initialise(self)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images; the label is not used."""
        images: Tensor = self.layers(z)
        return images


class Critic(nn.Module):
    """Images [N, channels, resolution_px, resolution_px] in [-1, 1] -> logits [N].

    Without BatchNorm: the penalty is on each image's own gradient, which must not depend on the
    rest of the batch.
    """

    def __init__(
        self, width: int, resolution_px: int, channels: int, minibatch: Minibatch = "none"
    ) -> None:
        super().__init__()
        halvings = resolution_px.bit_length() - 4  # down to 8×8: 8 px: 0, 32 px: 2
        self.blocks = nn.Sequential(
            DownBlock(channels, width, first=True, down=halvings > 0),
            *(DownBlock(width, width) for _ in range(halvings - 1)),
            *(DownBlock(width, width, down=False) for _ in range(2)),
        )
        self.head = Head(width, minibatch=minibatch)
        _initialise(self)

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Means of the last feature map, [N, width]."""
        return relu(self.blocks(images)).mean((2, 3))

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits; the label is not used."""
        logits: Tensor = self.head(self.features(images))
        return logits


def _initialise(network: nn.Module) -> None:
    """As in the authors' code: Glorot's uniform, √2 wider in the blocks' 3×3 convolutions."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, (DownBlock, UpBlock)):
            for convolution in (module.conv_1, module.conv_2):
                nn.init.xavier_uniform_(convolution.weight, math.sqrt(2))
