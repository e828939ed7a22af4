"""Shared memory with a real Triton: every picture is right, and nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import SystemSharedMemoryStatusResponse
from tritonclient.utils import InferenceServerException

from gan_core.card import ImageOutput, LabelInput, LatentInput, TruncationInput
from gan_core.errors import DeadlineExceeded
from gan_serving import shared_memory
from gan_serving.local_triton import home
from gan_serving.repository import publish
from gan_serving.shared_memory import SHARED_BYTES, Regions, is_here
from gan_serving.triton_engine import TritonEngine
from gan_serving.triton_process import LocalTriton
from gan_serving.triton_tensors import shared_bytes
from tests.serving.graphs import CLASSES, watermark, write_export

SIDE = 424
INPUTS = (
    LatentInput(dim=SIDE, distribution="uniform"),
    LabelInput(classes=CLASSES),
    TruncationInput(default=0.7),
)
OUTPUT = ImageOutput(height=SIDE, width=SIDE, channels=3)
ONE_IMAGE = SIDE * SIDE * 3


@pytest.fixture(scope="module")
def address(has_triton: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Triton with ``large``, whose images are above the size that is shared."""
    folder = tmp_path_factory.mktemp("large")
    graph = watermark(z_dim=SIDE, width=SIDE)
    publish(write_export(folder / "1", "large", graph, INPUTS, OUTPUT), folder / "models")
    triton = LocalTriton(folder / "models", home=home(), log=folder / "log" / "triton.log")
    triton.start()
    using(triton.address, lambda engine: engine.load("large"))
    yield triton.address
    triton.stop()


def using(address: str, work: Callable[[TritonEngine], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        engine = TritonEngine(address)
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


def inputs_of(seed: int, n: int = 1) -> dict[str, Any]:
    z = np.random.default_rng(seed).uniform(-1, 1, (n, SIDE)).astype(np.float32)
    label = np.full((n, 1), seed % len(CLASSES), np.int64)
    return {"z": z, "label": label, "truncation": np.full((n, 1), 0.5, np.float32)}


def picture_of(seed: int, n: int = 1) -> Any:
    image = np.empty((n, SIDE, SIDE, 3), np.float32)
    image[..., 0] = (inputs_of(seed, n)["z"] * np.float32(127.5) + np.float32(127.5))[..., None]
    image[..., 1] = seed % len(CLASSES) * 20
    image[..., 2] = 50
    return np.round(image).astype(np.uint8)


async def check(engine: TritonEngine, seed: int, n: int = 1) -> None:
    answer = await engine.infer("large", inputs_of(seed, n), None, 30)
    np.testing.assert_array_equal(answer.image, picture_of(seed, n))


def named() -> list[Path]:
    """What this process has left: others, killed by tests or not, have their own."""
    return list(Path("/dev/shm").glob(f"{shared_memory._prefix()}{os.getpid()}-*"))


async def registered(engine: TritonEngine) -> list[str]:
    status = await engine._client.get_system_shared_memory_status()
    return sorted(status.regions)


def test_a_large_picture_comes_through_memory_that_has_no_name(address: str) -> None:
    async def work(engine: TritonEngine) -> None:
        await check(engine, 1)
        assert len(await registered(engine)) == 1
        assert named() == []
        await check(engine, 2)
        assert len(await registered(engine)) == 1  # the same again

    using(address, work)
    assert using(address, registered) == []


def test_concurrent_requests_of_many_sizes_get_their_own_pictures(address: str) -> None:
    async def work(engine: TritonEngine) -> None:
        for first in (0, 100):
            await asyncio.gather(*(check(engine, first + i, 1 + i % 7) for i in range(40)))
        assert len(await registered(engine)) > 1

    using(address, work)


def test_callers_that_give_up_spoil_nobody_elses_picture(address: str) -> None:
    async def give_up(engine: TritonEngine, seed: int) -> None:
        with pytest.raises(DeadlineExceeded):
            await engine.infer("large", inputs_of(seed, 8), None, 0.001)

    async def cancel(engine: TritonEngine, seed: int) -> None:
        task = asyncio.create_task(engine.infer("large", inputs_of(seed, 8), None, 30))
        await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def work(engine: TritonEngine) -> None:
        await check(engine, 0)
        for turn in range(3):
            await asyncio.gather(
                *(give_up(engine, turn + i) for i in range(3)),
                *(cancel(engine, turn + i) for i in range(3)),
                *(check(engine, 10 * turn + i, 8) for i in range(6)),
            )

    using(address, work)


def test_without_room_pictures_come_through_the_socket(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage("/dev/shm")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)

    async def work(engine: TritonEngine) -> None:
        await check(engine, 1)
        assert await registered(engine) == []

    using(address, work)


def test_no_more_than_so_many_bytes_are_taken(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "MOST_BYTES", 1 << 21)

    async def work(engine: TritonEngine) -> None:
        await asyncio.gather(*(check(engine, i) for i in range(20)))
        assert len(await registered(engine)) == 2

    using(address, work)


def test_a_triton_that_knows_no_region_any_more_is_asked_through_the_socket(address: str) -> None:
    async def work(engine: TritonEngine) -> None:
        await check(engine, 1)
        await engine._client.unregister_system_shared_memory()
        await check(engine, 2)
        assert await registered(engine) == []
        await check(engine, 3)
        assert len(await registered(engine)) == 1

    using(address, work)


def test_regions_of_a_process_that_was_killed_are_forgotten_by_the_next(address: str) -> None:
    program = f"""
import asyncio, os, signal
from gan_serving.shared_memory import Regions
from gan_serving.triton_engine import TritonEngine

async def work():
    await Regions(TritonEngine({address!r})._client).lease({ONE_IMAGE})
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(work())
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -9

    async def work(engine: TritonEngine) -> None:
        (old,) = await registered(engine)
        await check(engine, 1)
        (new,) = await registered(engine)
        assert new != old

    using(address, work)


def test_a_triton_that_refuses_is_not_asked_again_at_once() -> None:
    class Refusing:
        def __init__(self) -> None:
            self.asked = 0

        async def get_system_shared_memory_status(self, **options: Any) -> Any:
            self.asked += 1
            raise InferenceServerException("shared memory is not allowed")

    async def work() -> None:
        regions = Regions(client)
        assert await regions.lease(SHARED_BYTES) is None
        assert await regions.lease(SHARED_BYTES) is None

    client = Refusing()
    asyncio.run(work())
    assert client.asked == 1


class Agreeing:
    """A Triton that takes any region."""

    async def get_system_shared_memory_status(self, **options: Any) -> Any:
        return SystemSharedMemoryStatusResponse()

    async def register_system_shared_memory(self, *arguments: Any, **options: Any) -> None:
        pass


def test_a_region_is_nobody_elses_before_triton_has_answered() -> None:
    async def work() -> None:
        regions, answered = Regions(Agreeing()), asyncio.Event()
        region = await regions.lease(SHARED_BYTES)
        assert region is not None
        caller = asyncio.create_task(regions.run(region, answered.wait()))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        assert await regions.lease(SHARED_BYTES) is not region
        answered.set()
        await asyncio.sleep(0.01)
        assert await regions.lease(SHARED_BYTES) is region

    asyncio.run(work())


@pytest.mark.parametrize(
    ("status", "message", "is_free"),
    [
        ("INVALID_ARGUMENT", "no such shape", True),
        ("UNAVAILABLE", "Request timeout expired", True),
        ("UNAVAILABLE", "Socket closed", False),
        ("CANCELLED", "", False),
    ],
)
def test_a_region_is_free_again_only_if_triton_itself_refused(
    status: str, message: str, is_free: bool
) -> None:
    async def failing() -> None:
        raise InferenceServerException(message, status=f"StatusCode.{status}")

    async def work() -> None:
        regions = Regions(Agreeing())
        region = await regions.lease(SHARED_BYTES)
        assert region is not None
        with pytest.raises(InferenceServerException):
            await regions.run(region, failing())
        assert (await regions.lease(SHARED_BYTES) is region) == is_free

    asyncio.run(work())


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:8001", True), ("localhost:8001", True), ("triton:8001", False), ("", False)],
)
def test_only_a_triton_of_this_machine_shares_memory(address: str, expected: bool) -> None:
    assert is_here(address) is expected


def test_what_follows_an_image_that_came_in_is_measured_by_it() -> None:
    small = {"image": np.zeros((1, 10, 10, 3), np.uint8)}
    large = {"image": np.zeros((2, 300, 400, 3), np.uint8)}
    output = ImageOutput(channels=3, scale=4)
    assert shared_bytes(output, small) == (0, 0)
    made = 2 * 1200 * 1600 * 3
    assert shared_bytes(output, large) == (made, made + 2 * 300 * 400 * 3)
