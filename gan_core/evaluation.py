"""Scores of what is served, each with its provenance. Metrics compare features, not images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .card import ModelCard, Provenance, Score
from .errors import ConfigError
from .latents import draw, seed_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .data import Images

__all__ = [
    "METRICS",
    "Extractor",
    "FeatureExtractor",
    "Metric",
    "compare",
    "evaluate",
    "fid",
    "generated",
    "kid",
    "score",
]


@dataclass(frozen=True, slots=True)
class Metric:
    """A number from real and generated features."""

    name: str
    better: Literal["lower", "higher"]
    compute: Callable[[NDArray[np.float64], NDArray[np.float64]], float]
    """(real [N, dim], fake [M, dim]) -> value."""


@dataclass(frozen=True, slots=True)
class Extractor:
    """A feature extractor that is ready to use."""

    identity: str
    """Name and the first 12 hex digits of its weights' sha256."""
    resize: str
    """Filter that brings images to its size, or ``none``."""
    features: Callable[[NDArray[Any]], NDArray[np.float64]]
    """uint8 [N, H, W, C] -> float64 [N, dim]."""


@dataclass(frozen=True, slots=True)
class FeatureExtractor:
    """A feature extractor by name."""

    name: str
    summary: str
    load: Callable[[], Extractor]
    """May train, download or read weights; called once per evaluation."""


def fid(real: NDArray[np.float64], fake: NDArray[np.float64]) -> float:
    """Fréchet distance of two Gaussians: ‖μ₁−μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) (Heusel et al. 2017).

    tr (Σ₁Σ₂)^½ comes from the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which is symmetric, so the result is
    real and finite even where a covariance is singular.
    """
    difference = real.mean(0) - fake.mean(0)
    cov_real, cov_fake = (np.atleast_2d(np.cov(side, rowvar=False)) for side in (real, fake))
    values, vectors = np.linalg.eigh(cov_real)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ cov_fake @ root)
    trace = np.trace(cov_real) + np.trace(cov_fake) - 2 * np.sqrt(np.clip(cross, 0, None)).sum()
    return float(max(difference @ difference + trace, 0.0))


def kid(real: NDArray[np.float64], fake: NDArray[np.float64]) -> float:
    """Unbiased squared MMD with the kernel (x·y/dim + 1)³ (Bińkowski et al. 2018)."""
    across = _kernel_sum(real, fake) / (len(real) * len(fake))
    return _kernel_within(real) + _kernel_within(fake) - 2 * across


def _kernel_within(rows: NDArray[np.float64]) -> float:
    """Mean kernel of all pairs of different rows."""
    n, dim = rows.shape
    diagonal: float = ((np.square(rows).sum(1) / dim + 1) ** 3).sum()
    return float((_kernel_sum(rows, rows) - diagonal) / (n * (n - 1)))


def _kernel_sum(a: NDArray[np.float64], b: NDArray[np.float64], block: int = 1024) -> float:
    """Sum of the kernel over all pairs, by blocks: all pairs at once may not fit in memory."""
    return math.fsum(
        ((a[i : i + block] @ b[j : j + block].T / a.shape[1] + 1) ** 3).sum()
        for i in range(0, len(a), block)
        for j in range(0, len(b), block)
    )


METRICS = (Metric("fid", "lower", fid), Metric("kid", "lower", kid))


def evaluate(
    graph: Path,
    card: ModelCard,
    images: Images,
    extractor: Extractor,
    metrics: Sequence[Metric],
    *,
    samples: int,
    seed: int = 0,
    ema: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Score, ...]:
    """Score the exported graph, of averaged weights if ``ema``, against a training set.

    Raises:
        ConfigError: fewer than 2 samples or real images.
    """
    fakes = generated(graph, card, samples, seed)
    return score(
        fakes, images, extractor, metrics, samples=samples, seed=seed, ema=ema, progress=progress
    )


def score(
    fakes: Iterator[NDArray[Any]],
    images: Images,
    extractor: Extractor,
    metrics: Sequence[Metric],
    *,
    samples: int,
    seed: int,
    ema: bool = True,
    of: Literal["onnx", "torch"] = "onnx",
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Score, ...]:
    """Score batches [n, H, W, C] of generated images, ``samples`` in all, from ``seed`` on.

    Raises:
        ConfigError: fewer than 2 samples or real images.
    """
    if samples < 2 or len(images) < 2:
        raise ConfigError(f"a score needs at least 2 images of each kind, not {samples}")
    real = _features(extractor, _real(images))
    fake = _features(extractor, _counted(fakes, progress))
    provenance = Provenance(
        extractor=extractor.identity,
        resize=extractor.resize,
        reference=f"{images.source.name} {images.source.fingerprint[:12]} n={len(images)}",
        samples=samples,
        seed=seed,
        ema=ema,
        graph=of,
    )
    return tuple(
        Score(metric=metric.name, value=metric.compute(real, fake), provenance=provenance)
        for metric in metrics
    )


def compare(ours: Score, theirs: Score) -> float:
    """Difference of two scores.

    Raises:
        ConfigError: they are scores of different metrics, or were measured in different ways.
    """
    if ours.metric != theirs.metric:
        raise ConfigError(f"{ours.metric} and {theirs.metric} are different metrics")
    if ours.provenance != theirs.provenance:
        a, b = ours.provenance.model_dump(), theirs.provenance.model_dump()
        fields = ", ".join(f"{k}: {a[k]} and {b[k]}" for k in a if a[k] != b[k])
        raise ConfigError(f"two {ours.metric} scores measured differently don't compare ({fields})")
    return ours.value - theirs.value


def generated(
    graph: Path, card: ModelCard, samples: int, seed: int = 0, batch: int = 64
) -> Iterator[NDArray[np.uint8]]:
    """Images uint8 [n, H, W, C] of seeds seed, seed + 1, …, in batches, by onnxruntime."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises what it likes
        raise ConfigError(f"{graph} can't be run: {error}; export the run again") from error
    for start in range(0, samples, batch):
        seeds = seed_range(seed + start, min(batch, samples - start))
        pixels: NDArray[np.uint8] = session.run(None, draw(card.inputs, seeds))[0]
        yield pixels


def _real(images: Images, batch: int = 64) -> Iterator[NDArray[Any]]:
    for start in range(0, len(images), batch):
        yield images.pixels[start : start + batch].transpose(0, 2, 3, 1)


def _features(extractor: Extractor, source: Iterator[NDArray[Any]]) -> NDArray[np.float64]:
    return np.concatenate([extractor.features(pixels) for pixels in source])


def _counted(
    source: Iterator[NDArray[Any]], progress: Callable[[int], Any]
) -> Iterator[NDArray[Any]]:
    for pixels in source:
        yield pixels
        progress(len(pixels))
