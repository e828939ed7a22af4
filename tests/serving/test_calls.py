"""Calls over gRPC as operators see them: by method, model, caller and how they ended."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gan_core.errors import QueueFull, Unauthenticated
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.grpc_api.image_service_pb2 import GenerateRequest, GetModelRequest
from gan_serving.grpc_api.image_service_pb2_grpc import ImageServiceStub
from gan_serving.grpc_gateway import SERVICE
from gan_serving.keys import Caller
from gan_serving.service import ImageService
from gan_serving.telemetry import Seen, Telemetry
from tests.serving.fake_engine import FakeEngine
from tests.serving.grpc_server import running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

REQUEST = GenerateRequest(model="marked", n=3)


class Noting(Telemetry):
    """Remembers the calls too."""

    def __init__(self) -> None:
        super().__init__(ImageService(FakeEngine()))
        self.calls: list[Seen] = []

    def seen(self, request: Seen) -> None:
        super().seen(request)
        self.calls.append(request)


class Doorman(Gatekeeper):
    """Knows one key."""

    async def caller(self, authorization: str | None) -> Caller:
        if authorization != "Bearer key":
            raise Unauthenticated("who are you?")
        return Caller("me")


def seen(
    ask: Callable[[Any], Awaitable[Any]],
    engine: FakeEngine | None = None,
    gatekeeper: Gatekeeper | None = None,
) -> Noting:
    """Telemetry after what was asked of a stub; refusals are part of it."""

    async def run() -> Noting:
        telemetry = Noting()
        async with (
            running(engine or FakeEngine(), gatekeeper, telemetry) as (_, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                await ask(ImageServiceStub(channel))  # type: ignore[no-untyped-call]
            while not telemetry.calls:  # the client knows the end before the server does
                await asyncio.sleep(0.01)
        return telemetry

    return asyncio.run(run())


def call_of(*arguments: Any) -> Seen:
    (call,) = seen(*arguments).calls
    return call


async def read(stub: Any) -> list[Any]:
    return [chunk async for chunk in stub.GenerateStream(REQUEST)]


async def cancel(call: Any, engine: FakeEngine) -> None:
    while not engine.asked:
        await asyncio.sleep(0.01)
    call.cancel()


def test_a_call_is_told_with_its_method_model_id_and_time() -> None:
    engine = FakeEngine()
    engine.delay_s = 0.05
    call = call_of(lambda stub: stub.Generate(REQUEST, metadata=[("x-request-id", "mine")]), engine)
    assert (call.protocol, call.route) == ("grpc", f"{SERVICE.full_name}/Generate")
    assert (call.model, call.code, call.request_id) == ("marked", "OK", "mine")
    assert call.seconds >= 0.05


def test_a_stream_is_told_once_it_has_ended() -> None:
    call = call_of(read)
    assert (call.route, call.model, call.code) == (
        f"{SERVICE.full_name}/GenerateStream",
        "marked",
        "OK",
    )


def test_the_caller_is_its_keys_name() -> None:
    key = [("authorization", "Bearer key")]
    call = call_of(lambda stub: stub.Generate(REQUEST, metadata=key), None, Doorman(None))
    assert (call.caller, call.code) == ("me", "OK")


def test_a_stranger_has_no_name() -> None:
    call = call_of(lambda stub: stub.Generate(REQUEST), None, Doorman(None))
    assert (call.caller, call.model, call.code) == ("", "", "UNAUTHENTICATED")


@pytest.mark.parametrize(
    ("error", "code"), [(QueueFull("full"), "RESOURCE_EXHAUSTED"), (ValueError("why"), "INTERNAL")]
)
@pytest.mark.parametrize("ask", [lambda stub: stub.Generate(REQUEST), read])
def test_a_refusal_is_told_by_its_status(ask: Any, error: Exception, code: str) -> None:
    engine = FakeEngine()
    engine.error = error
    assert call_of(ask, engine).code == code


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
def test_a_call_that_its_client_cancels_is_told_as_such(method: str) -> None:
    engine = FakeEngine()
    engine.delay_s = 20
    call = call_of(lambda stub: cancel(getattr(stub, method)(REQUEST), engine), engine)
    assert (call.code, call.model) == ("CANCELLED", "marked")


def test_a_call_that_grpc_ends_at_its_deadline_is_told_as_late() -> None:
    class Deaf(FakeEngine):
        async def infer(self, *arguments: Any) -> Any:
            await asyncio.shield(asyncio.sleep(1))

    call = call_of(lambda stub: stub.Generate(REQUEST, timeout=0.2), Deaf())
    assert call.code == "DEADLINE_EXCEEDED"


def test_calls_are_counted_beside_http_and_encoding_is_timed() -> None:
    async def twice(stub: Any) -> None:
        await stub.Generate(REQUEST)
        await stub.GetModel(GetModelRequest(model="marked"))

    text = asyncio.run(seen(twice).exposition()).decode()
    found = {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["ganforge_requests_total", "OK", "", "grpc", f"{SERVICE.full_name}/GetModel"] == 1
    assert found["ganforge_request_seconds_count", "", "grpc", f"{SERVICE.full_name}/Generate"] == 1
    assert found["ganforge_encode_seconds_count", "png"] == 1
