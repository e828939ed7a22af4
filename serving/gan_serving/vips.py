"""libvips, which reads pictures of any size a few rows at a time, and writes them so."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["LARGEST_SIDES_PX", "VipsImage", "convert", "opened", "png", "said", "save"]

DTYPES = {"uchar": np.uint8, "ushort": np.uint16}
PROFILE = "icc-profile-data"
STRICT = {"fail_on": "error"}
"""A file that ends too soon, or doesn't hold its checksums, is an error, not half a picture."""
LENIENT = {"fail_on": "truncated"}
"""Of JPEG, where what is wrong rarely shows."""
SPACES = {
    np.dtype(np.uint8): ("b-w", "srgb"),
    np.dtype(np.uint16): ("grey16", "rgb16"),
}
"""Of grey and of colours."""
SAVED: dict[str, dict[str, Any]] = {
    ".jpeg": {"Q": 95},
    ".jpg": {"Q": 95},
    ".tif": {"compression": "deflate", "predictor": "horizontal", "bigtiff": True},
    ".tiff": {"compression": "deflate", "predictor": "horizontal", "bigtiff": True},
    ".webp": {"Q": 95},
}
"""How a file is written, by its name's end."""
EIGHT_BITS = (".jpeg", ".jpg", ".webp")
LARGEST_SIDES_PX = {"webp": 16_383, "jpeg": 65_500}
"""That a file of the format can have."""
PLAIN = ("b-w", "grey16", "srgb", "rgb", "rgb16", "multiband")


@cache
def _pyvips() -> Any:
    os.environ.setdefault("VIPS_WARNING", "0")  # what is wrong with a file is raised
    import pyvips

    pyvips.cache_set_max(0)  # it would keep pictures after their requests
    return pyvips


@contextmanager
def said(what: str) -> Iterator[None]:
    """Raises what libvips says as ``ValueError``, after ``what``.

    It keeps what it says for all threads together: of two files that break in the same moment, one
    may be told with the other's words, or with none.
    """
    try:
        yield
    except _pyvips().Error as error:
        _, *details = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{what}: {details[-1] if details else 'it cannot be read'}") from error


@dataclass(frozen=True, slots=True, eq=False)
class VipsImage:
    """A picture that libvips reads.

    Its methods raise ``pyvips.Error``, which ``said`` puts into words.
    """

    image: Any
    """pyvips's."""
    source: Any
    """Must live as long as the image is read."""

    @property
    def width(self) -> int:
        """In px."""
        return int(self.image.width)

    @property
    def height(self) -> int:
        """In px."""
        return int(self.image.height)

    @property
    def bands(self) -> int:
        """Channels."""
        return int(self.image.bands)

    @property
    def format(self) -> str:
        """Of a channel: ``uchar`` has 8 bits, ``ushort`` 16."""
        return str(self.image.format)

    @property
    def inks(self) -> bool:
        """Whether it is CMYK, perhaps with alpha."""
        return bool(self.image.interpretation == "cmyk")

    @property
    def pages(self) -> int:
        """Pictures in the file."""
        return int(self._field("n-pages") or 1)

    @property
    def profile(self) -> bytes:
        """ICC profile, or nothing."""
        return bytes(self._field(PROFILE) or b"")

    @property
    def reads_downwards(self) -> bool:
        """Whether its upright rows come one after the other as the file is read."""
        turned = (self._field("orientation") or 1) > 1
        whole = self._field("vips-loader") == "webpload_source" or self._field("interlaced")
        return not (turned or whole)

    def upright(self) -> VipsImage:
        """As its EXIF orientation says, in grey or RGB."""
        image = self.image.autorot()
        if image.interpretation not in PLAIN:  # as it is meant, where it says so: CMYK
            if image.get_typeof(PROFILE):
                image = image.icc_transform("srgb")
                image.remove(PROFILE)
            else:
                image = image.colourspace("srgb")
        return VipsImage(image, self.source)

    def whole(self) -> NDArray[Any]:
        """All pixels, [H, W, C]."""
        found: NDArray[Any] = self.image.numpy()
        return found if found.ndim == 3 else found[..., None]

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """Those from one to before another, [h, W, C]."""
        height = bottom - top
        region = _pyvips().Region.new(self.image)
        pixels = np.frombuffer(region.fetch(0, top, self.width, height), DTYPES[self.format])
        return pixels.reshape(height, self.width, self.bands)

    def _field(self, name: str) -> Any:
        return self.image.get(name) if self.image.get_typeof(name) else None


def opened(data: bytes | mmap, kind: str, *, in_order: bool = True) -> VipsImage:
    """A file of the kind ``PNG``, ``JPEG``, ``WebP`` or ``TIFF``; its header alone is read.

    Args:
        data: the file.
        kind: what it is; nothing else reads it.
        in_order: whether its rows will be read once, from top to bottom. Otherwise all of it is
            decoded at the first, of more than 100 MB to a temporary file.
    """
    pyvips = _pyvips()
    source = pyvips.Source.new_from_memory(data)
    access = "sequential" if in_order else "random"
    load = getattr(pyvips.Image, f"{kind.lower()}load_source")
    return VipsImage(load(source, access=access, **(LENIENT if kind == "JPEG" else STRICT)), source)


def png(pixels: NDArray[Any], profile: bytes = b"") -> bytes:
    """uint8 or uint16 [H, W, 1 to 4] as a PNG; quick rather than small."""
    return bytes(_image_of(pixels, profile).pngsave_buffer(compression=1))


def save(pixels: NDArray[Any], target: Path, profile: bytes = b"") -> None:
    """Write uint8 or uint16 [H, W, 1 to 4] as what the end of ``target``'s name says.

    Raises:
        OSError: it can't be written.
    """
    with _writing(target):
        _write(_image_of(pixels, profile), target)


def convert(source: Path, target: Path) -> None:
    """Write a PNG as what the end of ``target``'s name says, a few rows at a time.

    Raises:
        OSError: it can't be written.
    """
    with _writing(target):
        image = _pyvips().Image.pngload(str(source), access="sequential", **STRICT)
        _write(image, target)


def _write(image: Any, target: Path) -> None:
    suffix = target.suffix.lower()
    if suffix in EIGHT_BITS and image.format == "ushort":  # it would round down
        space = SPACES[np.dtype(np.uint8)][image.bands > 2]
        image = (image / 257).rint().cast("uchar").copy(interpretation=space)
    image.write_to_file(str(target), **SAVED.get(suffix, {}))


def _image_of(pixels: NDArray[Any], profile: bytes) -> Any:
    grey, colours = SPACES[pixels.dtype]
    image = _pyvips().Image.new_from_array(np.ascontiguousarray(pixels))
    image = image.copy(interpretation=grey if pixels.shape[2] < 3 else colours)
    if profile:
        image.set_type(_pyvips().GValue.blob_type, PROFILE, profile)
    return image


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        with said(str(target)):
            yield
    except ValueError as error:
        raise OSError(str(error)) from error
