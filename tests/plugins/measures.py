"""What the tests of several variants measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from gan_core.data import Batch
from gan_core.trainer import sample_prior

if TYPE_CHECKING:
    from gan_core.trainer import AdversarialStep


def learned_level(trainer: AdversarialStep, *, steps: int, batch_size: int) -> float:
    """Mean of what G makes after so many steps on images that are plainly 0.5.

    The images are grey, of 8×8 px; a fresh G's mean is 0 ± 0.05.
    """
    for _ in range(steps):
        trainer.step(Batch(torch.full((batch_size, 1, 8, 8), 0.5)))
    with torch.no_grad():
        images = trainer.generator()(sample_prior(trainer.latent, 64, torch.device("cpu")))
    return float(images.mean())


def linear_sizes(network: nn.Module) -> list[tuple[int, int]]:
    """Lengths of what each linear layer takes and gives."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    return [(layer.in_features, layer.out_features) for layer in layers]
