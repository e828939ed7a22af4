"""Pictures as strangers send them: of every kind, and hostile ones, each made here."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PIXELS",
    "animation",
    "flooded_jpeg",
    "grey_16",
    "jpeg_of_scans",
    "jpeg_of_size",
    "png_chunk",
    "png_of_size",
    "saved",
    "tiff_16",
    "webp_of_size",
]

PIXELS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def saved(
    picture: NDArray[np.uint8] | Image.Image = PIXELS, kind: str = "PNG", **how: Any
) -> bytes:
    """A picture as a file."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def animation(kind: str) -> bytes:
    """Two frames in one file."""
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def grey_16(levels: NDArray[np.uint16]) -> bytes:
    """A grey PNG of 16 bits per pixel, uint16 [H, W]."""
    return saved(Image.fromarray(levels))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG with its checksum."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_of_size(width: int, height: int, *before_data: bytes) -> bytes:
    """A PNG that claims to be of a size, with next to no pixels, and more chunks if given."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return SIGNATURE + header + b"".join(before_data) + data + png_chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose header claims another size."""
    file = saved(kind="JPEG")
    frame = file.index(b"\xff\xc0") + 5
    return file[:frame] + struct.pack(">HH", height, width) + file[frame + 4 :]


def webp_of_size(width: int, height: int) -> bytes:
    """An animated WebP whose canvas is of another size than its frames."""
    file = animation("WEBP")
    sides = (struct.pack("<I", side - 1)[:3] for side in (width, height))
    return file[:24] + b"".join(sides) + file[30:]


def jpeg_of_scans(scans: int, side: int = 64) -> bytes:
    """A JPEG whose last scan comes again and again."""
    file = saved(np.zeros((side, side, 3), np.uint8), "JPEG", progressive=True)
    last = file.rindex(b"\xff\xda")
    return file[:last] + file[last:-2] * (scans - file.count(b"\xff\xda") + 1) + file[-2:]


def flooded_jpeg(parts: int) -> bytes:
    """A JPEG with so many empty comments before its pixels."""
    file = saved(kind="JPEG")
    return file[:2] + b"\xff\xfe\x00\x02" * parts + file[2:]


def tiff_16(pixels: NDArray[np.uint16]) -> bytes:
    """A TIFF of 16 bits per channel, uint16 [H, W, 3 or more]."""
    height, width, channels = pixels.shape
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, 8),  # bits: after the header
        (259, 3, 1, 1),  # not compressed
        (262, 3, 1, 2),  # RGB
        (273, 4, 1, 8 + 2 * channels),  # pixels: after the bits
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, pixels.nbytes),
    ]
    directory: bytes = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    data: bytes = struct.pack("<H", 16) * channels + pixels.astype("<u2").tobytes()
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory
