"""Metrics: numbers from what a network sees in real and in generated images, in float64.

Inception Score, precision and recall are torch-fidelity's and MS-SSIM is torchmetrics'; the rest
is written here, because none of the two has it, or not without a square root of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np

from .errors import ConfigError
from .pairs import block_rows, distances, kernel_sum, kernel_within, kth, nearest_others

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "METRICS",
    "Measured",
    "Metric",
    "Need",
    "Seen",
    "classes_covered",
    "copied_fraction",
    "coverage",
    "density",
    "fid",
    "inception_score",
    "kid",
    "label_accuracy",
    "mode_score",
    "ms_ssim",
    "nearest",
    "neighbour_precision",
    "neighbour_recall",
    "path_length",
    "precision",
    "recall",
]

T = TypeVar("T")
NEIGHBOURS = 3
"""k of precision and recall (Kynkäänniemi et al. 2019)."""
NEIGHBOURS_DC = 5
"""k of density and coverage (Naeem et al. 2020)."""
SPLITS = 10
"""Of the Inception Score (Salimans et al. 2016)."""
FEW = 20
"""Of so few images no share is worth telling."""
WINDOW_PX = 11
"""Side of the window of MS-SSIM (Wang et al. 2003)."""

Need = Literal["labels", "logits", "modes", "path", "pixels"]
"""What not every extractor, model or data set offers."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a feature extractor made of N images, and what is known of them."""

    features: NDArray[np.float64]
    """[N, dim]."""
    logits: NDArray[np.float64] | None = None
    """[N, K] of the extractor's classes, if it has any."""
    labels: NDArray[np.int64] | None = None
    """[N]: what each image is of, or was asked to be."""
    pixels: NDArray[np.uint8] | None = None
    """[M, H, W, C]: the first of them, where a metric needs them."""
    path: NDArray[np.float64] | None = None
    """[P]: squared distance of features, per squared step along a path of latents."""
    memo: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)
    """What several metrics need, once it is known."""

    def once(self, key: object, compute: Callable[[], T]) -> T:
        """What ``compute`` returned the first time it was asked for under that key."""
        if key not in self.memo:
            self.memo[key] = compute()
        return cast("T", self.memo[key])

    def radii(self, k: int) -> NDArray[np.float64]:
        """Distance of each image to its k-th nearest other one, [N]."""
        return self.once(("radii", k), lambda: nearest_others(self.features, k))


@dataclass(frozen=True, slots=True)
class Measured:
    """A value, how far it scatters, and what must be known to read it."""

    value: float
    sd: float | None = None
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """A number from real and generated images."""

    name: str
    better: Literal["lower", "higher"]
    compute: Callable[[Seen, Seen], float | Measured]
    """(real, fake) -> value."""
    summary: str = ""
    """One line for listings."""
    needs: tuple[Need, ...] = ()
    """Of fakes, beside their features."""


def fid(real: Seen, fake: Seen) -> Measured:
    """Fréchet distance of two Gaussians: ‖μ₁−μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) (Heusel et al. 2017).

    tr (Σ₁Σ₂)^½ comes from the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which is symmetric, so the result is
    real and finite even where a covariance is singular.
    """
    a, b = real.features, fake.features
    difference = a.mean(0) - b.mean(0)
    cov_a, cov_b = (np.atleast_2d(np.cov(side, rowvar=False)) for side in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ cov_b @ root)
    trace = np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(np.clip(cross, 0, None)).sum()
    value = float(max(difference @ difference + trace, 0.0))
    return Measured(value, caveats=(*_few(a, b), *_collapsed(b)))


def kid(real: Seen, fake: Seen) -> Measured:
    """Unbiased squared MMD with the kernel (x·y/dim + 1)³ (Bińkowski et al. 2018).

    Over all pairs, not over subsets: the mean of theirs, without their noise.
    """
    a, b = real.features, fake.features
    across = kernel_sum(a, b) / (len(a) * len(b))
    return Measured(kernel_within(a) + kernel_within(b) - 2 * across, caveats=_collapsed(b))


def inception_score(_real: Seen, fake: Seen) -> Measured:
    """Exp E KL(p(y|x) ‖ p(y)), mean and sd over 10 splits (Salimans et al. 2016, §4)."""
    import torch
    from torch_fidelity.metric_isc import (
        isc_features_to_metric,
    )

    logits = _logits(fake)
    # no probability of 0, for 0·log 0 is no number there
    logits = np.maximum(logits - logits.max(1, keepdims=True), -700)
    splits = min(SPLITS, len(logits))
    found = isc_features_to_metric(torch.from_numpy(logits), splits)
    mean, sd = found["inception_score_mean"], found["inception_score_std"]
    few = len(logits) < SPLITS * logits.shape[1]
    caveat = f"{len(logits)} images in {splits} splits for {logits.shape[1]} classes: biased down"
    return Measured(mean, sd, (caveat,) if few else ())


def mode_score(real: Seen, fake: Seen) -> float:
    """Exp(E KL(p(y|x) ‖ p*(y)) − KL(p*(y) ‖ p(y))), p* of the real images (Che et al. 2017, §4.1).

    With the last KL's arguments the other way round it is the Inception Score, whatever p* is.
    """
    given, wanted = _probabilities(fake), _probabilities(real).mean(0)
    return float(np.exp(_kl(given, wanted).mean() - _kl(wanted, given.mean(0))))


def precision(real: Seen, fake: Seen) -> Measured:
    """Share of fakes in the 3-nearest-neighbour ball of some real (Kynkäänniemi et al. 2019)."""
    return Measured(_precision_recall(real, fake)[0], caveats=_few_neighbours(real, fake))


def recall(real: Seen, fake: Seen) -> Measured:
    """Share of reals in the 3-nearest-neighbour ball of some fake (Kynkäänniemi et al. 2019)."""
    return Measured(_precision_recall(real, fake)[1], caveats=_few_neighbours(real, fake))


def neighbour_precision(real: Seen, fake: Seen) -> float:
    """Share of fakes whose 3 nearest reals are no further than its 3 nearest other fakes.

    Balls round the fakes themselves: fakes in empty space count if they are far apart.
    """
    return _neighbours_inside(fake, real)


def neighbour_recall(real: Seen, fake: Seen) -> float:
    """Share of reals whose 3 nearest fakes are no further than its 3 nearest other reals."""
    return _neighbours_inside(real, fake)


def density(real: Seen, fake: Seen) -> float:
    """How many reals' 5-nearest-neighbour balls a fake is in, over 5 (Naeem et al. 2020, eq. 4).

    May exceed 1; unlike precision it isn't raised by a single outlier among the reals.
    """
    k = min(NEIGHBOURS_DC, len(real.features) - 1)
    radii = real.radii(k)
    inside = sum((block <= radii).sum() for _, block in distances(fake.features, real.features))
    return float(inside / (k * len(fake.features)))


def coverage(real: Seen, fake: Seen) -> float:
    """Share of reals with a fake in their 5-nearest-neighbour ball (Naeem et al. 2020, eq. 4)."""
    radii = real.radii(min(NEIGHBOURS_DC, len(real.features) - 1))
    closest = np.concatenate([b.min(1) for _, b in distances(real.features, fake.features)])
    return float((closest <= radii).mean())


def label_accuracy(_real: Seen, fake: Seen) -> float:
    """Share of images that the extractor takes for the class they were asked to be."""
    return float((_logits(fake).argmax(1) == fake.labels).mean())


def classes_covered(_real: Seen, fake: Seen) -> float:
    """How many of the extractor's classes some image is taken for."""
    return float(len(np.unique(_logits(fake).argmax(1))))


def ms_ssim(_real: Seen, fake: Seen) -> Measured:
    """Mean MS-SSIM of pairs of fakes: the lower, the more diverse (Odena et al. 2017, §4.2).

    Pairs are consecutive images, of one class where they have labels. Images of less than 176 px
    have fewer than five scales, their weights as in Wang et al. 2003, normalised.

    Raises:
        ConfigError: images of less than 11 px, or no two of a class.
    """
    import torch
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    pixels = cast("NDArray[np.uint8]", fake.pixels)
    order = np.arange(len(pixels))
    if fake.labels is not None:
        order = np.argsort(fake.labels[: len(pixels)], kind="stable")
    pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
    if fake.labels is not None:
        pairs = pairs[fake.labels[pairs[:, 0]] == fake.labels[pairs[:, 1]]]
    if not len(pairs):
        raise ConfigError(f"ms_ssim needs two images of a class: more than {len(pixels)} samples")
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    side_px = min(pixels.shape[1:3])
    scales = _scales(side_px)
    betas = tuple((weights[:scales] / weights[:scales].sum()).tolist())
    values = []
    for start in range(0, len(pairs), 64):
        some = torch.from_numpy(pixels[pairs[start : start + 64]]).permute(1, 0, 4, 2, 3).float()
        values.append(
            multiscale_structural_similarity_index_measure(
                some[0], some[1], data_range=255.0, betas=betas, reduction="none", normalize="relu"
            )
        )
    found = torch.cat(values).double()
    caveats = () if scales == 5 else (f"{scales} of 5 scales: images of {side_px} px",)
    return Measured(found.mean().item(), found.std(correction=0).item(), caveats)


def path_length(_real: Seen, fake: Seen) -> Measured:
    """Mean squared distance of features along paths of latents (Karras et al. 2019, §4.1).

    E ‖φ(G(z(t + ε))) − φ(G(z(t)))‖² / ε² at ε = 1e-4, without the lowest and highest percent. φ is
    the extractor, not LPIPS; the images are torch's, before they are rounded to levels.
    """
    found = np.sort(cast("NDArray[np.float64]", fake.path))
    cut = len(found) // 100
    kept = found[cut : len(found) - cut]
    return Measured(float(kept.mean()), float(kept.std()), ("by torch, before rounding to levels",))


def copied_fraction(real: Seen, fake: Seen) -> Measured:
    """Share of fakes as near to a real as that real is to any other (Alaa et al. 2022, §3.3).

    1 − authenticity. It has no value of its own to aim at: samples of the very same Gaussian come
    to 2/3 in one dimension, to a half in 5, to 1/5 in 64. So the caveat says what it comes to from
    every other real to the rest, which nobody copied.
    """
    whole = _copied(real, fake)
    if len(real.features) < 2 * FEW:
        return Measured(whole)
    kept, held_out = (Seen(real.features[start::2]) for start in (0, 1))
    chance = _copied(kept, held_out)
    return Measured(whole, caveats=(f"{chance:.2g} is chance: half the reals against the rest",))


def _copied(real: Seen, fake: Seen) -> float:
    index, distance = nearest(real.features, fake.features)
    return float((distance <= real.radii(1)[index]).mean())


def nearest(
    real: NDArray[np.float64], fake: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each fake, which real is the nearest, and how far: two of [M]."""
    blocks = [(block.argmin(1), block.min(1)) for _, block in distances(fake, real)]
    return tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))  # type: ignore[return-value] # two


METRICS = (
    Metric("fid", "lower", fid, "Fréchet distance of features"),
    Metric("kid", "lower", kid, "unbiased MMD of features, for few images too"),
    Metric("inception_score", "higher", inception_score, "clear and varied classes", ("logits",)),
    Metric("mode_score", "higher", mode_score, "the same, against the data's", ("logits",)),
    Metric("precision", "higher", precision, "share of fakes that could be real"),
    Metric("recall", "higher", recall, "share of reals that could be fake"),
    Metric("neighbour_precision", "higher", neighbour_precision, "with balls round the fakes"),
    Metric("neighbour_recall", "higher", neighbour_recall, "with balls round the reals"),
    Metric("density", "higher", density, "precision that outliers don't raise"),
    Metric("coverage", "higher", coverage, "recall that outliers don't raise"),
    Metric(
        "label_accuracy", "higher", label_accuracy, "images of what was asked", ("logits", "labels")
    ),
    Metric("classes_covered", "higher", classes_covered, "classes that are made", ("logits",)),
    Metric("ms_ssim", "lower", ms_ssim, "similarity among fakes", ("pixels",)),
    Metric("path_length", "lower", path_length, "smoothness along latents, of a run", ("path",)),
    Metric("copied_fraction", "lower", copied_fraction, "fakes suspiciously near a real"),
)


def _few(*sides: NDArray[np.float64]) -> tuple[str, ...]:
    """What is wrong with a covariance of fewer images than features."""
    fewest, dim = min(len(side) for side in sides), sides[0].shape[1]
    if fewest > dim:
        return ()
    return (f"{fewest} images for {dim} features: biased up; prefer kid",)


def _few_neighbours(*sides: Seen) -> tuple[str, ...]:
    """What is wrong with a ball of as many neighbours as there are others."""
    fewest = min(len(side.features) for side in sides)
    return () if fewest > NEIGHBOURS else (f"k = {fewest - 1}, not {NEIGHBOURS}: too few images",)


def _collapsed(fake: NDArray[np.float64]) -> tuple[str, ...]:
    # a network's features of one image differ a little from batch to batch
    alike = len(fake) > 1 and np.ptp(fake, 0).max() <= 1e-5 * np.abs(fake).max()
    return ("all generated images are the same",) if alike else ()


def _scales(side_px: int) -> int:
    """How many scales torchmetrics can take: each halves the side, and holds a window."""
    for scales in (5, 4, 3, 2, 1):
        # its second condition is stricter than the first where there are four
        if min(side_px // 2 ** (scales - 1), side_px // max(1, scales - 1) ** 2) >= WINDOW_PX:
            return scales
    raise ConfigError(f"ms_ssim needs images of at least {WINDOW_PX} px, not {side_px}")


def _neighbours_inside(centres: Seen, others: Seen) -> float:
    k = min(NEIGHBOURS, len(centres.features) - 1, len(others.features))
    own = centres.radii(k)
    theirs = [kth(block, k) for _, block in distances(centres.features, others.features)]
    return float((np.concatenate(theirs) <= own).mean())


def _precision_recall(real: Seen, fake: Seen) -> tuple[float, float]:
    import torch
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    def computed() -> tuple[float, float]:
        k = min(NEIGHBOURS, len(real.features) - 1, len(fake.features) - 1)
        arrays = (np.ascontiguousarray(side.features) for side in (fake, real))  # fakes come first
        rows = block_rows(max(len(real.features), len(fake.features)))
        found = calculate_precision_recall_part(*map(torch.from_numpy, arrays), k, rows)
        return cast("tuple[float, float]", found)

    return fake.once(("precision and recall", id(real)), computed)


def _logits(seen: Seen) -> NDArray[np.float64]:
    return cast("NDArray[np.float64]", seen.logits)


def _probabilities(seen: Seen) -> NDArray[np.float64]:
    logits = _logits(seen)
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return cast("NDArray[np.float64]", exponents / exponents.sum(1, keepdims=True))


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(p ‖ q) over the last axis; 0·log 0 = 0."""
    tiny = np.finfo(np.float64).tiny
    terms = p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(q, tiny)))
    return cast("NDArray[np.float64]", terms.sum(-1))
