"""Any message to any method of the gRPC port: a typed status comes back, and the server lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_core.errors import SERVICE_ERRORS
from gan_serving import health
from gan_serving.grpc_api.image_service_pb2 import GenerateRequest, GenerateResponse
from gan_serving.grpc_gateway import SERVICE
from gan_serving.repository import publish
from tests.serving.graphs import write_export
from tests.serving.processes import Serving

if TYPE_CHECKING:
    from google.protobuf.message import Message

TYPED = {grpc.StatusCode[error.grpc] for error in SERVICE_ERRORS.values()} - {
    grpc.StatusCode.INTERNAL
}
METHODS = [
    (f"/{service.full_name}/{method.name}", GetMessageClass(method.input_type), method)
    for service in (SERVICE, health.SERVICE)
    for method in service.methods
    if method.name != "Watch"  # it answers until its caller goes
]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("fuzz")
    publish(write_export(folder / "marked", "marked"), folder / "own")
    with Serving(folder / "own", "ort", "--max-n", "8") as serving:
        yield serving
        assert serving.errors() == ""


@pytest.fixture(scope="module")
def channel(serving: Serving) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(serving.grpc.removeprefix("grpc://")) as channel:
        yield channel


def status_of(channel: grpc.Channel, path: str, raw: bytes, *, streams: bool) -> grpc.StatusCode:
    """How a call of bytes ends."""
    try:
        make: Any = channel.unary_stream if streams else channel.unary_unary
        answer = make(path)(raw, timeout=20)
        if streams:
            list(answer)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def messages(kind: type[Message]) -> st.SearchStrategy[bytes]:
    """Messages of a kind, their fields set at random, some of them then spoilt."""
    fields = {field.name: values(field) for field in kind.DESCRIPTOR.fields}
    whole = st.fixed_dictionaries({}, optional=fields).map(lambda given: kind(**given))
    raw = whole.map(lambda message: message.SerializeToString())
    return st.one_of(raw, raw.flatmap(spoilt), st.binary(max_size=200))


def values(field: Any) -> st.SearchStrategy[Any]:
    one: st.SearchStrategy[Any]
    if field.message_type is not None:
        nested = {inner.name: values(inner) for inner in field.message_type.fields}
        one = st.fixed_dictionaries({}, optional=nested)
    elif field.enum_type is not None:
        one = st.integers(-1, 9)
    elif field.cpp_type == field.CPPTYPE_STRING and field.type == field.TYPE_BYTES:
        one = st.binary(max_size=64)
    elif field.cpp_type == field.CPPTYPE_STRING:
        one = st.sampled_from(["marked", "", "nobody", "../marked", "a\0b", "three"]) | st.text(
            st.characters(codec="utf-8"), max_size=80
        )
    elif field.cpp_type == field.CPPTYPE_BOOL:
        one = st.booleans()
    elif field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        one = st.floats(width=32)
    else:
        bits = 64 if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64) else 32
        signed = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
        one = st.integers(0, 10) | st.integers(low, high - 1)
    return st.lists(one, max_size=12) if field.is_repeated else one


def spoilt(raw: bytes) -> st.SearchStrategy[bytes]:
    """The bytes cut, or with one of them changed."""
    if not raw:
        return st.just(b"\xff")
    cut = st.integers(0, len(raw)).map(lambda n: raw[:n])
    place = st.integers(0, len(raw) - 1)
    changed = st.tuples(place, st.integers(0, 255)).map(
        lambda change: raw[: change[0]] + bytes([change[1]]) + raw[change[0] + 1 :]
    )
    return st.one_of(cut, changed)


@pytest.mark.parametrize(("path", "kind", "method"), METHODS, ids=[path for path, *_ in METHODS])
def test_any_message_ends_in_a_typed_status(
    channel: grpc.Channel, path: str, kind: type[Message], method: Any
) -> None:
    @settings(max_examples=300, deadline=None, database=None)
    @given(messages(kind))
    def holds(raw: bytes) -> None:
        status = status_of(channel, path, raw, streams=method.server_streaming)
        assert status in {grpc.StatusCode.OK, *TYPED}

    holds()


@settings(max_examples=100, deadline=None)
@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60))
def test_a_method_that_does_not_exist_is_unimplemented(channel: grpc.Channel, path: str) -> None:
    status = status_of(channel, f"/{path}", b"", streams=False)
    assert status is grpc.StatusCode.UNIMPLEMENTED


def test_after_all_that_it_still_gives_pictures(channel: grpc.Channel) -> None:
    call: Callable[..., bytes] = channel.unary_unary("/ganforge.v1.ImageService/Generate")
    answer = GenerateResponse.FromString(
        call(GenerateRequest(model="marked", seed=3).SerializeToString(), timeout=10)
    )
    assert answer.images[0].seed == 3
