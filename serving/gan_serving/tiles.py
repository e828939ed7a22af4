"""Pictures of any size as tiles of one size: those of all users and sizes share the batches.

A tile overlaps its neighbours by the model's halo, so that what is kept of it is what the whole
picture would have given, to a quarter of an 8-bit level. Beyond its edges a picture goes on with
its last pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Any

import numpy as np

from gan_core.errors import InternalError
from gan_core.levels import DTYPES, bit_depth_of, of_depth

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gan_core.levels import BitDepth

__all__ = ["ALPHA_REACH_PX", "Band", "Tiling"]

ALPHA_REACH_PX = 4
"""Bicubic enlargement looks two pixels far, and alpha is enlarged with the rows that are there."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a picture is cut.

    Args:
        height, width: of the picture, in px.
        side: of a tile, in px.
        halo: px on each side of a tile that aren't kept.
        scale: output px per input px.
    """

    height: int
    width: int
    side: int
    halo: int
    scale: int

    @property
    def kept(self) -> int:
        """Px of a tile's side that are kept."""
        return self.side - 2 * self.halo

    @property
    def across(self) -> int:
        """Tiles beside each other."""
        return -(-self.width // self.kept)

    def bands(self, tiles: int) -> Iterator[Band]:
        """The picture from top to bottom, in bands of about so many tiles."""
        rows = max(1, tiles // self.across) * self.kept
        for top in range(0, self.height, rows):
            yield Band(self, top, min(top + rows, self.height))


@dataclass(frozen=True, slots=True)
class Band:
    """Whole rows of tiles.

    Args:
        of: the picture's tiling.
        top, bottom: its rows, in px of the picture.
    """

    of: Tiling
    top: int
    bottom: int

    @property
    def above(self) -> int:
        """The first row of the picture that it looks at."""
        return max(0, self.top - max(self.of.halo, ALPHA_REACH_PX))

    @property
    def below(self) -> int:
        """The row of the picture after the last that it looks at."""
        return min(self.of.height, self.bottom + max(self.of.halo, ALPHA_REACH_PX))

    @property
    def tiles(self) -> int:
        """How many there are."""
        return -(-(self.bottom - self.top) // self.of.kept) * self.of.across

    def cut(self, pixels: NDArray[Any], first: int = 0, last: int | None = None) -> NDArray[Any]:
        """Tiles [n, side, side, C] of the rows from ``above`` to ``below``, row by row.

        From the ``first`` to before the ``last``, or the end.
        """
        of = self.of
        offsets = np.arange(of.side) - of.halo
        rows, columns = self._places()
        down = np.clip(rows[:, None] + offsets, 0, of.height - 1) - self.above
        across = np.clip(columns[:, None] + offsets, 0, of.width - 1)
        chosen = islice(product(down, across), first, last)
        return np.stack([pixels[np.ix_(y, x)] for y, x in chosen])

    def empty(self, channels: int, bit_depth: BitDepth) -> NDArray[Any]:
        """Room for what becomes of it, [scale·h, scale·w, C]."""
        scale = self.of.scale
        shape = (scale * (self.bottom - self.top), scale * self.of.width, channels)
        return np.empty(shape, DTYPES[bit_depth])

    def place(self, tiles: NDArray[Any], first: int, image: NDArray[Any]) -> None:
        """Put what became of tiles, from the ``first`` on, where they belong, in its levels.

        Raises:
            InternalError: they haven't grown by the scale.
        """
        of, scale = self.of, self.of.scale
        if tiles.shape[1:3] != (scale * of.side, scale * of.side):
            raise InternalError(f"tiles of {of.side} px have become {tiles.shape[1:3]}")
        rows, columns = self._places()
        begin, depth = scale * of.halo, bit_depth_of(image)
        for index, tile in enumerate(tiles, first):
            y, x = rows[index // of.across], columns[index % of.across]
            height = scale * (min(y + of.kept, self.bottom) - y)
            width = scale * (min(x + of.kept, of.width) - x)
            top, left = scale * (y - self.top), scale * x
            kept = tile[begin : begin + height, begin : begin + width]
            image[top : top + height, left : left + width] = of_depth(kept, depth)

    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = np.arange(self.top, self.bottom, self.of.kept)
        return rows, np.arange(0, self.of.width, self.of.kept)
