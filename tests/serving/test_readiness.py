"""Readiness: one real inference per model, shared by all who ask."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from gan_core.errors import InternalError, Unavailable
from gan_serving import readiness as module
from gan_serving.gateway import readiness_response
from gan_serving.readiness import Readiness
from gan_serving.service import ImageService
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import card_of, watermark

if TYPE_CHECKING:
    import pytest


def test_a_model_that_answers_has_no_problem() -> None:
    assert asyncio.run(Readiness(ImageService(FakeEngine())).check()) == {"marked": None}


def test_a_model_that_fails_has_its_error() -> None:
    engine = FakeEngine()
    engine.error = Unavailable("its backend is dead")
    found = asyncio.run(Readiness(ImageService(engine)).check())
    assert str(found["marked"]) == "its backend is dead"


def test_a_wrong_picture_is_a_problem() -> None:
    engine = FakeEngine(answer=lambda inputs: inputs["z"])
    found = asyncio.run(Readiness(ImageService(engine)).check())
    assert isinstance(found["marked"], InternalError)


def test_any_number_of_probes_cost_one_inference_a_second() -> None:
    engine = FakeEngine(card_of(watermark(), "a"), card_of(watermark(), "b"))
    engine.delay_s = 0.01

    async def probe() -> None:
        readiness = Readiness(ImageService(engine))
        await asyncio.gather(*(readiness.check() for _ in range(50)))

    asyncio.run(probe())
    assert len(engine.asked) == 2  # one per model


def test_the_answer_is_found_anew_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_S", 0.01)
    engine = FakeEngine()

    async def probe() -> list[bool]:
        readiness = Readiness(ImageService(engine))
        found = [(await readiness.check())["marked"] is None]
        engine.error = Unavailable("gone")
        await asyncio.sleep(0.02)
        return [*found, (await readiness.check())["marked"] is None]

    assert asyncio.run(probe()) == [True, False]


def answer_with(remarks: dict[str, str], engine: FakeEngine | None = None) -> tuple[int, object]:
    readiness = Readiness(ImageService(engine or FakeEngine()), lambda: remarks)
    answer = asyncio.run(readiness_response(readiness))
    return answer.status_code, json.loads(bytes(answer.body))["models"]


def test_a_remark_stands_beside_ready_and_makes_nothing_unready() -> None:
    found = answer_with({"marked": "broken on disk", "other": "unloaded"})
    assert found == (200, {"marked": "ready; broken on disk", "other": "unloaded"})


def test_a_remark_hides_no_problem() -> None:
    engine = FakeEngine()
    engine.error = Unavailable("its backend is dead")
    found = answer_with({"marked": "broken on disk"}, engine)
    assert found == (503, {"marked": "its backend is dead"})


def test_about_to_stop_probes_say_no_and_the_supervisor_still_sees_the_truth() -> None:
    # or it would take Triton for dead, and restart it under what is in flight
    readiness = Readiness(ImageService(FakeEngine()))
    readiness.draining = True

    async def ask() -> tuple[int, object]:
        return (await readiness_response(readiness)).status_code, await readiness.check()

    assert asyncio.run(ask()) == (503, {"marked": None})
