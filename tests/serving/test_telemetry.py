"""What operators see: counts and times of what happened, and a line per request."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gan_core.errors import QueueFull, Unavailable
from gan_serving.admin import create_admin_app
from gan_serving.engine import Executions
from gan_serving.engine_metrics import ACCOUNT, EngineMetrics
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.gateway import create_app
from gan_serving.logs import set_up_logs
from gan_serving.operations import Operator
from gan_serving.readiness import Readiness
from gan_serving.service import ImageService
from gan_serving.telemetry import Telemetry
from tests.serving.fake_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import EventDict

URL = "/v1/images/generations"
GENERATE = {"method": "POST", "url": URL, "json": {"model": "marked", "n": 3}}


def no_operator() -> Operator:
    async def follow(model: str) -> None:
        raise AssertionError(model)

    return Operator(None, follow)


Samples = dict[tuple[str, ...], float]


def counted(*requests: dict[str, Any], engine: FakeEngine | None = None) -> Samples:
    """Samples after those requests, by name and values of the labels, in the labels' order."""

    async def ask() -> str:
        service = ImageService(engine or FakeEngine())
        readiness, telemetry = Readiness(service), Telemetry(service)
        service.on_run = telemetry.ran
        gatekeeper = Gatekeeper(None)
        app = create_app(service, readiness, gatekeeper, telemetry)
        admin = create_admin_app(
            service, readiness, telemetry.exposition, gatekeeper, no_operator()
        )
        async with (
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://g") as client,
            httpx.AsyncClient(transport=httpx.ASGITransport(admin), base_url="http://a") as other,
        ):
            for request in requests:
                await client.request(**request)
            return (await other.get("/metrics")).text

    return {
        (sample.name, *(str(value) for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(asyncio.run(ask()))
        for sample in family.samples
    }


@pytest.fixture(autouse=True)
def _quiet_again() -> Iterator[None]:
    import logging

    import structlog

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_requests_are_counted_by_route_model_and_outcome() -> None:
    found = counted(GENERATE, GENERATE, {"method": "GET", "url": "/v1/models/marked"})
    assert found["ganforge_requests_total", "200", "marked", "http", URL] == 2
    assert found["ganforge_requests_total", "200", "", "http", "/v1/models/{model}"] == 1
    assert found["ganforge_request_seconds_count", "marked", "http", URL] == 2


def test_engine_time_parts_and_encoding_are_measured() -> None:
    engine = FakeEngine()
    engine.delay_s = 0.05
    found = counted(GENERATE, engine=engine)
    assert found["ganforge_engine_seconds_sum", "marked"] >= 0.05
    assert found["ganforge_part_images_sum", "marked"] == 3
    assert found["ganforge_encode_seconds_count", "png"] == 1


def test_queues_are_empty_when_all_is_answered() -> None:
    found = counted(GENERATE)
    assert found["ganforge_running_images", "marked"] == 0
    assert found["ganforge_waiting_images", "marked"] == 0


def test_an_engines_own_account_is_shown_by_version() -> None:
    engine = FakeEngine()
    engine.done = [
        Executions(
            model="marked",
            version=2,
            images=24,
            runs=3,
            succeeded=12,
            failed=1,
            queue_s=0.5,
            compute_s=1.5,
            queued=4,
        )
    ]
    found = counted(engine=engine)
    assert found["ganforge_engine_images_total", "marked", "2"] == 24
    assert found["ganforge_engine_runs_total", "marked", "2"] == 3
    assert found["ganforge_engine_parts_total", "marked", "succeeded", "2"] == 12
    assert found["ganforge_engine_parts_total", "marked", "failed", "2"] == 1
    assert found["ganforge_engine_queue_seconds_total", "marked", "2"] == 0.5
    assert found["ganforge_engine_compute_seconds_total", "marked", "2"] == 1.5
    assert found["ganforge_engine_queued_parts", "marked", "2"] == 4


def test_an_account_is_one_tritons_but_times_are_of_each_process() -> None:
    own = EngineMetrics([]).collect()
    assert {family.name for family in own} == set(ACCOUNT)
    assert not "ganforge_engine_seconds".startswith(ACCOUNT)


def test_an_engine_that_is_away_leaves_the_other_numbers() -> None:
    engine = FakeEngine()
    engine.error = Unavailable("Triton is not available now")
    found = counted(GENERATE, engine=engine)
    assert found["ganforge_requests_total", "503", "marked", "http", URL] == 1
    assert not any(key[0].startswith("ganforge_engine_images") for key in found)


def test_what_a_client_makes_up_is_no_label() -> None:
    made_up = {"method": "POST", "url": URL, "json": {"model": "invented"}}
    found = counted(made_up, {"method": "GET", "url": "/invented"})
    assert found["ganforge_requests_total", "404", "", "http", URL] == 1
    assert found["ganforge_requests_total", "404", "", "http", ""] == 1
    assert not any("invented" in "".join(key) for key in found)


def test_a_refusal_is_counted_by_its_status() -> None:
    engine = FakeEngine()
    engine.error = QueueFull("full")
    found = counted(GENERATE, engine=engine)
    assert found["ganforge_requests_total", "429", "marked", "http", URL] == 1


def test_each_request_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("json", "info")
    counted({**GENERATE, "headers": {"X-Request-Id": "mine"}})
    (line,) = [entry for text in capsys.readouterr().err.splitlines() if (entry := entry_of(text))]
    assert (line["request_id"], line["route"], line["code"]) == ("mine", URL, "200")
    assert (line["level"], line["logger"], line["event"]) == ("info", "ganforge.access", "request")
    assert line["ms"] >= 0
    assert line["timestamp"].endswith("Z")


def entry_of(text: str) -> EventDict | None:
    entry: EventDict = json.loads(text)
    return entry if entry["logger"] == "ganforge.access" else None


def test_what_libraries_log_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    set_up_logs("json")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("some.library").exception("it broke: %s", "badly")
    entry = json.loads(capsys.readouterr().err)
    assert (entry["event"], entry["logger"]) == ("it broke: badly", "some.library")
    assert "ValueError: why" in entry["exception"]


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_traceback_tells_nothing_of_values(
    capsys: pytest.CaptureFixture[str], style: str
) -> None:
    import logging

    set_up_logs(style)
    key = "gf_" + "secret"
    try:
        raise ValueError(len(key))
    except ValueError:
        logging.getLogger("some.library").exception("it broke")
    logged = capsys.readouterr().err
    assert "ValueError: 9" in logged
    assert "gf_secret" not in logged


def test_a_client_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("json", "info")
    counted({"method": "GET", "url": "/livez", "headers": {"X-Request-Id": 'a","level":"x'}})
    entries = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert all(entry["level"] == "info" for entry in entries)
