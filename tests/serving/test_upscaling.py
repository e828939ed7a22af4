"""Pictures through a model: fitted to what it takes, whole again, and in their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gan_core.card import ImageInput, ImageOutput, LabelInput, LatentInput
from gan_core.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    NotSupported,
    PixelsExceeded,
    QueueFull,
    ServiceError,
)
from gan_core.levels import of_depth
from gan_serving.ort_engine import OrtEngine
from gan_serving.repository import publish
from gan_serving.schema import UpscaleRequest, validated
from gan_serving.service import Generation, ImageService
from gan_serving.upscaling import upscale
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import (
    DOUBLED_INPUTS,
    DOUBLED_OUTPUT,
    SOFTENED_INPUTS,
    card_of,
    doubled,
    doubling,
    softened,
    softening,
    write_export,
)
from tests.serving.pictures import PIXELS, saved

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from gan_serving.engine import Engine


def fake(source: ImageInput | None = None, **output: Any) -> FakeEngine:
    """Doubles with numpy."""
    inputs = DOUBLED_INPUTS if source is None else (source,)
    wanted = DOUBLED_OUTPUT.model_copy(update=output)
    card = card_of(doubling(), "doubling", inputs, wanted)
    return FakeEngine(card, answer=answer)


def answer(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    return np.stack([doubled(one) for one in inputs["source"]])


def made(engine: Engine, picture: Any, timeout_s: float | None = None, **fields: Any) -> Generation:
    request = validated(UpscaleRequest, {"model": "doubling", **fields})

    async def ask() -> Generation:
        try:
            return await upscale(ImageService(engine), request, picture, timeout_s)
        finally:
            await engine.close()

    return asyncio.run(ask())


def refusal(kind: type[ServiceError], engine: Engine, picture: Any, **fields: Any) -> ServiceError:
    with pytest.raises(kind) as refused:
        made(engine, picture, **fields)
    return refused.value


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 4, 7, 16]))
def test_a_picture_of_any_size_comes_back_whole(height: int, width: int, multiple: int) -> None:
    picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    engine = fake(ImageInput(multiple_of=multiple, max_side_px=64))
    found = made(engine, picture)
    np.testing.assert_array_equal(found.images[0], doubled(picture))
    assert [side % multiple for side in engine.asked[0]["source"].shape[1:3]] == [0, 0]


def test_what_is_added_continues_the_last_pixels() -> None:
    engine = fake()
    made(engine, PIXELS)
    given = engine.asked[0]["source"][0]
    assert given.shape == (8, 8, 3)
    np.testing.assert_array_equal(given, np.pad(PIXELS, [(0, 3), (0, 1), (0, 0)], mode="edge"))


def test_a_file_is_decoded_and_doubled_by_the_real_graph(repository: Path) -> None:
    found = made(OrtEngine(repository, cores=1), saved())
    np.testing.assert_array_equal(found.images, doubled(PIXELS)[None])
    assert (found.model, found.version, found.seeds) == ("doubling", 1, (None,))


@pytest.mark.parametrize("shape", [(513, 4, 3), (4, 513, 3)])
def test_a_side_beyond_what_the_model_takes_is_refused(shape: tuple[int, ...]) -> None:
    engine = fake()
    error = refusal(InvalidRequest, engine, np.zeros(shape, np.uint8))
    assert "'doubling' takes sides of 2 to 512 px" in str(error)
    assert (error.param, engine.asked) == ("image", [])


def test_a_side_below_what_the_model_takes_is_refused() -> None:
    engine = fake(ImageInput(min_side_px=16))
    assert "7 × 5 px" in str(refusal(InvalidRequest, engine, PIXELS))


@pytest.mark.parametrize("as_file", [True, False])
def test_a_picture_of_more_pixels_than_the_model_takes_is_refused(as_file: bool) -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    engine = fake(ImageInput(max_side_px=20))
    refusal(PixelsExceeded, engine, saved(picture) if as_file else picture)


def test_what_would_be_too_large_to_send_back_is_refused() -> None:
    picture = np.zeros((600, 600, 3), np.uint8)
    error = refusal(PixelsExceeded, fake(ImageInput(), scale=16), picture)
    assert "at most 262,144" in str(error)


def test_a_side_that_the_format_cannot_have_is_refused() -> None:
    engine = fake(ImageInput(max_side_px=10_000))
    picture = np.zeros((2, 8192, 3), np.uint8)
    error = refusal(InvalidRequest, engine, picture, output_format="webp")
    assert (error.param, "16383" in str(error)) == ("output_format", True)
    assert made(engine, picture).images.shape == (1, 4, 16384, 3)


@pytest.mark.parametrize(
    "inputs", [(LatentInput(dim=4),), (ImageInput(), LabelInput(classes=("a",)))], ids=len
)
def test_a_model_that_takes_no_picture_alone_says_what_it_can(inputs: Any) -> None:
    card = card_of(doubling(), "other", inputs, ImageOutput(channels=3))
    error = refusal(NotSupported, FakeEngine(card), PIXELS, model="other")
    assert "'other' can't upscale a picture; it " in str(error)


def test_a_version_that_does_not_serve_is_not_found() -> None:
    assert refusal(ModelNotFound, fake(), PIXELS, version=2).param == "version"


def test_a_graph_that_gives_another_size_is_a_defect() -> None:
    engine = FakeEngine(*fake().cards.values(), answer=lambda inputs: inputs["source"])
    refusal(InternalError, engine, PIXELS)


def test_a_model_without_an_answer_in_time_is_late() -> None:
    engine = fake()
    engine.delay_s = 5
    refusal(DeadlineExceeded, engine, PIXELS, timeout_s=0.02)


def test_a_large_picture_takes_the_places_of_many() -> None:
    engine = fake(ImageInput(max_side_px=4096))
    engine.delay_s = 0.05
    large, small = np.zeros((2048, 2048, 3), np.uint8), PIXELS
    request = validated(UpscaleRequest, {"model": "doubling"})

    async def ask() -> tuple[int, int]:
        service = ImageService(engine, max_waiting=1, max_n=1)
        running = asyncio.create_task(upscale(service, request, large))
        while "doubling" not in service.admissions:
            await asyncio.sleep(0)
        gate = service.admissions["doubling"]
        waiting = asyncio.create_task(upscale(service, request, small))
        while not gate.waiting:
            await asyncio.sleep(0)
        seen = gate.running, gate.waiting
        with pytest.raises(QueueFull):
            await upscale(service, request, large)
        await asyncio.gather(running, waiting)
        return seen

    assert asyncio.run(ask()) == (64, 1)


@pytest.fixture
def softens(tmp_path: Path) -> OrtEngine:
    """Serves a graph whose pixels depend on their neighbours, in tiles of 40 px."""
    graph = write_export(tmp_path / "run", "doubling", softening(), SOFTENED_INPUTS, DOUBLED_OUTPUT)
    publish(graph, tmp_path / "repository")
    return OrtEngine(tmp_path / "repository")


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (36, 36), (37, 35), (300, 500)])
def test_a_picture_of_any_size_is_put_together_from_tiles_of_one(
    softens: OrtEngine, size: tuple[int, int]
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = made(softens, picture)
    assert np.abs(found.images[0].astype(int) - softened(picture)).max() <= 1
    assert found.images.dtype == np.uint8


@pytest.mark.parametrize("source", [None, ImageInput(max_side_px=512, tile_px=40, halo_px=4)])
def test_alpha_is_enlarged_apart_and_without_seams(source: ImageInput | None) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (300, 50, 4), dtype=np.uint8)  # two bands of tiles
    engine = fake(source or ImageInput(max_side_px=512))
    (found,) = made(engine, picture).images
    np.testing.assert_array_equal(found[..., :3], doubled(picture[..., :3]))
    alpha = Image.fromarray(picture[..., 3].astype(np.float32))
    whole = np.asarray(alpha.resize((100, 600), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found[..., 3], whole.round().clip(0, 255))


def test_a_transparent_picture_is_no_jpeg() -> None:
    picture = np.dstack([PIXELS, PIXELS[..., 0]])
    error = refusal(InvalidRequest, fake(), picture, output_format="jpeg")
    assert error.param == "output_format"
    assert "take png or webp" in error.message


def test_tiles_of_pictures_of_all_sizes_are_of_one_size_and_nobody_elses() -> None:
    engine = fake(ImageInput(max_side_px=512, tile_px=40, halo_px=4))
    sizes = [(30 + 3 * i, 70 - 5 * i) for i in range(8)]
    pictures = [np.full((*size, 3), i, np.uint8) for i, size in enumerate(sizes)]
    request = validated(UpscaleRequest, {"model": "doubling"})

    async def ask() -> list[Generation]:
        service = ImageService(engine)
        return await asyncio.gather(*(upscale(service, request, one) for one in pictures))

    found = asyncio.run(ask())
    for i, (size, one) in enumerate(zip(sizes, found, strict=True)):
        assert one.images.shape == (1, 2 * size[0], 2 * size[1], 3)
        assert (one.images == i).all(), "a tile of somebody else's"
    assert {asked["source"].shape[1:] for asked in engine.asked} == {(40, 40, 3)}


def test_few_tiles_of_a_wide_picture_are_on_their_way_at_once() -> None:
    engine = fake(ImageInput(max_side_px=16_384, tile_px=512, halo_px=4))
    picture = np.random.default_rng(0).integers(0, 256, (300, 7000, 3), dtype=np.uint8)
    found = made(engine, picture)
    np.testing.assert_array_equal(found.images[0], doubled(picture))
    assert max(len(asked["source"]) for asked in engine.asked) <= 4
    assert sum(len(asked["source"]) for asked in engine.asked) == 14


def test_16_bits_stay_where_the_model_has_them() -> None:
    picture = np.random.default_rng(0).integers(0, 65_536, (50, 41, 3), dtype=np.uint16)
    tiles: dict[str, Any] = {"max_side_px": 512, "tile_px": 40, "halo_px": 4}
    deep = fake(ImageInput(bit_depth=16, **tiles), bit_depth=16)
    np.testing.assert_array_equal(made(deep, picture).images[0], doubled(picture))
    assert made(deep, picture, output_format="webp").images.dtype == np.uint8
    rounded = of_depth(picture, 8)
    np.testing.assert_array_equal(made(deep, rounded).images[0], doubled(rounded))
    np.testing.assert_array_equal(
        made(fake(ImageInput(**tiles)), picture).images[0], doubled(rounded)
    )


def test_alpha_of_16_bits_stays_too() -> None:
    picture = np.random.default_rng(0).integers(0, 65_536, (50, 41, 4), dtype=np.uint16)
    deep = fake(ImageInput(bit_depth=16, max_side_px=512), bit_depth=16)
    (found,) = made(deep, picture).images
    alpha = Image.fromarray(picture[..., 3].astype(np.float32))
    wanted = np.asarray(alpha.resize((82, 100), Image.Resampling.BICUBIC)).round().clip(0, 65_535)
    np.testing.assert_array_equal(found[..., 3], wanted)


def test_who_says_how_long_it_waits_is_told_in_time(softens: OrtEngine) -> None:
    picture = np.zeros((3000, 3000, 3), np.uint8)
    with pytest.raises((DeadlineExceeded, QueueFull)):  # in the midst, or as soon as it is clear
        made(softens, picture, timeout_s=0.2)


def test_a_large_picture_takes_its_time_where_nobody_said() -> None:
    (source,) = SOFTENED_INPUTS
    assert isinstance(source, ImageInput)
    engine = fake(source.model_copy(update={"halo_px": 0}))
    engine.delay_s = 0.1
    picture = np.zeros((800, 400, 3), np.uint8)  # 7 bands
    request = validated(UpscaleRequest, {"model": "doubling"})
    found = asyncio.run(upscale(ImageService(engine, timeout_s=0.3), request, picture))
    assert found.images.shape == (1, 1600, 800, 3)
    assert found.compute_ms > 300
