"""Layers that let D compare the images of a batch, so that a G without variety is found out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Minibatch",
    "MinibatchDiscrimination",
    "MinibatchStddev",
    "Unchanged",
    "minibatch_layer",
]

Minibatch = Literal["none", "discrimination", "stddev"]


class MinibatchDiscrimination(nn.Module):
    """Appends how close each sample is to the others: o_b = Σ_{j≠i} exp(−‖M_ib − M_jb‖₁) + bias.

    M = f(x)·T with T weight-normalised, of ``kernels`` × ``dims`` (Salimans et al. 2016, §3.2).
    A sample's distance to itself is left out: it would add a constant 1. Batches of D see real
    or fake images alone; with several processes, each compares its own.

    Args:
        features: F of the input [N, F], or of [N, C, H, W] flattened.
        kernels: B, as many as are appended. Paper: 100.
        dims: C of each kernel. Paper: 5.
    """

    def __init__(self, features: int, kernels: int = 100, dims: int = 5) -> None:
        super().__init__()
        self.added = kernels
        self.dims = dims
        self.direction = nn.Parameter(torch.randn(features, kernels * dims) * 0.05)
        self.log_scale = nn.Parameter(torch.zeros(kernels * dims))
        self.bias = nn.Parameter(torch.full((kernels,), -1.0))

    def forward(self, features: Tensor) -> Tensor:
        """[N, F] -> [N, F + kernels], or [N, C, H, W] -> [N, C + kernels, H, W]."""
        T = self.log_scale.exp() * self.direction / self.direction.norm(dim=0, keepdim=True)
        M = (features.flatten(1) @ T).unflatten(1, (self.added, self.dims))  # [N, B, C]
        # a sum over the few dims one by one: they are the last and shortest axis
        distances = sum((m[:, None] - m[None]).abs() for m in M.unbind(2))  # [N, N, B]
        # not 1 taken off the sum: what is near 1 would swallow what is small
        others = 1 - torch.eye(len(M), device=M.device, dtype=M.dtype)
        closeness = (torch.exp(-distances) * others[:, :, None]).sum(1)
        return _appended(features, closeness + self.bias)


class MinibatchStddev(nn.Module):
    """Appends one number: the standard deviation over groups of samples (Karras et al. 2018, §3).

    σ with 1/N over a group, per feature; the mean over all features, the same for every
    sample of the group.

    Args:
        group: samples per group; a batch that it doesn't divide is one group. Authors' code: 4.
    """

    added = 1

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        self.group = group

    def forward(self, features: Tensor) -> Tensor:
        """[N, F] -> [N, F + 1], or [N, C, H, W] -> [N, C + 1, H, W]."""
        n = len(features)
        size = self.group if n % self.group == 0 else n
        # groups are strided, as in the authors' code: sample i belongs to group i mod (n / size)
        grouped = features.float().reshape(size, n // size, -1)
        variance = (grouped - grouped.mean(0)).square().mean(0)  # [groups, features]
        spread = (variance + 1e-8).sqrt().mean(1)
        return _appended(features, spread.repeat(size)[:, None].to(features.dtype))


class Unchanged(nn.Identity):
    """Appends nothing."""

    added = 0


def minibatch_layer(
    kind: Minibatch, features: int
) -> MinibatchDiscrimination | MinibatchStddev | Unchanged:
    """The layer of that name for F ``features``; ``added`` says how many it appends."""
    match kind:
        case "none":
            return Unchanged()
        case "discrimination":
            # its cost grows with batch² · kernels: a small network gets as many as it can use
            return MinibatchDiscrimination(features, kernels=min(100, max(1, features // 8)))
        case "stddev":
            return MinibatchStddev()


def _appended(features: Tensor, extra: Tensor) -> Tensor:
    """``extra`` [N, B] beside the features, at every place of a map."""
    if features.ndim > 2:
        extra = extra[:, :, None, None].expand(-1, -1, *features.shape[2:])
    return torch.cat([features, extra], 1)
