"""grpc.health.v1 tells what real inferences tell, and NOT_SERVING before a server goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from gan_core.errors import Unavailable
from gan_serving import health as module
from gan_serving import readiness
from gan_serving.grpc_gateway import SERVICE, GrpcGateway
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import card_of, watermark
from tests.serving.grpc_server import raw_call, running

T = TypeVar("T")

Status = HealthCheckResponse
NAMES = ["", SERVICE.full_name, "marked"]


def probed(engine: FakeEngine, probe: Callable[[GrpcGateway, HealthStub], Awaitable[T]]) -> T:
    async def run() -> T:
        async with (
            running(engine) as (gateway, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            return await probe(gateway, HealthStub(channel))

    return asyncio.run(run())


def status(name: str, engine: FakeEngine) -> int:
    async def probe(_: GrpcGateway, stub: Any) -> int:
        answer = await stub.Check(HealthCheckRequest(service=name))
        found: int = answer.status
        return found

    return probed(engine, probe)


def failing() -> FakeEngine:
    engine = FakeEngine()
    engine.error = Unavailable("its backend is dead")
    return engine


class Away(FakeEngine):
    """An engine that can't say which models there are."""

    async def models(self) -> list[str]:
        raise Unavailable("Triton is not available now")


@pytest.mark.parametrize("name", NAMES)
def test_what_answers_an_inference_serves(name: str) -> None:
    assert status(name, FakeEngine()) == Status.SERVING


@pytest.mark.parametrize("name", NAMES)
def test_what_fails_an_inference_does_not_serve(name: str) -> None:
    assert status(name, failing()) == Status.NOT_SERVING


def test_a_model_serves_while_another_fails_and_the_whole_does_not() -> None:
    class Half(FakeEngine):
        async def infer(self, model: str, *arguments: Any) -> Any:
            if model == "bad":
                raise Unavailable("its backend is dead")
            return await super().infer(model, *arguments)

    cards = [card_of(watermark(), name) for name in ("good", "bad")]
    assert status("good", Half(*cards)) == Status.SERVING
    assert status("bad", Half(*cards)) == Status.NOT_SERVING
    assert status("", Half(*cards)) == Status.NOT_SERVING


def test_a_server_without_models_does_not_serve() -> None:
    engine = FakeEngine()
    engine.cards.clear()
    assert status("", engine) == Status.NOT_SERVING


def test_a_server_whose_engine_is_away_does_not_serve() -> None:
    assert status("", Away()) == Status.NOT_SERVING


def test_an_unknown_name_is_not_found_with_those_that_are() -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        status("nobody", FakeEngine())
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert "nothing is called 'nobody'; there are: ''" in (refused.value.details() or "")


def test_garbage_is_an_invalid_argument() -> None:
    async def run() -> grpc.StatusCode:
        async with (
            running(FakeEngine()) as (_, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await raw_call(channel, "grpc.health.v1.Health/Check")(b"\xff\xff")
            return refused.value.code()

    assert asyncio.run(run()) == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.skipif(
    "List" not in module.SERVICE.methods_by_name, reason="this grpcio-health-checking has no List"
)
def test_everything_is_listed() -> None:
    async def probe(_: GrpcGateway, stub: Any) -> dict[str, int]:
        answer = await stub.List(health_pb2.HealthListRequest())
        return {name: one.status for name, one in answer.statuses.items()}

    assert probed(FakeEngine(), probe) == dict.fromkeys(NAMES, Status.SERVING)


def watched(
    engine: FakeEngine, name: str, then: Callable[[GrpcGateway], None], count: int = 2
) -> list[int]:
    """The first statuses that a watcher sees; ``then`` happens after the first."""

    async def probe(gateway: GrpcGateway, stub: Any) -> list[int]:
        seen = []
        async for answer in stub.Watch(HealthCheckRequest(service=name), timeout=20):
            seen.append(answer.status)
            if len(seen) == count:
                break
            then(gateway)
        return seen

    return probed(engine, probe)


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes are seen quickly."""
    monkeypatch.setattr(module, "WATCH_S", 0.05)
    monkeypatch.setattr(readiness, "FRESH_S", 0.01)


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("name", NAMES)
def test_a_watcher_sees_a_model_fail(name: str) -> None:
    engine = FakeEngine()

    def fail(_: GrpcGateway) -> None:
        engine.error = Unavailable("gone")

    assert watched(engine, name, fail) == [Status.SERVING, Status.NOT_SERVING]


@pytest.mark.usefixtures("_soon")
def test_a_watcher_sees_a_model_come_that_was_unknown() -> None:
    engine = FakeEngine()

    def publish(_: GrpcGateway) -> None:
        engine.cards["new"] = card_of(watermark(), "new")

    assert watched(engine, "new", publish) == [Status.SERVICE_UNKNOWN, Status.SERVING]


def test_a_watcher_sees_the_server_drain_and_is_let_go() -> None:
    seen = watched(FakeEngine(), "", lambda gateway: gateway.drain(), count=3)
    assert seen == [Status.SERVING, Status.NOT_SERVING]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_serves_while_the_server_drains(name: str) -> None:
    async def probe(gateway: GrpcGateway, stub: Any) -> int:
        gateway.drain()
        answer = await stub.Check(HealthCheckRequest(service=name))
        found: int = answer.status
        return found

    assert probed(FakeEngine(), probe) == Status.NOT_SERVING


def test_watchers_cost_no_inference_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FRESH_S", 60.0)
    engine = FakeEngine()

    async def probe(_: GrpcGateway, stub: Any) -> None:
        calls = [stub.Watch(HealthCheckRequest()) for _ in range(20)]
        await asyncio.gather(*(call.read() for call in calls))
        for call in calls:
            call.cancel()

    probed(engine, probe)
    assert len(engine.asked) == 1
