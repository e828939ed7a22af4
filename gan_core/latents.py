"""From seeds to served tensors: the one rule that trainers, servers and clients share.

Image *i* of a request uses ``Philox(key=(seed + i) mod 2**64)`` alone. So n = 4 equals four
requests of n = 1, and neither batching nor a retry can change a picture. Torch-free.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np

from .card import (
    CameraInput,
    ImageInput,
    Input,
    LabelInput,
    LatentInput,
    StyleInput,
    TextInput,
    TruncationInput,
    truncation_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "SEED_LIMIT",
    "check_truncation",
    "draw",
    "interpolated",
    "latents",
    "oblong",
    "random_seed",
    "seed_range",
]

SEED_LIMIT = 2**64


def random_seed() -> int:
    """A seed nobody chose, below 2**53: every JSON parser keeps it, and its successors."""
    return secrets.randbelow(2**53 - 2**20)


def seed_range(seed: int, n: int) -> list[int]:
    """Seeds of the n images of a request: seed, seed + 1, … modulo 2**64."""
    return [(seed + i) % SEED_LIMIT for i in range(n)]


def latents(
    latent: LatentInput, seeds: Sequence[int], threshold: float | None = None
) -> NDArray[np.float32]:
    """Input latents z, float32 [len(seeds), dim]: row i is a function of seeds[i] alone.

    With a ``threshold`` elements beyond ±threshold are drawn again until none is.

    Raises:
        ValueError: ``threshold`` is not above 0, or the prior is uniform.
    """
    if threshold is not None and (threshold <= 0 or latent.distribution == "uniform"):
        raise ValueError(
            f"a {latent.distribution} latent can't be truncated at {threshold}: "
            "a normal one can, above 0"
        )
    return np.stack([_latent(latent, _generator(seed), threshold) for seed in seeds])


def interpolated(a: NDArray[Any], b: NDArray[Any], t: NDArray[Any]) -> NDArray[np.float64]:
    """Between rows of ``a`` and ``b`` [N, dim], ``t`` [N, 1] of the way along the sphere.

    Directions turn by an even angle and lengths change evenly, in float64: normal latents all
    lie near one sphere, and the straight way would leave it (White 2016).
    """
    lengths = [np.linalg.norm(side.astype(np.float64), axis=1, keepdims=True) for side in (a, b)]
    units = [side / np.maximum(n, 1e-12) for side, n in zip((a, b), lengths, strict=True)]
    angle = np.arccos(np.clip((units[0] * units[1]).sum(1, keepdims=True), -1, 1))
    sine = np.maximum(np.sin(angle), 1e-12)
    turned = (np.sin((1 - t) * angle) * units[0] + np.sin(t * angle) * units[1]) / sine
    found: NDArray[np.float64] = turned * ((1 - t) * lengths[0] + t * lengths[1])
    return found


def draw(
    inputs: Sequence[Input], seeds: Sequence[int], truncation: float | None = None
) -> dict[str, NDArray[Any]]:
    """A valid value of every input for every seed, by tensor name.

    Latents come from their prior, labels go round the classes, truncation is the default unless
    given; what has no prior (text, image, camera, style) is random within its range. Used wherever
    a graph runs without a request: parity, warm-up, readiness, samples and scores.
    """
    return {
        item.name: np.stack([_value(item, seed, truncation) for seed in seeds]).astype(
            item.tensor.dtype
        )
        for item in inputs
    }


def oblong(inputs: Sequence[Input], drawn: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The values drawn, with source images that aren't square where other sides are allowed."""
    changed = dict(drawn)
    for item in inputs:
        if item.role != "image":
            continue
        n, side, _, channels = drawn[item.name].shape
        others = [side + k * item.multiple_of for k in (1, 2, -1, -2)]
        allowed = [s for s in others if item.min_side_px <= s <= item.max_side_px and s > 0]
        height, width = [*allowed, side, side][:2]
        changed[item.name] = np.resize(drawn[item.name], (n, height, width, channels))
    return changed


def check_truncation(inputs: Sequence[Input], value: float) -> None:
    """Make sure that these inputs take that truncation.

    Raises:
        ValueError: it is out of range, or there is nothing to truncate.
    """
    accepted = truncation_of(inputs)
    if accepted is None:
        raise ValueError("no input takes a truncation")
    if not accepted.minimum <= value <= accepted.maximum:
        raise ValueError(f"{value} is not in [{accepted.minimum}, {accepted.maximum}]")


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed % SEED_LIMIT))


def _latent(
    latent: LatentInput, rng: np.random.Generator, threshold: float | None = None
) -> NDArray[np.float32]:
    if latent.distribution == "uniform":
        return rng.random(latent.dim, dtype=np.float32) * np.float32(2) - np.float32(1)
    z = rng.standard_normal(latent.dim, dtype=np.float32)
    while threshold is not None and (beyond := np.abs(z) > threshold).any():
        z[beyond] = rng.standard_normal(int(beyond.sum()), dtype=np.float32)
    return z


def _value(item: Input, seed: int, truncation: float | None) -> Any:
    rng = _generator(seed)
    match item:
        case LatentInput():
            return _latent(item, rng, truncation if item.truncation else None)
        case LabelInput():
            return np.array([seed % len(item.classes)])
        case TruncationInput():
            return np.array([item.default if truncation is None else truncation])
        case TextInput() | StyleInput():
            return rng.standard_normal(item.tensor.shape, dtype=np.float32)
        case CameraInput():
            return np.array([rng.uniform(*item.yaw_rad), rng.uniform(*item.pitch_rad)])
        case ImageInput():
            wanted = max(item.min_side_px, min(16, item.max_side_px))
            side = -(-wanted // item.multiple_of) * item.multiple_of
            return rng.integers(0, 2**item.bit_depth, (side, side, item.channels))
    assert_never(item)
