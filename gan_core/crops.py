"""Training sets of photographs: crops at random places, of photographs of any size.

Photographs are decoded once, one after the other, into one file in the user's cache that is mapped
into memory. What comes at a position is a function of (seed, position) alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from .assets import path_of
from .card import DataSource
from .data import Batch, Dataset
from .datasets import cache_dir, image_files, read_image, refuse, remove_abandoned, version_of
from .errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DATASETS", "Crops", "read_photograph"]

SIDE_PX = 96
"""Of a crop, where none is asked for: SRGAN's (Ledig et al. 2017, §3.2)."""
HELD_OUT = 10
"""Every so many-th photograph of a folder is kept for scores."""
REDUCTIONS = ((8_000_000, 3), (1_000_000, 2))
"""JPEGs of more pixels are reduced by so much: what compression leaves is gone then."""
TOGETHER = 8
"""Photographs decoded at once."""


def read_photograph(path: Path) -> NDArray[np.uint8]:
    """A photograph as uint8 [H, W, 3]; a JPEG above 1 megapixel at a half, above 8 at a third.

    Raises:
        DataError: the file isn't a readable image; the message names it.
    """
    image = read_image(path).convert("RGB")
    if path.suffix.lower() in {".jpg", ".jpeg"}:
        pixels = image.width * image.height
        factor = next((factor for above, factor in REDUCTIONS if pixels > above), 1)
        size = image.width // factor, image.height // factor
        image = image.resize(size, Image.Resampling.LANCZOS) if factor > 1 else image
    return np.asarray(image, np.uint8)


@dataclass(frozen=True)
class Crops:
    """Crops of photographs, at random places, flipped and turned at random."""

    photographs: Sequence[NDArray[np.uint8]]
    """Each [3, H, W]."""
    source: DataSource
    resolution_px: int = SIDE_PX
    held_out: tuple[Path, ...] = ()
    """Photographs that no crop comes from, for scores."""
    channels: int = 3
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many crops lie side by side in all photographs."""
        side = self.resolution_px
        return sum((p.shape[1] // side) * (p.shape[2] // side) for p in self.photographs)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """The number of each photograph's first place of a crop, and at last how many there are."""
        side = self.resolution_px
        free = ((p.shape[1] - side + 1) * (p.shape[2] - side + 1) for p in self.photographs)
        return np.array([*accumulate(free, initial=0)], np.int64)

    def batches(
        self, batch_size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Endless batches from position ``start`` on; every place is as likely as any other."""
        position = start + rank * batch_size
        while True:
            yield Batch(torch.from_numpy(self._cropped(_drawn(seed, position, batch_size))))
            position += batch_size * world

    def _cropped(self, drawn: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """uint8 [N, 3, side, side] of what was drawn, [N, 2]."""
        side = self.resolution_px
        places = (drawn[:, 0] % np.uint64(self._places[-1])).astype(np.int64)
        chosen = np.searchsorted(self._places, places, side="right") - 1
        crops = np.empty((len(drawn), 3, side, side), np.uint8)
        for crop, place, which, turn in zip(crops, places, chosen, drawn[:, 1] % 8, strict=True):
            photograph = self.photographs[which]
            y, x = divmod(place - self._places[which], photograph.shape[2] - side + 1)
            crop[:] = _turned(photograph[:, y : y + side, x : x + side], int(turn))
        return crops


def _drawn(seed: int, position: int, n: int) -> NDArray[np.uint64]:
    """Two random words for each position [n, 2]: a counter-based generator makes any at once."""
    words = np.random.Philox(key=[seed, 0], counter=[position, 0, 0, 0]).random_raw(4 * n)
    pairs: NDArray[np.uint64] = words.reshape(n, 4)[:, :2]
    return pairs


def _turned(crop: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """One of the eight ways in which a square [C, side, side] comes to lie on itself."""
    flipped = crop[:, :, ::-1] if turn & 1 else crop
    flipped = flipped[:, ::-1] if turn & 2 else flipped
    return flipped.transpose(0, 2, 1) if turn & 4 else flipped


def _open_crops(argument: str, side_px: int | None) -> Crops:
    if not argument:
        raise DataError("'' is not a folder: write crops:PATH")
    root = Path(argument).expanduser()
    paths = image_files(root)
    held_out = paths[HELD_OUT - 1 :: HELD_OUT]
    trained = [path for path in paths if path not in set(held_out)]
    return _opened(f"crops:{root.name}", root, trained, tuple(held_out), side_px)


def _open_photos(argument: str, side_px: int | None) -> Crops:
    if argument:
        raise DataError(f"dataset 'photos' takes no argument, not {argument!r}")
    try:
        root = path_of("photos")
    except ConfigError as error:
        raise DataError(str(error)) from error
    held_out = tuple(image_files(root / "test"))
    return _opened("photos", root / "train", image_files(root / "train"), held_out, side_px)


def _opened(
    name: str, root: Path, paths: list[Path], held_out: tuple[Path, ...], side_px: int | None
) -> Crops:
    side = side_px or SIDE_PX
    photographs, digest = _decoded(root, paths)
    small = [
        f"{path}: {height}×{width} px, less than a crop of {side}"
        for path, (_, height, width) in zip(paths, (p.shape for p in photographs), strict=True)
        if min(height, width) < side
    ]
    refuse(small, len(paths))
    licence = "see LICENCES" if name == "photos" else "unknown"
    source = DataSource(name=name, fingerprint=digest, licence=licence)
    return Crops(photographs, source, side, held_out)


def _decoded(root: Path, paths: Sequence[Path]) -> tuple[list[NDArray[np.uint8]], str]:
    """Every photograph, [3, H, W], and the sha256 of all; from the cache unless a file changed."""
    folder = cache_dir() / "crops"
    index = folder / f"{version_of(root, paths, f'1 {REDUCTIONS}')}.json"
    cached = index.with_suffix(".u8")
    if not index.exists():
        temporary = index.with_suffix(f".{os.getpid()}.tmp")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_abandoned(folder)
            about = _decode_into(temporary, paths)
            temporary.replace(cached)
            temporary.write_text(json.dumps(about))
            temporary.replace(index)  # last, so that it never lies there without the pixels
        except OSError as error:
            raise DataError(f"can't cache decoded photographs in {folder}: {error}") from error
        finally:
            with suppress(OSError):
                temporary.unlink()
    about = json.loads(index.read_text())
    pixels = np.memmap(cached, np.uint8, mode="r")
    ends = list(accumulate(height * width * 3 for _, height, width in about["shapes"]))
    parts = np.split(pixels, ends[:-1])
    shaped = [part.reshape(shape) for part, shape in zip(parts, about["shapes"], strict=True)]
    return shaped, about["sha256"]


def _decode_into(target: Path, paths: Sequence[Path]) -> dict[str, object]:
    """Write pixels one photograph after the other; returns their shapes and sha256."""
    shapes, bad, digest = [], [], hashlib.sha256()
    with target.open("wb") as file:
        for found in track(
            _read_all(paths), "decoding photographs", total=len(paths), transient=True
        ):
            if isinstance(found, DataError):
                bad.append(str(found))
                continue
            planes = np.ascontiguousarray(found.transpose(2, 0, 1))
            shapes.append(planes.shape)
            digest.update(repr(planes.shape).encode())
            digest.update(planes.data)
            file.write(planes.data)
    refuse(bad, len(paths))
    return {"shapes": shapes, "sha256": digest.hexdigest()}


def _read_all(paths: Sequence[Path]) -> Iterator[NDArray[np.uint8] | DataError]:
    """Each photograph, or what is wrong with it; a few are in memory at once."""

    def attempt(path: Path) -> NDArray[np.uint8] | DataError:
        try:
            return read_photograph(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor(TOGETHER) as pool:
        for start in range(0, len(paths), TOGETHER):
            yield from pool.map(attempt, paths[start : start + TOGETHER])


DATASETS = (
    Dataset("crops", "crops:PATH, of photographs of any size: for upscalers", _open_crops),
    Dataset("photos", "crops of 36 photographs: 'ganforge data fetch photos'", _open_photos),
)
