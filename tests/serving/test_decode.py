"""Untrusted pictures: the right pixels or a typed error, and memory that a header can't inflate."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from gan_core.errors import InvalidRequest, PixelsExceeded, ServiceError, UnsupportedMedia
from gan_serving import decode as module
from gan_serving.decode import (
    MAX_PARTS,
    MAX_PROFILE_BYTES,
    MAX_SCANS,
    START_OF_SCAN,
    Picture,
    decode,
    decoded,
    of_pixels,
)
from gan_serving.vips import VipsImage, png
from tests.serving.pictures import (
    PIXELS,
    animation,
    flooded_jpeg,
    grey_16,
    jpeg_of_scans,
    jpeg_of_size,
    png_chunk,
    png_of_size,
    saved,
    tiff_16,
    webp_of_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MAX_PIXELS = 1 << 20
ORIENTED = Image.Exif()
ORIENTED[0x0112] = 6
PICTURE = Image.fromarray(PIXELS)
LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}


def read(data: bytes, channels: int = 3) -> NDArray[np.uint8]:
    return all_of(decode(data, channels, MAX_PIXELS))


def all_of(picture: Picture) -> NDArray[Any]:
    return picture.rows(0, picture.height)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_pixels_come_out_as_they_went_in(kind: str) -> None:
    found = read(saved(kind=kind, **LOSSLESS[kind]))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, PIXELS)


def test_a_jpeg_comes_out_as_its_decoder_gives_it() -> None:
    file = saved(kind="JPEG", quality=95)
    np.testing.assert_array_equal(read(file), np.asarray(Image.open(io.BytesIO(file))))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("L", "JPEG"),
        ("RGBA", "TIFF"),
        ("P", "TIFF"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_pixel_is_converted(mode: str, kind: str, channels: int) -> None:
    file = saved(PICTURE.convert(mode), kind)
    wanted = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    with Image.open(io.BytesIO(file)) as image:
        # grey comes from colours where there is an alpha to leave out
        plain = image.convert("RGB") if mode in ("LA", "RGBA") and channels < 4 else image
        expected = np.asarray(plain.convert(wanted)).reshape(5, 7, channels)
    np.testing.assert_array_equal(read(file, channels), expected)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_become_colours(kind: str) -> None:
    inks = np.zeros((8, 24, 4), np.uint8)
    inks[:, 8:16, 0] = 255  # cyan
    inks[:, 16:] = 255
    found = read(saved(Image.fromarray(inks, "CMYK"), kind))
    white, (red, green, blue), black = found[4, [4, 12, 20]].tolist()
    assert min(white) > 250
    assert red < 60 < green < blue
    assert max(black) < 60


def test_16_bits_are_kept() -> None:
    levels = np.array([[0, 255, 256, 0x7FFF, 0xFFFF]], np.uint16)
    found = decode(grey_16(levels), 1, MAX_PIXELS)
    assert found.bit_depth == 16
    np.testing.assert_array_equal(all_of(found)[..., 0], levels)
    colours = np.array([[[0x1234, 0x80FF, 0xFFFF]]], np.uint16)
    for file in (png(colours), tiff_16(colours)):
        np.testing.assert_array_equal(read(file), colours)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_stands_upright_as_its_exif_says(kind: str, orientation: int) -> None:
    turned: dict[int, Callable[[Any], Any]] = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    how: dict[str, Any] = {"exif": exif.tobytes()}
    file = saved(kind=kind, **how, **LOSSLESS[kind])
    stored = np.asarray(Image.open(io.BytesIO(file)))
    expected = turned[orientation](stored)
    np.testing.assert_array_equal(read(file), expected)


def test_a_photograph_with_previews_is_its_first_picture() -> None:
    file = saved(PICTURE, "MPO", save_all=True, append_images=[PICTURE.resize((2, 2))])
    assert read(file).shape == (5, 7, 3)


def test_an_alpha_that_hides_nothing_is_left_out() -> None:
    np.testing.assert_array_equal(read(saved(PICTURE.convert("RGBA"))), PIXELS)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L", "RGB"])
def test_alpha_comes_apart_where_the_model_takes_none(mode: str) -> None:
    picture = PICTURE.convert(mode)
    clear: dict[str, Any] = {}
    if mode in ("LA", "RGBA"):
        picture.putalpha(128)
    else:
        clear["transparency"] = picture.getpixel((0, 0))
    file = saved(picture, **clear)
    apart = decode(file, 3, MAX_PIXELS)
    assert apart.alpha
    both = all_of(apart)
    np.testing.assert_array_equal(both[..., 3], read(file, 4)[..., 3])
    assert both[0, 0, 3] < 255
    assert not decode(file, 4, MAX_PIXELS).alpha


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]
"""Of grey, by its header."""
LONG = (MAX_PROFILE_BYTES + 4).to_bytes(4) + SRGB[4:].ljust(MAX_PROFILE_BYTES, b"\0")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("mode", "profile", "channels", "kept"),
    [
        ("RGB", SRGB, 3, True),
        ("L", GREY, 1, True),
        ("L", GREY, 3, True),
        ("L", GREY, 4, False),
        ("RGB", SRGB, 1, False),
        ("RGB", GREY, 3, False),
        ("RGB", LONG, 3, False),
    ],
    ids=[
        "colours",
        "grey",
        "grey through RGB",
        "grey made RGBA",
        "RGB made grey",
        "another space",
        "too large",
    ],
)
def test_a_profile_is_kept_where_it_is_of_the_pixels(
    kind: str, mode: str, profile: bytes, channels: int, kept: bool
) -> None:
    if (kind, mode) == ("WEBP", "L"):
        pytest.skip("a WebP is never grey")
    file = saved(PICTURE.convert(mode), kind, icc_profile=profile)
    assert decode(file, channels, MAX_PIXELS).profile == (profile if kept else b"")


def test_an_array_gets_the_channels_that_it_lacks() -> None:
    grey = PIXELS[..., :1]
    np.testing.assert_array_equal(all_of(of_pixels(grey, 3)), grey.repeat(3, axis=2))
    assert np.shares_memory(all_of(of_pixels(PIXELS, 3)), PIXELS)


GIF, BMP = (saved(kind=kind) for kind in ("GIF", "BMP"))
FILE = saved()
UNSUPPORTED: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello",
    "gif": GIF,
    "bmp": BMP,
    "tiff of several": animation("TIFF"),
    "tiff of five channels": tiff_16(np.zeros((5, 7, 5), np.uint16)),
    "tiff in ycbcr": saved(Image.fromarray(PIXELS).convert("YCbCr"), "TIFF"),
    "tiff of floats": saved(Image.fromarray(np.zeros((5, 7), np.float32)), "TIFF"),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": b"%PDF-1.7",
    "avi": b"RIFF\x10\0\0\0AVI LIST",
    "apng": animation("PNG"),
    "animated webp": animation("WEBP"),
}
TEXT = zlib.compress(bytes(1 << 28), 9)
BOMBS: dict[str, bytes] = {
    "text": png_of_size(5, 7, png_chunk(b"zTXt", b"k\0\0" + TEXT)),
    "international text": png_of_size(5, 7, png_chunk(b"iTXt", b"k\0\1\0\0\0" + TEXT)),
    "profile": png_of_size(5, 7, png_chunk(b"iCCP", b"k\0\0" + TEXT)),
}
"""Pictures whose other parts would fill memory."""
INVALID: dict[str, bytes] = {
    "magic alone": FILE[:8],
    "png header alone": FILE[:33],
    "truncated png": FILE[: len(FILE) // 2],
    "truncated jpeg": saved(kind="JPEG")[:-60],
    "truncated webp": saved(kind="WEBP")[:-9],
    "gif behind a png's magic": FILE[:8] + GIF,
    "garbage behind a jpeg's magic": b"\xff\xd8\xff" + bytes(range(256)),
    "flipped bit": FILE[:45] + bytes([FILE[45] ^ 1]) + FILE[46:],
    "wide png": png_of_size(2**31 - 1, 1),
    "large webp": webp_of_size(1 << 14, 1 << 14),
    "no pixels": png_of_size(0, 0),
    "no width": png_of_size(0, 5),
    "too few pixels": png_of_size(500, 500),
    "flood of chunks": png_of_size(5, 7, png_chunk(b"tEXt", b"k\0") * MAX_PARTS),
    "flood of segments": flooded_jpeg(MAX_PARTS),
    "many scans": jpeg_of_scans(MAX_SCANS + 1),
}
EXCEEDED: dict[str, bytes] = {
    "png": png_of_size(50_000, 50_000),
    "just too large": png_of_size(1024, 1025),
    "jpeg": jpeg_of_size(65_500, 65_500),
}


@pytest.mark.parametrize("data", UNSUPPORTED.values(), ids=list(UNSUPPORTED))
def test_what_is_no_still_png_jpeg_or_webp_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia) as refused:
        read(data)
    assert refused.value.param == "image"


@pytest.mark.parametrize("data", INVALID.values(), ids=list(INVALID))
def test_what_is_broken_is_invalid(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(data)
    assert refused.value.param == "image"


@pytest.mark.parametrize("data", EXCEEDED.values(), ids=list(EXCEEDED))
def test_a_header_that_claims_too_much_is_enough(data: bytes) -> None:
    with pytest.raises(PixelsExceeded, match="at most 1,048,576") as refused:
        read(data)
    assert refused.value.param == "image"


def test_what_is_at_the_limit_is_read() -> None:
    assert read(saved(np.zeros((1024, 1024), np.uint8))).shape == (1024, 1024, 3)


@pytest.mark.parametrize("name", ["png", "jpeg", "large webp", "many scans", "apng"])
def test_no_pixel_is_decoded_of_what_its_header_condemns(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(VipsImage, "whole", loaded.append)
    with pytest.raises(ServiceError):
        read({**UNSUPPORTED, **INVALID, **EXCEEDED}[name])
    assert loaded == []


MEASURE = """
import io, json, resource, sys
from PIL import Image
from gan_core.errors import ServiceError
from gan_serving.decode import decode
for kind in ("PNG", "JPEG", "WEBP"):
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, kind)
    decode(file.getvalue(), 3, 100)
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(data, 3, 1 << 20)
except ServiceError as error:
    kind = error.code
else:
    kind = "read"
print(json.dumps([kind, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (EXCEEDED["png"], "pixels_exceeded"),
        (webp_of_size(13_000, 13_000), "pixels_exceeded"),
        *((file, "read") for file in BOMBS.values()),
        (flooded_jpeg(2_000_000), "validation_error"),
    ],
    ids=["size", "canvas", *BOMBS, "flood"],
)
def test_a_bomb_needs_no_memory(data: bytes, code: str) -> None:
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE], input=data, capture_output=True, check=True
    )
    kind, grown_mb = json.loads(measured.stdout)
    assert kind == code
    assert grown_mb < 16


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("PNG", {}),
        ("PNG", {"exif": ORIENTED}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": ORIENTED}),
        ("WEBP", {"lossless": True}),
    ],
    ids=["png", "turned png", "tiff", "lzw", "jpeg", "progressive jpeg", "turned jpeg", "webp"],
)
def test_a_large_picture_is_read_as_its_rows_are_needed(
    mode: str, kind: str, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if (kind, mode) == ("JPEG", "RGBA"):
        pytest.skip("a JPEG has no alpha")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 170, 3), dtype=np.uint8)
    file = saved(Image.fromarray(pixels).convert(mode), kind, **how)
    whole = all_of(decode(file, 3, MAX_PIXELS))
    monkeypatch.setattr(module, "HELD_PIXELS", 0)
    picture = decode(file, 3, MAX_PIXELS)
    assert (picture.height, picture.width, 3) == whole.shape
    windows = [(0, 1), (0, 90), (86, 90), (86, 180), (170, 190), (190, picture.height)]
    for top, bottom in windows:
        if top < picture.height:
            found = picture.rows(top, min(bottom, picture.height))
            np.testing.assert_array_equal(found, whole[top:bottom])


def test_alpha_anywhere_in_a_large_picture_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_PIXELS", 0)
    pixels = np.full((300, 20, 4), 255, np.uint8)
    assert not decode(saved(Image.fromarray(pixels)), 3, MAX_PIXELS).alpha
    pixels[299, 19, 3] = 254
    picture = decode(saved(Image.fromarray(pixels)), 3, MAX_PIXELS)
    assert picture.alpha
    np.testing.assert_array_equal(all_of(picture), pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_large_picture_that_is_cut_off_is_refused_at_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_PIXELS", 0)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 170, 3), dtype=np.uint8)
    file = saved(Image.fromarray(pixels), kind)
    with pytest.raises(InvalidRequest, match="broken"):
        decode(file[: int(len(file) * 0.9)], 3, MAX_PIXELS)


def test_what_cannot_be_read_downwards_may_be_less_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_PIXELS", 0)
    monkeypatch.setattr(module, "WHOLE_PIXELS", 34)
    assert read(saved()).shape == (5, 7, 3)
    for file in (saved(kind="WEBP"), saved(kind="JPEG", progressive=True)):
        with pytest.raises(
            PixelsExceeded, match="at most 34 where a file can't be read row by row"
        ):
            read(file)


def test_a_tiffs_jpeg_may_be_in_ycbcr() -> None:
    pixels = np.full((16, 16, 3), (200, 30, 90), np.uint8)
    image = Image.fromarray(pixels).convert("YCbCr")
    found = read(saved(image, "TIFF", compression="jpeg", quality=95))
    assert np.abs(found.astype(int) - pixels).max() <= 3


def test_markers_are_found_wherever_a_search_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    file = jpeg_of_scans(9)
    comment = b"\xff\xfe\x00\x06\xff\xda\xff\xda"  # which seems to begin two more
    file = file[:-2] + comment + file[-2:]
    expected = list(module._jpeg_parts(file))
    assert expected.count(START_OF_SCAN) == 9
    for most in range(1, 9):
        monkeypatch.setattr(module, "SEARCHED_BYTES", most)
        assert list(module._jpeg_parts(file)) == expected


def test_decoding_leaves_the_loop_free(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def noted(*arguments: Any) -> Picture:
        names.append(threading.current_thread().name)
        return of_pixels(PIXELS, 3)

    monkeypatch.setattr(module, "decode", noted)
    asyncio.run(decoded(b"", 3, 1))
    assert names[0].startswith("decode")


VALID = [
    saved(),
    saved(kind="JPEG", quality=50),
    saved(kind="JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
    saved(kind="WEBP"),
    saved(kind="WEBP", lossless=True),
    saved(PICTURE.convert("P"), transparency=3),
    saved(PICTURE.convert("CMYK"), "JPEG"),
    animation("PNG"),
    animation("WEBP"),
]
changes = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=0, max_size=4)), max_size=6
)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(st.sampled_from(VALID), changes, st.sampled_from([1, 3, 4]))
def test_whatever_bytes_come_a_picture_or_a_typed_error_goes(
    file: bytes, changes: list[tuple[float, bytes]], channels: int
) -> None:
    data = bytearray(file)
    for where, put in changes:  # the bytes there become others, or go
        at = int(where * len(data))
        data[at : at + max(len(put), 1)] = put
    try:
        found = read(bytes(data), channels)
    except ServiceError as error:
        assert error.param == "image"  # noqa: PT017 either is right
    else:
        assert found.dtype in (np.uint8, np.uint16)
        assert found.ndim == 3
        assert found.shape[2] == channels
        assert 0 < found.size <= MAX_PIXELS * channels
