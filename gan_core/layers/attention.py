"""Self-attention over the places of a feature map (Zhang et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import max_pool2d

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PlainSelfAttention", "SelfAttention"]


class SelfAttention(nn.Module):
    """x + γ·o as the authors' code has it: keys and values are pooled 2×2.

    θ and φ have C/8 channels, g has C/2 and o is brought back to C; the softmax runs over the
    pooled places, without 1/√d; γ starts at 0, so that the layer starts as the identity.

    Args:
        channels: C, at least 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1, bias=False)  # θ
        self.key = nn.Conv2d(channels, channels // 8, 1, bias=False)  # φ
        self.value = nn.Conv2d(channels, channels // 2, 1, bias=False)  # g
        self.out = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]; H and W are even."""
        query = self.query(x).flatten(2)  # [N, C/8, HW]
        key = max_pool2d(self.key(x), 2).flatten(2)  # [N, C/8, HW/4]
        value = max_pool2d(self.value(x), 2).flatten(2)  # [N, C/2, HW/4]
        attended = value @ _attention(query, key).transpose(1, 2)  # [N, C/2, HW]
        added: Tensor = self.gamma * self.out(attended.unflatten(2, x.shape[2:]))
        return x + added


class PlainSelfAttention(nn.Module):
    """x + γ·softmax(QKᵀ/√d)V with every place as a key: the paper's figure, four times the memory.

    Q and K have d = C/8 channels, V has C; γ starts at 0.

    Args:
        channels: C, at least 8.
        scaled: divide by √d, as Vaswani et al. 2017 do and Zhang et al. don't.
    """

    def __init__(self, channels: int, *, scaled: bool = True) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.scale = (channels // 8) ** -0.5 if scaled else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        query, key = self.query(x).flatten(2), self.key(x).flatten(2)  # [N, C/8, HW]
        attention = _attention(query * self.scale, key)
        attended = self.value(x).flatten(2) @ attention.transpose(1, 2)
        added: Tensor = self.gamma * attended.unflatten(2, x.shape[2:])
        return x + added


def _attention(query: Tensor, key: Tensor) -> Tensor:
    """Weights [N, queries, keys] that sum to 1 over the keys; in float32 even under autocast."""
    energy = query.transpose(1, 2) @ key
    return energy.float().softmax(2).to(query.dtype)
