"""Standing statistics: batch norm's, measured on the generator that is served."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gan_core.export import ServedGenerator
from gan_core.latents import draw, seed_range

__all__ = ["standing_statistics"]


@torch.no_grad()
def standing_statistics(served: ServedGenerator, batches: int, batch_size: int) -> ServedGenerator:
    """A copy whose batch norms hold the mean statistics of so many batches of its own images.

    Running statistics are those of the generator in training, over its last few batches; these
    are of the very weights that are served, often a moving average, and of draws that are the
    same every time: of seeds 0, 1, 2, …, with labels going round the classes. No global random
    state is used or changed.

    Args:
        served: left as it is.
        batches: at least 1.
        batch_size: images in each.
    """
    served = copy.deepcopy(served).eval()
    for module in served.modules():
        if isinstance(module, nn.BatchNorm2d):  # no other layer: spectral norm would go on
            module.reset_running_stats()
            module.momentum = None  # the plain mean of all batches
            module.train()
    device = next(served.parameters()).device
    for i in range(batches):
        values = draw(served.inputs, seed_range(i * batch_size, batch_size)).values()
        served(*(torch.from_numpy(value).to(device) for value in values))
    return served.eval()
