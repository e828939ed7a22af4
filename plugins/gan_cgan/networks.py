"""The conditional networks: the paper's perceptrons, and convolutional ones in DCGAN's shape."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import leaky_relu, relu

from gan_core.layers import BatchNorm2d, ConditionalBatchNorm2d, Head

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.layers import Minibatch

__all__ = ["ConvDiscriminator", "ConvGenerator", "Discriminator", "Generator", "SideBySide"]

KERNEL, STRIDE, PADDING = 4, 2, 1
SLOPE = 0.2
"""Of every LeakyReLU below 0."""


class SideBySide(nn.Module):
    """A vector and a label, each through a layer of its own, then beside each other.

    A row of an embedding is what a linear layer makes of a one-hot label.

    Args:
        inside: length of the vector.
        width: what it is brought to.
        classes: how many.
        label_width: length of a label's embedding; 0 = the label isn't used.
    """

    def __init__(self, inside: int, width: int, classes: int, label_width: int) -> None:
        super().__init__()
        self.vector = _sized(nn.Linear(inside, width))
        self.label = nn.Embedding(classes, label_width) if label_width else None
        if self.label is not None:  # about as much in all as the vector: else one drowns the other
            nn.init.normal_(self.label.weight, 0.0, (width / label_width) ** 0.5)
        self.width = width + label_width

    def forward(self, vector: Tensor, label: Tensor | None) -> Tensor:
        """[N, inside] and [N] -> [N, width + label_width]."""
        parts = [self.vector(vector)]
        if self.label is not None:
            parts.append(self.label(label))
        return leaky_relu(torch.cat(parts, 1), SLOPE)


class Generator(nn.Module):
    """z [N, z_dim] and label [N] -> images [N, *shape] in [-1, 1]: a perceptron.

    Args:
        z_dim: length of z.
        widths: of the layer of z, of the label's, and of the joint one.
        classes: how many.
        shape: channels, height and width.
    """

    def __init__(
        self, z_dim: int, widths: tuple[int, int, int], classes: int, shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        z_width, label_width, width = widths
        self.inputs = SideBySide(z_dim, z_width, classes, label_width)
        # Paper: ReLU throughout, sigmoid at the end. Here: LeakyReLU and BatchNorm in the joint
        # layer, tanh at the end, because they train faster and more reliably.
        self.joint = nn.Sequential(
            _sized(nn.Linear(self.inputs.width, width)), nn.BatchNorm1d(width), nn.LeakyReLU(SLOPE)
        )
        self.output = nn.Sequential(
            _sized(nn.Linear(width, math.prod(shape))), nn.Tanh(), nn.Unflatten(1, shape)
        )

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """Images of the classes asked for."""
        images: Tensor = self.output(self.joint(self.inputs(z, label)))
        return images


class Discriminator(nn.Module):
    """Images [N, *shape] in [-1, 1] and label [N] -> logits [N]: a perceptron.

    Args:
        widths: of the layer of the image, of the label's, and of the joint one.
        classes: how many.
        shape: channels, height and width.
        projection: the label enters by an inner product with the features instead.
        minibatch: what is appended to the features.
    """

    def __init__(
        self,
        widths: tuple[int, int, int],
        classes: int,
        shape: tuple[int, int, int],
        *,
        projection: bool = False,
        minibatch: Minibatch = "none",
    ) -> None:
        super().__init__()
        image_width, label_width, width = widths
        label_width = 0 if projection else label_width
        # Paper: maxout of 5, 5 and 4 pieces, and dropout. Here: LeakyReLU, as in most GANs since.
        self.inputs = SideBySide(math.prod(shape), image_width, classes, label_width)
        self.joint = nn.Sequential(_sized(nn.Linear(self.inputs.width, width)), nn.LeakyReLU(SLOPE))
        self.head = Head(width, classes if projection else 0, minibatch)

    def features(self, images: Tensor, label: Tensor) -> Tensor:
        """The joint layer, [N, width]."""
        found: Tensor = self.joint(self.inputs(images.flatten(1), label))
        return found

    def forward(self, images: Tensor, label: Tensor) -> Tensor:
        """Logits of the images being real ones of their classes."""
        logits: Tensor = self.head(self.features(images, label), label)
        return logits


class ConvGenerator(nn.Module):
    """z [N, z_dim] and label [N] -> square images [N, channels, H, W] in [-1, 1].

    The label's embedding lies beside z; both are projected to 4×4 px, doubled again and again.

    Args:
        z_dim: length of z, and of a label's embedding.
        width: channels next to the image.
        classes: how many.
        resolution_px: side of the images, a power of two.
        channels: of the images.
        conditional_norm: gains and biases of BatchNorm per class.
    """

    def __init__(
        self,
        z_dim: int,
        width: int,
        classes: int,
        resolution_px: int,
        channels: int,
        *,
        conditional_norm: bool = False,
    ) -> None:
        super().__init__()
        norm = partial(ConditionalBatchNorm2d, classes=classes) if conditional_norm else BatchNorm2d
        widths = _widths(width, resolution_px)[::-1]
        self.inputs = SideBySide(z_dim, z_dim, classes, z_dim)
        self.joint = nn.Sequential(
            nn.Linear(self.inputs.width, widths[0] * 4 * 4, bias=False),
            nn.Unflatten(1, (widths[0], 4, 4)),
        )
        self.norms = nn.ModuleList([norm(w) for w in widths])
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(inside, outside, KERNEL, STRIDE, PADDING)
            for inside, outside in pairwise([*widths, channels])
        )

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """Images of the classes asked for."""
        x = self.joint(self.inputs(z, label))  # [N, C, 4, 4]
        for norm, up in zip(self.norms, self.ups, strict=True):
            x = up(relu(norm(x, label)))
        return torch.tanh(x)


class ConvDiscriminator(nn.Module):
    """Images [N, channels, H, W] in [-1, 1] and label [N] -> logits [N].

    The label is one more channel of the image, learned for each class.

    Args:
        width: channels next to the image.
        classes: how many.
        resolution_px: side of the images, a power of two.
        channels: of the images.
        projection: the label enters by an inner product with the features instead.
        minibatch: what is appended to the features.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        resolution_px: int,
        channels: int,
        *,
        projection: bool = False,
        minibatch: Minibatch = "none",
    ) -> None:
        super().__init__()
        widths = _widths(width, resolution_px)
        self.label = None if projection else nn.Embedding(classes, resolution_px**2)
        layers: list[nn.Module] = []
        for inside, outside in pairwise([channels + (not projection), *widths]):
            conv = _sized(nn.Conv2d(inside, outside, KERNEL, STRIDE, PADDING))
            layers += [conv, nn.LeakyReLU(SLOPE)]
        self.joint = nn.Sequential(*layers, nn.Flatten())
        self.head = Head(widths[-1] * 4 * 4, classes if projection else 0, minibatch)

    def features(self, images: Tensor, label: Tensor) -> Tensor:
        """The last feature map, [N, C·4·4]."""
        if self.label is not None:
            plane = self.label(label).unflatten(1, (1, *images.shape[2:]))
            images = torch.cat([images, plane], 1)
        found: Tensor = self.joint(images)
        return found

    def forward(self, images: Tensor, label: Tensor) -> Tensor:
        """Logits of the images being real ones of their classes."""
        logits: Tensor = self.head(self.features(images, label), label)
        return logits


def _sized(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """The same layer, whose outputs start as large as its inputs (He et al. 2015).

    PyTorch's own start smaller: z and the label hardly reach the end of a network without norm.
    """
    nn.init.kaiming_normal_(layer.weight, SLOPE)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _widths(width: int, resolution_px: int) -> list[int]:
    """Channels from the image inwards, doubling down to 4×4 px."""
    return [width << i for i in range(resolution_px.bit_length() - 3)]
