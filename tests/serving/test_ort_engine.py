"""What the engine in this process does beyond the contract: it follows the repository."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gan_core.errors import InternalError, ModelNotFound, Unavailable
from gan_core.latents import draw
from gan_serving.ort_engine import OrtEngine
from gan_serving.repository import publish
from gan_serving.triton_config import MAX_QUEUE_SIZE
from tests.serving.graphs import (
    LABELLED_INPUTS,
    WATERMARK_INPUTS,
    watermark,
    watermarked,
    write_export,
)
from tests.serving.processes import wait_until

INPUTS = draw(WATERMARK_INPUTS, [0])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A repository to publish into, with ``marked`` in it."""
    publish(write_export(tmp_path / "1", "marked"), tmp_path / "own")
    return tmp_path / "own"


def using(repository: Path, work: Callable[[OrtEngine], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        engine = OrtEngine(repository, cores=1)
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


def workers() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("onnxruntime ")]


def test_a_new_version_is_picked_up_by_itself(own: Path, tmp_path: Path) -> None:
    newer = write_export(tmp_path / "2", "marked", watermark(shade=10))

    async def ask(engine: OrtEngine) -> list[tuple[int, int]]:
        answers = [await engine.infer("marked", INPUTS, None, 10)]
        publish(newer, own)
        answers.append(await engine.infer("marked", INPUTS, None, 10))
        return [(one.version, int(one.image[0, 0, 0, 2])) for one in answers]

    assert using(own, ask) == [(1, 70), (2, 80)]


def test_a_new_model_is_picked_up_by_itself(own: Path, tmp_path: Path) -> None:
    other = write_export(tmp_path / "2", "other")

    async def ask(engine: OrtEngine) -> list[str]:
        publish(other, own)
        await engine.infer("other", INPUTS, None, 10)
        return await engine.models()

    assert using(own, ask) == ["marked", "other"]


def test_a_version_that_is_no_longer_warm_lets_go_of_its_thread(own: Path, tmp_path: Path) -> None:
    async def ask(engine: OrtEngine) -> list[str]:
        for shade in (1, 2, 3):
            await engine.infer("marked", INPUTS, None, 10)
            publish(write_export(tmp_path / str(shade), "marked", watermark(shade=shade)), own)
        await engine.infer("marked", INPUTS, None, 10)
        assert wait_until(lambda: len(workers()) <= 2, 5)
        with pytest.raises(ModelNotFound, match=r"no version 1; serving: \[3, 4\]"):
            await engine.infer("marked", INPUTS, 1, 10)
        return workers()

    assert set(using(own, ask)) <= {"onnxruntime marked@3", "onnxruntime marked@4"}


def test_a_model_that_was_removed_and_published_anew_serves_the_new_graph(
    own: Path, tmp_path: Path
) -> None:
    newer = write_export(tmp_path / "2", "marked", watermark(shade=10))

    async def ask(engine: OrtEngine) -> int:
        await engine.infer("marked", INPUTS, None, 10)
        shutil.rmtree(own / "marked")
        publish(newer, own)
        return int((await engine.infer("marked", INPUTS, None, 10)).image[0, 0, 0, 2])

    assert using(own, ask) == 80


def test_a_new_version_that_cannot_be_loaded_leaves_the_one_before(
    own: Path, tmp_path: Path
) -> None:
    newer = write_export(tmp_path / "2", "marked", watermark(shade=10))

    async def ask(engine: OrtEngine) -> list[int]:
        await engine.infer("marked", INPUTS, None, 10)
        _, folder = publish(newer, own)
        (folder / "model.onnx").write_bytes(b"broken")
        before = [(await engine.infer("marked", INPUTS, None, 10)).version for _ in range(2)]
        publish(newer, own)
        return [*before, (await engine.infer("marked", INPUTS, None, 10)).version]

    assert using(own, ask) == [1, 1, 3]


def test_a_new_version_is_loaded_even_if_its_first_caller_gives_up(
    own: Path, tmp_path: Path
) -> None:
    newer = write_export(tmp_path / "2", "marked", watermark(shade=10))

    async def ask(engine: OrtEngine) -> int:
        await engine.infer("marked", INPUTS, None, 10)
        publish(newer, own)
        first = asyncio.create_task(engine.published("marked"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        return (await engine.infer("marked", INPUTS, None, 10)).version

    assert using(own, ask) == 2


def test_a_removed_model_is_not_found(own: Path) -> None:
    async def ask(engine: OrtEngine) -> None:
        await engine.infer("marked", INPUTS, None, 10)
        shutil.rmtree(own / "marked")
        with pytest.raises(ModelNotFound):
            await engine.infer("marked", INPUTS, None, 10)

    using(own, ask)


def test_closing_ends_the_threads(own: Path) -> None:
    using(own, lambda engine: engine.infer("marked", INPUTS, None, 10))
    assert wait_until(lambda: not workers(), 5)


def test_a_graph_that_cannot_be_loaded_is_unavailable(own: Path) -> None:
    (own / "marked" / "1" / "model.onnx").write_bytes(b"broken")
    with pytest.raises(Unavailable, match="version 1 of 'marked' can't be loaded"):
        using(own, lambda engine: engine.infer("marked", INPUTS, None, 10))


def test_what_serves_goes_on_serving_while_its_configuration_is_unreadable(own: Path) -> None:
    async def ask(engine: OrtEngine) -> bool:
        before = await engine.infer("marked", INPUTS, None, 10)
        (own / "marked" / "config.pbtxt").write_text("{{{")
        after = await engine.infer("marked", INPUTS, None, 10)
        return bool((before.image == after.image).all())

    assert using(own, ask)


def test_without_a_repository_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no such folder"):
        OrtEngine(tmp_path / "nothing")


def test_callers_that_come_first_at_the_same_time_load_one_session(own: Path) -> None:
    async def ask(engine: OrtEngine) -> list[str]:
        calls = (engine.infer("marked", INPUTS, None, 10) for _ in range(20))
        for answer in await asyncio.gather(*calls):
            np.testing.assert_array_equal(answer.image, watermarked([0]))
        return workers()

    assert using(own, ask) == ["onnxruntime marked@1"]


def labelled(label: int) -> dict[str, Any]:
    return {**draw(LABELLED_INPUTS, [0]), "label": np.full((1, 1), label, np.int64)}


def test_cancelled_callers_free_their_places_in_the_queue(repository: Path) -> None:
    # Triton 2.51 keeps a cancelled request's place until the run before it ends

    async def ask(engine: OrtEngine) -> list[Any]:
        await engine.infer("slow", labelled(0), None, 10)
        blocking = asyncio.create_task(engine.infer("slow", labelled(9), None, 30))
        await asyncio.sleep(0.05)
        waiting = [
            asyncio.create_task(engine.infer("slow", labelled(0), None, 30))
            for _ in range(MAX_QUEUE_SIZE)
        ]
        await asyncio.sleep(0.02)
        assert not blocking.done()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0.05)
        calls = (engine.infer("slow", labelled(0), None, 30) for _ in range(20))
        return [*await asyncio.gather(*calls), await blocking]

    assert len(using(repository, ask)) == 21


def test_it_counts_batches_failures_and_what_waits(repository: Path) -> None:
    async def ask(engine: OrtEngine) -> Any:
        await engine.infer("fragile", labelled(0), None, 10)
        with pytest.raises(InternalError):
            await engine.infer("fragile", labelled(9), None, 10)
        await engine.infer("slow", labelled(0), None, 10)
        blocking = asyncio.create_task(engine.infer("slow", labelled(9), None, 30))
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(engine.infer("slow", labelled(0), None, 30)) for _ in "abc"]
        await asyncio.sleep(0)
        before = {one.model: one for one in await engine.executions(1)}
        await asyncio.gather(blocking, *waiting)
        (after,) = (one for one in await engine.executions(1) if one.model == "slow")
        return before["fragile"], before["slow"], after

    fragile, before, after = using(repository, ask)
    assert (fragile.images, fragile.succeeded, fragile.failed) == (1, 1, 1)
    assert (before.queued, after.queued) == (3, 0)
    assert (after.runs, after.images, after.succeeded) == (3, 5, 5)  # the last three in one batch
