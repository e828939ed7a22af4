"""What libvips doesn't tell of a TIFF: what its samples mean, and how they lie in the file."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmap import mmap

__all__ = ["has_plain_colours", "reads_downwards"]

BIG = 43
MAX_ENTRIES = 1 << 12
NUMBERS = {3: "H", 4: "I", 16: "Q"}
COMPRESSION, PHOTOMETRIC, ROWS_PER_STRIP, PLANAR, TILE_HEIGHT = 259, 262, 278, 284, 323
JPEG, YCBCR, APART = 7, 6, 2
MAX_ROWS = 512
"""Of a strip or tile, which may be decoded whole for its first row."""


def has_plain_colours(data: bytes | mmap) -> bool:
    """Whether its samples are colours as they are; YCbCr becomes some by JPEG's decoder alone.

    Raises:
        ValueError: it is broken.
    """
    tags = _tags(data)
    return tags.get(PHOTOMETRIC) != YCBCR or tags.get(COMPRESSION) == JPEG


def reads_downwards(data: bytes | mmap) -> bool:
    """Whether few rows are decoded for one.

    Raises:
        ValueError: it is broken.
    """
    tags = _tags(data)
    tall = tags.get(TILE_HEIGHT, 0) > MAX_ROWS
    if TILE_HEIGHT not in tags and (tags.get(PLANAR) == APART or tags.get(PHOTOMETRIC) == YCBCR):
        tall = tags.get(ROWS_PER_STRIP, 1 << 32) > MAX_ROWS  # others' rows come one by one
    return not tall


def _tags(data: bytes | mmap) -> dict[int, int]:
    """The first picture's, of one number each."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == BIG
    start, number, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    found = {}
    try:
        (at,) = struct.unpack_from(order + start, data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + number, data, at)
        at += struct.calcsize(order + number)
        for _ in range(min(entries, MAX_ENTRIES)):
            tag, kind, count = struct.unpack_from(order + entry, data, at)
            at += struct.calcsize(order + entry)
            if count == 1 and kind in NUMBERS:
                (found[tag],) = struct.unpack_from(order + NUMBERS[kind], data, at)
            at += 8 if big else 4
    except struct.error as error:
        raise ValueError("image: a broken TIFF: it ends within its tags") from error
    return found
