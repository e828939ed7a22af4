"""What a client gets back: pixels, pictures, files and grids."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_client import GeneratedImage, ImageBatch
from gan_client.images import decoded


def batch(n: int = 3, channels: int = 3, *, seeds: bool = True) -> ImageBatch:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 4, 6, channels), dtype=np.uint8)
    images = tuple(GeneratedImage(one, 7 + i if seeds else None) for i, one in enumerate(pixels))
    return ImageBatch(images, "marked", 2)


def test_a_batch_is_a_sequence_of_its_images() -> None:
    found = batch()
    assert len(found) == 3
    assert [image.seed for image in found] == found.seeds == [7, 8, 9]
    assert found[-1] is found.images[2]
    assert found[1:] == found.images[1:]


def test_all_pixels_come_as_one_array() -> None:
    found = batch()
    assert found.numpy().shape == (3, 4, 6, 3)
    np.testing.assert_array_equal(found.numpy()[1], found[1].numpy())


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_an_image_comes_as_pillows(channels: int, mode: str) -> None:
    picture = batch(channels=channels)[0].pil()
    assert (picture.mode, picture.size) == (mode, (6, 4))


def test_files_are_named_by_model_and_seed(tmp_path: Path) -> None:
    paths = batch().save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["marked-7.png", "marked-8.png", "marked-9.png"]


def test_without_seeds_files_are_numbered(tmp_path: Path) -> None:
    paths = batch(seeds=False).save(tmp_path)
    assert [path.name for path in paths] == [f"marked-{i:04d}.png" for i in range(3)]


def test_a_saved_png_holds_the_very_pixels(tmp_path: Path) -> None:
    found = batch()
    (path, *_) = found.save(tmp_path)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), found[0].numpy())


@pytest.mark.parametrize(
    ("n", "columns", "size"),
    [(4, None, (18, 14)), (3, None, (18, 14)), (3, 3, (26, 8)), (1, 5, (42, 8))],
)
def test_a_grid_is_about_a_square_unless_columns_are_given(
    n: int, columns: int | None, size: tuple[int, int]
) -> None:
    assert batch(n).grid(columns).size == size


def test_a_batch_shows_its_size_and_not_its_pixels() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    batch = ImageBatch((GeneratedImage(pixels, 7),) * 2, "digits", 3)
    assert repr(batch) == "ImageBatch(2 of 4×6×3, 'digits' version 3)"
    assert repr(batch[0]) == "GeneratedImage(4×6×3, seed 7)"


def test_an_answer_that_is_no_png_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "GIF")
    with pytest.raises(ValueError, match="not a PNG"):
        decoded(buffer.getvalue())
