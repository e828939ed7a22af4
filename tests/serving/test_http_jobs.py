"""Jobs over HTTP: accepted, asked for, fetched, cancelled, and the same for the same key."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from gan_core.errors import InternalError, Unavailable
from gan_serving import jobs
from gan_serving.engine import Inference
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.gateway import create_app
from gan_serving.http_jobs import JobRunner
from gan_serving.jobs import JobStore
from gan_serving.readiness import Readiness
from gan_serving.service import ImageService
from tests.serving.fake_engine import FakeEngine

T = TypeVar("T")
URL = "/v1/images/generations"
LATER = {"Prefer": "respond-async"}
BODY = {"model": "marked", "n": 3, "seed": 5}


@asynccontextmanager
async def served(path: Path, engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    service = ImageService(engine)
    runner = JobRunner(JobStore(path / "jobs.sqlite"), service)
    app = create_app(service, Readiness(service), Gatekeeper(None), runner=runner)
    running = asyncio.create_task(runner.run())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def run(
    path: Path,
    work: Callable[[httpx.AsyncClient], Awaitable[T]],
    engine: FakeEngine | None = None,
) -> T:
    async def running() -> T:
        async with asyncio.timeout(30), served(path, engine or FakeEngine()) as client:
            return await work(client)

    return asyncio.run(running())


async def submitted(client: httpx.AsyncClient, **headers: str) -> str:
    answer = await client.post(URL, json=BODY, headers={**LATER, **headers})
    assert answer.status_code == 202
    location: str = answer.headers["location"]
    assert location == f"/v1/jobs/{answer.json()['id']}"
    return location


async def ended(client: httpx.AsyncClient, location: str) -> httpx.Response:
    while (answer := await client.get(f"{location}/result")).status_code == 202:
        await asyncio.sleep(0.01)
    return answer


def test_a_job_answers_as_the_request_itself_would(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> list[Any]:
        location = await submitted(client)
        later = (await ended(client, location)).json()
        at_once = (await client.post(URL, json=BODY)).json()
        status = (await client.get(location)).json()["status"]
        return [later["data"], at_once["data"], status]

    later, at_once, status = run(tmp_path, work)
    assert later == at_once
    assert status == "succeeded"


def test_what_cannot_be_fulfilled_is_refused_at_once(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> int:
        answer = await client.post(URL, json={"model": "marked", "label": 99}, headers=LATER)
        return answer.status_code

    assert run(tmp_path, work) == 422


def test_a_failure_is_the_answer(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.error = InternalError("secret /etc/path")

    async def work(client: httpx.AsyncClient) -> httpx.Response:
        return await ended(client, await submitted(client))

    answer = run(tmp_path, work, engine)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text


class HealsLater(FakeEngine):
    """Is down the first time."""

    async def infer(self, *arguments: Any) -> Inference:
        if not self.asked:
            self.asked.append({})
            raise Unavailable("being healed")
        return await super().infer(*arguments)


def test_a_model_that_is_down_is_waited_for(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> int:
        return (await ended(client, await submitted(client))).status_code

    assert run(tmp_path, work, HealsLater()) == 200


def test_jobs_go_on_once_their_file_can_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BUSY_S", 0.01)

    async def work(client: httpx.AsyncClient) -> list[int]:
        other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        refused = await client.post(URL, json=BODY, headers=LATER)
        await asyncio.sleep(1.1)  # the runner has looked for jobs meanwhile, and found none
        other.close()
        return [refused.status_code, (await ended(client, await submitted(client))).status_code]

    assert run(tmp_path, work) == [503, 200]


def test_a_cancelled_job_has_no_result(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.delay_s = 60

    async def work(client: httpx.AsyncClient) -> list[Any]:
        location = await submitted(client)
        gone = await client.delete(location)
        answer = await client.get(f"{location}/result")
        return [gone.json()["status"], answer.status_code, answer.json()["detail"]]

    status, code, detail = run(tmp_path, work, engine)
    assert (status, code) == ("cancelled", 404)
    assert "was cancelled" in detail


def test_the_same_key_is_the_same_job(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> tuple[set[str], httpx.Response]:
        key = {"Idempotency-Key": "mine"}
        found = {await submitted(client, **key) for _ in range(2)}
        other = await client.post(URL, json={**BODY, "n": 4}, headers={**LATER, **key})
        return found, other

    found, other = run(tmp_path, work)
    assert len(found) == 1
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert other.headers["x-should-retry"] == "false"


def test_without_a_seed_the_same_key_makes_the_same_images(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> list[int]:
        seeds = []
        for key in ("a", "a", "b"):
            headers = {"Idempotency-Key": key}
            answer = await client.post(URL, json={"model": "marked"}, headers=headers)
            seeds.append(answer.json()["data"][0]["seed"])
        return seeds

    first, again, other = run(tmp_path, work)
    assert first == again != other


@pytest.mark.parametrize("text", ["respond-async", "wait=5, Respond-Async; foo=bar"])
def test_a_preference_is_read_as_the_standard_writes_it(tmp_path: Path, text: str) -> None:
    async def work(client: httpx.AsyncClient) -> int:
        return (await client.post(URL, json=BODY, headers={"Prefer": text})).status_code

    assert run(tmp_path, work) == 202


def test_other_preferences_are_answered_at_once(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> int:
        headers = {"Prefer": "handling=strict, respond-asynchronously"}
        return (await client.post(URL, json=BODY, headers=headers)).status_code

    assert run(tmp_path, work) == 200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_job_that_is_not_there_is_one_error(tmp_path: Path, method: str) -> None:
    async def work(client: httpx.AsyncClient) -> httpx.Response:
        return await client.request(method, "/v1/jobs/job_1'; DROP TABLE jobs")

    answer = run(tmp_path, work)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")


def test_what_runs_when_a_server_stops_is_done_by_the_next(tmp_path: Path) -> None:
    slow = FakeEngine()
    slow.delay_s = 60

    async def begun(client: httpx.AsyncClient) -> str:
        location = await submitted(client)
        while not slow.asked:
            await asyncio.sleep(0.01)
        return location

    location = run(tmp_path, begun, slow)
    answer = run(tmp_path, lambda client: ended(client, location))
    assert len(json.loads(answer.text)["data"]) == 3
