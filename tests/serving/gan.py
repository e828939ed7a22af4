"""Generators in torch whose pictures differ, as a fresh one's hardly do."""

from __future__ import annotations

import torch

from gan_core.export import ServedGenerator
from gan_core.layers import bake
from gan_core.plugins import Plugins
from gan_core.testing import built, tiny_config

__all__ = ["contrasted", "contrasted_classes"]


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


def contrasted_classes() -> ServedGenerator:
    """A tiny BigGAN with fixed weights: pictures of a class, from latents that can be truncated."""
    variant = Plugins().variant("biggan")
    config = tiny_config(variant)
    served = variant.served(built(variant, config).generator().eval(), config)
    bake(served)
    last = [m for m in served.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.mul_(12)
    return served
