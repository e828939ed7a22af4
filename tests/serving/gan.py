"""A generator in torch whose pictures differ, as a fresh one's hardly do."""

from __future__ import annotations

import torch

from gan_core.export import ServedGenerator
from gan_core.plugins import Plugins
from gan_core.testing import built, tiny_config

__all__ = ["contrasted"]


def contrasted() -> ServedGenerator:
    """A tiny DCGAN with fixed weights, large enough for every level to occur."""
    variant = Plugins().variant("dcgan")
    config = tiny_config(variant)
    generator = built(variant, config).generator().eval()
    with torch.no_grad():
        for weights in generator.parameters():
            if weights.ndim > 1:
                weights.mul_(12)
    return variant.served(generator, config)
