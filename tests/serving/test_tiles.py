"""Tiles put together are the picture, whatever its size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_core.errors import InternalError
from gan_serving.tiles import Tiling


def enlarged(tiles: np.ndarray, scale: int, halo: int) -> np.ndarray:
    """Every pixel becomes the mean of what lies within ``halo`` of it; zeros lie beyond."""
    near = np.zeros(tiles.shape, np.int64)
    _, height, width, _ = tiles.shape
    beyond = np.pad(tiles.astype(np.int64), [(0, 0), (halo, halo), (halo, halo), (0, 0)])
    for y in range(2 * halo + 1):
        for x in range(2 * halo + 1):
            near += beyond[:, y : y + height, x : x + width]
    mean = (near // (2 * halo + 1) ** 2).astype(tiles.dtype)
    return mean.repeat(scale, axis=1).repeat(scale, axis=2)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    halo=st.integers(0, 3),
    kept=st.integers(1, 12),
    scale=st.integers(1, 4),
    tiles=st.integers(1, 30),
    per_answer=st.integers(1, 9),
    wide=st.booleans(),
)
def test_tiles_make_the_whole_picture(
    height: int,
    width: int,
    halo: int,
    kept: int,
    scale: int,
    tiles: int,
    per_answer: int,
    wide: bool,
) -> None:
    kind = np.uint16 if wide else np.uint8
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(kind)
    continued = np.pad(pixels, [(halo, halo), (halo, halo), (0, 0)], mode="edge")
    whole = enlarged(continued[None], scale, halo)[0]
    expected = whole[scale * halo : scale * (halo + height), scale * halo : scale * (halo + width)]

    tiling = Tiling(height, width, kept + 2 * halo, halo, scale)
    found = []
    for band in tiling.bands(tiles):
        rows = pixels[band.above : band.below]
        cuts = [band.cut(rows, i, i + per_answer) for i in range(0, band.tiles, per_answer)]
        cut = np.concatenate(cuts)
        image = band.empty(3, 16 if wide else 8)
        for first in range(0, len(cut), per_answer):
            band.place(enlarged(cut[first : first + per_answer], scale, halo), first, image)
        found.append(image)
    assert np.array_equal(np.concatenate(found), expected)


def test_a_band_is_at_least_one_row_of_tiles() -> None:
    tiling = Tiling(1000, 10_000, 64, 8, 4)
    assert [band.bottom - band.top for band in tiling.bands(1)] == [48] * 20 + [40]
    assert tiling.across == 209


def test_tiles_of_another_size_are_a_defect() -> None:
    tiling = Tiling(20, 20, 16, 2, 2)
    (band,) = tiling.bands(100)
    with pytest.raises(InternalError, match="tiles of 16 px have become"):
        band.place(np.zeros((4, 31, 32, 3), np.uint8), 0, band.empty(3, 8))
