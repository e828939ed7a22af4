"""What a client hands over, in every form that Python code has pictures in."""

from __future__ import annotations

import asyncio
import io
import mmap
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import Base

from gan_client import AsyncClient, Client
from gan_client.pictures import READ_BYTES, as_file, opened
from gan_core.errors import (
    InvalidRequest,
    ModelNotFound,
    NotSupported,
    PixelsExceeded,
    ServiceError,
    UnsupportedMedia,
)
from gan_serving.decode import decode
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.gateway import create_app
from gan_serving.readiness import Readiness
from gan_serving.service import ImageService
from tests.serving.graphs import doubled
from tests.serving.grpc_server import running
from tests.serving.pictures import PIXELS, png_of_size, saved
from tests.serving.test_http_upscale import both

if TYPE_CHECKING:
    from pathlib import Path

PICTURE = Image.fromarray(PIXELS)


def test_a_file_goes_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jpeg"
    path.write_bytes(b"anything")
    assert opened(path) == opened(str(path)) == opened(b"anything") == b"anything"
    assert as_file(b"anything") == b"anything"


def test_a_file_that_is_not_there_is_pythons_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "nothing.png")


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("P", 3), ("RGB", 3), ("CMYK", 3), ("RGBA", 4), ("LA", 4)],
)
def test_a_pillow_image_is_its_pixels(mode: str, channels: int) -> None:
    image = PICTURE.convert(mode)
    wanted = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    expected = np.asarray(image.convert(wanted)).reshape(5, 7, channels)
    np.testing.assert_array_equal(opened(image), expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_survive_the_file_that_they_are_sent_as(
    channels: int, dtype: type[np.unsignedinteger[Any]]
) -> None:
    most = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, most, (5, 7, channels), dtype=dtype)
    np.testing.assert_array_equal(decode(as_file(pixels), channels, 99).rows(0, 5), pixels)
    np.testing.assert_array_equal(opened(pixels), pixels)


def test_a_grey_pillow_image_of_16_bits_keeps_them() -> None:
    levels = np.array([[0, 255, 256, 0xFFFF]], np.uint16)
    for image in (Image.fromarray(levels), Image.fromarray(levels.astype(np.int32))):
        found = np.asarray(opened(image))
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found[..., 0], levels)


def test_a_large_file_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    with path.open("wb") as file:
        file.truncate(READ_BYTES + 1)
    assert isinstance(opened(path), mmap.mmap)


@pytest.mark.parametrize(("mode", "kept"), [("RGB", True), ("CMYK", False)])
def test_a_pillow_image_comes_back_upright_with_a_profile_that_fits(
    repository: Path, mode: str, *, kept: bool
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = PICTURE.convert(mode)
    image.info["icc_profile"] = profile
    image.getexif()[Base.Orientation] = 6  # to be turned clockwise
    with Client(f"local:{repository}") as client:
        made = client.images.upscale(image, model="doubling")
    upright = np.rot90(np.asarray(PICTURE.convert(mode).convert("RGB")), -1)
    np.testing.assert_array_equal(made, doubled(upright))
    assert made.info.get("icc_profile") == (profile if kept else None)


def test_an_array_of_two_axes_is_grey() -> None:
    assert np.asarray(opened(PIXELS[..., 0])).shape == (5, 7, 1)


@pytest.mark.parametrize(
    "image",
    [PIXELS / 255, PIXELS[None], PIXELS[..., :2], PIXELS[:0], PIXELS.astype(np.int64), 7, None],
    ids=lambda image: str(getattr(image, "shape", image)),
)
def test_what_is_no_picture_is_invalid(image: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        opened(image)
    assert refused.value.param == "image"


Ask = Callable[[AsyncClient], Awaitable[Any]]


def over_http(ask: Ask) -> Any:
    async def run() -> Any:
        service = ImageService(both())
        app = create_app(service, Readiness(service), Gatekeeper(None))
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
        async with AsyncClient(http=http) as client:
            return await ask(client)

    return asyncio.run(run())


def over_grpc(ask: Ask) -> Any:
    async def run() -> Any:
        async with running(both()) as (_, address), AsyncClient(f"grpc://{address}") as client:
            return await ask(client)

    return asyncio.run(run())


ERRORS: list[tuple[Any, str, type[ServiceError]]] = [
    (b"hello", "doubling", UnsupportedMedia),
    (png_of_size(50_000, 50_000), "doubling", PixelsExceeded),
    (np.zeros((4, 600, 3), np.uint8), "doubling", InvalidRequest),
    (PIXELS, "marked", NotSupported),
    (PIXELS, "nobody", ModelNotFound),
]


@pytest.mark.parametrize(("image", "model", "kind"), ERRORS, ids=lambda one: str(one)[:20])
@pytest.mark.parametrize("over", [over_http, over_grpc])
def test_an_error_is_of_the_same_class_over_every_transport(
    over: Callable[[Ask], Any], image: Any, model: str, kind: type[ServiceError]
) -> None:
    with pytest.raises(kind) as refused:
        over(lambda client: client.images.upscale(image, model=model))
    assert refused.value.param in {"image", "model"}
    assert "frame" not in str(refused.value)  # there is but one


def test_every_form_of_a_picture_gives_the_same(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved())
    with Client(f"local:{repository}") as client:
        array = client.images.upscale(PIXELS, model="doubling")
        np.testing.assert_array_equal(array, doubled(PIXELS))
        np.testing.assert_array_equal(client.images.upscale(PICTURE, model="doubling"), array)
        file = client.images.upscale(saved(), model="doubling")
        np.testing.assert_array_equal(Image.open(io.BytesIO(file)), array)
        for image in (path, str(path), saved(), PICTURE, PIXELS):
            out = client.images.upscale(image, model="doubling", out=tmp_path / "new" / "b.png")
            assert out == tmp_path / "new" / "b.png"
            np.testing.assert_array_equal(Image.open(out), array)


def test_a_path_needs_one_for_what_is_made(repository: Path, tmp_path: Path) -> None:
    path: Any = tmp_path / "a.png"
    path.write_bytes(saved())
    with Client(f"local:{repository}") as client:
        with pytest.raises(InvalidRequest, match="out: name the file"):
            client.images.upscale(path, model="doubling")
        with pytest.raises(InvalidRequest, match=r"ends in none of \.png, \.tif"):
            client.images.upscale(path, model="doubling", out=tmp_path / "b.bmp")
    assert [one.name for one in tmp_path.iterdir()] == ["a.png"]
