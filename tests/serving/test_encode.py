"""Pixels to PNG and back."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gan_client.images import decoded
from gan_serving.encode import png


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_png_holds_the_very_pixels(channels: int, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    file = png(pixels)
    np.testing.assert_array_equal(decoded(file), pixels)
    assert Image.open(io.BytesIO(file)).mode == mode


def test_a_picture_of_one_pixel_is_encoded() -> None:
    assert decoded(png(np.full((1, 1, 1), 7, np.uint8))).tolist() == [[[7]]]
