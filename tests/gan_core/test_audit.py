"""The memorisation audit: copies come first, above what they are copies of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gan_core.audit import audit
from gan_core.card import DataSource, LatentInput
from gan_core.data import Images
from gan_core.errors import ConfigError
from gan_core.evaluation import Extractor
from gan_core.sources import Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 64
REALS = np.random.default_rng(0).integers(0, 256, (40, 1, SIDE, SIDE), dtype=np.uint8)
IMAGES = Images(REALS, DataSource(name="noise", fingerprint="audit"))
EXTRACTOR = Extractor(
    "values", "none", lambda pixels: (pixels.reshape(len(pixels), -1).astype(np.float64), None)
)


def source(copied: dict[int, int], n: int = 30) -> Source:
    """Noise, but for images that are copies of reals, by their places."""
    fakes = np.random.default_rng(1).integers(0, 256, (n, SIDE, SIDE, 1), dtype=np.uint8)
    for place, real in copied.items():
        fakes[place] = REALS[real].transpose(1, 2, 0)

    def images(seed: int, count: int) -> Iterator[NDArray[Any]]:
        yield fakes[:10]
        yield fakes[10:count]

    return Source("fakes", (LatentInput(dim=1),), SIDE, 1, "noise", images)


def test_copies_come_first_above_what_they_copy() -> None:
    picture, seeds = audit(source({7: 3, 21: 11}), IMAGES, EXTRACTOR, samples=30, seed=100, show=4)
    assert set(seeds[:2]) == {107, 121}
    cells = np.asarray(picture)
    step = SIDE + 2
    for column in range(2):
        left = 2 + column * step
        above = cells[2 : 2 + SIDE, left : left + SIDE]
        below = cells[2 + step : 2 + step + SIDE, left : left + SIDE]
        np.testing.assert_array_equal(above, below)


def test_progress_counts_the_images_looked_through() -> None:
    done: list[tuple[int, int]] = []
    audit(source({}), IMAGES, EXTRACTOR, samples=30, progress=lambda *at: done.append(at))
    assert done == [(10, 30), (30, 30)]


def test_seeds_go_on_at_0_after_the_largest() -> None:
    _, seeds = audit(source({0: 3, 1: 4}), IMAGES, EXTRACTOR, samples=30, seed=2**64 - 1, show=2)
    assert set(seeds) == {2**64 - 1, 0}


def test_points_and_a_single_real_are_refused() -> None:
    point = Images(np.zeros((5, 2, 1, 1), np.float32), DataSource(name="ring", fingerprint="r"))
    one = Images(REALS[:1], DataSource(name="one", fingerprint="o"))
    for images, message in ((point, "points have no picture"), (one, "one has one image")):
        with pytest.raises(ConfigError, match=message):
            audit(source({}), images, EXTRACTOR, samples=30)


@pytest.mark.parametrize("side", [8, 32])
def test_small_images_are_enlarged(side: int) -> None:
    small = Images(REALS[:, :, :side, :side], DataSource(name="noise", fingerprint=f"small{side}"))

    def images(seed: int, count: int) -> Iterator[NDArray[Any]]:
        yield REALS[:count, :, :side, :side].transpose(0, 2, 3, 1)

    made = Source("fakes", (LatentInput(dim=1),), side, 1, "noise", images)
    picture, _ = audit(made, small, EXTRACTOR, samples=10, show=5)
    assert picture.width >= 5 * 64
