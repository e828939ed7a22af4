"""SRGAN's networks, ESRGAN's generator, and one that is quick on a CPU.

Generators take and give images in [0, 1], of any size; their scale is 2 or 4.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RRDB", "Compact", "Discriminator", "SRResNet"]

RESIDUAL_SCALE = 0.2
"""ESRGAN's β, of dense blocks and of what is made of three."""
SLOPE = 0.2
"""Of every LeakyReLU."""
PRELU = 0.25
"""Slope below 0 that a new PReLU begins with (He et al. 2015)."""


class SRResNet(nn.Module):
    """SRGAN's generator (Ledig et al. 2017, figure 4): [N, C, h, w] -> [N, C, scale·h, scale·w].

    What its last convolution makes is in [-1, 1], as in the paper.
    """

    def __init__(self, channels: int, scale: int, *, width: int = 64, blocks: int = 16) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(channels, width, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(
            *(ResidualBlock(width) for _ in range(blocks)),
            _conv(width, width),
            nn.BatchNorm2d(width),
        )
        self.upsampler = nn.Sequential(*(_doubled(width) for _ in range(scale // 2)))
        self.tail = nn.Conv2d(width, channels, 9, padding=4)

    def forward(self, images: Tensor) -> Tensor:
        """The larger images."""
        shallow = self.head(images)
        made: Tensor = self.tail(self.upsampler(shallow + self.body(shallow)))
        return made * 0.5 + 0.5


class ResidualBlock(nn.Module):
    """[N, width, h, w] -> the same: convolution, BatchNorm, PReLU, convolution, BatchNorm, sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _conv(width, width),
            nn.BatchNorm2d(width),
            nn.PReLU(),
            _conv(width, width),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """X and the branch's answer to it."""
        residual: Tensor = self.branch(x)
        return x + residual


class RRDB(nn.Module):
    """ESRGAN's generator (Wang et al. 2018, §3.1): [N, C, h, w] -> [N, C, scale·h, scale·w].

    Its dense blocks grow by ``width // 2`` channels a layer; paper: 32.
    """

    def __init__(self, channels: int, scale: int, *, width: int = 64, blocks: int = 23) -> None:
        super().__init__()
        self.head = _conv(channels, width)
        self.body = nn.Sequential(*(DenseTrio(width) for _ in range(blocks)), _conv(width, width))
        doublings = scale // 2
        self.upsampler = nn.Sequential(*(_doubled_nearest(width) for _ in range(doublings)))
        self.tail = nn.Sequential(_conv(width, width), _leaky(), _conv(width, channels))

    def forward(self, images: Tensor) -> Tensor:
        """The larger images."""
        shallow = self.head(images)
        made: Tensor = self.tail(self.upsampler(shallow + self.body(shallow)))
        return made


class DenseTrio(nn.Module):
    """Three dense blocks in a residual: the RRDB itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """X and a fifth of what the three make of it."""
        residual: Tensor = self.blocks(x)
        return x + RESIDUAL_SCALE * residual


class DenseBlock(nn.Module):
    """Five convolutions, each of all that came before it; no normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        growth = width // 2
        inside = [width + i * growth for i in range(5)]
        outside = [growth] * 4 + [width]
        self.layers = nn.ModuleList(map(_small, inside, outside))
        self.leaky = _leaky()

    def forward(self, x: Tensor) -> Tensor:
        """X and a fifth of the last convolution."""
        *inner, last = self.layers
        found = [x]
        for layer in inner:
            found.append(self.leaky(layer(torch.cat(found, 1))))
        residual: Tensor = last(torch.cat(found, 1))
        return x + RESIDUAL_SCALE * residual


class Compact(nn.Module):
    """3×3 convolutions at the low resolution, one PixelShuffle, and the input's pixels enlarged.

    [N, C, h, w] -> [N, C, scale·h, scale·w]. After Real-ESRGAN's network for video: no
    normalisation, a PReLU of each channel. A new one repeats the pixels.
    """

    def __init__(self, channels: int, scale: int, *, width: int = 64, blocks: int = 16) -> None:
        super().__init__()
        widths = [channels, *[width] * (blocks + 1)]
        hidden = [
            layer
            for inside, outside in pairwise(widths)
            for layer in (_passing(inside, outside), nn.PReLU(outside, PRELU))
        ]
        last = _conv(width, channels * scale**2)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(*hidden, last, nn.PixelShuffle(scale))
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """The larger images."""
        detail: Tensor = self.layers(images)
        return detail + interpolate(images, scale_factor=self.scale, mode="nearest")


class Discriminator(nn.Module):
    """SRGAN's D (figure 4): images [N, C, side_px, side_px] in [-1, 1] -> logits [N].

    Eight convolutions, every other of which halves the side: ``side_px`` is a multiple of 16.
    """

    def __init__(self, channels: int, side_px: int, width: int = 64) -> None:
        super().__init__()
        widths = [width << i // 2 for i in range(8)]  # 64, 64, 128, 128, … 512
        layers: list[nn.Module] = [_conv(channels, width), _leaky()]
        for i, (inside, outside) in enumerate(pairwise(widths)):
            layers += [_conv(inside, outside, stride=2 - i % 2), nn.BatchNorm2d(outside), _leaky()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(widths[-1] * (side_px // 16) ** 2, 16 * width),  # paper: 1024
            _leaky(),
            nn.Linear(16 * width, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.layers(images))
        return logits.flatten()


def _conv(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, stride, padding=1)


def _passing(inside: int, outside: int) -> nn.Conv2d:
    """Its first weights nearly repeat its input, so that a picture comes through many.

    With torch's own nothing of it comes through 16, and they never learn.
    """
    conv = _conv(inside, outside)
    nn.init.kaiming_normal_(conv.weight, a=PRELU)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    if inside == outside:
        with torch.no_grad():
            conv.weight.mul_(0.1).add_(nn.init.dirac_(torch.empty_like(conv.weight)))
    return conv


def _leaky() -> nn.Module:
    return nn.LeakyReLU(SLOPE)


def _doubled(width: int) -> nn.Module:
    """[N, width, h, w] -> [N, width, 2h, 2w]."""
    return nn.Sequential(_conv(width, 4 * width), nn.PixelShuffle(2), nn.PReLU())


def _doubled_nearest(width: int) -> nn.Module:
    """[N, width, h, w] -> [N, width, 2h, 2w]."""
    return nn.Sequential(nn.Upsample(scale_factor=2), _conv(width, width), _leaky())


def _small(inside: int, outside: int) -> nn.Conv2d:
    """A convolution that starts as in the authors' code: a tenth of He et al.'s, and no bias."""
    convolution = _conv(inside, outside)
    nn.init.kaiming_normal_(convolution.weight)
    with torch.no_grad():
        convolution.weight.mul_(0.1)
        if convolution.bias is not None:
            convolution.bias.zero_()
    return convolution
