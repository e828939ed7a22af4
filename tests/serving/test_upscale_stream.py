"""``images.upscale_stream`` and files: in order, never far ahead, over every way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageCms

from gan_client import AsyncClient, Client
from gan_core.errors import InvalidRequest, UnsupportedMedia
from gan_serving.repository import publish
from gan_serving.upscaling import WHOLE_PIXELS
from gan_serving.vips import opened, save
from tests.serving.graphs import (
    DEEP_OUTPUT,
    SOFTENED_INPUTS,
    deep,
    softened,
    softening,
    write_export,
)
from tests.serving.pictures import tiff_16
from tests.serving.processes import Serving

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from gan_client.pictures import AnyPicture

WAYS = ("http", "grpc", "local")
MODEL = "softening"


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The same model's addresses."""
    root = tmp_path_factory.mktemp("softening")
    inputs = deep(SOFTENED_INPUTS)
    export = write_export(root / "export", MODEL, softening(16), inputs, DEEP_OUTPUT)
    publish(export, root / "repository")
    with Serving(root / "repository", "ort", "--workers", "1") as serving:
        yield {"http": serving.url, "grpc": serving.grpc, "local": f"local:{root / 'repository'}"}


def pictures(n: int) -> list[NDArray[np.uint8]]:
    """Of different sizes."""
    rng = np.random.default_rng(7)
    return [rng.integers(0, 256, (8 + i, 50 - i, 3), dtype=np.uint8) for i in range(n)]


@pytest.mark.parametrize("way", WAYS)
def test_frames_come_back_in_order_with_their_latencies(ways: dict[str, str], way: str) -> None:
    given = pictures(9)
    with Client(ways[way]) as client:
        found = list(client.images.upscale_stream(iter(given), model=MODEL))
    assert len(found) == len(given)
    for (image, latency_s), picture in zip(found, given, strict=True):
        np.testing.assert_array_equal(image.numpy(), softened(picture))
        assert 0 < latency_s < 60


@pytest.mark.parametrize("way", WAYS)
def test_alpha_and_profile_come_along(ways: dict[str, str], way: str, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (pixels,) = pictures(1)
    veiled = Image.fromarray(np.dstack([pixels, pixels[..., 0]]))
    veiled.save(tmp_path / "in.png", icc_profile=profile)
    with Client(ways[way]) as client:
        ((image, _),) = client.images.upscale_stream([(tmp_path / "in.png")], model=MODEL)
        for name in ("out.png", "out.tif", "out.webp"):
            client.images.upscale(tmp_path / "in.png", model=MODEL, out=tmp_path / name)
        with pytest.raises(InvalidRequest, match="transparent"):
            client.images.upscale(tmp_path / "in.png", model=MODEL, out=tmp_path / "out.jpg")
    np.testing.assert_array_equal(image.numpy()[..., :3], softened(pixels))
    image.save(tmp_path / "saved.webp")
    for name in ("out.png", "out.tif", "out.webp", "saved.webp"):
        with Image.open(tmp_path / name) as found:
            assert (found.mode, found.info["icc_profile"]) == ("RGBA", profile)
            if found.format != "WEBP":
                np.testing.assert_array_equal(np.asarray(found), image.numpy())
    assert not (tmp_path / "out.jpg").exists()


@pytest.mark.parametrize("way", WAYS)
def test_grey_stays_grey(ways: dict[str, str], way: str, tmp_path: Path) -> None:
    grey = pictures(1)[0][..., 0]
    expected = softened(grey[..., None].repeat(3, axis=2))[..., 0]
    veiled = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(255 - grey)])
    veiled.save(tmp_path / "in.png")
    with Client(ways[way]) as client:
        np.testing.assert_array_equal(client.images.upscale(grey, model=MODEL), expected)
        image = client.images.upscale(Image.fromarray(grey), model=MODEL)
        out = client.images.upscale(tmp_path / "in.png", model=MODEL, out=tmp_path / "out.png")
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), expected)
    with Image.open(out) as found:
        assert found.mode == "LA"
        np.testing.assert_array_equal(np.asarray(found)[..., 0], expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["out.png", "out.tif"])
def test_16_bits_stay_16_in_files(
    ways: dict[str, str], way: str, tmp_path: Path, name: str
) -> None:
    picture = np.random.default_rng(0).integers(0, 65_536, (41, 23, 3)).astype(np.uint16)
    (tmp_path / "in.tif").write_bytes(tiff_16(picture))
    with Client(ways[way]) as client:
        out = client.images.upscale(tmp_path / "in.tif", model=MODEL, out=tmp_path / name)
    found = opened(out.read_bytes(), {".png": "PNG", ".tif": "TIFF"}[out.suffix]).whole()
    assert found.dtype == np.uint16
    assert np.abs(found.astype(int) - softened(picture)).max() <= 1


@pytest.mark.parametrize("way", WAYS)
def test_files_of_one_name_and_several_kinds_are_written_at_once(
    ways: dict[str, str], way: str, tmp_path: Path
) -> None:
    given = pictures(3)
    names = ["out.png", "out.tif", "out.tiff"]

    async def run() -> None:
        async with AsyncClient(ways[way]) as client:
            calls = (
                client.images.upscale(picture, model=MODEL, out=tmp_path / name)
                for picture, name in zip(given, names, strict=True)
            )
            await asyncio.gather(*calls)

    asyncio.run(run())
    assert sorted(one.name for one in tmp_path.iterdir()) == names
    for picture, name in zip(given, names, strict=True):
        with Image.open(tmp_path / name) as found:
            assert np.abs(np.asarray(found).astype(int) - softened(picture)).max() <= 1


def test_what_a_file_cannot_hold_is_refused_before_it_is_made(
    ways: dict[str, str], tmp_path: Path
) -> None:
    wide = np.zeros((1, 8_300, 3), np.uint8)
    with (
        Client(ways["local"]) as client,
        pytest.raises(InvalidRequest, match=r"16600 px doesn't fit into \.webp") as refused,
    ):
        client.images.upscale(wide, model=MODEL, out=tmp_path / "out.webp")
    assert refused.value.param == "out"
    assert not list(tmp_path.iterdir())


def test_16_bits_become_the_nearest_of_8(tmp_path: Path) -> None:
    for level, nearest in ((500, 2), (65_300, 254)):
        save(np.full((8, 8, 1), level, np.uint16), tmp_path / "a.jpg")
        with Image.open(tmp_path / "a.jpg") as found:
            assert np.unique(np.asarray(found)) == [nearest]


@pytest.mark.parametrize("way", WAYS)
def test_a_large_result_is_the_same_however_it_is_sent(
    ways: dict[str, str], way: str, tmp_path: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1100, 1000, 3), dtype=np.uint8)
    assert 4 * picture.shape[0] * picture.shape[1] > WHOLE_PIXELS
    with Client(ways[way]) as client:
        whole = client.images.upscale(picture, model=MODEL)
        out = client.images.upscale(picture, model=MODEL, out=tmp_path / "out.png")
    assert np.abs(whole.astype(int) - softened(picture)).max() <= 1
    np.testing.assert_array_equal(opened(out.read_bytes(), "PNG").whole(), whole)


@pytest.mark.parametrize("way", WAYS)
def test_the_source_is_read_as_results_are_taken(ways: dict[str, str], way: str) -> None:
    read = 0

    def endless() -> Iterator[NDArray[np.uint8]]:
        nonlocal read
        while True:
            read += 1
            yield pictures(1)[0]

    with Client(ways[way]) as client:
        results = client.images.upscale_stream(endless(), model=MODEL)
        for taken in range(1, 7):
            next(results)
            assert read <= taken + 4
        results.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_frames_error_names_it_after_those_before_it(ways: dict[str, str], way: str) -> None:
    given: list[AnyPicture] = [*pictures(2), b"no picture", *pictures(1)]
    with Client(ways[way]) as client:
        results = client.images.upscale_stream(given, model=MODEL)
        next(results)
        next(results)
        with pytest.raises(UnsupportedMedia, match=r"^frame 2: image: ") as refused:
            next(results)
    assert refused.value.param == "image"


@pytest.mark.parametrize("way", WAYS)
def test_the_sources_own_error_is_raised(ways: dict[str, str], way: str) -> None:
    def failing() -> Iterator[NDArray[np.uint8]]:
        yield pictures(1)[0]
        raise EOFError("the camera is gone")

    with Client(ways[way]) as client:
        results = client.images.upscale_stream(failing(), model=MODEL)
        next(results)
        with pytest.raises(EOFError, match="camera"):
            next(results)


@pytest.mark.parametrize("way", WAYS)
def test_no_frames_give_no_results(ways: dict[str, str], way: str) -> None:
    with Client(ways[way]) as client:
        assert list(client.images.upscale_stream([], model=MODEL)) == []


async def _collected(url: str, given: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    async def source() -> AsyncIterator[NDArray[np.uint8]]:
        for picture in given:
            yield picture

    async with AsyncClient(url) as client:
        results = client.images.upscale_stream(source(), model=MODEL)
        return [image.numpy() async for image, _ in results]


@pytest.mark.parametrize("way", WAYS)
def test_an_async_source_gives_the_same(ways: dict[str, str], way: str) -> None:
    given = pictures(3)
    for found, picture in zip(asyncio.run(_collected(ways[way], given)), given, strict=True):
        np.testing.assert_array_equal(found, softened(picture))


@pytest.mark.parametrize("way", WAYS)
def test_a_file_is_what_upscale_gives(ways: dict[str, str], way: str, tmp_path: Path) -> None:
    (picture,) = pictures(1)
    with Client(ways[way]) as client:
        client.images.upscale(picture, model=MODEL, out=tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        np.testing.assert_array_equal(np.asarray(image), softened(picture))
