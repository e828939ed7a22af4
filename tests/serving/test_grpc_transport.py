"""The SDK over gRPC: the same pixels and the same errors as over every transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_client.grpc_transport import GrpcTransport
from gan_client.images import ImageBatch
from gan_client.transports import ServiceTransport
from gan_core.card import ImageOutput
from gan_core.errors import (
    SERVICE_ERRORS,
    ConfigError,
    ConnectionFailed,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    PayloadTooLarge,
    PermissionDenied,
    QueueFull,
    RouteNotFound,
    ServiceError,
    Unauthenticated,
    Unavailable,
)
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.grpc_api.chunks import CHUNK_BYTES, Assembly, split
from gan_serving.grpc_api.image_service_pb2 import ImageChunk
from gan_serving.grpc_api.messages import message_of, request_of
from gan_serving.grpc_api.statuses import error_of
from gan_serving.keys import Caller, Keyring, add_key
from gan_serving.ort_engine import OrtEngine
from gan_serving.schema import UpscaleRequest, parsed
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import card_of, watermark
from tests.serving.grpc_server import running

T = TypeVar("T")

SENDABLE = [kind for kind in SERVICE_ERRORS.values() if kind.code != "connection_failed"]


def over_grpc(engine: Any, ask: Callable[[GrpcTransport], Awaitable[T]], **options: Any) -> T:
    async def run() -> T:
        async with running(engine, **options) as (_, address):
            transport = GrpcTransport(address)
            try:
                return await ask(transport)
            finally:
                await transport.close()

    return asyncio.run(run())


def generated(engine: Any, **fields: Any) -> ImageBatch:
    request = parsed(**{"model": "marked", **fields})
    return over_grpc(engine, lambda transport: transport.generate(request, 20))


def locally(repository: Path, **fields: Any) -> ImageBatch:
    async def run() -> ImageBatch:
        transport = ServiceTransport(OrtEngine(repository, cores=1))
        try:
            return await transport.generate(parsed(**{"model": "marked", **fields}), 20)
        finally:
            await transport.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "tiny_dcgan", "n": 3, "seed": 2**64 - 2},
        {"model": "tiny_biggan", "labels": [1, "c", 0], "truncation": 0.5, "seed": 5},
        {"labels": [3, "nine"], "truncation": 0.0, "seed": 0},
        {"n": 70, "seed": 1},
        {"latents": [[0, 0.5, -1, 1], [1, 0, 0, 0]], "label": "two"},
        {"model": "versioned", "version": 1, "seed": 3},
    ],
    ids=["plain", "classes", "zeros", "two batches", "latents", "version"],
)
def test_the_pixels_are_the_local_ones(repository: Path, fields: dict[str, Any]) -> None:
    ours = generated(OrtEngine(repository, cores=1), **fields)
    theirs = locally(repository, **fields)
    assert (ours.seeds, ours.model, ours.version) == (theirs.seeds, theirs.model, theirs.version)
    assert np.abs(ours.numpy().astype(int) - theirs.numpy()).max() <= 1


def test_images_of_several_chunks_come_back_whole() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 1100, 1000, 3), dtype=np.uint8)
    output = ImageOutput(height=1100, width=1000, channels=3)
    engine = FakeEngine(card_of(watermark(), "marked", output=output), answer=lambda inputs: noise)
    np.testing.assert_array_equal(generated(engine, n=3).numpy(), noise)


def test_the_cards_come_back() -> None:
    async def ask(transport: GrpcTransport) -> Any:
        return [await transport.models(), await transport.model("marked")]

    card = card_of(watermark(), "marked")
    assert over_grpc(FakeEngine(), ask) == [[card], card]


def test_a_versions_card_comes_back(repository: Path) -> None:
    async def ask(transport: GrpcTransport) -> list[str]:
        cards = [await transport.model("versioned", version) for version in (1, 2, None)]
        return [card.sha256 for card in cards]

    first, second, newest = over_grpc(OrtEngine(repository, cores=1), ask)
    assert first != second == newest


@pytest.mark.parametrize(
    ("version", "kind"), [(9, ModelNotFound), (2**40, InvalidRequest), (-1, InvalidRequest)]
)
def test_a_card_of_no_version_is_refused_by_its_number(
    version: int, kind: type[ServiceError]
) -> None:
    with pytest.raises(kind, match=str(version)) as refused:
        over_grpc(FakeEngine(), lambda transport: transport.model("marked", version))
    assert refused.value.param == "version"


@pytest.mark.parametrize("kind", SENDABLE)
def test_each_error_crosses_the_wire_as_itself(kind: type[ServiceError]) -> None:
    engine = FakeEngine()
    engine.error = kind("why \N{SNOWMAN}", param="seed", retry_after_s=2.5)
    with pytest.raises(kind) as raised:
        generated(engine)
    error = raised.value
    assert type(error) is kind
    assert error.request_id
    if kind is not InternalError:  # whose details stay with the server
        told = (error.message, error.param, error.retry_after_s)
        assert told == ("why \N{SNOWMAN}", "seed", 2.5)


@pytest.mark.parametrize("way", ["upscale", "upscale_png", "frames"])
def test_a_file_that_is_refused_while_it_is_sent_ends_with_what_the_server_said(
    tmp_path: Path, way: str
) -> None:
    add_key(tmp_path / "keys.yaml", Caller(name="mobile"))
    picture = np.random.default_rng(0).bytes(8 << 20)

    async def pictures() -> AsyncIterator[bytes]:
        yield picture

    async def ask(transport: GrpcTransport) -> None:
        request = UpscaleRequest(model="doubling")
        if way == "upscale":
            await transport.upscale(request, picture, 20)
        elif way == "upscale_png":
            await anext(transport.upscale_png(request, picture, 20))
        else:
            await anext(transport.frames(request, pictures(), 20))

    async def five_times(transport: GrpcTransport) -> None:
        for _ in range(5):  # grpc.aio gets it wrong most times, but not always
            with pytest.raises(Unauthenticated):
                await ask(transport)

    gatekeeper = Gatekeeper(Keyring(tmp_path / "keys.yaml"))
    over_grpc(FakeEngine(), five_times, gatekeeper=gatekeeper)


def test_what_is_not_known_of_an_error_is_none() -> None:
    engine = FakeEngine()
    engine.error = QueueFull("full")
    with pytest.raises(QueueFull) as raised:
        generated(engine)
    assert (raised.value.param, raised.value.retry_after_s) == (None, None)


def bare(code: str, text: str = "") -> ServiceError:
    """What a status without details is taken for."""
    empty = grpc.aio.Metadata()
    return error_of(grpc.aio.AioRpcError(grpc.StatusCode[code], empty, empty, text), "host:1")


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", ConnectionFailed),
        ("UNAVAILABLE", "Received http2 header with status: 503", Unavailable),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded),
        ("RESOURCE_EXHAUSTED", "rate", QueueFull),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (5 vs. 4)", PayloadTooLarge),
        ("RESOURCE_EXHAUSTED", "received metadata size exceeds hard limit", PayloadTooLarge),
        ("UNAUTHENTICATED", "", Unauthenticated),
        ("PERMISSION_DENIED", "", PermissionDenied),
        ("NOT_FOUND", "", ModelNotFound),
        ("UNIMPLEMENTED", "Method not found!", RouteNotFound),
        ("UNKNOWN", "", InternalError),
        ("DATA_LOSS", "", InternalError),
    ],
)
def test_a_bare_status_is_told_by_its_code(code: str, text: str, kind: type[ServiceError]) -> None:
    error = bare(code, text)
    assert type(error) is kind
    assert str(error) == f"host:1: {code}: {text}"


def test_every_status_code_stands_for_a_service_error() -> None:
    assert all(isinstance(bare(code.name), ServiceError) for code in grpc.StatusCode)


def test_details_that_are_garbage_count_as_none() -> None:
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff"))
    failed = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing, "away"
    )
    assert type(error_of(failed, "host:1")) is ConnectionFailed


def alone(address: str, ask: Callable[[GrpcTransport], Awaitable[T]], **options: Any) -> T:
    """Without a server."""

    async def run() -> T:
        transport = GrpcTransport(address, **options)
        try:
            return await ask(transport)
        finally:
            await transport.close()

    return asyncio.run(run())


def test_a_dead_server_is_a_failed_connection() -> None:
    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9"):
        alone("127.0.0.1:9", lambda transport: transport.models())


def test_a_server_that_dies_within_a_call_is_a_failed_connection() -> None:
    engine = FakeEngine()
    engine.delay_s = 30

    async def run() -> None:
        async with running(engine) as (gateway, address):
            transport = GrpcTransport(address)
            call = asyncio.create_task(transport.generate(parsed(model="marked"), 20))
            while not engine.asked:
                await asyncio.sleep(0.01)
            await gateway.stop(0)
            with pytest.raises(ConnectionFailed):
                await call
            await transport.close()

    asyncio.run(run())


def test_a_server_that_comes_back_is_found_again() -> None:
    async def run() -> int:
        async with running(FakeEngine()) as (gateway, address):
            transport = GrpcTransport(address)
            await transport.models()
            await gateway.stop(0)
            with pytest.raises(ConnectionFailed):
                await transport.models()
            await gateway.start("127.0.0.1", int(address.rpartition(":")[2]))
            for _ in range(100):
                try:
                    found = await transport.models()
                    break
                except ConnectionFailed:
                    await asyncio.sleep(0.1)
            await transport.close()
            return len(found)

    assert asyncio.run(run()) == 1


def test_a_deadline_that_passes_is_deadline_exceeded() -> None:
    engine = FakeEngine()
    engine.delay_s = 30
    request = parsed(model="marked")
    with pytest.raises(DeadlineExceeded):
        over_grpc(engine, lambda transport: transport.generate(request, 0.2))


def test_the_deadline_is_sent() -> None:
    engine = FakeEngine()
    over_grpc(engine, lambda transport: transport.generate(parsed(model="marked"), 20))
    assert engine.timeouts_s[0] == pytest.approx(20, abs=2)


def test_an_unlimited_deadline_is_allowed() -> None:
    request = parsed(model="marked")
    batch = over_grpc(FakeEngine(), lambda transport: transport.generate(request, float("inf")))
    assert len(batch) == 1


def test_a_call_that_is_cancelled_stays_cancelled() -> None:
    engine = FakeEngine()
    engine.delay_s = 30

    async def ask(transport: GrpcTransport) -> None:
        call = asyncio.create_task(transport.generate(parsed(model="marked"), 20))
        while not engine.asked:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    over_grpc(engine, ask)


def test_closing_ends_calls_as_failed_connections() -> None:
    engine = FakeEngine()
    engine.delay_s = 30

    async def ask(transport: GrpcTransport) -> None:
        call = asyncio.create_task(transport.generate(parsed(model="marked"), 20))
        while not engine.asked:
            await asyncio.sleep(0.01)
        await transport.close()
        with pytest.raises(ConnectionFailed):
            await call

    over_grpc(engine, ask)


def test_the_key_is_sent() -> None:
    seen: list[str | None] = []

    class Doorman(Gatekeeper):
        async def caller(self, authorization: str | None) -> Caller:
            seen.append(authorization)
            return Caller("me")

    async def run() -> None:
        async with running(FakeEngine(), Doorman(None)) as (_, address):
            transport = GrpcTransport(address, key="gf_1_2")
            await transport.models()
            await transport.close()

    asyncio.run(run())
    assert seen == ["Bearer gf_1_2"]


@pytest.mark.parametrize("key", ["gf\n1", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_unquoted(key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        GrpcTransport("host:1", key=key)
    assert key not in str(refused.value)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:0", "host:65536", "h/x:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        GrpcTransport(address)


def test_one_connection_serves_all_calls_at_once() -> None:
    engine = FakeEngine()
    engine.delay_s = 0.05

    async def ask(transport: GrpcTransport) -> set[int]:
        request = parsed(model="marked", n=2)
        batches = await asyncio.gather(*(transport.generate(request, 20) for _ in range(20)))
        return {len(batch) for batch in batches}

    assert over_grpc(engine, ask) == {2}


labels = st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20)


@settings(derandomize=True, deadline=None)
@given(
    st.fixed_dictionaries(
        {"model": st.text(min_size=1, max_size=64)},
        optional={
            "version": st.integers(1, 2**32 - 1),
            "n": st.integers(1, 2**32 - 1),
            "seed": st.integers(0, 2**64 - 1),
            "label": labels,
            "labels": st.lists(labels, min_size=1, max_size=5),
            "truncation": st.floats(allow_nan=False, allow_infinity=False),
            "latents": st.sampled_from(["AAAAAAAAAAAAAAAAAAAAAA==", ""]),
            "size": st.text(max_size=16),
        },
    )
)
def test_a_request_survives_the_wire(fields: dict[str, Any]) -> None:
    request = parsed(**fields)
    assert request_of(message_of(request)) == request


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2**32}, "n"),
        ({"version": 2**70}, "version"),
        ({"label": 2**63}, "label"),
        ({"labels": [1, -(2**63) - 1]}, "labels"),
        ({"label": "\ud800"}, "label"),
        ({"model": "\ud800"}, "model"),
        ({"latents": "AA="}, "latents"),
        ({"latents": [[1.0], [1.0, 2.0]]}, "latents"),
    ],
)
def test_what_the_message_cannot_hold_is_an_invalid_request(
    fields: dict[str, Any], param: str
) -> None:
    engine = FakeEngine()
    with pytest.raises(InvalidRequest) as refused:
        generated(engine, **fields)
    assert refused.value.param == param
    assert engine.asked == []


def assembled(pieces: list[ImageChunk]) -> Assembly:
    assembly = Assembly()
    for one in pieces:
        assembly.add(one)
    assembly.finish()
    return assembly


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(1, 3 * CHUNK_BYTES))
def test_an_image_of_any_size_comes_in_pieces_that_make_it_again(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    pieces = list(split(data, ImageChunk(version=1, height=1, width=size, channels=1)))
    assert max(len(one.data) for one in pieces) <= CHUNK_BYTES
    assert assembled(pieces).images[0][0].tobytes() == data


def piece(**fields: Any) -> ImageChunk:
    whole = {"version": 1, "height": 1, "width": 2, "channels": 1, "last": True, "data": b"ab"}
    return ImageChunk(**{**whole, **fields})


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [piece(index=1)],
        [piece(offset=1)],
        [piece(), piece(index=1, version=2)],
        [piece(data=b"abc")],
        [piece(last=False)],
        [piece(), piece()],
    ],
    ids=["none", "second first", "gap", "other version", "size", "cut off", "twice"],
)
def test_pieces_that_make_no_images_are_refused(pieces: list[ImageChunk]) -> None:
    with pytest.raises(ValueError, match=r"image|stream|array"):
        assembled(pieces)


def test_another_service_on_the_port_is_not_ours() -> None:
    async def run() -> None:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        transport = GrpcTransport(f"127.0.0.1:{port}")
        try:
            with pytest.raises(RouteNotFound, match="UNIMPLEMENTED"):
                await transport.models()
        finally:
            await transport.close()
            await server.stop(0)

    asyncio.run(run())
