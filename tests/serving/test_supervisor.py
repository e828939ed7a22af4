"""Supervision of a real Triton: it follows the repository, and mends what breaks."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from gan_core.errors import InternalError, ModelNotFound, ServiceError, Unavailable
from gan_core.latents import draw
from gan_serving import readiness as readiness_module
from gan_serving import supervisor as supervisor_module
from gan_serving import triton_engine
from gan_serving.local_triton import home
from gan_serving.readiness import Readiness
from gan_serving.repository import model_names, publish
from gan_serving.service import ImageService
from gan_serving.supervisor import Supervisor
from gan_serving.triton_engine import TritonEngine
from gan_serving.triton_process import LocalTriton
from tests.serving.graphs import WATERMARK_INPUTS, watermark, write_export

pytestmark = pytest.mark.usefixtures("has_triton", "quick")

INPUTS = draw(WATERMARK_INPUTS, [0])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of a tenth of a second."""
    monkeypatch.setattr(supervisor_module, "ROUND_S", 0.1)
    monkeypatch.setattr(readiness_module, "FRESH_S", 0.05)
    monkeypatch.setattr(readiness_module, "PROBE_TIMEOUT_S", 0.5)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    publish(write_export(tmp_path / "1", "marked"), tmp_path / "own")
    return tmp_path / "own"


Work = Callable[[LocalTriton, TritonEngine], Coroutine[Any, Any, Any]]


@pytest.fixture
def supervised(own: Path, tmp_path: Path) -> Callable[[Work], Any]:
    """Runs a coroutine function beside a supervised Triton."""

    async def run(work: Work) -> Any:
        triton = LocalTriton(own, home=home(), log=tmp_path / "log" / "triton.log")
        engine = TritonEngine("", lambda: model_names(own))
        supervisor = Supervisor(triton, engine, own, Readiness(ImageService(engine)))
        try:
            await supervisor.start()
            watching = asyncio.create_task(supervisor.run())
            try:
                return await work(triton, engine)
            finally:
                assert not watching.done(), "supervision ended"
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        finally:
            await supervisor.stop()
            assert not triton.alive()

    return lambda work: asyncio.run(run(work))


async def shade(engine: TritonEngine, model: str = "marked") -> int | None:
    """Channel 2 of a picture, or None where there is none."""
    try:
        answer = await engine.infer(model, INPUTS, None, 5)
    except ServiceError:
        return None
    return int(answer.image[0, 0, 0, 2])


async def comes(claim: Callable[[], Coroutine[Any, Any, bool]], timeout_s: float = 20) -> bool:
    """Whether the claim comes true in time."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await claim():
                await asyncio.sleep(0.05)
    except TimeoutError:
        return False
    return True


def test_what_is_published_serves_from_the_start(supervised: Callable[[Work], Any]) -> None:
    assert supervised(lambda _, engine: shade(engine)) == 70


def test_a_new_version_and_a_new_model_are_picked_up(
    supervised: Callable[[Work], Any], own: Path, tmp_path: Path
) -> None:
    newer = write_export(tmp_path / "2", "marked", watermark(shade=10))
    other = write_export(tmp_path / "3", "other")

    async def work(triton: LocalTriton, engine: TritonEngine) -> None:
        publish(newer, own)
        publish(other, own)

        async def picked_up() -> bool:
            return await shade(engine) == 80 and await shade(engine, "other") == 70

        assert await comes(picked_up)
        assert sorted((await engine.published("marked")).cards) == [1, 2]

    supervised(work)


def test_a_removed_model_is_unloaded(supervised: Callable[[Work], Any], own: Path) -> None:
    async def work(triton: LocalTriton, engine: TritonEngine) -> None:
        shutil.rmtree(own / "marked")

        async def gone() -> bool:
            try:
                await engine.infer("marked", INPUTS, None, 5)
            except ModelNotFound:
                return True
            return False

        assert await comes(gone)
        assert await engine.models() == []

    supervised(work)


def test_a_killed_triton_is_started_again(supervised: Callable[[Work], Any]) -> None:
    async def work(triton: LocalTriton, engine: TritonEngine) -> None:
        pid = triton.pid
        psutil.Process(pid).kill()

        async def back() -> bool:
            return await shade(engine) == 70 and triton.pid != pid

        assert await comes(back)

    supervised(work)


def alive(triton: LocalTriton) -> set[int]:
    """Backend processes that aren't dead."""
    children = psutil.Process(triton.pid).children()
    return {one.pid for one in children if one.status() != psutil.STATUS_ZOMBIE}


@pytest.mark.parametrize("killed", [1, 2])
def test_a_killed_backend_is_loaded_afresh_and_triton_kept(
    supervised: Callable[[Work], Any], killed: int
) -> None:
    async def work(triton: LocalTriton, engine: TritonEngine) -> None:
        pid, before = triton.pid, alive(triton)
        for stub in psutil.Process(pid).children()[:killed]:
            stub.kill()

        async def back() -> bool:
            return len(alive(triton) - before) == len(before) and await shade(engine) == 70

        assert await comes(back)
        assert triton.pid == pid

        after = alive(triton)
        await asyncio.sleep(0.5)  # five rounds: nothing is healed that is well
        assert alive(triton) == after

    supervised(work)


def test_a_triton_that_hangs_is_replaced(
    supervised: Callable[[Work], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_engine, "CONTROL_TIMEOUT_S", 0.5)
    monkeypatch.setattr(supervisor_module, "SILENT_STOP_S", 0.2)

    async def work(triton: LocalTriton, engine: TritonEngine) -> None:
        pid = triton.pid
        psutil.Process(pid).suspend()

        async def back() -> bool:
            return triton.alive() and triton.pid != pid and await shade(engine) == 70

        assert await comes(back)

    supervised(work)


def test_a_graph_that_cannot_be_loaded_does_not_disturb_the_others(
    supervised: Callable[[Work], Any], own: Path, tmp_path: Path
) -> None:
    other = write_export(tmp_path / "2", "other")

    async def work(triton: LocalTriton, engine: TritonEngine) -> None:
        pid = triton.pid
        publish(other, tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "other" / "1" / "model.onnx").write_bytes(b"broken")
        shutil.copytree(tmp_path / "elsewhere" / "other", own / "other")
        for _ in range(40):
            assert await shade(engine) == 70
            await asyncio.sleep(0.1)
        assert triton.pid == pid
        assert await engine.models() == ["marked", "other"]  # so /readyz tells of it

    supervised(work)


def test_an_entry_that_cannot_be_read_does_not_disturb_the_models(
    supervised: Callable[[Work], Any], own: Path, tmp_path: Path
) -> None:
    (own / "notes").symlink_to("/nowhere")
    (own / "loop").symlink_to("loop")
    other = write_export(tmp_path / "2", "other")

    async def work(triton: LocalTriton, engine: TritonEngine) -> None:
        pid = triton.pid
        publish(other, own)

        async def picked_up() -> bool:
            return await shade(engine, "other") == 70

        assert await comes(picked_up)
        await asyncio.sleep(0.5)  # five rounds
        assert await engine.models() == ["marked", "other"]
        assert triton.pid == pid

    supervised(work)


def test_an_error_that_triton_answers_is_no_silence(own: Path, tmp_path: Path) -> None:
    asked = 0

    class Complaining(TritonEngine):
        async def models(self) -> list[str]:
            nonlocal asked
            asked += 1
            raise InternalError("the engine failed")

    async def watch() -> None:
        triton = LocalTriton(own, home=home(), log=tmp_path / "log" / "triton.log")
        engine = Complaining("")
        supervisor = Supervisor(triton, engine, own, Readiness(ImageService(engine)))
        try:
            await supervisor.start()
            watching = asyncio.create_task(supervisor.run())

            async def rounds() -> bool:
                return asked > 2 * supervisor_module.SILENT_ROUNDS_BEFORE_RESTART

            assert await comes(rounds)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            assert not supervisor.restarted
        finally:
            await supervisor.stop()

    asyncio.run(watch())


def test_a_graph_that_triton_refuses_is_tried_again_with_pauses(own: Path, tmp_path: Path) -> None:
    tried: list[str] = []

    class Refusing(TritonEngine):
        async def load(self, model: str) -> None:
            tried.append(model)
            raise Unavailable(f"Triton can't load {model!r}")

        async def models(self) -> list[str]:
            return ["marked"]

    async def watch(seconds: float) -> None:
        triton = LocalTriton(own, home=home(), log=tmp_path / "log" / "triton.log")
        engine = Refusing("")
        supervisor = Supervisor(triton, engine, own, Readiness(ImageService(engine)))
        try:
            await supervisor.start()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(supervisor.run(), seconds)
        finally:
            await supervisor.stop()

    asyncio.run(watch(3.0))  # thirty rounds: at the start, in the first, and after 2 s
    assert 2 <= len(tried) <= 3
