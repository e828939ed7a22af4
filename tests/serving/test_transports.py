"""How a URL becomes a way to a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import httpx
import numpy as np
import pytest

from gan_client import Client
from gan_client.http_transport import HttpTransport
from gan_client.transports import ServiceTransport, open_transport
from gan_core.errors import DeadlineExceeded, InvalidRequest, QueueFull, Unavailable
from gan_serving.schema import UpscaleRequest, parsed, validated
from gan_serving.vips import opened
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import DOUBLED_OUTPUT, SOFTENED_INPUTS, card_of, doubled, doubling
from tests.serving.processes import Serving


@pytest.mark.parametrize("url", ["http://host:8080", "https://host", "triton://host:8001"])
def test_a_url_is_opened_without_asking_the_server(url: str) -> None:
    async def opened() -> type[object]:
        transport = open_transport(url)
        await transport.close()
        return type(transport)

    kind = ServiceTransport if url.startswith("triton") else HttpTransport
    assert asyncio.run(opened()) is kind


def test_a_relative_folder_may_be_served_in_process(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository.parent)

    async def models() -> list[str]:
        transport = open_transport(f"local:{repository.name}")
        try:
            return [card.model for card in await transport.models()]
        finally:
            await transport.close()

    assert "marked" in asyncio.run(models())


def test_closing_a_service_transport_closes_its_engine() -> None:
    engine = FakeEngine()
    asyncio.run(ServiceTransport(engine).close())
    assert engine.closed


def test_in_process_ten_thousand_images_may_be_asked_for() -> None:
    engine = FakeEngine()
    batch = asyncio.run(
        ServiceTransport(engine).generate(parsed(model="marked", n=10_000, seed=0), 10)
    )
    assert len(batch) == 10_000


def test_in_process_more_are_refused() -> None:
    request = parsed(model="marked", n=10_001, seed=0)
    with pytest.raises(InvalidRequest, match="at most 10000"):
        asyncio.run(ServiceTransport(FakeEngine()).generate(request, 10))


def sent(ask: Callable[[HttpTransport], object], base_url: str = "http://gateway") -> httpx.Request:
    """The request that a call makes of an HTTP transport."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        usage = {"images": 0, "compute_ms": 1.0}
        answer = {"created": 0, "data": [], "model": "m", "version": 1, "size": "4x4"}
        return httpx.Response(200, json={**answer, "usage": usage})

    async def run() -> None:
        mock = httpx.MockTransport(handler)
        async with httpx.AsyncClient(transport=mock, base_url=base_url) as http:
            await HttpTransport(http).generate(parsed(model="m", n=2, seed=2**64 - 1), 1)

    asyncio.run(run())
    return seen[0]


def test_only_what_was_asked_for_is_sent() -> None:
    request = sent(lambda transport: None)
    assert request.read() == b'{"model":"m","n":2,"seed":18446744073709551615}'


def test_a_gateway_may_lie_behind_a_path() -> None:
    request = sent(lambda transport: None, "http://host/gans")
    assert str(request.url) == "http://host/gans/v1/images/generations"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, QueueFull), (502, Unavailable), (503, Unavailable), (504, DeadlineExceeded)],
)
def test_a_proxys_bare_answer_is_told_by_its_status(status: int, kind: type[Exception]) -> None:
    answer = httpx.Response(status, text="<html>upstream</html>")
    http = httpx.AsyncClient(
        base_url="http://gateway", transport=httpx.MockTransport(lambda request: answer)
    )
    with pytest.raises(kind, match=str(status)):
        asyncio.run(HttpTransport(http).models())


def test_a_proxy_of_the_environment_does_not_come_between_a_machine_and_itself(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Serving(repository, "ort") as serving:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        with Client(serving.url, max_retries=0) as client:
            assert "marked" in [card.model for card in client.models.list()]


def enlarging(delay_s: float) -> FakeEngine:
    """Doubles tiles of 40 px, each answer after so long."""
    card = card_of(doubling(), "doubling", SOFTENED_INPUTS, DOUBLED_OUTPUT)
    engine = FakeEngine(card, answer=lambda inputs: np.stack(list(map(doubled, inputs["source"]))))
    engine.delay_s = delay_s
    return engine


async def pieces_of(engine: FakeEngine, timeout_s: float) -> list[bytes]:
    picture = np.zeros((3000, 300, 3), np.uint8)  # several bands, each of several answers
    request = validated(UpscaleRequest, {"model": "doubling"})
    pieces = ServiceTransport(engine).upscale_png(request, picture, timeout_s)
    async with aclosing(pieces):
        return [piece async for piece in pieces]


def test_in_process_a_picture_may_take_its_time_while_pieces_come() -> None:
    engine = enlarging(0.1)
    began = time.monotonic()
    pieces = asyncio.run(pieces_of(engine, 1.0))
    assert time.monotonic() - began > 1.0
    assert opened(b"".join(pieces), "PNG").height == 6000


def test_in_process_a_piece_that_does_not_come_is_late() -> None:
    with pytest.raises(DeadlineExceeded):
        asyncio.run(pieces_of(enlarging(60.0), 0.1))


def test_after_a_retry_pieces_may_take_as_long_as_without_one(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []

    async def pieces(_request: object, _picture: object, timeout_s: float) -> AsyncIterator[bytes]:
        limits.append(timeout_s)
        if len(limits) == 1:
            await asyncio.sleep(0.2)
            raise Unavailable("not yet", retry_after_s=0.0)
        yield b"first"
        yield b"second"

    with Client(f"local:{repository}") as client:
        monkeypatch.setattr(ServiceTransport, "upscale_png", staticmethod(pieces))
        made = client.images.upscale(b"anything", model="doubling", timeout_s=9)
    assert (made, limits) == (b"firstsecond", [9, 9])
