"""Images side by side, each where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from gan_core.grid import grid, scatter, to_pil


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels_decide_the_mode(channels: int, mode: str) -> None:
    assert to_pil(np.zeros((2, 3, channels), np.uint8)).mode == mode


@pytest.mark.parametrize(
    ("n", "columns", "size"),
    [(1, None, (6, 5)), (4, None, (10, 8)), (5, None, (14, 8)), (5, 5, (22, 5)), (5, 1, (6, 17))],
)
def test_the_size_follows_from_rows_and_columns(
    n: int, columns: int | None, size: tuple[int, int]
) -> None:
    # images of 1×2 px and gaps of 2 px: width 4·columns + 2, height 3·rows + 2
    assert grid(np.zeros((n, 1, 2, 1), np.uint8), columns).size == size


def test_each_image_lies_in_its_cell() -> None:
    images = np.arange(1, 5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    pixels = np.asarray(grid(images, columns=2, gap_px=1))
    assert [pixels[y, x] for y in (1, 4) for x in (1, 4)] == [1, 2, 3, 4]


def test_gaps_and_empty_cells_are_dark_grey() -> None:
    pixels = np.asarray(grid(np.full((3, 2, 2, 1), 255, np.uint8), columns=2, gap_px=1))
    assert [pixels[0, 0], pixels[3, 3], pixels[4, 4]] == [32, 32, 32]


def dots(*points: tuple[int, int]) -> list[tuple[int, int]]:
    """Row and column of what is bright."""
    pixels = np.asarray(scatter(np.array(points, np.uint8)))
    return [(int(row), int(column)) for row, column in np.argwhere(pixels == 255)]


@pytest.mark.parametrize(
    ("point", "place"), [((0, 0), (255, 0)), ((255, 255), (0, 255)), ((10, 30), (225, 10))]
)
def test_a_point_lies_at_x_to_the_right_and_y_upwards(
    point: tuple[int, int], place: tuple[int, int]
) -> None:
    assert dots(point) == [place]


def test_points_at_one_place_are_one_dot() -> None:
    assert len(dots((3, 4), (3, 4), (5, 6))) == 2


def test_a_scatter_is_256_px_square_and_dark_elsewhere() -> None:
    image = scatter(np.zeros((0, 2), np.uint8))
    assert (image.size, image.getextrema()) == ((256, 256), (32, 32))
