"""The gRPC gateway on a real port: the service's answers and errors, and no way to break it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gan_core.card import ImageOutput
from gan_core.errors import (
    SERVICE_ERRORS,
    ConfigError,
    ModelNotFound,
    PermissionDenied,
    QueueFull,
    ServiceError,
)
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.grpc_api.image_service_pb2 import (
    GenerateRequest,
    GenerateResponse,
    GetModelRequest,
    Label,
    ListModelsRequest,
    ModelInfo,
    OutputFormat,
)
from gan_serving.grpc_gateway import MAX_MESSAGE_BYTES, SERVICE, GrpcGateway
from gan_serving.keys import Caller
from gan_serving.ort_engine import OrtEngine
from gan_serving.readiness import Readiness
from gan_serving.service import ImageService
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import card_of, watermark, watermarked
from tests.serving.grpc_server import asked, raw_call, raw_stream, running

SENDABLE = [kind for kind in SERVICE_ERRORS.values() if kind.code != "connection_failed"]
RAW = OutputFormat.OUTPUT_FORMAT_RAW
GENERATE, STREAM = f"{SERVICE.full_name}/Generate", f"{SERVICE.full_name}/GenerateStream"


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"model": "marked", "output_format": RAW, **fields})


def generated(engine: Any = None, **fields: Any) -> GenerateResponse:
    answer: GenerateResponse = asked(
        engine or FakeEngine(), lambda stub: stub.Generate(request(**fields))
    )
    return answer


def pixels(response: GenerateResponse) -> Any:
    shape = response.height, response.width, response.channels
    return np.stack([np.frombuffer(one.data, np.uint8).reshape(shape) for one in response.images])


def refusal(
    ask: Callable[[Any], Any], engine: FakeEngine | None = None, **options: Any
) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        asked(engine or FakeEngine(), ask, **options)
    return refused.value


def details(error: grpc.aio.AioRpcError) -> tuple[ErrorInfo, RetryInfo]:
    found = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert (found.code, found.message) == (error.code().value[0], error.details())
    info, retry = ErrorInfo(), RetryInfo()
    for one in found.details:
        assert one.Unpack(info) or one.Unpack(retry)
    return info, retry


def over_a_channel(ask: Callable[[grpc.aio.Channel], Any]) -> Any:
    async def run() -> Any:
        async with (
            running(FakeEngine()) as (_, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            return await ask(channel)

    return asyncio.run(run())


def failing(error: Exception) -> FakeEngine:
    engine = FakeEngine()
    engine.error = error
    return engine


def test_the_pixels_are_those_of_their_seeds(repository: Path) -> None:
    answer = generated(OrtEngine(repository, cores=1), n=3, seed=2**64 - 1)
    np.testing.assert_array_equal(pixels(answer), watermarked([2**64 - 1, 0, 1]))
    assert [image.seed for image in answer.images] == [2**64 - 1, 0, 1]
    assert (answer.model, answer.version, answer.usage.images) == ("marked", 1, 3)
    assert answer.usage.compute_ms > 0


def test_labels_and_truncation_reach_the_graph(repository: Path) -> None:
    labels = [Label(index=3), Label(name="nine"), Label(index=0)]
    answer = generated(OrtEngine(repository, cores=1), labels=labels, truncation=0.5, seed=1)
    np.testing.assert_array_equal(pixels(answer), watermarked([1, 2, 3], [3, 9, 0], 0.5))


def test_one_label_is_for_every_image() -> None:
    engine = FakeEngine()
    generated(engine, n=2, label=Label(name="two"))
    np.testing.assert_array_equal(engine.asked[0]["label"], [[2], [2]])


def test_latents_are_z_itself_and_have_no_seed() -> None:
    engine, z = FakeEngine(), np.array([[0.5, -0.25, 0, 1], [1, 2, 3, 4]], "<f4")
    answer = generated(engine, n=2, latents=z.tobytes())
    np.testing.assert_array_equal(engine.asked[0]["z"], z)
    assert [image.HasField("seed") for image in answer.images] == [False, False]


def test_zero_is_a_value_and_unset_is_none() -> None:
    engine = FakeEngine()
    generated(engine, seed=0, truncation=0.0)
    np.testing.assert_array_equal(engine.asked[0]["truncation"], [[0.0]])
    generated(engine, seed=0)
    np.testing.assert_array_equal(engine.asked[1]["truncation"], np.array([[0.7]], np.float32))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_files_are_of_the_format_that_was_asked_for(kind: str) -> None:
    answer = generated(output_format=OutputFormat.Value(f"OUTPUT_FORMAT_{kind}"))
    with Image.open(io.BytesIO(answer.images[0].data)) as image:
        assert (image.format, image.size) == (kind, (6, 4))


def test_png_is_the_default() -> None:
    answer = asked(FakeEngine(), lambda stub: stub.Generate(GenerateRequest(model="marked")))
    assert answer.images[0].data.startswith(b"\x89PNG")


def test_compression_reaches_the_encoder() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    output = ImageOutput(height=64, width=64, channels=3)
    sizes = []
    for quality in (5, 95):
        engine = FakeEngine(
            card_of(watermark(), "marked", output=output), answer=lambda inputs: noise
        )
        kind = OutputFormat.OUTPUT_FORMAT_JPEG
        answer = generated(engine, output_format=kind, output_compression=quality)
        sizes.append(len(answer.images[0].data))
    assert sizes[0] < sizes[1]


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": ""}, "model"),
    "n is 0": ({"n": 0}, "n"),
    "n is too large": ({"n": 201}, "n"),
    "version is 0": ({"version": 0}, "version"),
    "empty label": ({"label": Label()}, "label"),
    "label out of range": ({"label": Label(index=10)}, "label"),
    "negative label": ({"label": Label(index=-1)}, "label"),
    "label and labels": ({"label": Label(index=1), "labels": [Label(index=1)]}, "label"),
    "too few labels": ({"n": 3, "labels": [Label(index=1)]}, "labels"),
    "truncation": ({"truncation": 1.5}, "truncation"),
    "infinite truncation": ({"truncation": float("inf")}, "truncation"),
    "short latents": ({"latents": b"123"}, "latents"),
    "no latents": ({"latents": b""}, "latents"),
    "latents that are no numbers": ({"latents": np.full(4, np.nan, "<f4").tobytes()}, "latents"),
    "size": ({"size": "7x7"}, "size"),
    "format": ({"output_format": 9}, "output_format"),
    "compression": ({"output_compression": 101}, "output_compression"),
}


@pytest.mark.parametrize(("fields", "param"), INVALID.values(), ids=list(INVALID))
@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
def test_the_field_at_fault_is_named(method: str, fields: dict[str, Any], param: str) -> None:
    async def ask(stub: Any) -> None:
        call = getattr(stub, method)(request(**fields))
        await (call if method == "Generate" else call.read())

    error = refusal(ask)
    info, _ = details(error)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (info.reason, info.metadata["param"]) == ("VALIDATION_ERROR", param)
    assert (error.details() or "").startswith(f"{param}: ")


@pytest.mark.parametrize("kind", SENDABLE)
def test_each_error_has_its_status_and_reason(kind: type[ServiceError]) -> None:
    error = refusal(lambda stub: stub.Generate(request()), failing(kind("why")))
    assert error.code().name == kind.grpc
    assert details(error)[0].reason.lower() == kind.code


def test_a_wait_that_is_known_is_told() -> None:
    engine = failing(QueueFull("full", retry_after_s=1.5))
    _, retry = details(refusal(lambda stub: stub.Generate(request()), engine))
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_a_long_message_is_cut_to_what_trailers_take() -> None:
    label = Label(name="\N{GRINNING FACE}" * 5000)
    error = refusal(lambda stub: stub.Generate(request(label=label)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").endswith("…")


@pytest.mark.parametrize(
    "error", [RuntimeError("secret /etc"), SERVICE_ERRORS["internal"]("secret")]
)
@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
def test_a_defects_text_stays_in_the_log(
    error: Exception, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask(stub: Any) -> None:
        call = getattr(stub, method)(request(), metadata=[("x-request-id", "Trace-1")])
        await (call if method == "Generate" else call.read())

    refused = refusal(ask, failing(error))
    assert refused.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in f"{refused.details()}{refused.trailing_metadata()}"
    assert "secret" in caplog.text
    assert "Trace-1" in caplog.text


def test_a_callers_request_id_comes_back() -> None:
    async def ask(stub: Any) -> Any:
        call = stub.Generate(request(), metadata=[("x-request-id", "Trace-1.a_b")])
        await call
        return dict(await call.trailing_metadata())

    assert asked(FakeEngine(), ask)["x-request-id"] == "Trace-1.a_b"


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "<script>"])
def test_an_unsafe_request_id_is_replaced(given: str) -> None:
    def ask(stub: Any) -> Any:
        return stub.Generate(request(n=0), metadata=[("x-request-id", given)])

    error = refusal(ask)
    request_id = details(error)[0].metadata["request_id"]
    assert len(request_id) == 32
    assert dict(error.trailing_metadata())["x-request-id"] == request_id


async def streamed(stub: Any, **fields: Any) -> list[Any]:
    return [chunk async for chunk in stub.GenerateStream(request(**fields))]


def test_a_stream_has_the_images_in_order(repository: Path) -> None:
    chunks = asked(
        OrtEngine(repository, cores=1), lambda stub: streamed(stub, n=80, seed=2**64 - 2)
    )
    assert [chunk.index for chunk in chunks] == list(range(80))
    assert all(chunk.last and chunk.offset == 0 for chunk in chunks)
    seeds = [(2**64 - 2 + i) % 2**64 for i in range(80)]
    assert [chunk.seed for chunk in chunks] == seeds
    found = [np.frombuffer(chunk.data, np.uint8).reshape(4, 6, 3) for chunk in chunks]
    np.testing.assert_array_equal(found, watermarked(seeds))


def test_a_streams_images_are_all_of_one_version() -> None:
    engine = FakeEngine()
    asked(engine, lambda stub: streamed(stub, n=80))
    assert set(engine.versions) == {1}  # asked for by number, not as the newest


def test_an_image_is_sent_while_the_next_is_made() -> None:
    class Held(FakeEngine):
        async def infer(self, model: str, inputs: Any, *rest: Any) -> Any:
            if len(self.asked) > 0:
                await first_was_read.wait()
            return await super().infer(model, inputs, *rest)

    async def ask(stub: Any) -> int:
        call = stub.GenerateStream(request(n=40), timeout=20)
        await call.read()
        first_was_read.set()
        count = 1
        while await call.read() is not grpc.aio.EOF:
            count += 1
        return count

    first_was_read = asyncio.Event()
    assert asked(Held(), ask) == 40


def large(n: int) -> FakeEngine:
    """Makes images of 3 MiB whose bytes differ."""
    output = ImageOutput(height=1024, width=1024, channels=3)
    card = card_of(watermark(), "marked", output=output)
    noise = np.random.default_rng(0).integers(0, 256, (n, 1024, 1024, 3), dtype=np.uint8)
    return FakeEngine(card, answer=lambda inputs: noise[: len(inputs["z"])])


def test_images_above_4_mb_come_in_pieces_that_any_client_takes() -> None:
    engine = large(3)

    async def ask() -> list[Any]:
        # 4 MB by default
        async with running(engine) as (_, address), grpc.aio.insecure_channel(address) as channel:
            call = raw_stream(channel, STREAM, request(n=3).SerializeToString())
            return [raw async for raw in call]

    pieces = asyncio.run(ask())
    assert len(pieces) == 9
    assert max(map(len, pieces)) <= (1 << 20) + 200


def test_a_stream_that_nobody_reads_ends_with_the_services_deadline() -> None:
    async def ask(stub: Any) -> None:
        call = stub.GenerateStream(request(n=20), timeout=60)
        await asyncio.sleep(2)
        async for _ in call:
            pass

    error = refusal(ask, large(20), timeout_s=0.5)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "could be sent within 0.5 s" in (error.details() or "")


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
def test_a_client_that_cancels_frees_the_engine(method: str) -> None:
    class Patient(FakeEngine):
        async def infer(self, *arguments: Any) -> Any:
            self.asked.append({})
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

    async def ask(stub: Any) -> None:
        call = getattr(stub, method)(request())
        while not engine.asked:
            await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait_for(cancelled.wait(), 10)

    engine, cancelled = Patient(), asyncio.Event()
    asked(engine, ask)


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
def test_the_calls_deadline_is_the_requests(method: str) -> None:
    async def ask(stub: Any) -> None:
        call = getattr(stub, method)(request(), timeout=20)
        await (call if method == "Generate" else call.read())

    engine = FakeEngine()
    asked(engine, ask)
    assert engine.timeouts_s[0] == pytest.approx(20, abs=2)


def test_a_late_answer_is_a_deadline_exceeded() -> None:
    engine = FakeEngine()
    engine.delay_s = 20
    error = refusal(lambda stub: stub.Generate(request()), engine, timeout_s=0.2)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert details(error)[0].reason == "DEADLINE_EXCEEDED"


class Doorman(Gatekeeper):
    """Knows one key, which is for one model and three images."""

    def __init__(self) -> None:
        super().__init__(None)
        self.spent: list[int] = []

    async def caller(self, authorization: str | None) -> Caller:
        if authorization != "Bearer key":
            raise SERVICE_ERRORS["unauthenticated"]("who are you?")
        return Caller("me", models=("marked",))

    async def spend(self, caller: Caller, images: int = 1) -> None:
        self.spent.append(images)


KEY = [("authorization", "Bearer key")]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("Generate", request()),
        ("GenerateStream", request()),
        ("ListModels", ListModelsRequest()),
        ("GetModel", GetModelRequest(model="marked")),
    ],
)
def test_who_shows_no_key_gets_nothing(method: str, message: Any) -> None:
    async def ask(stub: Any) -> None:
        call = getattr(stub, method)(message)
        await (call.read() if method == "GenerateStream" else call)

    engine = FakeEngine()
    error = refusal(ask, engine, gatekeeper=Doorman())
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert engine.asked == []


def test_a_key_is_for_its_models() -> None:
    error = refusal(
        lambda stub: stub.Generate(request(model="other"), metadata=KEY), gatekeeper=Doorman()
    )
    assert details(error)[0].reason.lower() == PermissionDenied.code


def test_a_key_lists_its_models() -> None:
    engine = FakeEngine(*(card_of(watermark(), name) for name in ("marked", "other")))
    answer = asked(
        engine,
        lambda stub: stub.ListModels(ListModelsRequest(), metadata=KEY),
        gatekeeper=Doorman(),
    )
    assert [info.name for info in answer.models] == ["marked"]


@pytest.mark.parametrize(
    ("fields", "images"), [({}, 1), ({"n": 5}, 5), ({"labels": [Label(index=1)] * 3}, 3)]
)
def test_as_many_images_are_charged_as_are_made(fields: dict[str, Any], images: int) -> None:
    doorman = Doorman()
    answer = asked(
        FakeEngine(),
        lambda stub: stub.Generate(request(**fields), metadata=KEY),
        gatekeeper=doorman,
    )
    assert doorman.spent == [images] == [len(answer.images)]


def test_models_are_listed_with_their_cards() -> None:
    card = card_of(watermark(), "marked")
    answer = asked(FakeEngine(), lambda stub: stub.ListModels(ListModelsRequest()))
    assert answer.models == [
        ModelInfo(name="marked", versions=[1], card_json=card.model_dump_json())
    ]


def test_an_unknown_model_is_not_found() -> None:
    error = refusal(lambda stub: stub.GetModel(GetModelRequest(model="nobody")))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert details(error)[0].reason.lower() == ModelNotFound.code


def test_a_message_above_the_limit_is_refused() -> None:
    latents = bytes(MAX_MESSAGE_BYTES)
    error = refusal(lambda stub: stub.Generate(request(latents=latents)))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_compressed_message_counts_by_its_true_size() -> None:
    async def ask(stub: Any) -> Any:
        message = request(latents=bytes(64 << 20))
        return await stub.Generate(message, compression=grpc.Compression.Gzip)

    assert refusal(ask).code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_metadata_above_the_limit_is_refused_and_the_next_call_answered() -> None:
    async def ask(stub: Any) -> tuple[grpc.StatusCode, int]:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Generate(request(), metadata=[("x-large", "x" * (1 << 15))])
        return refused.value.code(), len((await stub.Generate(request())).images)

    assert asked(FakeEngine(), ask) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 1)


def test_an_unknown_method_is_unimplemented() -> None:
    async def ask(channel: grpc.aio.Channel) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await raw_call(channel, f"{SERVICE.full_name}/Paint")(b"")
        return refused.value.code()

    assert over_a_channel(ask) == grpc.StatusCode.UNIMPLEMENTED


def test_a_port_that_is_taken_is_a_mistake_of_the_command_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def run() -> None:
        async with running(FakeEngine()) as (_, address):
            service = ImageService(FakeEngine())
            second = GrpcGateway(service, Readiness(service), Gatekeeper(None))
            with pytest.raises(ConfigError, match=r"can't listen on 127\.0\.0\.1:.*or port"):
                await second.start("127.0.0.1", int(address.rpartition(":")[2]))

    asyncio.run(run())
    assert "GRPC_VERBOSITY" not in capfd.readouterr().err


def test_a_request_in_flight_is_answered_while_the_server_stops() -> None:
    engine = FakeEngine()
    engine.delay_s = 0.3

    async def run() -> int:
        async with (
            running(engine) as (gateway, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            call = raw_call(channel, GENERATE)(request().SerializeToString())
            while not engine.asked:
                await asyncio.sleep(0.01)
            await gateway.stop(10)
            return len(GenerateResponse.FromString(await call).images)

    assert asyncio.run(run()) == 1


numbers = st.integers(0, 2**32 - 1) | st.integers(0, 5)
label = st.builds(Label) | st.builds(Label, index=st.integers(-(2**63), 2**63 - 1))
label |= st.builds(Label, name=st.text(max_size=9)) | st.builds(Label, index=st.integers(0, 9))
requests = st.builds(
    GenerateRequest,
    model=st.sampled_from(["marked", "nobody", ""]) | st.text(max_size=80),
    version=st.none() | numbers,
    n=st.none() | numbers,
    seed=st.none() | st.integers(0, 2**64 - 1),
    label=st.none() | label,
    labels=st.lists(label, max_size=5),
    truncation=st.none() | st.floats() | st.floats(0, 1),
    latents=st.none() | st.binary(max_size=64),
    size=st.none() | st.sampled_from(["auto", "6x4"]) | st.text(max_size=20),
    output_format=st.integers(0, 4) | st.integers(-(2**31), 2**31 - 1),
    output_compression=st.none() | numbers,
)
CLIENTS_FAULT = {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}


@pytest.fixture(scope="module")
def status_of(repository: Path) -> Any:
    """Sends bytes to methods of one server that must survive them all; gives the status."""
    with asyncio.Runner() as runner:
        server = running(OrtEngine(repository, cores=1))
        _, address = runner.run(server.__aenter__())

        async def connected() -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(address)

        channel = runner.run(connected())

        async def call(method: str, raw: bytes) -> str:
            try:
                if method == "GenerateStream":
                    async for _ in raw_stream(channel, STREAM, raw):
                        pass
                else:
                    await raw_call(channel, f"{SERVICE.full_name}/{method}")(raw)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        yield lambda method, raw: runner.run(call(method, raw))
        assert runner.run(call("Generate", request().SerializeToString())) == "OK"
        runner.run(channel.close())
        runner.run(server.__aexit__(None, None, None))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(requests, st.sampled_from(["Generate", "GenerateStream"]))
def test_any_values_are_answered_with_images_or_the_callers_mistake(
    status_of: Any, message: GenerateRequest, method: str
) -> None:
    assert status_of(method, message.SerializeToString()) in CLIENTS_FAULT


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.sampled_from([one.name for one in SERVICE.methods]))
def test_any_bytes_are_answered_with_a_status(status_of: Any, raw: bytes, method: str) -> None:
    assert status_of(method, raw) in CLIENTS_FAULT


async def reflected(channel: Any, version: str, question: bytes) -> ServerReflectionResponse:
    name = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    return ServerReflectionResponse.FromString(
        await channel.stream_stream(name)(iter([question])).read()
    )


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_services(version: str) -> None:
    question = ServerReflectionRequest(list_services="").SerializeToString()
    answer = over_a_channel(lambda channel: reflected(channel, version, question))
    found = {one.name for one in answer.list_services_response.service}
    assert {"ganforge.v1.ImageService", "grpc.health.v1.Health"} <= found


def test_reflection_answers_garbage_as_a_mistake() -> None:
    answer = over_a_channel(lambda channel: reflected(channel, "v1", b"\xff\xff"))
    assert answer.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_a_client_that_knows_nothing_generates_through_reflection() -> None:
    async def ask(channel: grpc.aio.Channel) -> Any:
        symbol = ServerReflectionRequest(file_containing_symbol="ganforge.v1.ImageService")
        answer = await reflected(channel, "v1", symbol.SerializeToString())
        pool = descriptor_pool.DescriptorPool()
        for raw in answer.file_descriptor_response.file_descriptor_proto:
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(raw))
        method = pool.FindMethodByName("ganforge.v1.ImageService.Generate")
        made = json_format.ParseDict(
            {"model": "marked", "n": 2, "seed": "7", "labels": [{"index": 1}, {"name": "two"}]},
            message_factory.GetMessageClass(method.input_type)(),
        )
        raw = await raw_call(channel, GENERATE)(made.SerializeToString())
        return message_factory.GetMessageClass(method.output_type).FromString(raw)

    answer = over_a_channel(ask)
    assert [image.seed for image in answer.images] == [7, 8]
    assert answer.images[0].data.startswith(b"\x89PNG")
