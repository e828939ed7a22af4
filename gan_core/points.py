"""Points in the plane: training sets whose modes are known, to see which a generator drops.

``ring`` has 8 Gaussians on a circle and ``grid`` 25 on a lattice, as in the literature (Metz et
al. 2017; Srivastava et al. 2017), scaled into [-1, 1]². A point is an image of one pixel with
two channels, [2, 1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .card import DataSource
from .data import Dataset, Images, fingerprint
from .densities import Mixture
from .errors import ConfigError, DataError
from .evaluation import Extractor, FeatureExtractor
from .metrics import Metric, Seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DATASETS",
    "EXTRACTORS",
    "GRID",
    "METRICS",
    "RING",
    "Modes",
    "high_quality_fraction",
    "modes_covered",
]

POINTS = 50_000
NEAR = 3.0
"""A point belongs to a mode within so many standard deviations of its centre."""


@dataclass(frozen=True, slots=True)
class Modes:
    """Gaussians in the plane, by the name of their set."""

    name: str
    density: Mixture

    def distances(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """From each of the points [N, 2] to each of the K centres, in σ: [N, K]."""
        apart = points[:, None] - np.asarray(self.density.means)
        found: NDArray[np.float64] = np.sqrt(np.square(apart).sum(2)) / self.density.sigma
        return found


def _ring() -> Modes:
    # published: radius 2, σ 0.02
    turns = [2 * math.pi * i / 8 for i in range(8)]
    centres = [(0.8 * math.cos(t), 0.8 * math.sin(t)) for t in turns]
    return Modes("ring", Mixture(centres, 0.008))


def _grid() -> Modes:
    # published: centres at −4, −2, 0, 2, 4, σ 0.05
    places = (-0.8, -0.4, 0.0, 0.4, 0.8)
    return Modes("grid", Mixture([(x, y) for x in places for y in places], 0.01))


RING = _ring()
GRID = _grid()


def modes_covered(distances: NDArray[np.float64]) -> float:
    """How many modes at least one good generated point is nearest to (Srivastava et al. 2017).

    ``distances`` [N, K] are those that ``Modes.distances`` gives; good is within 3 σ.
    """
    good = distances[distances.min(1) <= NEAR]
    return float(len(np.unique(good.argmin(1))))


def high_quality_fraction(distances: NDArray[np.float64]) -> float:
    """Share of generated points within 3 σ of a mode; 0.989 for the data itself."""
    return float((distances.min(1) <= NEAR).mean())


def _open(modes: Modes, argument: str, side_px: int | None) -> Images:
    if argument or side_px not in (None, 1):
        raise DataError(
            f"dataset {modes.name!r} is points in the plane: it takes no argument and no size"
        )
    drawn = modes.density.sample(POINTS, np.random.default_rng(0))
    points = drawn.astype(np.float32).reshape(-1, 2, 1, 1)
    source = DataSource(name=modes.name, fingerprint=fingerprint(points, None), licence="CC0-1.0")
    return Images(points, source)


def _load(modes: Modes, argument: str) -> Extractor:
    if argument:
        raise ConfigError(f"{modes.name}-modes takes no argument, not {argument!r}")
    return Extractor(
        f"{modes.name}-modes σ={modes.density.sigma:g}",
        "none",
        lambda points: (modes.distances(points.reshape(len(points), 2)), None),
        sees_modes=True,
    )


def _covered(_real: Seen, fake: Seen) -> float:
    return modes_covered(fake.features)


def _good(_real: Seen, fake: Seen) -> float:
    return high_quality_fraction(fake.features)


METRICS = (
    Metric("modes_covered", "higher", _covered, "modes of points with a good one", ("modes",)),
    Metric(
        "high_quality_fraction",
        "higher",
        _good,
        "points within 3 σ of a mode",
        ("modes",),
    ),
)
DATASETS = tuple(
    Dataset(
        modes.name,
        f"{len(modes.density.means)} Gaussians in the plane: points, not images",
        partial(_open, modes),
        extractor=f"{modes.name}-modes",
        metrics=("modes_covered", "high_quality_fraction"),
    )
    for modes in (RING, GRID)
)
EXTRACTORS = tuple(
    FeatureExtractor(
        f"{modes.name}-modes", f"distances to the modes of {modes.name}", partial(_load, modes)
    )
    for modes in (RING, GRID)
)
