"""What lies between gateway and Triton is slow, cut, spoilt or half open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gan_serving.local_triton import home
from gan_serving.repository import publish
from gan_serving.triton_engine import TritonEngine
from gan_serving.triton_process import LocalTriton
from tests.faults.asking import Asker, answered, refused, seconds_until
from tests.faults.proxy import Fault, Proxy, cut, delayed, garbage, nothing, silence
from tests.serving.graphs import write_export
from tests.serving.processes import Load, Serving, wait_until

CALLERS = 4
WAITS_S = 1.0
REFUSALS = (429, 500, 503, 504)
NOWHERE = Path("nowhere")
"""The repository is Triton's own business."""


@pytest.fixture(scope="module")
def triton(has_triton: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """One that nobody supervises, with ``marked``."""
    folder = tmp_path_factory.mktemp("triton")
    publish(write_export(folder / "marked", "marked"), folder / "own")
    triton = LocalTriton(folder / "own", home=home(), log=folder / "triton.log")
    triton.start()
    asyncio.run(load(triton.address, "marked"))
    yield triton
    triton.stop()


async def load(address: str, model: str) -> None:
    engine = TritonEngine(address)
    await engine.load(model)
    await engine.close()


FAULTS: dict[str, tuple[Fault, int]] = {
    "cut in the middle of the answer": (cut, 503),
    "garbage": (garbage, 503),
    "half open": (silence, 504),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_spoilt_connection_gives_typed_errors_and_mends(
    triton: LocalTriton, asking: Callable[..., Asker], name: str, note: Callable[..., None]
) -> None:
    fault, status = FAULTS[name]
    with (
        Proxy(triton.address) as proxy,
        Serving(NOWHERE, "triton", "--triton", proxy.address) as serving,
    ):
        asker = asking(serving.url, REFUSALS, WAITS_S)
        with Load(CALLERS, asker.ask):
            assert wait_until(lambda: len(asker.statuses) > 20)
            proxy.fault = fault
            assert wait_until(lambda: status in asker.statuses)
            told = seconds_until(lambda: not serving.ready(), 8)
            proxy.fault = nothing
            healed = answered(asker)
            assert wait_until(serving.ready, 10)
    assert max(asker.seconds) < WAITS_S + 1
    note(f"connection to Triton: {name}", told_s=told, healed_s=healed, refused=refused(asker))


def test_answers_that_come_too_late_are_504_and_nobody_elses(
    triton: LocalTriton, asking: Callable[..., Asker], note: Callable[..., None]
) -> None:
    with (
        Proxy(triton.address) as proxy,
        Serving(NOWHERE, "triton", "--triton", proxy.address) as serving,
    ):
        asker = asking(serving.url, REFUSALS, WAITS_S)
        with Load(CALLERS, asker.ask):
            assert wait_until(lambda: len(asker.statuses) > 20)
            proxy.fault = delayed(2 * WAITS_S)
            assert wait_until(lambda: 504 in asker.statuses)
            proxy.fault = nothing
            healed = answered(asker)
    assert max(asker.seconds) < WAITS_S + 1
    note("connection to Triton: too slow", healed_s=healed, refused=refused(asker))


def test_a_triton_that_answers_late_is_slow_and_not_broken(
    triton: LocalTriton, asking: Callable[..., Asker]
) -> None:
    with (
        Proxy(triton.address) as proxy,
        Serving(NOWHERE, "triton", "--triton", proxy.address) as serving,
    ):
        asker = asking(serving.url, ())
        proxy.fault = delayed(0.2)
        for seed in range(3):
            asker.ask(seed)
        assert serving.ready()
    assert min(asker.seconds) > 0.2
