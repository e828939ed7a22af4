"""``client.images.stream`` and ``client.jobs``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from gan_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    IdempotencyConflict,
    InternalError,
    InvalidRequest,
    JobNotFound,
    NotSupported,
    QueueFull,
    Unavailable,
)
from gan_client.images import GeneratedImage
from gan_core.errors import ServiceError
from gan_serving.engine import Inference
from gan_serving.ort_engine import OrtEngine
from tests.serving import grpc_server, http_server
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import watermarked
from tests.serving.processes import Serving

T = TypeVar("T")
ASKED: dict[str, Any] = {"model": "marked", "n": 40, "seed": 7}


def over_http(engine: Any, work: Callable[[AsyncClient], Awaitable[T]], **options: Any) -> T:
    """What a client makes of a gateway on a port of its own."""

    async def ask() -> T:
        async with (
            asyncio.timeout(30),
            http_server.running(engine, **options) as gateway,
            AsyncClient(gateway.url, max_retries=0) as client,
        ):
            return await work(client)

    return asyncio.run(ask())


def over_grpc(engine: Any, work: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """The same over gRPC."""

    async def ask() -> T:
        async with (
            asyncio.timeout(30),
            grpc_server.running(engine) as (_, address),
            AsyncClient(f"grpc://{address}", max_retries=0) as client,
        ):
            return await work(client)

    return asyncio.run(ask())


async def streamed(client: AsyncClient, **fields: Any) -> list[GeneratedImage]:
    return [image async for image in client.images.stream(**{**ASKED, **fields})]


# images, one by one


@pytest.mark.parametrize("reached", [over_http, over_grpc])
def test_a_stream_gives_the_images_of_a_generation(repository: Path, reached: Any) -> None:
    found = reached(OrtEngine(repository), streamed)
    np.testing.assert_array_equal([one.numpy() for one in found], watermarked(range(7, 47)))
    assert [one.seed for one in found] == list(range(7, 47))


def test_a_stream_in_this_process_gives_the_same(repository: Path) -> None:
    with Client(f"local:{repository}") as client:
        found = list(client.images.stream(**ASKED))
    np.testing.assert_array_equal([one.numpy() for one in found], watermarked(range(7, 47)))


class Paused(FakeEngine):
    """Gives its first part, and the others once it may go on."""

    def __init__(self, error: ServiceError | None = None) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.later = error

    async def infer(self, *arguments: Any) -> Inference:
        is_first = not self.asked
        answer = await super().infer(*arguments)
        if not is_first:
            await self.go_on.wait()
            if self.later:
                raise self.later
        return answer


@pytest.mark.parametrize("reached", [over_http, over_grpc])
def test_an_image_comes_before_the_next_is_made(reached: Any) -> None:
    engine = Paused()

    async def work(client: AsyncClient) -> int:
        images = client.images.stream(**ASKED)
        await anext(images)
        engine.go_on.set()
        return 1 + len([image async for image in images])

    assert reached(engine, work) == 40


@pytest.mark.parametrize("reached", [over_http, over_grpc])
def test_an_error_after_some_images_is_raised(reached: Any) -> None:
    engine = Paused(QueueFull("full"))
    engine.go_on.set()
    with pytest.raises(QueueFull):
        reached(engine, streamed)


@pytest.mark.parametrize("reached", [over_http, over_grpc])
def test_a_mistake_is_raised_before_the_first_image(reached: Any) -> None:
    with pytest.raises(InvalidRequest, match="out of range"):
        reached(FakeEngine(), lambda client: streamed(client, label=99))


def test_a_busy_server_is_asked_again_before_the_first_image() -> None:
    asked: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(1)
        if len(asked) == 1:
            return httpx.Response(503)
        return httpx.Response(200, text="")

    async def ask() -> None:
        http = httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url="http://x")
        async with AsyncClient("http://x", http=http) as client:
            await streamed(client)

    with pytest.raises(ConnectionFailed, match="before the stream was complete"):
        asyncio.run(ask())
    assert len(asked) == 3


# jobs


def with_jobs(path: Path, engine: Any, work: Callable[[AsyncClient], Awaitable[T]]) -> T:
    return over_http(engine, work, jobs=path / "jobs.sqlite")


def test_a_job_gives_the_images_of_a_generation(repository: Path, tmp_path: Path) -> None:
    async def work(client: AsyncClient) -> tuple[Any, str]:
        job = await client.jobs.create(**ASKED)
        assert (job.model, job.n) == ("marked", 40)
        batch = await client.jobs.wait(job.id)
        again = await client.jobs.result(job.id)
        np.testing.assert_array_equal(batch.numpy(), again.numpy())
        assert (batch.model, batch.version) == ("marked", 1)
        return batch.numpy(), (await client.jobs.retrieve(job.id)).status

    pixels, status = with_jobs(tmp_path, OrtEngine(repository), work)
    np.testing.assert_array_equal(pixels, watermarked(range(7, 47)))
    assert status == "succeeded"


def test_without_await_jobs_have_the_same_names(repository: Path) -> None:
    with Serving(repository, "ort") as serving, Client(serving.url) as client:
        job = client.jobs.create(**ASKED)
        np.testing.assert_array_equal(client.jobs.wait(job.id).numpy(), watermarked(range(7, 47)))
        assert len(client.jobs.result(job.id)) == 40
        assert client.jobs.cancel(job.id).status == client.jobs.retrieve(job.id).status


def test_a_job_that_has_not_ended_has_no_result_yet(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.delay_s = 60

    async def work(client: AsyncClient) -> None:
        job = await client.jobs.create(**ASKED)
        with pytest.raises(Unavailable, match="wait\\(\\) for it"):
            await client.jobs.result(job.id)
        with pytest.raises(DeadlineExceeded, match="it goes on"):
            await client.jobs.wait(job.id, timeout_s=0.2)
        assert (await client.jobs.cancel(job.id)).status == "cancelled"
        with pytest.raises(JobNotFound, match="was cancelled"):
            await client.jobs.wait(job.id)

    with_jobs(tmp_path, engine, work)


def test_a_jobs_failure_is_raised_as_its_error(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.error = InternalError("why")

    async def work(client: AsyncClient) -> None:
        job = await client.jobs.create(**ASKED)
        with pytest.raises(InternalError, match="its log has the details"):
            await client.jobs.wait(job.id)

    with_jobs(tmp_path, engine, work)


def test_a_key_is_of_one_job(tmp_path: Path) -> None:
    async def work(client: AsyncClient) -> tuple[set[str], set[str]]:
        same = {(await client.jobs.create(**ASKED, idempotency_key="a")).id for _ in range(2)}
        with pytest.raises(IdempotencyConflict):
            await client.jobs.create(**{**ASKED, "n": 3}, idempotency_key="a")
        return same, {(await client.jobs.create(**ASKED)).id for _ in range(2)}

    same, others = with_jobs(tmp_path, FakeEngine(), work)
    assert (len(same), len(others)) == (1, 2)


def test_a_retry_makes_no_second_job() -> None:
    keys: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        assert request.headers["prefer"] == "respond-async"
        if len(keys) == 1:
            raise httpx.ReadError("cut")
        job = {"id": "job_1", "status": "queued", "created": 1, "model": "marked", "n": 1}
        return httpx.Response(202, json={"object": "job", **job})

    async def ask() -> str:
        http = httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url="http://x")
        async with AsyncClient("http://x", http=http) as client:
            return (await client.jobs.create(model="marked")).id

    assert asyncio.run(ask()) == "job_1"
    assert len(keys) == 2
    assert len(set(keys)) == 1


@pytest.mark.parametrize("url", ["local:{}", "grpc://127.0.0.1:9", "triton://127.0.0.1:9"])
def test_what_keeps_no_jobs_says_so(repository: Path, url: str) -> None:
    with (
        Client(url.format(repository)) as client,
        pytest.raises(NotSupported, match="connect to its http:// address"),
    ):
        client.jobs.create(model="marked")


def test_an_answer_that_is_no_job_is_not_ours() -> None:
    http = httpx.AsyncClient(
        transport=httpx.MockTransport(lambda request: httpx.Response(200, json=[])),
        base_url="http://x",
    )
    with Client("http://x", http=http) as client:
        for ask in (client.jobs.retrieve, client.jobs.result):
            with pytest.raises(InternalError, match="doesn't answer as a ganforge gateway"):
                ask("job_1")
