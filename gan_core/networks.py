"""What the two networks of a GAN are to everything else: two calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Discriminator", "Generator"]


class Generator(Protocol):
    """G: an ``nn.Module`` that turns noise into images."""

    def __call__(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] of z [N, z_dim] and class indices [N]."""


class Discriminator(Protocol):
    """D: an ``nn.Module`` that judges images. For Wasserstein losses, the critic."""

    def __call__(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits [N], never probabilities, of images [N, C, H, W] and class indices [N]."""
