"""What a TIFF's tags say of how it is read."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import pyvips

from gan_serving.tiff import has_plain_colours, reads_downwards


def directory(order: str, tags: dict[int, int], *, big: bool) -> bytes:
    """A TIFF of nothing but tags."""
    version, start, number, entry = (43, "HHQ", "Q", "HHQQ") if big else (42, "I", "H", "HHII")
    places = (8, 0, 16) if big else (8,)
    file = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", version)
    file += struct.pack(order + start, *places) + struct.pack(order + number, len(tags))
    kind = 16 if big else 4
    return file + b"".join(struct.pack(order + entry, tag, kind, 1, tags[tag]) for tag in tags)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("tags", "downwards", "plain"),
    [
        ({}, True, True),
        ({278: 4000}, True, True),  # one strip of chunky samples comes row by row
        ({284: 2}, False, True),
        ({284: 2, 278: 8}, True, True),
        ({284: 2, 278: 513}, False, True),
        ({323: 512}, True, True),
        ({323: 528}, False, True),
        ({284: 2, 323: 64}, True, True),
        ({262: 6}, False, False),
        ({262: 6, 259: 7, 278: 16}, True, True),
        ({262: 6, 259: 5, 278: 16}, True, False),
    ],
)
def test_tags_tell(
    order: str, tags: dict[int, int], *, big: bool, downwards: bool, plain: bool
) -> None:
    file = directory(order, tags, big=big)
    assert reads_downwards(file) is downwards
    assert has_plain_colours(file) is plain


@pytest.mark.parametrize("bigtiff", [False, True])
def test_libvips_own_files_are_understood(bigtiff: bool) -> None:
    image: Any = pyvips.Image.new_from_array(np.zeros((600, 64, 3), np.uint8))
    assert reads_downwards(image.tiffsave_buffer(bigtiff=bigtiff))
    tiles = {"tile": True, "tile_width": 64}
    assert reads_downwards(image.tiffsave_buffer(bigtiff=bigtiff, tile_height=64, **tiles))
    assert not reads_downwards(image.tiffsave_buffer(bigtiff=bigtiff, tile_height=528, **tiles))


@pytest.mark.parametrize("at", [4, 7, 8, 9, 10, 12, 20, 31])
def test_a_file_that_ends_within_its_tags_is_broken(at: int) -> None:
    file = directory("<", {259: 1, 262: 2}, big=False)
    with pytest.raises(ValueError, match="ends within its tags"):
        reads_downwards(file[:at])
