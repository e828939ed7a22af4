"""The SDK's streams: the same over every transport, and whole however often they are cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gan_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    Sample,
    ServiceError,
    Unavailable,
)
from gan_serving.ort_engine import OrtEngine
from gan_serving.schema import problem
from gan_serving.triton_process import LocalTriton
from tests.serving import grpc_server, http_server
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import CLASSES, watermarked
from tests.serving.processes import Serving

EACH: dict[str | int, int] = {"three": 20, 5: 10, "zero": 7}
STREAM: dict[str, Any] = {"model": "marked", "per_class": EACH, "seed": 7, "truncation": 0.5}


def check_whole(found: list[Sample]) -> None:
    assert [sample.index for sample in found] == list(range(37))
    assert [sample.seed for sample in found] == list(range(7, 44))
    labels = [sample.label or 0 for sample in found]
    assert {label: labels.count(label) for label in set(labels)} == {3: 20, 5: 10, 0: 7}
    assert [sample.class_name for sample in found] == [CLASSES[label] for label in labels]
    pixels = np.stack([sample.image.numpy() for sample in found])
    np.testing.assert_array_equal(pixels, watermarked(range(7, 44), labels, truncation=0.5))
    (origin,) = {sample.origin for sample in found}
    assert (origin.model, origin.version, len(origin.sha256)) == ("marked", 1, 64)
    assert origin.licence == "unknown"


@asynccontextmanager
async def reached(way: str, repository: Path) -> AsyncIterator[str]:
    """An address of each kind."""
    if way == "http":
        async with http_server.running(OrtEngine(repository)) as gateway:
            yield gateway.url
    elif way == "grpc":
        async with grpc_server.running(OrtEngine(repository)) as (_, address):
            yield f"grpc://{address}"
    else:
        yield f"local:{repository}"


async def collected(url: str, **fields: Any) -> list[Sample]:
    async with AsyncClient(url) as client:
        return [sample async for sample in client.images.augment(**STREAM, **fields)]


@pytest.mark.parametrize("way", ["http", "grpc", "local"])
@pytest.mark.parametrize("offset", [0, 18, 37])
def test_the_samples_are_the_same_over_every_transport(
    repository: Path, way: str, offset: int
) -> None:
    async def work() -> list[Sample]:
        async with reached(way, repository) as url:
            first = await collected(url)
            rest = await collected(url, offset=offset, version=1)
            assert [sample.index for sample in rest] == list(range(offset, 37))
            return first[:offset] + rest

    check_whole(asyncio.run(work()))


def test_the_samples_are_the_same_from_triton(triton: LocalTriton) -> None:
    check_whole(asyncio.run(collected(f"triton://{triton.address}")))


def test_without_await_it_is_an_iterator(repository: Path) -> None:
    with Client(f"local:{repository}") as client, client.images.augment(**STREAM) as stream:
        found = [next(stream) for _ in range(5)]
        assert (stream.offset, stream.version, stream.seed, stream.count) == (5, 1, 7, 37)
    with Client(f"local:{repository}") as client:
        rest = client.images.augment(**STREAM, version=stream.version, offset=stream.offset)
        check_whole(found + list(rest))


def test_numpys_integers_are_integers(repository: Path) -> None:
    per_class = {np.int64(3): np.int64(2)}
    with Client(f"local:{repository}") as client:
        stream = client.images.augment(model="marked", per_class=per_class, seed=np.int64(1))  # type: ignore[arg-type]  # as they come from arrays
        assert [sample.label for sample in stream] == [3, 3]


def test_a_stream_that_was_closed_does_not_look_complete(repository: Path) -> None:
    with Client(f"local:{repository}") as client:
        stream = client.images.augment(**STREAM)
        next(stream)
        stream.close()
        with pytest.raises(ConnectionFailed, match="closed after 1 of 37 samples"):
            next(stream)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"model": "marked"}, InvalidRequest),
        ({"model": "marked", "count": 0}, InvalidRequest),
        ({"model": "marked", "count": 1, "offset": 1}, InvalidRequest),
        ({"model": "marked", "per_class": {"eleven": 1}}, InvalidRequest),
        ({"model": "nobody", "count": 1}, ModelNotFound),
        ({"model": "marked", "count": 1, "version": 9}, ModelNotFound),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", ["http", "grpc", "local"])
def test_a_mistake_is_the_same_error_over_every_transport(
    repository: Path, way: str, fields: dict[str, Any], kind: type[Exception]
) -> None:
    async def work() -> None:
        async with reached(way, repository) as url, AsyncClient(url) as client:
            await anext(client.images.augment(**fields))

    with pytest.raises(kind):
        asyncio.run(work())


# connections that are cut


class CuttingProxy:
    """Hands a connection on, and cuts it after so many bytes of the answer."""

    def __init__(self, url: str, cuts: list[int]) -> None:
        self._host, self._port = url.removeprefix("http://").split(":")
        self._cuts = iter(cuts)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = next(self._cuts, sys.maxsize)
        far_reader, far_writer = await asyncio.open_connection(self._host, int(self._port))
        asking = asyncio.create_task(self._copy(reader, far_writer))
        while left and (data := await far_reader.read(min(left, 1 << 16))):
            writer.write(data)
            left -= len(data)
        asking.cancel()
        for one in (writer, far_writer):
            one.close()
            with contextlib.suppress(OSError):
                await one.wait_closed()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)


@pytest.mark.parametrize(
    "cuts", [[0, 0], [100], [700, 800, 900], [3000, 0, 3000], list(range(500, 2500, 250))], ids=str
)
def test_a_connection_that_is_cut_anywhere_is_resumed(repository: Path, cuts: list[int]) -> None:
    async def work() -> list[Sample]:
        async with http_server.running(OrtEngine(repository)) as gateway:
            proxy = await asyncio.start_server(
                CuttingProxy(gateway.url, cuts).serve, "127.0.0.1", 0
            )
            port = proxy.sockets[0].getsockname()[1]
            found = await collected(f"http://127.0.0.1:{port}")
            proxy.close()
            return found

    check_whole(asyncio.run(work()))


def test_a_server_that_is_killed_and_comes_back_is_resumed_from(repository: Path) -> None:
    with Serving(repository, "ort") as first:
        port = first.url.rpartition(":")[2]
        with Client(first.url, timeout_s=30) as client:
            stream = client.images.augment(model="marked", count=20_000, seed=7)
            found = [next(stream) for _ in range(100)]
            first.process.kill()
            first.process.wait()
            with Serving(repository, "ort", "--http-port", port):
                found += [next(stream) for _ in range(3000)]
            stream.close()
    assert [sample.index for sample in found] == list(range(3100))
    pixels = np.stack([sample.image.numpy() for sample in found])
    np.testing.assert_array_equal(pixels, watermarked(range(7, 3107)))


# answers of a server that isn't well, at the transport's seam

STARTED = (
    '{"type": "augment.started", "model": "marked", "version": 1, "sha256": "0", "licence": ""}\n'
)


def ended(*answers: httpx.Response, timeout_s: float = 1.0) -> tuple[int, Exception | None]:
    """How often a stream asked, and what it raised."""
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1]

    async def ask() -> Exception | None:
        http = httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url="http://x")
        async with AsyncClient("http://x", http=http, timeout_s=timeout_s) as client:
            try:
                async for _ in client.images.augment(model="marked", count=1):
                    pass
            except (InternalError, Unavailable, QueueFull, ConnectionFailed) as error:
                return error
            return None

    raised = asyncio.run(ask())
    return len(asked), raised


def refused(error: ServiceError) -> httpx.Response:
    return httpx.Response(error.status, json=problem(error, "id"))


COMPLETE = STARTED + '{"type": "augment.completed", "images": 0, "offset": 1}\n'


@pytest.mark.parametrize(
    "answer",
    [
        refused(Unavailable("about to stop")),
        refused(QueueFull("full")),
        httpx.Response(502, text="bad gateway"),
        httpx.Response(200, text=""),
        httpx.Response(200, text=STARTED),
        httpx.Response(200, text=STARTED + json.dumps(problem(Unavailable("stops"), "id"))),
    ],
    ids=["503", "429", "proxy", "empty", "cut", "problem"],
)
def test_what_may_pass_is_tried_until_the_budget_is_spent(answer: httpx.Response) -> None:
    began = time.monotonic()
    count, raised = ended(answer, timeout_s=2.5)
    assert count >= 2
    assert isinstance(raised, Unavailable | QueueFull | ConnectionFailed)
    assert time.monotonic() - began < 3.0


@pytest.mark.parametrize(
    "answer",
    [
        refused(InternalError("defect")),
        httpx.Response(200, text=STARTED + json.dumps(problem(InternalError("defect"), "id"))),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, text="5\n"),
        httpx.Response(200, text=STARTED + "[1]\n"),
        httpx.Response(200, text=STARTED + '{"type": "augment.image"}\n'),
    ],
    ids=["500", "problem", "html", "number", "list", "fields"],
)
def test_what_no_retry_helps_is_raised_at_once(answer: httpx.Response) -> None:
    count, raised = ended(answer)
    assert count == 1
    assert isinstance(raised, InternalError)


def test_a_stream_that_says_it_is_complete_and_is_not_is_an_error() -> None:
    count, raised = ended(httpx.Response(200, text=COMPLETE))
    assert (count, type(raised)) == (1, ConnectionFailed)


def test_a_reader_that_takes_its_time_does_not_use_up_the_budget(repository: Path) -> None:
    engine = FakeEngine()

    async def work() -> int:
        async with http_server.running(engine) as gateway:
            proxy = await asyncio.start_server(
                CuttingProxy(gateway.url, [5000]).serve, "127.0.0.1", 0
            )
            url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
            async with AsyncClient(url, timeout_s=1.0) as client:
                found = 0
                async for _ in client.images.augment(model="marked", count=50):
                    found += 1
                    if found == 1:
                        await asyncio.sleep(1.2)
            proxy.close()
            return found

    assert asyncio.run(work()) == 50


# in a training


def test_the_documented_data_set_is_the_same_with_any_number_of_workers(
    repository: Path, tmp_path: Path
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text()
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "torch" in block
    )
    script = tmp_path / "training.py"
    script.write_text(code.replace('"http://127.0.0.1:8080"', repr(f"local:{repository}")) + CHECK)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["100", "True"]


CHECK = """
if __name__ == "__main__":
    Generated.model, Generated.count = "marked", 100
    found = [
        sorted((label, image.tobytes()) for image, label in DataLoader(
            Generated(), batch_size=None, num_workers=workers, collate_fn=lambda one: one
        ))
        for workers in (0, 3)
    ]
    print(len(found[0]))
    print(found[0] == found[1])
"""
