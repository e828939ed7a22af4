"""Crops of photographs: what comes at a position, the cache, and what is held out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from gan_core import crops
from gan_core.card import DataSource
from gan_core.crops import Crops, read_photograph
from gan_core.data import open_data, open_training
from gan_core.errors import DataError
from gan_core.plugins import Plugins
from gan_core.workflow import absolute

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE_PX = 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def plugins() -> Plugins:
    return Plugins()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty photographs of 9 to 28 px by 40, in two subfolders."""
    generator = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / "photographs" / f"sub{i % 2}" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (9 + i, 40, 3), np.uint8)).save(path)
    return tmp_path / "photographs"


def placed(*sides: tuple[int, int]) -> Crops:
    """Photographs whose pixels say where they are: (which, y, x)."""
    made = [
        np.stack([np.full((h, w), i), *np.mgrid[:h, :w]]).astype(np.uint8)
        for i, (h, w) in enumerate(sides)
    ]
    return Crops(made, DataSource(name="placed", fingerprint="0"), SIDE_PX)


def seen(data: Crops, n: int, size: int = 50, **where: int) -> NDArray[np.uint8]:
    batches = data.batches(size, seed=3, **where)
    found: NDArray[np.uint8] = np.concatenate([next(batches).real.numpy() for _ in range(n)])
    return found


def test_what_comes_at_a_position_does_not_depend_on_where_one_began() -> None:
    data = placed((20, 30), (15, 9))
    np.testing.assert_array_equal(seen(data, 3)[70:150], seen(data, 1, size=80, start=70))


def test_ranks_share_the_positions_of_one() -> None:
    data = placed((20, 30), (15, 9))
    alone = seen(data, 2, size=40)
    ranks = [seen(data, 2, size=20, rank=rank, world=2) for rank in (0, 1)]
    together = np.concatenate([ranks[0][:20], ranks[1][:20], ranks[0][20:], ranks[1][20:]])
    np.testing.assert_array_equal(alone, together)


def test_another_seed_gives_other_crops() -> None:
    data = placed((20, 30))
    first, second = (next(data.batches(20, seed=seed)).real for seed in (0, 1))
    assert not first.equal(second)


def test_every_place_and_every_turn_comes_alike() -> None:
    """A photograph of 6 places and one of 2: 8 places × 8 turns, of 64 000 crops 1000 each."""
    data = placed((9, 10), (8, 9))
    corners = seen(data, 1, size=64_000)[:, :, [0, 0, -1], [0, -1, 0]].reshape(-1, 9)
    _, counts = np.unique(corners, axis=0, return_counts=True)
    assert len(counts) == 64
    assert np.abs(counts - 1000).max() < 5 * 1000**0.5


def test_a_crop_is_a_square_of_its_photograph() -> None:
    for crop in seen(placed((20, 30), (15, 9)), 1).astype(int):
        steps = sorted(np.ptp(crop, axis=axes).max() for axes in ((0,), (1,), (2,)))
        assert steps[0] >= 0
        assert np.ptp(crop[0]) == 0
        assert (np.ptp(crop[1]), np.ptp(crop[2])) == (SIDE_PX - 1, SIDE_PX - 1)


def test_a_folder_trains_on_all_but_every_tenth_photograph(folder: Path, plugins: Plugins) -> None:
    _, data = open_training(f"crops:{folder}", SIDE_PX, plugins)
    assert isinstance(data, Crops)
    assert [path.name for path in data.held_out] == ["18.png", "19.png"]
    kept = {path.name: read_photograph(path).transpose(2, 0, 1) for path in data.held_out}
    assert len(data.photographs) == 18
    assert not any(
        pixels.shape == held.shape and (pixels == held).all()
        for pixels in data.photographs
        for held in kept.values()
    )
    assert (data.channels, data.classes, data.resolution_px) == (3, (), SIDE_PX)
    assert len(data) == 5 * sum((9 + i) // SIDE_PX for i in range(18))
    assert data.source.name == "crops:photographs"


def test_photographs_are_decoded_once(
    folder: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = open_training(f"crops:{folder}", SIDE_PX, plugins)
    monkeypatch.setattr(crops, "read_image", None)
    _, second = open_training(f"crops:{folder}", SIDE_PX, plugins)
    assert first.source == second.source
    assert next(first.batches(9, seed=0)).real.equal(next(second.batches(9, seed=0)).real)


def test_a_changed_photograph_is_decoded_anew(folder: Path, plugins: Plugins) -> None:
    _, before = open_training(f"crops:{folder}", SIDE_PX, plugins)
    Image.new("RGB", (40, 40)).save(folder / "sub0" / "00.png")
    os.utime(folder / "sub0" / "00.png", ns=(1, 1))
    _, after = open_training(f"crops:{folder}", SIDE_PX, plugins)
    assert before.source.fingerprint != after.source.fingerprint


def test_photographs_smaller_than_a_crop_are_named(folder: Path, plugins: Plugins) -> None:
    with pytest.raises(DataError, match=r"2 of 18 files(?s:.*)00\.png: 9×40 px, less than .* 11"):
        open_training(f"crops:{folder}", 11, plugins)


def test_files_that_are_no_photographs_are_named_and_nothing_is_kept(
    folder: Path, plugins: Plugins, cache: Path
) -> None:
    (folder / "sub0" / "00.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"1 of 18 files can't be used(?s:.*)00\.png"):
        open_training(f"crops:{folder}", SIDE_PX, plugins)
    assert list((cache / "crops").iterdir()) == []


@pytest.mark.parametrize("side_px", [SIDE_PX, None])
def test_a_crop_is_of_96_px_unless_told_otherwise(
    tmp_path: Path, plugins: Plugins, side_px: int | None
) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "one.png")
    _, data = open_training(f"crops:{tmp_path}", side_px, plugins)
    assert data.resolution_px == (side_px or 96)
    assert next(data.batches(2, seed=0)).real.shape[-1] == (side_px or 96)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("a.jpg", (1000, 1000), (1000, 1000)),
        ("a.jpg", (1001, 1000), (500, 500)),
        ("a.jpeg", (4001, 2000), (1333, 666)),
        ("a.png", (1001, 1000), (1001, 1000)),
    ],
)
def test_large_jpegs_are_reduced(
    tmp_path: Path, name: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    Image.new("L", size).save(tmp_path / name)
    assert read_photograph(tmp_path / name).shape == (*expected[::-1], 3)


def test_photos_say_how_they_are_fetched(plugins: Plugins) -> None:
    with pytest.raises(DataError, match="'ganforge data fetch photos' brings it"):
        open_training("photos", None, plugins)


def test_crops_are_no_reference_set(folder: Path, plugins: Plugins) -> None:
    with pytest.raises(DataError, match="crops at random places, not whole images"):
        open_data(f"crops:{folder}", SIDE_PX, plugins)


def test_the_path_is_stored_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert absolute("crops:photographs") == f"crops:{folder}"
