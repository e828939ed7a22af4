"""Server reflection: what lets grpcurl and its like call a server whose .proto they don't have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["reflecting"]

NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""grpcio-reflection has the older one alone; in the newer one the messages are the same."""


def reflecting(services: Iterable[str]) -> list[grpc.GenericRpcHandler]:
    """Handlers that describe services, by their full names, and themselves."""
    servicer = reflection.aio.ReflectionServicer([*services, reflection.SERVICE_NAME])
    method: Any = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=_read,
        response_serializer=lambda answer: answer.SerializeToString(),
    )
    return [
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
        for name in NAMES
    ]


def _read(raw: bytes) -> ServerReflectionRequest:
    try:
        return ServerReflectionRequest.FromString(raw)
    except DecodeError:
        return ServerReflectionRequest()  # answered as a question that isn't one
