"""The contract of every engine: one suite, over onnxruntime in process and over a real Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from gan_core.errors import (
    DeadlineExceeded,
    InternalError,
    ModelNotFound,
    QueueFull,
    ServiceError,
    Unavailable,
)
from gan_core.latents import draw, seed_range
from gan_serving.engine import Engine
from gan_serving.ort_engine import OrtEngine
from gan_serving.published import MAX_BATCH_SIZE
from gan_serving.repository import read
from gan_serving.triton_config import INSTANCES, MAX_QUEUE_SIZE
from gan_serving.triton_engine import TritonEngine
from tests.serving.graphs import (
    LABELLED_INPUTS,
    WATERMARK_INPUTS,
    doubled,
    watermark,
    watermarked,
)

T = TypeVar("T")
Using = Callable[[Callable[[Engine], Awaitable[Any]]], Any]


@pytest.fixture(params=["ort", "triton", "triton-http"])
def using(request: pytest.FixtureRequest, repository: Path) -> Using:
    """Runs a coroutine function with an engine, which is closed afterwards."""
    make: Callable[[], Engine] = lambda: OrtEngine(repository, cores=1)  # noqa: E731
    if request.param != "ort":
        triton = request.getfixturevalue("triton")
        address = triton.address if request.param == "triton" else triton.endpoints
        make = lambda: TritonEngine(address)  # noqa: E731

    async def run(work: Callable[[Engine], Awaitable[Any]]) -> Any:
        engine = make()
        try:
            return await work(engine)
        finally:
            await engine.close()

    return lambda work: asyncio.run(run(work))


async def occupy(engine: Engine, label: int = 9) -> list[asyncio.Task[Any]]:
    """Long runs of ``slow``, one in each of its instances."""
    runs = []
    for _ in range(INSTANCES):
        runs.append(asyncio.create_task(engine.infer("slow", labelled(label), None, 30)))
        await asyncio.sleep(0.1)  # or they would be one batch
    return runs


def labelled(label: int, n: int = 1) -> dict[str, Any]:
    """Inputs of ``slow`` and ``fragile``."""
    return {**draw(LABELLED_INPUTS, [0] * n), "label": np.full((n, 1), label, np.int64)}


async def outcomes(*calls: Awaitable[Any]) -> list[Any]:
    """Answers and exceptions."""
    return list(await asyncio.gather(*calls, return_exceptions=True))


def test_it_gives_the_very_pixels_of_the_graph(using: Using) -> None:
    inputs = draw(WATERMARK_INPUTS, seed_range(3, 7))
    answer = using(lambda engine: engine.infer("marked", inputs, None, 10))
    np.testing.assert_array_equal(answer.image, watermarked(seed_range(3, 7)))


def test_a_gan_gives_what_onnxruntime_gives(using: Using, repository: Path) -> None:
    import onnxruntime

    inputs = draw(read(repository, "tiny_dcgan").card.inputs, seed_range(0, 5))
    answer = using(lambda engine: engine.infer("tiny_dcgan", inputs, None, 10))
    session = onnxruntime.InferenceSession(
        repository / "tiny_dcgan" / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    wanted = session.run(None, inputs)[0]
    assert np.abs(answer.image.astype(int) - wanted).max() <= 1


def test_a_full_batch_is_answered(using: Using) -> None:
    seeds = seed_range(0, MAX_BATCH_SIZE)
    answer = using(lambda engine: engine.infer("marked", draw(WATERMARK_INPUTS, seeds), None, 10))
    np.testing.assert_array_equal(answer.image, watermarked(seeds))


def test_it_offers_every_published_model(using: Using) -> None:
    found = using(lambda engine: engine.models())
    assert found == [
        "doubling",
        "fragile",
        "marked",
        "slow",
        "tiny_biggan",
        "tiny_dcgan",
        "versioned",
    ]


def test_it_knows_every_versions_card(using: Using, repository: Path) -> None:
    found = using(lambda engine: engine.published("versioned"))
    assert found == read(repository, "versioned")
    assert sorted(found.cards) == [1, 2]


@pytest.mark.parametrize("name", ["nobody", "../marked", "", "a\0b", "x" * 300])
def test_an_unknown_model_is_not_found(using: Using, name: str) -> None:
    with pytest.raises(ModelNotFound):
        using(lambda engine: engine.published(name))


def test_an_inference_of_an_unknown_model_is_not_found(using: Using) -> None:
    inputs = draw(WATERMARK_INPUTS, [0])
    with pytest.raises(ModelNotFound, match="'nobody'"):
        using(lambda engine: engine.infer("nobody", inputs, None, 10))


def test_an_unknown_version_is_not_found(using: Using) -> None:
    inputs = draw(WATERMARK_INPUTS, [0])
    with pytest.raises(ModelNotFound, match="marked"):
        using(lambda engine: engine.infer("marked", inputs, 9, 10))


@pytest.mark.parametrize(("pinned", "version", "shade"), [(1, 1, 0), (2, 2, 10), (None, 2, 10)])
def test_a_version_can_be_pinned_and_the_newest_is_the_default(
    using: Using, pinned: int | None, version: int, shade: int
) -> None:
    inputs = draw(WATERMARK_INPUTS, [0])
    answer = using(lambda engine: engine.infer("versioned", inputs, pinned, 10))
    assert answer.version == version
    assert answer.image[0, 0, 0, 2] == 70 + shade


def test_each_of_200_callers_at_once_gets_its_own_rows(using: Using) -> None:
    asked = [seed_range(1000 * i, 1 + i % 3) for i in range(200)]

    async def ask(engine: Engine) -> list[Any]:
        return await asyncio.gather(
            *(engine.infer("marked", draw(WATERMARK_INPUTS, seeds), None, 30) for seeds in asked)
        )

    for seeds, answer in zip(asked, using(ask), strict=True):
        np.testing.assert_array_equal(answer.image, watermarked(seeds))


def test_a_failing_row_fails_its_own_request_alone(using: Using) -> None:
    async def ask(engine: Engine) -> list[Any]:
        await engine.infer("fragile", labelled(0), None, 10)
        calls = (engine.infer("fragile", labelled(label), None, 10) for label in [3, 9, 5, 9, 7])
        return await outcomes(*calls)

    found = using(ask)
    assert [isinstance(one, InternalError) for one in found] == [False, True, False, True, False]
    assert [one.image[0, 0, 0, 0] for one in found[::2]] == [3, 5, 7]


def test_a_failure_keeps_its_details_to_the_log(
    using: Using, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InternalError) as failed:
        using(lambda engine: engine.infer("fragile", labelled(9), None, 10))
    assert "bounds" not in str(failed.value)
    assert "out of data bounds" in caplog.text


def test_a_full_queue_refuses_at_once_and_answers_the_rest(using: Using) -> None:
    async def ask(engine: Engine) -> list[Any]:
        await engine.infer("slow", labelled(0), None, 10)
        blocking = await occupy(engine, 30)  # for as long as it takes to ask by gRPC
        calls = (engine.infer("slow", labelled(0), None, 30) for _ in range(MAX_QUEUE_SIZE + 80))
        return [*await outcomes(*calls), *await asyncio.gather(*blocking)]

    found = using(ask)
    refused = [one for one in found if isinstance(one, Exception)]
    assert refused
    assert all(isinstance(one, QueueFull) and one.retry_after_s for one in refused)
    assert len(found) - len(refused) >= MAX_QUEUE_SIZE


def test_an_answer_that_takes_too_long_is_not_waited_for(using: Using) -> None:
    async def ask(engine: Engine) -> float:
        await engine.infer("slow", labelled(0), None, 10)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="slow gave no answer"):
            await engine.infer("slow", labelled(9), None, 0.1)
        return time.monotonic() - started

    assert using(ask) < 0.4


def test_a_request_whose_time_ran_out_in_the_queue_is_refused(using: Using) -> None:
    async def ask(engine: Engine) -> list[Any]:
        await engine.infer("slow", labelled(0), None, 10)
        blocking = await occupy(engine)
        waited = await outcomes(engine.infer("slow", labelled(0), None, 0.1))
        return [*waited, *await outcomes(*blocking)]

    waited, *blocking = using(ask)
    assert isinstance(waited, DeadlineExceeded)
    assert not any(isinstance(one, Exception) for one in blocking)


def test_whoever_cancels_sees_the_cancellation(using: Using) -> None:
    async def ask(engine: Engine) -> None:
        await engine.infer("slow", labelled(0), None, 10)
        task = asyncio.create_task(engine.infer("slow", labelled(9), None, 30))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    using(ask)


def test_a_request_in_flight_at_the_close_ends_as_a_service_error_or_is_answered(
    using: Using,
) -> None:
    async def ask(engine: Engine) -> list[Any]:
        await engine.infer("slow", labelled(0), None, 10)
        calls = [asyncio.create_task(engine.infer("slow", labelled(5), None, 30)) for _ in "abc"]
        await asyncio.sleep(0.05)
        await engine.close()
        return await outcomes(*calls)

    found = using(ask)
    assert all(not isinstance(one, BaseException) or isinstance(one, Unavailable) for one in found)


def test_it_counts_images_runs_and_parts_of_each_version(using: Using) -> None:
    async def marked(engine: Engine) -> Any:
        await asyncio.sleep(0.1)  # Triton counts a run once it has answered
        (found,) = (one for one in await engine.executions(5) if one.model == "marked")
        assert found.version == 1
        return found

    async def ask(engine: Engine) -> None:
        await engine.infer("marked", draw(WATERMARK_INPUTS, [0]), None, 10)
        before = await marked(engine)
        await engine.infer("marked", draw(WATERMARK_INPUTS, seed_range(0, 5)), None, 10)
        after = await marked(engine)
        assert (after.images, after.runs) == (before.images + 5, before.runs + 1)
        assert (after.succeeded, after.failed) == (before.succeeded + 1, before.failed)
        assert after.compute_s > before.compute_s

    using(ask)


def test_what_waits_behind_a_long_run_is_counted_as_waiting(using: Using) -> None:
    async def ask(engine: Engine) -> float:
        await engine.infer("slow", labelled(0), None, 10)
        before = after = await queued(engine)
        for _ in range(5):  # two long runs that share a batch leave an instance free
            blocking = await occupy(engine)
            await asyncio.gather(*blocking, engine.infer("slow", labelled(0), None, 30))
            after = await queued(engine)
            if after - before > 0.05:
                break
        return after - before

    async def queued(engine: Engine) -> float:
        return sum(one.queue_s for one in await engine.executions(5) if one.model == "slow")

    assert using(ask) > 0.05


def test_closing_twice_does_nothing(using: Using) -> None:
    async def ask(engine: Engine) -> None:
        await engine.infer("marked", draw(WATERMARK_INPUTS, [0]), None, 10)
        await engine.close()

    using(ask)


def test_tensors_of_another_shape_are_a_service_error(using: Using) -> None:
    inputs = {**draw(WATERMARK_INPUTS, [0]), "z": np.zeros((1, 7), np.float32)}
    with pytest.raises(ServiceError):
        using(lambda engine: engine.infer("marked", inputs, None, 10))


def test_shades_tell_the_versions_apart() -> None:
    assert watermark(shade=10) != watermark()


def test_pictures_of_different_sizes_at_once_come_back_each_its_own(using: Using) -> None:
    rng = np.random.default_rng(0)
    sizes = [(4, 8), (8, 4), (4, 8), (32, 4), (4, 8)]
    pictures = [rng.integers(0, 1 << 16, (*size, 3), dtype=np.uint16) for size in sizes]

    async def work(engine: Engine) -> list[Any]:
        inputs = ({"source": one[None]} for one in pictures)
        calls = (engine.infer("doubling", one, None, 10) for one in inputs)
        return await asyncio.gather(*calls)

    for picture, answer in zip(pictures, using(work), strict=True):
        np.testing.assert_array_equal(answer.image, doubled(picture)[None])
