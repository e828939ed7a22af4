"""What the two networks of a GAN are to everything else: a few calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Discriminator", "Generator", "Plain"]


class Generator(Protocol):
    """G: an ``nn.Module`` that turns noise into images."""

    def __call__(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] of z [N, z_dim] and class indices [N]."""


class Discriminator(Protocol):
    """D: an ``nn.Module`` that judges images. For Wasserstein losses, the critic."""

    def __call__(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits [N], never probabilities, of images [N, C, H, W] and class indices [N]."""

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """What its last layer judges, [N, …]; only feature matching asks for it."""


class Plain:
    """A network in float32, even where accelerate runs it in mixed precision.

    accelerate wraps the instance's ``forward``; this calls the class's.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """What the network makes of its inputs."""
        made: Tensor = type(self.network).forward(self.network, *inputs)
        return made

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """A discriminator's features."""
        found: Tensor = self.network.features(images, label)  # type: ignore[operator] # Protocol
        return found
