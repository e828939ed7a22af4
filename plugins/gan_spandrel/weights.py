"""What is read from a file of weights, whoever made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gan_core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__all__ = ["Weights", "scale_of"]

PROBE_PX = 16


@dataclass(frozen=True, slots=True)
class Weights:
    """A network that enlarges or restores pictures, and what it asks of them."""

    network: nn.Module
    """float32 [N, C, h, w] in [0, 1] -> [N, C, scale·h, scale·w] in [0, 1]."""
    architecture: str
    """As the card's variant: a-z, 0-9 and _."""
    scale: int
    """Output px per input px."""
    channels: int
    files: tuple[Path, ...]
    """What it was read from."""
    multiple_of: int = 1
    """Sides that the network takes are multiples of this, in px."""
    min_side_px: int = 1
    tiled: bool = True
    """Whether a picture may be cut: not where the network needs the whole of it."""


@torch.no_grad()
def scale_of(network: nn.Module, channels: int) -> int:
    """By how much a network enlarges, found by running it on a small picture.

    Raises:
        ConfigError: it can't be run, its output has other channels, or no whole scale.
    """
    try:
        _, found, height, width = network(torch.zeros(1, channels, PROBE_PX, PROBE_PX)).shape
    except (KeyError, RuntimeError, ValueError) as error:
        raise ConfigError(f"the network doesn't run: {str(error).splitlines()[0]}") from error
    if found != channels or height != width or height % PROBE_PX:
        raise ConfigError(
            f"{channels} channels of {PROBE_PX}×{PROBE_PX} px become {found} of {height}×{width} "
            "px: as many channels and a whole scale are accepted"
        )
    return int(height // PROBE_PX)
