"""R3GAN's generator and discriminator: mirrored residual networks without normalisation."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d

from gan_core.layers import Head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gan_core.layers import Minibatch

__all__ = ["EXPANSION", "Block", "Discriminator", "Down", "Generator", "Up", "widths"]

EXPANSION = 2
"""Channels of a block's grouped convolution per channel of its shortcut."""
SLOPE = 0.2
"""Of every LeakyReLU below 0."""


class _Resampling(nn.Module):
    """Holds [1, 2, 1]/4 of both axes."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None], persistent=False)

    def filters(self, channels: int) -> Tensor:
        """The kernel for each channel, [C, 1, 3, 3]."""
        return self.kernel.expand(channels, 1, 3, 3)


class Up(_Resampling):
    """Bilinear enlargement: zeros between the pixels, then [1, 2, 1]/2 along each axis."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, 2H, 2W]."""
        C = x.shape[1]
        return conv_transpose2d(
            x, 4 * self.filters(C), stride=2, padding=1, output_padding=1, groups=C
        )


class Down(_Resampling):
    """Bilinear reduction: [1, 2, 1]/4 along each axis, then every other pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H/2, W/2]."""
        C = x.shape[1]
        return conv2d(x, self.filters(C), stride=2, padding=1, groups=C)


class Block(nn.Module):
    """x + conv 1×1 of LeakyReLU of grouped conv 3×3 of LeakyReLU of conv 1×1.

    Fix-up initialisation (Zhang et al. 2019): the last layer starts at 0, so that the block is
    the identity, and the m − 1 others of m = 3 are scaled by L^(−1/(2m−2)).

    Args:
        width: channels in and out; there are EXPANSION times as many inside.
        group_size: channels of a group of the 3×3 convolution.
        blocks: L, blocks of the whole network.
    """

    def __init__(self, width: int, group_size: int, blocks: int) -> None:
        super().__init__()
        inside = EXPANSION * width
        gain = nn.init.calculate_gain("leaky_relu", SLOPE) * blocks**-0.25
        grouped = nn.Conv2d(inside, inside, 3, padding=1, groups=inside // group_size)
        self.branch = nn.Sequential(
            _sized(nn.Conv2d(width, inside, 1), gain),
            nn.LeakyReLU(SLOPE),
            _sized(grouped, gain),
            nn.LeakyReLU(SLOPE),
            _sized(nn.Conv2d(inside, width, 1, bias=False), 0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] -> the same shape."""
        summed: Tensor = x + self.branch(x)
        return summed


class Generator(nn.Module):
    """z [N, z_dim] -> images [N, channels, 4·2ⁿ, 4·2ⁿ], in [-1, 1] by training alone.

    A learned 4×4 basis is modulated by a linear function of z, and of the class where there are
    classes; n transitions double the side.

    Args:
        z_dim: length of z, and of a class's embedding.
        widths: channels per stage, from 4×4 px outwards.
        channels: of the images.
        group_size: see ``Block``.
        blocks: per stage.
        classes: how many; 0 = unconditional.
    """

    def __init__(
        self,
        z_dim: int,
        widths: Sequence[int],
        channels: int,
        *,
        group_size: int = 16,
        blocks: int = 2,
        classes: int = 0,
    ) -> None:
        super().__init__()
        total = blocks * len(widths)
        inside = z_dim * 2 if classes else z_dim
        self.embedding = nn.Embedding(classes, z_dim) if classes else None
        self.modulation = _sized(nn.Linear(inside, widths[0], bias=False))
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4))
        layers: list[nn.Module] = [Block(widths[0], group_size, total) for _ in range(blocks)]
        for before, after in pairwise(widths):
            # widening commutes with enlarging, and is cheaper before it
            layers += [*_transition(before, after), Up()]
            layers += [Block(after, group_size, total) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, _sized(nn.Conv2d(widths[-1], channels, 1)))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images; the label is used where there are classes."""
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(label)], 1)
        modulated = self.basis * self.modulation(z)[:, :, None, None]  # [N, C, 4, 4]
        images: Tensor = self.layers(modulated)
        return images


class Discriminator(nn.Module):
    """Images [N, channels, 4·2ⁿ, 4·2ⁿ] -> logits [N]: the generator's mirror image.

    At the end a 4×4 filter per channel takes the place of G's basis.

    Args:
        widths: channels per stage, from the image inwards.
        channels: of the images.
        group_size: see ``Block``.
        blocks: per stage.
        classes: how many, for a projection; 0 = unconditional.
        minibatch: what is appended to the features.
    """

    def __init__(
        self,
        widths: Sequence[int],
        channels: int,
        *,
        group_size: int = 16,
        blocks: int = 2,
        classes: int = 0,
        minibatch: Minibatch = "none",
    ) -> None:
        super().__init__()
        total, last = blocks * len(widths), widths[-1]
        layers = [_sized(nn.Conv2d(channels, widths[0], 1))]
        for before, after in pairwise(widths):
            layers += [Block(before, group_size, total) for _ in range(blocks)]
            layers += [Down(), *_transition(before, after)]
        layers += [Block(last, group_size, total) for _ in range(blocks)]
        filters = _sized(nn.Conv2d(last, last, 4, groups=last, bias=False))
        self.body = nn.Sequential(*layers, filters, nn.Flatten())
        self.head = Head(last, classes, minibatch)
        _sized(self.head.linear)
        if self.head.embedding is not None:
            nn.init.normal_(self.head.embedding.weight, 0.0, last**-0.5)

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """What the filters found, [N, C]."""
        found: Tensor = self.body(images)
        return found

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits; the label is used where there are classes."""
        logits: Tensor = self.head(self.features(images), label)
        return logits


def widths(width: int, max_width: int, resolution_px: int) -> list[int]:
    """Channels from the image inwards to 4×4 px: doubled at each halving, up to ``max_width``."""
    stages = resolution_px.bit_length() - 2
    return [min(width << i, max_width) for i in range(stages)]


def _transition(before: int, after: int) -> list[nn.Module]:
    """A 1×1 convolution where the channels change."""
    return [] if before == after else [_sized(nn.Conv2d(before, after, 1, bias=False))]


def _sized(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> nn.Module:
    """The same layer with weights of standard deviation gain/√fan-in and no bias yet."""
    nn.init.normal_(layer.weight, 0.0, gain / layer.weight[0].numel() ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
