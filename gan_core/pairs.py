"""All pairs of many rows, block by block: distances, neighbours, and kernels, in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["block_rows", "distances", "kernel_sum", "kernel_within", "kth", "nearest_others"]

BLOCK = 1024
"""Rows of a block of pairs, at most: all pairs at once may not fit in memory."""
BLOCK_PAIRS = 2**23
"""Pairs of a block, about: 64 MiB."""


def kernel_within(rows: NDArray[np.float64]) -> float:
    """Mean kernel of all pairs of different rows."""
    n, dim = rows.shape
    diagonal: float = ((np.square(rows).sum(1) / dim + 1) ** 3).sum()
    starts = range(0, n, BLOCK)
    halves = [(i, j) for i in starts for j in starts if i <= j]  # it is symmetric
    whole = math.fsum((1 + (i < j)) * _kernel_block(rows, rows, i, j) for i, j in halves)
    return float((whole - diagonal) / (n * (n - 1)))


def kernel_sum(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Sum of the kernel over all pairs."""
    places = itertools.product(range(0, len(a), BLOCK), range(0, len(b), BLOCK))
    return math.fsum(_kernel_block(a, b, i, j) for i, j in places)


def _kernel_block(a: NDArray[np.float64], b: NDArray[np.float64], i: int, j: int) -> float:
    base = a[i : i + BLOCK] @ b[j : j + BLOCK].T / a.shape[1] + 1
    return float((base * base * base).sum())  # a power takes ten times as long


def distances(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Euclidean distances [block, len(b)] of the rows of ``a``, block by block."""
    import torch

    b_ = torch.from_numpy(np.ascontiguousarray(b))
    size = block_rows(len(b))
    for start in range(0, len(a), size):
        rows = slice(start, start + size)
        block = torch.from_numpy(np.ascontiguousarray(a[rows]))
        # not by a matrix product, which would give near copies distances of noise
        yield rows, torch.cdist(block, b_, compute_mode="donot_use_mm_for_euclid_dist").numpy()


def block_rows(columns: int) -> int:
    """Rows of a block of so many columns."""
    return max(1, min(BLOCK, BLOCK_PAIRS // columns))


def nearest_others(points: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Distance of each point to its k-th nearest other point, [N]."""
    found = []
    for rows, block in distances(points, points):
        block[np.arange(len(block)), np.arange(rows.start, rows.start + len(block))] = np.inf
        found.append(kth(block, k))
    return np.concatenate(found)


def kth(block: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """The k-th smallest of each row, [len(block)]."""
    return np.partition(block, k - 1, axis=1)[:, k - 1].copy()  # a view would keep them all
