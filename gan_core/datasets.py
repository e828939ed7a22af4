"""The built-in training sets: digits, folder:PATH, and torchvision's.

Each image set ends up as uint8 [N, C, H, W], square, decoded once. A folder is decoded into a
memory map in the user's cache, so that the second run opens it at once, and every file that
can't be read is named before training starts.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps
from rich.progress import track

from .card import DataSource
from .data import Dataset, Images, fingerprint
from .errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DATASETS",
    "cache_dir",
    "decode",
    "digits",
    "image_files",
    "read_image",
    "refuse",
    "remove_abandoned",
    "version_of",
]

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow's names of those: what else it reads, PostScript for one, is never tried."""
GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F"})
SIDES_PX = range(8, 1025)
ABANDONED_S = 24 * 3600


def cache_dir() -> Path:
    """Where decoded folders and downloads are kept: $GANFORGE_CACHE or ~/.cache/ganforge."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GANFORGE_CACHE") or Path(base) / "ganforge")


def decode(path: Path, side_px: int, channels: int) -> NDArray[np.uint8]:
    """One image as uint8 [channels, side_px, side_px].

    Read as ``read_image`` does, cropped to the centred square, resized with Lanczos.

    Raises:
        DataError: the file isn't a readable image; the message names it.
    """
    flat = read_image(path).convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(flat, (side_px, side_px), Image.Resampling.LANCZOS)
    array = np.asarray(fitted, dtype=np.uint8)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def read_image(path: Path) -> Image.Image:
    """An image file as 8-bit grey or RGB.

    Turned as its EXIF tag says, 16-bit scaled to 8, CMYK and palettes brought to RGB,
    transparency laid on white.

    Raises:
        DataError: the file isn't a readable image; the message names it.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            grey = opened.mode in GREY_MODES
            upright = ImageOps.exif_transpose(opened)
            return _opaque(_eight_bit(upright)).convert("L" if grey else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {error}") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(np.round(levels / 257), 0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point images have no defined range; save it as 8 or 16 bit")
    return image


def _opaque(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba)


def _open_digits(argument: str, side_px: int | None) -> Images:
    _no_argument("digits", argument)
    return digits(side_px or 32)


def digits(side_px: int = 32) -> Images:
    """1,797 scanned digits, grey, in ten classes."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    small = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    pixels = _resized(small[:, None], side_px)
    labels = bunch.target.astype(np.int64)
    source = DataSource(name="digits", fingerprint=fingerprint(pixels, labels), licence="CC-BY-4.0")
    return Images(pixels, source, labels, tuple("0123456789"))


def _open_folder(argument: str, side_px: int | None) -> Images:
    if not argument:
        raise DataError("'' is not a folder: write folder:PATH")
    root = Path(argument).expanduser()
    paths = image_files(root)
    labels, classes = _classes(root, paths)
    channels, shorter_px = _survey(paths)
    side = side_px or _power_of_two(min(max(shorter_px, SIDES_PX.start), 256))
    pixels, digest = _decoded(root, paths, labels, (channels, side, side))
    source = DataSource(name=f"folder:{root.name}", fingerprint=digest)
    return Images(pixels, source, labels, classes)


def image_files(root: Path) -> list[Path]:
    """Every image file below a folder, in the order of their names.

    Raises:
        DataError: it is no folder, holds none, or one is a link to nothing.
    """
    if not root.is_dir():
        raise DataError(f"{str(root)!r} is not a folder: write folder:PATH")
    named = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    if broken := [path for path in named if not path.exists()]:
        raise DataError(f"{broken[0]} is a link to nothing ({len(broken)} of {len(named)} files)")
    paths = [path for path in named if path.is_file()]
    if not paths:
        raise DataError(f"{root} holds no image: accepted are {', '.join(sorted(SUFFIXES))}")
    return paths


def _classes(root: Path, paths: Sequence[Path]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Labels from the first level of subfolders; none where images lie in the root itself."""
    parents = [path.relative_to(root).parts for path in paths]
    if any(len(parts) == 1 for parts in parents):
        if any(len(parts) > 1 for parts in parents):
            raise DataError(
                f"{root} holds images both itself and in subfolders: "
                "put all in class subfolders, or none"
            )
        return None, ()
    names = sorted({parts[0] for parts in parents})
    folders = {path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "."}
    if empty := sorted(folders - set(names)):
        raise DataError(f"{root} has a folder of a class, {empty[0]!r}, without any image")
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[parts[0]] for parts in parents], dtype=np.int64), tuple(names)


def _survey(paths: Sequence[Path]) -> tuple[int, int]:
    """(channels, shortest side in px) from the headers alone."""
    modes: Counter[str] = Counter()
    shorter_px = SIDES_PX.stop
    for header in _each(paths, _header, "reading headers"):
        if isinstance(header, DataError):
            continue  # named, with all others, when pixels are decoded
        mode, side = header
        modes[mode] += 1
        shorter_px = min(shorter_px, side)
    return (1 if modes.keys() <= GREY_MODES else 3), shorter_px


def _header(path: Path) -> tuple[str, int]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.mode, min(image.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {error}") from error


def _decoded(
    root: Path,
    paths: Sequence[Path],
    labels: NDArray[np.int64] | None,
    shape: tuple[int, int, int],
) -> tuple[NDArray[np.uint8], str]:
    """Pixels and their fingerprint, both from the cache where no file has changed."""
    cached = cache_dir() / "folders" / f"{version_of(root, paths, f'2 {shape}')}.npy"
    beside = cached.with_suffix(".sha256")
    if not cached.exists():
        temporary = cached.with_suffix(f".{os.getpid()}.tmp")
        note = cached.with_suffix(f".{os.getpid()}.sha256.tmp")
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(cached.parent)
            pixels = _decode_into(temporary, paths, shape)
            note.write_text(fingerprint(pixels, labels))
            note.replace(beside)  # first, so that pixels never lie there without it
            temporary.replace(cached)
        except OSError as error:
            raise DataError(f"can't cache decoded images in {cached.parent}: {error}") from error
        finally:
            for path in (temporary, note):
                with suppress(OSError):
                    path.unlink()
    return np.load(cached, mmap_mode="r"), beside.read_text()


def version_of(root: Path, paths: Sequence[Path], made: str) -> str:
    """sha256 over files' names, sizes and times, and over what is made of them."""
    digest = hashlib.sha256(made.encode())
    for path in paths:
        status = path.stat()
        digest.update(
            f"{path.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode()
        )
    return digest.hexdigest()


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed left half-written, so long ago that none still is."""
    for path in folder.glob("*.tmp"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - ABANDONED_S:
                path.unlink()


def _decode_into(
    target: Path, paths: Sequence[Path], shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    channels, side_px, _ = shape
    pixels = np.lib.format.open_memmap(
        target, mode="w+", dtype=np.uint8, shape=(len(paths), *shape)
    )
    bad: list[str] = []
    decoded = _each(paths, lambda path: decode(path, side_px, channels), "decoding images")
    for i, image in enumerate(decoded):
        if isinstance(image, DataError):
            bad.append(str(image))
        else:
            pixels[i] = image
    refuse(bad, len(paths))
    pixels.flush()
    return pixels


def refuse(bad: Sequence[str], n: int) -> None:
    """Name the files, of ``n``, that can't be used.

    Raises:
        DataError: there are any.
    """
    if bad:
        shown = "\n  ".join(bad[:10]) + (f"\n  and {len(bad) - 10} more" if bad[10:] else "")
        raise DataError(f"{len(bad)} of {n} files can't be used; mend or remove them:\n  {shown}")


def _each(paths: Sequence[Path], read: Any, description: str) -> Any:
    def attempt(path: Path) -> Any:
        try:
            return read(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor() as pool:
        results = pool.map(attempt, paths)
        yield from track(results, description, total=len(paths), transient=True)


def _torchvision(name: str, class_name: str) -> Dataset:
    def open_set(argument: str, side_px: int | None) -> Images:
        _no_argument(name, argument)
        try:
            from torchvision import datasets
        except (ImportError, OSError, RuntimeError) as error:
            raise DataError(f"{name} needs a torchvision that matches torch: {error}") from error
        root = cache_dir() / "torchvision"
        try:
            train = getattr(datasets, class_name)(root, train=True, download=True)
        except (AssertionError, EOFError, OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{name} can't be downloaded to {root}, or what is there is damaged: {reason}"
            ) from error
        array = np.asarray(train.data, dtype=np.uint8)
        planes = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)
        pixels = _resized(planes, side_px or 32)
        labels = np.asarray(train.targets, dtype=np.int64)
        source = DataSource(name=name, fingerprint=fingerprint(pixels, labels))
        return Images(pixels, source, labels, tuple(train.classes))

    return Dataset(name, f"torchvision's {class_name}, downloaded on first use", open_set)


def _resized(pixels: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Bicubic, antialiased."""
    if pixels.shape[-2:] == (side_px, side_px):
        return np.ascontiguousarray(pixels)
    import torch
    from torch.nn.functional import interpolate

    parts = [
        interpolate(part, size=(side_px, side_px), mode="bicubic", antialias=True)
        for part in torch.from_numpy(pixels).float().split(4096)
    ]
    resized: NDArray[np.uint8] = torch.cat(parts).round().clamp(0, 255).byte().numpy()
    return resized


def _power_of_two(side_px: int) -> int:
    return 1 << (side_px.bit_length() - 1)


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise DataError(f"dataset {name!r} takes no argument, not {argument!r}")


DATASETS = (
    Dataset(
        "digits", "1,797 scanned digits, embedded", _open_digits, extractor="digits-classifier"
    ),
    Dataset("folder", "folder:PATH, optionally with a subfolder per class", _open_folder),
    _torchvision("mnist", "MNIST"),
    _torchvision("fashion_mnist", "FashionMNIST"),
    _torchvision("kmnist", "KMNIST"),
    _torchvision("cifar10", "CIFAR10"),
    _torchvision("cifar100", "CIFAR100"),
)
