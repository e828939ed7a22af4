"""The built-in sets: every kind of file that a folder may hold, and torchvision without a net."""

from __future__ import annotations

import gzip
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from gan_core.data import Images, fingerprint, open_data
from gan_core.datasets import DATASETS, FORMATS, SUFFIXES, cache_dir, decode
from gan_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gan_core.plugins import Plugins

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nothing in it."""
    path = tmp_path_factory.mktemp("empty_cache")
    monkeypatch.setenv("GANFORGE_CACHE", str(path))
    return path


@pytest.fixture
def open_folder(plugins: Plugins, cache: Path) -> Callable[..., Images]:
    def opened(path: Path, side_px: int | None = 8) -> Images:
        return open_data(f"folder:{path}", side_px, plugins)[1]

    return opened


def flat(color: int | tuple[int, ...] = RED, side: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB" if isinstance(color, tuple) else "L", side, color)


def sixteen_bit_rgb(path: Path, levels: tuple[int, int, int]) -> None:
    """A 16-bit RGB PNG, which Pillow can't write."""
    row = b"\0" + struct.pack(">3H", *levels) * 8
    chunks = [
        (b"IHDR", struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * 8)),
        (b"IEND", b""),
    ]
    packed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def pixel(path: Path, channels: int = 3, at: tuple[int, int] = (4, 4)) -> list[int]:
    return decode(path, 8, channels)[:, at[0], at[1]].tolist()  # type: ignore[no-any-return]


def test_grey_is_one_channel(tmp_path: Path) -> None:
    flat(77).save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png", channels=1) == [77]


def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path: Path) -> None:
    levels = np.full((8, 8), 200 * 257, np.uint16)
    levels[4, 4] = 65535
    Image.fromarray(levels).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    assert (pixel(path, 1), pixel(path, 1, at=(0, 0))) == ([255], [200])


def test_sixteen_bit_rgb_is_scaled_to_eight(tmp_path: Path) -> None:
    sixteen_bit_rgb(tmp_path / "a.png", (200 * 257, 0, 65535))
    assert pixel(tmp_path / "a.png") == [200, 0, 255]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert pixel(tmp_path / "a.jpg") == pytest.approx(RED, abs=3)  # JPEG is lossy


def test_a_transparent_palette_entry_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((4, 4), 1)
    image.save(tmp_path / "a.png", transparency=1)
    path = tmp_path / "a.png"
    assert (pixel(path), pixel(path, at=(0, 0))) == (list(WHITE), list(RED))


def test_half_transparent_red_lies_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (*RED, 128)).save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png") == pytest.approx([255, 127, 127], abs=1)


def test_an_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = flat(WHITE)
    image.paste((0, 0, 0), (0, 0, 8, 4))  # the top half is black
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90° clockwise to be upright: top becomes right
    image.save(tmp_path / "a.png", exif=exif)
    path = tmp_path / "a.png"
    assert (pixel(path, at=(4, 6)), pixel(path, at=(4, 1))) == ([0, 0, 0], list(WHITE))


def test_an_oblong_image_keeps_its_centre(tmp_path: Path) -> None:
    image = flat(WHITE, (24, 8))
    image.paste(RED, (8, 0, 16, 8))
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 8, 3), _solid(RED))


def _solid(color: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.broadcast_to(np.array(color, np.uint8)[:, None, None], (3, 8, 8))


@pytest.mark.parametrize("side", [(1, 1), (3, 300), (1000, 17)])
def test_any_size_becomes_the_square_asked_for(tmp_path: Path, side: tuple[int, int]) -> None:
    flat(RED, side).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 16, 3).shape == (3, 16, 16)


def test_a_floating_point_image_is_refused_with_what_to_do(tmp_path: Path) -> None:
    Image.new("F", (8, 8), 0.5).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: floating-point .* save it as 8 or 16 bit"):
        decode(tmp_path / "a.tif", 8, 1)


def broken(folder: Path) -> set[str]:
    """Files that look like images and aren't; returns their names."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "cut.png")
    Image.fromarray(noise).save(folder / "cut.jpg")
    for name in ("cut.png", "cut.jpg"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "letter.png").write_text("Dear reader, this is a letter.")
    (folder / "noise.jpg").write_bytes(noise.tobytes()[:500])
    return {"cut.png", "cut.jpg", "empty.png", "letter.png", "noise.jpg"}


def test_every_broken_file_is_named_in_one_error(
    tmp_path: Path, open_folder: Callable[..., Images]
) -> None:
    names = broken(tmp_path)
    flat().save(tmp_path / "good.png")
    with pytest.raises(DataError, match="5 of 6 files can't be used") as caught:
        open_folder(tmp_path)
    assert {name for name in names | {"good.png"} if name in str(caught.value)} == names


def test_many_broken_files_are_counted_and_ten_named(
    tmp_path: Path, open_folder: Callable[..., Images]
) -> None:
    for i in range(13):
        (tmp_path / f"{i:02}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)13 of 13 .*09\.png.*and 3 more$"):
        open_folder(tmp_path)


def test_a_folder_with_broken_files_leaves_nothing_in_the_cache(
    tmp_path: Path, open_folder: Callable[..., Images], cache: Path
) -> None:
    broken(tmp_path)
    with pytest.raises(DataError):
        open_folder(tmp_path)
    assert [p for p in cache.rglob("*") if p.is_file()] == []


def test_kinds_of_image_can_be_mixed(tmp_path: Path, open_folder: Callable[..., Images]) -> None:
    flat().save(tmp_path / "a.png")
    flat(100).save(tmp_path / "b.png")
    Image.new("CMYK", (9, 30)).save(tmp_path / "c.jpg")
    Image.new("RGBA", (40, 11)).save(tmp_path / "d.webp")
    (tmp_path / "notes.txt").write_text("not an image, and not called one")
    assert open_folder(tmp_path).pixels.shape == (4, 3, 8, 8)


def test_a_grey_folder_has_one_channel(tmp_path: Path, open_folder: Callable[..., Images]) -> None:
    flat(1).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "b.png")
    assert open_folder(tmp_path).channels == 1


@pytest.mark.parametrize(("sides", "expected"), [((40, 100), 32), ((3, 9), 8), ((2000, 900), 256)])
def test_the_side_is_the_largest_power_of_two_that_all_have(
    tmp_path: Path, open_folder: Callable[..., Images], sides: tuple[int, int], expected: int
) -> None:
    for i, side in enumerate(sides):
        flat(RED, (side, 2 * side)).save(tmp_path / f"{i}.png")
    assert open_folder(tmp_path, None).resolution_px == expected


def classes(folder: Path) -> Path:
    for i, name in enumerate(("zebra", "ant")):
        for j in range(2):
            path = folder / name / "deeper" / f"{j}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            flat((i * 100, j * 10, 0)).save(path)
    return folder


def test_subfolders_are_classes_in_alphabetical_order(
    tmp_path: Path, open_folder: Callable[..., Images]
) -> None:
    images = open_folder(classes(tmp_path))
    assert images.labels is not None
    assert (images.classes, images.labels.tolist()) == (("ant", "zebra"), [0, 0, 1, 1])


def test_a_label_belongs_to_its_image(tmp_path: Path, open_folder: Callable[..., Images]) -> None:
    images = open_folder(classes(tmp_path))
    assert images.labels is not None
    reds = images.pixels[:, 0, 0, 0]  # ants are 100, zebras 0
    assert [(int(red), int(label)) for red, label in zip(reds, images.labels, strict=True)] == [
        *[(100, 0)] * 2,
        *[(0, 1)] * 2,
    ]


def test_a_class_without_images_is_named(
    tmp_path: Path, open_folder: Callable[..., Images]
) -> None:
    (classes(tmp_path) / "bee").mkdir()
    with pytest.raises(DataError, match=r"has a folder of a class, 'bee', without any image"):
        open_folder(tmp_path)


def test_a_hidden_folder_is_no_class(tmp_path: Path, open_folder: Callable[..., Images]) -> None:
    (classes(tmp_path) / ".thumbnails").mkdir()
    assert open_folder(tmp_path).classes == ("ant", "zebra")


def test_a_link_to_nothing_is_named(tmp_path: Path, open_folder: Callable[..., Images]) -> None:
    (classes(tmp_path) / "ant" / "lost.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"lost\.png is a link to nothing \(1 of 5 files\)"):
        open_folder(tmp_path)


def test_a_path_alone_is_told_how_to_write_it(tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(DataError, match=f"is a folder: write folder:{tmp_path}"):
        open_data(str(tmp_path), None, plugins)


def test_a_flat_folder_has_no_labels(tmp_path: Path, open_folder: Callable[..., Images]) -> None:
    flat().save(tmp_path / "a.png")
    images = open_folder(tmp_path)
    assert (images.labels, images.classes) == (None, ())


def test_a_folder_with_images_inside_and_beside_classes_is_refused(
    tmp_path: Path, open_folder: Callable[..., Images]
) -> None:
    flat().save(classes(tmp_path) / "stray.png")
    with pytest.raises(DataError, match="images both itself and in subfolders"):
        open_folder(tmp_path)


def test_a_folder_without_images_is_refused(
    tmp_path: Path, open_folder: Callable[..., Images]
) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"holds no image: accepted are \.bmp, \.jpeg, "):
        open_folder(tmp_path)


@pytest.mark.parametrize("argument", ["", "/no/such/folder"])
def test_what_is_no_folder_is_refused(plugins: Plugins, argument: str) -> None:
    with pytest.raises(DataError, match=f"{argument!r} is not a folder: write folder:PATH"):
        open_data(f"folder:{argument}", None, plugins)


def test_the_second_opening_reads_the_cache_and_is_equal(
    tmp_path: Path, open_folder: Callable[..., Images], cache: Path
) -> None:
    first = open_folder(classes(tmp_path))
    (cached,) = (cache / "folders").glob("*.npy")
    written = cached.stat().st_mtime_ns
    second = open_folder(tmp_path)
    assert (second.source, cached.stat().st_mtime_ns) == (first.source, written)
    np.testing.assert_array_equal(first.pixels, second.pixels)


def test_a_changed_file_is_decoded_anew(tmp_path: Path, open_folder: Callable[..., Images]) -> None:
    flat().save(tmp_path / "a.png")
    before = open_folder(tmp_path)
    flat(WHITE, (9, 9)).save(tmp_path / "a.png")
    after = open_folder(tmp_path)
    assert after.source.fingerprint != before.source.fingerprint
    assert after.pixels[0, :, 0, 0].tolist() == list(WHITE)


def test_the_same_pictures_elsewhere_have_the_same_fingerprint(
    tmp_path: Path, open_folder: Callable[..., Images]
) -> None:
    import shutil

    flat().save((tmp_path / "one").with_suffix(".png"))
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        shutil.copy2(tmp_path / "one.png", tmp_path / name)
    here, there = (open_folder(tmp_path / name) for name in ("here", "there"))
    assert here.source.fingerprint == there.source.fingerprint


def test_touching_a_file_leaves_the_fingerprint(
    tmp_path: Path, open_folder: Callable[..., Images]
) -> None:
    first = open_folder(classes(tmp_path))
    os.utime(tmp_path / "ant" / "deeper" / "0.png", (1, 1))
    assert open_folder(tmp_path).source == first.source


def test_a_folders_fingerprint_is_that_of_its_pixels_and_labels(
    tmp_path: Path, open_folder: Callable[..., Images]
) -> None:
    images = open_folder(classes(tmp_path))
    assert images.source.fingerprint == fingerprint(images.pixels, images.labels)


def test_half_written_files_of_killed_processes_are_removed(
    tmp_path: Path, open_folder: Callable[..., Images], cache: Path
) -> None:
    (cache / "folders").mkdir()
    abandoned, alive = (cache / "folders" / name for name in ("a.1.tmp", "b.2.tmp"))
    for path in (abandoned, alive):
        path.touch()
    os.utime(abandoned, (1, 1))
    flat().save(tmp_path / "a.png")
    open_folder(tmp_path)
    assert list((cache / "folders").glob("*.tmp")) == [alive]


def test_a_file_of_another_format_is_refused_whatever_its_suffix(tmp_path: Path) -> None:
    flat().save(tmp_path / "a.ppm")
    (tmp_path / "a.ppm").rename(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: cannot identify"):
        decode(tmp_path / "a.png", 8, 3)


def test_every_suffix_has_its_format() -> None:
    formats = {Image.registered_extensions()[suffix] for suffix in SUFFIXES}
    assert formats == set(FORMATS)


def test_a_cache_that_cannot_be_written_is_one_error(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat().save(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="can't cache decoded images in "):
        open_data(f"folder:{tmp_path}", 8, plugins)


def test_digits_are_scikit_learns(plugins: Plugins) -> None:
    _, images = open_data("digits", 8, plugins)
    assert images.labels is not None
    # the first is the 0 of the documentation, of 16 levels
    assert images.pixels[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert (len(images), images.labels[:10].tolist()) == (1797, list(range(10)))


@pytest.mark.parametrize("side_px", [8, 16, 32])
def test_digits_come_in_the_side_asked_for(plugins: Plugins, side_px: int) -> None:
    assert open_data("digits", side_px, plugins)[1].pixels.shape == (1797, 1, side_px, side_px)


def test_digits_are_32_px_unless_asked_otherwise(plugins: Plugins) -> None:
    assert open_data("digits", None, plugins)[1].resolution_px == 32


def idx(path: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """MNIST's file format."""
    header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + values.tobytes())


def test_a_torchvision_set_that_is_there_needs_no_network(plugins: Plugins, cache: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    labels = np.array([9, 0, 3, 3], np.uint8)
    raw = cache / "torchvision" / "FashionMNIST" / "raw"
    for part in ("train", "t10k"):
        idx(raw / f"{part}-images-idx3-ubyte", pixels)
        idx(raw / f"{part}-labels-idx1-ubyte", labels)
    _, images = open_data("fashion_mnist", 28, plugins)
    assert images.labels is not None
    np.testing.assert_array_equal(images.pixels[:, 0], pixels)
    assert [images.classes[i] for i in images.labels] == [
        "Ankle boot",
        "T-shirt/top",
        *["Dress"] * 2,
    ]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100"])
def test_a_torchvision_set_without_a_network_is_one_clear_error(
    plugins: Plugins, cache: Path, name: str
) -> None:
    with pytest.raises(DataError, match=f"{name} can't be downloaded to {cache}") as caught:
        open_data(name, None, plugins)
    assert "\n" not in str(caught.value)


def test_a_damaged_download_is_one_clear_error(plugins: Plugins, cache: Path) -> None:
    raw = cache / "torchvision" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").write_bytes(gzip.compress(b"")[:10])
    with pytest.raises(DataError, match="fashion_mnist"):
        open_data("fashion_mnist", None, plugins)


def test_a_broken_torchvision_is_one_clear_error(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match="mnist needs a torchvision that matches torch"):
        open_data("mnist", None, plugins)


def test_every_set_has_a_summary_for_listings() -> None:
    assert [dataset.name for dataset in DATASETS if not dataset.summary] == []


def test_the_cache_follows_the_desktops_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GANFORGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/ganforge")
