"""How a class reaches the networks: batch norm per class in G, a projection in D."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from .minibatch import Minibatch, minibatch_layer

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BatchNorm2d", "ConditionalBatchNorm2d", "Head"]


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that takes a condition and doesn't use it: stands in for a conditional one."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        return super().forward(x)


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm with a gain and a bias per class: γ_y·(x − μ)/σ + β_y (de Vries et al. 2017).

    Gains start at 1 and biases at 0.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Embedding(classes, channels)
        self.bias = nn.Embedding(classes, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """[N, C, H, W] and class indices [N] -> [N, C, H, W]."""
        gain, bias = self.gain(label)[:, :, None, None], self.bias(label)[:, :, None, None]
        scaled: Tensor = gain * self.norm(x) + bias
        return scaled


class Head(nn.Module):
    """Features [N, F] -> logits [N]: w·f + b, and ⟨e_y, f⟩ where there are classes.

    The inner product with a class embedding is the projection of Miyato & Koyama 2018 (eq. 3).

    Args:
        features: F.
        classes: how many; 0 = unconditional.
        minibatch: what is appended to the features before they are judged.
    """

    def __init__(self, features: int, classes: int = 0, minibatch: Minibatch = "none") -> None:
        super().__init__()
        self.minibatch = minibatch_layer(minibatch, features)
        self.linear = nn.Linear(features + self.minibatch.added, 1)
        self.embedding = nn.Embedding(classes, features) if classes else None

    def forward(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits [N]."""
        logits: Tensor = self.linear(self.minibatch(features)).squeeze(1)
        if self.embedding is None:
            return logits
        projected: Tensor = torch.linalg.vecdot(self.embedding(label), features)
        return logits + projected
