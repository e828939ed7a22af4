"""Levels of 8 and 16 bits."""

from __future__ import annotations

import numpy as np
import pytest

from gan_core.levels import BitDepth, bit_depth_of, of_depth

EVERY_8, EVERY_16 = np.arange(256, dtype=np.uint8), np.arange(65_536, dtype=np.uint16)


def test_every_level_of_16_bits_becomes_the_nearest_of_8() -> None:
    np.testing.assert_array_equal(of_depth(EVERY_16, 8), np.round(EVERY_16 / 257))


def test_every_level_of_8_bits_comes_back() -> None:
    wide = of_depth(EVERY_8, 16)
    assert (wide[0], wide[-1]) == (0, 65_535)
    np.testing.assert_array_equal(of_depth(wide, 8), EVERY_8)


@pytest.mark.parametrize("depth", [8, 16])
def test_levels_of_that_depth_stay_as_they_are(depth: BitDepth) -> None:
    pixels = EVERY_8 if depth == 8 else EVERY_16
    assert of_depth(pixels, depth) is pixels
    assert bit_depth_of(pixels) == depth
