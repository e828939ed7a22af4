"""Scores of what is served, each with its provenance: one pass of an extractor, then metrics."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .card import LabelInput, Provenance, Score
from .datasets import cache_dir
from .errors import ConfigError
from .latents import SEED_LIMIT, draw, seed_range
from .metrics import Measured, Metric, Need, Seen
from .sources import EPSILON, Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .data import Images

__all__ = [
    "Extractor",
    "FeatureExtractor",
    "compare",
    "score",
    "see",
    "see_reference",
]

BATCH = 64
PATHS = 2048
"""So many are stepped along, at most."""
PIXELS = 2048
"""So many images are kept as they are, for metrics that compare pixels."""


@dataclass(frozen=True, slots=True)
class Extractor:
    """A feature extractor that is ready to use."""

    identity: str
    """Name and the first 12 hex digits of its weights' sha256."""
    resize: str
    """Filter that brings images to its size, or ``none``."""
    extract: Callable[[NDArray[Any]], tuple[NDArray[np.float64], NDArray[np.float64] | None]]
    """uint8 [N, H, W, C] -> features [N, dim], and logits [N, K] if it is a classifier."""
    takes_floats: bool = True
    """Whether it also takes levels between whole ones, as floats of 0 to 255."""
    sees_modes: bool = False
    """Whether its features are distances to the modes of points."""


@dataclass(frozen=True, slots=True)
class FeatureExtractor:
    """A feature extractor by name."""

    name: str
    summary: str
    load: Callable[[str], Extractor]
    """The argument after the colon of ``NAME:ARGUMENT``, or "" -> extractor. May train, download
    or read weights; called once per evaluation."""


def score(
    source: Source,
    images: Images,
    extractor: Extractor,
    metrics: Sequence[Metric],
    *,
    samples: int,
    seed: int = 0,
    only_fitting: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Score, ...]:
    """Score ``samples`` generated images, from ``seed`` on, against a reference set.

    All metrics come from one pass; what the extractor makes of the reference set is kept in the
    user's cache, by the set's and the extractor's hash. A metric that needs what there isn't, or
    says that it can't be measured here, is left out if ``only_fitting``.

    Raises:
        ConfigError: fewer than 2 images of a kind, more generated than real ones, or a metric
            needs what there isn't.
    """
    if samples < 2 or len(images) < 2:
        raise ConfigError(
            f"a score needs at least 2 images of each kind, not {samples} generated and "
            f"{len(images)} real ones"
        )
    if samples > len(images):
        raise ConfigError(
            f"{samples} generated images against {len(images)} of {images.source.name}: "
            f"at most {len(images)}, or a larger reference set"
        )
    needs = {need for metric in metrics for need in metric.needs}
    labels = _labels(source, seed, samples)
    batches = _counted(source.images(seed, samples), lambda done: progress(done, samples))
    fake = see(extractor, batches, labels, needs)
    lacking = _lacking(fake, extractor, source)
    unfit = [(metric, need) for metric in metrics for need in metric.needs if need in lacking]
    if unfit and not only_fitting:
        raise ConfigError(f"{unfit[0][0].name} needs {lacking[unfit[0][1]]}")
    metrics = [metric for metric in metrics if not lacking.keys() & set(metric.needs)]
    if source.path and any("path" in metric.needs for metric in metrics):
        fake = replace(fake, path=_along(extractor, source.path(seed, min(samples, PATHS))))
    real = see_reference(extractor, images)
    provenance = Provenance(
        extractor=extractor.identity,
        resize=extractor.resize,
        reference=f"{images.source.name} {images.source.fingerprint[:12]} n={len(images)}",
        samples=samples,
        seed=seed % SEED_LIMIT,
        truncation=source.truncation,
        ema=source.ema,
        graph=source.graph,
    )
    scores = []
    for metric in metrics:
        with suppress(ConfigError) if only_fitting else nullcontext():
            scores.append(_measured(metric, real, fake, provenance))
    return tuple(scores)


def _measured(metric: Metric, real: Seen, fake: Seen, provenance: Provenance) -> Score:
    found = metric.compute(real, fake)
    value = found if isinstance(found, Measured) else Measured(found)
    used = [
        len(some)
        for need, some in (("path", fake.path), ("pixels", fake.pixels))
        if need in metric.needs and some is not None
    ]
    if used:
        provenance = provenance.model_copy(update={"samples": used[0]})
    return Score(
        metric=metric.name,
        value=value.value,
        sd=value.sd,
        caveats=value.caveats,
        provenance=provenance,
    )


def see(
    extractor: Extractor,
    batches: Iterator[NDArray[Any]],
    labels: NDArray[np.int64] | None = None,
    needs: set[Need] | frozenset[Need] = frozenset(),
) -> Seen:
    """What an extractor makes of batches of images [n, H, W, C], in one pass.

    Raises:
        ConfigError: a feature or a logit isn't finite.
    """
    features, logits, pixels, kept = [], [], [], 0
    for batch in batches:
        found, scores = extractor.extract(batch)
        features.append(found)
        logits.append(scores)
        if "pixels" in needs and kept < PIXELS:
            pixels.append(batch[: PIXELS - kept])
            kept += len(pixels[-1])
    seen = np.concatenate(features)
    given = [scores for scores in logits if scores is not None]
    classes = np.concatenate(given) if given else None
    for what, array in (("features", seen), ("logits", classes)):
        if array is not None and not np.isfinite(array).all():
            raise ConfigError(f"{extractor.identity} made {what} that aren't finite numbers")
    return Seen(seen, classes, labels, np.concatenate(pixels) if pixels else None)


def _along(
    extractor: Extractor, pairs: Iterator[tuple[NDArray[Any], NDArray[Any]]]
) -> NDArray[np.float64]:
    found = []
    for before, after in pairs:
        step = extractor.extract(after)[0] - extractor.extract(before)[0]
        found.append(np.square(step).sum(1) / EPSILON**2)
    return np.concatenate(found)


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


def _lacking(fake: Seen, extractor: Extractor, source: Source) -> dict[Need, str]:
    """What metrics may need and isn't there, in words."""
    found: dict[Need, str] = {}
    label = next((item for item in source.inputs if isinstance(item, LabelInput)), None)
    if fake.logits is None:
        found["logits"] = f"class probabilities, which the extractor {extractor.identity!r} lacks"
    if label is None:
        found["labels"] = f"labels, which {source.name} doesn't take"
    elif fake.logits is not None and len(label.classes) != fake.logits.shape[1]:
        found["labels"] = (
            f"a classifier of the {len(label.classes)} classes of {source.name}, not of "
            f"{fake.logits.shape[1]} ({extractor.identity})"
        )
    if source.path is None:
        found["path"] = f"a run: {source.name} makes whole levels, too coarse for small steps"
    elif not extractor.takes_floats:
        found["path"] = f"an extractor that takes more than whole levels, not {extractor.identity}"
    if source.resolution_px == 1:
        found["pixels"] = "images, not points"
    if not extractor.sees_modes:
        found["modes"] = f"distances to modes, which {extractor.identity} doesn't see"
    return found


def _labels(source: Source, seed: int, n: int) -> NDArray[np.int64] | None:
    """What ``draw`` asks for, where there is a label to ask for."""
    asked = [item for item in source.inputs if isinstance(item, LabelInput)]
    if not asked:
        return None
    (found,) = draw(asked, seed_range(seed, n)).values()
    labels: NDArray[np.int64] = found[:, 0].astype(np.int64)
    return labels


def see_reference(extractor: Extractor, images: Images) -> Seen:
    """What an extractor makes of a reference set, from the cache if it has seen it before."""
    if images.pixels.dtype != np.uint8:  # points: as fast as reading a file
        return see(extractor, _real(images), images.labels)
    about = f"{extractor.identity}|{extractor.resize}|{images.source.fingerprint}"
    path = cache_dir() / "seen" / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.npz"
    try:
        with path.open("rb") as file, np.load(file) as stored:
            logits = stored.get("logits")
            return Seen(stored["features"], logits, images.labels)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        seen = see(extractor, _real(images), images.labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.npz")
    arrays = {"features": seen.features, "logits": seen.logits}
    np.savez(temporary, **{name: a for name, a in arrays.items() if a is not None})  # type: ignore[arg-type] # numpy's stub
    temporary.replace(path)
    return seen


def _real(images: Images) -> Iterator[NDArray[Any]]:
    for start in range(0, len(images), BATCH):
        yield images.pixels[start : start + BATCH].transpose(0, 2, 3, 1)


def _counted(
    source: Iterator[NDArray[Any]], progress: Callable[[int], Any]
) -> Iterator[NDArray[Any]]:
    done = 0
    for pixels in source:
        yield pixels
        done += len(pixels)
        progress(done)
